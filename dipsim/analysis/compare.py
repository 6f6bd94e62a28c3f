"""Policies against budgets: every combination run, sorted, and held against the optimum."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dipsim.analysis.cliff import Cliff, cliff_warning, falls, find_cliff
from dipsim.analysis.verdict import contenders, judge, no_optimum
from dipsim.hardware import Profile, load_profile
from dipsim.policies import Policy, load_policies
from dipsim.replay.contender import Contender
from dipsim.replay.replay import Progress
from dipsim.replay.traffic import Traffic
from dipsim.resolve import Input
from dipsim.result import Result
from dipsim.run import Run
from dipsim.sweep.many import many
from dipsim.sweep.point import Cell, Figures, Place, Point, figures_of
from dipsim.trace import Trace, load_trace

Warn = Callable[[str], None]
FIGURES = (
    "cache_bytes",
    "hit_rate",
    "unit_hit_rate",
    "tokens_per_second",
    "tokens_per_second_range",
    "flash_bytes_per_token",
    "flash_reads_per_token",
    "to_optimum",
    "verdict",
)
"""Figures of a cell. ``to_optimum``: hit rate of the optimum less that of the policy, of units over
all tokens; ``verdict``: a `Verdict`; both None where there is no optimum."""


@dataclass(frozen=True)
class Comparison:
    """Cells, the fastest first within each budget, and why a verdict is missing."""

    cells: list[Cell]
    """Their places are ``policy`` and ``budget``, as it was asked for: ``cache_fraction=0.6``."""
    no_optimum: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        cells = [cell.to_dict(FIGURES) for cell in self.cells]
        return {"no_optimum": self.no_optimum, "cells": cells}


def compare(
    trace: Input | Trace,
    profile: Input | Profile,
    policies: Sequence[str | Policy],
    budgets: Sequence[Mapping[str, Any]],
    *,
    warn: Warn = lambda _: None,
    look: Callable[[Result], None] = lambda _: None,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Run every policy with every budget.

    Args:
        policies: names, ``file.py:attribute`` or objects.
        budgets: each one of ``{"dram": "3GB"}``, ``{"cache": "400MiB"}``,
            ``{"cache_fraction": 0.6}``, or empty for the device's own.
        warn: called, before the replay, with a warning about a run that will hit nothing.
        look: called with every result before its counts are let go.
        progress: called with (runs done, runs).
        options: as `simulate`.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    opened, device, model = load_trace(trace), load_profile(profile), options.pop("model", None)
    points = [
        Point(
            {"policy": policy.label, "budget": _label(budget)},
            opened,
            device,
            {**options, **budget, "policy": policy},
            model,
        )
        for policy in load_policies(policies)
        for budget in budgets
    ]
    rivals = _Rivals(warn)
    cells = many(points, read=_reader(look), before=rivals.of, progress=progress)
    order = [_label(budget) for budget in budgets]
    cells.sort(key=lambda cell: (order.index(cell.place["budget"]), -cell.rate))
    return Comparison(cells, rivals.no_optimum)


class _Rivals:
    """Contenders beside each run, and warnings about runs into the cliff."""

    def __init__(self, warn: Warn) -> None:
        self.no_optimum: str | None = None
        self._warn = warn
        self._cliff: Cliff | None = None
        self._looked_for = False

    def of(self, run: Run) -> list[Contender]:
        """Return the contenders that judge a run."""
        self.no_optimum = self.no_optimum or no_optimum(run)
        if falls(run):
            if not self._looked_for:  # all budgets have the same
                self._cliff, self._looked_for = find_cliff(run), True
            warning = cliff_warning(run, self._cliff)
            if warning is not None:
                self._warn(warning)
        return contenders(run)


def _reader(look: Callable[[Result], None]) -> Callable[..., list[tuple[Place, Figures]]]:
    """Return what reads the cell of a run: the usual figures, and the verdict."""

    def read(result: Result, *beside: Traffic) -> list[tuple[Place, Figures]]:
        look(result)
        verdict = judge(result.run, result.traffic, beside)
        distance = None
        if verdict is not None and verdict.accesses:
            distance = verdict.lost / verdict.accesses
        return [
            (
                {},
                {
                    **figures_of(result),
                    "unit_hit_rate": result.unit_hit_rate,
                    "to_optimum": distance,
                    "verdict": verdict,
                },
            )
        ]

    return read


def _label(budget: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in budget.items()) or "available"
