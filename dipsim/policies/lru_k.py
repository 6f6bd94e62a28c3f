"""LRU-K: evicts the unit whose K-th last use lies farthest back (O'Neil et al., SIGMOD 1993).

Uses are remembered when a unit leaves. Units used fewer than K times leave first.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import note_time


def state(units: int, capacity: int, seed: int, k: int = 2) -> NDArray[np.int64]:
    """Return the last k uses of each unit, newest first, -1 where there was none; then k."""
    fresh = np.full(units * int(within("k", k, 1, 64)) + 1, -1, np.int64)
    fresh[-1] = k
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Record the use as the newest of the last k."""
    note_time(state, unit * state[-1], state[-1], token)


def rank(state: NDArray[np.int64], unit: int, token: int) -> np.int64:
    """Return the k-th last use, so that the unit with the oldest leaves first."""
    return state[unit * state[-1] + state[-1] - 1]


LRU_K = Policy(
    "lru-k",
    "evicts by the k-th last use; history survives",
    "O'Neil et al., SIGMOD 1993",
    state=state,
    touch=touch,
    rank=rank,
    blind=True,
)
