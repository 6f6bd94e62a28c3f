"""Steps of every replay loop around its policy: gather a batch, book its uses, write its counts.

Functions read the fields of a cache once, before they loop: in loops of policies that allocate,
numba counts a reference whenever a field that is an array is read.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.bits import lowest_bit, ones, stamp, without_lowest
from dipsim.kernels.cache import ACTIVE, BATCHES, HITS, KEPT
from dipsim.kernels.eviction import order
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.flags import INDEX
from dipsim.kernels.frames import call
from dipsim.kernels.stored import stored


@register_jitable
def reset(parts: Any, cache: Any, functions: Any) -> None:
    """Empty the cache and forget everything."""
    # Plain loops: numba takes seconds to compile a copy of one array to another.
    resident, preload, sizes, of_word = cache.resident, cache.preload, parts.size, parts.of_word
    pending, evictable, last = cache.pending, cache.evictable, cache.last
    state, fresh, before = cache.state, cache.fresh, cache.before
    unseen = cache.unseen
    for c in range(cache.filled.shape[0]):
        filled = 0.0
        for w in range(pending.shape[0]):
            resident[c, w] = preload[c, w]
            filled += ones(preload[c, w]) * sizes[of_word[w]]
            pending[w] = unseen[w] = 0
        cache.filled[c] = filled
    for i in range(state.shape[0]):
        state[i] = fresh[i]
    for u in range(last.shape[0]):
        last[u] = before[u]
        evictable[u] = (resident[0, u >> 6] >> np.uint64(u & 63)) & np.uint64(1)
    if functions.forget != 0:
        call(functions.forget, cache)


@register_jitable
def gather(block: Any, parts: Any, cache: Any, r: int, layer: int, p: int) -> int:
    """Add the mask of one row and part to the batch; returns how many units the batch uses."""
    sets, pending, active = block.sets, cache.pending, 0
    for w in range(parts.word[p], parts.word[p + 1]):
        word = pending[w] | sets[r, layer, w]
        pending[w] = word
        active += ones(word)
    return active


def use(block: Any, parts: Any, cache: Any, p: int, t: int, next_use: int) -> int:
    """Book the use of every unit of the batch, ascending; returns 0.

    Compiled for each policy, whose `touch` is bound as a global.
    """
    state, last, pending, resident = cache.state, cache.last, cache.pending, cache.resident
    unseen = cache.unseen
    for w in range(parts.word[p], parts.word[p + 1]):
        word, here, base = pending[w], resident[0, w] & ~unseen[w], w * 64
        while word:
            b = lowest_bit(word)
            touch(state, base + b, t, np.int64((here >> np.uint64(b)) & np.uint64(1)))
            last[base + b] = t
            word = without_lowest(word)
    return 0


def use_at_once(block: Any, parts: Any, cache: Any, p: int, t: int, next_use: int) -> int:
    """Do as `use`, for a `touch` that looks at no place but ``state[unit]``; returns 0.

    The loops over 64 bits become vector instructions with a mask. Whether it looks at any place is
    bound as the global `reached`.

    Raises:
        IndexError: the state has no place for some unit, which nothing checks one by one.
    """
    state, last, pending, resident = cache.state, cache.last, cache.pending, cache.resident
    unseen = cache.unseen
    if reached and state.shape[0] < 64 * parts.word[p] + parts.units[p]:
        raise IndexError("index is out of bounds: the state has fewer places than there are units")
    for w in range(parts.word[p], parts.word[p + 1]):
        word, here, base = pending[w], resident[0, w] & ~unseen[w], w * 64
        for b in range(64):
            if (word >> np.uint64(b)) & np.uint64(1) != 0:
                hit = np.int64((here >> np.uint64(b)) & np.uint64(1))
                touch(state, (base + b) & INDEX, t, hit)
        for b in range(64):
            if (word >> np.uint64(b)) & np.uint64(1) != 0:
                last[(base + b) & INDEX] = t
    return 0


def rank_units(block: Any, parts: Any, cache: Any, p: int, t: int, i: int) -> int:
    """Write the ranks of ``candidates[i]``, ascending by unit, to ``keys[i]``; returns 0.

    Compiled for each policy that ranks, whose `rank` is bound as a global.
    """
    # Ranking all units of a word in vectors, and squeezing out those that are no candidates with
    # AVX-512's instruction, was tried: it is 15 % faster for a `rank` that permits it.
    state, candidates, keys, count = cache.state, cache.candidates, cache.keys, 0
    for w in range(candidates.shape[1]):
        word = candidates[i, w]
        while word:
            keys[i, count] = order(rank(state, w * 64 + lowest_bit(word), t))
            count += 1
            word = without_lowest(word)
    return 0


@register_jitable
def book(block: Any, c: int, r: int, p: int, active: int, hits: int, kept: int) -> None:
    """Write the counts of one batch."""
    counts = block.counts
    counts[c, r, p, ACTIVE] = active
    counts[c, r, p, HITS] = hits
    counts[c, r, p, KEPT] = kept


@register_jitable
def note_misses(block: Any, parts: Any, cache: Any, c: int, r: int, p: int) -> int:
    """Count the hits of a batch on the state before it, and write down what it misses."""
    pending, resident, missed, hit = cache.pending, cache.resident, block.missed, cache.hit
    before, hits = block.before, 0
    for w in range(parts.word[p], parts.word[p + 1]):
        word, here = pending[w], resident[c, w]
        hit[w] = word & here
        hits += ones(word & here)
        if missed.shape[0] > 0:
            missed[c, r, w] = word & ~here
        if before.shape[0] > 0:
            before[c, r, w] = here
    return hits


@register_jitable
def close(parts: Any, cache: Any, p: int, functions: Any) -> None:
    """Start a new batch."""
    if functions.remember != 0:
        call(functions.remember, parts, cache, p)
    pending = cache.pending
    for w in range(parts.word[p], parts.word[p + 1]):
        pending[w] = 0


@register_jitable
def room_for(missed: int, hits: int, size: float, capacity: float) -> int:
    """Return how many misses fit beside the hits of their batch."""
    room = capacity - hits * size
    fitting = np.int64(room / size)
    if fitting > missed:
        fitting = missed
    while fitting < missed and (fitting + 1) * size <= room:  # where the division was rounded
        fitting += 1
    while fitting > 0 and fitting * size > room:
        fitting -= 1
    return fitting if fitting > 0 else 0


# Called by address where they are needed ---------------------------------------------------------


@stored(_nrt=False, key=fingerprint())
def foresee(block: Any, parts: Any, cache: Any, p: int, t: int, next_use: int) -> int:
    """Write the next use of every unit of the batch to the state of a `future` policy, before
    anything else: those from ``next_use`` on in the block's list; returns 0."""
    state, pending, uses, count = cache.state, cache.pending, block.uses, parts.units.shape[0]
    for w in range(parts.word[p], parts.word[p + 1]):
        word = pending[w]
        while word:
            state[w * 64 + lowest_bit(word)] = stamp(uses[next_use], count, p)
            next_use += 1
            word = without_lowest(word)
    return 0


@stored(_nrt=False, key=fingerprint())
def forget(cache: Any) -> int:
    """Empty the memory of a rule; returns 0."""
    choosing = cache.choosing
    uses, memory, own, fresh = choosing.uses, choosing.memory, choosing.own, choosing.own_fresh
    for u in range(uses.shape[0]):
        uses[u] = 0
    for p in range(memory.shape[0]):
        for i in range(memory.shape[1]):
            memory[p, i] = 0
    for i in range(own.shape[0]):
        own[i] = fresh[i]
    return 0


@stored(_nrt=False, key=fingerprint())
def remember(parts: Any, cache: Any, p: int) -> int:
    """Count a batch, and its units where the rule goes by them; returns 0."""
    choosing, pending = cache.choosing, cache.pending
    choosing.memory[p, BATCHES] += 1
    if parts.counted[p]:
        uses = choosing.uses
        for w in range(parts.word[p], parts.word[p + 1]):
            word = pending[w]
            while word:
                uses[w * 64 + lowest_bit(word)] += 1
                word = without_lowest(word)
    return 0
