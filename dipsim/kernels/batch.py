"""Steps of every replay loop around its policy: gather a batch, book its uses, write its counts.

Functions read the fields of a cache once, before they loop: in loops of policies that allocate,
numba counts a reference whenever a field that is an array is read.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.bits import lowest_bit, ones, stamp
from dipsim.kernels.cache import ACTIVE, BATCHES, HITS, KEPT

inlined = register_jitable(forceinline=True)


@register_jitable
def reset(cache: Any, parts: Any) -> None:
    """Empty the cache and forget everything."""
    # Plain loops: numba takes seconds to compile a copy of one array to another.
    for c in range(cache.filled.shape[0]):
        filled = 0.0
        for w in range(cache.pending.shape[0]):
            cache.resident[c, w] = cache.preload[c, w]
            filled += ones(cache.preload[c, w]) * parts.size[parts.of_word[w]]
        cache.filled[c] = filled
    for w in range(cache.pending.shape[0]):
        cache.pending[w] = 0
    for i in range(cache.state.shape[0]):
        cache.state[i] = cache.fresh[i]
    for u in range(cache.last.shape[0]):
        cache.last[u] = -1
        cache.evictable[u] = (cache.resident[0, u >> 6] >> np.uint64(u & 63)) & np.uint64(1)
    _forget(cache.choosing)


@register_jitable
def _forget(choosing: Any) -> None:
    """Empty the memory of a rule; numba leaves the body out where there is none."""
    if choosing is None:
        return
    for u in range(choosing.uses.shape[0]):
        choosing.uses[u] = 0
    for p in range(choosing.memory.shape[0]):
        for i in range(choosing.memory.shape[1]):
            choosing.memory[p, i] = 0
    for i in range(choosing.own.shape[0]):
        choosing.own[i] = choosing.own_fresh[i]


@register_jitable
def given(
    block: Any, parts: Any, choosing: Any, resident: Any, last: Any, place: Any, t: int
) -> None:
    """Choose nothing: the masks stand in the block already.

    The hook ``choose`` of a loop; that of a method whose masks depend on what is resident writes
    the mask to ``block.sets``, and what it keeps to ``block.shares``.

    Args:
        choosing, resident, last: fields of `Cache`; resident is that before the batch.
        place: (row, layer, part).
        t: number of the batch.
    """


@register_jitable
def gather(block: Any, cache: Any, parts: Any, place: Any, t: int, choose: Any) -> None:
    """Add the mask of one row and part to the batch; ``place`` is (row, layer, part)."""
    r, layer, p = place
    start, stop = parts.word[p], parts.word[p + 1]
    words, pending = block.sets[r, layer, start:stop], cache.pending
    choose(block, parts, cache.choosing, cache.resident, cache.last, place, t)
    for w in range(start, stop):
        pending[w] |= words[w - start]


@register_jitable
def use(block: Any, cache: Any, parts: Any, next_use: int, t: int, p: int, touch: Any) -> int:
    """Book the use of every unit of the batch, ascending.

    The next uses that a `future` policy reads are written to its state before anything else:
    those from ``next_use`` on in the block's list. Returns where those of the next batch begin.
    """
    state, last, pending, resident = cache.state, cache.last, cache.pending, cache.resident
    uses, count = block.uses, parts.units.shape[0]
    for w in range(parts.word[p], parts.word[p + 1]):
        word, here, base = pending[w], resident[0, w], w * 64
        if uses.shape[0] > 0:
            ahead = word
            while ahead:
                state[base + lowest_bit(ahead)] = stamp(uses[next_use], count, p)
                next_use += 1
                ahead &= ahead - np.uint64(1)
        while word:
            b = lowest_bit(word)
            touch(state, base + b, t, np.int64((here >> np.uint64(b)) & np.uint64(1)))
            last[base + b] = t
            word &= word - np.uint64(1)
    return next_use


@register_jitable
def first_units(word: Any, n: int) -> Any:
    """Return the n lowest units of a word that has at least as many."""
    left = word
    for _ in range(n):
        left &= left - np.uint64(1)
    return word & ~left


@register_jitable
def book(block: Any, c: int, r: int, p: int, active: int, hits: int, kept: int) -> None:
    """Write the counts of one batch."""
    counts = block.counts
    counts[c, r, p, ACTIVE] = active
    counts[c, r, p, HITS] = hits
    counts[c, r, p, KEPT] = kept


@register_jitable
def note_misses(block: Any, cache: Any, parts: Any, c: int, r: int, p: int) -> int:
    """Count the hits of a batch on the state before it, and write down what it misses."""
    pending, resident, missed, hit = cache.pending, cache.resident, block.missed, cache.hit
    before = block.before
    hits, wanted, watched = 0, missed.shape[0] > 0, before.shape[0] > 0
    for w in range(parts.word[p], parts.word[p + 1]):
        hit[w] = pending[w] & resident[c, w]
        hits += ones(hit[w])
        if wanted:
            missed[c, r, w] = pending[w] & ~resident[c, w]
        if watched:
            before[c, r, w] = resident[c, w]
    return hits


@register_jitable
def close(cache: Any, parts: Any, p: int) -> None:
    """Start a new batch."""
    pending = cache.pending
    _remember(cache.choosing, pending, parts, p)
    for w in range(parts.word[p], parts.word[p + 1]):
        pending[w] = 0


@register_jitable
def _remember(choosing: Any, pending: Any, parts: Any, p: int) -> None:
    """Count a batch, and its units where the rule goes by them."""
    if choosing is None:
        return
    choosing.memory[p, BATCHES] += 1
    if parts.counted[p]:
        uses = choosing.uses
        for w in range(parts.word[p], parts.word[p + 1]):
            word = pending[w]
            while word:
                uses[w * 64 + lowest_bit(word)] += 1
                word &= word - np.uint64(1)


@register_jitable
def batch_size(cache: Any, parts: Any, p: int) -> int:
    """Count the units that the batch uses."""
    pending, active = cache.pending, 0
    for w in range(parts.word[p], parts.word[p + 1]):
        active += ones(pending[w])
    return active


@register_jitable
def room_for(missed: int, hits: int, size: float, capacity: float) -> int:
    """Return how many misses fit beside the hits of their batch."""
    room = capacity - hits * size
    fitting = min(missed, np.int64(np.floor(room / size)))
    while fitting < missed and (fitting + 1) * size <= room:  # where the division was rounded
        fitting += 1
    while fitting > 0 and fitting * size > room:
        fitting -= 1
    return max(0, fitting)
