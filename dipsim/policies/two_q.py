"""2Q: units used once pass through a queue; those that return from its ghosts are kept as in LRU
(Johnson and Shasha, VLDB 1994, the full version).
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import end, info, length, linked, oldest, push, remember, renew, unlink

QUEUES = 3
INNER, MAIN, GHOST, ABSENT, RETURNING = 0, 1, 2, 3, 4
"""Places of a unit: A1in, Am or A1out of the paper; nowhere; or nowhere after a miss on a ghost."""


def state(
    units: int, capacity: int, seed: int, inner: float = 0.25, ghost: float = 0.5
) -> NDArray[np.int64]:
    """Return three queues, the place of each unit, and the sizes of A1in and A1out, which
    ``inner`` and ``ghost`` give as shares of the cache."""
    fresh = linked(units, QUEUES, per_unit=1, units=units, fields=3)
    fresh[-3 - units : -3] = ABSENT
    fresh[-3] = int(capacity * within("inner", inner, 0, 1))
    fresh[-2] = int(capacity * within("ghost", ghost, 0, 100))
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Renew a hit in Am; note a miss on a ghost as RETURNING."""
    entry = info(state, QUEUES) + unit
    if hit:
        if state[entry] == MAIN:
            renew(state, end(state, MAIN), unit)
    elif state[entry] == GHOST:
        unlink(state, end(state, GHOST), unit)
        state[entry] = RETURNING
    else:
        state[entry] = ABSENT


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put a returning ghost into Am, any other unit into A1in."""
    entry = info(state, QUEUES) + unit
    state[entry] = MAIN if state[entry] == RETURNING else INNER
    push(state, end(state, state[entry]), unit)


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the oldest unit of A1in while A1in is larger than its share, else of Am."""
    inner, main = end(state, INNER), end(state, MAIN)
    if length(state, main) > 0 and length(state, inner) <= state[-3]:
        inner, main = main, inner
    victim = oldest(state, inner, evictable, token)
    return victim if victim >= 0 else oldest(state, main, evictable, token)


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Take the unit out; one that leaves A1in becomes a ghost in A1out."""
    entry = info(state, QUEUES) + unit
    i = state[entry]
    unlink(state, end(state, i), unit)
    state[entry] = ABSENT
    if i == INNER and state[-2] > 0:
        forgotten = remember(state, end(state, GHOST), unit, state[-2])
        if forgotten >= 0:
            state[info(state, QUEUES) + forgotten] = ABSENT
        state[entry] = GHOST


TWO_Q = Policy(
    "2q",
    "evicts what was used once; what returns is kept as in lru",
    "Johnson and Shasha, VLDB 1994",
    state=state,
    touch=touch,
    insert=insert,
    evict=evict,
    leave=leave,
)
