"""Naive twin of retrieval: blocks in lists, one query, one key and one position at a time.

* `choose`: the complete blocks that each token reads beside the newest one.
* `attend`: attention over those positions, and what it keeps of attention over all.
* `missed`: which of the blocks come from flash, where a cache keeps some in DRAM.
"""

import math
from typing import Any

import numpy as np

from naive.replay import replay

Array = Any


def score(query: Array, keys: list[Array], by: str) -> float:
    """Return how well a query and the keys of a block go together."""
    if by == "max":
        return max(float(query @ key) for key in keys)
    return float(query @ (sum(keys) / len(keys)))


def choose(
    q: Array,
    k: Array,
    top: int,
    block: int,
    by: str = "centroid",
    per: str = "layer",
    first: int = 0,
) -> list[list[list[int]]]:
    """Return for each token, and each choice of a layer, the blocks in ascending order.

    Args:
        q: float[tokens, heads, dim]; k: float[tokens, kv heads, dim].
        first: tokens before it are a prompt, and choose nothing.
    """
    tokens, heads, _ = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    own = [list(range(j * group, (j + 1) * group)) for j in range(kv_heads)]
    choices = [list(range(heads))] if per == "layer" else own
    out: list[list[list[int]]] = []
    for t in range(tokens):
        out.append([])
        for deciding in choices:
            ranked = []
            for b in range(t // block if t >= first else 0):
                positions = range(b * block, (b + 1) * block)
                scores = [
                    score(q[t, h], [k[x, h // group] for x in positions], by) for h in deciding
                ]
                ranked.append((max(scores), b))
            out[-1].append(sorted(b for _, b in sorted(ranked)[-top:]))
    return out


def seen(t: int, blocks: list[int], block: int, first: int = 0) -> list[int]:
    """Return the positions that a token attends to."""
    if t < first:
        return list(range(t + 1))
    chosen = [x for b in blocks for x in range(b * block, (b + 1) * block)]
    return chosen + list(range(t // block * block, t + 1))


def attend(
    q: Array, k: Array, v: Array, chosen: list[list[list[int]]], block: int, first: int = 0
) -> tuple[Array, Array, Array]:
    """Return outputs [tokens, heads, dim] over what is seen, those over all, and the weight of what
    is seen, [tokens, heads]."""
    tokens, heads, dim = q.shape
    group = heads // k.shape[1]
    outputs, dense = np.zeros((2, tokens, heads, dim))
    mass = np.zeros((tokens, heads))
    for t in range(tokens):
        for h in range(heads):
            j = h // group
            blocks = chosen[t][j % len(chosen[t])]
            powers = [math.exp(q[t, h] @ k[x, j] / math.sqrt(dim)) for x in range(t + 1)]
            dense[t, h] = sum(powers[x] * v[x, j] for x in range(t + 1)) / sum(powers)
            some = seen(t, blocks, block, first)
            total = sum(powers[x] for x in some)
            outputs[t, h] = sum(powers[x] * v[x, j] for x in some) / total
            mass[t, h] = total / sum(powers)
    return outputs, dense, mass


def missed(
    chosen: list[list[int]], block: int, capacity: int, policy: str, **how: Any
) -> list[list[int]]:
    """Return the blocks that each token reads from flash, of one choice of a layer.

    A block is used by the token that writes its last position, too: it is not read then.
    """
    born = [t // block if t % block == block - 1 else None for t in range(len(chosen))]
    sets = [
        set(blocks) | ({b} if b is not None else set())
        for blocks, b in zip(chosen, born, strict=True)
    ]
    rows = replay(sets, len(chosen) // block, capacity, policy, **how)
    return [[b for b in row.missed if b != own] for row, own in zip(rows, born, strict=True)]
