"""Least recently used."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy
from dipsim.policies.fifo import evict, insert, leave, queue
from dipsim.policies.lists import end, renew


def touch(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Remember the last use."""
    state[unit] = token


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """The longest unused leaves first."""
    return state[unit]


def touch_queue(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """What is used becomes the newest."""
    if hit:
        renew(state, end(state, 0), unit)


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
