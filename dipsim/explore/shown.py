"""Pages of reports as plain values that a script can show: charts as plotly draws them, tables row
by row, every text harmless."""

from collections.abc import Iterable
from typing import Any

from dipsim.errors import printable
from dipsim.report.glossary import MARKS
from dipsim.report.page.html import anchor, described
from dipsim.report.page.model import Page, Panel, Section, Table
from dipsim.report.page.plots import plotted

_MEANINGS = {entry.name: entry.meaning for entry in MARKS}


def shown(page: Page, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """Return a page as plain values.

    Args:
        page: what it says.
        leave_out: headings of sections that are not wanted.
    """
    sections = [section for section in page.sections if section.name not in leave_out]
    return {
        "title": printable(page.title),
        "answer": printable(page.answer),
        "tiles": [
            {"label": tile.label, "figure": printable(tile.figure), "note": printable(tile.note)}
            for tile in page.tiles
        ],
        "marks": marks_of(page.marks),
        "panels": panels_of(sections),
        "tables": [_section(section) for section in sections if section.tables],
    }


def marks_of(marks: Iterable[str]) -> list[dict[str, str]]:
    """Return marks with what they mean."""
    return [{"mark": printable(mark), "meaning": _MEANINGS.get(mark, "")} for mark in marks]


def panels_of(sections: Iterable[Section]) -> list[dict[str, Any]]:
    """Return the charts of sections; the names of a panel stay the same as its figures change."""
    return [
        panel_of(panel, f"{anchor(section.name)}-{number}")
        for section in sections
        for number, panel in enumerate(section.panels, 1)
    ]


def panel_of(panel: Panel, name: str) -> dict[str, Any]:
    """Return a panel as plain values."""
    first = next(iter(panel.charts.values()))
    return {
        "name": name,
        "charts": {printable(name): plotted(chart) for name, chart in panel.charts.items()},
        "described": printable(f"{first.title}: {described(first)}"),
        "note": printable(panel.note),
    }


def table_of(table: Table) -> dict[str, Any]:
    """Return a table as plain values."""
    return {
        "title": printable(table.title),
        "heads": list(map(printable, table.heads)),
        "numbers": sorted(table.numbers),
        "rows": [[[printable(cell.text), cell.value] for cell in row] for row in table.rows],
        "commands": list(table.commands),
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "name": printable(section.name),
        "texts": list(map(printable, section.texts)),
        "tables": list(map(table_of, section.tables)),
    }
