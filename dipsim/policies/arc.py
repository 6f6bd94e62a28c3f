"""ARC: splits the cache between units used once and units used again, and learns the split from
ghosts (Megiddo and Modha, FAST 2003).

Names are those of the paper: T1 and T2 are the resident queues (used once, used again), B1 and B2
their ghosts, p the size T1 should have.
"""

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.policies.contract import Policy
from dipsim.policies.lists import (
    OUT,
    end,
    first,
    length,
    linked,
    move,
    oldest,
    place,
    push,
    renew,
    unlink,
)

T1, T2, B1, B2 = range(4)
FROM_B1, FROM_B2 = -2, -3
"""Positions of a unit after a miss on a ghost."""
CAPACITY, P, SILENT = -2, -3, -4
"""Fields at the end of the state. P holds the bits of a float64; SILENT is 1 when the next unit to
leave leaves no ghost."""


def state(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Return four queues, and the fields."""
    fresh = linked(units, 4, fields=4)
    fresh[CAPACITY] = capacity
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Move a hit to T2; let a miss on a ghost adapt p."""
    i = place(state, unit)
    if i == T2:
        renew(state, end(state, T2), unit)
    elif i == T1:
        move(state, end(state, T1), end(state, T2), unit)
    elif i >= B1:
        p = state.view(np.float64)
        once, again = length(state, end(state, B1)), length(state, end(state, B2))
        unlink(state, end(state, i), unit)
        if i == B1:
            p[P] = min(p[P] + max(again / once, 1.0), float(state[CAPACITY]))
            state[unit] = FROM_B1
        else:
            p[P] = max(p[P] - max(once / again, 1.0), 0.0)
            state[unit] = FROM_B2
    else:
        state[unit] = OUT


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put the unit into T2 if it was among the ghosts, else into T1."""
    push(state, end(state, T1 if state[unit] == OUT else T2), unit)


@register_jitable(forceinline=True)
def forget(state: NDArray[np.int64], i: int) -> None:
    """Drop the oldest ghost of a queue."""
    queue = end(state, i)
    unlink(state, queue, first(state, queue))


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the victim: Case IV of the paper bounds the ghosts, then REPLACE chooses T1 or T2."""
    t1, t2 = end(state, T1), end(state, T2)
    once, again = length(state, t1), length(state, t2)
    ghosts1, ghosts2 = length(state, end(state, B1)), length(state, end(state, B2))
    came, capacity = state[unit], state[CAPACITY]
    state[SILENT] = 0
    if came == OUT:
        if once + ghosts1 + 1 > capacity:
            if ghosts1 == 0:
                victim = oldest(state, t1, evictable, token)
                state[SILENT] = np.int64(victim >= 0)
                return victim if victim >= 0 else oldest(state, t2, evictable, token)
            forget(state, B1)
        elif once + again + ghosts1 + ghosts2 >= 2 * capacity and ghosts2 > 0:
            forget(state, B2)
    p = state.view(np.float64)[P]
    from_t1 = once > 0 and (once > p or (once == p and came == FROM_B2))
    if not (from_t1 or again == 0):
        t1, t2 = t2, t1
    victim = oldest(state, t1, evictable, token)
    return victim if victim >= 0 else oldest(state, t2, evictable, token)


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Turn the unit into a ghost, unless SILENT is set."""
    i = place(state, unit)
    if state[SILENT]:
        unlink(state, end(state, i), unit)
    else:
        move(state, end(state, i), end(state, i + 2), unit)


ARC = Policy(
    "arc",
    "balances what was used once against what was used again",
    "Megiddo and Modha, FAST 2003",
    state=state,
    touch=touch,
    insert=insert,
    evict=evict,
    leave=leave,
)
