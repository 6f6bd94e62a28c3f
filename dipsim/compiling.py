"""Notes on what is being compiled now: the kernels tell, and whoever shows progress asks.

It stands apart from the kernels, so that asking does not load numba.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_purpose: ContextVar[str | None] = ContextVar("purpose", default=None)
_running: list[str] = []
"""Names of what numba compiles now, the innermost last: a function can need others first."""


def compiling() -> str | None:
    """Return what is being compiled at this moment, for people to read; None for nothing."""
    return next(iter(_running[:1]), None)


@contextmanager
def compiled_for(purpose: str) -> Iterator[None]:
    """Name what this thread compiles meanwhile by its purpose: "the replay of dip with lru"."""
    token = _purpose.set(purpose)
    try:
        yield
    finally:
        _purpose.reset(token)


def started(function: str) -> None:
    """Note that this thread compiles a function from now on. Only one thread compiles at a time."""
    _running.append(_purpose.get() or f"the kernel {function}")


def ended() -> None:
    """Note that the function that was started last is compiled, or cannot be."""
    _running.pop()
