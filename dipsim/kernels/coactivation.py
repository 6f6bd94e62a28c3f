"""A chain of units in which neighbours are used by the same tokens."""

import numpy as np

from dipsim.kernels.bits import ones
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.stored import stored

WINDOW = 64
"""Equally popular units among which the next one is sought; bounds the time."""


def _chain(fingerprint):
    def chain(tokens_of, popular):
        """Return the units in chain order, int64[units].

        Popular units come first. Of the first `WINDOW` units left that are equally popular, the
        next one is that whose tokens have most in common with those of the last unit.

        Args:
            tokens_of: uint64[units, words], the tokens that use each unit, as bits.
            popular: int64[units], units by how many tokens use them, descending.
        """
        fingerprint
        units, words = tokens_of.shape
        uses = np.zeros(units, np.int64)
        for u in range(units):
            for w in range(words):
                uses[u] += ones(tokens_of[u, w])
        order = popular.copy()
        for n in range(1, units):
            last, most, chosen = order[n - 1], -1, n
            for i in range(n, min(n + WINDOW, units)):
                if uses[order[i]] != uses[order[n]]:
                    break
                common = 0
                for w in range(words):
                    common += ones(tokens_of[order[i], w] & tokens_of[last, w])
                if common > most:
                    most, chosen = common, i
            unit = order[chosen]
            for i in range(chosen, n, -1):
                order[i] = order[i - 1]
            order[n] = unit
        return order

    return chain


chain = stored(nogil=True)(_chain(fingerprint()))
