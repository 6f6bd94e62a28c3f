"""2Q: what is used once passes through a queue; what comes back from its ghosts is kept as in lru
(Johnson and Shasha, VLDB 1994, the full version).
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import end, info, length, linked, oldest, push, remember, renew, unlink

QUEUES = 3
INNER, MAIN, GHOST, ABSENT, RETURNING = 0, 1, 2, 3, 4
"""Where a unit is: in A1in, Am or A1out; nowhere; or nowhere and just found among the ghosts."""


def state(
    units: int, capacity: int, seed: int, inner: float = 0.25, ghost: float = 0.5
) -> NDArray[np.int64]:
    """Three queues, the place of each unit, and the sizes of A1in and A1out (shares of the
    cache)."""
    made = linked(units, QUEUES, per_unit=1, units=units, fields=3)
    made[-3 - units : -3] = ABSENT
    made[-3] = int(capacity * within("inner", inner, 0, 1))
    made[-2] = int(capacity * within("ghost", ghost, 0, 100))
    return made


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """A hit counts in Am only; a miss may be a ghost that returns."""
    at = info(state, QUEUES) + unit
    if hit:
        if state[at] == MAIN:
            renew(state, end(state, MAIN), unit)
    elif state[at] == GHOST:
        unlink(state, end(state, GHOST), unit)
        state[at] = RETURNING
    else:
        state[at] = ABSENT


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Into Am if it returned, else into A1in."""
    at = info(state, QUEUES) + unit
    state[at] = MAIN if state[at] == RETURNING else INNER
    push(state, end(state, state[at]), unit)


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """From A1in while it is larger than its share, else from Am."""
    inner, main = end(state, INNER), end(state, MAIN)
    if length(state, main) > 0 and length(state, inner) <= state[-3]:
        inner, main = main, inner
    victim = oldest(state, inner, evictable, token)
    return victim if victim >= 0 else oldest(state, main, evictable, token)


def leave(state: NDArray[np.int64], unit: int) -> None:
    """What leaves A1in is remembered in A1out."""
    at = info(state, QUEUES) + unit
    i = state[at]
    unlink(state, end(state, i), unit)
    state[at] = ABSENT
    if i == INNER and state[-2] > 0:
        forgotten = remember(state, end(state, GHOST), unit, state[-2])
        if forgotten >= 0:
            state[info(state, QUEUES) + forgotten] = ABSENT
        state[at] = GHOST


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
