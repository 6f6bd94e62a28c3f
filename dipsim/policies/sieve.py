"""SIEVE: a hand moves from old to new over a queue that hits do not reorder, and evicts the first
unit that was not used since it last passed (Zhang et al., NSDI 2024).

In atomic access the hand passes over units in use as it does over units that were used.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.kernels.flags import INDEX
from dipsim.policies.contract import Policy

HAND, PASSED, END = -1, -2, -3
"""Fields at the end of the state. In the queue's buffer the first PASSED units are those that the
hand has passed, and those from HAND to before END those before it."""


def state(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Return a mark for each unit, the buffer, and the fields."""
    return np.zeros(3 * units + 3, np.int64)


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Mark a hit."""
    if hit:
        state[unit] = 1


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put the unit at the newest end, without a mark."""
    units = len(state) // 3 - 1
    if state[END] == 2 * units:  # close the gap
        gap = state[HAND] - state[PASSED]
        for i in range(units + state[HAND], 3 * units):
            state[i - gap] = state[i]
        state[HAND] -= gap
        state[END] -= gap
    state[(units + state[END]) & INDEX] = unit
    state[END] += 1
    state[unit] = 0


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the first unit without a mark that may leave; remove the marks on the way."""
    queue = (len(state) // 3 - 1) & INDEX
    hand, passed, end = state[HAND] & INDEX, state[PASSED] & INDEX, state[END] & INDEX
    while True:
        if hand == end:
            hand, end, passed = 0, passed, 0
        unit = state[queue + hand] & INDEX
        if state[unit] == 0 and evictable[unit]:
            break
        state[unit] = 0
        state[queue + passed] = unit
        hand += 1
        passed += 1
    state[HAND], state[PASSED], state[END] = hand, passed, end
    return unit


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Take the unit at the hand out; behind the newest unit the hand is at the oldest again, before
    another one enters."""
    state[HAND] += 1
    if state[HAND] == state[END]:
        state[HAND], state[PASSED], state[END] = 0, 0, state[PASSED]


SIEVE = Policy(
    "sieve",
    "a hand over a queue takes what was not used since it last passed",
    "Zhang et al., NSDI 2024",
    state=state,
    touch=touch,
    insert=insert,
    evict=evict,
    leave=leave,
)
