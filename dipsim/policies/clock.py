"""CLOCK: a hand goes round, and units used since it last passed get another turn (Corbato, 1968).

In atomic access the hand passes over units in use as it does over units that were used.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.kernels.flags import INDEX
from dipsim.policies.contract import Policy, within

HAND, END, MOST, MASK = -1, -2, -3, -4
"""Fields at the end of the state: how many entries of the buffer the hand has passed, and how many
there have been; the most turns a unit has; the places of the buffer less one."""


def state(units: int, capacity: int, seed: int, bits: int = 1) -> NDArray[np.int64]:
    """Return a counter of turns for each unit, which has ``bits`` bits; a circular buffer of the
    units from the hand on round the clock, with a power of 2 of places; the fields."""
    places = 1 << units.bit_length()
    fresh = np.zeros(units + places + 4, np.int64)
    fresh[MOST] = 2 ** int(within("bits", bits, 1, 32)) - 1
    fresh[MASK] = places - 1
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Give a hit one more turn."""
    # Absent units have no turn to spare, so a miss leaves 0. A branch would be mispredicted.
    state[unit] = min(state[unit] + hit, state[MOST])


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put the unit just behind the hand, which reaches it last, without a turn to spare."""
    mask = state[MASK] & INDEX
    state[(len(state) - 5 - mask + (state[END] & mask)) & INDEX] = unit
    state[END] += 1
    state[unit] = 0


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the first unit without a turn to spare; the others that the hand passes lose one."""
    mask, hand, end = state[MASK] & INDEX, state[HAND], state[END]
    clock = (len(state) - 5 - mask) & INDEX
    unit = state[clock + (hand & mask)] & INDEX
    while (state[unit] > 0) | (not evictable[unit]):  # one branch to mispredict, not two
        state[unit] = max(state[unit] - 1, 0)
        state[clock + (end & mask)] = unit
        hand += 1
        end += 1
        unit = state[clock + (hand & mask)] & INDEX
    state[HAND], state[END] = hand, end
    return unit


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Take the unit that the hand points at off the clock."""
    state[HAND] += 1


CLOCK = Policy(
    "clock",
    "a hand goes round; what was used gets another turn",
    "Corbato, MIT 1968",
    state=state,
    touch=touch,
    insert=insert,
    evict=evict,
    leave=leave,
)
