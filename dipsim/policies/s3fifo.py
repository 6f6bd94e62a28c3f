"""S3-FIFO: a small queue sifts, a main queue keeps, and ghosts of the small one go straight to main
(Yang et al., SOSP 2023).

In atomic access a unit in use is passed over in both queues.
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
MOST = 3
"""Where the count of uses ends: two bits."""
SMALL_SIZE, MAIN_SIZE, GHOST_SIZE, THRESHOLD, BEGUN = -2, -3, -4, -5, -6
"""Fields; BEGUN: anything was evicted yet."""


def state(
    units: int,
    capacity: int,
    seed: int,
    small: float = 0.1,
    ghost: float = 0.9,
    threshold: int = 2,
) -> NDArray[np.int64]:
    """Three queues; per unit its place and its count; sizes as shares of the cache."""
    made = linked(units, QUEUES, per_unit=2, units=units, fields=6)
    made[info(made, QUEUES) :][:units] = ABSENT
    made[SMALL_SIZE] = max(1, int(capacity * within("small", small, 0, 1)))
    made[MAIN_SIZE] = capacity - made[SMALL_SIZE]
    made[GHOST_SIZE] = int(capacity * within("ghost", ghost, 0, 100))
    made[THRESHOLD] = within("threshold", threshold, 1, MOST)
    return made


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Count a hit; a miss may be a ghost that returns."""
    at, uses = info(state, QUEUES) + unit, info(state, QUEUES) + state[-1] + unit
    if hit:
        state[uses] = min(state[uses] + 1, MOST)
    elif state[at] == GHOST:
        unlink(state, end(state, GHOST), unit)
        state[at] = RETURNING
    else:
        state[at] = ABSENT


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Ghosts go to main; others to the small queue, which may not overflow before all is full."""
    at = info(state, QUEUES) + unit
    full = state[BEGUN] == 0 and length(state, end(state, SMALL)) >= state[SMALL_SIZE]
    state[at] = MAIN if state[at] == RETURNING or full else SMALL
    state[at + state[-1]] = 0
    push(state, end(state, state[at]), unit)


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """From the small queue while main is within its share; what was used there moves to main."""
    small, main = end(state, SMALL), end(state, MAIN)
    at, uses = info(state, QUEUES), info(state, QUEUES) + state[-1]
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
        state[at + sifted], state[uses + sifted] = MAIN, 0


@register_jitable(forceinline=True)
def from_main(state: NDArray[np.int64], main: int, uses: int, evictable: NDArray[np.bool_]) -> int:
    """As in clock: what was used gets another turn for each use. Something must be evictable."""
    node = first(state, main)
    while state[uses + node] > 0 or not evictable[node]:
        state[uses + node] = max(state[uses + node] - 1, 0)
        renew(state, main, node)
        node = first(state, main)
    return node


def leave(state: NDArray[np.int64], unit: int) -> None:
    """What leaves the small queue is remembered."""
    at = info(state, QUEUES) + unit
    i = state[at]
    unlink(state, end(state, i), unit)
    state[at] = ABSENT
    if i == SMALL and state[GHOST_SIZE] > 0:
        forgotten = remember(state, end(state, GHOST), unit, state[GHOST_SIZE])
        if forgotten >= 0:
            state[info(state, QUEUES) + forgotten] = ABSENT
        state[at] = GHOST


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
