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
    end,
    first,
    info,
    length,
    linked,
    move,
    oldest,
    push,
    renew,
    unlink,
)

QUEUES = 4
T1, T2, B1, B2, ABSENT, FROM_B1, FROM_B2 = range(7)
"""Places of a unit: one of the four queues; nowhere; or nowhere after a miss on a ghost."""
CAPACITY, P, SILENT = -2, -3, -4
"""Fields at the end of the state. P holds the bits of a float64; SILENT is 1 when the next unit to
leave leaves no ghost."""


def state(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Return four queues, the place of each unit, and the fields."""
    fresh = linked(units, QUEUES, per_unit=1, units=units, fields=4)
    fresh[-4 - units : -4] = ABSENT
    fresh[CAPACITY] = capacity
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Move a hit to T2; let a miss on a ghost adapt p."""
    entry = info(state, QUEUES) + unit
    i = state[entry]
    if i == T2:
        renew(state, end(state, T2), unit)
    elif i == T1:
        move(state, end(state, T1), end(state, T2), unit)
        state[entry] = T2
    elif B1 <= i <= B2:
        p = state.view(np.float64)
        once, again = length(state, end(state, B1)), length(state, end(state, B2))
        if i == B1:
            p[P] = min(p[P] + max(again / once, 1.0), float(state[CAPACITY]))
        else:
            p[P] = max(p[P] - max(once / again, 1.0), 0.0)
        unlink(state, end(state, i), unit)
        state[entry] = FROM_B1 if i == B1 else FROM_B2
    else:
        state[entry] = ABSENT


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put the unit into T2 if it was among the ghosts, else into T1."""
    entry = info(state, QUEUES) + unit
    state[entry] = T1 if state[entry] == ABSENT else T2
    push(state, end(state, state[entry]), unit)


@register_jitable(forceinline=True)
def forget(state: NDArray[np.int64], i: int) -> None:
    """Drop the oldest ghost of a queue."""
    queue = end(state, i)
    unit = first(state, queue)
    unlink(state, queue, unit)
    state[info(state, QUEUES) + unit] = ABSENT


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the victim: Case IV of the paper bounds the ghosts, then REPLACE chooses T1 or T2."""
    t1, t2 = end(state, T1), end(state, T2)
    once, again = length(state, t1), length(state, t2)
    ghosts1, ghosts2 = length(state, end(state, B1)), length(state, end(state, B2))
    came, capacity = state[info(state, QUEUES) + unit], state[CAPACITY]
    state[SILENT] = 0
    if came == ABSENT:
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
    entry = info(state, QUEUES) + unit
    i = state[entry]
    unlink(state, end(state, i), unit)
    state[entry] = ABSENT
    if state[SILENT] == 0:
        state[entry] = B1 if i == T1 else B2
        push(state, end(state, state[entry]), unit)


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
