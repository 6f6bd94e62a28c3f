"""S3-FIFO: a small queue filters units used once, a main queue keeps the others, and ghosts of the
small queue that return go straight to main (Yang et al., SOSP 2023).

In atomic access units in use are passed over in both queues.
"""

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import (
    any_evictable,
    end,
    first,
    info,
    length,
    linked,
    move,
    oldest,
    push,
    remember,
    renew,
    unlink,
)

QUEUES = 3
SMALL, MAIN, GHOST, ABSENT, RETURNING = range(5)
"""Places of a unit: one of the three queues; nowhere; or nowhere after a miss on a ghost."""
MOST = 3
"""Highest count of uses, which has two bits."""
SMALL_SIZE, MAIN_SIZE, GHOST_SIZE, THRESHOLD, BEGUN = -2, -3, -4, -5, -6
"""Fields at the end of the state. BEGUN is 1 after the first eviction."""


def state(
    units: int,
    capacity: int,
    seed: int,
    small: float = 0.1,
    ghost: float = 0.9,
    threshold: int = 2,
) -> NDArray[np.int64]:
    """Return three queues, the place and the count of uses of each unit, and the fields.

    ``small`` and ``ghost`` are sizes as shares of the cache; units with ``threshold`` uses move to
    main.
    """
    fresh = linked(units, QUEUES, per_unit=2, units=units, fields=6)
    fresh[info(fresh, QUEUES) :][:units] = ABSENT
    fresh[SMALL_SIZE] = max(1, int(capacity * within("small", small, 0, 1)))
    fresh[MAIN_SIZE] = capacity - fresh[SMALL_SIZE]
    fresh[GHOST_SIZE] = int(capacity * within("ghost", ghost, 0, 100))
    fresh[THRESHOLD] = within("threshold", threshold, 1, MOST)
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Count a hit; note a miss on a ghost as RETURNING."""
    entry, uses = info(state, QUEUES) + unit, info(state, QUEUES) + state[-1] + unit
    if hit:
        state[uses] = min(state[uses] + 1, MOST)
    elif state[entry] == GHOST:
        unlink(state, end(state, GHOST), unit)
        state[entry] = RETURNING
    else:
        state[entry] = ABSENT


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put a returning ghost into main and others into the small queue, or into main as well while
    the small queue is full and nothing was evicted yet."""
    entry = info(state, QUEUES) + unit
    full = state[BEGUN] == 0 and length(state, end(state, SMALL)) >= state[SMALL_SIZE]
    state[entry] = MAIN if state[entry] == RETURNING or full else SMALL
    state[entry + state[-1]] = 0
    push(state, end(state, state[entry]), unit)


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return a unit of the small queue while main is within its share, else one of main.

    Units of the small queue that were used often enough move to main instead of leaving.
    """
    small, main = end(state, SMALL), end(state, MAIN)
    queues, uses = info(state, QUEUES), info(state, QUEUES) + state[-1]
    state[BEGUN] = 1
    crowded = length(state, main) > state[MAIN_SIZE]
    if crowded and any_evictable(state, main, evictable, token):
        return from_main(state, main, uses, evictable)
    while True:
        sifted = oldest(state, small, evictable, token)
        if sifted < 0:
            return from_main(state, main, uses, evictable)
        if state[uses + sifted] < state[THRESHOLD]:
            return sifted
        move(state, small, main, sifted)
        state[queues + sifted], state[uses + sifted] = MAIN, 0


@register_jitable(forceinline=True)
def from_main(state: NDArray[np.int64], main: int, uses: int, evictable: NDArray[np.bool_]) -> int:
    """Return the unit of main that leaves: as in CLOCK, each use gives another turn.

    At least one unit must be evictable.
    """
    node = first(state, main)
    while state[uses + node] > 0 or not evictable[node]:
        state[uses + node] = max(state[uses + node] - 1, 0)
        renew(state, main, node)
        node = first(state, main)
    return node


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Take the unit out; one that leaves the small queue becomes a ghost."""
    entry = info(state, QUEUES) + unit
    i = state[entry]
    unlink(state, end(state, i), unit)
    state[entry] = ABSENT
    if i == SMALL and state[GHOST_SIZE] > 0:
        forgotten = remember(state, end(state, GHOST), unit, state[GHOST_SIZE])
        if forgotten >= 0:
            state[info(state, QUEUES) + forgotten] = ABSENT
        state[entry] = GHOST


S3FIFO = Policy(
    "s3fifo",
    "a small queue sifts, a main queue keeps",
    "Yang et al., SOSP 2023",
    state=state,
    touch=touch,
    insert=insert,
    evict=evict,
    leave=leave,
)
