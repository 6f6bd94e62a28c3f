"""LRU: evicts the least recently used unit (Mattson et al., IBM Systems Journal 1970)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy
from dipsim.policies.lists import end, linked, oldest, push, renew, unlink


def touch(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Record the last use."""
    state[unit] = token


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """Return the last use, so that the longest unused leaves first."""
    return state[unit]


# Sequential access, one unit at a time: a queue in the order of last use. A buffer to which every
# use is appended, and in which earlier ones are passed over, was tried: it takes twice as long.


def queue(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Return a state of one empty queue."""
    return linked(units, 1)


def touch_queue(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Move a unit that is used to the newest end."""
    if hit:
        renew(state, end(state, 0), unit)


def insert(state: NDArray[Any], unit: int, token: int) -> None:
    """Put the unit at the newest end."""
    push(state, end(state, 0), unit)


def evict(state: NDArray[Any], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the oldest unit that may leave."""
    return oldest(state, end(state, 0), evictable, token)


def leave(state: NDArray[Any], unit: int) -> None:
    """Take the unit out of the queue."""
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
