"""Open loop against closed loop: what pruning that does not feed back gets wrong.

A trace holds what the *dense* model did. In closed loop the masks change what the next layers see,
and so which units they need. Both run the same method with the same caches here.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dipsim.lm.live import Live
from dipsim.lm.perplexity import perplexity
from dipsim.lm.record import record
from dipsim.result import Result
from dipsim.simulate import run_all
from dipsim.trace import Trace, load_trace
from dipsim.trace.encoding import Encoding

_ENCODING: Encoding = "float16"


@contextmanager
def dense_trace(
    model: nn.Module,
    windows: NDArray[np.int64],
    signals: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Trace]:
    """A recording of the dense model on windows of a text, on disk until the with-block ends.

    Args:
        windows: int64[n, window]; each is a sequence.
        signals: what the methods that will be replayed read.

    Raises:
        DipsimError: signals the model does not have, or no room on the disk.
    """
    with tempfile.TemporaryDirectory(prefix="dipsim-") as folder:
        path = Path(folder) / "dense"
        with record(model, path, signals=signals, encodings=dict.fromkeys(signals, _ENCODING)):
            perplexity(model, windows, progress)
        yield load_trace(path)


def open_loop(live: Live, trace: Trace) -> Result:
    """The same method, caches and device as a model that ran, replayed on a trace of it."""
    work = replace(live.job.work, trace=trace)
    plan = replace(live.job.plan, unmeasured=())
    return run_all([replace(live.job, work=work, plan=plan)])[0]
