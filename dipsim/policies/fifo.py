"""First in, first out: a hit changes nothing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy


def touch(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Remember the place in the queue: misses of one token enter in ascending order."""
    if not hit:
        state[unit] = token * len(state) + unit


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """The first that came leaves first."""
    return state[unit]


# One at a time: a circle of places, as many as there are units. Any resident unit may leave, so it
# is always the oldest that does.


def circle(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """The places, the oldest one in use, and the next free one."""
    return np.zeros(units + 2, np.int64)


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Into the next place."""
    at = state[-1]
    state[at] = unit
    state[-1] = at + 1 if at < len(state) - 3 else 0


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """The oldest."""
    return state[state[-2]]


def leave(state: NDArray[np.int64], unit: int) -> None:
    """One place on."""
    at = state[-2]
    state[-2] = at + 1 if at < len(state) - 3 else 0


FIFO = Policy(
    "fifo",
    "evicts the one loaded longest ago",
    "baseline",
    touch=touch,
    rank=rank,
    sequential=Policy("fifo", state=circle, insert=insert, evict=evict, leave=leave),
)
