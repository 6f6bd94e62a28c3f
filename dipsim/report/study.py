"""Report of `dipsim study`: its tables, their rows, and a picture of its charts."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from dipsim.analysis.study import StudyResult, titles
from dipsim.report import results, sweep_tables
from dipsim.report.page import drawing
from dipsim.report.page.studies import page_of_studies
from dipsim.report.pictures import Sheet
from dipsim.report.results import UNITS
from dipsim.report.tables import Table, line, marks_of

__all__ = ["UNITS", "listing", "page_of_studies", "picture_of", "plot", "records", "render"]


def listing() -> Table:
    """Return a table of all studies."""
    table = Table("study", "what it varies")
    for name, title in titles().items():
        table.add_row(name, title)
    return table


def records(result: StudyResult) -> list[dict[str, Any]]:
    """Return a row for each cell: what all cells have, the axes, and figures."""
    names = [name for name in ("trace", "method", *result.fixed) if name not in result.axes]
    return [
        {**{name: _plain(result.fixed.get(name, cell.options.get(name))) for name in names}, **row}
        for cell, row in zip(result.cells, results.records(result), strict=True)
    ]


def _plain(value: Any) -> Any:
    return _setting(value) if isinstance(value, Mapping) else value


def render(result: StudyResult) -> RenderableType:
    """Return the tables of a study."""
    fixed = ", ".join(f"{name}={_setting(value)}" for name, value in sorted(result.fixed.items()))
    lines: list[RenderableType] = [line(f"{result.name}: {result.title}"), line(fixed)]
    lines += sweep_tables.render(result)
    if result.unmeasured:
        tokens = f"no run measures the first {result.unmeasured} decode tokens"
        lines.append(line(f"{tokens}: thresholds are calibrated on them"))
    return Group(*lines, *marks_of(cell.marks for cell in result.cells))


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{_setting(inner)}" for name, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def plot(result: StudyResult, sheet: Sheet) -> Any:
    """Draw the charts of a study, as `picture_of`."""
    return picture_of([result], sheet)


def picture_of(studies: Sequence[StudyResult], sheet: Sheet) -> Any:
    """Draw the charts of studies; return the matplotlib figure.

    Raises:
        DipsimError: they have none, or the file cannot be written.
    """
    return drawing.draw(page_of_studies(studies), sheet)
