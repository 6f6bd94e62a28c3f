"""LRU with a throttle on insertion: a unit enters a full cache at its n-th miss within a window.

What is used once is streamed through, so it writes nothing into the cache and evicts nothing.
While there is room everything enters; a unit that has not missed often enough is then the first to
leave, until it is hit. Admission is ranked: the throttle is no option beside the policy but part of
it, as what may enter is a matter of order. The doorkeeper of TinyLFU (Einziger et al., ACM TOS
2017) with a memory that a window bounds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import note_time

_LONG_AGO = -(2**40)


def state(
    units: int, capacity: int, seed: int, misses: int = 2, window: int = 32, ticks: int = 1
) -> NDArray[np.int64]:
    """Return the last ``misses`` misses of each unit, newest first; the rank of each unit; then the
    window in batches, and ``misses``."""
    most = int(within("misses", misses, 1, 64))
    fresh = np.full(units * (most + 1) + 2, _LONG_AGO, np.int64)
    fresh[-2:] = int(within("window", window, 1, 2**30)) * ticks, most
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Rank the unit by its last use, a hit above a miss; a miss that must wait below all others."""
    most = state[-1]
    units = (len(state) - 2) // (most + 1)
    if hit:
        state[units * most + unit] = 2 * token + 1
        return
    note_time(state, unit * most, most, token)
    enters = state[unit * most + most - 1] > token - state[-2]
    state[units * most + unit] = 2 * token if enters else token + _LONG_AGO


def rank(state: NDArray[np.int64], unit: int, token: int) -> Any:
    """Return the rank that the last use gave the unit."""
    return state[(len(state) - 2) // (state[-1] + 1) * state[-1] + unit]


LRU_THROTTLED = Policy(
    "lru-throttled",
    "lru that a unit enters at its second miss in a window",
    "doorkeeper of TinyLFU, Einziger et al., ACM TOS 2017",
    state=state,
    touch=touch,
    rank=rank,
    admit="ranked",
)
