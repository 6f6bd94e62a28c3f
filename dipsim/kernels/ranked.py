"""Atomic access with a policy that ranks: the units that must leave for a batch leave together."""

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.batch import book, close, first_units, gather, note_misses, reset, room_for
from dipsim.kernels.bits import COMMIT, SKIP, lowest_bit, ones, stamp, without_lowest
from dipsim.kernels.cache import DRAWS, FORCED, NEVER, RANKED, SEED, SLACK
from dipsim.kernels.draws import splitmix64
from dipsim.kernels.eviction import find_cut, leave_lowest
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.frames import call
from dipsim.kernels.stored import stored


@stored(nogil=True, _nrt=False, key=fingerprint())
def replay_ranked(block, layer, first, admission, parts, cache, functions):
    """Replay a block; ``cache`` may hold several capacities that share the policy's state.

    Args:
        layer: of the inputs; first: token of the first row.
        functions: addresses, of `Functions`.
    """
    count = parts.units.shape[0]
    next_use = 0
    for r in range(block.actions.shape[0]):
        if block.resets[r]:
            reset(parts, cache, functions)
        if block.actions[r] == SKIP:
            continue
        if block.capacity.shape[0] > 0:
            # The rows of a batch have one capacity, so nothing is pending when units leave.
            cache.capacity[0] = block.capacity[r]
            if cache.filled[0] - cache.capacity[0] > SLACK:
                t = stamp(first + r, count, 0)
                call(functions.fit, block, parts, cache, 0, 0, t, FORCED, functions.rank, 0)
        for p in range(count):
            t = stamp(first + r, count, p)
            if functions.choose != 0:
                call(functions.choose, block, parts, cache, r, layer, p, t)
            active = gather(block, parts, cache, r, layer, p)
            if block.actions[r] < COMMIT:
                continue
            # Hits are those of the state before the batch, and touching does not change it.
            call(functions.use, block, parts, cache, p, t, next_use)
            next_use += active
            ranked = 0  # 1 once the units that may leave are ranked, for all capacities
            for c in range(cache.capacity.shape[0]):
                hits = note_misses(block, parts, cache, c, r, p)
                missed, kept = active - hits, active - hits
                if admission == FORCED:
                    kept = room_for(missed, hits, parts.size[p], cache.capacity[c])
                elif admission == NEVER:
                    kept = 0
                cache.filled[c] += kept * parts.size[p]
                if 0 < kept < missed and cache.numbers[DRAWS] != 0:
                    call(functions.draw, block, parts, cache, c, p, t, kept)
                else:
                    _admit(parts, cache, c, p, kept)
                if cache.filled[c] - cache.capacity[c] > SLACK:
                    ranked = call(
                        functions.fit,
                        block,
                        parts,
                        cache,
                        c,
                        p,
                        t,
                        admission,
                        functions.rank,
                        ranked,
                    )
                if admission == RANKED:
                    kept = _entered(parts, cache, c, p)
                book(block, c, r, p, active, hits, kept)
            close(parts, cache, p, functions)


@register_jitable
def _admit(parts, cache, c, p, kept):
    """Make the first ``kept`` misses of the batch resident."""
    pending, resident = cache.pending, cache.resident
    for w in range(parts.word[p], parts.word[p + 1]):
        word = pending[w] & ~resident[c, w]
        absent = ones(word)
        if absent > kept:
            word = first_units(word, kept)
        kept -= ones(word)
        resident[c, w] |= word


@register_jitable
def _entered(parts, cache, c, p):
    """Count the misses of the batch that are resident."""
    pending, resident, hit, entered = cache.pending, cache.resident, cache.hit, 0
    for w in range(parts.word[p], parts.word[p + 1]):
        entered += ones(pending[w] & resident[c, w] & ~hit[w])
    return entered


# Called by address -------------------------------------------------------------------------------


@stored(nogil=True, _nrt=False, key=fingerprint())
def draw_misses(block, parts, cache, c, p, t, kept):
    """Make the ``kept`` misses with the lowest hashes of (seed, token, unit) resident; returns 0."""
    resident, misses, keys, count = cache.resident[c], cache.candidates[1], cache.keys[1], 0
    of_token = splitmix64(np.uint64(cache.numbers[SEED]) ^ np.uint64(t))
    for w in range(misses.shape[0]):
        misses[w] = 0
    for w in range(parts.word[p], parts.word[p + 1]):
        misses[w] = word = cache.pending[w] & ~cache.hit[w]
        resident[w] |= word
        while word:
            unit = np.uint64(w * 64 + lowest_bit(word))
            keys[count] = -np.int64(splitmix64(of_token ^ unit) >> np.uint64(1))
            count += 1
            word = without_lowest(word)
    out = count - kept
    cut, below = find_cut(keys, count, out, keys[0])
    leave_lowest(resident, misses, out, keys, cut, below, cache.last, cache.ids)
    return 0


@stored(nogil=True, _nrt=False, key=fingerprint())
def fit(block, parts, cache, c, p, t, admission, rank, ranked):
    """Let the lowest ranked units of capacity c leave until the rest fits.

    In layer scope one round is enough. With units of several sizes each round takes as many as
    must leave even if all were of the largest size.

    Args:
        rank: address of what ranks ``candidates[0]``.
        ranked: 1 if that holds the units that may leave at any capacity, and ``keys[0]`` their
            ranks, since the batch before `fit` was called for another capacity.

    Returns:
        1 if they do now, else 0.
    """
    sizes, of_word, resident = parts.size, parts.of_word, cache.resident
    filled, capacity, several = cache.filled[c], cache.capacity[c], cache.capacity.shape[0] > 1
    mine = 1 if several else 0
    candidates, keys, words = cache.candidates[mine], cache.keys[mine], cache.pending.shape[0]
    largest = 0.0
    for size in sizes:
        if size > largest:
            largest = size
    while filled - capacity > SLACK:
        count = 0
        for w in range(words):
            word = _may_leave(parts, cache, c, p, admission, w)
            candidates[w] = word
            count += ones(word)
            filled -= ones(word) * sizes[of_word[w]]
        # `filled` is now what stays anyway; what may leave and does not is added below.
        least = (cache.filled[c] - capacity - SLACK) / largest
        leaving = np.int64(least)
        if leaving < least:
            leaving += 1
        if leaving < count:
            if ranked == 0:
                if several:
                    _unite(parts, cache, p, admission)
                call(rank, block, parts, cache, p, t, 0)
                ranked = 1 if several else 0
            if several:
                _pick_own(cache)
            cut, below = find_cut(keys, count, leaving, cache.cuts[c])
            cache.cuts[c] = cut
            leave_lowest(resident[c], candidates, leaving, keys, cut, below, cache.last, cache.ids)
            for w in range(words):
                filled += ones(resident[c, w] & candidates[w]) * sizes[of_word[w]]
        else:
            for w in range(words):
                resident[c, w] &= ~candidates[w]
        cache.filled[c] = filled
        if leaving >= count:
            break
    return ranked


@register_jitable
def _may_leave(parts, cache, c, p, admission, w):
    """Return the units of a word that may leave."""
    word = cache.resident[c, w]
    if admission == FORCED and parts.word[p] <= w < parts.word[p + 1]:
        word &= ~cache.pending[w]
    return word


@register_jitable
def _unite(parts, cache, p, admission):
    """Write what may leave at any capacity, of the batch's misses too, to ``candidates[0]``."""
    every = cache.candidates[0]
    for w in range(every.shape[0]):
        word = cache.pending[w] if admission == RANKED else np.uint64(0)
        for c in range(cache.capacity.shape[0]):
            word |= _may_leave(parts, cache, c, p, admission, w)
        every[w] = word


@register_jitable
def _pick_own(cache):
    """Write the ranks of ``candidates[1]``, some of ``candidates[0]``, to ``keys[1]``."""
    every, own = cache.candidates[0], cache.candidates[1]
    ranks, keys = cache.keys[0], cache.keys[1]
    i = count = 0
    for w in range(every.shape[0]):
        word, mine = every[w], own[w]
        while word:
            keys[count] = ranks[i]
            count += np.int64((mine >> np.uint64(lowest_bit(word))) & np.uint64(1))
            i += 1
            word = without_lowest(word)
