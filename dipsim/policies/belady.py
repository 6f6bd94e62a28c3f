"""Belady's rule under forced admission: the unit needed farthest in the future leaves first.

It is best among forced policies while the cache holds every active set. It needs the future, so it
is a bound, not a policy that a device can run.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.errors import PolicyError
from dipsim.policies.contract import Policy


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """Return minus the next use, which the engine keeps in ``state`` (`Policy.future`)."""
    return -state[unit]


# Sequential access, one unit at a time: a heap with the farthest use on top. ``state`` holds the
# next use of each unit, the heap, the place of each resident unit in it, and their number. A key of
# the heap holds the next use in its high bits and the unit in its low ones, since of one token's
# units the higher is used later.

_BITS = 22
_UNIT = 2**_BITS - 1
_FAR = 2**40
"""Later than every token."""


def heap(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Return an empty heap.

    Raises:
        PolicyError: more units than a key has bits for.
    """
    if units > _UNIT:
        raise PolicyError(f"{units} units in one cache: with sequential access at most {_UNIT}")
    return np.zeros(3 * units + 1, np.int64)


@register_jitable(forceinline=True)
def rise(state: NDArray[np.int64], place: int, key: int) -> None:
    """Let a key rise from a place of the heap to where it belongs."""
    units = len(state) // 3
    while place > 0:
        parent = (place - 1) >> 1
        above = state[units + parent]
        if above > key:
            break
        state[units + place] = above
        state[2 * units + (above & _UNIT)] = place
        place = parent
    state[units + place] = key
    state[2 * units + (key & _UNIT)] = place


@register_jitable(forceinline=True)
def key_of(state: NDArray[np.int64], unit: int) -> int:
    """Return a unit's key: its next use in the high bits, the unit in the low ones."""
    return (min(state[unit], _FAR) << _BITS) | unit


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Move a hit up the heap: its next use is now farther away."""
    if hit:
        rise(state, state[2 * (len(state) // 3) + unit], key_of(state, unit))


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Add the unit to the heap."""
    state[-1] += 1
    rise(state, state[-1] - 1, key_of(state, unit))


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the unit on top or, if that is in use, the one with the farthest use that is not."""
    units = len(state) // 3
    best = state[units]
    if not evictable[best & _UNIT]:
        best = -1
        for i in range(state[-1]):
            key = state[units + i]
            if key > best and evictable[key & _UNIT]:
                best = key
    return best & _UNIT


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Remove the unit: its place sinks to the bottom, and the last key rises from there."""
    units = len(state) // 3
    place, count = state[2 * units + unit], state[-1] - 1
    state[-1] = count
    if place == count:
        return
    last = state[units + count]
    child = 2 * place + 1
    while child < count:
        below = state[units + child]
        if child + 1 < count and state[units + child + 1] > below:
            child += 1
            below = state[units + child]
        state[units + place] = below
        state[2 * units + (below & _UNIT)] = place
        place = child
        child = 2 * place + 1
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
