"""MRU: evicts the most recently used unit, which is best for cycles longer than the cache (Chou and
DeWitt, VLDB 1985)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy
from dipsim.policies.lists import end
from dipsim.policies.lru import insert, leave, queue, touch_queue


def touch(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Record the last use; of one token's units the highest was used last."""
    state[unit] = token * len(state) + unit


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """Return minus the last use, so that the last used leaves first."""
    return -state[unit]


def evict(state: NDArray[Any], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the newest unit that may leave."""
    node = state[2 * end(state, 0)]
    while not evictable[node]:
        node = state[2 * node]
    return node


MRU = Policy(
    "mru",
    "evicts the most recently used",
    "Chou and DeWitt, VLDB 1985",
    touch=touch,
    rank=rank,
    blind=True,
    sequential=Policy(
        "mru", state=queue, touch=touch_queue, insert=insert, evict=evict, leave=leave
    ),
)
