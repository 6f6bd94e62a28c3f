"""FIFO: evicts the unit that was loaded first; a hit changes nothing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy


def touch(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Record when a miss was loaded; misses of one token enter in ascending order."""
    if not hit:
        state[unit] = token * len(state) + unit


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """Return the time of loading, so that the first to enter leaves first."""
    return state[unit]


# Sequential access, one unit at a time: a circular buffer with as many places as there are units.
# Any resident unit may leave, so the oldest always does.


def circle(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Return the empty buffer: its places, the index of the oldest, the index of the next free."""
    return np.zeros(units + 2, np.int64)


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put the unit into the next free place."""
    slot = state[-1]
    state[slot] = unit
    state[-1] = slot + 1 if slot < len(state) - 3 else 0


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the oldest unit."""
    return state[state[-2]]


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Free the oldest place."""
    slot = state[-2]
    state[-2] = slot + 1 if slot < len(state) - 3 else 0


FIFO = Policy(
    "fifo",
    "evicts the one loaded longest ago",
    "baseline",
    touch=touch,
    rank=rank,
    sequential=Policy("fifo", state=circle, insert=insert, evict=evict, leave=leave),
)
