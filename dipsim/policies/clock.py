"""CLOCK: a queue in which what was used since its last turn gets another one (Corbato, 1968).

In atomic access a unit in use goes round as well.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.fifo import leave
from dipsim.policies.lists import end, first, info, linked, push, renew


def state(units: int, capacity: int, seed: int, bits: int = 1) -> NDArray[np.int64]:
    """A queue, a counter of so many bits for each unit, and the highest count."""
    made = linked(units, 1, per_unit=1, units=units, fields=2)
    made[-2] = 2 ** int(within("bits", bits, 1, 32)) - 1
    return made


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """One turn more."""
    if hit:
        at = info(state, 1) + unit
        state[at] = min(state[at] + 1, state[-2])


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """The newest, with no turn to spare."""
    push(state, end(state, 0), unit)
    state[info(state, 1) + unit] = 0


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """The first without a turn to spare."""
    queue, counter = end(state, 0), info(state, 1)
    node = first(state, queue)
    while state[counter + node] > 0 or not evictable[node]:
        state[counter + node] = max(state[counter + node] - 1, 0)
        renew(state, queue, node)
        node = first(state, queue)
    return node


CLOCK = Policy(
    "clock",
    "a queue; what was used gets another turn",
    "Corbato, MIT 1968",
    state=state,
    touch=touch,
    insert=insert,
    evict=evict,
    leave=leave,
)
