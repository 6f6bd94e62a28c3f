"""Hits of lru at every capacity from one pass (Mattson et al., IBM Systems Journal 1970)."""

import numpy as np

from dipsim.kernels.bits import COMMIT, SKIP, list_units
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.stored import stored


def _stack_distances(fingerprint):
    def stack_distances(sets, layer, actions, resets, measured, pending, order, filled, hits):
        """Count how deep in the recency stack the units of each batch lie before it.

        A cache of C units, C at least every batch, holds the C units used last, so it hits the
        units at a depth below C. The units of a batch enter the stack ascending.

        Args:
            sets: uint64[n, layers, words].
            layer: the one that is looked at.
            actions: uint8[n] SKIP, JOIN, JOIN_DECODE, COMMIT or DECODE.
            resets: bool[n].
            measured: bool[n] rows that count.
            pending: uint64[words] masks of the batch so far; updated.
            order: int64[units + AT_ONCE] units from the longest unused to the last used; updated.
            filled: number of units in ``order``.
            hits: int64[units], the hits at each depth (0: used last); added to.

        Returns:
            ``filled`` after the block.
        """
        fingerprint
        words = pending.shape[0]
        for r in range(sets.shape[0]):
            if resets[r]:
                filled = 0
            if actions[r] == SKIP:
                continue
            for w in range(words):
                pending[w] |= sets[r, layer, w]
            if actions[r] < COMMIT:
                continue
            count = np.int64(measured[r])
            kept = 0
            for i in range(filled):
                unit = order[i]
                active = np.int64((pending[unit >> 6] >> np.uint64(unit & 63)) & np.uint64(1))
                hits[filled - 1 - i] += active & count
                order[kept] = unit
                kept += 1 - active
            for w in range(words):
                kept = list_units(pending[w], w * 64, order, kept)
                pending[w] = 0
            filled = kept
        return filled

    return stack_distances


stack_distances = stored(nogil=True)(_stack_distances(fingerprint()))
