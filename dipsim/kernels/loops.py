"""The replay loops: one for policies that rank, one for policies that keep a queue.

Each works on one (layer, group) and one block of tokens, as docs/replay.md says. They are compiled
once per policy, by `dipsim.kernels.bind`.
"""

from typing import Any

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.cache import (
    ACTIVE,
    FAULT,
    FORCED,
    HITS,
    KEPT,
    MOVED,
    NEVER,
    OUTSIDE,
    RANKED,
    READS,
    SECONDS,
    SIZE,
    VICTIM,
)
from dipsim.kernels.requests import coalesce
from dipsim.kernels.select import kept_shares, select
from dipsim.kernels.sets import COMMIT, SKIP, bit, count_units, list_units, lowest_bit
from dipsim.kernels.victims import BINS, lowest, order


@register_jitable
def _reset(cache: Any, gamma: float) -> None:
    # Plain loops: numba takes seconds to compile a copy of one array to another.
    for w in range(cache.resident.shape[0]):
        cache.resident[w] = cache.preload[w]
        cache.pending[w] = 0
    cache.numbers[SIZE] = count_units(cache.resident)
    for i in range(cache.state.shape[0]):
        cache.state[i] = cache.fresh[i]
    for u in range(cache.factor.shape[0]):
        cache.last[u] = -1
        cache.factor[u] = 1.0 if cache.resident[u >> 6] & bit(u) else gamma


@register_jitable
def _gather(block: Any, cache: Any, r: int, layer: int, k: int, gamma: float) -> bool:
    """Add row r's mask to its batch; True when the batch is complete."""
    if block.resets[r]:
        _reset(cache, gamma)
    if block.actions[r] == SKIP:
        return False
    words = block.sets[r, layer]
    if block.scores.shape[0] > 0:
        select(
            block.scores[r, layer],
            cache.factor,
            True,
            k,
            words,
            cache.threshold,
            cache.keys,
            cache.lists[0],
        )
        kept_shares(block.scores[r, layer], words, block.shares[r])
    for w in range(words.shape[0]):
        cache.pending[w] |= words[w]
    return block.actions[r] == COMMIT


@register_jitable
def _book(
    block: Any, cache: Any, r: int, active: int, kept: int, missed: int, requests: Any
) -> None:
    """Write row r's counts and costs, and start a new batch. ``lists[0]`` holds the misses."""
    counts = block.counts[r]
    for w in range(cache.pending.shape[0]):
        cache.pending[w] = 0
    counts[ACTIVE] = active
    counts[HITS] = active - missed
    counts[KEPT] = kept
    if missed > 0 and requests.seconds.shape[0] > 0:
        reads, moved, seconds, outside = coalesce(
            missed,
            cache.lists[0],
            requests.seconds,
            requests.moved,
            requests.outside,
            requests.curve_of,
            requests.whole,
            cache.lists[1],
        )
        counts[READS] = reads
        counts[OUTSIDE] = np.int32(outside)
        block.costs[r, MOVED] = moved
        block.costs[r, SECONDS] = seconds


@register_jitable
def _remove(cache: Any, unit: int, gamma: float) -> None:
    cache.resident[unit >> 6] &= ~bit(unit)
    if gamma != 1.0:
        cache.factor[unit] = gamma


@register_jitable
def _insert(cache: Any, unit: int) -> None:
    cache.resident[unit >> 6] |= bit(unit)
    cache.factor[unit] = 1.0


@register_jitable
def _use(block: Any, cache: Any, place: int, t: int, touch: Any) -> tuple[int, int]:
    """Book the use of every unit of the batch, ascending; list the misses in ``lists[0]``.

    Returns (misses, next place in ``block.uses``). The next uses a `future` policy reads are
    written to its state before anything else.
    """
    state, last, misses = cache.state, cache.last, cache.lists[0]
    missed = 0
    for w in range(cache.pending.shape[0]):
        word = cache.pending[w]
        base = w * 64
        if block.uses.shape[0] > 0:
            ahead = word
            while ahead:
                state[base + lowest_bit(ahead)] = block.uses[place]
                place += 1
                ahead &= ahead - np.uint64(1)
        resident = cache.resident[w]
        missed = list_units(word & ~resident, base, misses, missed)
        while word:
            b = lowest_bit(word)
            touch(state, base + b, t, np.int64((resident >> np.uint64(b)) & np.uint64(1)))
            last[base + b] = t
            word &= word - np.uint64(1)
    return missed, place


@register_jitable
def replay_ranked(block, layer, first, capacity, admission, k, gamma, cache, requests, touch, rank):
    """Replay with a policy that ranks: the n lowest of a token leave together."""
    histogram = np.zeros(BINS, np.int64)
    state, misses = cache.state, cache.lists[0]  # read once: see `bind`
    candidates, keys = cache.lists[2], cache.lists[3]
    place = 0
    for r in range(block.actions.shape[0]):
        if not _gather(block, cache, r, layer, k, gamma):
            continue
        t = first + r
        missed, place = _use(block, cache, place, t, touch)
        active = count_units(cache.pending)
        size, kept = cache.numbers[SIZE], missed
        if admission == FORCED:
            kept = min(missed, capacity - (active - missed))
        elif admission == NEVER:
            kept = 0
        leaving = max(0, size + kept - capacity)
        if leaving > 0:
            count = 0
            for w in range(cache.pending.shape[0]):
                word = cache.resident[w] & ~cache.pending[w]
                if admission == RANKED:
                    word = cache.resident[w] | cache.pending[w]
                count = list_units(word, w * 64, candidates, count)
            if leaving < count:
                for i in range(count):
                    keys[i] = order(rank(state, candidates[i], t))
                lowest(leaving, count, candidates, keys, cache.last, cache.lists[1], histogram)
        if kept == missed:  # whole words at once
            for w in range(cache.pending.shape[0]):
                cache.resident[w] |= cache.pending[w]
            for i in range(kept if gamma != 1.0 else 0):
                cache.factor[misses[i]] = 1.0
        else:
            for i in range(kept):
                _insert(cache, misses[i])
        for i in range(leaving):  # under ranked admission a miss may leave at once
            _remove(cache, candidates[i], gamma)
        cache.numbers[SIZE] = size + kept - leaving
        if admission == RANKED:
            kept = 0
            for i in range(missed):
                unit = misses[i]
                kept += 1 if cache.resident[unit >> 6] & bit(unit) else 0
        _book(block, cache, r, active, kept, missed, requests)


@register_jitable
def replay_queued(
    block, layer, first, capacity, k, gamma, cache, requests, touch, evict, insert, leave
):
    """Replay with a queue policy: for each kept miss, `evict` when full, then `insert`."""
    state, evictable, misses = cache.state, cache.evictable, cache.lists[0]  # see `bind`
    place = 0
    for r in range(block.actions.shape[0]):
        if not _gather(block, cache, r, layer, k, gamma):
            continue
        t = first + r
        missed, place = _use(block, cache, place, t, touch)
        active = count_units(cache.pending)
        for w in range(cache.pending.shape[0]):
            word = cache.resident[w] & ~cache.pending[w]
            while word:
                evictable[w * 64 + lowest_bit(word)] = True
                word &= word - np.uint64(1)
        kept = min(missed, capacity - (active - missed))
        for i in range(kept):
            unit = misses[i]
            if cache.numbers[SIZE] == capacity:
                victim = np.int64(evict(state, unit, evictable, t))
                legal = 0 <= victim < evictable.shape[0]
                if not legal or not evictable[victim]:
                    cache.numbers[FAULT] = 1
                    cache.numbers[VICTIM] = victim
                    return
                evictable[victim] = False
                _remove(cache, victim, gamma)
                leave(state, victim)
                cache.numbers[SIZE] -= 1
            insert(state, unit, t)
            _insert(cache, unit)
            cache.numbers[SIZE] += 1
        evictable[:] = False
        _book(block, cache, r, active, kept, missed, requests)
