"""Silence for transformers and peft: no progress bars, log lines and warnings."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from transformers import modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging

logging: Any = transformers_logging  # untyped


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the output of transformers and peft, on which no user of dipsim can act."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hidden = mock.patch.object(modeling_gguf_pytorch_utils, "tqdm", lambda items, **_: items)
    try:
        with warnings.catch_warnings(), hidden:
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
