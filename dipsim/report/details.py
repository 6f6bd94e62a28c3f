"""Details of `dipsim run`: every figure, the budget, the groups, the time, and a legend."""

from collections.abc import Iterable, Sequence

from dipsim.analysis.calibration import Bounds
from dipsim.budget.divide import Budget
from dipsim.report.explain import table
from dipsim.report.glossary import legend as entries_of
from dipsim.report.tables import Table
from dipsim.result import Result
from dipsim.units import BYTES, show_number


def sections(
    result: Result, figures: Sequence[tuple[str, str]], bounds: Bounds | None
) -> dict[str, Table]:
    """Return the tables of a run by their titles.

    Args:
        figures: rows (label, text) of the first table.
        bounds: perplexity read off a calibration.
    """
    calibrated = [] if bounds is None else [("perplexity (calibrated)", perplexity(bounds))]
    rows = Table("", "")
    for label, text in [*figures, *calibrated]:
        rows.add_row(label, text)
    budget = "budget"
    if result.budget.dram is not None:
        budget += f" of {BYTES.show(result.budget.dram)} DRAM"
    return {
        "rates": rows,
        budget: budget_table(result),
        "groups (per layer)": group_table(result),
        "time (exposed)": time_table(result),
    }


def figure_rows(result: Result) -> list[tuple[str, str]]:
    """Return the figures of a run as (label, text), and whether its reads were measured."""
    return [*result.summary(), ("request sizes", result.request_sizes)]


def perplexity(bounds: Bounds) -> str:
    """Return the bounds of a calibration as text."""
    low, high = bounds
    if high is None:
        return f"{show_number(low)} or more: no calibrated point loses as much"
    return f"{show_number(low)} to {show_number(high)} (bounds, nothing is fitted)"


def legend(words: Iterable[str]) -> Table:
    """Return what the printed words mean."""
    return table(entries_of(words))


def budget_table(result: Result) -> Table:
    """Return what DRAM holds, a line for each part that is there."""
    budget = result.budget
    rows = Table("", "", "", right=(1,))
    lines = [
        ("attention", budget.static.attention),
        ("norms", budget.static.norms),
        ("lm_head", budget.static.head),
        ("dense parts", budget.static.dense_parts),
        ("scales", budget.static.scales),
        ("predictors", budget.static.predictors),
        ("- streamed from flash", -budget.streamed),
        ("KV", budget.kv),
        ("KV read buffer", budget.kv_buffer),
        ("KV index", budget.kv_index),
        ("states that wait", budget.aux),
        ("staging", budget.staging),
        ("runtime overhead", budget.overhead),
        ("read-ahead buffer", budget.buffer),
    ]
    for label, size in lines:
        if size:
            grows = label == "KV" and budget.start is not None
            rows.add_row(label, BYTES.show(size), _at_first(budget, 0) if grows else "")
    share = f"{budget.fraction:.1%} of {BYTES.show(budget.units_bytes)} of units"
    if budget.start is not None:
        share += f"; {_at_first(budget, 1)}"
    rows.add_row("cache", BYTES.show(budget.cache), share)
    return rows


def _at_first(budget: Budget, which: int) -> str:
    """Return the bytes before KV has grown: of KV (0) or of the cache (1)."""
    assert budget.start is not None, "KV grows"
    return f"at first {BYTES.show(budget.start[which])}"


def group_table(result: Result) -> Table:
    """Return a line for each group; units and bytes are of one layer."""
    rows = Table(
        "group", "units", "bytes", "active", "C", "C/|A|", "hits", "mass", "energy", "q*",
        right=tuple(range(1, 10)),
    )  # fmt: skip
    for group in result.groups():
        shared = group["capacity"] is None
        units = group.get("layer_units")
        capacity = 0.0 if shared else _mean(group["capacity"], units)
        hits = group["hits"] / group["accesses"] if group["accesses"] else 0.0
        rows.add_row(
            group["name"],
            str(group["units"]),
            BYTES.show(_mean(group["unit_bytes"], units)),
            show_number(group["active"], 6),
            "all" if shared else show_number(capacity, 6),
            f"{capacity / group['active']:.2f}" if group["active"] and not shared else "-",
            f"{hits:.1%}",
            f"{group['mass_kept']:.3f}",
            f"{group['energy_kept']:.4f}",
            f"{_mean(group['break_even_miss_density'], units):.2f}",
        )
    return rows


def time_table(result: Result) -> Table:
    """Return the share of every resource in the time of a token."""
    shares = {name: share for name, share in result.time_share.items() if share > 0}
    rows = Table(*shares, right=tuple(range(len(shares))))
    rows.add_row(*(f"{share:.1%}" for share in shares.values()))
    return rows


def _mean(value: float | list[float], units: list[int] | None) -> float:
    """Return the mean over the layers that have units; None stands for all layers."""
    if not isinstance(value, list):
        return float(value)
    counted = [each for i, each in enumerate(value) if units is None or units[i]]
    return sum(counted) / max(1, len(counted))
