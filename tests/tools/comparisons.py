"""Comparisons made by hand, whose cells no run stands behind."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from dipsim.analysis.axes import GivenBudget, budgets_of
from dipsim.analysis.compare import AXES, Comparison
from dipsim.sweep.point import Cell
from dipsim.trace import load_trace

Rate = Callable[..., float | None]
"""Tokens per second at a place (profile, method, density, policy, number of the budget); None for a
run that is impossible."""
KNOWING = {"opt": "clairvoyant", "belady": "clairvoyant", "static": "preloaded"}


def comparison(
    rate: Rate,
    *,
    profiles: Sequence[str] = ("phone",),
    methods: Sequence[str] = ("dip",),
    densities: Sequence[float] = (0.7,),
    policies: Sequence[str] = ("lru", "opt"),
    dram: Sequence[Any] = (),
    cache: Sequence[Any] = (),
    cache_fraction: Sequence[float] = (),
    no_optimum: str | None = "by hand",
) -> Comparison:
    """Return a comparison of every combination, its cells in the order that `compare` gives."""
    budgets = budgets_of(dram, cache, cache_fraction)
    cells = []
    for profile, (n, budget) in product(profiles, enumerate(budgets)):
        column = [
            _cell((profile, method, density, policy, budget.label), budget, n, rate)
            for method, density, policy in product(methods, densities, policies)
        ]
        cells += sorted(column, key=lambda cell: -cell.rate if cell.figures else 1.0)
    axes = (profiles, methods, densities, policies, [budget.label for budget in budgets])
    trace = load_trace({"glu": np.ones((2, 1, 4), np.bool_)})
    return Comparison(
        trace=trace,
        axes={name: list(values) for name, values in zip(AXES, axes, strict=True)},
        budgets={budget.label: budget for budget in budgets},
        cells=cells,
        no_optimum=no_optimum,
    )


def _cell(values: tuple[Any, ...], budget: GivenBudget, n: int, rate: Rate) -> Cell:
    place = dict(zip(AXES, values, strict=True))
    found = rate(*values[:-1], n)
    mark = KNOWING.get(place["policy"])
    if found is None:
        why = f"{place['policy']} cannot run at {n + 1} MB"
        return Cell(place, {}, None, why=why)
    figures = {
        "tokens_per_second": found,
        "tokens_per_second_range": [found, 1.1 * found],
        "hit_rate": 0.5,
        "unit_hit_rate": 0.5,
        "dram_bytes": 1e6 * (n + 1),
        "cache_bytes": 5e5 * (n + 1),
        "flash_bytes_per_token": 1e6,
        "flash_reads_per_token": 123456.0,
        "to_optimum": None,
        "verdict": None,
    }
    return Cell(place, {}, figures, (mark,) if mark else ())
