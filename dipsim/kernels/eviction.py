"""Choice of the units that leave: the n lowest of many by (rank, last use, unit)."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types as nb
from numba.extending import intrinsic, overload, register_jitable

from dipsim.kernels.bits import first_units, lowest_bit, ones, without_lowest
from dipsim.kernels.vector import deposit, reach

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


@intrinsic
def _float_bits(typing: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return nb.int64(nb.float64), generate


def order(rank: Any) -> int:
    """Return an int64 that sorts like ``rank``; the compiled form is `_order_compiled`."""
    if isinstance(rank, float | np.floating):
        bits = int(np.float64(rank + 0.0).view(np.int64))
        return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
    return int(rank)


@overload(order)
def _order_compiled(rank: Any) -> Any:
    if isinstance(rank, nb.Float):

        def of_float(rank: Any) -> Any:
            bits = _float_bits(np.float64(rank) + 0.0)
            return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)

        return of_float

    def of_integer(rank: Any) -> Any:
        return np.int64(rank)

    return of_integer


@register_jitable
def find_cut(keys, count, n, guess):
    """Return (cut, below, reached): the n-th lowest of ``keys[:count]``, and how many keys are
    lower, and as low or lower.

    The search looks at ``guess`` first, then at the next key that occurs, then between the bounds,
    in turns by interpolation and in the middle. Bounds move on to keys that occur, so that few
    rounds are needed however the keys lie.
    """
    low, high = _LOWEST, _HIGHEST
    below, reached, rounds, middle = 0, count, 0, guess
    while low < high:
        if rounds == 2:
            least = most = keys[0]
            for i in range(count):
                least, most = min(least, keys[i]), max(most, keys[i])
            low, high = max(low, least), min(high, most)
        middle = middle if middle > low else low
        middle = middle if middle < high else high - 1
        inside, next_high, next_low = 0, low, high
        for i in range(count):
            key = keys[i]
            inside += np.int64(key <= middle)
            next_high = max(next_high, key if key <= middle else low)
            next_low = min(next_low, key if key > middle else high)
        rounds += 1
        if inside >= n:
            high, reached = next_high, inside
            middle = high - 1
        else:
            low, below = next_low, inside
            middle = low
        if rounds > 2:
            middle = (low & high) + ((low ^ high) >> 1)  # halfway, whatever the span
            step = (np.float64(high) - np.float64(low)) * ((n - below) / (reached - below))
            if rounds % 2 == 1 and step < 2.0**62:
                middle = low + np.int64(step)
    return low, below, reached


@register_jitable
def _leave_below(resident, candidates, keys, cut):
    """Make the candidates with a key below the cut absent; those at the cut remain candidates."""
    i = 0
    for w in range(candidates.shape[0]):
        word = candidates[w]
        if word:
            not_below, above = reach(keys, i, cut), np.uint64(0)
            if cut < _HIGHEST:
                above = reach(keys, i, cut + 1)
            resident[w] &= ~deposit(~not_below, word)
            candidates[w] = deposit(not_below ^ above, word)
            i += ones(word)


@register_jitable
def _differ(words, values):
    """Tell whether two units of a set have different values."""
    first, none = 0, True
    for w in range(words.shape[0]):
        word, base = words[w], w * 64
        if word and none:
            first, none = values[base + lowest_bit(word)], False
        if word & (reach(values, base, first + 1) | ~reach(values, base, first)):
            return True
    return False


@register_jitable
def leave_lowest(resident, candidates, keys, count, n, guess, last):
    """Make the n lowest candidates absent; returns the key of the last of them.

    Args:
        resident: uint64[words], updated.
        candidates: uint64[words] the units that may leave; overwritten.
        keys: int64[count + 64] their ranks, ascending by unit; overwritten.
        guess: a key near which the n-th lowest may lie; it changes no choice.
        last: int64[ids] last uses.
    """
    cut, below, reached = find_cut(keys, count, n, guess)
    _leave_below(resident, candidates, keys, cut)
    left, words = n - below, candidates.shape[0]
    if n < reached and _differ(candidates, last):  # of those at the cut, the longest unused leave
        tied = 0
        for w in range(words):
            word = candidates[w]
            while word:
                keys[tied] = last[w * 64 + lowest_bit(word)]
                tied += 1
                word = without_lowest(word)
        oldest, below, reached = find_cut(keys, tied, left, keys[0])
        _leave_below(resident, candidates, keys, oldest)
        left -= below
    for w in range(words):  # of those as long unused, the lowest units
        word = candidates[w]
        if ones(word) > left:
            word = first_units(word, left)
        left -= ones(word)
        resident[w] &= ~word
    return cut
