"""What every replay loop does around its policy: gather a batch, book its uses, write its counts.

Functions read the fields of a cache once, before they loop: in loops of policies that allocate,
numba counts a reference whenever a field that is an array is read.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.bits import DECODE, bit, lowest_bit, ones, stamp
from dipsim.kernels.cache import ACTIVE, BATCHES, HITS, KEPT
from dipsim.kernels.choosing import choose_row
from dipsim.kernels.masking import COUNTS

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
    for u in range(cache.factor.shape[0]):
        cache.last[u] = -1
        here = cache.resident[0, u >> 6] & bit(u)
        cache.factor[u] = 1.0 if here else parts.gamma[parts.of_word[u >> 6]]
        cache.evictable[u] = here != 0
        cache.uses[u] = 0
    for p in range(cache.memory.shape[0]):
        for i in range(cache.memory.shape[1]):
            cache.memory[p, i] = 0


@register_jitable
def given(block: Any, cache: Any, parts: Any, at: int, r: int, layer: int, p: int) -> None:
    """Row r's mask stands in the block."""


@register_jitable
def chosen(block: Any, cache: Any, parts: Any, at: int, r: int, layer: int, p: int) -> None:
    """Write row r's mask to the block, by the rule of the part."""
    choose_row(
        block.scores,
        block.codes,
        block.sets,
        block.shares,
        parts.word,
        parts.units[p],
        parts.chosen[p],
        parts.gamma[p],
        parts.numbers,
        cache.resident,
        cache.factor,
        cache.threshold,
        cache.keys,
        cache.lists,
        cache.histogram,
        cache.spare,
        cache.found,
        cache.last,
        cache.memory,
        cache.uses,
        (r, layer, p),
        stamp(at + r, parts.units.shape[0], p),
        block.actions[r] == DECODE,
    )


@register_jitable
def gather(
    block: Any, cache: Any, parts: Any, at: int, r: int, layer: int, p: int, choose: Any
) -> None:
    """Add row r's mask of one part to the batch; the block begins at token ``at``.

    ``choose`` is `given`, or `chosen` where masks depend on what is resident.
    """
    start, stop = parts.word[p], parts.word[p + 1]
    words, pending = block.sets[r, layer, start:stop], cache.pending
    choose(block, cache, parts, at, r, layer, p)
    for w in range(start, stop):
        pending[w] |= words[w - start]


@register_jitable
def use(block: Any, cache: Any, parts: Any, place: int, t: int, p: int, touch: Any) -> int:
    """Book the use of every unit of the batch, ascending; returns the next place in ``uses``.

    The next uses that a `future` policy reads are written to its state before anything else.
    """
    state, last, pending, resident = cache.state, cache.last, cache.pending, cache.resident
    uses, count = block.uses, parts.units.shape[0]
    for w in range(parts.word[p], parts.word[p + 1]):
        word, here, base = pending[w], resident[0, w], w * 64
        if uses.shape[0] > 0:
            ahead = word
            while ahead:
                state[base + lowest_bit(ahead)] = stamp(uses[place], count, p)
                place += 1
                ahead &= ahead - np.uint64(1)
        while word:
            b = lowest_bit(word)
            touch(state, base + b, t, np.int64((here >> np.uint64(b)) & np.uint64(1)))
            last[base + b] = t
            word &= word - np.uint64(1)
    return place


@register_jitable
def first_units(word: Any, n: int) -> Any:
    """The n lowest units of a word that has at least as many."""
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
    pending, resident, missed, found = cache.pending, cache.resident, block.missed, cache.found
    before = block.before
    hits, wanted, watched = 0, missed.shape[0] > 0, before.shape[0] > 0
    for w in range(parts.word[p], parts.word[p + 1]):
        found[w] = pending[w] & resident[c, w]
        hits += ones(found[w])
        if wanted:
            missed[c, r, w] = pending[w] & ~resident[c, w]
        if watched:
            before[c, r, w] = resident[c, w]
    return hits


@register_jitable
def close(cache: Any, parts: Any, p: int) -> None:
    """Start a new batch."""
    pending = cache.pending
    if parts.numbers[p, COUNTS] > 0:
        uses = cache.uses
        for w in range(parts.word[p], parts.word[p + 1]):
            word = pending[w]
            while word:
                uses[w * 64 + lowest_bit(word)] += 1
                word &= word - np.uint64(1)
    cache.memory[p, BATCHES] += 1
    for w in range(parts.word[p], parts.word[p + 1]):
        pending[w] = 0


@register_jitable
def batch_size(cache: Any, parts: Any, p: int) -> int:
    """How many units the batch uses."""
    pending, active = cache.pending, 0
    for w in range(parts.word[p], parts.word[p + 1]):
        active += ones(pending[w])
    return active


@register_jitable
def room_for(missed: int, hits: int, size: float, capacity: float) -> int:
    """How many misses fit beside the hits of their batch."""
    room = capacity - hits * size
    fitting = min(missed, np.int64(np.floor(room / size)))
    while fitting < missed and (fitting + 1) * size <= room:  # where the division was rounded
        fitting += 1
    while fitting > 0 and fitting * size > room:
        fitting -= 1
    return max(0, fitting)
