"""Cutting a prompt in one go: which of its positions stay."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.kv.attention import Heads
from dipsim.kv.rules.contract import Rule
from dipsim.kv.share import ada

_LEAST_WEIGHT = 1e-4
"""Weight that is added to every position's before it is multiplied by a size."""


def first_query(rule: Rule, prompt: int) -> int:
    """Return the first query of a prompt that counts."""
    return max(0, prompt - rule.window) if rule.window else 0


def cut_prompt(
    rule: Rule, heads: Heads, scores: NDArray[np.float64], budget: int
) -> NDArray[np.bool_]:
    """Return what stays of a prompt, bool[kv heads, prompt].

    Args:
        heads: keys, and sizes of projected values where the rule needs them.
        scores: float64[kv heads, prompt], contributions of the queries that count; pooled in
            place where the rule says so, so that eviction at later tokens goes on from there.
        budget: positions that stay, mean over the heads of the layer.
    """
    prompt = scores.shape[1]
    if rule.by_key:
        return _cut_by_keys(rule, heads.keys[:prompt], budget)
    oldest_safe = max(0, prompt - rule.recent(budget))
    scores[:, :oldest_safe] = _pooled(rule, scores[:, :oldest_safe])
    ranks = scores.copy()
    if rule.per_query:
        ranks /= prompt - np.maximum(np.arange(prompt), first_query(rule, prompt))
    if rule.joined:
        ranks[:] = ranks.sum(axis=0)
    ranks[:, : rule.sinks] = np.inf
    ranks[:, oldest_safe:] = np.inf
    if rule.needs_projection:
        assert heads.projected is not None, "checked by whoever gives the heads"
        queries = min(rule.window or prompt, prompt) * heads.group
        sizes = heads.projected[:prompt].T
        ranks = np.where(
            best(ranks, int(rule.first_stage * budget)),
            np.inf,
            (ranks / queries + _LEAST_WEIGHT) * sizes,
        )
    return ada(ranks, budget, rule.safe) if rule.share == "ada" else best(ranks, budget)


def best(ranks: NDArray[Any], budget: int) -> NDArray[np.bool_]:
    """Return the highest ranks of each row, bool as ``ranks``; of tied ones the later."""
    kept = np.zeros(ranks.shape, np.bool_)
    order = np.argsort(ranks, axis=1, kind="stable")
    np.put_along_axis(kept, order[:, max(0, ranks.shape[1] - budget) :], True, axis=1)
    return kept


def _pooled(rule: Rule, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores smoothed along positions; beyond the ends lie zeros (avg) or nothing (max)."""
    if rule.pool == "none" or scores.shape[1] == 0:
        return scores
    edge = 0.0 if rule.pool == "avg" else -np.inf
    padded = np.pad(scores, ((0, 0), (rule.kernel // 2, rule.kernel // 2)), constant_values=edge)
    neighbours = np.lib.stride_tricks.sliding_window_view(padded, rule.kernel, axis=1)
    pooled: NDArray[np.float64]
    pooled = neighbours.mean(axis=-1) if rule.pool == "avg" else neighbours.max(axis=-1)
    return pooled


def _cut_by_keys(rule: Rule, keys: NDArray[Any], budget: int) -> NDArray[np.bool_]:
    """Return what stays of a prompt where keys decide, cut whenever ``rule.every`` have come."""
    prompt, kv_heads, _ = keys.shape
    kept = np.zeros((kv_heads, prompt), np.bool_)
    kept[:, :budget] = True
    for start in range(budget, prompt, rule.every):
        kept[:, start : start + rule.every] = True
        for j in range(kv_heads):
            held = np.flatnonzero(kept[j])
            ranks = rule.key_score(keys[held, j]).astype(np.float64)
            kept[j, held] = best(ranks[None], budget)[0]
    return kept
