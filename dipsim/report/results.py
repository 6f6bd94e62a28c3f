"""Report of `dipsim sweep` and `dipsim results`: tables of cells, CSV, Parquet, Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Group, RenderableType

from dipsim.analysis.compare import KNOWING
from dipsim.analysis.results import COLUMNS, OF_GROUPS, Pivot, figures_of, value_of
from dipsim.errors import DipsimError, printable
from dipsim.files import unwritable, whole_file
from dipsim.report import sweep_tables
from dipsim.report.columns import head, text
from dipsim.report.envelope import UNITS as REPORTED
from dipsim.report.tables import Table, line, marks_of
from dipsim.store import StoredCell
from dipsim.sweep.estimate import Estimate
from dipsim.sweep.sweep import SweepResult
from dipsim.units import show_number

SHOWN = ("tokens_per_second", "tokens_per_second_low", "tokens_per_second_high", "hit_rate")
"""Figures of a table on the terminal, unless the user names others."""
MOST_ROWS = 40
"""Cells of a table on the terminal."""
BEST = 5
"""Cells that are shown of a sweep that is over."""
_SUFFIXES = {
    "_bytes": "B",
    "_bytes_per_token": "B/token",
    "_reads_per_token": "reads/token",
    "tokens_per_second": "tokens/s",
    "_mj_per_token": "mJ/token",
    "_share": "share",
}
"""Units of columns that end so, but for ``_low`` and ``_high``."""
UNITS = {
    **dict.fromkeys(("cells", "done", "failed", "known", "missing", "runs", "sampled"), "cells"),
    **dict.fromkeys(("chunks", "replays"), "passes"),
    "workers": "processes",
    "measured_tokens": "tokens",
    **{
        name: unit
        for name in COLUMNS
        for end, unit in _SUFFIXES.items()
        if name.removesuffix("_low").removesuffix("_high").endswith(end)
    },
    **{name: "ms" for name in COLUMNS if "_ms" in name},
    **{name: "share of the time" for name in COLUMNS if name.startswith("time_share")},
}
"""Units of figures that `dipsim.report.envelope` does not know, or knows as others."""


class Cells(Protocol):
    """Cells of sweeps, with the axes of all of them."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes."""
        ...

    @property
    def cells(self) -> Sequence[StoredCell]:
        """The cells."""
        ...


# Rows ---------------------------------------------------------------------------------------------


def records(results: Cells, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return a row for each cell: sweep, axes, figures, marks, why it failed, and seconds.

    All rows have the same columns, None where a cell has no value.

    Args:
        columns: figures that are wanted; default: all.
    """
    rows = []
    for cell in results.cells:
        place = {axis: cell.place.get(axis) for axis in results.axes}
        figures = {name: value_of(cell, name) for name in columns} if columns else figures_of(cell)
        about = {"marks": " ".join(cell.marks), "why": cell.why, "seconds": cell.seconds}
        rows.append({"sweep": cell.sweep, **place, **figures, **about})
    names = dict.fromkeys(name for row in rows for name in row if name not in _LAST)
    return [{name: row.get(name) for name in (*names, *_LAST)} for row in rows]


_LAST = ("marks", "why", "seconds")


def units(results: Cells, pivot: Pivot | None = None) -> dict[str, str]:
    """Return the units of rows, by column; values of axes are as they were given."""
    known = dict.fromkeys(results.axes, "as given")
    for cell in results.cells[:1]:
        known |= {name: "share" for name in figures_of(cell) if name.startswith(OF_GROUPS)}
    if pivot is not None:
        figure = {**REPORTED, **known, **UNITS}.get(pivot.figure, "")
        known |= {f"{pivot.column}={value}": figure for value in pivot.columns}
    return {**UNITS, **known}


def pivot_records(pivot: Pivot) -> list[dict[str, Any]]:
    """Return a row for each value of the row's axis, with a column for each of the column's."""
    names = [f"{pivot.column}={value}" for value in pivot.columns]
    return [{pivot.row: name, **dict(zip(names, row, strict=True))} for name, row in pivot.rows]


# Text ---------------------------------------------------------------------------------------------


def render(results: Cells, columns: Sequence[str] = ()) -> RenderableType:
    """Return a table of cells; of many the first ones.

    Args:
        columns: figures; default: `SHOWN`.
    """
    if not results.cells:
        return line("no cells")
    shown = results.cells[:MOST_ROWS]
    left = len(results.cells) - len(shown)
    more = [line(f"... and {left} more: --best FIGURE, --csv FILE")] if left else []
    return Group(_table(results, shown, columns or SHOWN), *more, *_notes(results.cells))


def render_pivot(pivot: Pivot) -> RenderableType:
    """Return a table of a figure over two axes."""
    if not pivot.rows:
        return line("no cells")
    right = range(1, len(pivot.columns) + 1)
    table = Table(pivot.row, *(text(pivot.column, value) for value in pivot.columns), right=right)
    for name, row in pivot.rows:
        table.add_row(text(pivot.row, name), *(text(pivot.figure, value) for value in row))
    return Group(line(f"{pivot.figure} by {pivot.row} and {pivot.column}"), table)


def render_failed(results: Cells) -> RenderableType:
    """Return a line for every cell that failed, with why."""
    several = len({cell.sweep for cell in results.cells}) > 1
    lines = []
    for cell in results.cells:
        place = ", ".join(f"{name}={text(name, value)}" for name, value in cell.place.items())
        sweep = f"{cell.sweep}: " if several else ""
        lines.append(line(f"{sweep}{place}: {cell.why}"))
    return Group(*lines or [line("no cell failed")])


def render_sweep(result: SweepResult) -> RenderableType:
    """Return the fastest cells of a sweep that is over, of those that a device can run, and where
    all of them are."""
    done = [cell for cell in result.cells if cell.figures is not None]
    able = [cell for cell in done if not KNOWING & set(cell.marks)]
    rate = "tokens_per_second"
    fastest = sorted(able, key=lambda cell: -(value_of(cell, rate) or 0.0))[:BEST]
    lines: list[RenderableType] = [line(f"{result.title or result.name}: {_count(result)}")]
    if result.tables:
        shown = [*sweep_tables.render(result), *marks_of(cell.marks for cell in done)]
        return Group(*lines, *shown, line(f"all of them: dipsim results {result.store}"))
    if fastest:
        knowing = f" (without {len(done) - len(able)} that know the future)"
        lines.append(line(f"the fastest of {len(done)}{knowing if able != done else ''}:"))
        lines.append(_table(result, fastest, SHOWN))
    lines += marks_of(cell.marks for cell in fastest)
    lines += [line(f"lost: {ran.lost}") for ran in result.lost[:1]]
    return Group(*lines, line(f"all of them: dipsim results {result.store}"))


def render_estimate(name: str, found: Estimate) -> RenderableType:
    """Return what a sweep has to do."""
    same = f" ({found.runs} different runs)" if found.runs != found.cells else ""
    lines = [f"{name}: {found.cells} cells{same}, {found.known} of them in the store"]
    if found.missing:
        lines += [
            f"{found.missing} to run, in {found.chunks} passes over traces and about "
            f"{found.replays} replays",
            f"about {_duration(found.seconds)} with {found.workers} worker"
            f"{'s' * (found.workers > 1)}: an estimate, from {found.sampled} cells",
        ]
    return Group(*map(line, lines))


def _count(result: SweepResult) -> str:
    cells = len(result.cells) + sum(len(ran.chunk) for ran in result.lost)
    failed = f", {result.failed} failed (dipsim results {result.store} --failed)"
    known = f", {result.known} were in the store" if result.known else ""
    return f"{cells} cells{known}{failed if result.failed else ''}"


def _duration(seconds: float) -> str:
    """Return a time as people say it."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{show_number(seconds / size, 2)} {unit}"
    return f"{show_number(seconds, 2)} s"


def _table(results: Cells, cells: Sequence[StoredCell], columns: Sequence[str]) -> Table:
    """Return a row for each cell: the axes that vary, and figures."""
    several = len({cell.sweep for cell in results.cells}) > 1
    axes = [
        axis
        for axis in results.axes
        if len({str(cell.place.get(axis)) for cell in results.cells}) > 1
    ]
    names = [*["sweep"] * several, *axes]
    right = range(len(names), len(names) + len(columns))
    table = Table(*names, *(head(name) for name in columns), right=right)
    for cell in cells:
        place = {"sweep": cell.sweep, **cell.place}
        table.add_row(
            *(text(name, place.get(name)) for name in names),
            *(text(name, value_of(cell, name)) for name in columns),
        )
    return table


def _notes(cells: Sequence[StoredCell]) -> list[RenderableType]:
    failed = sum(cell.figures is None for cell in cells)
    said = [line(f"{failed} failed: --failed says why")] if failed else []
    return [*said, *marks_of(cell.marks for cell in cells)]


# Files --------------------------------------------------------------------------------------------


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as a Parquet file, a column of numbers or of texts for each of theirs.

    Raises:
        DipsimError: pyarrow is not installed, or the file cannot be written.
    """
    pyarrow, parquet = _pyarrow()
    names = rows[0] if rows else ()
    table = pyarrow.table({name: _column([row[name] for row in rows]) for name in names})
    try:
        with whole_file(path) as handle:
            parquet.write_table(table, handle)
    except OSError as problem:
        raise unwritable(f"--parquet {path}", problem) from None


def check_parquet() -> None:
    """Refuse to write Parquet without what writes it.

    Raises:
        DipsimError: pyarrow is not installed.
    """
    _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise DipsimError("--parquet needs pyarrow: pip install 'dipsim[parquet]'") from None
    return pyarrow, parquet


def _column(values: Sequence[Any]) -> list[Any]:
    """Return values of one type: whole numbers, numbers, or texts; None stays."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} or kinds == {str}:
        return list(values)
    one = float if kinds <= {int, float} else str
    return [None if value is None else one(value) for value in values]


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as a table of Markdown."""
    listed = [{name: _in_markdown(value) for name, value in row.items()} for row in rows]
    heads = list(listed[0]) if listed else []
    lines = [map(_in_markdown, heads), ["---"] * len(heads), *(row.values() for row in listed)]
    return "".join(f"| {' | '.join(each)} |\n" for each in lines) if heads else ""


def _in_markdown(value: Any) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
