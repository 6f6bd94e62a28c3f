"""CLOCK: a hand goes round, and units used since it last passed get another turn (Corbato, 1968).

In atomic access the hand passes over units in use as it does over units that were used.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within

HAND, MOST = -1, -2
"""Fields at the end of the state: the unit the hand points at, or -1; the most turns a unit has."""


def state(units: int, capacity: int, seed: int, bits: int = 1) -> NDArray[np.int64]:
    """Return for each unit its neighbours on the clock, behind and before it, and a counter of
    turns that has ``bits`` bits; then the fields."""
    fresh = np.zeros(3 * units + 2, np.int64)
    fresh[HAND], fresh[MOST] = -1, 2 ** int(within("bits", bits, 1, 32)) - 1
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Give a hit one more turn."""
    if hit:
        state[3 * unit + 2] = min(state[3 * unit + 2] + 1, state[MOST])


def insert(state: NDArray[np.int64], unit: int, token: int) -> None:
    """Put the unit just behind the hand, which reaches it last, without a turn to spare."""
    hand = state[HAND]
    if hand < 0:
        hand = state[HAND] = state[3 * unit] = unit
    behind = state[3 * hand]
    state[3 * unit], state[3 * unit + 1], state[3 * unit + 2] = behind, hand, 0
    state[3 * behind + 1] = state[3 * hand] = unit


def evict(state: NDArray[np.int64], unit: int, evictable: NDArray[np.bool_], token: int) -> int:
    """Return the first unit without a turn to spare; the others that the hand passes lose one."""
    hand = state[HAND]
    while state[3 * hand + 2] > 0 or not evictable[hand]:
        state[3 * hand + 2] = max(state[3 * hand + 2] - 1, 0)
        hand = state[3 * hand + 1]
    state[HAND] = hand
    return hand


def leave(state: NDArray[np.int64], unit: int) -> None:
    """Take the unit off the clock; a hand that points at it moves on."""
    behind, before = state[3 * unit], state[3 * unit + 1]
    state[3 * behind + 1], state[3 * before] = before, behind
    if state[HAND] == unit:
        state[HAND] = before if before != unit else -1


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
