"""Atomic access with a policy that ranks: the units that must leave for a batch leave together."""

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.batch import (
    batch_size,
    book,
    close,
    first_units,
    gather,
    note_misses,
    reset,
    room_for,
    use,
)
from dipsim.kernels.bits import COMMIT, SKIP, bit, list_units, ones, stamp
from dipsim.kernels.cache import DRAWS, FORCED, NEVER, RANKED, SEED, SLACK
from dipsim.kernels.draws import splitmix64
from dipsim.kernels.eviction import LANES, lowest, order, spread


@register_jitable
def replay_ranked(block, origin, admission, parts, cache, hooks, fit, resize):
    """Replay a block; ``cache`` may hold several capacities that share the policy's state.

    ``origin`` is (layer of the inputs, token of the first row). ``fit`` makes a cache fit again:
    `fit_one`, or `fit_several`. ``resize`` is `same_size`, or `new_size` where the capacity changes
    from row to row.
    """
    (layer, first), rank = origin, hooks.rank
    count = parts.units.shape[0]
    next_use = 0
    for r in range(block.actions.shape[0]):
        if block.resets[r]:
            reset(cache, parts)
        if block.actions[r] == SKIP:
            continue
        resize(block, cache, parts, r, first, rank)
        for p in range(count):
            t = stamp(first + r, count, p)
            gather(block, cache, parts, (r, layer, p), t, hooks.choose)
            if block.actions[r] < COMMIT:
                continue
            active = batch_size(cache, parts, p)
            # Hits are those of the state before the batch, and touching does not change it.
            next_use = use(block, cache, parts, next_use, t, p, hooks.touch)
            is_sorted = False  # whether the units that may leave are sorted, for several capacities
            for c in range(cache.capacity.shape[0]):
                hits = note_misses(block, cache, parts, c, r, p)
                kept = active - hits
                if admission == FORCED:
                    kept = room_for(kept, hits, parts.size[p], cache.capacity[c])
                elif admission == NEVER:
                    kept = 0
                _admit(cache, parts, c, p, t, kept, active - hits)
                if cache.filled[c] - cache.capacity[c] > SLACK:
                    is_sorted = fit(cache, parts, c, p, t, admission, rank, is_sorted)
                if admission == RANKED:
                    kept = _entered(cache, parts, c, p)
                book(block, c, r, p, active, hits, kept)
            close(cache, parts, p)


@register_jitable(forceinline=True)
def same_size(block, cache, parts, r, first, rank):
    """Leave the capacity as it is."""


@register_jitable
def new_size(block, cache, parts, r, first, rank):
    """Take on the capacity of row r; if less fits than before, the lowest ranked leave.

    The rows of a batch have one capacity, so nothing is pending when units leave.
    """
    cache.capacity[0] = block.capacity[r]
    if cache.filled[0] - cache.capacity[0] > SLACK:
        t = stamp(first + r, parts.units.shape[0], 0)
        _shrink(cache, parts, 0, 0, t, FORCED, rank)


@register_jitable
def _admit(cache, parts, c, p, t, kept, missed):
    """Make ``kept`` misses of the batch resident: the first, or where they are drawn any."""
    pending, resident = cache.pending, cache.resident
    cache.filled[c] += kept * parts.size[p]
    if 0 < kept < missed and cache.numbers[DRAWS]:
        _admit_drawn(cache, parts, c, p, t, kept)
        return
    for w in range(parts.word[p], parts.word[p + 1]):
        word = pending[w] & ~resident[c, w]
        if kept < missed:
            absent = ones(word)
            word = word if absent <= kept else first_units(word, kept)
            kept -= absent
            missed -= absent
        resident[c, w] |= word
        if kept <= 0:
            break


@register_jitable
def _admit_drawn(cache, parts, c, p, t, kept):
    """Make the misses with the lowest hashes of (seed, token, unit) resident."""
    misses, keys, count = cache.lists[0], cache.lists[1], 0
    for w in range(parts.word[p], parts.word[p + 1]):
        word = cache.pending[w] & ~cache.resident[c, w]
        count = list_units(word, w * 64, misses, count)
    of_token = splitmix64(np.uint64(cache.numbers[SEED]) ^ np.uint64(t))
    for i in range(count):
        keys[i] = np.int64(splitmix64(of_token ^ np.uint64(misses[i])) >> np.uint64(1))
    lowest(kept, count, misses, keys, cache.last, cache.lists[2], cache.histogram)
    for i in range(kept):
        cache.resident[c, misses[i] >> 6] |= bit(misses[i])


@register_jitable
def _may_leave(cache, parts, c, p, admission, w):
    """Return the units of a word that may leave."""
    word = cache.resident[c, w]
    if admission == FORCED and parts.word[p] <= w < parts.word[p + 1]:
        word &= ~cache.pending[w]
    return word


@register_jitable
def fit_one(cache, parts, c, p, t, admission, rank, is_sorted):
    """Let the lowest ranked leave until the rest fits."""
    if not (_in_units(parts) and _all_leave(cache, parts, c, p, admission)):
        _shrink(cache, parts, c, p, t, admission, rank)
    return False


@register_jitable
def fit_several(cache, parts, c, p, t, admission, rank, is_sorted):
    """Do as `fit_one`, for several capacities: in layer scope the first that needs it sorts, for
    all, what may leave. Returns whether that was done."""
    if not _in_units(parts):
        _shrink(cache, parts, c, p, t, admission, rank)
        return False
    if _all_leave(cache, parts, c, p, admission):
        return is_sorted
    if not is_sorted:
        _sort(cache, parts, p, t, admission, rank)
    _shrink_sorted(cache, c, t, rank)
    return True


@register_jitable
def _in_units(parts):
    """Tell whether the cache counts in units, as in layer scope, rather than in bytes."""
    return parts.size.shape[0] == 1 and parts.size[0] == 1.0


@register_jitable
def _all_leave(cache, parts, c, p, admission):
    """Let everything that may leave go, if all of it has to, and return whether it did; in layer
    scope only."""
    resident, count = cache.resident, 0
    for w in range(cache.pending.shape[0]):
        count += ones(_may_leave(cache, parts, c, p, admission, w))
    excess = np.int64(cache.filled[c] - cache.capacity[c])
    if count > excess:
        return False
    for w in range(cache.pending.shape[0]):
        resident[c, w] &= ~_may_leave(cache, parts, c, p, admission, w)
    cache.filled[c] -= count
    return True


@register_jitable
def _shrink(cache, parts, c, p, t, admission, rank):
    """Let the lowest ranked leave until the rest fits.

    In layer scope one round is enough. With units of several sizes each round takes as many as
    must leave even if all were of the largest size.
    """
    state, candidates, keys = cache.state, cache.lists[0], cache.lists[1]
    largest = _largest(parts)
    excess = cache.filled[c] - cache.capacity[c]
    while excess > SLACK:
        count = 0
        for w in range(cache.pending.shape[0]):
            word = _may_leave(cache, parts, c, p, admission, w)
            count = list_units(word, w * 64, candidates, count)
        if count == 0:
            break
        leaving = min(count, np.int64(np.ceil((excess - SLACK) / largest)))
        if leaving < count:
            for i in range(count):
                keys[i] = order(rank(state, candidates[i], t))
            lowest(leaving, count, candidates, keys, cache.last, cache.lists[2], cache.histogram)
        excess -= _let_go(cache, parts, c, candidates, leaving)
    cache.filled[c] = cache.capacity[c] + excess


@register_jitable
def _sort(cache, parts, p, t, admission, rank):
    """Sort all units that may leave any of the caches into bins by rank, ascending in each bin.

    Sorted they lie in ``lists[0]``, and bin b ends at ``ends[b]``.
    """
    state, histogram, sorted_units = cache.state, cache.histogram, cache.lists[0]
    units, keys = cache.lists[1], cache.lists[2]
    count = 0
    for w in range(cache.pending.shape[0]):
        word = np.uint64(0)
        for c in range(cache.capacity.shape[0]):
            word |= _may_leave(cache, parts, c, p, admission, w)
        if admission == RANKED and parts.word[p] <= w < parts.word[p + 1]:
            word |= cache.pending[w]
        count = list_units(word, w * 64, units, count)
    low = high = np.int64(order(rank(state, units[0], t)))
    for i in range(count):
        key = np.int64(order(rank(state, units[i], t)))
        keys[i] = key
        low, high = min(low, key), max(high, key)
    shift, bins = spread(low, high)
    for i in range(bins * LANES):
        histogram[i] = 0
    # Lane by lane, a stretch of the units each: a counter that was just written is slow to read.
    stretch = (count + LANES - 1) // LANES
    for i in range(stretch):
        for lane in range(LANES):
            n = lane * stretch + i
            if n < count:
                bin_of = np.int64((np.uint64(keys[n]) - np.uint64(low)) >> shift)
                keys[n] = LANES * bin_of + lane
                histogram[keys[n]] += 1
    place = 0
    for i in range(bins * LANES):
        inside = histogram[i]
        histogram[i] = place
        place += inside
    for i in range(stretch):
        for lane in range(LANES):
            n = lane * stretch + i
            if n < count:
                sorted_units[histogram[keys[n]]] = units[n]
                histogram[keys[n]] += 1
    for b in range(bins):
        cache.ends[b] = histogram[LANES * b + LANES - 1]


@register_jitable
def _shrink_sorted(cache, c, t, rank):
    """Do as `_shrink`, in layer scope, with the units of all capacities sorted once: bin after bin
    leaves, and only the units of the last one are ranked again."""
    state, resident, ends = cache.state, cache.resident, cache.ends
    sorted_units, members, keys = cache.lists[0], cache.lists[1], cache.lists[2]
    leaving = np.int64(cache.filled[c] - cache.capacity[c])
    place = b = 0
    while leaving > 0:
        count = 0
        for i in range(place, ends[b]):
            # Write first and keep by counting up: a branch would often be mispredicted.
            unit = sorted_units[i]
            members[count] = unit
            count += np.int64((resident[c, unit >> 6] >> np.uint64(unit & 63)) & np.uint64(1))
        if count > leaving:
            for i in range(count):
                keys[i] = order(rank(state, members[i], t))
            lowest(leaving, count, members, keys, cache.last, cache.spare, cache.histogram)
            count = leaving
        for i in range(count):
            resident[c, members[i] >> 6] &= ~bit(members[i])
        leaving -= count
        place = ends[b]
        b += 1
    cache.filled[c] = cache.capacity[c]


@register_jitable
def _largest(parts):
    """Return the bytes of the largest unit."""
    largest = 0.0
    for size in parts.size:
        largest = max(largest, size)
    return largest


@register_jitable
def _let_go(cache, parts, c, victims, count):
    """Remove units; returns what that frees."""
    resident, sizes, of_word = cache.resident, parts.size, parts.of_word
    for i in range(count):
        resident[c, victims[i] >> 6] &= ~bit(victims[i])
    if sizes.shape[0] == 1:
        return count * sizes[0]
    freed = 0.0
    for i in range(count):
        freed += sizes[of_word[victims[i] >> 6]]
    return freed


@register_jitable
def _entered(cache, parts, c, p):
    """Count the misses of the batch that are resident."""
    pending, resident, hit, entered = cache.pending, cache.resident, cache.hit, 0
    for w in range(parts.word[p], parts.word[p + 1]):
        entered += ones(pending[w] & resident[c, w] & ~hit[w])
    return entered
