"""LFU over the resident units: the count of a unit that leaves is forgotten.

In sequential access, units of the same count share a queue, and the queues form a chain from the
lowest count up (Shah, Mitra and Matani, An O(1) algorithm for implementing the LFU cache eviction
scheme, 2010).
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.policies.contract import Policy
from dipsim.policies.lists import end, info, length, linked, move, oldest, push, unlink


def touch(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Count the uses since the unit was loaded: a miss begins at 1."""
    state[unit] = state[unit] + 1 if hit else 1


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """Return the uses since loading, so that the least used leaves first."""
    return state[unit]


# Sequential access, one unit at a time. The state holds for each unit its queue; for each queue the
# next ones below and above it in the chain, and its count. Queue 0 closes the chain. Queues outside
# the chain form a stack of free ones, linked by "above".


def chain(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """Return a state without counts; ``state[-2]`` is the top of the stack of free queues."""
    queues = units + 2
    state = linked(units, queues, per_unit=4, units=queues, fields=2)
    above = 2 * units + 4 * queues + 2 * queues
    state[above : above + queues] = np.arange(1, queues + 1)
    state[above] = 0
    state[-2] = 1
    return state


@register_jitable(forceinline=True)
def fields_of(state: NDArray[np.int64]) -> tuple[int, int, int, int]:
    """Return where in ``state`` begin: queue per unit; below, above and count per queue."""
    queues = state[-1] + 2
    home = info(state, queues)
    return home, home + queues, home + 2 * queues, home + 3 * queues


@register_jitable(forceinline=True)
def queue_of(state: NDArray[np.int64], count: int, lower: int) -> int:
    """Return the queue of a count, just above the queue ``lower``; take a free one if needed."""
    _, below, above, counts = fields_of(state)
    upper = state[above + lower]
    if upper != 0 and state[counts + upper] == count:
        return upper
    free = state[-2]
    state[-2] = state[above + free]
    state[counts + free] = count
    state[below + free], state[above + free] = lower, upper
    state[above + lower] = state[below + upper] = free
    return free


@register_jitable(forceinline=True)
def free_if_empty(state: NDArray[np.int64], i: int) -> None:
    """Take an empty queue out of the chain."""
    if length(state, end(state, i)) == 0:
        _, below, above, _ = fields_of(state)
        lower, upper = state[below + i], state[above + i]
        state[above + lower], state[below + upper] = upper, lower
        state[above + i] = state[-2]
        state[-2] = i


def touch_chain(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Move a hit to the queue of the next count."""
    if hit:
        home, _, _, counts = fields_of(state)
        i = state[home + unit]
        j = queue_of(state, state[counts + i] + 1, i)
        move(state, end(state, i), end(state, j), unit)
        state[home + unit] = j
        free_if_empty(state, i)


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put the unit into the queue of count 1."""
    i = queue_of(state, 1, 0)
    push(state, end(state, i), unit)
    state[fields_of(state)[0] + unit] = i


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the unit that reached the lowest count first, of those that may leave."""
    above = fields_of(state)[2]
    i = state[above]
    victim = oldest(state, end(state, i), evictable, token)
    while victim < 0:
        i = state[above + i]
        victim = oldest(state, end(state, i), evictable, token)
    return victim


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Take the unit out of its queue and forget its count."""
    i = state[fields_of(state)[0] + unit]
    unlink(state, end(state, i), unit)
    free_if_empty(state, i)


LFU_RESIDENT = Policy(
    "lfu-resident",
    "evicts the least used since it was loaded",
    "Shah, Mitra, Matani 2010",
    touch=touch,
    rank=rank,
    sequential=Policy(
        "lfu-resident",
        state=chain,
        touch=touch_chain,
        insert=insert,
        evict=evict,
        leave=leave,
    ),
)
