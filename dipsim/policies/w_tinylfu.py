"""W-TinyLFU: a small LRU window, and a segmented LRU that a unit enters only if it was used more
often than the unit it would push out (Einziger, Friedman and Manes, ACM TOS 2017).

Uses are counted up to 15 and halved after every ``sample`` uses per place in the cache. Units are
few, so each has a counter of its own instead of a share in a sketch.
"""

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import (
    end,
    info,
    length,
    linked,
    move,
    oldest,
    push,
    raise_to,
    renew,
    unlink,
)

QUEUES = 3
WINDOW, PROBATION, PROTECTED = range(3)
"""Queues of a unit: the window, and the two segments of the main part."""
MOST = 15
MAIN_SIZE, PROTECTED_SIZE, PERIOD, USES = -2, -3, -4, -5
"""Fields at the end of the state. USES is the number of uses since the counts were halved, which
happens every PERIOD uses."""


def state(
    units: int,
    capacity: int,
    seed: int,
    window: float = 0.01,
    protected: float = 0.8,
    sample: float = 10.0,
) -> NDArray[np.int64]:
    """Return three queues, the queue and the count of each unit, and the fields.

    ``window`` is a share of the cache, ``protected`` a share of the rest.
    """
    fresh = linked(units, QUEUES, per_unit=2, units=units, fields=5)
    fresh[MAIN_SIZE] = capacity - max(1, int(capacity * within("window", window, 0, 1)))
    fresh[PROTECTED_SIZE] = int(fresh[MAIN_SIZE] * within("protected", protected, 0, 1))
    fresh[PERIOD] = within("sample", sample, 1, 2**30) * capacity
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Count the use; renew a hit, or move it from probation to the protected segment."""
    queues = info(state, QUEUES)
    uses = queues + state[-1]
    state[uses + unit] = min(state[uses + unit] + 1, MOST)
    state[USES] += 1
    if state[USES] == state[PERIOD]:
        state[USES] = 0
        for u in range(state[-1]):
            state[uses + u] //= 2
    if not hit:
        return
    i = state[queues + unit]
    if i != PROBATION:
        renew(state, end(state, i), unit)
        return
    state[queues + unit] = PROTECTED
    most = state[PROTECTED_SIZE]
    down = raise_to(state, end(state, PROBATION), end(state, PROTECTED), unit, most)
    if down >= 0:
        state[queues + down] = PROBATION


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put the unit into the window."""
    push(state, end(state, WINDOW), unit)
    state[info(state, QUEUES) + unit] = WINDOW


@register_jitable(forceinline=True)
def enter(state: NDArray[np.int64], unit: int) -> None:
    """Move a unit from the window into probation."""
    move(state, end(state, WINDOW), end(state, PROBATION), unit)
    state[info(state, QUEUES) + unit] = PROBATION


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the oldest of the window or of the main part, whichever has the lower count."""
    window = oldest(state, end(state, WINDOW), evictable, token)
    probation, protected = end(state, PROBATION), end(state, PROTECTED)
    while window >= 0 and length(state, probation) + length(state, protected) < state[MAIN_SIZE]:
        enter(state, window)
        window = oldest(state, end(state, WINDOW), evictable, token)
    main = oldest(state, probation, evictable, token)
    if main < 0:
        main = oldest(state, protected, evictable, token)
    if window < 0:
        return main
    uses = info(state, QUEUES) + state[-1]
    if main < 0 or state[uses + window] <= state[uses + main]:
        return window
    enter(state, window)
    return main


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Take the unit out of its queue; its count stays."""
    unlink(state, end(state, state[info(state, QUEUES) + unit]), unit)


W_TINYLFU = Policy(
    "w-tinylfu",
    "an lru window; the main part admits by frequency",
    "Einziger et al., ACM TOS 2017",
    state=state,
    touch=touch,
    insert=insert,
    evict=evict,
    leave=leave,
)
