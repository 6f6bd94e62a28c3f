"""Policies against budgets: every combination run, sorted, and held against the optimum."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dipsim.analysis.cliff import cliff_warning
from dipsim.analysis.verdict import Verdict, judge, no_optimum, optimum
from dipsim.hardware import Profile
from dipsim.policies import Policy, load_policies
from dipsim.replay.active_sets import Sets
from dipsim.replay.replay import hold
from dipsim.resolve import Source
from dipsim.result import Result, finite
from dipsim.simulate import Job, prepare, run_all
from dipsim.trace import Trace

Warn = Callable[[str], None]
_HOLD = 2**30
"""Bytes of packed sets that are held for all policies; larger traces are read again for each."""


@dataclass(frozen=True)
class Cell:
    """One policy with one budget."""

    policy: str
    budget: str
    """As it was asked for: ``cache_fraction=0.6``."""
    result: Result
    verdict: Verdict | None
    """None where there is no optimum to compare with."""

    @property
    def to_optimum(self) -> float | None:
        """Hit rate of the optimum less that of the policy, of units over all tokens."""
        if self.verdict is None or not self.verdict.accesses:
            return None
        return self.verdict.lost / self.verdict.accesses

    def to_dict(self) -> dict[str, Any]:
        """The figures of a row, as plain values."""
        result = self.result
        slow, fast = result.timing.rate_range
        return {
            "policy": self.policy,
            "budget": self.budget,
            "cache_bytes": result.budget.cache,
            "hit_rate": result.hit_rate,
            "unit_hit_rate": result.unit_hit_rate,
            "tokens_per_second": finite(result.tokens_per_second),
            "tokens_per_second_range": [finite(slow), finite(fast)],
            "flash_bytes_per_token": result.flash_bytes_per_token,
            "flash_reads_per_token": result.flash_reads_per_token,
            "to_optimum": self.to_optimum,
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
            "marks": list(result.marks),
        }


@dataclass(frozen=True)
class Comparison:
    """Cells, the fastest first within each budget, and why a verdict is missing."""

    cells: list[Cell]
    no_optimum: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        cells = [cell.to_dict() for cell in self.cells]
        return {"no_optimum": self.no_optimum, "cells": cells}


def compare(
    trace: Source | Trace,
    profile: Source | Profile,
    policies: Sequence[str | Policy],
    budgets: Sequence[Mapping[str, Any]],
    *,
    warn: Warn = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Comparison:
    """Run every policy with every budget.

    Args:
        policies: names, ``file.py:attribute`` or objects.
        budgets: each one of ``{"dram": "3GB"}``, ``{"cache": "400MiB"}``,
            ``{"cache_fraction": 0.6}``, or empty for the device's own.
        warn: told beforehand of what will come to nothing.
        progress: called with (runs done, runs).
        options: as `simulate`.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    chosen = load_policies(policies)
    first = prepare(trace, profile, policy=chosen[0], **options, **budgets[0])
    held = _held(first)
    best, missing, cells = None, no_optimum(first), []
    for done, policy in enumerate(chosen):
        jobs = [prepare(trace, profile, policy=policy, **options, **at) for at in budgets]
        for job in jobs:
            warning = cliff_warning(job, held)
            if warning is not None:
                warn(warning)
        results = run_all(jobs, held=None if policy.preload else held)
        verdicts: list[Verdict] | list[None] = [None] * len(jobs)
        if missing is None:
            if best is None or options.get("allocate") == "optimal":  # its sizes differ by policy
                best = optimum(jobs, held)
            verdicts = judge(jobs, [result.traffic for result in results], best, held)
        for budget, result, verdict in zip(budgets, results, verdicts, strict=True):
            cells.append(Cell(policy.label, _label(budget), result, verdict))
        if progress is not None:
            progress(done + 1, len(chosen))
    order = [_label(budget) for budget in budgets]
    cells.sort(key=lambda cell: (order.index(cell.budget), -cell.result.tokens_per_second))
    return Comparison(cells, missing)


def _held(job: Job) -> list[Sets] | None:
    """The active sets, when they are the same for all policies and not too large."""
    work = job.work
    words = sum(-(-group.units // 64) for group in work.method.groups)
    size = 8 * words * work.trace.layers * work.trace.tokens
    if work.method.cache_aware or size > _HOLD:
        return None
    return hold(work.trace, work.method, job.plan)


def _label(budget: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in budget.items()) or "available"
