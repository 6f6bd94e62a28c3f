"""A chain of units in which neighbours are used by the same tokens."""

import numpy as np
from numba import njit

from dipsim.kernels.sets import ones

WINDOW = 16
"""Units the next one is chosen from: with more, units of unlike popularity become neighbours."""


@njit(cache=True, nogil=True)
def chain(tokens_of, popular):
    """Units in chain order, int64[units].

    The chain starts with the most popular unit; the next is, of the `WINDOW` most popular ones
    left, the one whose tokens overlap most (Jaccard) with those of the last; ties to the more
    popular.

    Args:
        tokens_of: uint64[units, words], the tokens that use each unit, as bits.
        popular: int64[units], the units in order of popularity.
    """
    units, words = tokens_of.shape
    uses = np.zeros(units, np.int64)
    for u in range(units):
        for w in range(words):
            uses[u] += ones(tokens_of[u, w])
    left = popular[:WINDOW].copy()
    count, following = left.shape[0], left.shape[0]
    found = np.empty(units, np.int64)
    last = popular[0]
    for n in range(units):
        best, chosen = -1.0, 0
        for i in range(count):
            both = 0
            for w in range(words):
                both += ones(tokens_of[left[i], w] & tokens_of[last, w])
            either = uses[left[i]] + uses[last] - both
            alike = both / either if either > 0 else 0.0
            if alike > best:
                best, chosen = alike, i
        last = left[chosen]
        found[n] = last
        for i in range(chosen, count - 1):
            left[i] = left[i + 1]
        if following < units:
            left[count - 1] = popular[following]
            following += 1
        else:
            count -= 1
    return found
