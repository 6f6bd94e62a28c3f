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
from dipsim.replay.active_sets import ActiveSets
from dipsim.result import Result
from dipsim.run import replay
from dipsim.timeline.timing import time_traffic
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
    """Record the dense model on windows of a text; the trace is on disk until the with-block ends.

    Args:
        windows: int64[n, window]; each is a sequence.
        signals: those that the methods read which will be replayed.

    Raises:
        DipsimError: signals the model does not have, or no room on the disk.
    """
    with tempfile.TemporaryDirectory(prefix="dipsim-") as folder:
        path = Path(folder) / "dense"
        with record(model, path, signals=signals, encodings=dict.fromkeys(signals, _ENCODING)):
            perplexity(model, windows, progress)
        yield load_trace(path)


def open_loop(live: Live, trace: Trace) -> Result:
    """Replay a trace with the method, caches and device of a model that ran.

    Args:
        trace: of the dense model, on the tokens that ran.

    Raises:
        DipsimError: signals that the trace lacks, or bad scores.
    """
    sets = ActiveSets(trace, live.method, live.run.settings)
    run = replace(live.run, sets=sets, unmeasured=())
    traffic = replay(run)
    return Result(run, traffic, time_traffic(run, traffic))
