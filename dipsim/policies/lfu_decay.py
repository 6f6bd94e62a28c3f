"""LFU with decay: a use counts half after ``half_life`` tokens.

A short half-life acts like recency, a long one like frequency, as in LRFU (Lee et al., SIGMETRICS
1999). The sum of the decayed uses is a unit's heat. Its admission is ranked by default: a miss
enters only if it is hotter than the unit it would push out.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within


def state(
    units: int, capacity: int, seed: int, half_life: float = 32.0, ticks: int = 1
) -> NDArray[np.float64]:
    """Return the heat and the last use of each unit, then the half-life in batches."""
    fresh = np.zeros(2 * units + 1)
    fresh[-1] = within("half_life", half_life, 1e-3, 1e9) * ticks
    return fresh


def touch(state: NDArray[np.float64], unit: int, token: int, hit: int) -> None:
    """Let the heat decay since the last use, and add one."""
    age = token - state[2 * unit + 1]
    state[2 * unit] = state[2 * unit] * 0.5 ** (age / state[-1]) + 1.0
    state[2 * unit + 1] = token


def rank(state: NDArray[np.float64], unit: int, token: int) -> float:
    """Return the heat at ``token``, so that the coldest leaves first."""
    age = token - state[2 * unit + 1]
    return state[2 * unit] * 0.5 ** (age / state[-1])


LFU_DECAY = Policy(
    "lfu-decay",
    "evicts the coldest; a use counts half after half_life tokens",
    "as LRFU, Lee et al., SIGMETRICS 1999",
    state=state,
    touch=touch,
    rank=rank,
    admit="ranked",
    blind=True,
)
