"""The tables that a sweep says it shows, as text."""

import re
from collections.abc import Iterator
from dataclasses import replace

from rich.console import RenderableType
from rich.text import Text

from dipsim.analysis.tables import Shown, tables_of
from dipsim.errors import brief
from dipsim.report import columns
from dipsim.report.tables import Table, line
from dipsim.sweep.sweep import SweepResult

_MOST_REASONS = 5
_NUMBER = re.compile(r"\d[\d.]*")


def render(result: SweepResult) -> Iterator[RenderableType]:
    """Yield the tables of a sweep, each below what it shows, then its note and why cells are
    empty."""
    before = None
    for shown in tables_of(result.tables, result.axes, result.cells):
        heading = _heading(shown)
        yield line()
        if heading != before:
            yield line(heading)
        yield table(shown)
        before = heading
    if result.note:
        yield line()
        yield line(result.note)
    yield from map(line, reasons(result))


def _heading(shown: Shown) -> str:
    """Return where a table is, and what its fields are."""
    place = ", ".join(
        columns.text(name, value)
        if name == "profile"
        else f"{columns.head(name)} {columns.text(name, value)}"
        for name, value in shown.apart.items()
    )
    what = shown.title or (columns.title(shown.figure) if shown.figure else "")
    by = f" by {columns.head(shown.across)}" if shown.across else ""
    return ", ".join(filter(None, (place, what + by)))


def table(shown: Shown) -> Table:
    """Return a table, without the columns of figures that no cell has."""
    shown = _known(shown)
    axes = [axis for axis in shown.rows if _varies(shown, axis)] or list(shown.rows[:1])
    names = [columns.head(axis) for axis in axes]
    heads = [
        columns.place_text(shown.across, each) if shown.across else columns.head(each)
        for each in shown.columns
    ]
    numbers = [i for i, axis in enumerate(axes) if _of_numbers(shown, axis)]
    right = [*numbers, *range(len(names), len(names) + len(heads))]
    made = Table(*names, *map(Text, heads), right=right)
    for place, fields in shown.lines:
        at = dict(zip(shown.rows, place, strict=True))
        figures = shown.columns if not shown.figure else (shown.figure,) * len(fields)
        made.add_row(
            *(columns.place_text(axis, at[axis]) for axis in axes),
            *(columns.text(name, each) for name, each in zip(figures, fields, strict=True)),
        )
    return made


def _known(shown: Shown) -> Shown:
    """Return a table without the columns of figures that no cell has, unless none has any."""
    kept = [
        i
        for i in range(len(shown.columns))
        if shown.figure or any(fields[i] is not None for _, fields in shown.lines)
    ]
    if not kept:
        return shown
    lines = tuple((place, tuple(fields[i] for i in kept)) for place, fields in shown.lines)
    return replace(shown, columns=tuple(shown.columns[i] for i in kept), lines=lines)


def _of_numbers(shown: Shown, axis: str) -> bool:
    place = shown.rows.index(axis)
    return all(isinstance(at[place], int | float) for at, _ in shown.lines)


def _varies(shown: Shown, axis: str) -> bool:
    place = shown.rows.index(axis)
    return len({str(at[place]) for at, _ in shown.lines}) > 1


def reasons(result: SweepResult) -> list[str]:
    """Return why cells are empty: of reasons that differ in numbers alone the first."""
    found: dict[str, list[str]] = {}
    for cell in result.cells:
        if cell.figures is None and cell.why is not None:
            found.setdefault(_NUMBER.sub("", cell.why), []).append(cell.why)
    listed = [
        f"-: {brief(alike[0], 200)}" + (f" ({len(alike)} cells)" if len(alike) > 1 else "")
        for alike in list(found.values())[:_MOST_REASONS]
    ]
    if len(found) > _MOST_REASONS:
        listed.append(f"-: {len(found) - _MOST_REASONS} other reasons: dipsim results --failed")
    return listed
