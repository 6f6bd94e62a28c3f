"""Segmented LRU: every hit promotes by one segment (Karedla et al., IEEE Computer 1994; with four
segments as S4LRU, Huang et al., SOSP 2013).

A segment that grows beyond its share hands its oldest unit down. A miss enters the lowest segment
that has room.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import (
    end,
    info,
    length,
    linked,
    oldest,
    push,
    raise_to,
    renew,
    unlink,
)

MOST = 16
"""Most segments that a cache may have."""


def state(units: int, capacity: int, seed: int, segments: int = 4) -> NDArray[np.int64]:
    """Return a queue per segment, lowest first; the segment of each unit; the sizes of the
    segments, equal but for a remainder that goes to the lowest; the number of segments."""
    fresh = linked(units, MOST, per_unit=1, units=units, fields=MOST + 2)
    count = int(within("segments", segments, 1, MOST))
    sizes = [capacity // count + (i < capacity % count) for i in range(count)]
    fresh[-2 - MOST : -2 - MOST + count] = sizes
    fresh[-2] = count
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Move a hit up by one segment."""
    if not hit:
        return
    entry = info(state, MOST) + unit
    i = state[entry]
    if i == state[-2] - 1:
        renew(state, end(state, i), unit)
        return
    state[entry] = i + 1
    down = raise_to(state, end(state, i), end(state, i + 1), unit, state[i + 1 - 2 - MOST])
    if down >= 0:
        state[info(state, MOST) + down] = i


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put the unit into the lowest segment with room.

    If all are full, as small units can make them in global scope, it goes into the lowest.
    """
    i = 0
    while i < state[-2] and length(state, end(state, i)) >= state[i - 2 - MOST]:
        i += 1
    if i == state[-2]:
        i = 0
    push(state, end(state, i), unit)
    state[info(state, MOST) + unit] = i


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the oldest unit that may leave of the lowest segment that has one."""
    for i in range(state[-2]):
        victim = oldest(state, end(state, i), evictable, token)
        if victim >= 0:
            return victim
    return -1


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Take the unit out of its segment."""
    unlink(state, end(state, state[info(state, MOST) + unit]), unit)


SLRU = Policy(
    "slru",
    "evicts from the lowest of four lru segments",
    "Karedla et al. 1994; Huang et al., SOSP 2013",
    state=state,
    touch=touch,
    insert=insert,
    evict=evict,
    leave=leave,
)
