"""Naive twins of the methods: which units a token needs, by the rules of docs/methods.md.

As in `naive.replay`, all is made of plain dicts, lists and floats and shares no code with dipsim;
numpy rounds to float32 and draws the predictor's noise. A row is a list of scores, or of an
expert's router the logits of its candidates as a dict.

* `group_density`, `calibrate`, `above`, `greedy_densities`: densities and thresholds.
* `noise`, `predicted`, `recall`: the predictor.
* `cluster_scores`, `cluster_set`: neighbouring units as one.
* `masking`, `routing`: rules that look at what is resident, for `naive.replay(choose=...)`.
* `score_shares`, `router_shares`, `weight_lost`: what the chosen units hold.
* `authors_capacity`, `authors_latency`, `authors_rate`: the simulator of DIP's authors.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np

from naive.replay import Choose, Memory


def float32(x: float) -> float:
    """Return x rounded to float32."""
    return float(np.float32(x))


def floor_slack(x: float) -> int:
    """Return x rounded down, unless it is below an integer by float noise only."""
    return math.floor(x + 1e-9)


def best_first(keys: Mapping[int, float], raw: Mapping[int, float]) -> list[int]:
    """Return the units by falling key; ties go to the larger raw score, then to the lower id."""
    return sorted(keys, key=lambda unit: (-keys[unit], -raw[unit], unit))


# ---------------------------------------------------------------------------------------- densities


def group_density(
    method: str, density: float, hidden: int = 0, intermediate: int = 0, rank: int | None = None
) -> float:
    """Return the density of the only group of a method whose MLP has this density."""
    if method in ("gate", "up", "cats"):
        found = (3 * density - 1) / 2
    elif method == "predictor":
        rank = max(1, hidden // 8) if rank is None else rank
        extra = rank * (hidden + intermediate)
        found = density - extra / (3 * hidden * intermediate)
    else:
        raise ValueError(f"{method!r} is not known here")
    if found < 0 or (method == "predictor" and found == 0):
        raise ValueError(f"{method} cannot have a density of {density}")
    return found


# --------------------------------------------------------------------------------------- thresholds


def calibrate(rows: Sequence[Sequence[float]], density: float) -> float:
    """Return the threshold of one layer and group: the largest of the scores to be dropped.

    rows : the scores of all calibration rows
    """
    scores = sorted(score for row in rows for score in row)
    dropped = floor_slack((1 - density) * len(scores))
    return scores[dropped - 1] if dropped > 0 else -1.0


def above(row: Sequence[float], threshold: float) -> list[int]:
    """Return the units that score more than the threshold, ascending; maybe none."""
    return [unit for unit, score in enumerate(row) if score > threshold]


def teal_weights(
    hidden: int, intermediate: int, heads: int, kv_heads: int, head_dim: int
) -> dict[str, int]:
    """Return how many weights each group of teal has in a layer, in the groups' order."""
    return {
        "attn_input": hidden * (heads + 2 * kv_heads) * head_dim,
        "attn_output": heads * head_dim * hidden,
        "mlp_input": 2 * hidden * intermediate,
        "glu": hidden * intermediate,
    }


def energy_held(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the share of the sum of squares that the i smallest scores hold, i = 0 to all."""
    squares = [score * score for score in sorted(score for row in rows for score in row)]
    held = list(accumulate(squares, initial=0.0))
    return [part / held[-1] if held[-1] > 0 else 0.0 for part in held]


def greedy_densities(
    groups: Sequence[Sequence[Sequence[float]]], weights: Sequence[float], density: float
) -> list[float]:
    """Return the density of every group of a layer, found by dropping what loses least.

    groups : the calibration rows of each
    """
    share = [weight / sum(weights) for weight in weights]
    held = [energy_held(rows) for rows in groups]
    sparsity = [0.0] * len(groups)
    while True:
        reached = sum(w * p for w, p in zip(share, sparsity, strict=True))
        remaining = 1 - density - reached
        if remaining <= 1e-12:
            return [1 - p for p in sparsity]
        candidates = {
            i: min(p + min(0.01, remaining) / share[i], 0.99)
            for i, p in enumerate(sparsity)
            if p < 0.99
        }
        if not candidates:
            raise ValueError(f"no group can be made sparser, at density {1 - reached}")
        lost = {i: held[i][floor_slack(p * (len(held[i]) - 1))] for i, p in candidates.items()}
        least = min(lost, key=lambda i: (lost[i], i))
        sparsity[least] = candidates[least]


# ---------------------------------------------------------------------------------------- predictor


def noise(seed: int, layer: int, token: int, units: int) -> list[float]:
    """Return what blurs one row; layer and token are those of the file."""
    return list(np.random.default_rng([seed, layer, token]).standard_normal(units).tolist())


def predicted(scores: Sequence[float], k: int, sigma: float, blur: Sequence[float]) -> list[int]:
    """Return the k units with the largest blurred log-scores, ascending."""
    keys = {}
    for unit, score in enumerate(scores):
        known = math.log(score) if score > 0 else -math.inf
        keys[unit] = known + sigma * blur[unit]
    return sorted(best_first(keys, dict.fromkeys(keys, 0.0))[:k])


def predicted_set(
    active: AbstractSet[int], units: int, sigma: float, blur: Sequence[float]
) -> list[int]:
    """Return as many units as the recorded set has, ascending, its own first but for the blur."""
    keys = {unit: (1.0 if unit in active else 0.0) + sigma * blur[unit] for unit in range(units)}
    return sorted(best_first(keys, dict.fromkeys(keys, 0.0))[: len(active)])


def recall(predictions: Sequence[Collection[int]], wanted: Sequence[Collection[int]]) -> float:
    """Return the mean share of the wanted units that were predicted, over rows that want any."""
    rows = [
        len(set(found) & set(right)) / len(right)
        for found, right in zip(predictions, wanted, strict=True)
        if right
    ]
    return sum(rows) / len(rows)


# ------------------------------------------------------------------------------------------ cluster


def cluster_scores(row: Sequence[float], size: int) -> list[float]:
    """Return the scores of clusters of `size` neighbouring units."""
    if len(row) % size:
        raise ValueError(f"{size} does not divide {len(row)} units")
    joined = []
    for start in range(0, len(row), size):
        total = 0.0
        for score in row[start : start + size]:
            total += score * score
        joined.append(float32(math.sqrt(total)))
    return joined


def cluster_set(active: Collection[int], size: int) -> set[int]:
    """Return the clusters that hold an active unit."""
    return {unit // size for unit in active}


# ------------------------------------------------------------------------------------------- shares


def score_shares(scores: Sequence[float], chosen: Collection[int]) -> list[float]:
    """Return the share of the scores, and of their squares, that the chosen units hold."""
    if not any(scores):
        return [1.0, 1.0]
    return [
        sum(scores[unit] ** power for unit in chosen) / sum(score**power for score in scores)
        for power in (1, 2)
    ]


# ----------------------------------------------------------------------------- cache-aware masking


def warmed(gamma: float, t: int) -> float:
    """Return the gamma of the (t+1)-th batch under warm_up: from 1 down to gamma."""
    return float(1 - (1 - gamma) * (1 - gamma ** (t / 4)))


def masking(
    rule: str,
    k: int,
    gamma: float = 1.0,
    *,
    warm_up: float = 0,
    fixed_top_n: float = 0.0,
    top_m: float = 1.0,
    counts: float = 0.0,
) -> Choose:
    """Return a masking rule of dip-ca: rows are raw scores, k units are chosen.

    rule : "gamma", "blend" or "approximate"
    top_m, counts : of approximate only, which has no gamma and no warm_up
    """

    def choose(row: Sequence[float], resident: AbstractSet[int], memory: Memory) -> list[int]:
        raw = {unit: float32(score) for unit, score in enumerate(row)}
        picked = best_first(raw, raw)[: min(k, floor_slack(fixed_top_n * len(raw)))]
        for unit in in_order(raw, resident, memory):
            if len(picked) < k and unit not in picked:
                picked.append(unit)
        return sorted(picked)

    def in_order(raw: Mapping[int, float], resident: AbstractSet[int], memory: Memory) -> list[int]:
        """Return the units in the order in which the rule picks them."""
        largest = max(raw.values())
        scaled = {unit: s / largest if largest > 0 else 0.0 for unit, s in raw.items()}
        g = warmed(gamma, memory.batches) if warm_up else gamma
        keys = {}
        if rule == "gamma":
            for unit, s in raw.items():
                keys[unit] = s if unit in resident else float(np.float32(g) * np.float32(s))
            return best_first(keys, raw)
        if rule == "blend":
            for unit in raw:
                keys[unit] = float32(g * scaled[unit] + (1 - g) * (1 if unit in resident else 0))
            return best_first(keys, raw)
        if rule == "approximate":
            most = max(memory.uses.values(), default=0)
            for unit, s in raw.items():
                by_score = (1 - counts) * s / largest if largest > 0 else 0.0
                by_uses = counts * memory.uses.get(unit, 0) / most if most else 0.0
                keys[unit] = float32(by_score + by_uses) if counts > 0 else s
            order = best_first(keys, raw)
            wide = order[: max(1, floor_slack(top_m * len(order)))]
            if len(wide) < k:
                raise ValueError(f"top_m {top_m} is fewer units than {k}")
            near = order[:k]
            cached_near = [unit for unit in near if unit in resident]
            cached_wide = [unit for unit in wide if unit in resident]
            return cached_near + cached_wide + [unit for unit in near if unit not in resident]
        raise ValueError(f"unknown masking {rule!r}")

    return choose


# ---------------------------------------------------------------------------------- expert routing


class Routed(NamedTuple):
    """One row of a router."""

    logits: Mapping[int, float]  # of the candidates; the others cannot be chosen
    decode: bool = True


def log_weights(weights: Mapping[int, float]) -> dict[int, float]:
    """Return the logits of units that have weights; those of weight 0 are no candidates."""
    return {unit: math.log(weight) for unit, weight in weights.items() if weight > 0}


def softmax(logits: Mapping[int, float]) -> dict[int, float]:
    """Return the probability of every candidate."""
    highest = max(logits.values(), default=0.0)
    powers = {unit: math.exp(z - highest) for unit, z in logits.items()}
    return {unit: power / sum(powers.values()) for unit, power in powers.items()}


def router_shares(logits: Mapping[int, float], chosen: Collection[int]) -> list[float]:
    """Return the share of the probability, and of its square, that the chosen experts hold; nan
    where there is nothing to choose from."""
    if not logits:
        return [math.nan, math.nan]
    p = softmax(logits)
    return [
        sum(p[unit] ** power for unit in chosen) / sum(each**power for each in p.values())
        for power in (1, 2)
    ]


def weight_lost(logits: Mapping[int, float], chosen: Collection[int], k: int) -> float:
    """Return the share of the routing weight of the plain k best that the chosen ones lack."""
    plain = best_first(logits, logits)[:k]
    return 1 - router_shares(logits, chosen)[0] / router_shares(logits, plain)[0]


def routing(rule: str, k: int, parameters: Mapping[str, float] | None = None) -> Choose:
    """Return a routing rule of experts: rows are `Routed`, up to k are chosen.

    rule : "plain", "cache-prior", "max-rank", "drop-cold" or "reuse-distance"
    """
    given = dict(parameters or {})
    factor, strength = given.get("factor", 0.5), given.get("lambda", 0.2)
    top_j = int(given.get("top_j", 2 if rule == "cache-prior" else 1))
    max_rank = int(given.get("max_rank", 2 * k))

    def choose(row: Routed, resident: AbstractSet[int], memory: Memory) -> list[int]:
        z = row.logits
        order = best_first(z, z)
        if rule == "plain" or not row.decode or not order:
            return sorted(order[:k])
        if rule == "cache-prior":
            spread = z[order[0]] - z[order[-1]]
            mean = spread if memory.mean is None else memory.mean
            memory.mean = 0.99 * mean + 0.01 * spread
            liked = resident | set(order[: min(top_j, k)])
            keys = {u: z[u] + strength * memory.mean if u in liked else z[u] for u in z}
            return sorted(best_first(keys, z)[:k])
        if rule == "max-rank":
            picked = order[: min(top_j, k)]
            cached = [unit for unit in order[:max_rank] if unit in resident]
            for unit in cached + [unit for unit in order if unit not in resident]:
                if len(picked) < k and unit not in picked:
                    picked.append(unit)
            return sorted(picked)
        if rule == "drop-cold":
            p = softmax(z)
            total = sum(p[unit] for unit in order[:k])
            return sorted(
                unit for unit in order[:k] if unit in resident or not p[unit] / total < factor / k
            )
        if rule == "reuse-distance":
            distance = {unit: memory.row - at for unit, at in memory.last_use.items()}
            if not distance:
                return sorted(order[:k])
            farthest = max(distance.values())
            gap = z[order[0]] - z[order[:k][-1]]
            keys = {u: z[u] + gap * (1 - distance.get(u, farthest) / farthest) for u in z}
            return sorted(best_first(keys, z)[:k])
        raise ValueError(f"unknown routing {rule!r}")

    return choose


# --------------------------------------------------------------------------- the authors' simulator


@dataclass(frozen=True)
class Net:
    """A model of tied embeddings, all weights equally large."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    weight_bytes: float
    kv_bytes: float  # of one number in the KV cache


class Masked(NamedTuple):
    """A group: matrices that share a mask, and a cache of as many columns each."""

    units: int
    matrices: int
    weights: int  # of one unit in one of the matrices

    def unit_bytes(self, net: Net) -> float:
        """Return the bytes of a unit."""
        return self.matrices * self.weights * net.weight_bytes


def masked_groups(net: Net, method: str) -> list[Masked]:
    """Return the groups of a method; the matrices it does not mask are dense."""
    d, f = net.hidden, net.intermediate
    return {
        "dip": [Masked(d, 2, f), Masked(f, 1, d)],
        "dip-ca": [Masked(d, 2, f), Masked(f, 1, d)],
        "glu": [Masked(f, 1, d)],
        "glu-oracle": [Masked(f, 3, d)],
        "gate": [Masked(f, 2, d)],
        "up": [Masked(f, 2, d)],
    }[method]


def authors_kv(net: Net, positions: float) -> float:
    """Return the bytes of keys and values of so many positions."""
    return 2 * positions * net.layers * net.kv_heads * net.head_dim * net.kv_bytes


def authors_static(net: Net, method: str) -> float:
    """Return the bytes of weights that every token reads whole: no norms, no KV."""
    d, hd = net.hidden, net.head_dim
    attention = d * (net.heads + 2 * net.kv_heads) * hd + net.heads * hd * d
    dense = 3 - sum(group.matrices for group in masked_groups(net, method))
    weights = net.layers * (attention + dense * d * net.intermediate) + d * net.vocab
    return weights * net.weight_bytes


def authors_capacity(net: Net, method: str, dram: float, context: float) -> list[int]:
    """Return how many units the caches of each group hold: DRAM is divided by masked matrix."""
    groups = masked_groups(net, method)
    free = max(0.0, dram - authors_static(net, method) - authors_kv(net, context))
    each = free / (net.layers * sum(group.matrices for group in groups))
    return [
        min(group.units, floor_slack(each / (group.weights * net.weight_bytes))) for group in groups
    ]


def authors_latency(
    net: Net,
    method: str,
    hits: Sequence[Sequence[int]],
    misses: Sequence[Sequence[int]],
    *,
    dram_rate: float,
    flash_rate: float,
    positions: float,
    overflow: float = 0.0,
    mode: Literal["serial", "concurrent"] = "concurrent",
) -> float:
    """Return the seconds of one token.

    hits, misses : units of each layer and group
    positions : how many the token reads keys and values of
    overflow : bytes of static parts that are not in DRAM
    """
    static = authors_static(net, method) + authors_kv(net, positions)
    seconds = overflow / flash_rate + (static - overflow) / dram_rate
    for hit_units, missed_units in zip(hits, misses, strict=True):
        for i, group in enumerate(masked_groups(net, method)):
            flash = missed_units[i] * group.unit_bytes(net) / flash_rate
            dram = hit_units[i] * group.unit_bytes(net) / dram_rate
            seconds += flash + dram if mode == "serial" else max(flash, dram)
    return seconds


def average_positions(prompt: int, rows: int) -> float:
    """Return how many positions a token of a sequence reads: the mean of its first and last."""
    return (prompt + rows) / 2


def authors_rate(latencies: Mapping[int, Sequence[float]]) -> float:
    """Return tokens per second: the mean over sequences, given the seconds of their tokens."""
    rates = [len(seconds) / sum(seconds) for seconds in latencies.values() if seconds]
    return sum(rates) / len(rates)
