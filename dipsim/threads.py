"""Threads that a run may use: all cores, or the share of one worker among several."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_most: ContextVar[int | None] = ContextVar("most", default=None)


def most_threads() -> int:
    """Return how many threads may work at a time."""
    return _most.get() or os.cpu_count() or 1


@contextmanager
def at_most_threads(number: int) -> Iterator[None]:
    """Let what this thread runs meanwhile use so many threads, whatever the number of cores."""
    token = _most.set(number)
    try:
        yield
    finally:
        _most.reset(token)
