"""What `dipsim inspect` prints: marks, signals, how they overlap, hit, and whether that settled."""

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dipsim.analysis.activity import DENSITIES, USUAL
from dipsim.analysis.inspect import SignalReport
from dipsim.errors import printable
from dipsim.report.run import table
from dipsim.trace import PREFILL, Trace


def render(trace: Trace, reports: dict[str, SignalReport]) -> RenderableType:
    """A trace in four small tables."""
    parts: list[RenderableType] = [Text(printable(trace.name), style="bold")]
    parts += [Text(printable(line)) for line in _marks(trace)]
    sections = {
        "signals": _signals(trace),
        "active sets": _sets(reports),
        "hit rate at a cache of so many units": _hits(reports),
    }
    for title, section in sections.items():
        parts += [Text(), Text(title, style="bold"), section]
    parts += [Text(), *_notes(trace, reports)]
    return Group(*parts)


def _marks(trace: Trace) -> list[str]:
    sequences = len(np.unique(trace.sequence))
    prefill = int((trace.phase == PREFILL).sum())
    model = trace.model
    named = model.get("name", "a geometry") if isinstance(model, dict) else model or "not said"
    return [
        f"{_many(trace.tokens, 'token')} ({prefill} prefill) of {_many(trace.layers, 'layer')}, "
        f"{_many(sequences, 'sequence')}",
        f"model {named}",
        f"hash {trace.hash[:16]}",
        *(f"{key} {trace.meta[key]}" for key in ("source", "license") if key in trace.meta),
    ]


def _signals(trace: Trace) -> Table:
    made = table("signal", "holds", "encoding", "units", right=(3,))
    for signal in trace.signals.values():
        holds = "sets, scores" if signal.holds == "sets" and signal.scored else signal.holds
        made.add_row(signal.name, holds, signal.encoding, str(signal.units))
    return made


def _sets(reports: dict[str, SignalReport]) -> Table:
    columns = [f"at {density:.0%}" for density in DENSITIES]
    made = table(
        "overlap", *columns, "as used", "active", "top 10%", "Gini", right=tuple(range(1, 8))
    )
    for name, report in reports.items():
        found = report.activity
        chosen = len(found.overlap) > 1  # of scores; else sets, or experts whose number is known
        shares = [_share(found.overlap.get(d) if chosen else None) for d in DENSITIES]
        used = None if chosen else next(iter(found.overlap.values()), None)
        made.add_row(
            name,
            *shares,
            _share(used),
            _share(found.active),
            _share(found.top_share),
            f"{found.gini:.3f}",
        )
    return made


def _hits(reports: dict[str, SignalReport]) -> Table:
    shares = sorted({share for report in reports.values() for share in report.lru})
    columns = [f"{share:.0%}" for share in shares]
    made = table("signal", "policy", *columns, right=tuple(range(2, 2 + len(columns))))
    for name, report in reports.items():
        for policy, curve in (("lru", report.lru), ("opt", report.opt)):
            made.add_row(name, policy, *(_share(curve.get(share)) for share in shares))
            name = ""
    return made


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
    return [Text(note) for note in notes]


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
