"""The hot loops: choose top-k, replay a cache, coalesce misses. No validation, no input or output.

Everything here works on one (layer, group) and one block of tokens. Sets are bits: unit u is bit
``u % 64`` of word ``u // 64``. The replay loops are written once and bound to a policy's plain
functions by `bind`; tests/naive.py holds the slow, obvious form of each of them.
"""

import hashlib
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit
from numba import types as nb
from numba.core import config
from numba.extending import intrinsic, overload, register_jitable
from numpy.typing import NDArray

SKIP, JOIN, COMMIT = 0, 1, 2
"""What a row does: nothing; add its mask to a batch that goes on; end its batch."""
FORCED, RANKED, NEVER = 0, 1, 2
"""How misses are admitted (DESIGN section 5)."""
NO_NEXT = 2**62
"""The next use of a unit that is never used again."""
ACTIVE, HITS, KEPT, READS = 0, 1, 2, 3
"""Columns of the counts."""
MOVED, SECONDS = 0, 1
"""Columns of the costs: bytes the device moves, seconds the flash is busy."""
SIZE, FAULT, VICTIM, SHORTEST, LONGEST = 0, 1, 2, 3, 4
"""Slots of `Cache.numbers`: units resident; 1 when `evict` broke the contract; what it returned;
the shortest and longest read so far, in units."""

_BINS = 2048
_INFINITY_BITS = 0x7F800000  # of float32; every finite score has fewer
_SAVING = 1 - 1e-12  # a read is worth joining when it saves more than rounding noise


class Cache(NamedTuple):
    """One cache between two blocks: what is resident, the policy's state, and scratch space."""

    resident: NDArray[np.uint64]  # [words]
    last: NDArray[np.int64]  # [units] token of the last use
    factor: NDArray[np.float32]  # [units] what a score is multiplied by: 1 if resident, else gamma
    state: NDArray[Any]  # the policy's own
    pending: NDArray[np.uint64]  # [words] masks of the batch so far
    numbers: NDArray[np.int64]  # [5] SIZE, FAULT, VICTIM, SHORTEST, LONGEST
    fresh: NDArray[Any]  # state after a reset
    preload: NDArray[np.uint64]  # [words] resident after a reset
    threshold: NDArray[np.int64]  # [1] where the last selection cut
    keys: NDArray[np.float32]  # [units] scratch
    lists: NDArray[np.int64]  # [4, units] scratch
    evictable: NDArray[np.bool_]  # [units] scratch of queue policies, all False between tokens


class Block(NamedTuple):
    """A block of tokens of one group; rows are tokens. Inputs hold all layers, outputs one."""

    sets: NDArray[np.uint64]  # [n, layers, words]; written when the method is cache-aware
    scores: NDArray[np.float32]  # [n, layers, units], or empty when the sets are given
    actions: NDArray[np.uint8]  # [n] SKIP, JOIN or COMMIT
    resets: NDArray[np.bool_]  # [n] empty the cache before this row
    uses: NDArray[np.int64]  # next use of every active unit, in row order; empty unless `future`
    counts: NDArray[np.int32]  # out [n, 4], of one layer
    costs: NDArray[np.float64]  # out [n, 2], of one layer
    shares: NDArray[np.float32]  # out [n, 2], of one layer: share of score and of energy kept


class Requests(NamedTuple):
    """What reading a span of L units from flash costs, for every L; empty to leave costs out."""

    seconds: NDArray[np.float64]  # [curves, units + 1]
    moved: NDArray[np.float64]  # [units + 1] bytes, whole pages
    curve_of: NDArray[np.int64]  # [most + 1] which curve serves n reads in flight
    whole: NDArray[np.float64]  # [3] reading everything in order: reads, bytes, seconds


# Bits ------------------------------------------------------------------------------------------


@intrinsic
def _lowest_bit(typing: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return nb.int64(nb.uint64), generate


@intrinsic
def _ones(typing: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return nb.int64(nb.uint64), generate


@intrinsic
def _float_bits(typing: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return nb.int64(nb.float64), generate


def _order(rank: Any) -> int:
    """An int64 that sorts like ``rank``; the compiled form is `_order_compiled`."""
    if isinstance(rank, float | np.floating):
        bits = int(np.float64(rank + 0.0).view(np.int64))
        return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
    return int(rank)


@overload(_order)
def _order_compiled(rank: Any) -> Any:
    if isinstance(rank, nb.Float):

        def of_float(rank: Any) -> Any:
            bits = _float_bits(np.float64(rank) + 0.0)
            return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)

        return of_float

    def of_integer(rank: Any) -> Any:
        return np.int64(rank)

    return of_integer


if config.DISABLE_JIT:  # coverage and bounds runs execute the kernels as plain Python

    def _lowest_bit(word: Any) -> int:
        return (int(word) & -int(word)).bit_length() - 1

    def _ones(word: Any) -> int:
        return int(word).bit_count()


@register_jitable
def _bit(unit: int) -> Any:
    return np.uint64(1) << np.uint64(unit & 63)


@register_jitable
def _list_units(word: Any, base: int, into: Any, count: int) -> int:
    """Append the units of one word, ascending; returns the new count."""
    while word:
        into[count] = base + _lowest_bit(word)
        count += 1
        word &= word - np.uint64(1)
    return count


# Choosing the k best scores --------------------------------------------------------------------


@register_jitable
def _count_at_least(bits: Any, cut: int) -> int:
    cut32 = np.int32(cut)
    count = np.int32(0)
    for i in range(bits.shape[0]):
        count = np.int32(count + np.int32(bits[i] >= cut32))
    return np.int64(count)


@register_jitable
def _find_cut(bits: Any, k: int, guess: int) -> tuple[int, int]:
    """The largest cut with at least k keys >= it, and how many keys are > it or >= it.

    ``bits`` are non-negative float32 seen as int32, which sort alike. Returns (cut, reached):
    when ``reached == k`` all keys >= cut are the k best; otherwise keys == cut are tied and
    ``reached`` counts those above. The search starts at ``guess``, the last token's cut, widens
    until it brackets k and then narrows by interpolation, with a bisection every third step.
    """
    low, high = np.int64(0), np.int64(_INFINITY_BITS)
    above_low, above_high = np.int64(bits.shape[0]), np.int64(0)
    if above_low == k:
        return low, k
    middle = min(max(guess, np.int64(1)), high - 1)
    step = np.int64(1) << 17
    rounds = 0
    while high - low > 1:
        count = _count_at_least(bits, middle)
        if count == k:
            return middle, k
        if count > k:
            low, above_low = middle, count
        else:
            high, above_high = middle, count
        if step > 0 and high == _INFINITY_BITS:
            middle = min(low + step, high - 1)
            step *= 4
        elif step > 0 and low == 0:
            middle = max(high - step, np.int64(1))
            step *= 4
        else:
            step = np.int64(0)
            rounds += 1
            if rounds % 3 == 0:
                middle = (low + high) // 2
            else:
                share = (above_low - k) / (above_low - above_high)
                middle = low + np.int64((high - low) * share)
        middle = min(max(middle, low + 1), high - 1)
    return low, above_high


@register_jitable
def _pack_at_least(bits: Any, cut: int, words: Any) -> None:
    """Set the bit of every key >= cut."""
    cut32 = np.int32(cut)
    units = bits.shape[0]
    for w in range(words.shape[0]):
        word = np.uint64(0)
        base = w * 64
        for b in range(min(64, units - base)):
            word |= np.uint64(bits[base + b] >= cut32) << np.uint64(b)
        words[w] = word


@register_jitable
def _settle_ties(keys: Any, raw: Any, cut: int, room: int, words: Any, cache: Any) -> None:
    """Give the last ``room`` places to units whose key equals the cut: larger raw score first,
    then lower id. ``raw`` and ``keys`` are the same array when nothing is cache-aware."""
    tied, count = cache.lists[0], 0
    for u in range(keys.shape[0]):
        if keys[u] == cut:
            tied[count] = u
            count += 1
    scores = cache.keys.view(np.int32)[:count]  # the keys are no longer needed
    for i in range(count):
        scores[i] = raw[tied[i]]
    best, reached = _find_cut(scores, room, np.int64(scores[0]))
    equal = 0 if reached == room else room - reached
    for i in range(count):
        if scores[i] > best or (scores[i] == best and (reached == room or equal > 0)):
            equal -= 1 if scores[i] == best else 0
            words[tied[i] >> 6] |= _bit(tied[i])


@register_jitable
def _select(scores: Any, factor: Any, aware: bool, k: int, cache: Any, words: Any) -> None:
    """The k best of factor * score (float32), as bits; ties: larger raw score, then lower id."""
    raw = scores.view(np.int32)
    keys = raw
    if aware:
        scaled = cache.keys
        for u in range(scores.shape[0]):
            scaled[u] = scores[u] * factor[u]
        keys = scaled.view(np.int32)
    cut, reached = _find_cut(keys, k, cache.threshold[0])
    cache.threshold[0] = cut
    if reached == k:
        _pack_at_least(keys, cut, words)
    else:
        _pack_at_least(keys, cut + 1, words)
        _settle_ties(keys, raw, cut, k - reached, words, cache)


@register_jitable(fastmath={"reassoc", "contract"})
def _kept_shares(scores: Any, words: Any, shares: Any) -> None:
    """Share of the score mass, and of the energy (squares), that the chosen units hold."""
    mass = energy = kept_mass = kept_energy = 0.0
    for w in range(words.shape[0]):
        word = words[w]
        base = w * 64
        for b in range(min(64, scores.shape[0] - base)):
            score = np.float64(scores[base + b])
            kept = np.float64((word >> np.uint64(b)) & np.uint64(1)) * score
            mass += score
            energy += score * score
            kept_mass += kept
            kept_energy += kept * score
    shares[0] = kept_mass / mass if mass > 0 else 1.0
    shares[1] = kept_energy / energy if energy > 0 else 1.0


@njit(cache=True, nogil=True)
def select_block(scores, layer, k, cache, sets, shares):  # type: ignore[no-untyped-def]
    """Fill ``sets`` and ``shares`` of one layer with the k best scores of every row."""
    for r in range(scores.shape[0]):
        _select(scores[r, layer], cache.factor, False, k, cache, sets[r, layer])
        _kept_shares(scores[r, layer], sets[r, layer], shares[r, layer])


# Looking ahead and back ------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def count_members(sets, layer):  # type: ignore[no-untyped-def]
    """int64[n]: how many units every row of one layer holds."""
    sizes = np.zeros(sets.shape[0], np.int64)
    for r in range(sets.shape[0]):
        for w in range(sets.shape[2]):
            sizes[r] += _ones(sets[r, layer, w])
    return sizes


@njit(cache=True, nogil=True)
def count_uses(sets, layer, actions, uses):  # type: ignore[no-untyped-def]
    """Add to ``uses`` (int64[units]) how often every unit is active in the committed rows."""
    for r in range(sets.shape[0]):
        if actions[r] == COMMIT:
            for w in range(sets.shape[2]):
                word = sets[r, layer, w]
                while word:
                    uses[w * 64 + _lowest_bit(word)] += 1
                    word &= word - np.uint64(1)


@njit(cache=True, nogil=True)
def next_uses(sets, layer, actions, resets, first, after, sizes):  # type: ignore[no-untyped-def]
    """Walk a block backwards: the next use of every active unit, and ``after`` brought to its start.

    Args:
        after : int64[units], the next use behind the block; updated to that before the block.
        sizes : int64[n] from `count_members`.

    Returns:
        int64[active]: for every committed row, in order, the next use of each unit, ascending.
    """
    total = 0
    for r in range(sets.shape[0]):
        total += sizes[r] if actions[r] == COMMIT else 0
    uses = np.empty(total, np.int64)
    for r in range(sets.shape[0] - 1, -1, -1):
        if actions[r] == COMMIT:
            total -= sizes[r]
            place = total
            for w in range(sets.shape[2]):
                word = sets[r, layer, w]
                while word:
                    unit = w * 64 + _lowest_bit(word)
                    uses[place] = after[unit]
                    after[unit] = first + r
                    place += 1
                    word &= word - np.uint64(1)
        if resets[r]:
            after[:] = NO_NEXT
    return uses


# Choosing victims ------------------------------------------------------------------------------


@register_jitable
def _lowest(n: int, count: int, units: Any, keys: Any, cache: Any, histogram: Any) -> None:
    """Bring the n lowest of ``units[:count]`` by (key, last use, unit) to ``units[:n]``.

    ``units`` ascend. A radix selection: a histogram over the span of the keys names the bin the
    cut falls into; lower bins are taken; the bin itself is looked at again on a finer scale, then
    with the last use as key, and what still ties goes by id.
    """
    undecided, rest, taken, by_last = units, cache.lists[1], 0, False
    while count > n - taken:
        low = high = keys[0]
        for i in range(count):
            low = min(low, keys[i])
            high = max(high, keys[i])
        span = np.uint64(high) - np.uint64(low)
        if span == np.uint64(0):
            if by_last:
                break
            by_last = True
            for i in range(count):
                keys[i] = cache.last[undecided[i]]
            continue
        shift = np.uint64(0)
        while (span >> shift) >= np.uint64(_BINS):
            shift += np.uint64(1)
        histogram[: np.int64(span >> shift) + 1] = 0
        for i in range(count):
            histogram[np.int64((np.uint64(keys[i]) - np.uint64(low)) >> shift)] += 1
        cut, below = 0, 0
        while below + histogram[cut] < n - taken:
            below += histogram[cut]
            cut += 1
        left = 0
        for i in range(count):
            unit, key = undecided[i], keys[i]
            where = np.int64((np.uint64(key) - np.uint64(low)) >> shift)
            if where < cut:
                units[taken] = unit
                taken += 1
            elif where == cut:
                rest[left] = unit
                keys[left] = key
                left += 1
        undecided, count = rest, left
    for i in range(n - taken):
        units[taken + i] = undecided[i]


# Requests --------------------------------------------------------------------------------------


@register_jitable
def _coalesce(count: int, requests: Any, cache: Any) -> tuple[int, float, float]:
    """(reads, bytes moved, seconds) of the misses in ``lists[0]``, ascending.

    Greedily from the left: a run and the next miss become one read when that takes less time.
    Reading everything in order is taken instead when it is faster.
    """
    misses, runs = cache.lists[0], cache.lists[1]
    most = requests.curve_of.shape[0] - 1
    curve = requests.seconds[requests.curve_of[min(count, most)]]
    reads, length = 0, 1
    for i in range(1, count):
        joined = length + misses[i] - misses[i - 1]
        if curve[joined] < (curve[length] + curve[1]) * _SAVING:
            length = joined
        else:
            runs[reads] = length
            reads += 1
            length = 1
    runs[reads] = length
    reads += 1
    curve = requests.seconds[requests.curve_of[min(reads, most)]]
    moved = seconds = 0.0
    for i in range(reads):
        moved += requests.moved[runs[i]]
        seconds += curve[runs[i]]
        cache.numbers[SHORTEST] = min(cache.numbers[SHORTEST], runs[i])
        cache.numbers[LONGEST] = max(cache.numbers[LONGEST], runs[i])
    if requests.whole[2] < seconds * _SAVING:
        return np.int64(requests.whole[0]), requests.whole[1], requests.whole[2]
    return reads, moved, seconds


# The replay ------------------------------------------------------------------------------------


@register_jitable
def _reset(cache: Any, gamma: float) -> None:
    cache.resident[:] = cache.preload
    cache.state[:] = cache.fresh
    cache.last[:] = -1
    cache.pending[:] = 0
    size = 0
    for w in range(cache.resident.shape[0]):
        size += _ones(cache.resident[w])
    cache.numbers[SIZE] = size
    for u in range(cache.factor.shape[0]):
        cache.factor[u] = 1.0 if cache.resident[u >> 6] & _bit(u) else gamma


@register_jitable
def _gather(block: Any, cache: Any, r: int, layer: int, k: int, gamma: float) -> bool:
    """Add row r's mask to its batch; True when the batch is complete."""
    if block.resets[r]:
        _reset(cache, gamma)
    if block.actions[r] == SKIP:
        return False
    words = block.sets[r, layer]
    if block.scores.shape[0] > 0:
        _select(block.scores[r, layer], cache.factor, True, k, cache, words)
        _kept_shares(block.scores[r, layer], words, block.shares[r])
    for w in range(words.shape[0]):
        cache.pending[w] |= words[w]
    return block.actions[r] == COMMIT


@register_jitable
def _book(block: Any, cache: Any, r: int, kept: int, missed: int, requests: Any) -> None:
    """Write row r's counts and costs, and start a new batch. ``lists[0]`` holds the misses."""
    counts = block.counts[r]
    active = 0
    for w in range(cache.pending.shape[0]):
        active += _ones(cache.pending[w])
        cache.pending[w] = 0
    counts[ACTIVE] = active
    counts[HITS] = active - missed
    counts[KEPT] = kept
    if missed > 0 and requests.seconds.shape[0] > 0:
        reads, moved, seconds = _coalesce(missed, requests, cache)
        counts[READS] = reads
        block.costs[r, MOVED] = moved
        block.costs[r, SECONDS] = seconds


@register_jitable
def _remove(cache: Any, unit: int, gamma: float) -> None:
    cache.resident[unit >> 6] &= ~_bit(unit)
    cache.factor[unit] = gamma


@register_jitable
def _insert(cache: Any, unit: int) -> None:
    cache.resident[unit >> 6] |= _bit(unit)
    cache.factor[unit] = 1.0


@register_jitable
def _use(block: Any, cache: Any, place: int, t: int, touch: Any) -> tuple[int, int]:
    """Book the use of every unit of the batch, ascending; list the misses in ``lists[0]``.

    Returns (misses, next place in ``block.uses``). The next uses a `future` policy reads are
    written to its state before anything else.
    """
    missed = 0
    for w in range(cache.pending.shape[0]):
        word = cache.pending[w]
        base = w * 64
        if block.uses.shape[0] > 0:
            ahead = word
            while ahead:
                cache.state[base + _lowest_bit(ahead)] = block.uses[place]
                place += 1
                ahead &= ahead - np.uint64(1)
        resident = cache.resident[w]
        missed = _list_units(word & ~resident, base, cache.lists[0], missed)
        while word:
            b = _lowest_bit(word)
            touch(cache.state, base + b, t, np.int64((resident >> np.uint64(b)) & np.uint64(1)))
            cache.last[base + b] = t
            word &= word - np.uint64(1)
    return missed, place


@register_jitable
def _replay_ranked(
    block, layer, first, capacity, admission, k, gamma, cache, requests, touch, rank
):  # type: ignore[no-untyped-def]
    """Replay with a policy that ranks: the n lowest of a token leave together."""
    histogram = np.zeros(_BINS + 1, np.int64)
    candidates, keys = cache.lists[2], cache.lists[3]
    place = 0
    for r in range(block.actions.shape[0]):
        if not _gather(block, cache, r, layer, k, gamma):
            continue
        t = first + r
        missed, place = _use(block, cache, place, t, touch)
        active = 0
        for w in range(cache.pending.shape[0]):
            active += _ones(cache.pending[w])
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
                count = _list_units(word, w * 64, candidates, count)
            if leaving < count:
                for i in range(count):
                    keys[i] = _order(rank(cache.state, candidates[i], t))
                _lowest(leaving, count, candidates, keys, cache, histogram)
        for i in range(missed if admission == RANKED else kept):
            _insert(cache, cache.lists[0][i])
        for i in range(leaving):  # under ranked admission a miss may leave at once
            _remove(cache, candidates[i], gamma)
        cache.numbers[SIZE] = size + kept - leaving
        if admission == RANKED:
            kept = 0
            for i in range(missed):
                unit = cache.lists[0][i]
                kept += 1 if cache.resident[unit >> 6] & _bit(unit) else 0
        _book(block, cache, r, kept, missed, requests)


@register_jitable
def _replay_queued(
    block, layer, first, capacity, k, gamma, cache, requests, touch, evict, insert, leave
):  # type: ignore[no-untyped-def]
    """Replay with a queue policy: for each kept miss, `evict` when full, then `insert`."""
    place = 0
    for r in range(block.actions.shape[0]):
        if not _gather(block, cache, r, layer, k, gamma):
            continue
        t = first + r
        missed, place = _use(block, cache, place, t, touch)
        active = 0
        for w in range(cache.pending.shape[0]):
            active += _ones(cache.pending[w])
            word = cache.resident[w] & ~cache.pending[w]
            while word:
                cache.evictable[w * 64 + _lowest_bit(word)] = True
                word &= word - np.uint64(1)
        kept = min(missed, capacity - (active - missed))
        for i in range(kept):
            unit = cache.lists[0][i]
            if cache.numbers[SIZE] == capacity:
                victim = np.int64(evict(cache.state, unit, cache.evictable, t))
                legal = 0 <= victim < cache.evictable.shape[0]
                if not legal or not cache.evictable[victim]:
                    cache.numbers[FAULT] = 1
                    cache.numbers[VICTIM] = victim
                    return
                cache.evictable[victim] = False
                _remove(cache, victim, gamma)
                leave(cache.state, victim)
                cache.numbers[SIZE] -= 1
            insert(cache.state, unit, t)
            _insert(cache, unit)
            cache.numbers[SIZE] += 1
        cache.evictable[:] = False
        _book(block, cache, r, kept, missed, requests)


# Binding a policy ------------------------------------------------------------------------------


def _ranked_template(stamp):  # type: ignore[no-untyped-def]
    def replay(block, layer, first, capacity, admission, k, gamma, cache, requests):  # type: ignore[no-untyped-def]
        stamp  # noqa: B018 - part of numba's cache key: see `bind`
        _replay_ranked(
            block, layer, first, capacity, admission, k, gamma, cache, requests, touch, rank
        )  # type: ignore[name-defined]  # noqa: F821

    return replay


def _queued_template(stamp):  # type: ignore[no-untyped-def]
    def replay(block, layer, first, capacity, admission, k, gamma, cache, requests):  # type: ignore[no-untyped-def]
        stamp  # noqa: B018 - part of numba's cache key: see `bind`
        _replay_queued(
            block, layer, first, capacity, k, gamma, cache, requests, touch, evict, insert, leave
        )  # type: ignore[name-defined]  # noqa: F821

    return replay


def bind(hooks: dict[str, Callable[..., Any]], *, keep: bool) -> Callable[..., None]:
    """Compile the replay loop around a policy's plain functions.

    The loop is a copy of a template whose globals hold the hooks, so it is written once and still
    runs as if written for the policy. With ``keep`` the machine code is stored on disk: numba
    renews it when this file changes, and the hash of the policy's own file is a closure variable,
    which is part of numba's key. A user's file may import helpers nobody watches, so it is not
    kept, and runs with bounds checked.

    Args:
        hooks: ``touch`` and ``rank``; or ``touch``, ``evict``, ``insert`` and ``leave``.
    """
    template = _ranked_template if "rank" in hooks else _queued_template
    stamp = ""
    if keep:
        digest = hashlib.sha256()
        for role, hook in sorted(hooks.items()):
            digest.update(f"{role}={hook.__qualname__}".encode())
            digest.update(Path(inspect.getfile(hook)).read_bytes())
        stamp = digest.hexdigest()
    bare = template(stamp)
    compiled = {name: register_jitable(hook) for name, hook in hooks.items()}
    replay = types.FunctionType(
        bare.__code__, {**globals(), **compiled}, bare.__name__, None, bare.__closure__
    )
    replay.__module__, replay.__qualname__ = __name__, bare.__qualname__
    return njit(cache=keep, nogil=True, boundscheck=not keep)(replay)  # type: ignore[no-any-return]
