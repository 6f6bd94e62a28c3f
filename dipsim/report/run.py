"""Report of `dipsim run`: a result as text, as JSON, and as a picture of how long tokens take."""

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType

from dipsim.analysis.attribution import Attribution
from dipsim.analysis.calibration import Bounds
from dipsim.analysis.verdict import Verdict
from dipsim.budget.divide import Budget
from dipsim.report import attribution as attribution_report
from dipsim.report.hints import hints
from dipsim.report.pictures import BESIDE, COLOURS, Sheet, picture, plain
from dipsim.report.tables import Table, line
from dipsim.result import Result
from dipsim.timeline.closed import RESOURCES
from dipsim.units import BYTES
from dipsim.validate.error_bars import bar_dict, bar_of, bar_rows

MOST_BARS = 200
"""Bars in a picture; more tokens than that share bars."""


def render(
    result: Result,
    verdict: Verdict | None = None,
    bounds: Bounds | None = None,
    attribution: Attribution | None = None,
) -> RenderableType:
    """Return the run in a sentence, then rates, budget, groups, time, marks and hints.

    Args:
        result: the run.
        verdict: judgement of its misses.
        bounds: perplexity read off a calibration.
        attribution: what binds each layer, and what would be faster.
    """
    parts: list[RenderableType] = [line(result.verdict, style="bold"), line()]
    if verdict is not None and verdict.misses and not result.fits:
        parts += [line(f"{result.policy}: {verdict.sentence}."), line()]
    budget = "budget"
    if result.budget.dram is not None:
        budget += f" of {BYTES.show(result.budget.dram)} DRAM"
    sections = {
        "rates": _rates(result, bounds),
        budget: _budget(result),
        "groups (per layer)": _groups(result),
        "time (exposed)": _time(result),
    }
    for title, section in sections.items():
        parts += [line(title, style="bold"), section, line()]
    if result.marks:
        parts.append(line(f"marks: {', '.join(result.marks)}"))
    if result.estimates:
        parts.append(line(f"estimated: {', '.join(result.estimates)}", style="dim"))
    for hint in hints(result)[:2]:
        parts.append(line(f"hint: {hint}", style="cyan"))
    if attribution is not None:
        parts.append(attribution_report.render(attribution))
    return Group(*parts)


def to_dict(
    result: Result,
    verdict: Verdict | None,
    bounds: Bounds | None = None,
    attribution: Attribution | None = None,
) -> dict[str, Any]:
    """Return the object that ``run --json`` prints; for arguments see `render`."""
    keys = {
        **result.to_dict(),
        "verdict": None if verdict is None else verdict.to_dict(),
        **bar_dict(result, bar_of(result)),
    }
    if bounds is not None:
        keys["perplexity"] = bounds._asdict()
    if attribution is not None:
        keys["attribution"] = attribution.to_dict()
    return keys


def _rates(result: Result, bounds: Bounds | None) -> Table:
    rows = Table("", "")
    rate, *others = result.summary()
    calibrated = [] if bounds is None else [_perplexity_row(bounds)]
    for label, text in [rate, *bar_rows(result, bar_of(result)), *others, *calibrated]:
        rows.add_row(label, text)
    return rows


def _perplexity_row(bounds: Bounds) -> tuple[str, str]:
    low, high = bounds
    text = f"{low:.4g} or more: no calibrated point loses as much"
    if high is not None:
        text = f"{low:.4g} to {high:.4g} (bounds, nothing is fitted)"
    return "perplexity (calibrated)", text


def _budget(result: Result) -> Table:
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


def _groups(result: Result) -> Table:
    rows = Table(
        "group", "units", "bytes", "active", "C", "C/|A|", "hits", "mass", "energy", "q*",
        right=tuple(range(1, 10)),
    )  # fmt: skip
    for group in result.groups():
        shared = group["capacity"] is None
        capacity = 0.0 if shared else _mean(group["capacity"])
        hits = group["hits"] / group["accesses"] if group["accesses"] else 0.0
        rows.add_row(
            group["name"],
            str(group["units"]),
            f"{_mean(group['unit_bytes']):.6g}",
            f"{group['active']:.6g}",
            "all" if shared else f"{capacity:.6g}",
            f"{capacity / group['active']:.2f}" if group["active"] and not shared else "-",
            f"{hits:.1%}",
            f"{group['mass_kept']:.3f}",
            f"{group['energy_kept']:.4f}",
            f"{_mean(group['break_even_miss_density']):.2f}",
        )
    return rows


def _time(result: Result) -> Table:
    shares = {name: share for name, share in result.time_share.items() if share > 0}
    rows = Table(*shares, right=tuple(range(len(shares))))
    rows.add_row(*(f"{share:.1%}" for share in shares.values()))
    return rows


def _mean(value: float | list[float]) -> float:
    return sum(value) / len(value) if isinstance(value, list) else float(value)


def plot(result: Result, sheet: Sheet) -> Any:
    """Draw how long each measured token takes, stacked by what the token waits for.

    Of more than `MOST_BARS` tokens, bars are means of several, and a line marks the slowest one.

    Raises:
        DipsimError: the file cannot be written.
    """
    longest = float(result.timing.times.latency.max())
    unit, per_second = ("s", 1.0) if longest >= 10 else ("ms", 1e3)
    exposed = per_second * result.timing.times.exposed
    tokens, size = len(exposed), ceil(len(exposed) / MOST_BARS)
    edges = np.append(np.arange(0, tokens, size), tokens)
    bars, total = means_of(exposed, size), exposed.sum()
    with picture(sheet, 9, 4) as figure:
        axes = figure.subplots()
        below = np.zeros(len(bars))
        for i, name in enumerate(RESOURCES):
            if not bars[:, i].any():
                continue
            label = f"{name} {exposed[:, i].sum() / total:.1%}"
            top = below + bars[:, i]
            axes.stairs(top, edges, baseline=below, fill=True, color=COLOURS[i], label=label)
            below = top
        if size > 1:
            slowest = np.maximum.reduceat(per_second * result.timing.times.latency, edges[:-1])
            axes.stairs(slowest, edges, baseline=None, color="k", linewidth=0.8, label="slowest")
        across = "measured token" if size == 1 else f"measured token (bars: means of {size})"
        axes.set(xlabel=across, ylabel=f"latency ({unit})", xlim=(0, tokens))
        axes.set_ylim(0, 1.05 * per_second * longest or 1)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3, axis="y")
        handles, labels = axes.get_legend_handles_labels()
        if handles:  # in the order in which they are stacked
            figure.legend(handles[::-1], labels[::-1], title="exposed time", **BESIDE)
        figure.suptitle(plain(result.title))
    return figure


def means_of(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return [bars, ...] means of ``size`` rows each; the last bar may have fewer rows."""
    starts = np.arange(0, len(values), size)
    counts = np.diff(np.append(starts, len(values)))
    sums = np.add.reduceat(values, starts, axis=0)
    means: NDArray[np.float64] = (sums.T / counts).T
    return means
