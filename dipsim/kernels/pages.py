"""The OS's page cache: an LRU of pages that the units of all layers and groups share."""

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.kernels.bits import COMMIT, bit, lowest_bit, without_lowest
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.stored import stored


class Regions(NamedTuple):
    """Pages of the units of each part (layer and group); parts in the order they are used."""

    word: NDArray[np.int64]  # [parts + 1] first word of each part in a row of sets
    first: NDArray[np.int64]  # [parts] its first page
    pages: NDArray[np.int64]  # [parts] how many
    size: NDArray[np.float64]  # [parts] pages a unit spans, a fraction
    stride: NDArray[np.float64]  # [parts] pages from one unit to the next, a fraction
    whole: NDArray[np.bool_]  # [parts] whether each of its units lies across all its pages
    place: NDArray[np.int64]  # [64 * words] of each unit, in units from the part's first page
    static_first: NDArray[np.int64]  # [parts + 1] pages used before each part, and at the end
    static_pages: NDArray[np.int64]  # [parts + 1]


class PageLru(NamedTuple):
    """The LRU: a ring of pages from the newest to the oldest; the last entry is its anchor."""

    newer: NDArray[np.int64]  # [pages + 1]
    older: NDArray[np.int64]  # [pages + 1]; -1 where a page is not in the cache
    held: NDArray[np.int64]  # [2] pages held now, and at most
    loaded: NDArray[np.int64]  # [pages] the last batch that read a page


_SLACK = 1e-6  # of a page: units whose bytes carry float noise do not reach into the next page


@stored(nogil=True)
def empty(cache):
    """Forget all pages."""
    anchor = cache.newer.shape[0] - 1
    cache.older[:] = -1
    cache.older[anchor] = cache.newer[anchor] = anchor
    cache.held[0] = 0
    cache.loaded[:] = -1


@stored(nogil=True)
def touch(cache, first, last, batch):
    """Use pages ``first`` to ``last``, in order.

    Returns:
        The number of pages read now; and whether any was absent before the batch.
    """
    newer, older, held = cache.newer, cache.older, cache.held
    anchor = newer.shape[0] - 1
    faults, absent = 0, False
    for page in range(first, last + 1):
        if older[page] >= 0:
            older[newer[page]], newer[older[page]] = older[page], newer[page]
        else:
            faults += 1
            cache.loaded[page] = batch
            if held[1] == 0:
                absent = True
                continue
            if held[0] == held[1]:
                oldest = newer[anchor]  # the ring closes: newer than the anchor is the oldest
                newer[anchor] = newer[oldest]
                older[newer[oldest]] = anchor
                older[oldest] = -1
            else:
                held[0] += 1
        absent |= cache.loaded[page] == batch
        newest = older[anchor]
        older[page], newer[page] = newest, anchor
        newer[newest], older[anchor] = page, page
    return faults, absent


@stored(nogil=True)
def touch_static(cache, regions, p):
    """Use the static pages before part ``p``; returns the number of pages read."""
    first = regions.static_first[p]
    faults, _ = touch(cache, first, first + regions.static_pages[p] - 1, -1)
    return faults


@register_jitable
def use_part(cache, regions, p, row, batch, unread):
    """Use the pages of one part's units; returns the number of pages read.

    Args:
        row: uint64[words], the sets of a token.
        unread: uint64[words] out, units of which a page was absent before the batch.
    """
    first, start, stop = regions.first[p], regions.word[p], regions.word[p + 1]
    if regions.whole[p]:
        if not row[start:stop].any():
            return 0
        faults, absent = touch(cache, first, first + regions.pages[p] - 1, batch)
        if absent:
            unread[start:stop] = row[start:stop]
        return faults
    faults = 0
    for w in range(start, stop):
        word = row[w]
        while word:
            unit = w * 64 + lowest_bit(word)
            start_of_unit = regions.place[unit] * regions.stride[p]
            begin = np.int64(np.floor(start_of_unit + _SLACK))
            end = np.int64(np.ceil(start_of_unit + regions.size[p] - _SLACK)) - 1
            read, absent = touch(cache, first + begin, first + max(begin, end), batch)
            faults += read
            if absent:
                unread[w] |= bit(unit)
            word = without_lowest(word)
    return faults


def _use_pages(fingerprint):
    def use_pages(sets, actions, resets, regions, cache, unread, faults):
        """Use the pages of the units in ``sets``, token by token, part by part, ascending.

        Static pages are in the cache from the start, and again after a reset, as far as they fit.

        Args:
            sets: uint64[tokens, words], the units whose pages are used.
            actions: uint8[tokens]; rows that commit no batch use nothing.
            resets: bool[tokens], whether the cache is emptied before a row.
            unread: uint64[tokens, words] out, the units of which a page was absent before
                their batch.
            faults: int64[tokens, 2 * parts + 1] out, pages read: in turn the static ones before
                each part and those of the part; last the static ones at the end.
        """
        fingerprint
        parts = regions.first.shape[0]
        for r in range(sets.shape[0]):
            if r == 0 or resets[r]:
                empty(cache)
                for p in range(parts + 1):
                    touch_static(cache, regions, p)
            if actions[r] < COMMIT:
                continue
            for p in range(parts):
                faults[r, 2 * p] = touch_static(cache, regions, p)
                faults[r, 2 * p + 1] = use_part(
                    cache, regions, p, sets[r], r * parts + p, unread[r]
                )
            faults[r, 2 * parts] = touch_static(cache, regions, parts)

    return use_pages


use_pages = stored(nogil=True)(_use_pages(fingerprint()))
