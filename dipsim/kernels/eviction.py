"""Choice of the units that leave: the n lowest of many by (rank, last use, unit)."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types as nb
from numba.extending import intrinsic, overload, register_jitable

from dipsim.kernels.bits import bit, lowest_bit, without_lowest


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
    """Return (cut, below): the n-th lowest of ``keys[:count]``, and how many keys are lower.

    The search looks at ``guess`` first, then at the next key that occurs, then between the bounds
    in turns by interpolation and in the middle. Bounds move on to keys that occur, so that few
    rounds are needed however the keys lie.
    """
    low = high = keys[0]
    for i in range(count):
        low = min(low, keys[i])
        high = max(high, keys[i])
    below, reached, rounds = 0, count, 0
    middle = guess
    while low < high:
        middle = min(max(middle, low), high - 1)
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
        if rounds >= 2:
            middle = (low & high) + ((low ^ high) >> 1)  # halfway, whatever the span
            step = (np.float64(high) - np.float64(low)) * ((n - below) / (reached - below))
            if rounds % 2 == 0 and step < 2.0**62:
                middle = low + np.int64(step)
    return low, below


@register_jitable
def leave_lowest(resident, candidates, n, keys, cut, below, last, ids):
    """Make the n lowest candidates absent.

    Args:
        resident: uint64[words], updated.
        candidates: uint64[words] the units that may leave.
        keys: int64[candidates] their ranks, ascending by unit; overwritten.
        cut, below: of `find_cut`.
        last: int64[ids] last uses; ids: int64[candidates] scratch.
    """
    i = tied = 0
    for w in range(candidates.shape[0]):
        word, leaving = candidates[w], np.uint64(0)
        while word:
            b, key = lowest_bit(word), keys[i]
            leaving |= np.uint64(key < cut) << np.uint64(b)
            ids[tied] = w * 64 + b
            tied += np.int64(key == cut)
            i += 1
            word = without_lowest(word)
        resident[w] &= ~leaving
    # Of those tied at the cut, the longest unused leave, then the lowest units.
    left, latest = n - below, np.int64(2**62)
    if left < tied:
        for i in range(tied):
            keys[i] = last[ids[i]]
        latest, below = find_cut(keys, tied, left, keys[0])
        left -= below
    else:
        for i in range(tied):
            keys[i] = 0
    for i in range(tied):
        at_last = keys[i] == latest and left > 0
        left -= np.int64(at_last)
        if keys[i] < latest or at_last:
            resident[ids[i] >> 6] &= ~bit(ids[i])
