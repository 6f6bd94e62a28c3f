"""Policies that keep queues: a unit at a time is chosen to leave, whatever the access.

Functions that admit or evict return how much of the cache is filled then, or -1 where the policy
named a unit that may not leave, at which the replay ends.
"""

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
def replay_queued(block, origin, cache, parts, hooks):
    """Replay a block with atomic access: all hits of a batch are decided before it changes the
    cache. ``origin`` is (layer of the inputs, token of the first row)."""
    (layer, first), sizes = origin, parts.size
    filled, capacity = cache.filled[0], cache.capacity[0]
    next_use, count = 0, sizes.shape[0]
    for r in range(block.actions.shape[0]):
        if block.resets[r]:
            reset(cache, parts)
            filled = cache.filled[0]
        if block.actions[r] == SKIP:
            continue
        for p in range(count):
            t = stamp(first + r, count, p)
            gather(block, cache, parts, (r, layer, p), t, hooks.choose)
            if block.actions[r] < COMMIT:
                continue
            active = batch_size(cache, parts, p)
            hits = note_misses(block, cache, parts, 0, r, p)
            next_use = use(block, cache, parts, next_use, t, p, hooks.touch)
            _hold(cache, parts, p, False)
            filled = _expel(cache, parts, filled, t, hooks)
            if filled < 0:
                return
            kept = room_for(active - hits, hits, sizes[p], capacity)
            filled = _admit(cache, parts, filled, p, t, kept, hooks)
            if filled < 0:
                return
            _hold(cache, parts, p, True)
            book(block, 0, r, p, active, hits, kept)
            close(cache, parts, p)
    cache.filled[0] = filled


@inlined
def _admit(cache, parts, filled, p, t, kept, hooks):
    """Insert the first ``kept`` misses of the batch, ascending, each after room is made for it."""
    state, pending, resident = cache.state, cache.pending, cache.resident
    size, most = parts.size[p], cache.capacity[0] - parts.size[p]
    for w in range(parts.word[p], parts.word[p + 1]):
        word = pending[w] & ~resident[0, w]
        while word and kept > 0:
            unit = w * 64 + lowest_bit(word)
            word &= word - np.uint64(1)
            kept -= 1
            filled = _make_room(cache, parts, filled, most, unit, t, hooks)
            if filled < 0:
                return filled
            hooks.insert(state, unit, t)
            resident[0, w] |= bit(unit)
            filled += size
    return filled


@register_jitable
def replay_sequential(block, origin, admission, cache, parts, hooks):
    """Replay a block with sequential access: units are requested one at a time, ascending, and a
    miss enters at once. ``origin`` is (layer of the inputs, token of the first row)."""
    (layer, first), sizes = origin, parts.size
    filled, capacity = cache.filled[0], cache.capacity[0]
    next_use, count = 0, sizes.shape[0]
    for r in range(block.actions.shape[0]):
        if block.resets[r]:
            reset(cache, parts)
            filled = cache.filled[0]
        if block.actions[r] == SKIP:
            continue
        for p in range(count):
            t = stamp(first + r, count, p)
            gather(block, cache, parts, (r, layer, p), t, hooks.choose)
            if block.actions[r] < COMMIT:
                continue
            active = batch_size(cache, parts, p)
            fits = admission != NEVER and sizes[p] <= capacity + SLACK
            filled, hits = _request(block, cache, parts, filled, (r, p, t), next_use, fits, hooks)
            if filled < 0:
                return
            next_use += active
            book(block, 0, r, p, active, hits, active - hits if fits else 0)
            close(cache, parts, p)
    cache.filled[0] = filled


@inlined
def _request(block, cache, parts, filled, place, next_use, fits, hooks):
    """Request the units of a batch one at a time; ``place`` is (row, part, batch).

    Returns what is filled, and the hits.
    """
    r, p, t = place
    state, pending, evictable, last = cache.state, cache.pending, cache.evictable, cache.last
    uses, missed, count, size = block.uses, block.missed, parts.units.shape[0], parts.size[p]
    most, hits = cache.capacity[0] - size, 0
    for w in range(parts.word[p], parts.word[p + 1]):
        word, absent = pending[w], np.uint64(0)
        while word:
            unit = w * 64 + lowest_bit(word)
            word &= word - np.uint64(1)
            if uses.shape[0] > 0:
                state[unit] = stamp(uses[next_use], count, p)
                next_use += 1
            hit = evictable[unit]
            hooks.touch(state, unit, t, np.int64(hit))
            last[unit] = t
            filled = _expel(cache, parts, filled, t, hooks)
            if filled >= 0 and not hit and fits:
                filled = _make_room(cache, parts, filled, most, unit, t, hooks)
            if filled < 0:
                return filled, hits
            if hit:
                hits += 1
                continue
            absent |= bit(unit)
            if fits:
                hooks.insert(state, unit, t)
                cache.resident[0, w] |= bit(unit)
                evictable[unit] = True
                filled += size
        if missed.shape[0] > 0:
            missed[0, r, w] = absent
    return filled, hits


@register_jitable
def lowest_resident(state, evictable, cache, t, rank):
    """Return the unit that may leave with the lowest (rank, last use, unit).

    So a policy that ranks chooses one at a time; it looks at every unit.
    """
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
def _make_room(cache, parts, filled, most, unit, t, hooks):
    """Evict until no more than ``most`` is filled."""
    state, evictable = cache.state, cache.evictable
    while filled > most + SLACK:
        victim = np.int64(hooks.evict(state, unit, evictable, cache, t))
        if not (0 <= victim < evictable.shape[0] and evictable[victim]):
            return _blame(cache, 1, victim)
        filled -= _remove(cache, parts, victim)
        hooks.leave(state, victim)
    return filled


@inlined
def _expel(cache, parts, filled, t, hooks):
    """Let go of what the policy expels although there is room."""
    state, evictable = cache.state, cache.evictable
    victim = np.int64(hooks.expel(state, evictable, t))
    while victim >= 0:
        if not (victim < evictable.shape[0] and evictable[victim]):
            return _blame(cache, 2, victim)
        filled -= _remove(cache, parts, victim)
        hooks.leave(state, victim)
        victim = np.int64(hooks.expel(state, evictable, t))
    return filled


@inlined
def _blame(cache, fault, victim):
    """Note that the policy named a unit that may not leave."""
    cache.numbers[FAULT] = fault
    cache.numbers[VICTIM] = victim
    return -1.0


@inlined
def _remove(cache, parts, unit):
    """Make a unit absent; returns its size."""
    cache.evictable[unit] = False
    cache.resident[0, unit >> 6] &= ~bit(unit)
    return parts.size[parts.of_word[unit >> 6]]
