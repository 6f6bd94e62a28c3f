"""Runs side by side: the charts and the table of a sweep's page, of runs that a user gathered."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from dipsim.analysis.results import COLUMNS, at_path
from dipsim.errors import printable
from dipsim.explore.shown import shown
from dipsim.report.page.axes import across
from dipsim.report.page.entry import Entry
from dipsim.report.page.model import Lines, Panel, Section, Series
from dipsim.report.page.runs import Runs
from dipsim.report.page.source import StoredRuns
from dipsim.report.page.sweep import page_of_sweep
from dipsim.simulate import SEMANTICS

_OF_GRIDS, _AGAINST = ("Rates over two axes", "What DRAM holds"), "Rate and hits against"
"""Headings of a sweep's page that mean something for a grid of runs."""
_NOT_SHOWN = ("Marks and caveats", "Repeat it")


def entry_of(place: Mapping[str, Any], result: Mapping[str, Any]) -> Entry:
    """Return a run as the page of a sweep reads it.

    Args:
        place: trace, device and options.
        result: what ``dipsim run --json`` prints.
    """
    return Entry(place, place, result, tuple(result["marks"]), "", SEMANTICS)


def page_of_cells(runs: StoredRuns) -> dict[str, Any]:
    """Return the page of a sweep as plain values."""
    page = page_of_sweep(runs.title, runs.entries, runs.asked, version("dipsim"))
    return shown(page, leave_out=_NOT_SHOWN)


def page_of_entries(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return runs that a user gathered as plain values: each beside the others, as they were added;
    against the size of their memory, or another number, where that differs."""
    page = page_of_sweep("Comparison", entries, len(entries), version("dipsim"))
    runs = Runs(entries, len(entries))
    axis = across(runs.axes)
    kept = [
        section
        for section in page.sections
        if not section.name.startswith(_OF_GRIDS)
        and (axis is None or axis.positions is not None or not section.name.startswith(_AGAINST))
    ]
    beside = [_apart(runs)] if len(entries) > 1 else []
    return shown(replace(page, sections=[*beside, *kept]), leave_out=_NOT_SHOWN)


def csv_of(entries: Sequence[Entry], commands: Sequence[str]) -> str:
    """Return runs as CSV: what each was asked for, its figures in base units, what repeats it."""
    places = [{name: _plain(value) for name, value in entry.place.items()} for entry in entries]
    names = list(dict.fromkeys(name for place in places for name in place))
    rows = [
        {
            **{name: place.get(name) for name in names},
            **{name: at_path(entry.figures, path) for name, path in COLUMNS.items()},
            "marks": " ".join(entry.marks),
            "command": command,
        }
        for entry, place, command in zip(entries, places, commands, strict=True)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={each}" for name, each in value.items())
    return printable(value) if isinstance(value, str) else value


def _apart(runs: Runs) -> Section:
    """Return the rates of runs beside each other."""
    entries = runs.entries
    names = [f"{number}: {runs.values(entry)}" for number, entry in enumerate(entries, 1)]
    ends = [entry.interval for entry in entries]
    low, high = ([None if pair is None else pair[i] for pair in ends] for i in (0, 1))
    series = Series("rate", names, [entry.rate for entry in entries], low, high)
    chart = Lines("Tokens per second, as added", "", "tokens/s", [series], joined=False)
    return Section("Side by side", panels=[Panel({"": chart}, "The bars are intervals.")])
