"""Policies that keep queues: a unit at a time is chosen to leave, whatever the access.

Functions that admit or evict return how much of the cache is filled then, or -1 where the policy
named a unit that may not leave, at which the replay ends.
"""

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.batch import (
    book,
    close,
    gather,
    note_misses,
    reset,
    room_for,
)
from dipsim.kernels.bits import (
    COMMIT,
    SKIP,
    bit,
    first_units,
    lowest_bit,
    ones,
    stamp,
    without_lowest,
)
from dipsim.kernels.cache import FAULT, NEVER, SLACK, VICTIM
from dipsim.kernels.eviction import order
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.flags import INDEX, write_flags
from dipsim.kernels.frames import call
from dipsim.kernels.guesses import (
    arrive,
    await_guesses,
    awaited_size,
    count_units,
    fitting_guesses,
)
from dipsim.kernels.stored import stored


@stored(nogil=True, _nrt=False, key=fingerprint())
def replay_queued(block, layer, first, admission, parts, cache, functions, sequential):
    """Replay a block.

    With atomic access all hits of a batch are decided before it changes the cache; with sequential
    access its units are requested one at a time.

    Args:
        layer: of the inputs.
        first: token of the first row.
        functions: addresses, of `Functions`; ``use`` is `take_batch` or `request_units`.
        sequential: 1 where units are requested one at a time, else 0.
    """
    sizes, capacity = parts.size, cache.capacity[0]
    next_use, count, send = 0, sizes.shape[0], functions.send
    for r in range(block.actions.shape[0]):
        if block.resets[r]:
            reset(parts, cache, functions)
        if block.actions[r] == SKIP:
            continue
        t = 2 * stamp(first + r, count, 0)
        sends = send != 0 and block.actions[r] >= COMMIT
        if sends and call(send, block, parts, cache, r, 0, t) < 0:
            return
        for p in range(count):
            t = stamp(first + r, count, p)
            if send != 0:  # guesses enter between two batches, at ticks of their own
                t = 2 * t + 1
            if functions.choose != 0:
                call(functions.choose, block, parts, cache, r, layer, p, t)
            active = gather(block, parts, cache, r, layer, p)
            if block.actions[r] < COMMIT:
                continue
            if sequential:
                fits = admission != NEVER and sizes[p] <= capacity + SLACK
                hits = call(functions.use, block, parts, cache, p, t, next_use, r, fits)
                if hits < 0:
                    return
                kept = active - hits if fits else 0
            else:
                if functions.foresee != 0:
                    call(functions.foresee, block, parts, cache, p, t, next_use)
                hits, room = note_misses(block, parts, cache, 0, r, p), capacity
                if send != 0:
                    arrive(parts, cache, p)
                    room -= awaited_size(parts, cache, 0)
                kept = room_for(active - hits, hits, sizes[p], room)
                if call(functions.use, block, parts, cache, p, t, next_use, r, kept) < 0:
                    return
            next_use += active
            book(block, 0, r, p, active, hits, kept)
            if send != 0 and call(send, block, parts, cache, r, p + 1, t + 1) < 0:
                return
            close(parts, cache, p, functions)


# What a batch does -------------------------------------------------------------------------------
#
# Compiled for each policy: `touch`, `victim`, `insert`, `leave` and `expel` are bound as globals.


def take_batch(block, parts, cache, p, t, next_use, r, kept):
    """Touch the units of a batch and admit the first ``kept`` of its misses, ascending, each after
    room is made for it; -1 after a fault."""
    state, pending, resident = cache.state, cache.pending, cache.resident
    size, most = parts.size[p], cache.capacity[0] - parts.size[p]
    use(block, parts, cache, p, t, next_use)
    _hold(cache, parts, p, False)
    filled = let_go(parts, cache, cache.filled[0], t)
    for w in range(parts.word[p], parts.word[p + 1]):
        word = pending[w] & ~resident[0, w]
        while word and kept > 0 and filled >= 0:
            unit = (w * 64 + lowest_bit(word)) & INDEX
            word = without_lowest(word)
            kept -= 1
            filled = make_room(parts, cache, filled, most, unit, t)
            if filled >= 0:
                insert(state, unit, t)
                resident[0, w] |= bit(unit)
                filled += size
    if filled < 0:
        return -1
    _hold(cache, parts, p, True)
    cache.filled[0] = filled
    return 0


def send_queued(block, parts, cache, r, i, t):
    """Let the guesses enter that go out at moment ``i`` of a row, the lowest ids first: to the
    policy each is a request that missed; -1 after a fault."""
    state, resident, awaited, issued = cache.state, cache.resident, cache.awaited, block.issued
    evictable, guessed, filled = cache.evictable, block.guessed, cache.filled[0]
    first, end = await_guesses(block, parts, cache, r, i)
    for w in range(parts.word[first], parts.word[end]):
        write_flags(resident[0, w] & ~awaited[w], evictable, w * 64)
    if i > 0:
        _hold(cache, parts, i - 1, False)
    for q in range(first, end):
        left, size = fitting_guesses(block, parts, cache, 0, r, q), parts.size[q]
        for w in range(parts.word[q], parts.word[q + 1]):
            word = guessed[r, w] & ~resident[0, w]
            if ones(word) > left:
                word = first_units(word, left)
            left -= ones(word)
            issued[0, r, w] = word
            while word and filled >= 0:
                unit = (w * 64 + lowest_bit(word)) & INDEX
                word = without_lowest(word)
                touch(state, unit, t, 0)
                filled = let_go(parts, cache, filled, t)
                if filled < 0:
                    return -1
                before = count_units(resident[0])
                filled = make_room(parts, cache, filled, cache.capacity[0] - size, unit, t)
                if filled < 0:
                    return -1
                block.displaced[0, r, q] += before - count_units(resident[0])
                insert(state, unit, t)
                resident[0, w] |= bit(unit)
                filled += size
    if i > 0:
        _hold(cache, parts, i - 1, True)
    cache.filled[0] = filled
    return 0


def request_units(block, parts, cache, p, t, next_use, r, fits):
    """Request the units of a batch one at a time; returns the hits, or -1 after a fault."""
    state, pending, evictable, last = cache.state, cache.pending, cache.evictable, cache.last
    uses, missed, resident, count = block.uses, block.missed, cache.resident, parts.units.shape[0]
    size, most = parts.size[p], cache.capacity[0] - parts.size[p]
    hits, filled = 0, cache.filled[0]
    for w in range(parts.word[p], parts.word[p + 1]):
        word, absent = pending[w], np.uint64(0)
        while word:
            unit = (w * 64 + lowest_bit(word)) & INDEX
            if uses.shape[0] > 0:
                state[unit] = stamp(uses[next_use], count, p)
                next_use += 1
            last[unit] = t
            if evictable[unit]:
                touch(state, unit, t, 1)
                hits += 1
                filled = let_go(parts, cache, filled, t)
            else:
                absent |= word & ~without_lowest(word)
                touch(state, unit, t, 0)
                filled = let_go(parts, cache, filled, t)
                if fits and filled >= 0:
                    filled = make_room(parts, cache, filled, most, unit, t)
                    if filled >= 0:
                        insert(state, unit, t)
                        resident[0, w] |= word & ~without_lowest(word)
                        evictable[unit] = True
                        filled += size
            if filled < 0:
                return -1
            word = without_lowest(word)
        if missed.shape[0] > 0:
            missed[0, r, w] = absent
    cache.filled[0] = filled
    return hits


def make_room(parts, cache, filled, most, unit, t):
    """Evict until no more than ``most`` is filled."""
    state, evictable = cache.state, cache.evictable
    while filled > most + SLACK:
        out = np.int64(victim(state, unit, evictable, cache, t))
        if not (0 <= out < evictable.shape[0] and evictable[out]):
            return _blame(cache, 1, out)
        filled -= _remove(cache, parts, out)
        leave(state, out)
    return filled


def let_go(parts, cache, filled, t):
    """Let go of what the policy expels although there is room."""
    state, evictable = cache.state, cache.evictable
    out = np.int64(expel(state, evictable, t))
    while out >= 0:
        if not (out < evictable.shape[0] and evictable[out]):
            return _blame(cache, 2, out)
        filled -= _remove(cache, parts, out)
        leave(state, out)
        out = np.int64(expel(state, evictable, t))
    return filled


def victim_of_rank(state, unit, evictable, cache, t):
    """Return the unit that may leave with the lowest (rank, last use, unit).

    So a policy that ranks chooses one at a time; it looks at every unit.
    """
    last, best, best_key, best_last = cache.last, -1, 0, 0
    for u in range(evictable.shape[0]):
        if evictable[u]:
            key, used = order(rank(state, u, t)), last[u]
            if best < 0 or key < best_key or (key == best_key and used < best_last):
                best, best_key, best_last = u, key, used
    return best


def victim_of_queue(state, unit, evictable, cache, t):
    """Return the unit that the policy evicts."""
    return evict(state, unit, evictable, t)


@register_jitable
def _hold(cache, parts, p, done):
    """Mark what may leave: of the batch's part, the residents that the batch does not use; when it
    is done, all of them."""
    resident, pending, evictable = cache.resident, cache.pending, cache.evictable
    for w in range(parts.word[p], parts.word[p + 1]):
        write_flags(resident[0, w] if done else resident[0, w] & ~pending[w], evictable, w * 64)


@register_jitable
def _blame(cache, fault, unit):
    """Note that the policy named a unit that may not leave."""
    cache.numbers[FAULT] = fault
    cache.numbers[VICTIM] = unit
    return -1.0


@register_jitable
def _remove(cache, parts, unit):
    """Make a unit absent; returns its size."""
    cache.evictable[unit] = False
    cache.resident[0, unit >> 6] &= ~bit(unit)
    return parts.size[parts.of_word[unit >> 6]]
