"""Charts of a sweep: rates and hits, losses, maps over two axes, and where the time goes."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from dipsim.report.page.axes import Axis, across, lines, value_text
from dipsim.report.page.budget import parts_of
from dipsim.report.page.entry import Entry
from dipsim.report.page.model import Bars, Cell, Chart, Heat, Lines, Panel, Section, Series, Table
from dipsim.report.page.runs import Runs
from dipsim.report.page.texts import RESOURCE_NAMES, RESOURCES, byte_scale, rate_text
from dipsim.units import show_number

MOST_SLICES = 40
"""Charts of a panel, of which a reader chooses one."""
MOST_MAPS = 6
MOST_BARS = 10


def against(runs: Runs) -> Section:
    """Return rates and hits against the axis that goes across, a chart for each slice."""
    x = across(runs.axes)
    if x is None or not runs.known:
        return Section("Rate and hits")
    others = [axis for axis in runs.axes if axis is not x]
    series = lines(others)
    slices = _slices(runs, [axis for axis in others if axis is not series])
    shown = dict(list(slices.items())[:MOST_SLICES])
    rates: dict[str, Chart] = {}
    hits: dict[str, Chart] = {}
    for name, entries in shown.items():
        groups = _groups(x, series, entries)
        drawn = [_rates(runs, each, x, own) for each, own in groups.items()]
        rates[name] = Lines("Tokens per second", x.label, "tokens/s", drawn)
        drawn = [_hits(each, x, own) for each, own in groups.items()]
        hits[name] = Lines("Hit rate", x.label, "% of the active bytes", drawn)
    texts = []
    if len(slices) > len(shown):
        texts.append(f"{len(shown)} of {len(slices)} slices can be shown; the table has every run.")
    note = f"The bars are {runs.ends_meaning}." if any(map(runs.ends, runs.known)) else ""
    return Section(f"Rate and hits against {x.words}", texts, [Panel(rates, note), Panel(hits)])


def _slices(runs: Runs, axes: Sequence[Axis]) -> dict[str, list[Entry]]:
    """Return the runs by their values on some axes; those beside the fastest come first."""
    grouped: dict[str, list[Entry]] = {}
    if runs.best is not None:
        grouped[runs.named(runs.best, axes)] = []
    for entry in runs.known:
        grouped.setdefault(runs.named(entry, axes), []).append(entry)
    return grouped


def _groups(x: Axis, series: Axis | None, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Return the runs of each line in their order along it."""
    groups: dict[str, list[Entry]] = {}
    if series is None:
        groups["all runs"] = list(entries)
    else:
        for text in series.texts():
            own = [e for e in entries if value_text(e.place.get(series.name)) == text]
            groups |= {text: own} if own else {}
    for own in groups.values():
        own.sort(key=lambda entry: x.values.index(entry.place.get(x.name)))
    return groups


def _rates(runs: Runs, name: str, x: Axis, entries: Sequence[Entry]) -> Series:
    positions = [x.position(entry.place.get(x.name)) for entry in entries]
    ends = [runs.ends(entry) or (None, None) for entry in entries]
    low, high = ([pair[i] for pair in ends] for i in (0, 1))
    rates = [entry.rate for entry in entries]
    known = any(value is not None for value in low)
    return Series(name, positions, rates, low if known else None, high if known else None)


def _hits(name: str, x: Axis, entries: Sequence[Entry]) -> Series:
    positions = [x.position(entry.place.get(x.name)) for entry in entries]
    return Series(
        name, positions, [None if e.hit_rate is None else 100 * e.hit_rate for e in entries]
    )


def frontier(runs: Runs) -> Section:
    """Return rates against losses, and the runs that no other beats in both."""
    heading = "Loss against rate"
    known = [entry for entry in runs.able if entry.loss is not None]
    meanings = {entry.loss_meaning for entry in known}
    if len(known) < 2 or len(meanings) > 1:
        return Section(heading)
    meaning = meanings.pop()
    known.sort(key=lambda entry: (entry.loss or 0.0, -entry.speed))
    fastest, unbeaten = -math.inf, []
    for entry in known:
        if entry.speed > fastest:
            fastest = entry.speed
            unbeaten.append(entry)
    axis = lines(axis for axis in runs.axes if axis.name in ("method", "policy"))
    groups: dict[str, list[Entry]] = {}
    for entry in known:
        name = "runs" if axis is None else value_text(entry.place.get(axis.name))
        groups.setdefault(name, []).append(entry)
    groups["not beaten"] = unbeaten
    drawn = [_losses(runs, name, own) for name, own in groups.items()]
    chart = Lines("Loss against rate", meaning, "tokens/s", drawn, joined=False)
    rows = [
        [
            Cell(runs.named(entry)),
            Cell(show_number(entry.loss or 0.0), entry.loss),
            Cell(rate_text(entry.rate), entry.rate),
        ]
        for entry in unbeaten
    ]
    heads = ["run", meaning, "tokens/s"]
    table = Table("Runs that no other beats in both", heads, rows, frozenset({1, 2}))
    return Section(heading, panels=[Panel({"": chart})], tables=[table])


def _losses(runs: Runs, name: str, entries: Sequence[Entry]) -> Series:
    losses = [entry.loss or 0.0 for entry in entries]
    rates = [entry.rate for entry in entries]
    return Series(name, losses, rates, notes=[runs.named(entry) for entry in entries])


def maps(runs: Runs) -> Section:
    """Return a heat map for each pair of axes: the highest rate over all others."""
    heading = "Rates over two axes"
    first = across(runs.axes)
    order = sorted(runs.axes, key=lambda axis: axis is not first)  # which goes across everywhere
    charts: dict[str, Chart] = {}
    for x, y in list(combinations(order, 2))[:MOST_MAPS]:
        best: dict[tuple[str, str], float] = {}
        for entry in runs.able:
            place = value_text(entry.place.get(x.name)), value_text(entry.place.get(y.name))
            best[place] = max(best.get(place, 0.0), entry.speed)
        values = [[best.get((column, row)) for column in x.texts()] for row in y.texts()]
        names = x.words, y.words, x.texts(), y.texts()
        charts[f"{x.name} and {y.name}"] = Heat("Highest rate", *names, values, "tokens/s")
    if not charts or not runs.able:
        return Section(heading)
    note = "Each field is the fastest run there that a device can make, over all other axes."
    return Section(heading, panels=[Panel(charts, note if len(runs.axes) > 2 else "")])


def time(runs: Runs) -> Section:
    """Return how the time of the fastest runs divides, where the store says so."""
    heading = "Where the time goes"
    timed = [entry for entry in runs.able if entry.time_share and entry.speed][:MOST_BARS]
    parts = {
        RESOURCE_NAMES.get(name, name): [
            1e3 / entry.speed * entry.time_share.get(name, 0.0) for entry in timed
        ]
        for name in RESOURCES
    }
    parts = {name: values for name, values in parts.items() if any(values)}
    if not parts:
        return Section(heading)
    rows = [runs.values(entry) for entry in timed]
    chart = Bars("Exposed time of a token", "milliseconds a token", rows, parts)
    text = "Exposed time: how much each resource adds to the time of a token."
    few = len(runs.able) > len(rows)
    note = f"The {len(rows)} fastest runs that a device can make." if few else ""
    times = [
        [Cell(row), *(Cell(f"{show_number(length, 3)} ms", length) for length in lengths)]
        for row, lengths in zip(rows, zip(*parts.values(), strict=True), strict=True)
    ]
    table = Table("", ["run", *parts], times, frozenset(range(1, len(parts) + 1)))
    return Section(heading, [text], [Panel({"": chart}, note)], [table])


def budgets(runs: Runs) -> Section:
    """Return what DRAM holds in the fastest runs, where the store says so."""
    heading = "What DRAM holds"
    known: dict[Any, tuple[Entry, dict[str, float]]] = {}
    for entry in runs.able:
        parts = parts_of(entry.budget)
        if parts and len(known) < MOST_BARS:
            known.setdefault(tuple(sorted(parts.items())), (entry, parts))  # each budget once
    if not known:
        return Section(heading)
    listed = list(known.values())
    unit, scale = byte_scale(size for _, parts in listed for size in parts.values())
    labels = dict.fromkeys(label for _, parts in listed for label in parts)
    bars = {label: [parts.get(label, 0.0) / scale for _, parts in listed] for label in labels}
    rows = [runs.values(entry) for entry, _ in listed]
    note = "Budgets of the fastest runs that a device can make, each budget once."
    panel = Panel({"": Bars("Division of the DRAM", unit, rows, bars)}, note)
    return Section(heading, panels=[panel])
