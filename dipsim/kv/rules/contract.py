"""The contract between the engine of eviction and a rule (docs/kv-eviction.md).

A rule states what a query contributes to the score of a position; the engine owns attention, sets
and budgets. The lowest score leaves; of a tie the older position. Its functions are plain and take
numbers, which numba compiles, as well as arrays, with which a whole prompt is scored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import BudgetError

When = Literal["token", "prompt", "both"]
"""When positions leave: at every token, once behind the prompt, or first this and then that."""
Share = Literal["uniform", "pyramid", "ada"]
"""Division of a budget (share.py): alike, by layer, or by the heads of a layer."""
Pool = Literal["none", "avg", "max"]
"""Smoothing of a prompt's scores along positions."""


def no_contribution(
    weight: Any,
    logit: Any,
    value_square: Any,
    value_output: Any,
    output_square: Any,
    value_size: Any,
) -> Any:
    """Return 0: all positions score alike, so the oldest leaves."""
    return weight * 0


def attention_weight(
    weight: Any,
    logit: Any,
    value_square: Any,
    value_output: Any,
    output_square: Any,
    value_size: Any,
) -> Any:
    """Return the attention weight a."""
    return weight


def no_key_score(keys: NDArray[Any]) -> NDArray[Any]:
    """Return zeros: scores come from queries."""
    return np.zeros(keys.shape[0], keys.dtype)


@dataclass(frozen=True)
class Rule:
    """A rule of eviction: which positions of the KV cache leave.

    Args:
        name: name in reports and on the command line.
        summary: one line on what stays.
        source: paper or origin.
        contribution: ``contribution(weight, logit, value_square, value_output, output_square,
            value_size)``: what one query adds to the score of one position, from its attention
            weight a, its scaled logit z, |v|^2, v.o, |o|^2 and |v|_1, where o is the head's output.
        key_score: ``key_score(keys)``, float[n, dim] -> float[n]: scores from the held keys of a
            kv head alone. Excludes ``contribution``.
        memory: share of a score that lasts from one token to the next: 1 sums over queries, 0 looks
            at the last query alone.
        per_query: scores are means over the queries that saw the position.
        window: last queries of a prompt that count; 0 for all.
        pool: smoothing of a prompt's scores over ``kernel`` neighbours.
        kernel: odd; see ``pool``.
        sinks: first positions that never leave.
        recent: newest positions that never leave, from the budget of a head.
        joined: all heads of a layer hold the same positions, scored by the sum over heads.
        averaged: weights and logits are averaged over the query heads of a kv head before they
            contribute; else their contributions are added.
        share: how the budget is shared between layers or heads.
        safe: ``ada``: share of the budget that each head keeps of its own best.
        first_stage: share of a prompt's budget that goes by score; the rest by (mean score + 1e-4)
            times the size of the projected value, |W_o v|_1.
        beta: ``pyramid``: steepness.
        when: when positions leave unless a user says otherwise.
        every: positions by which a head outgrows its budget before it is cut back to it.
        evicts: False for the rule that keeps everything.
        reads_values_twice: v.o and |o|^2 are needed, for which V is read once more.
        rerotates: positions count anew inside the cache: the first ones are turned, by RoPE, to
            stand before the others without a gap.
        given: the parameters that a user has set, as (key, value).
    """

    name: str
    summary: str
    source: str = ""
    contribution: Callable[..., Any] = no_contribution
    key_score: Callable[..., Any] = no_key_score
    memory: float = 1.0
    per_query: bool = False
    window: int = 0
    pool: Pool = "none"
    kernel: int = 1
    sinks: int = 0
    recent: Callable[[int], int] = lambda budget: 0
    joined: bool = False
    averaged: bool = False
    share: Share = "uniform"
    safe: float = 0.2
    beta: float = 20.0
    first_stage: float = 1.0
    when: When = "token"
    every: int = 1
    evicts: bool = True
    reads_values_twice: bool = False
    rerotates: bool = False
    given: tuple[tuple[str, float | str], ...] = ()

    @property
    def label(self) -> str:
        """The name, followed by the parameters that were set: ``name:key=value``."""
        parameters = ",".join(f"{key}={value}" for key, value in self.given)
        return f"{self.name}:{parameters}" if parameters else self.name

    @property
    def by_key(self) -> bool:
        """True where keys alone decide."""
        return self.key_score is not no_key_score

    @property
    def needs_projection(self) -> bool:
        """True where sizes of projected values decide, which are no part of a trace."""
        return self.first_stage < 1

    @property
    def beyond_vectors(self) -> str | None:
        """Input of the rule that no trace holds beside queries, keys and values; None where
        these are enough."""
        if self.needs_projection:
            return "projected values, |W_o v|_1"
        return "RoPE's frequencies" if self.rerotates else None

    @property
    def cuts_prompts_only(self) -> bool:
        """True where the rule has no meaning without a prompt that is cut in one go."""
        return self.share != "uniform" or self.needs_projection

    @property
    def needs_attention(self) -> bool:
        """True where attention weights decide, which a fused attention kernel does not hand out."""
        return self.contribution is not no_contribution

    @property
    def read_factor(self) -> float:
        """Bytes of held keys and values read per decode token, over reading each once."""
        return 1.5 if self.reads_values_twice else 1.0

    @property
    def state_bytes(self) -> int:
        """Bytes in float32 beside each position of a kv head: its score, the size of its value."""
        if not self.needs_attention or self.memory == 0:
            return 0
        return 4 if self.contribution is attention_weight else 8

    def check_budget(self, budget: int) -> None:
        """Check that something may leave a head with a budget of so many positions.

        Raises:
            BudgetError: less than one position, or all positions held would be protected.
        """
        if budget < 1:
            raise BudgetError(f"KV budget {budget}: at least 1 position per layer and kv head")
        recent = self.recent(budget)
        if self.sinks + max(0, recent) > budget:
            parts = [f"its {self.sinks} first"] * (self.sinks > 0)
            parts += [f"its {recent} newest"] * (recent > 0)
            raise BudgetError(
                f"KV budget {budget}: {self.label} never evicts {' and '.join(parts)} positions; "
                f"give at least {self.sinks + max(0, recent)}"
            )


def within(name: str, value: float, low: float, high: float) -> float:
    """Return a parameter after checking that it lies between two bounds, both included.

    Raises:
        BudgetError: it lies outside; `load_rule` adds the rule's name.
    """
    if not low <= value <= high:
        raise BudgetError(f"{name}={value:.10g}: from {low:.10g} to {high:.10g}")
    return value


def odd(name: str, value: int) -> int:
    """Return the number of neighbours that are pooled after checking it.

    Raises:
        BudgetError: even, or out of 1 .. 1023.
    """
    if value % 2 == 0 or not 1 <= value <= 1023:
        raise BudgetError(f"{name}={value}: an odd number from 1 to 1023")
    return value


def one_of(name: str, value: str, *allowed: str) -> str:
    """Return a parameter after checking that it is one of some words.

    Raises:
        BudgetError: it is not.
    """
    if value not in allowed:
        raise BudgetError(f"{name}={value}: one of {', '.join(allowed)}")
    return value
