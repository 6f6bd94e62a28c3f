"""First in, first out: a hit changes nothing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy
from dipsim.policies.lists import end, linked, oldest, push, unlink


def touch(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Remember the place in the queue: misses of one token enter in ascending order."""
    if not hit:
        state[unit] = token * len(state) + unit


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """The first that came leaves first."""
    return state[unit]


def queue(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """One queue."""
    return linked(units, 1)


def insert(state: NDArray[Any], unit: int, token: int) -> None:
    """The newest."""
    push(state, end(state, 0), unit)


def evict(state: NDArray[Any], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """The oldest."""
    return oldest(state, end(state, 0), evictable, token)


def leave(state: NDArray[Any], unit: int) -> None:
    """Out of the queue."""
    unlink(state, end(state, 0), unit)


FIFO = Policy(
    "fifo",
    "evicts the one loaded longest ago",
    "baseline",
    touch=touch,
    rank=rank,
    sequential=Policy("fifo", state=queue, insert=insert, evict=evict, leave=leave),
)
