"""SIEVE: a hand moves from old to new over a queue that hits do not reorder, and evicts the first
unit that was not used since it last passed (Zhang et al., NSDI 2024).

In atomic access the hand passes over units in use as it does over units that were used.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy
from dipsim.policies.lists import end, info, linked, push
from dipsim.policies.lru import leave


def state(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Return a queue, a mark for each unit, and the hand."""
    fresh = linked(units, 1, per_unit=1, units=units, fields=2)
    fresh[-2] = fresh[-1]  # the end node of the queue: the oldest unit comes next
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Mark a hit."""
    if hit:
        state[info(state, 1) + unit] = 1


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put the unit at the newest end, without a mark."""
    push(state, end(state, 0), unit)
    state[info(state, 1) + unit] = 0


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the first unit without a mark that may leave; remove the marks on the way."""
    queue, marks = end(state, 0), info(state, 1)
    node = state[-2]
    while True:
        if node == queue:
            node = state[2 * queue + 1]
        if state[marks + node] == 0 and evictable[node]:
            state[-2] = state[2 * node + 1]
            return node
        state[marks + node] = 0
        node = state[2 * node + 1]


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
