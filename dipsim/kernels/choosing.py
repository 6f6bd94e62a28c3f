"""The mask of one row of a cache-aware part, by whatever rule the part has.

Compiled once and called from every policy's loop.
"""

import numpy as np
from numba import njit

from dipsim.kernels.cache import BATCHES
from dipsim.kernels.codes import select_codes
from dipsim.kernels.fingerprint import stamp
from dipsim.kernels.masking import APPROXIMATE, PLAIN, RULE, mask
from dipsim.kernels.routing import route
from dipsim.kernels.topk import kept_shares, select


def _choose_row(fingerprint):
    @njit(cache=True, nogil=True)
    def choose_row(
        scores,
        codes,
        sets,
        shares,
        word,
        units,
        k,
        gamma,
        numbers,
        resident,
        factor,
        threshold,
        keys,
        lists,
        histogram,
        spare,
        found,
        last,
        memory,
        uses,
        at,
        t,
        decode,
    ):
        """Write the mask of a row to ``sets``, and what it keeps to ``shares``.

        Arrays are fields of `Block`, `Parts` and `Cache`, whole; of the part's own ``units``, ``k``
        and ``gamma`` are given. ``at`` is (row, layer, part), ``t`` the number of the batch,
        ``decode`` whether the row is a decode token.
        """
        fingerprint
        r, layer, p = at
        start, stop = word[p], word[p + 1]
        first = start * 64
        end = first + units
        words, here, kept = sets[r, layer, start:stop], resident[0, start:stop], shares[r, p]
        own, rule = numbers[p], np.int64(numbers[p, RULE])
        if codes.shape[0] > 0:
            row = codes[r, layer, first:end]
            select_codes(row, gamma, here, k, words, histogram, kept)
            return
        row, guess, tied = scores[r, layer, first:end], threshold[p : p + 1], lists[0]
        if rule == PLAIN:
            select(row, factor[first:end], True, k, words, guess, keys[:units], tied)
            kept_shares(row, words, kept)
        elif rule <= APPROXIMATE:
            of = uses[first:end], memory[p, BATCHES]
            # Scratch that is free until the policy ranks, or the batch's hits are known.
            order, fixed = spare.view(np.float32)[:units], found[start:stop]
            count = stop - start
            among_k = lists[1].view(np.uint64)[:count]
            among_m = lists[2].view(np.uint64)[:count]
            scratch = keys[:units], order, tied, fixed, among_k, among_m
            mask(rule, own, k, row, here, of, words, guess, scratch)
            kept_shares(row, words, kept)
        else:
            wide = spare.view(np.float64)[:units]
            known = rule if decode else PLAIN
            route(known, own, k, row, here, last[first:end], t, memory[p], wide, words, kept)

    return choose_row


choose_row = _choose_row(stamp())
