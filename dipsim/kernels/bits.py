"""Sets of units as bits: unit u is bit ``u % 64`` of word ``u // 64``.

What is compiled here uses nothing outside this file, so numba's stored code is renewed with it.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types as nb
from numba.core import config
from numba.extending import intrinsic, register_jitable

from dipsim.kernels.stored import stored

SKIP, JOIN, JOIN_DECODE, COMMIT, DECODE = 0, 1, 2, 3, 4
"""Actions of a row: do nothing; add its mask to a batch that goes on, of prefill or of a decode
step; end a batch of prefill; end a decode step, which mostly has no other row."""
NO_NEXT = 2**62
"""The next use of a unit that is never used again."""
AT_ONCE = 8
"""`list_units` writes this many places at once: a list has as many to spare."""

FEW = 2
"""`list_few` writes this many places at once."""


@register_jitable
def stamp(token: int, parts_count: int, p: int) -> int:
    """Return the number of a part's batch at a token: the clock that policies are shown."""
    return token if token == NO_NEXT else token * parts_count + p


@intrinsic
def lowest_bit(typing: Any, word: Any) -> Any:
    """Return the position of the lowest bit of a word; undefined when the word is 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return nb.int64(nb.uint64), generate


@intrinsic
def ones(typing: Any, word: Any) -> Any:
    """Count the bits of a word that are set."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return nb.int64(nb.uint64), generate


@register_jitable
def without_lowest(word: Any) -> Any:
    """Return a word without its lowest bit; 0 stays 0."""
    return word & (word - np.uint64(1))


if config.DISABLE_JIT:  # coverage and bounds runs execute the kernels as plain Python

    def lowest_bit(word: Any) -> int:  # noqa: D103
        return (int(word) & -int(word)).bit_length() - 1

    def ones(word: Any) -> int:  # noqa: D103
        return int(word).bit_count()

    def without_lowest(word: Any) -> Any:  # noqa: D103
        return np.uint64(int(word) & (int(word) - 1))


@register_jitable
def first_units(word: Any, n: int) -> Any:
    """Return the n lowest units of a word that has at least as many."""
    left = word
    for _ in range(n):
        left = without_lowest(left)
    return word & ~left


@register_jitable
def holds(words: Any, unit: int) -> bool:
    """Tell whether a set holds a unit."""
    return (words[unit >> 6] >> np.uint64(unit & 63)) & np.uint64(1) != 0


@register_jitable
def unpack(words: Any, flags: Any, units: int) -> None:
    """Write for every unit whether a set holds it to ``flags``, bool[units or more]."""
    whole = units >> 6
    for w in range(whole):  # 64 at a time, so that the loop is vectorised
        word, base = words[w], w * 64
        for b in range(64):
            flags[base + b] = (word >> np.uint64(b)) & np.uint64(1) != 0
    for u in range(whole * 64, units):
        flags[u] = holds(words, u)


@register_jitable
def bit(unit: int) -> Any:
    """Return the word in which only this unit's bit is set."""
    return np.uint64(1) << np.uint64(unit & 63)


@register_jitable
def list_units(word: Any, base: int, into: Any, count: int) -> int:
    """Append the units of one word, ascending; returns the new count.

    Several at once, past the last one too: a loop that ends with the word's last bit is
    mispredicted at almost every word, and takes twice as long.
    """
    end = count + ones(word)
    while count < end:
        for i in range(AT_ONCE):
            into[count + i] = base + lowest_bit(word)
            word = without_lowest(word)
        count += AT_ONCE
    return end


@register_jitable
def list_few(word: Any, base: int, into: Any, count: int) -> int:
    """Append the units of one word, which are mostly none to `FEW`, ascending; returns the new
    count. Without a branch there is nothing to mispredict."""
    end = count + ones(word)
    while True:
        for i in range(FEW):
            into[count + i] = base + lowest_bit(word)
            word = without_lowest(word)
        count += FEW
        if count >= end:
            return end


@stored(nogil=True)
def count_uses(sets, layer, actions, uses):
    """Add to ``uses`` (int64[units]) the number of committed rows that each unit is active in."""
    for r in range(sets.shape[0]):
        if actions[r] >= COMMIT:
            for w in range(sets.shape[2]):
                word = sets[r, layer, w]
                while word:
                    uses[w * 64 + lowest_bit(word)] += 1
                    word &= word - np.uint64(1)


@stored(nogil=True)
def next_uses(sets, layer, actions, resets, first, after, uses):
    """Walk a block backwards and note the next use of every active unit.

    Args:
        after: int64[units], the next use behind the block; updated to that before the block.
        uses: int64[active] out: for every committed row, in order, the next use of each unit,
            ascending.
    """
    end = uses.shape[0]
    for back in range(sets.shape[0]):
        r = sets.shape[0] - 1 - back
        if actions[r] >= COMMIT:
            for w in range(sets.shape[2]):
                end -= ones(sets[r, layer, w])
            place = end
            for w in range(sets.shape[2]):
                word = sets[r, layer, w]
                while word:
                    unit = w * 64 + lowest_bit(word)
                    uses[place] = after[unit]
                    after[unit] = first + r
                    place += 1
                    word = without_lowest(word)
        if resets[r]:
            for unit in range(after.shape[0]):
                after[unit] = NO_NEXT
