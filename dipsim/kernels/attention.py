"""Attention of one query over packed keys, and how far off it is over fewer positions."""

import math

import numpy as np
from numba.extending import register_jitable

from dipsim.kernels.stored import stored

FLOAT_MATH = {"reassoc", "nsz", "arcp", "contract", "afn"}
"""Freedoms of floating point with which sums run in parallel; infinities keep their meaning."""


@register_jitable
def dot(a, b):
    """Return the product of two vectors."""
    total = a[0] * b[0]
    for d in range(1, a.shape[0]):
        total += a[d] * b[d]
    return total


@register_jitable
def attend(query, keys, values, count, scale, softcap, logits, weights, output):
    """Write the logits, weights and output of one query head over the first slots."""
    zero = query[0] * 0  # of the dtype of all
    highest, total = zero - np.inf, zero
    for s in range(count):
        logit = dot(query, keys[s]) * scale
        if softcap > 0:
            logit = softcap * math.tanh(logit / softcap)
        logits[s] = logit
        highest = max(highest, logits[s])
    for s in range(count):
        weights[s] = math.exp(logits[s] - highest)
        total += weights[s]
    output[:] = 0
    for s in range(count):
        weights[s] /= total
        for d in range(output.shape[0]):
            output[d] += weights[s] * values[s, d]


@stored(nogil=True, fastmath=FLOAT_MATH)
def compare_heads(
    queries, keys, values, scale, softcap, first, outputs, left, work, mass, change, energy
):
    """Compare outputs over held positions with attention over all of them.

    Args:
        queries: float[tokens, heads, dim].
        keys: float[kv heads, tokens, dim].
        values: float[kv heads, tokens, dim].
        first: query to begin with.
        outputs: float[tokens, heads, dim], over held positions.
        left: int32[kv heads, tokens], the first token that misses a position.
        work: float[2, tokens + dim], room.
        mass: float64[tokens], out: weight of held positions, mean over heads.
        change: float64[tokens], out: sums over heads of |o' - o|^2.
        energy: float64[tokens], out: sums over heads of |o|^2.
    """
    tokens, heads, dim = queries.shape
    group = heads // keys.shape[0]
    dense = work[0, tokens:]
    for h in range(heads):
        j = h // group
        for t in range(first, tokens):
            attend(
                queries[t, h], keys[j], values[j], t + 1, scale, softcap, work[0], work[1], dense
            )
            kept, apart, square = np.float64(0), np.float64(0), np.float64(0)
            for x in range(t + 1):
                kept += work[1, x] if left[j, x] > t else work[1, x] * 0
            for d in range(dim):
                apart += (outputs[t, h, d] - dense[d]) ** 2
                square += dense[d] ** 2
            mass[t] += kept / heads
            change[t] += apart
            energy[t] += square


@register_jitable
def _list_seen(t, chosen, size, seen):
    """List the positions of a token's chosen blocks and of its newest one; return how many."""
    newest = t // size
    count = 0
    for b in range(newest + 1):
        if b == newest or chosen[b]:
            for x in range(b * size, min((b + 1) * size, t + 1)):
                seen[count] = x
                count += 1
    return count


@register_jitable
def _attend_to(logits, values, seen, count, output):
    """Write the output of one query head over some positions, whose logits are known."""
    highest, total = logits[0] * 0 - np.inf, logits[0] * 0
    for i in range(count):
        highest = max(highest, logits[seen[i]])
    output[:] = 0
    for i in range(count):
        weight = math.exp(logits[seen[i]] - highest)
        total += weight
        for d in range(output.shape[0]):
            output[d] += weight * values[seen[i], d]
    for d in range(output.shape[0]):
        output[d] /= total


@stored(nogil=True, fastmath=FLOAT_MATH)
def attend_to_blocks(
    queries,
    keys,
    values,
    scale,
    softcap,
    first,
    chosen,
    size,
    seen,
    work,
    outputs,
    mass,
    change,
    energy,
):
    """Attend to chosen blocks and the newest one, and compare with attention over all positions.

    Args:
        queries: float[tokens, heads, dim].
        keys: float[kv heads, tokens, dim].
        values: float[kv heads, tokens, dim].
        first: query to begin with; those before it attend to all.
        chosen: bool[tokens, sets, blocks]; sets is 1 or the kv heads.
        size: positions of a block.
        seen: int64[tokens], room.
        work: float[2, tokens + dim], room.
        outputs: float[tokens, heads, dim], out.
        mass: float64[tokens], out: weight of the positions that are seen, mean over heads.
        change: float64[tokens], out: sum over heads of |o' - o|^2.
        energy: float64[tokens], out: sum over heads of |o|^2.
    """
    tokens, heads, dim = queries.shape
    group, sets = heads // keys.shape[0], chosen.shape[1]
    logits, weights, dense = work[0], work[1], work[0, tokens:]
    for h in range(heads):
        j = h // group
        for t in range(tokens):
            attend(queries[t, h], keys[j], values[j], t + 1, scale, softcap, logits, weights, dense)
            if t < first:
                outputs[t, h] = dense
                continue
            count = _list_seen(t, chosen[t, j % sets], size, seen)
            _attend_to(logits, values[j], seen, count, outputs[t, h])
            kept, apart, square = np.float64(0), np.float64(0), np.float64(0)
            for i in range(count):
                kept += weights[seen[i]]
            for d in range(dim):
                apart += (outputs[t, h, d] - dense[d]) ** 2
                square += dense[d] ** 2
            mass[t] += kept / heads
            change[t] += apart
            energy[t] += square
