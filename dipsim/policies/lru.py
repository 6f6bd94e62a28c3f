"""Least recently used."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy
from dipsim.policies.lists import end, linked, oldest, push, renew, unlink


def touch(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Remember the last use."""
    state[unit] = token


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """The longest unused leaves first."""
    return state[unit]


# One at a time: a queue by last use.


def queue(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """One queue."""
    return linked(units, 1)


def touch_queue(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """What is used becomes the newest."""
    if hit:
        renew(state, end(state, 0), unit)


def insert(state: NDArray[Any], unit: int, token: int) -> None:
    """The newest."""
    push(state, end(state, 0), unit)


def evict(state: NDArray[Any], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """The oldest."""
    return oldest(state, end(state, 0), evictable, token)


def leave(state: NDArray[Any], unit: int) -> None:
    """Out of the queue."""
    unlink(state, end(state, 0), unit)


LRU = Policy(
    "lru",
    "evicts the least recently used",
    "Mattson et al., IBM Systems Journal 1970",
    touch=touch,
    rank=rank,
    blind=True,
    sequential=Policy(
        "lru", state=queue, touch=touch_queue, insert=insert, evict=evict, leave=leave
    ),
)
