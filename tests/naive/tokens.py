"""Naive twin of token pruning: every (token, layer) in a dict, attention written out in loops."""

import math
from collections.abc import Callable, Mapping, Sequence


def attention(
    query: Sequence[float], keys: Mapping[int, Sequence[float]], head_dim: int
) -> dict[int, float]:
    """Return the mean over query heads of the attention to each token.

    query : all heads one after another; keys : of each token, all kv heads one after another
    """
    heads = len(query) // head_dim
    shared = heads // (len(next(iter(keys.values()))) // head_dim)
    mean = dict.fromkeys(keys, 0.0)
    for head in range(heads):
        own = query[head * head_dim : (head + 1) * head_dim]
        first = head // shared * head_dim
        logits = {
            token: math.fsum(a * b for a, b in zip(own, key[first : first + head_dim], strict=True))
            / math.sqrt(head_dim)
            for token, key in keys.items()
        }
        total = math.fsum(math.exp(logit) for logit in logits.values())
        for token, logit in logits.items():
            mean[token] += math.exp(logit) / total / heads
    return mean


def prune(
    steps: Sequence[int],
    layers: int,
    cuts: Mapping[int, float],
    score: Callable[[int, int, Sequence[int]], Mapping[int, float]],
    *,
    for_good: bool = False,
) -> tuple[list[list[list[int]]], list[list[list[int]]], list[set[int]]]:
    """Return the active and the computed tokens of each step and layer, and who waits after each.

    steps : new tokens of each, the prompt first
    cuts : layers before a place -> share of the active tokens but the last that leaves there
    score : (last token, layer whose attention counts, active) -> score of each
    """
    done: dict[tuple[int, int], bool] = {}
    gone: set[int] = set()
    active_sets, computed_sets, waiting = [], [], []
    there = 0
    for number, new in enumerate(steps):
        there += new
        active = [token for token in range(there) if token not in gone]
        own_active, own_computed = [], []
        for layer in range(layers):
            if layer in cuts and (number == 0 or not for_good):
                scores = score(there - 1, layer - 1, active)
                worst = sorted(active[:-1], key=lambda token: (scores[token], token))
                leaving = set(worst[: math.floor(cuts[layer] * (len(active) - 1) + 1e-9)])
                active = [token for token in active if token not in leaving]
                gone |= leaving if for_good else set()
            fresh = [token for token in active if (token, layer) not in done]
            for token in fresh:
                assert all((token, below) in done for below in range(layer))
                done[token, layer] = True
            own_active.append(active)
            own_computed.append(fresh)
        active_sets.append(own_active)
        computed_sets.append(own_computed)
        waiting.append({t for t in range(there) if (t, 0) in done and (t, layers - 1) not in done})
    return active_sets, computed_sets, waiting
