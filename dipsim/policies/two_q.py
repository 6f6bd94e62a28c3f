"""2Q: units used once pass through a queue; those that return from its ghosts are kept as in LRU
(Johnson and Shasha, VLDB 1994, the full version).
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import (
    OUT,
    end,
    length,
    linked,
    oldest,
    place,
    push,
    remember,
    renew,
    unlink,
)

INNER, MAIN, GHOST = range(3)
"""Queues: A1in, Am and A1out of the paper."""
RETURNING = -2
"""Position of a unit after a miss on a ghost."""


def state(
    units: int, capacity: int, seed: int, inner: float = 0.25, ghost: float = 0.5
) -> NDArray[np.int64]:
    """Return three queues, and the sizes of A1in and A1out, which ``inner`` and ``ghost`` give as
    shares of the cache."""
    fresh = linked(units, 3, fields=3)
    fresh[-3] = int(capacity * within("inner", inner, 0, 1))
    fresh[-2] = int(capacity * within("ghost", ghost, 0, 100))
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Renew a hit in Am; note a miss on a ghost as RETURNING."""
    i = place(state, unit)
    if i == MAIN:
        renew(state, end(state, MAIN), unit)
    elif i == GHOST:
        unlink(state, end(state, GHOST), unit)
        state[unit] = RETURNING
    elif not hit:
        state[unit] = OUT


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put a returning ghost into Am, any other unit into A1in."""
    push(state, end(state, MAIN if state[unit] == RETURNING else INNER), unit)


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the oldest unit of A1in while A1in is larger than its share, else of Am."""
    inner, main = end(state, INNER), end(state, MAIN)
    if length(state, main) > 0 and length(state, inner) <= state[-3]:
        inner, main = main, inner
    victim = oldest(state, inner, evictable, token)
    return victim if victim >= 0 else oldest(state, main, evictable, token)


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Take the unit out; one that leaves A1in becomes a ghost in A1out."""
    i = place(state, unit)
    unlink(state, end(state, i), unit)
    if i == INNER and state[-2] > 0:
        remember(state, end(state, GHOST), unit, state[-2])


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
