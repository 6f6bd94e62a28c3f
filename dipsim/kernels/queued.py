"""Policies that keep queues: a unit at a time is chosen to leave, whatever the access."""

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.batch import (
    batch_size,
    book,
    close,
    gather,
    inlined,
    note_misses,
    reset,
    room_for,
    use,
)
from dipsim.kernels.bits import COMMIT, SKIP, bit, lowest_bit, stamp
from dipsim.kernels.cache import FAULT, NEVER, SLACK, VICTIM
from dipsim.kernels.eviction import order


@register_jitable
def replay_queued(
    block, layer, first, admission, parts, cache, touch, evict, insert, leave, expel, choose
):
    """Atomic access: all hits of a batch are decided before it changes the cache."""
    state, pending, resident = cache.state, cache.pending, cache.resident
    evictable, sizes = cache.evictable, parts.size
    filled, capacity = cache.filled[0], cache.capacity[0]
    place, count = 0, sizes.shape[0]
    for r in range(block.actions.shape[0]):
        if block.resets[r]:
            reset(cache, parts)
            filled = cache.filled[0]
        if block.actions[r] == SKIP:
            continue
        for p in range(count):
            gather(block, cache, parts, first, r, layer, p, choose)
            if block.actions[r] < COMMIT:
                continue
            t = stamp(first + r, count, p)
            active = batch_size(cache, parts, p)
            hits = note_misses(block, cache, parts, 0, r, p)
            place = use(block, cache, parts, place, t, p, touch)
            _hold(cache, parts, p, False)
            filled = _expel(state, evictable, cache, parts, filled, t, leave, expel)
            if filled < 0:
                return
            kept = room_for(active - hits, hits, sizes[p], capacity)
            left = kept
            for w in range(parts.word[p], parts.word[p + 1]):
                word = pending[w] & ~resident[0, w]
                while word and left > 0:
                    unit = w * 64 + lowest_bit(word)
                    word &= word - np.uint64(1)
                    left -= 1
                    filled = _make_room(
                        state,
                        evictable,
                        cache,
                        parts,
                        filled,
                        capacity - sizes[p],
                        unit,
                        t,
                        evict,
                        leave,
                    )
                    if filled < 0:
                        return
                    insert(state, unit, t)
                    _enter(cache, unit)
                    filled += sizes[p]
            _hold(cache, parts, p, True)
            book(block, 0, r, p, active, hits, kept)
            close(cache, parts, p)
    cache.filled[0] = filled


@register_jitable
def replay_sequential(
    block, layer, first, admission, parts, cache, touch, evict, insert, leave, expel, choose
):
    """Sequential access: units are requested one at a time, ascending; a miss enters at once."""
    state, pending, evictable = cache.state, cache.pending, cache.evictable
    sizes, uses, missed, last = parts.size, block.uses, block.missed, cache.last
    filled, capacity = cache.filled[0], cache.capacity[0]
    place, count = 0, sizes.shape[0]
    for r in range(block.actions.shape[0]):
        if block.resets[r]:
            reset(cache, parts)
            filled = cache.filled[0]
        if block.actions[r] == SKIP:
            continue
        for p in range(count):
            gather(block, cache, parts, first, r, layer, p, choose)
            if block.actions[r] < COMMIT:
                continue
            t = stamp(first + r, count, p)
            active = batch_size(cache, parts, p)
            size = sizes[p]
            fits = admission != NEVER and size <= capacity + SLACK
            hits = kept = 0
            for w in range(parts.word[p], parts.word[p + 1]):
                word, absent = pending[w], np.uint64(0)
                while word:
                    unit = w * 64 + lowest_bit(word)
                    word &= word - np.uint64(1)
                    if uses.shape[0] > 0:
                        state[unit] = stamp(uses[place], count, p)
                        place += 1
                    hit = evictable[unit]
                    touch(state, unit, t, np.int64(hit))
                    last[unit] = t
                    filled = _expel(state, evictable, cache, parts, filled, t, leave, expel)
                    if filled < 0:
                        return
                    if hit:
                        hits += 1
                        continue
                    absent |= bit(unit)
                    if fits:
                        filled = _make_room(
                            state,
                            evictable,
                            cache,
                            parts,
                            filled,
                            capacity - size,
                            unit,
                            t,
                            evict,
                            leave,
                        )
                        if filled < 0:
                            return
                        insert(state, unit, t)
                        _enter(cache, unit)
                        evictable[unit] = True
                        filled += size
                        kept += 1
                if missed.shape[0] > 0:
                    missed[0, r, w] = absent
            book(block, 0, r, p, active, hits, kept)
            close(cache, parts, p)
    cache.filled[0] = filled


@register_jitable
def lowest_resident(state, evictable, cache, t, rank):
    """Of all that may leave the lowest by (rank, last use, unit): how a policy that ranks chooses
    one at a time. It looks at every unit."""
    last, best, best_key, best_last = cache.last, -1, 0, 0
    for unit in range(evictable.shape[0]):
        if evictable[unit]:
            key, used = order(rank(state, unit, t)), last[unit]
            if best < 0 or key < best_key or (key == best_key and used < best_last):
                best, best_key, best_last = unit, key, used
    return best


@inlined
def _hold(cache, parts, p, done):
    """Mark what may leave: of the batch's part, the residents that the batch does not use; when it
    is done, all of them."""
    resident, pending, evictable = cache.resident, cache.pending, cache.evictable
    for w in range(parts.word[p], parts.word[p + 1]):
        word, base = resident[0, w], w * 64
        if not done:
            word &= ~pending[w]
        for b in range(64):
            evictable[base + b] = (word >> np.uint64(b)) & np.uint64(1)


@inlined
def _make_room(state, evictable, cache, parts, filled, most, unit, t, evict, leave):
    """Evict until no more than ``most`` is filled; returns what is, or -1 where the policy named a
    unit that may not leave."""
    while filled > most + SLACK:
        victim = np.int64(evict(state, unit, evictable, cache, t))
        if not (0 <= victim < evictable.shape[0] and evictable[victim]):
            return _blame(cache, 1, victim)
        filled -= _remove(cache, parts, victim)
        leave(state, victim)
    return filled


@inlined
def _expel(state, evictable, cache, parts, filled, t, leave, expel):
    """Let go of what the policy expels although there is room; returns as `_make_room`."""
    victim = np.int64(expel(state, evictable, t))
    while victim >= 0:
        if not (victim < evictable.shape[0] and evictable[victim]):
            return _blame(cache, 2, victim)
        filled -= _remove(cache, parts, victim)
        leave(state, victim)
        victim = np.int64(expel(state, evictable, t))
    return filled


@inlined
def _blame(cache, fault, victim):
    """The policy named a unit that may not leave: the replay ends here."""
    cache.numbers[FAULT] = fault
    cache.numbers[VICTIM] = victim
    return -1.0


@inlined
def _remove(cache, parts, unit):
    """A unit is no longer resident; returns its size."""
    of = parts.of_word[unit >> 6]
    cache.evictable[unit] = False
    cache.resident[0, unit >> 6] &= ~bit(unit)
    cache.factor[unit] = parts.gamma[of]
    return parts.size[of]


@inlined
def _enter(cache, unit):
    """A unit is resident."""
    cache.resident[0, unit >> 6] |= bit(unit)
    cache.factor[unit] = 1.0
