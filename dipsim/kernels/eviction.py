"""Choice of the units that leave: the n lowest of many by (rank, last use, unit)."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types as nb
from numba.extending import intrinsic, overload, register_jitable

from dipsim.kernels.stored import stored

BINS = 2048
LANES = 4
"""Counters of each bin: units next to each other often fall into the same one, and adding to what
was just written has to wait."""


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
def spread(low, high):
    """Return (shift, bins): keys from ``low`` to ``high``, less ``low`` and shifted right, fill so
    many bins."""
    span, shift = np.uint64(high) - np.uint64(low), np.uint64(0)
    while (span >> shift) >= np.uint64(BINS):
        shift += np.uint64(1)
    return shift, np.int64(span >> shift) + 1


@register_jitable
def find_cut(histogram, n):
    """Return (cut, below): the bin of the n-th lowest, and how many lie in lower bins."""
    cut, below = 0, 0
    while True:
        inside = 0
        for lane in range(LANES):
            inside += histogram[LANES * cut + lane]
        if below + inside >= n:
            return cut, below
        below += inside
        cut += 1


@stored(nogil=True)
def lowest(n, count, units, keys, last, rest, histogram):
    """Bring the n lowest of ``units[:count]`` by (key, last use, unit) to ``units[:n]``.

    ``units`` ascend. A radix selection: a histogram over the span of the keys names the bin the
    cut falls into; lower bins are taken; the bin itself is looked at again on a finer scale, then
    with the last use as key, and what still ties goes by id.

    Args:
        units: int64[count], reordered.
        keys: int64[count], overwritten; last: int64[ids]; rest: int64[count] scratch.
        histogram: int64[BINS * LANES] scratch.
    """
    undecided, taken, by_last = units, 0, False
    while count > n - taken:
        low = high = keys[0]
        for i in range(count):
            low = min(low, keys[i])
            high = max(high, keys[i])
        if low == high:
            if by_last:
                break
            by_last = True
            for i in range(count):
                keys[i] = last[undecided[i]]
            continue
        shift, bins = spread(low, high)
        for i in range(bins * LANES):
            histogram[i] = 0
        for i in range(count):
            bin_of = np.int64((np.uint64(keys[i]) - np.uint64(low)) >> shift)
            histogram[LANES * bin_of + i % LANES] += 1
        cut, _ = find_cut(histogram, n - taken)
        left = 0
        for i in range(count):
            # Write first and keep by counting up: a branch would be mispredicted half the time.
            unit, key = undecided[i], keys[i]
            bin_of = np.int64((np.uint64(key) - np.uint64(low)) >> shift)
            units[taken] = unit
            taken += np.int64(bin_of < cut)
            rest[left] = unit
            keys[left] = key
            left += np.int64(bin_of == cut)
        undecided, count = rest, left
    for i in range(n - taken):
        units[taken + i] = undecided[i]
