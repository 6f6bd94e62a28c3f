"""S3-FIFO: a small queue filters units used once, a main queue keeps the others, and ghosts of the
small queue that return go straight to main (Yang et al., SOSP 2023).

In atomic access units in use are passed over in both queues.
"""

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import (
    OUT,
    any_evictable,
    end,
    first,
    info,
    length,
    linked,
    move,
    oldest,
    place,
    push,
    remember,
    renew,
    unlink,
)

QUEUES = 3
SMALL, MAIN, GHOST = range(QUEUES)
RETURNING = -2
"""Position of a unit after a miss on a ghost."""
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
    """Return three queues, the count of uses of each unit, and the fields.

    ``small`` and ``ghost`` are sizes as shares of the cache; units with ``threshold`` uses move to
    main.
    """
    fresh = linked(units, QUEUES, per_unit=1, units=units, fields=6)
    fresh[SMALL_SIZE] = max(1, int(capacity * within("small", small, 0, 1)))
    fresh[MAIN_SIZE] = capacity - fresh[SMALL_SIZE]
    fresh[GHOST_SIZE] = int(capacity * within("ghost", ghost, 0, 100))
    fresh[THRESHOLD] = within("threshold", threshold, 1, MOST)
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Count a hit; note a miss on a ghost as RETURNING."""
    if hit:
        uses = info(state, QUEUES) + unit
        state[uses] = min(state[uses] + 1, MOST)
    elif place(state, unit) == GHOST:
        unlink(state, end(state, GHOST), unit)
        state[unit] = RETURNING
    else:
        state[unit] = OUT


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put a returning ghost into main and others into the small queue, or into main as well while
    the small queue is full and nothing was evicted yet."""
    full = state[BEGUN] == 0 and length(state, end(state, SMALL)) >= state[SMALL_SIZE]
    state[info(state, QUEUES) + unit] = 0
    push(state, end(state, MAIN if state[unit] == RETURNING or full else SMALL), unit)


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return a unit of the small queue while main is within its share, else one of main.

    Units of the small queue that were used often enough move to main instead of leaving.
    """
    small, main = end(state, SMALL), end(state, MAIN)
    uses = info(state, QUEUES)
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
        state[uses + sifted] = 0


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
    i = place(state, unit)
    unlink(state, end(state, i), unit)
    if i == SMALL and state[GHOST_SIZE] > 0:
        remember(state, end(state, GHOST), unit, state[GHOST_SIZE])


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
