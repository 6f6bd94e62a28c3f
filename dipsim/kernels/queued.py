"""Policies that keep queues: a unit at a time is chosen to leave, whatever the access."""

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.batches import (
    batch_size,
    book,
    close,
    gather,
    note_misses,
    reset,
    room_for,
    stamp,
    use,
)
from dipsim.kernels.cache import FAULT, NEVER, SLACK, VICTIM
from dipsim.kernels.sets import COMMIT, SKIP, bit, lowest_bit
from dipsim.kernels.victims import order


@register_jitable
def replay_queued(block, layer, first, admission, parts, cache, touch, evict, insert, leave, expel):
    """Atomic access: all hits of a batch are decided before it changes the cache."""
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
            hits = note_misses(block, cache, parts, 0, r, p)
            place = use(block, cache, parts, place, t, count, p, touch)
            _hold(cache, parts, p, False)
            if not _expel(cache, parts, t, leave, expel):
                return
            kept = room_for(active - hits, hits, parts.size[p], cache.capacity[0])
            left = kept
            for w in range(parts.word[p], parts.word[p + 1]):
                word = cache.pending[w] & ~cache.resident[0, w]
                while word and left > 0:
                    unit = w * 64 + lowest_bit(word)
                    word &= word - np.uint64(1)
                    left -= 1
                    if not _make_room(cache, parts, unit, p, t, evict, leave):
                        return
                    insert(cache.state, unit, t)
                    _enter(cache, parts, unit, p)
            _hold(cache, parts, p, True)
            book(block, cache, 0, r, p, active, hits, kept)
            close(cache, parts, p)


@register_jitable
def replay_sequential(
    block, layer, first, admission, parts, cache, touch, evict, insert, leave, expel
):
    """Sequential access: units are requested one at a time, ascending; a miss enters at once."""
    count = parts.units.shape[0]
    place = 0
    state, evictable = cache.state, cache.evictable
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
            fits = admission != NEVER and parts.size[p] <= cache.capacity[0] + SLACK
            hits = kept = 0
            for w in range(parts.word[p], parts.word[p + 1]):
                word = cache.pending[w]
                missed = np.uint64(0)
                while word:
                    b = lowest_bit(word)
                    word &= word - np.uint64(1)
                    unit = w * 64 + b
                    if block.uses.shape[0] > 0:
                        state[unit] = stamp(block.uses[place], count, p)
                        place += 1
                    hit = evictable[unit]
                    touch(state, unit, t, np.int64(hit))
                    cache.last[unit] = t
                    if not _expel(cache, parts, t, leave, expel):
                        return
                    if hit:
                        hits += 1
                        continue
                    missed |= bit(unit)
                    if fits:
                        if not _make_room(cache, parts, unit, p, t, evict, leave):
                            return
                        insert(state, unit, t)
                        _enter(cache, parts, unit, p)
                        evictable[unit] = True
                        kept += 1
                if block.missed.shape[0] > 0:
                    block.missed[0, r, w] = missed
            book(block, cache, 0, r, p, active, hits, kept)
            close(cache, parts, p)


@register_jitable
def lowest_resident(cache, t, rank):
    """Of all residents the lowest by (rank, last use, unit): how a policy that ranks chooses one
    at a time. It looks at every resident unit."""
    best, best_key, best_last = -1, 0, 0
    for w in range(cache.pending.shape[0]):
        word = cache.resident[0, w]
        while word:
            unit = w * 64 + lowest_bit(word)
            word &= word - np.uint64(1)
            if cache.evictable[unit]:
                key, last = order(rank(cache.state, unit, t)), cache.last[unit]
                if best < 0 or key < best_key or (key == best_key and last < best_last):
                    best, best_key, best_last = unit, key, last
    return best


@register_jitable
def _hold(cache, parts, p, done):
    """Mark what may leave: of the batch's part, the residents that the batch does not use; when it
    is done, all of them."""
    for w in range(parts.word[p], parts.word[p + 1]):
        word = cache.resident[0, w]
        if not done:
            word &= ~cache.pending[w]
        base = w * 64
        for b in range(min(64, cache.evictable.shape[0] - base)):
            cache.evictable[base + b] = (word >> np.uint64(b)) & np.uint64(1)


@register_jitable
def _make_room(cache, parts, unit, p, t, evict, leave):
    """Evict until the unit fits; False when the policy names a unit that may not leave."""
    while cache.filled[0] + parts.size[p] > cache.capacity[0] + SLACK:
        victim = np.int64(evict(cache, unit, t))
        if not _may_leave(cache, victim, 1):
            return False
        _remove(cache, parts, victim)
        leave(cache.state, victim)
    return True


@register_jitable
def _expel(cache, parts, t, leave, expel):
    """Let go of what the policy expels although there is room; False when it may not."""
    victim = np.int64(expel(cache.state, cache.evictable, t))
    while victim >= 0:
        if not _may_leave(cache, victim, 2):
            return False
        _remove(cache, parts, victim)
        leave(cache.state, victim)
        victim = np.int64(expel(cache.state, cache.evictable, t))
    return True


@register_jitable
def _may_leave(cache, victim, fault):
    legal = 0 <= victim < cache.evictable.shape[0]
    if not legal or not cache.evictable[victim]:
        cache.numbers[FAULT] = fault
        cache.numbers[VICTIM] = victim
        return False
    return True


@register_jitable
def _remove(cache, parts, unit):
    of = parts.of_word[unit >> 6]
    cache.evictable[unit] = False
    cache.resident[0, unit >> 6] &= ~bit(unit)
    cache.filled[0] -= parts.size[of]
    cache.factor[unit] = parts.gamma[of]


@register_jitable
def _enter(cache, parts, unit, p):
    cache.resident[0, unit >> 6] |= bit(unit)
    cache.filled[0] += parts.size[p]
    cache.factor[unit] = 1.0
