"""Random replacement: a fresh, reproducible rank for every unit and token."""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy
from dipsim.policies.hashing import splitmix64


def state(units: int, capacity: int, seed: int) -> NDArray[np.int64]:
    """The hash of (seed, layer, group), which the engine hands over as ``seed``."""
    return np.array([seed], np.int64)


def rank(state: NDArray[np.int64], unit: int, token: int) -> np.int64:
    """The hash of (seed, layer, group, token, unit), so that a slow twin can repeat it."""
    h = splitmix64(np.uint64(state[0]) ^ np.uint64(token))
    return np.int64(splitmix64(h ^ np.uint64(unit)) >> np.uint64(1))


RANDOM = Policy("random", "evicts at random (seeded)", "baseline", state=state, rank=rank)
