"""The engine of eviction: a rule with its budgets, run on one layer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import BudgetError
from dipsim.kernels.kv_heads import NEVER, Terms, evict_heads_with, new_held, new_work
from dipsim.kv.attention import Heads
from dipsim.kv.prompt import cut_prompt, first_query
from dipsim.kv.rules import Rule, When, load_rule
from dipsim.kv.share import mean_budget, pyramid, uniform


@dataclass(frozen=True)
class Eviction:
    """A rule with the budgets and the time at which it evicts.

    Args:
        rule: which positions leave.
        budgets: int64[layers], positions of a kv head; under ``ada`` the mean of the heads.
        when: token, prompt or both.
        prompt: tokens of the prompt that is cut; 0 where none is.
    """

    rule: Rule
    budgets: NDArray[np.int64]
    when: When
    prompt: int


def plan_eviction(
    rule: str | Rule,
    budget: float | str,
    tokens: int,
    layers: int,
    *,
    when: When | None = None,
    prompt: int | None = None,
) -> Eviction:
    """Work out the budgets of all layers, and check them.

    Args:
        rule: a rule, or its name and parameters.
        budget: positions per layer and kv head, or a share of the prompt (``"25%"``), of all tokens
            where positions leave at every token only.
        tokens: length of the sequence.
        when: default: as the rule says.
        prompt: tokens of the prompt, needed unless ``when`` is ``token``.

    Raises:
        BudgetError: no such rule, a budget it cannot hold, or a prompt that is missing.
    """
    rule = load_rule(rule)
    when = when or rule.when
    if when not in ("token", "prompt", "both"):
        raise BudgetError(f"when {when!r}: one of token, prompt, both")
    if when == "token":
        if rule.cuts_prompts_only:
            raise BudgetError(f"KV policy {rule.label} cuts prompts only; give when=prompt or both")
        prompt = 0
    elif prompt is None or not 1 <= prompt <= tokens:
        given = "none is given" if prompt is None else f"{prompt} is given"
        raise BudgetError(
            f"KV policy {rule.label} cuts a prompt, of which {given}; give its tokens, from 1 to "
            f"{tokens}"
        )
    mean = mean_budget(budget, prompt or tokens)
    if rule.share == "pyramid" and mean < prompt:
        budgets = pyramid(mean, layers, prompt, rule.window, rule.beta)
    else:
        budgets = uniform(mean, layers)
    for each in np.unique(budgets):
        if each < (prompt or tokens):  # where nothing leaves, nothing need be protected
            rule.check_budget(int(each))
    return Eviction(rule, budgets, when, prompt)


@dataclass(frozen=True)
class Evicted:
    """One layer after eviction.

    Args:
        outputs: float[tokens, heads, dim] of attention over what was held.
        left: int32[kv heads, tokens], the first token that misses a position; `NEVER` if it stays.
    """

    outputs: NDArray[Any]
    left: NDArray[np.int32]


def evict_layer(eviction: Eviction, layer: int, heads: Heads) -> Evicted:
    """Run the rule on one layer; exact for what the layer is given.

    Args:
        heads: contiguous, all of one dtype, float32 or float64.
    """
    rule, prompt = eviction.rule, eviction.prompt
    tokens, kv_heads = len(heads.queries), heads.keys.shape[1]
    budget = int(eviction.budgets[layer])
    budgets = np.full(kv_heads, budget)
    unbounded = np.full(kv_heads, tokens)
    kept, scores = np.ones((kv_heads, 0), np.bool_), np.zeros((kv_heads, 0))
    left = np.full((kv_heads, tokens), NEVER, np.int32)
    evicted = Evicted(np.empty_like(heads.queries), left)
    if prompt:
        scores = _run(eviction, heads, slice(0, prompt), unbounded, kept, scores, evicted)
        kept = np.ones((kv_heads, prompt), np.bool_)
        if rule.evicts and budget < prompt:
            kept = cut_prompt(rule, heads, scores, budget)
            left[:, :prompt][~kept] = prompt
        if rule.share == "ada":
            budgets = kept.sum(axis=1)
    grows = eviction.when == "prompt" or not rule.evicts
    rest = slice(prompt, tokens)
    _run(eviction, heads, rest, unbounded if grows else budgets, kept, scores, evicted)
    return evicted


def _run(
    eviction: Eviction,
    heads: Heads,
    tokens: slice,
    budgets: NDArray[np.int64],
    kept: NDArray[np.bool_],
    scores: NDArray[np.float64],
    evicted: Evicted,
) -> NDArray[np.float64]:
    """Run the tokens of a slice on what is kept of those before; return the scores of what is held.

    Returns:
        float64[kv heads, slots]; slots are positions where nothing has left.
    """
    rule = eviction.rule
    dim = heads.queries.shape[2]
    frequencies = heads.frequencies if rule.rerotates else np.empty(0)
    assert frequencies is not None, "checked by whoever gives the heads"
    kv_heads, dtype = heads.keys.shape[1], heads.queries.dtype
    most = np.maximum(budgets + rule.every, kept.sum(axis=1) + 1).max()
    slots = int(min(tokens.stop, most))
    first = first_query(rule, eviction.prompt)
    terms = Terms(
        budgets=budgets,
        recent=np.array([rule.recent(int(budget)) for budget in budgets], np.int64),
        sinks=rule.sinks,
        every=rule.every,
        memory=rule.memory,
        since=first if rule.per_query else -1,
        by_key=not rule.needs_attention,
        joined=rule.joined,
        averaged=rule.averaged,
        twice=rule.reads_values_twice,
        frequencies=frequencies,
    )
    held = new_held(kv_heads, slots, dim, dtype)
    evict_heads_with(rule.contribution, rule.key_score)(
        heads.queries[: tokens.stop],
        heads.keys,
        heads.values,
        kept,
        scores,
        first,
        terms,
        *heads.factors,
        held,
        new_work(heads.group, slots, dim, dtype),
        evicted.left,
        evicted.outputs,
    )
    return held.scores
