"""Rounding of keys and values, number by number."""

import struct
from collections.abc import Sequence

Block = Sequence[float]


def half(x: float) -> float:
    """The nearest number in fp16."""
    return struct.unpack("e", struct.pack("e", x))[0]


def by_range(block: Block, bits: int) -> list[float]:
    """Steps from the least number to the largest, both kept in fp16."""
    zero = half(min(block))
    step = half((max(block) - zero) / (2**bits - 1))
    if step == 0:
        return [zero] * len(block)
    return [min(max(round((x - zero) / step), 0), 2**bits - 1) * step + zero for x in block]


def q8_0(block: Block) -> list[float]:
    """Multiples of the largest size / 127; halves away from zero."""
    step = max(map(abs, block)) / 127
    if step == 0:
        return [0.0] * len(block)
    whole = [int(abs(x) / step + 0.5) * (1 if x > 0 else -1) for x in block]
    return [many * half(step) for many in whole]


def q4_0(block: Block) -> list[float]:
    """Multiples of a step of which the number of the largest size is -8."""
    peak = max(block, key=abs)
    step = -peak / 8
    if step == 0:
        return [0.0] * len(block)
    return [(min(15, int(x / step + 8.5)) - 8) * half(step) for x in block]


def blocks_of(row: Block, group: int) -> list[list[float]]:
    """Neighbours by the group; the last ones may be fewer."""
    return [list(row[i : i + group]) for i in range(0, len(row), group)]


def attention(query, key, value, old_key, old_value, key_from, value_from, scale):
    """Output of one head's last query, over positions that are read rounded where they are old.

    query: [dim]; key, value: [positions][dim]; old_key, old_value: the same, rounded; key_from,
    value_from: positions before these are old.
    """
    from math import exp

    logits = []
    for position in range(len(key)):
        k = old_key[position] if position < key_from else key[position]
        logits.append(scale * sum(a * b for a, b in zip(query, k, strict=True)))
    top = max(logits)
    weights = [exp(z - top) for z in logits]
    total = sum(weights)
    output = [0.0] * len(query)
    for position, weight in enumerate(weights):
        v = old_value[position] if position < value_from else value[position]
        for i, x in enumerate(v):
            output[i] += weight / total * x
    return output
