"""Report of `dipsim inspect`: signals, overlap, hit rates, and whether these have settled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from dipsim.analysis.activity import DENSITIES, USUAL
from dipsim.analysis.inspect import Inspection, SignalReport
from dipsim.report.files import write_rows
from dipsim.report.pictures import (
    COLOURS,
    FAINT,
    Sheet,
    picture,
    set_heading,
    trace_name,
)
from dipsim.report.tables import Table, line, number
from dipsim.trace import PREFILL, Trace

UNITS = {
    **dict.fromkeys(("overlap", "active", "top_share"), "share of units"),
    **dict.fromkeys(("lru", "opt", "prefixes", "interval"), "share of units"),
    "replayed_tokens": "tokens",
    "gini": "Gini coefficient",
}
"""Units of figures that `dipsim.report.envelope` does not know, or knows as others."""


def render(inspection: Inspection) -> RenderableType:
    """Return what a trace says of itself, three small tables and notes."""
    trace, reports = inspection.trace, inspection.signals
    parts: list[RenderableType] = [line(trace.name, style="bold")]
    parts += map(line, _head(trace))
    sections: dict[str, RenderableType] = {}
    if reports:
        sections["signals"] = _signals(trace)
    if trace.arrays:
        sections["vectors and decisions"] = _arrays(trace)
    if reports:
        sections["active sets"] = _sets(reports)
        sections["hit rate at a cache of so many units"] = _hits(reports)
    for title, section in sections.items():
        parts += [line(), line(title, style="bold"), section]
    parts += [line(), *_notes(trace, reports)] if reports else []
    return Group(*parts)


def _arrays(trace: Trace) -> Table:
    rows = Table("array", "encoding", "width", "heads", right=(2, 3))
    for name in trace.arrays:
        about = trace.array(name).describe()
        sizes = [about.get("width", about.get("positions")), about.get("heads")]
        rows.add_row(name, about["encoding"], *("-" if n is None else str(n) for n in sizes))
    return rows


def _head(trace: Trace) -> list[str]:
    sequences = len(np.unique(trace.sequence))
    prefill = int((trace.phase == PREFILL).sum())
    model = trace.model
    named = model.get("name", "a geometry") if isinstance(model, dict) else model or "not said"
    return [
        f"{_counted(trace.tokens, 'token')} ({prefill} prefill) of "
        f"{_counted(trace.layers, 'layer')}, {_counted(sequences, 'sequence')}",
        f"model {named}",
        f"hash {trace.hash[:16]}",
        *(f"{key} {trace.meta[key]}" for key in ("source", "license") if key in trace.meta),
    ]


def _signals(trace: Trace) -> Table:
    rows = Table("signal", "holds", "encoding", "units", right=(3,))
    for signal in trace.signals.values():
        holds = "sets, scores" if signal.holds == "sets" and signal.scored else signal.holds
        units = trace.layer_units(signal.name)
        least, most = int(units.min()), int(units.max())
        shown = str(most) if least == most else f"{least} to {most}"
        rows.add_row(signal.name, holds, signal.encoding, shown)
    return rows


def _sets(reports: dict[str, SignalReport]) -> Table:
    columns = [f"at {density:.0%}" for density in DENSITIES]
    rows = Table(
        "overlap", *columns, "as used", "active", "top 10%", "Gini", right=tuple(range(1, 8))
    )
    for name, report in reports.items():
        activity = report.activity
        chosen = len(activity.overlap) > 1  # of scores; else sets, or experts of a known number
        shares = [_share(activity.overlap.get(d) if chosen else None) for d in DENSITIES]
        used = None if chosen else next(iter(activity.overlap.values()), None)
        rows.add_row(
            name,
            *shares,
            _share(used),
            _share(activity.active),
            _share(activity.top_share),
            f"{activity.gini:.3f}",
        )
    return rows


def _hits(reports: dict[str, SignalReport]) -> Table:
    shares = sorted({share for report in reports.values() for share in report.lru})
    columns = [f"{share:.0%}" for share in shares]
    rows = Table("signal", "policy", *columns, right=tuple(range(2, 2 + len(columns))))
    for name, report in reports.items():
        rows.add_row(name, "lru", *(_share(report.lru.get(share)) for share in shares))
        rows.add_row("", "opt", *(_share(report.opt.get(share)) for share in shares))
    return rows


def _notes(trace: Trace, reports: dict[str, SignalReport]) -> list[Text]:
    notes = [
        f"{name}: {report.convergence.verdict} ({report.convergence.resampled} resampled)"
        for name, report in reports.items()
        if report.convergence is not None
    ]
    notes.append("")
    if any(signal.holds == "scores" for signal in trace.signals.values()):
        notes.append(
            f"Of scores the largest count as active: {USUAL:.0%} of the units unless said."
        )
    notes.append(
        "overlap: share of a token's active units that the token before used too; top 10%: share"
        " of all uses that go to the most used tenth of the units"
    )
    shortest = min(report.activity.sets.tokens for report in reports.values())
    if shortest < trace.tokens:
        notes.append(f"Hit rates are of the first {shortest} tokens or more.")
    return [*map(line, notes)]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _share(value: float | None) -> str:
    return number(value, "{:.1%}")


def records(inspection: Inspection) -> list[dict[str, Any]]:
    """Return a row for each figure: of a signal, of a policy, at a place.

    The place is the density of the active sets for ``overlap``, the share of the units in the
    cache for ``hit_rate``, the number of decode tokens for ``hit_rate_by_tokens``.
    """
    columns = ("figure", "policy", "at", "value")
    return [
        {
            "trace": inspection.trace.name,
            "signal": name,
            **dict(zip(columns, row, strict=True)),
        }
        for name, report in inspection.signals.items()
        for row in _figures(report)
    ]


def write_csv(inspection: Inspection, path: Path) -> None:
    """Write `records`.

    Raises:
        DipsimError: the file cannot be written.
    """
    write_rows(path, records(inspection))


def _figures(report: SignalReport) -> Iterator[tuple[str, str | None, float | None, float]]:
    """Yield figure, policy, place and value."""
    activity = report.activity
    for name, value in (
        ("active", activity.active),
        ("top_share", activity.top_share),
        ("gini", activity.gini),
    ):
        yield name, None, None, value
    for density, share in activity.overlap.items():
        yield "overlap", None, density, share
    for policy, rates in (("lru", report.lru), ("opt", report.opt)):
        for share, rate in rates.items():
            yield "hit_rate", policy, share, rate
    if report.convergence is not None:
        for tokens, rate in report.convergence.prefixes.items():
            yield "hit_rate_by_tokens", "lru", tokens, rate


def plot(inspection: Inspection, sheet: Sheet) -> Any:
    """Draw four panels: overlap, popularity, hit rates, convergence.

    Args:
        inspection: findings by signal.
        sheet: what it is drawn on.

    Returns:
        The matplotlib figure.

    Raises:
        DipsimError: the file cannot be written.
    """
    with picture(sheet, 9, 7) as figure:
        (overlap, popular), (hits, settled) = figure.subplots(2, 2)
        for i, (name, report) in enumerate(inspection.signals.items()):
            _draw_activity(overlap, popular, name, COLOURS[i % 8], report)
            _draw_hits(hits, settled, name, COLOURS[i % 8], report)
        for axes in (overlap, popular):
            alike = "units alike, tokens independent"
            axes.plot([0, 100], [0, 100], ":", color=FAINT, label=alike)
        up, units = "hits / accesses (%)", "active units (%)"
        panels = (
            (overlap, "overlap of successive tokens", units, "used by the token before (%)"),
            (popular, "popularity", "most used units (%)", "share of all uses (%)"),
            (hits, "hit rate", "units in the cache (%)", up),
            (settled, "lru hit rate, and 90 % interval", "decode tokens", up),
        )
        for axes, heading, xlabel, ylabel in panels:
            axes.set(title=heading, xlabel=xlabel, ylabel=ylabel)
            axes.grid(alpha=0.3)
            if axes.get_legend_handles_labels()[0]:
                axes.legend()
        name = trace_name(inspection.trace.name)
        set_heading(figure, f"What tokens use, and how it caches: {name}")
    return figure


def _draw_activity(
    overlap: Any, popular: Any, name: str, colour: str, report: SignalReport
) -> None:
    activity = report.activity
    active = [100 * (activity.active if density == 1 else density) for density in activity.overlap]
    overlap.plot(
        active, [100 * share for share in activity.overlap.values()], "o-", color=colour, label=name
    )
    lorenz = activity.lorenz()
    label = f"{name}, Gini {activity.gini:.2f}"
    popular.plot(np.linspace(0, 100, len(lorenz)), 100 * lorenz, color=colour, label=label)


def _draw_hits(hits: Any, settled: Any, name: str, colour: str, report: SignalReport) -> None:
    for policy, style, curve in (("opt", "--", report.opt), ("lru", "-", report.lru)):
        shares, rates = [100 * share for share in curve], [100 * rate for rate in curve.values()]
        label = f"{name}, {policy}"
        hits.plot(shares, rates, style, marker="o", color=colour, label=label)
    if report.convergence is not None:
        prefixes = report.convergence.prefixes
        rates = [100 * rate for rate in prefixes.values()]
        settled.plot(list(prefixes), rates, "o-", color=colour, label=name)
        low, high = report.convergence.interval
        settled.axhspan(100 * low, 100 * high, color=colour, alpha=0.15, lw=0)
