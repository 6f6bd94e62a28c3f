"""Cache-aware masking: DIP-CA chooses units by their scores and by what is in DRAM.

Federici et al., MLSys 2025, arXiv 2412.01380 (cache-aware masking), and the authors' code.

A *group* is the columns or neurons of one layer that one signal drives (mlp_input, glu). Of its
units every token uses k, given by the density (dip.py). Plain DIP takes the k largest scores
s >= 0; DIP-CA prefers units that are *resident*, in DRAM when the token begins. Its rules:

    gamma         the k largest keys s':   s' = s          if resident
                                           s' = gamma s    otherwise
    blend         the k largest keys       s' = gamma s / max s + (1 - gamma) [resident]
    approximate   residents among the m best (m >= k), the best first; if they are fewer than k,
                  then the best of the absent units among the k best

[resident] is 1 or 0. Equal keys: the larger raw score, then the lower id. gamma = 1 is plain DIP;
gamma = 0 takes every resident with a score before any absent unit. Parameters of the rules:

    fixed_top_n   all rules: the n largest raw scores, at most k, are chosen before anything else
    warm_up       gamma, blend: if 1, gamma falls from 1 to its value over the first batches:
                  gamma_t = 1 - (1 - gamma) (1 - gamma^(t / 4)) in batch t = 0, 1, ...
    counts = w    approximate: ranks by (1 - w) s / max s + w c / max c instead of s, where c is
                  how many batches used the unit

A batch is a decode token, or a prompt that passes the caches as one; t and c begin anew when the
cache is emptied. Keys are rounded to float32. Scores stored as 8-bit codes (encoding log8) are
chosen by the values their codes stand for, so the set is that of the decoded scores.

In this file, in order: the parameters (``--masking``, ``--gamma``), a group's rule as numbers, the
keys of each rule, and `choose`, which a replay loop calls for every token, layer and group.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from dipsim.errors import MethodError
from dipsim.kernels.bits import holds
from dipsim.kernels.cache import BATCHES
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.stored import stored
from dipsim.kernels.topk import (
    CODES,
    IF_ABSENT,
    IF_RESIDENT,
    LARGEST_BITS,
    VALUE,
    kept_shares,
    select_codes,
    top_k,
    top_k_weighed,
    weigh_all,
)
from dipsim.methods.contract import Group
from dipsim.methods.rules import Parameter, Rule, parse_rule
from dipsim.settings import Settings
from dipsim.trace.encoding import LOG8_TABLE

# Parameters --------------------------------------------------------------------------------------

_FIXED_TOP_N = {"fixed_top_n": Parameter(0.0)}
_WARM_UP = {"warm_up": Parameter(0, whole=True)}
MASKING: dict[str, dict[str, Parameter]] = {
    "gamma": {**_FIXED_TOP_N, **_WARM_UP},
    "blend": {**_FIXED_TOP_N, **_WARM_UP},
    "approximate": {**_FIXED_TOP_N, "top_m": Parameter(None), "counts": Parameter(0.0)},
}
"""Parameters of each rule. ``fixed_top_n`` (n) and ``top_m`` (m, required) are shares of the
group's units, ``counts`` is w, and ``warm_up`` is 0 or 1."""
DEFAULT_GAMMA = {"mlp_input": 0.5, "glu": 0.2}
"""gamma of each group, from 0 to 1: mlp_input, the more sensitive one, prefers residents less."""


def prefer_resident(groups: Iterable[Group], settings: Settings) -> tuple[Group, ...]:
    """Return the groups with the rule that the settings name, and their gamma.

    Raises:
        MethodError: an unknown rule, a gamma for approximate, or a top_m missing or below k.
    """
    rule = parse_rule("--masking", settings.masking or "gamma", MASKING)
    if rule.name == "approximate":
        if settings.gamma:
            raise MethodError("--masking approximate has no gamma: drop --gamma")
        return tuple(_approximate(group, rule) for group in groups)
    gamma = dict(DEFAULT_GAMMA)
    if "*" in settings.gamma:
        gamma = dict.fromkeys(DEFAULT_GAMMA, settings.gamma["*"])
    gamma |= {signal: value for signal, value in settings.gamma.items() if signal != "*"}
    return tuple(replace(group, gamma=gamma[group.signal], rule=rule) for group in groups)


def _approximate(group: Group, rule: Rule) -> Group:
    """Return the group with the rule approximate, its m checked against k."""
    share = rule.values["top_m"]
    if share is None:
        raise MethodError(
            "--masking approximate needs top_m, the share of the units among which resident ones "
            f"are preferred, e.g. approximate:top_m={min(1.0, group.density * 1.25):.2g}"
        )
    m = _units(share, group, least=1)
    if m < group.kept:
        raise MethodError(
            f"--masking approximate: top_m={share:g} are {m} units of {group.signal}, fewer "
            f"than the {group.kept} that are kept; give "
            f"{math.ceil(1000 * group.kept / group.units) / 1000:g} or more"
        )
    return replace(group, rule=rule)


def _units(share: float, group: Group, least: int = 0) -> int:
    """Return a share of a group's units as a whole number; 1e-9 absorbs the share's rounding."""
    return max(least, math.floor(share * group.units + 1e-9))


# A group's rule as numbers -----------------------------------------------------------------------

GAMMA, BLEND, APPROXIMATE = 0, 1, 2
"""`MaskingNumbers.rule`, in the order of `MASKING`."""


class MaskingNumbers(NamedTuple):
    """A group's rule as `choose` reads it; all are held as float64."""

    rule: float
    gamma: float
    warm_up: float
    fixed: float
    """n, in units."""
    top_m: float
    """m, in units."""
    counts: float
    """w."""


GAMMA_OF = MaskingNumbers._fields.index("gamma")


def numbers_of(group: Group) -> MaskingNumbers:
    """Return the numbers of a group with a rule in `MASKING`; a parameter it lacks is 0."""
    rule = group.rule
    assert rule is not None, "a cache-aware group has a rule"
    return MaskingNumbers(
        rule=tuple(MASKING).index(rule.name),
        gamma=1.0 if group.gamma is None else group.gamma,
        warm_up=rule["warm_up"],
        fixed=_units(rule["fixed_top_n"], group),
        top_m=_units(rule["top_m"], group, least=1),
        counts=rule["counts"],
    )


def takes_codes(rule: Rule) -> bool:
    """Tell whether `choose` can choose by a rule from 8-bit codes, without decoding them."""
    return rule.name == "gamma" and not (rule["warm_up"] or rule["fixed_top_n"])


def counts_uses(rule: Rule | None) -> bool:
    """Tell whether a rule must know how many batches used each unit."""
    return rule is not None and rule["counts"] > 0


# Keys --------------------------------------------------------------------------------------------


@register_jitable(forceinline=True)
def preferred(score: Any, resident: Any, gamma: Any) -> Any:
    """Return s', the key of the rule gamma; all float32."""
    return score if resident else gamma * score


@register_jitable
def gamma_at(gamma: Any, t: int) -> Any:
    """Return gamma_t: 1, which is plain top-k, at the start; gamma in the end."""
    return 1.0 - (1.0 - gamma) * (1.0 - gamma ** (t / 4.0))


@register_jitable
def gamma_tables(gamma: float, tables: Any) -> None:
    """Write what every code stands for, and s' of units with that code."""
    weight = np.float32(gamma)
    for code in range(CODES):
        value = LOG8_TABLE[code]
        tables[VALUE, code] = value
        tables[IF_RESIDENT, code] = preferred(value, True, weight)
        tables[IF_ABSENT, code] = preferred(value, False, weight)


@register_jitable
def _blend_keys(scores: Any, resident: Any, gamma: float, keys: Any) -> None:
    """Write s' of the rule blend."""
    largest = _largest(scores)
    for u in range(scores.shape[0]):
        share = scores[u] / largest if largest > 0 else 0.0
        keys[u] = np.float32(gamma * share + (1.0 - gamma) * holds(resident, u))


@register_jitable
def _count_keys(scores: Any, uses: Any, weight: float, keys: Any) -> None:
    """Write by what ``counts`` ranks; ``weight`` is w."""
    largest, most = _largest(scores), _largest(uses)
    for u in range(scores.shape[0]):
        share = scores[u] / largest if largest > 0 else 0.0
        used = uses[u] / most if most > 0 else 0.0
        keys[u] = np.float32((1.0 - weight) * share + weight * used)


@register_jitable
def _largest(values: Any) -> float:
    """Return the largest of some values, at least 0."""
    largest = 0.0
    for value in values:
        largest = max(largest, np.float64(value))
    return largest


@register_jitable
def _put_first(first: Any, keys: Any) -> None:
    """Give the units of a set keys that nothing exceeds."""
    bits = keys.view(np.int32)
    for u in range(keys.shape[0]):
        if holds(first, u):
            bits[u] = LARGEST_BITS


@register_jitable
def _choose_approximately(
    scores: Any, resident: Any, k: int, m: int, guess: int, words: Any, scratch: Any
) -> None:
    """Write the choice of the rule approximate to ``words``.

    Args:
        guess: where the search for a cut begins; it changes no choice.
        scratch: what units are ranked by (order, float32[units]) and which are chosen already
            (fixed, uint64[words]), between arrays that are overwritten.
    """
    keys, order, tied, fixed, among_k, among_m = scratch
    units, left = order.shape[0], k
    for u in range(units):
        left -= holds(fixed, u)
    top_k(order, scores, k, guess, among_k, keys, tied)
    top_k(order, scores, m, guess, among_m, keys, tied)
    residents = 0
    for w in range(words.shape[0]):
        words[w] = among_m[w] & resident[w] & ~fixed[w]  # m >= k, so those among k are in it
        among_k[w] &= ~resident[w] & ~fixed[w]
    for u in range(units):
        residents += holds(words, u)
    # Too many residents: the best of them. Otherwise all of them, and the best absent units.
    too_many = residents > left
    count = left if too_many else left - residents
    candidates = words if too_many else among_k
    bits, raw = keys.view(np.int32), order.view(np.int32)
    for u in range(units):
        # A candidate with score 0 still goes before those that are none.
        bits[u] = min(raw[u] + 1, LARGEST_BITS) if holds(candidates, u) else 0
    if count > 0:
        top_k(keys, scores, count, guess, among_m, keys, tied)
    for w in range(words.shape[0]):
        best = among_m[w] if count > 0 else np.uint64(0)
        words[w] = fixed[w] | (best if too_many else words[w] | best)


# The choice --------------------------------------------------------------------------------------


@register_jitable
def _numbers_at(row: Any) -> MaskingNumbers:
    """Return a row of `Parts.numbers` by name."""
    return MaskingNumbers(row[0], row[1], row[2], row[3], row[4], row[5])


@register_jitable
def _choose_from_scores(
    numbers: Any, k: int, scores: Any, resident: Any, words: Any, part: Any, choosing: Any
) -> None:
    """Write the units that a rule chooses to ``words``.

    Args:
        part: its number, and the word its units begin at.
        choosing: scratch, and what is remembered between tokens: where the last selection cut, so
            that the next search begins there, and the batches since the cache was emptied.
    """
    (p, start), units, count = part, scores.shape[0], words.shape[0]
    keys, order, tied = choosing.keys[0, :units], choosing.keys[1, :units], choosing.tied
    fixed, guess = choosing.sets[0, :count], choosing.threshold[p]
    n: Any = min(np.int64(numbers.fixed), k)
    for w in range(count):
        fixed[w] = 0
    if n > 0:
        top_k(scores, scores, n, guess, fixed, keys, tied)
    if numbers.rule == APPROXIMATE:
        if numbers.counts > 0:
            uses = choosing.uses[64 * start : 64 * start + units]
            _count_keys(scores, uses, numbers.counts, order)
        else:
            for u in range(units):
                order[u] = scores[u]
        among_k, among_m = choosing.sets[1, :count], choosing.sets[2, :count]
        scratch = keys, order, tied, fixed, among_k, among_m
        m: Any = np.int64(numbers.top_m)
        _choose_approximately(scores, resident, k, m, guess, words, scratch)
        return
    gamma = numbers.gamma
    if numbers.warm_up > 0:
        gamma = gamma_at(gamma, choosing.memory[p, BATCHES])
    if numbers.rule == BLEND:
        _blend_keys(scores, resident, gamma, keys)
    else:
        weigh_all(scores, resident, np.float32(gamma), keys)
    if n > 0:
        _put_first(fixed, keys)
    choosing.threshold[p] = top_k(keys, scores, k, guess, words, keys, tied)


_SOURCE = fingerprint([Path(__file__).parent], LOG8_TABLE.tobytes().hex())


@stored(key=_SOURCE)
def choose(block: Any, parts: Any, cache: Any, r: int, layer: int, p: int, t: int) -> int:
    """Write the units that a token uses to the block's sets, and the share of the scores, and of
    their squares, that they hold to its shares.

    A replay loop calls it (kernels/bind.py). It is compiled once for all policies.

    Args:
        block: a block of tokens, whole; this record and the next two are those of kernels/cache.py.
        parts: the parts of the cache, each the units of one layer and group.
        cache: the cache; one that masks look into has one capacity.
        r: row of the block.
        layer: of the block.
        p: part.
        t: number of the batch, for rules that go by the last use; not looked at here.

    Returns:
        0.
    """
    start, stop = parts.word[p], parts.word[p + 1]
    scores = block.scores[r, layer, 64 * start : 64 * start + parts.units[p]]
    words, here = block.sets[r, layer, start:stop], cache.resident[0, start:stop]
    numbers, part = _numbers_at(parts.numbers[p]), (p, start)
    _choose_from_scores(numbers, parts.k[p], scores, here, words, part, cache.choosing)
    kept_shares(scores, words, block.shares[r, p])
    return 0


@stored(key=_SOURCE)
def choose_by_gamma(block: Any, parts: Any, cache: Any, r: int, layer: int, p: int, t: int) -> int:
    """Do as `choose`, for the rule gamma without further parameters, which compiles faster."""
    start, stop, choosing = parts.word[p], parts.word[p + 1], cache.choosing
    scores = block.scores[r, layer, 64 * start : 64 * start + parts.units[p]]
    words, keys = block.sets[r, layer, start:stop], choosing.keys[0, : scores.shape[0]]
    here, gamma = cache.resident[0, start:stop], np.float32(parts.numbers[p, GAMMA_OF])
    how = parts.k[p], choosing.threshold[p], words, keys, choosing.tied
    choosing.threshold[p] = top_k_weighed(scores, here, gamma, *how)
    kept_shares(scores, words, block.shares[r, p])
    return 0


@stored(key=_SOURCE)
def choose_from_codes(
    block: Any, parts: Any, cache: Any, r: int, layer: int, p: int, t: int
) -> int:
    """Do as `choose_by_gamma`, from scores that are stored as codes."""
    start, stop, choosing = parts.word[p], parts.word[p + 1], cache.choosing
    codes, tables = block.codes[r, layer, 64 * start : 64 * start + parts.units[p]], choosing.tables
    words, here = block.sets[r, layer, start:stop], cache.resident[0, start:stop]
    gamma_tables(parts.numbers[p, GAMMA_OF], tables)
    k, counters, shares = parts.k[p], choosing.counters, block.shares[r, p]
    select_codes(codes, tables, here, k, words, counters, shares)
    return 0


def choosers_of(rule: Rule) -> tuple[Any, Any]:
    """Return the compiled functions that choose by a rule from scores, and from codes.

    No block holds codes where the rule does not take them.
    """
    return (choose_by_gamma, choose_from_codes) if takes_codes(rule) else (choose, choose)
