"""Cache-aware routing of experts: which of them a token uses, given what is in DRAM.

z are the scores by which the router selects (its logits, or e.g. sigmoid + bias), p the weights
that follow from them (router.py: softmax(z) without a bias), k how many experts a token uses. A
score of minus infinity is no candidate. Every rule takes the k largest keys; ties go to the larger
score, then to the lower id. Rules act while decoding; a token of the prompt is routed plainly.

    plain            z
    cache-prior      z + lambda m [resident or among the J best],  m = .99 m + .01 (max z - min z)
                     (arXiv 2412.00099; m starts with the first token's range)
    max-rank         the J best, then resident experts among the M best, then the others
    drop-cold        z, less those of the k best that are not resident and have p < F / k
    reuse-distance   z + (z_1 - z_k) (1 - d / max d),  d = tokens since the expert was last used
                     (CECAR; taken as the prediction of the next use; never used: no bonus)

The page in order: the parameters (``--routing``), a group's rule as numbers, the rules, and
`choose`, which a replay loop calls for every token, layer and group.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from dipsim.errors import MethodError
from dipsim.kernels.bits import COMMIT, JOIN, bit, holds
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.stored import stored
from dipsim.methods.contract import Group
from dipsim.methods.router import BIASED, SOFTMAX
from dipsim.methods.rules import Parameter, Rule, parse_rule

# Parameters --------------------------------------------------------------------------------------

_MANY = 65_536
ROUTING: dict[str, dict[str, Parameter]] = {
    "plain": {},
    "cache-prior": {"lambda": Parameter(0.2, 0, 1e6), "top_j": Parameter(2, 0, _MANY, True)},
    "max-rank": {
        "top_j": Parameter(1, 0, _MANY, True),
        "max_rank": Parameter(None, 1, _MANY, True),
    },
    "drop-cold": {"factor": Parameter(0.5)},
    "reuse-distance": {},
}
"""Parameters of each rule: ``top_j`` is J, ``max_rank`` is M (2 k by default), ``factor`` is F."""


def parse_routing(text: str | None, k: int) -> Rule | None:
    """Return the rule that ``--routing`` names, for k experts a token; None for plain routing.

    Raises:
        MethodError: a rule that is none, or an M below k.
    """
    if text is None:
        return None
    rule = parse_rule("--routing", text, ROUTING)
    if rule.name == "plain":
        return None
    if rule.name != "max-rank":
        return rule
    most = rule.values["max_rank"]
    if most is not None and most < k:
        raise MethodError(
            f"--routing max-rank: max_rank={most:g} is below the {k} experts a token uses; "
            "give as many or more"
        )
    return Rule(rule.name, {**rule.values, "max_rank": most or 2 * k})


# A group's rule as numbers -----------------------------------------------------------------------

PLAIN, CACHE_PRIOR, MAX_RANK, DROP_COLD, REUSE_DISTANCE = 0, 1, 2, 3, 4
"""`RoutingNumbers.rule`, in the order of `ROUTING`."""
MEAN, STARTED = 0, 1
"""Columns of `Choosing.memory`: m, and whether there was a token yet."""


class RoutingNumbers(NamedTuple):
    """A group's rule as `choose` reads it; all are held as float64."""

    rule: float
    weight: float
    """lambda."""
    top_j: float
    max_rank: float
    factor: float


def numbers_of(group: Group) -> RoutingNumbers:
    """Return the numbers of a group that has a rule of this page."""
    rule = group.rule
    assert rule is not None, "a cache-aware group has a rule"
    return RoutingNumbers(
        rule=tuple(ROUTING).index(rule.name),
        weight=rule["lambda"],
        top_j=rule["top_j"],
        max_rank=rule["max_rank"],
        factor=rule["factor"],
    )


_RULE = len(RoutingNumbers._fields)
"""Numbers of a rule, behind which those of the weighing stand."""


# The rules ---------------------------------------------------------------------------------------


@register_jitable
def _best(keys: Any, z: Any, words: Any) -> int:
    """Return the candidate outside ``words`` with the largest key; -1 if there is none."""
    best = -1
    for u in range(z.shape[0]):
        if z[u] == -np.inf or holds(words, u):
            continue
        if best < 0 or keys[u] > keys[best] or (keys[u] == keys[best] and z[u] > z[best]):
            best = u
    return best


@register_jitable
def _take(keys: Any, z: Any, k: int, words: Any) -> int:
    """Add candidates to ``words``, the largest key first, until k more are in; returns the last."""
    last = -1
    for _ in range(k):
        best = _best(keys, z, words)
        if best < 0:
            break
        words[best >> 6] |= bit(best)
        last = best
    return last


@register_jitable
def _clear(words: Any) -> None:
    for w in range(words.shape[0]):
        words[w] = 0


@register_jitable
def _cache_prior(
    weight: float, top: int, z: Any, resident: Any, memory: Any, keys: Any, words: Any
) -> None:
    low = high = z[_best(z, z, words)]
    for u in range(z.shape[0]):
        if z[u] != -np.inf:
            low, high = min(low, z[u]), max(high, z[u])
    span = np.float64(high) - np.float64(low)
    memory[MEAN] = 0.99 * memory[MEAN] + 0.01 * span if memory[STARTED] > 0 else span
    memory[STARTED] = 1
    _take(z, z, top, words)
    for u in range(z.shape[0]):
        likely = holds(resident, u) or holds(words, u)
        keys[u] = z[u] + (weight * memory[MEAN] if likely else 0.0)
    _clear(words)


@register_jitable
def _max_rank(top: int, most: int, z: Any, resident: Any, keys: Any, words: Any) -> None:
    """Write keys by class: 2 for the J best, 1 for resident experts among the M best, else 0."""
    for u in range(z.shape[0]):
        keys[u] = 0
    for rank in range(max(top, most)):
        best = _best(z, z, words)
        if best < 0:
            break
        words[best >> 6] |= bit(best)
        if rank < top:
            keys[best] = 2
        elif holds(resident, best):
            keys[best] = 1
    _clear(words)


@register_jitable
def _reuse_distance(k: int, z: Any, last: Any, t: int, keys: Any, words: Any) -> None:
    first, kth = _best(z, z, words), _take(z, z, k, words)
    _clear(words)
    farthest = 0
    for u in range(z.shape[0]):
        if last[u] >= 0:
            farthest = max(farthest, t - last[u])
    for u in range(z.shape[0]):
        keys[u] = z[u]
        if last[u] >= 0:
            bonus = np.float64(z[first]) - np.float64(z[kth])
            keys[u] = z[u] + bonus * (1.0 - (t - last[u]) / farthest)


@register_jitable
def _weight(z: Any, u: int, largest: float, weighing: Any) -> float:
    """Return the weight of an expert, up to a factor that all of them have; nan if not known.

    Args:
        largest: of the scores.
        weighing: float64[1 + biases], `Weighing.numbers`.
    """
    if z[u] == -np.inf:
        return 0.0
    if weighing[0] == SOFTMAX:
        return float(np.exp(np.float64(z[u]) - largest))
    if weighing[0] == BIASED:
        return float(max(np.float64(z[u]) - weighing[1 + u], 0.0))
    return float(np.nan)


@register_jitable
def _drop_cold(factor: float, k: int, z: Any, resident: Any, weighing: Any, words: Any) -> None:
    """Take the k best, then experts out of them again."""
    first = np.float64(z[_best(z, z, words)])
    _take(z, z, k, words)
    total = 0.0
    for u in range(z.shape[0]):
        if holds(words, u):
            total += _weight(z, u, first, weighing)
    for u in range(z.shape[0]):
        if holds(words, u) and not holds(resident, u):
            share = _weight(z, u, first, weighing) / total
            if share < factor / k:
                words[u >> 6] &= ~bit(u)


@register_jitable
def _shares(z: Any, words: Any, weighing: Any, shares: Any) -> None:
    """Write the share of the routing weight, and of its squares, that the chosen experts hold."""
    largest = np.float64(-np.inf)
    for u in range(z.shape[0]):
        largest = max(largest, np.float64(z[u]))
    mass = energy = kept_mass = kept_energy = 0.0
    for u in range(z.shape[0]):
        weight = _weight(z, u, largest, weighing)
        mass += weight
        energy += weight * weight
        if holds(words, u):
            kept_mass += weight
            kept_energy += weight * weight
    shares[0] = kept_mass / mass if mass > 0 else np.nan  # nothing to route
    shares[1] = kept_energy / energy if energy > 0 else np.nan


# The choice --------------------------------------------------------------------------------------


@register_jitable
def _numbers_at(row: Any) -> RoutingNumbers:
    return RoutingNumbers(row[0], row[1], row[2], row[3], row[4])


@register_jitable
def _by_rule(row: Any, k: int, z: Any, seen: Any, memory: Any, keys: Any, words: Any) -> None:
    """Add the experts that a rule chooses to ``words``, which are empty.

    Args:
        row: float64, `RoutingNumbers`, then `Weighing.numbers`.
        seen: resident (uint64[words]); last (int64[units]), the batch of the last use; this batch.
        memory: the part's row of `Choosing.memory`, updated.
        keys: float64[units], overwritten.
    """
    resident, last, t = seen
    numbers = _numbers_at(row)
    if numbers.rule == DROP_COLD:
        _drop_cold(numbers.factor, k, z, resident, row[_RULE:], words)
        return
    top: Any = min(np.int64(numbers.top_j), k)
    most: Any = np.int64(numbers.max_rank)
    if numbers.rule == CACHE_PRIOR:
        _cache_prior(numbers.weight, top, z, resident, memory, keys, words)
    elif numbers.rule == MAX_RANK:
        _max_rank(top, most, z, resident, keys, words)
    else:
        _reuse_distance(k, z, last, t, keys, words)
    _take(keys, z, k, words)


@stored(key=fingerprint([Path(__file__).parent]))
def choose(block: Any, parts: Any, cache: Any, r: int, layer: int, p: int, t: int) -> int:
    """Write the experts a token uses to the block's sets, and what they hold to its shares.

    A replay loop calls it (kernels/bind.py). It is compiled once for all policies.

    Args:
        block: `Block`, whole.
        parts: `Parts`, whole.
        cache: `Cache`, whole; the first capacity counts.
        r: row of the block.
        layer: of the block.
        p: part.
        t: number of the batch.

    Returns:
        0.
    """
    start, stop, units = parts.word[p], parts.word[p + 1], parts.units[p]
    z = block.scores[r, layer, 64 * start : 64 * start + units]
    words, k = block.sets[r, layer, start:stop], parts.k[p]
    _clear(words)
    if block.actions[r] == JOIN or block.actions[r] == COMMIT:  # of a prompt
        _take(z, z, k, words)
    elif _best(z, z, words) >= 0:
        choosing = cache.choosing
        last = cache.last[64 * start : 64 * start + units]
        seen = cache.resident[0, start:stop], last, t
        keys = choosing.wide[:units]
        _by_rule(parts.numbers[p], k, z, seen, choosing.memory[p], keys, words)
    _shares(z, words, parts.numbers[p, _RULE:], block.shares[r, p])
    return 0


@stored(nogil=True, key=fingerprint([Path(__file__).parent]))
def route_plainly(z: Any, k: int, sets: Any, shares: Any, weighing: Any) -> None:
    """Write the k best experts of every row, and what they hold.

    Args:
        z: float32[n, layers, units], minus infinity where a unit is no candidate.
        sets: out uint64[n, layers, words].
        shares: out float32[n, layers, 2].
        weighing: float64[layers, 1 + biases], of `weighing_rows`.
    """
    for r in range(z.shape[0]):
        for layer in range(z.shape[1]):
            words = sets[r, layer]
            _clear(words)
            _take(z[r, layer], z[r, layer], k, words)
            _shares(z[r, layer], words, weighing[layer], shares[r, layer])


def weighing_rows(group: Group, layers: int) -> NDArray[np.float64]:
    """Return what `route_plainly` takes, float64[layers, 1 + biases]."""
    return np.array([group.weighing.numbers(layer) for layer in range(layers)], np.float64)
