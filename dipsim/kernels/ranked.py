"""Atomic access with a policy that ranks: the units that must leave for a batch leave together."""

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.batch import book, close, gather, note_misses, reset, room_for
from dipsim.kernels.bits import COMMIT, SKIP, first_units, lowest_bit, ones, stamp, without_lowest
from dipsim.kernels.cache import DRAWS, FORCED, NEVER, RANKED, SEED, SLACK
from dipsim.kernels.draws import splitmix64
from dipsim.kernels.eviction import leave_lowest
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.frames import call
from dipsim.kernels.guesses import arrive, awaited_size, settle
from dipsim.kernels.stored import stored


@stored(nogil=True, _nrt=False, key=fingerprint())
def replay_ranked(block, layer, first, admission, parts, cache, functions):
    """Replay a block; ``cache`` may hold several capacities that share the policy's state.

    Args:
        layer: of the inputs.
        first: token of the first row.
        functions: addresses, of `Functions`.
    """
    count, rank, share = parts.units.shape[0], functions.rank, functions.share
    send = functions.send
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
                call(functions.fit, block, parts, cache, rank, share, 0, 0, t, FORCED, 0)
        if send != 0 and block.actions[r] >= COMMIT:
            t = stamp(first + r, count, 0)
            call(send, block, parts, cache, rank, functions.fit, r, 0, t)
        for p in range(count):
            t = stamp(first + r, count, p)
            if functions.choose != 0:
                call(functions.choose, block, parts, cache, r, layer, p, t)
            active = gather(block, parts, cache, r, layer, p)
            if block.actions[r] < COMMIT:
                continue
            if send != 0:
                arrive(parts, cache, p)
            if functions.foresee != 0:
                call(functions.foresee, block, parts, cache, p, t, next_use)
            # Hits are those of the state before the batch, and touching does not change it.
            call(functions.use, block, parts, cache, p, t, next_use)
            next_use += active
            ranked = 0  # 1 once the units that may leave are ranked, for all capacities
            for c in range(cache.capacity.shape[0]):
                hits = note_misses(block, parts, cache, c, r, p)
                missed, kept = active - hits, active - hits
                if admission == FORCED:
                    room = cache.capacity[c]
                    if send != 0:
                        room -= awaited_size(parts, cache, c)
                    kept = room_for(missed, hits, parts.size[p], room)
                elif admission == NEVER:
                    kept = 0
                cache.filled[c] += kept * parts.size[p]
                if 0 < kept < missed and cache.numbers[DRAWS] != 0:
                    call(functions.draw, block, parts, cache, c, p, t, kept)
                else:
                    _admit(parts, cache, c, p, kept)
                if cache.filled[c] - cache.capacity[c] > SLACK:
                    fitted = c, p, t, admission, ranked
                    ranked = call(functions.fit, block, parts, cache, rank, share, *fitted)
                if admission == RANKED:
                    kept = _entered(parts, cache, c, p)
                book(block, c, r, p, active, hits, kept)
            if send != 0:
                settle(parts, cache, p)
                call(send, block, parts, cache, rank, functions.fit, r, p + 1, t)
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


@stored(_nrt=False, key=fingerprint())
def draw_misses(block, parts, cache, c, p, t, kept):
    """Make the misses resident whose hashes of (seed, token, unit) are lowest; returns 0."""
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
    leave_lowest(resident, misses, keys, count, count - kept, keys[0], cache.last)
    return 0


@stored(_nrt=False, key=fingerprint())
def fit(block, parts, cache, rank, share, c, p, t, admission, ranked):
    """Let the lowest ranked units of capacity c leave until the rest fits.

    In layer scope one round is enough. With units of several sizes each round takes as many as
    must leave even if all were of the largest size.

    Args:
        rank: address of `Functions`.
        share: address of `Functions`.
        ranked: 0 for the first capacity of a batch that does not fit, then what `fit` returned.
    """
    sizes, resident, candidates, keys = parts.size, cache.resident, cache.candidates, cache.keys
    filled, capacity, words = cache.filled[c], cache.capacity[c], cache.pending.shape[0]
    largest = 0.0
    for size in sizes:
        if size > largest:
            largest = size
    while filled - capacity > SLACK:
        count, before = 0, _bytes_of(parts, resident[c])
        for w in range(words):
            word = _may_leave(parts, cache, c, p, admission, w)
            candidates[0, w] = word
            count += ones(word)
        least = (filled - capacity - SLACK) / largest
        leaving = np.int64(least)
        if leaving < least:
            leaving += 1
        if leaving < count:
            if share != 0:
                ranked = call(share, block, parts, cache, rank, c, p, t, admission, ranked)
            else:
                call(rank, block, parts, cache, p, t, 0)
            cache.cuts[c] = leave_lowest(
                resident[c], candidates[0], keys[0], count, leaving, cache.cuts[c], cache.last
            )
        else:
            for w in range(words):
                resident[c, w] &= ~candidates[0, w]
        filled -= before - _bytes_of(parts, resident[c])
        if leaving >= count:
            break
    cache.filled[c] = filled
    return ranked


@register_jitable
def _bytes_of(parts, words):
    """Return the size of a set; in layer scope its units."""
    sizes, of_word, count, total = parts.size, parts.of_word, 0, 0.0
    if sizes.shape[0] == 1:
        for w in range(words.shape[0]):
            count += ones(words[w])
        return count * sizes[0]
    for w in range(words.shape[0]):
        total += ones(words[w]) * sizes[of_word[w]]
    return total


@register_jitable
def _may_leave(parts, cache, c, p, admission, w):
    """Return the units of a word that may leave."""
    word = cache.resident[c, w] & ~cache.awaited[w]
    if admission == FORCED and parts.word[p] <= w < parts.word[p + 1]:
        word &= ~cache.pending[w]
    return word


@stored(_nrt=False, key=fingerprint())
def share_ranks(block, parts, cache, rank, c, p, t, admission, ranked):
    """Write the ranks of ``candidates[0]``, which may leave capacity c, to ``keys[0]``; returns 1.

    With several capacities whatever may leave any of them is ranked once for all, unless
    ``ranked`` is 1: it stands in ``candidates[1]``, and its ranks in ``keys[1]``.
    """
    own, every = cache.candidates[0], cache.candidates[1]
    keys, ranks = cache.keys[0], cache.keys[1]
    if ranked == 0:
        for w in range(every.shape[0]):
            word = cache.pending[w] if admission == RANKED else np.uint64(0)
            for other in range(cache.capacity.shape[0]):
                word |= _may_leave(parts, cache, other, p, admission, w)
            every[w] = word
        call(rank, block, parts, cache, p, t, 1)
    i = count = 0
    for w in range(every.shape[0]):
        word, mine = every[w], own[w]
        while word:
            keys[count] = ranks[i]
            count += np.int64((mine >> np.uint64(lowest_bit(word))) & np.uint64(1))
            i += 1
            word = without_lowest(word)
    return 1
