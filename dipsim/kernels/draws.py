"""Seeded draws: one hash behind all of them, and a predictor's guesses drawn with it."""

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.bits import bit, holds, ones
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.stored import stored


@register_jitable(forceinline=True)
def splitmix64(x: np.uint64) -> np.uint64:
    """Hash one 64-bit number into another (Steele, Lea, Flood, OOPSLA 2014), modulo 2**64."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def seed_of(*numbers: int) -> int:
    """Return a signed 64-bit seed: h = splitmix64(h ^ number) for each number, from h = 0."""
    h = np.uint64(0)
    with np.errstate(over="ignore"):
        for number in numbers:
            h = splitmix64(h ^ np.uint64(number % 2**64))
    return int(h.astype(np.int64))


def _draw_guesses(fingerprint):
    def draw_guesses(sets, units, right, seed, first, guesses):
        """Draw as many units as each row needs: a share of them needed ones, the others not.

        Both are drawn without replacement (selection sampling, Knuth 3.4.2 S), by splitmix64 of
        the seed, the row and the unit.

        Args:
            sets: uint64[n, words], the units that each row needs.
            units: number of units.
            right: share of the guesses that is needed, 0 to 1; rounded to whole units.
            seed: seed of the draws.
            first: number of the first row.
            guesses: uint64[n, words] out.
        """
        fingerprint
        for r in range(sets.shape[0]):
            needed = 0
            for w in range(sets.shape[1]):
                guesses[r, w] = 0
                needed += ones(sets[r, w])
            good = np.int64(np.floor(right * needed + 0.5))
            bad = min(needed - good, units - needed)
            left, others = needed, units - needed
            row = splitmix64(np.uint64(seed) ^ splitmix64(np.uint64(first + r)))
            for u in range(units):
                chance = np.float64(splitmix64(row ^ np.uint64(u)) >> np.uint64(11)) * 2.0**-53
                if holds(sets[r], u):
                    taken = chance * left < good
                    left -= 1
                    good -= taken
                else:
                    taken = chance * others < bad
                    others -= 1
                    bad -= taken
                if taken:
                    guesses[r, u >> 6] |= bit(u)

    return draw_guesses


draw_guesses = stored(nogil=True)(_draw_guesses(fingerprint()))
