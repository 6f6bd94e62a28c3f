"""Atomic access with a policy that ranks: those who must leave for a batch leave together."""

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.batches import (
    batch_size,
    book,
    close,
    first_units,
    gather,
    inlined,
    note_misses,
    reset,
    room_for,
    stamp,
    use,
)
from dipsim.kernels.cache import FORCED, NEVER, RANKED, SLACK
from dipsim.kernels.sets import COMMIT, SKIP, bit, list_units, lowest_bit, ones
from dipsim.kernels.victims import lowest, order


@register_jitable
def replay_ranked(block, layer, first, admission, parts, cache, touch, rank):
    """Replay a block; ``cache`` may hold several capacities that share the policy's state."""
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
            place = use(block, cache, parts, place, t, p, touch)
            for c in range(cache.capacity.shape[0]):
                hits = note_misses(block, cache, parts, c, r, p)
                kept = active - hits
                if admission == FORCED:
                    kept = room_for(kept, hits, parts.size[p], cache.capacity[c])
                elif admission == NEVER:
                    kept = 0
                _admit(cache, parts, c, p, kept, active - hits)
                _shrink(cache, parts, c, p, t, admission, rank)
                if admission == RANKED:
                    kept = _entered(cache, parts, c, p)
                book(block, c, r, p, active, hits, kept)
            close(cache, parts, p)


@inlined
def _admit(cache, parts, c, p, kept, missed):
    """Make the first ``kept`` misses of the batch resident."""
    pending, resident, factor = cache.pending, cache.resident, cache.factor
    cache.filled[c] += kept * parts.size[p]
    aware = parts.gamma[p] != 1.0
    for w in range(parts.word[p], parts.word[p + 1]):
        word = pending[w] & ~resident[c, w]
        if kept < missed:
            here = ones(word)
            word = word if here <= kept else first_units(word, kept)
            kept -= here
            missed -= here
        resident[c, w] |= word
        while aware and word:
            factor[w * 64 + lowest_bit(word)] = 1.0
            word &= word - np.uint64(1)
        if kept <= 0:
            break


@inlined
def _shrink(cache, parts, c, p, t, admission, rank):
    """Let the lowest ranked leave until the rest fits.

    In layer scope one round is enough. With units of several sizes each round takes as many as
    must leave even if all were of the largest size.
    """
    pending, resident, factor, state = cache.pending, cache.resident, cache.factor, cache.state
    candidates, keys = cache.lists[0], cache.lists[1]
    sizes, of_word, gammas = parts.size, parts.of_word, parts.gamma
    start, stop = parts.word[p], parts.word[p + 1]
    largest = 0.0
    for size in sizes:
        largest = max(largest, size)
    excess = cache.filled[c] - cache.capacity[c]
    while excess > SLACK:
        count = 0
        for w in range(pending.shape[0]):
            word = resident[c, w]
            if admission == FORCED and start <= w < stop:
                word &= ~pending[w]
            count = list_units(word, w * 64, candidates, count)
        leaving = min(count, np.int64(np.ceil((excess - SLACK) / largest)))
        if leaving < count:
            for i in range(count):
                keys[i] = order(rank(state, candidates[i], t))
            lowest(leaving, count, candidates, keys, cache.last, cache.lists[2], cache.histogram)
        for i in range(leaving):
            unit = candidates[i]
            of = of_word[unit >> 6]
            resident[c, unit >> 6] &= ~bit(unit)
            excess -= sizes[of]
            if gammas[of] != 1.0:
                factor[unit] = gammas[of]
        cache.filled[c] = cache.capacity[c] + excess


@inlined
def _entered(cache, parts, c, p):
    """How many misses of the batch are resident."""
    pending, resident, found, entered = cache.pending, cache.resident, cache.found, 0
    for w in range(parts.word[p], parts.word[p + 1]):
        entered += ones(pending[w] & resident[c, w] & ~found[w])
    return entered
