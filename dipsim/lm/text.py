"""Texts as windows of token ids."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError

_MOST = 2**28
"""Largest text file that is read, in bytes."""


def read_ids(path: str | os.PathLike[str], tokenizer: Callable[..., Any]) -> NDArray[np.int64]:
    """Return the token ids of a text file in UTF-8, int64[tokens], without special tokens.

    Raises:
        DipsimError: a file that is missing, too long, or not text, in one line.
    """
    try:
        size = Path(path).stat().st_size
        if size > _MOST:
            raise DipsimError(f"{path}: {size} bytes of text; give at most {_MOST}")
        text = Path(path).read_text(encoding="utf-8")
    except OSError as problem:
        raise DipsimError(f"{path}: cannot be read ({problem.strerror}); give a text") from None
    except UnicodeDecodeError:
        raise DipsimError(f"{path}: not a text in UTF-8") from None
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return np.asarray(ids, np.int64)


def windows_of(
    ids: NDArray[np.int64], window: int, tokens: int | None = None, name: str = "the text"
) -> NDArray[np.int64]:
    """Cut a text into windows side by side, int64[n, window]; an incomplete last one is dropped.

    Args:
        ids: int64[tokens] of the text.
        window: tokens per window.
        tokens: most tokens to use; default: all.
        name: name of the text in error messages.

    Raises:
        DipsimError: a window that predicts nothing, or a text shorter than a window.
    """
    if window < 2:
        raise DipsimError(f"--window {window}: at least 2 tokens, of which the last is predicted")
    used = len(ids) if tokens is None else min(tokens, len(ids))
    if used < window <= len(ids):
        raise DipsimError(
            f"{name}: {used} of its {len(ids)} tokens are asked for, fewer than a window of "
            f"{window}: ask for more, or give a smaller --window"
        )
    if used < window:
        raise DipsimError(
            f"{name} has {used} tokens, fewer than a window of {window}: give a longer text, or a "
            "smaller --window"
        )
    return ids[: used // window * window].reshape(-1, window)
