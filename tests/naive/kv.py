"""Naive twin of KV eviction: lists of positions, one query head at a time, in plain numpy.

Nothing here comes from dipsim. `run` walks through the tokens of one layer; RULES says for each
rule what a query contributes, which positions are protected, and how a prompt is cut.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = Any


def softmax(logits: Array) -> Array:
    """Return weights that sum to 1."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def weight(a: float, z: float, v: Array, o: Array) -> float:
    return a


def value_lost(a: float, z: float, v: Array, o: Array) -> float:
    return float(np.sum((a * v) ** 2))


def key_lost(a: float, z: float, v: Array, o: Array) -> float:
    return float(np.sum((a * z * (v - o)) ** 2))


def both_lost(a: float, z: float, v: Array, o: Array) -> float:
    return float(np.sum((a * v + a * z * (v - o)) ** 2))


def sized(a: float, z: float, v: Array, o: Array) -> float:
    return a * float(np.sum(np.abs(v)))


def rotated(vector: Array, angles: Array) -> Array:
    """Return a vector whose numbers d and d + dim / 2 are turned by the angle of d."""
    turned = vector.copy()
    half = len(vector) // 2
    for d, angle in enumerate(angles):
        x, y = vector[d], vector[d + half]
        turned[d] = x * math.cos(angle) - y * math.sin(angle)
        turned[d + half] = y * math.cos(angle) + x * math.sin(angle)
    return turned


def by_length(keys: list[Array]) -> list[float]:
    return [-math.sqrt(sum(x * x for x in key)) for key in keys]


def by_likeness(keys: list[Array]) -> list[float]:
    units = [key / np.linalg.norm(key) for key in keys]
    mean = sum(units) / len(units)
    return [-float(unit @ mean / np.linalg.norm(mean)) for unit in units]


@dataclass
class Rule:
    """What a rule says, for a budget b."""

    gain: Callable[[float, float, Array, Array], float] | None = None
    keys: Callable[[list[Array]], list[float]] | None = None
    sinks: int = 0
    recent: Callable[[int], int] = lambda b: 0
    last_only: bool = False
    mean_of_queries: bool = False
    window: int | None = None
    pool: tuple[str, int] | None = None
    one_set: bool = False
    average_first: bool = False
    every: int = 1
    ada: float | None = None
    first_stage: float = 1.0
    by_slot: bool = False


def rule_of(name: str, **given: Any) -> Rule:
    """Return a rule by its name and parameters."""
    if name == "full":
        return Rule(recent=lambda b: b)
    if name == "window":
        return Rule(recent=lambda b: b)
    if name == "streaming":
        sinks = given.get("sinks", 4)
        by_slot = given.get("rerotate", "no") == "yes"
        return Rule(sinks=sinks, recent=lambda b: b - sinks, by_slot=by_slot)
    if name in ("h2o", "vatp"):
        share = given.get("recent", 0.5)
        return Rule(
            gain=weight if name == "h2o" else sized,
            sinks=given.get("sinks", 0 if name == "h2o" else 20),
            recent=lambda b: math.floor(share * b + 1e-9),
            window=given.get("window") or None,
            every=given.get("every", 1),
        )
    if name == "tova":
        joined = given.get("heads", "layer") == "layer"
        return Rule(gain=weight, last_only=True, recent=lambda b: 1, window=1, one_set=joined)
    if name == "observed":
        return Rule(gain=weight, mean_of_queries=True)
    if name in ("snapkv", "adakv", "criticalkv"):
        window = given.get("window", 64)
        return Rule(
            gain=weight,
            window=window,
            pool=(given.get("pool", "avg"), given.get("kernel", 5)),
            recent=lambda b: window,
            ada=given.get("safe", 0.2) if name == "adakv" else None,
            first_stage=given.get("first", 0.5) if name == "criticalkv" else 1.0,
        )
    if name == "keydiff":
        return Rule(keys=by_likeness, every=given.get("every", 128))
    if name == "knorm":
        return Rule(keys=by_length)
    if name == "obcache":
        recent = given.get("recent", 16)
        gains = {"value": value_lost, "key": key_lost, "joint": both_lost}
        return Rule(
            gain=gains[given.get("score", "joint")],
            window=given.get("window", 16) or None,
            pool=(given.get("pool", "max"), given.get("kernel", 7)),
            recent=lambda b: recent,
            sinks=given.get("sinks", 0),
            average_first=given.get("gqa", "sum") == "mean",
            every=given.get("every", 1),
        )
    raise KeyError(name)


@dataclass
class Run:
    """What happened: the positions each token saw, per kv head, and its outputs."""

    seen: list[list[list[int]]] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)
    held: list[list[list[int]]] = field(default_factory=list)


def run(
    rule: Rule,
    q: Array,
    k: Array,
    v: Array,
    budget: int,
    prompt: int = 0,
    then_evict: bool = True,
    softcap: float = 0.0,
    evicts: bool = True,
    sizes: Array = None,
    frequencies: Array = None,
) -> Run:
    """Walk through the tokens of a layer.

    Args:
        q: float64[tokens, heads, dim]; k, v: float64[tokens, kv heads, dim].
        budget: positions per kv head.
        prompt: tokens of a prompt that is cut in one go; 0 for none.
        then_evict: later tokens evict, too.
        sizes: float64[tokens, kv heads] of projected values.
        frequencies: float64[dim / 2] by which q and k were rotated at their positions.
    """
    tokens, heads, dim = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    cells: list[list[int]] = [[] for _ in range(kv_heads)]
    scores: list[dict[int, float]] = [{} for _ in range(kv_heads)]
    limits = [budget] * kv_heads
    counted_from = max(0, prompt - rule.window) if prompt and rule.window else 0
    out = Run()
    for t in range(tokens):
        row = np.zeros((heads, dim))
        for j in range(kv_heads):
            cells[j].append(t)
            scores[j][t] = 0.0
            seen = []
            for h in range(j * group, (j + 1) * group):
                keys, query = [k[x, j] for x in cells[j]], q[t, h]
                if rule.by_slot:  # undo the rotation by position, and rotate by place in the cache
                    pairs = enumerate(zip(cells[j], keys, strict=True))
                    keys = [rotated(key, (slot - x) * frequencies) for slot, (x, key) in pairs]
                    query = rotated(query, (len(keys) - 1 - t) * frequencies)
                z = np.array([query @ key for key in keys]) / math.sqrt(dim)
                if softcap:
                    z = softcap * np.tanh(z / softcap)
                a = softmax(z)
                row[h] = sum(w * v[x, j] for w, x in zip(a, cells[j], strict=True))
                seen.append((a, z, row[h]))
            if rule.gain is None or t < counted_from:
                continue
            if rule.average_first:
                means = [np.mean([part[i] for part in seen], axis=0) for i in range(3)]
                seen = [tuple(means)]
            if rule.last_only:
                scores[j] = dict.fromkeys(scores[j], 0.0)
            for a, z, o in seen:
                for i, x in enumerate(cells[j]):
                    scores[j][x] += rule.gain(a[i], z[i], v[x, j], o)
        out.outputs.append(row)
        out.seen.append([sorted(own) for own in cells])
        if evicts and t == prompt - 1 and budget < prompt:
            limits = cut(rule, cells, scores, k, t, budget, counted_from, sizes, group)
        elif evicts and t >= prompt and then_evict:
            evict(rule, cells, scores, k, t, limits, counted_from)
        out.held.append([sorted(own) for own in cells])
    return out


def ranks_of(
    rule: Rule, cells: list[list[int]], scores: list[dict[int, float]], k: Array, t: int, since: int
) -> list[dict[int, float]]:
    """Return the rank of every position held, lowest leaves first."""
    ranks = []
    for j, own in enumerate(cells):
        if rule.keys is not None:
            ranks.append(dict(zip(own, rule.keys([k[x, j] for x in own]), strict=True)))
        elif rule.mean_of_queries:
            ranks.append({x: scores[j][x] / (t - max(x, since) + 1) for x in own})
        else:
            ranks.append({x: scores[j][x] for x in own})
    if rule.one_set:
        total = {x: sum(rank[x] for rank in ranks) for x in cells[0]}
        ranks = [total] * len(cells)
    return ranks


def evict(
    rule: Rule,
    cells: list[list[int]],
    scores: list[dict[int, float]],
    k: Array,
    t: int,
    limits: list[int],
    since: int,
) -> None:
    """Cut every head that has outgrown its budget."""
    ranks = ranks_of(rule, cells, scores, k, t, since)
    for j, own in enumerate(cells):
        if len(own) < limits[j] + rule.every:
            continue
        while len(own) > limits[j]:
            free = [x for x in own if x >= rule.sinks and x <= t - rule.recent(limits[j])]
            worst = min(free, key=lambda x: (ranks[j][x], x))
            own.remove(worst)
            del scores[j][worst]


def cut(
    rule: Rule,
    cells: list[list[int]],
    scores: list[dict[int, float]],
    k: Array,
    t: int,
    budget: int,
    since: int,
    sizes: Array,
    group: int,
) -> list[int]:
    """Cut a prompt in one go; return the positions that each head then holds."""
    prompt = t + 1
    if rule.keys is not None:
        for j, own in enumerate(cells):
            own[:] = range(budget)
            for start in range(budget, prompt, rule.every):
                own.extend(range(start, min(start + rule.every, prompt)))
                rank = dict(zip(own, rule.keys([k[x, j] for x in own]), strict=True))
                own[:] = sorted(own, key=lambda x: (rank[x], x))[-budget:]
            scores[j].clear()
            scores[j].update(dict.fromkeys(own, 0.0))
        return [budget] * len(cells)
    pooled_until = prompt - rule.recent(budget)
    for own_scores in scores:
        pooled = {}
        for x in range(max(0, pooled_until)):
            if rule.pool is None or rule.pool[0] == "none":
                continue
            half = rule.pool[1] // 2
            near = [own_scores[y] for y in range(x - half, x + half + 1) if 0 <= y < pooled_until]
            pooled[x] = sum(near) / rule.pool[1] if rule.pool[0] == "avg" else max(near)
        own_scores.update(pooled)
    ranks = ranks_of(rule, cells, scores, k, t, since)
    for j in range(len(cells)):
        safe = {x for x in range(prompt) if x < rule.sinks or x >= pooled_until}
        ranks[j] = {x: math.inf if x in safe else rank for x, rank in ranks[j].items()}
    if rule.first_stage < 1:
        ranks = two_stages(rule, ranks, sizes, budget, prompt, group)
    if rule.ada is None:
        keep = [sorted(rank, key=lambda x, r=rank: (r[x], x))[-budget:] for rank in ranks]
    else:
        own_best = max(1, math.floor(rule.ada * budget)) if rule.ada else 0
        for rank in ranks:
            for x in sorted(rank, key=lambda x, r=rank: (r[x], x))[len(rank) - own_best :]:
                rank[x] = math.inf
        every = [(rank[x], x, j) for j, rank in enumerate(ranks) for x in rank]
        best = sorted(every)[-budget * len(cells) :]
        keep = [[x for _, x, head in best if head == j] for j in range(len(cells))]
    for j, own in enumerate(cells):
        own[:] = sorted(keep[j])
        for x in set(scores[j]) - set(own):
            del scores[j][x]
    return [len(own) for own in cells]


def two_stages(
    rule: Rule, ranks: list[dict[int, float]], sizes: Array, budget: int, prompt: int, group: int
) -> list[dict[int, float]]:
    """Return ranks by which the first stage's choice stays, and then the weighted sizes decide."""
    queries = min(rule.window or prompt, prompt)
    out = []
    for j, rank in enumerate(ranks):
        best = sorted(rank, key=lambda x, r=rank: (r[x], x))[::-1]
        chosen = set(best[: math.floor(rule.first_stage * budget)])
        out.append(
            {
                x: math.inf if x in chosen else (rank[x] / (queries * group) + 1e-4) * sizes[x, j]
                for x in rank
            }
        )
    return out
