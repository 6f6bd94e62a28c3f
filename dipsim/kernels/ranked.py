"""Atomic access with a policy that ranks: those who must leave for a batch leave together."""

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.batches import (
    batch_size,
    book,
    close,
    first_units,
    gather,
    note_misses,
    reset,
    room_for,
    stamp,
    use,
)
from dipsim.kernels.cache import FORCED, NEVER, RANKED, SLACK
from dipsim.kernels.sets import COMMIT, SKIP, bit, list_units, lowest_bit, ones
from dipsim.kernels.victims import BINS, lowest, order


@register_jitable
def replay_ranked(block, layer, first, admission, parts, cache, touch, rank):
    """Replay a block; ``cache`` may hold several capacities that share the policy's state."""
    histogram = np.zeros(BINS, np.int64)
    count = parts.units.shape[0]
    place = 0
    for r in range(block.actions.shape[0]):
        if block.resets[r]:
            reset(cache, parts)
        if block.actions[r] == SKIP:
            continue
        for p in range(count):
            gather(block, cache, parts, r, layer, p)
            if block.actions[r] != COMMIT:
                continue
            t = stamp(first + r, count, p)
            active = batch_size(cache, parts, p)
            # Hits are those of the state before the batch, and touching does not change it.
            place = use(block, cache, parts, place, t, count, p, touch)
            for c in range(cache.capacity.shape[0]):
                hits = note_misses(block, cache, parts, c, r, p)
                kept = active - hits
                if admission == FORCED:
                    kept = room_for(kept, hits, parts.size[p], cache.capacity[c])
                elif admission == NEVER:
                    kept = 0
                _admit(cache, parts, c, p, kept, active - hits)
                _shrink(cache, parts, c, p, t, admission, rank, histogram)
                if admission == RANKED:
                    kept = _still_here(cache, parts, c, p) - hits
                book(block, cache, c, r, p, active, hits, kept)
            close(cache, parts, p)


@register_jitable
def _admit(cache, parts, c, p, kept, missed):
    """Make the first ``kept`` misses of the batch resident."""
    cache.filled[c] += kept * parts.size[p]
    aware = parts.gamma[p] != 1.0
    for w in range(parts.word[p], parts.word[p + 1]):
        word = cache.pending[w] & ~cache.resident[c, w]
        if kept < missed:
            here = ones(word)
            word = word if here <= kept else first_units(word, kept)
            kept -= here
            missed -= here
        cache.resident[c, w] |= word
        while aware and word:
            cache.factor[w * 64 + lowest_bit(word)] = 1.0
            word &= word - np.uint64(1)
        if kept <= 0:
            break


@register_jitable
def _shrink(cache, parts, c, p, t, admission, rank, histogram):
    """Let the lowest ranked leave until the rest fits.

    In layer scope one round is enough. With units of several sizes each round takes as many as
    must leave even if all were of the largest size.
    """
    largest = parts.size.max()
    excess = cache.filled[c] - cache.capacity[c]
    while excess > SLACK:
        candidates, keys = cache.lists[0], cache.lists[1]
        count = 0
        for w in range(cache.pending.shape[0]):
            word = cache.resident[c, w]
            if admission == FORCED and parts.word[p] <= w < parts.word[p + 1]:
                word &= ~cache.pending[w]
            count = list_units(word, w * 64, candidates, count)
        leaving = min(count, np.int64(np.ceil((excess - SLACK) / largest)))
        if leaving < count:
            for i in range(count):
                keys[i] = order(rank(cache.state, candidates[i], t))
            lowest(leaving, count, candidates, keys, cache.last, cache.lists[2], histogram)
        for i in range(leaving):
            unit = candidates[i]
            of = parts.of_word[unit >> 6]
            cache.resident[c, unit >> 6] &= ~bit(unit)
            cache.filled[c] -= parts.size[of]
            if parts.gamma[of] != 1.0:
                cache.factor[unit] = parts.gamma[of]
        excess = cache.filled[c] - cache.capacity[c]


@register_jitable
def _still_here(cache, parts, c, p):
    """How many units of the batch are resident."""
    here = 0
    for w in range(parts.word[p], parts.word[p + 1]):
        here += ones(cache.pending[w] & cache.resident[c, w])
    return here
