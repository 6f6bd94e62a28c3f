"""Work that is counted, as its time would be another on every machine."""

import itertools
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Work:
    """Calls that were made, and the most bytes that were taken at a time."""

    calls = 0
    memory = 0

    def count(self, frame: FrameType, event: str, argument: Any) -> None:
        """Count a call of Python or C: an event of the profiler."""
        self.calls += event in ("call", "c_call")


@contextmanager
def counted() -> Iterator[Work]:
    """Count the work of this thread."""
    work = Work()
    tracemalloc.start()
    sys.setprofile(work.count)
    try:
        yield work
    finally:
        sys.setprofile(None)
        work.memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def ticking(seconds: float) -> Callable[[], float]:
    """Return a clock that goes on by so much whenever it is read."""
    reads = itertools.count()
    return lambda: next(reads) * seconds
