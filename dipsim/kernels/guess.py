"""Guesses of a predictor that is right to a given share, drawn at random."""

import numpy as np
from numba import njit

from dipsim.kernels.bits import bit, holds, ones
from dipsim.kernels.draws import splitmix64
from dipsim.kernels.fingerprint import stamp


def _draw_guesses(fingerprint):
    def draw_guesses(sets, units, right, seed, first, guesses):
        """For every row as many units as it needs: a share of them needed, the others not.

        Both are drawn without replacement (selection sampling, Knuth 3.4.2 S), by splitmix64 of
        the seed, the row and the unit.

        Args:
            sets: uint64[n, words] what each row needs.
            right: share of the guesses that is needed, 0 to 1; rounded to whole units.
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


draw_guesses = njit(cache=True, nogil=True)(_draw_guesses(stamp()))
