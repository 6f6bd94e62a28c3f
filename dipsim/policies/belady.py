"""Belady's rule under forced admission: what is needed farthest in the future leaves first.

Best among forced policies while the cache holds every active set. It needs the future, so it is a
bound, not a policy a device can run.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.policies.contract import Policy


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """``state`` holds the next use (see `future` in the contract)."""
    return -state[unit]


# One at a time: a heap, farthest use on top. ``state`` holds the next use of each unit, the heap of
# resident units, the place of each unit in it, and how many there are.


def heap(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """An empty heap."""
    return np.zeros(3 * units + 1, np.int64)


@register_jitable
def rise(state: NDArray[np.int64], place: int, unit: int) -> None:
    """Put a unit where it belongs, at a place or above."""
    units = len(state) // 3
    while place > 0:
        parent = (place - 1) // 2
        above = state[units + parent]
        if state[above] >= state[unit]:
            break
        state[units + place] = above
        state[2 * units + above] = place
        place = parent
    state[units + place] = unit
    state[2 * units + unit] = place


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Its next use is farther away now."""
    if hit:
        rise(state, state[2 * (len(state) // 3) + unit], unit)


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """One more."""
    state[-1] += 1
    rise(state, state[-1] - 1, unit)


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """The top; when that is in use, the best of all that are not."""
    units = len(state) // 3
    victim = state[units]
    if evictable[victim]:
        return victim
    victim = -1
    for i in range(state[-1]):
        other = state[units + i]
        if evictable[other] and (victim < 0 or state[other] > state[victim]):
            victim = other
    return victim


def leave(state: NDArray[np.int64], unit: int) -> None:
    """The last one fills its place."""
    units = len(state) // 3
    place, count = state[2 * units + unit], state[-1] - 1
    state[-1] = count
    if place == count:
        return
    last = state[units + count]
    while True:  # the hole sinks, then the last one rises into it
        child = 2 * place + 1
        if child >= count:
            break
        if child + 1 < count and state[state[units + child + 1]] > state[state[units + child]]:
            child += 1
        below = state[units + child]
        state[units + place] = below
        state[2 * units + below] = place
        place = child
    rise(state, place, last)


BELADY = Policy(
    "belady",
    "evicts what is used farthest in the future (clairvoyant)",
    "Belady, IBM Systems Journal 1966",
    rank=rank,
    future=True,
    blind=True,
    sequential=Policy(
        "belady",
        state=heap,
        touch=touch,
        insert=insert,
        evict=evict,
        leave=leave,
        future=True,
    ),
)
