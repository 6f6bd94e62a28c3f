"""Frequency that fades: a use counts half after ``half_life`` tokens.

Between recency (a short half-life) and frequency (a long one), as LRFU (Lee et al., SIGMETRICS
1999). Its own admission is ranked: a miss enters only if it is hotter than what it pushes out.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within


def state(
    units: int, capacity: int, seed: int, half_life: float = 32.0, ticks: int = 1
) -> NDArray[np.float64]:
    """Per unit its heat and when it was last used; then the half-life, in batches."""
    made = np.zeros(2 * units + 1)
    made[-1] = within("half_life", half_life, 1e-3, 1e9) * ticks
    return made


def touch(state: NDArray[np.float64], unit: int, token: int, hit: int) -> None:
    """What is left of the heat, and one."""
    age = token - state[2 * unit + 1]
    state[2 * unit] = state[2 * unit] * 0.5 ** (age / state[-1]) + 1.0
    state[2 * unit + 1] = token


def rank(state: NDArray[np.float64], unit: int, token: int) -> float:
    """The coldest leaves first."""
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
