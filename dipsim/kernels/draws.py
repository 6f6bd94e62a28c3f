"""splitmix64, the hash behind every seeded draw (Steele, Lea, Flood, OOPSLA 2014)."""

import numpy as np
from numba.extending import register_jitable


@register_jitable(forceinline=True)
def splitmix64(x: np.uint64) -> np.uint64:
    """One 64-bit hash of one 64-bit number, modulo 2**64."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def seed_of(*numbers: int) -> int:
    """A signed 64-bit seed from several integers: h = splitmix64(h ^ number), starting at 0."""
    h = np.uint64(0)
    with np.errstate(over="ignore"):
        for number in numbers:
            h = splitmix64(h ^ np.uint64(number % 2**64))
    return int(h.astype(np.int64))
