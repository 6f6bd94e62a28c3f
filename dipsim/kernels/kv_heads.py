"""The loop of KV eviction: the heads of one layer, token by token, over what they still hold.

The positions of a head lie packed in slots: a new one takes the next slot, and the last one moves
into the slot of a position that is evicted.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.kernels.attention import FLOAT_MATH, attend, dot
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.stored import stored

NEVER = 2**31 - 1
"""The token that first misses a position which never leaves."""


class Held(NamedTuple):
    """Positions that the kv heads of a layer hold, packed in slots."""

    keys: NDArray[Any]
    """float[kv heads, slots, dim]."""
    values: NDArray[Any]
    """float[kv heads, slots, dim]."""
    squares: NDArray[Any]
    """float[kv heads, slots], squared lengths of the values."""
    sizes: NDArray[Any]
    """float[kv heads, slots], sums of the magnitudes of the values."""
    positions: NDArray[np.int64]
    """int64[kv heads, slots]."""
    scores: NDArray[np.float64]
    """float64[kv heads, slots], contributions of the queries so far."""
    ranks: NDArray[np.float64]
    """float64[kv heads, slots], the lowest of which leaves; written when a head is cut."""
    counts: NDArray[np.int64]
    """int64[kv heads], slots in use."""


class Work(NamedTuple):
    """Room for what one query sees."""

    logits: NDArray[Any]
    """float[query heads of a kv head, slots], scaled and capped."""
    weights: NDArray[Any]
    """float[query heads of a kv head, slots], of attention."""
    products: NDArray[Any]
    """float[slots], of the values with the output."""
    mean: NDArray[Any]
    """float[dim], the output averaged over query heads."""


class Terms(NamedTuple):
    """A rule in numbers."""

    budgets: NDArray[np.int64]
    """int64[kv heads], positions held between tokens."""
    recent: NDArray[np.int64]
    """int64[kv heads], newest positions that never leave."""
    sinks: int
    """First positions that never leave."""
    every: int
    """Positions by which a head outgrows its budget before it is cut."""
    memory: float
    """Share of a score that lasts from one token to the next."""
    since: int
    """First query that counts where scores are means over queries; -1 where they are sums."""
    by_key: bool
    """Scores come from the keys that are held, and attention is not looked at."""
    joined: bool
    """All heads of the layer hold the same positions."""
    averaged: bool
    """Weights and logits are averaged over the query heads of a kv head before they count."""
    twice: bool
    """Values are read again, to compare them with the output."""
    frequencies: NDArray[np.float64]
    """float64[dim / 2], radians per position by which sinks are turned to close the gap behind
    them; of length 0 where they stay as they are."""


@register_jitable
def _hold(held, j, position, score, key, value):
    """Put a position into the next slot of a head."""
    s = held.counts[j]
    held.counts[j] += 1
    held.positions[j, s] = position
    held.scores[j, s] = score
    square, size = key[0] * 0, key[0] * 0
    for d in range(key.shape[0]):
        held.keys[j, s, d] = key[d]
        held.values[j, s, d] = value[d]
        square += value[d] * value[d]
        size += abs(value[d])
    held.squares[j, s] = square
    held.sizes[j, s] = size


@register_jitable
def _drop(held, j, s):
    """Free a slot of a head: the last one moves there."""
    held.counts[j] -= 1
    last = held.counts[j]
    held.positions[j, s] = held.positions[j, last]
    held.scores[j, s] = held.scores[j, last]
    held.ranks[j, s] = held.ranks[j, last]
    held.squares[j, s] = held.squares[j, last]
    held.sizes[j, s] = held.sizes[j, last]
    for d in range(held.keys.shape[2]):
        held.keys[j, s, d] = held.keys[j, last, d]
        held.values[j, s, d] = held.values[j, last, d]


@register_jitable
def _close_gap(held, j, gap, terms, keys):
    """Turn the sinks of a head as if the ``gap`` positions that have left had never been there.

    Sinks lie in the first slots, in order: they came first, and no slot behind them moves there.
    """
    half = terms.frequencies.shape[0]
    for d in range(half):
        cosine, sine = math.cos(gap * terms.frequencies[d]), math.sin(gap * terms.frequencies[d])
        for s in range(min(terms.sinks, held.counts[j])):
            one, other = keys[s, j, d], keys[s, j, d + half]
            held.keys[j, s, d] = one * cosine - other * sine
            held.keys[j, s, d + half] = other * cosine + one * sine


@register_jitable
def _average(work, outputs, count):
    """Put the averages over query heads into the first row of the logits and weights."""
    group = outputs.shape[0]
    zero = outputs[0, 0] * 0  # of the dtype of all
    work.mean[:] = zero
    for g in range(group):
        for d in range(outputs.shape[1]):
            work.mean[d] += outputs[g, d] / group
    for s in range(count):
        logit, weight = zero, zero
        for g in range(group):
            logit += work.logits[g, s]
            weight += work.weights[g, s]
        work.logits[0, s] = logit / group
        work.weights[0, s] = weight / group


@register_jitable
def _lowest(ranks, positions, count, oldest, newest):
    """Return the slot of lowest rank among positions oldest .. newest; of a tie the older."""
    lowest = -1
    for s in range(count):
        if oldest <= positions[s] <= newest:
            best = lowest if lowest >= 0 else s
            older = positions[s] <= positions[best]
            if ranks[s] < ranks[best] or (ranks[s] == ranks[best] and older):
                lowest = s
    return lowest


@register_jitable
def _cut(held, t, terms, left):
    """Let the lowest ranks of every head that has outgrown its budget leave."""
    for j in range(held.counts.shape[0]):
        if held.counts[j] < terms.budgets[j] + terms.every:
            continue
        while held.counts[j] > terms.budgets[j]:
            s = _lowest(
                held.ranks[j], held.positions[j], held.counts[j], terms.sinks, t - terms.recent[j]
            )
            left[j, held.positions[j, s]] = t + 1
            _drop(held, j, s)


def _scoring(contribution: Callable[..., Any]) -> Callable[..., None]:
    """Return the function that adds a rule's contributions of one token to a head's scores."""
    contribution = register_jitable(contribution)

    def add_scores(held, j, work, outputs, terms):
        count, group = held.counts[j], outputs.shape[0]
        for s in range(count):
            held.scores[j, s] *= terms.memory
        if terms.averaged:
            _average(work, outputs, count)
            group = 1
        for g in range(group):
            output = work.mean if terms.averaged else outputs[g]
            output_square = output[0] * 0
            if terms.twice:
                output_square = dot(output, output)
                for s in range(count):
                    work.products[s] = dot(output, held.values[j, s])
            for s in range(count):
                held.scores[j, s] += contribution(
                    work.weights[g, s],
                    work.logits[g, s],
                    held.squares[j, s],
                    work.products[s],
                    output_square,
                    held.sizes[j, s],
                )

    return register_jitable(add_scores)


def _ranking(key_score: Callable[..., Any]) -> Callable[..., None]:
    """Return the function that ranks what the heads hold by a rule's scores."""
    key_score = register_jitable(key_score)

    def rank(held, t, terms):
        for j in range(held.counts.shape[0]):
            count = held.counts[j]
            if terms.by_key and count >= terms.budgets[j] + terms.every:
                held.ranks[j, :count] = key_score(held.keys[j, :count])
            elif not terms.by_key:
                for s in range(count):
                    seen = t - max(held.positions[j, s], terms.since) + 1
                    held.ranks[j, s] = held.scores[j, s] / (seen if terms.since >= 0 else 1)
        if terms.joined:
            for s in range(held.counts[0]):
                for j in range(1, held.counts.shape[0]):
                    held.ranks[0, s] += held.ranks[j, s]
                for j in range(1, held.counts.shape[0]):
                    held.ranks[j, s] = held.ranks[0, s]

    return register_jitable(rank)


def _loop(add_scores: Any, rank: Any, fingerprint: str) -> Callable[..., None]:
    def evict_heads(
        queries, keys, values, kept, sums, first, terms, scale, softcap, held, work, left, outputs
    ):
        """Attend, score and evict at each token behind those that were evicted from before.

        Args:
            queries: float[tokens, heads, dim].
            keys: float[tokens, kv heads, dim].
            values: float[tokens, kv heads, dim].
            kept: bool[kv heads, before], which of the tokens before are held.
            sums: float64[kv heads, before], their scores.
            first: query from which on contributions count.
            terms: the rule.
            scale: of the logits.
            softcap: bound of the logits; 0 for none.
            held: room, empty.
            work: room.
            left: int32[kv heads, tokens], out where a position leaves: the first token that
                misses it.
            outputs: float[tokens, heads, dim], out: rows of the tokens behind.
        """
        fingerprint
        before = kept.shape[1]
        kv_heads = keys.shape[1]
        group = queries.shape[1] // kv_heads
        for t in range(queries.shape[0]):
            full = False
            for j in range(kv_heads):
                if t < before:
                    if kept[j, t]:
                        _hold(held, j, t, sums[j, t], keys[t, j], values[t, j])
                    continue
                _hold(held, j, t, 0.0, keys[t, j], values[t, j])
                count = held.counts[j]
                if terms.frequencies.shape[0] > 0:
                    _close_gap(held, j, t + 1 - count, terms, keys)
                for g in range(group):
                    h = j * group + g
                    attend(
                        queries[t, h],
                        held.keys[j],
                        held.values[j],
                        count,
                        scale,
                        softcap,
                        work.logits[g],
                        work.weights[g],
                        outputs[t, h],
                    )
                if not terms.by_key and t >= first:
                    add_scores(held, j, work, outputs[t, j * group : (j + 1) * group], terms)
                full = full or count >= terms.budgets[j] + terms.every
            if full:
                rank(held, t, terms)
                _cut(held, t, terms, left)

    return evict_heads


@cache
def evict_heads_with(
    contribution: Callable[..., Any], key_score: Callable[..., Any]
) -> Callable[..., None]:
    """Return the compiled loop with a rule's functions bound into it.

    Args:
        contribution: ``contribution(weight, logit, value_square, value_output, output_square,
            value_size)`` of one query to the score of one position.
        key_score: ``key_score(keys)``, float[n, dim] -> float[n], of the positions held.
    """
    names = [f"{hook.__module__} {hook.__qualname__}" for hook in (contribution, key_score)]
    homes = {Path(hook.__code__.co_filename).parent for hook in (contribution, key_score)}
    key = fingerprint(homes, *names)
    loop = _loop(_scoring(contribution), _ranking(key_score), key)
    return stored(key=key, nogil=True, fastmath=FLOAT_MATH)(loop)


def new_held(kv_heads: int, slots: int, dim: int, dtype: Any) -> Held:
    """Return room for ``slots`` positions of each kv head."""
    return Held(
        np.empty((kv_heads, slots, dim), dtype),
        np.empty((kv_heads, slots, dim), dtype),
        np.empty((kv_heads, slots), dtype),
        np.empty((kv_heads, slots), dtype),
        np.empty((kv_heads, slots), np.int64),
        np.empty((kv_heads, slots), np.float64),
        np.empty((kv_heads, slots), np.float64),
        np.zeros(kv_heads, np.int64),
    )


def new_work(group: int, slots: int, dim: int, dtype: Any) -> Work:
    """Return room for ``group`` query heads over ``slots`` positions."""
    return Work(
        np.empty((group, slots), dtype),
        np.empty((group, slots), dtype),
        np.zeros(slots, dtype),
        np.empty(dim, dtype),
    )
