"""Tables that a sweep says it shows, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dipsim.analysis.results import COLUMNS, figures_of, value_of
from dipsim.errors import DipsimError, brief
from dipsim.settings import concerning
from dipsim.store import StoredCell
from dipsim.sweep.file import Table
from dipsim.sweep.keys import SHARE

_SAME = ("profile", "model", "text", "trace", SHARE, *concerning("budget"))
"""Axes that are not chosen by who wants the highest rate."""
Place = tuple[Any, ...]
"""A value of each of some axes."""


@dataclass(frozen=True)
class Shown:
    """A table, worked out."""

    title: str
    """Heading that its file gives; empty for none."""
    figure: str
    """Figure of all fields; empty where each column has its own."""
    apart: Mapping[str, Any]
    """Values of the axes of which each has a table."""
    rows: tuple[str, ...]
    """Axes that go down."""
    columns: tuple[Any, ...]
    """Heads over the fields: figures, losses, or values of an axis (None without it)."""
    across: str
    """Axis whose values go across; empty where figures or losses do."""
    lines: tuple[tuple[Place, Place], ...]
    """For each row the values of its axes, and its fields; None where there is none."""


def tables_of(
    tables: Sequence[Table], axes: Sequence[str], cells: Sequence[StoredCell]
) -> list[Shown]:
    """Return the tables of a sweep.

    Args:
        tables: what it shows.
        axes: all of its axes.
        cells: in the order of the axes.

    Raises:
        DipsimError: a figure that no cell has.
    """
    found: list[Shown] = []
    _check_figures(tables, cells)
    for table in tables:
        others = [axis for axis in axes if axis not in (*table.rows, table.columns)]
        if table.at_loss:  # over all that a user may choose on one device, in one size of memory
            others = [axis for axis in others if axis in _SAME]
        for apart, part in _grouped(cells, others).items():
            known = zip(others, apart, strict=True)
            place = {name: value for name, value in known if value is not None}
            if table.at_loss:
                found.append(_at_loss(table, place, part))
            else:
                found += _tables(table, place, part)
    return found


def _check_figures(tables: Sequence[Table], cells: Sequence[StoredCell]) -> None:
    """Refuse figures that no cell has.

    Raises:
        DipsimError: in one line.
    """
    done = [cell for cell in cells if cell.figures is not None]
    for figure in dict.fromkeys(figure for table in tables for figure in table.figures):
        first = figure.partition(".")[0]
        known = figure in COLUMNS or any(
            first in (cell.figures or {}) or figure in figures_of(cell) for cell in done
        )
        if done and not known:
            raise DipsimError(f"tables: no figure {brief(repr(figure), 60)}: see dipsim results")


def _tables(table: Table, apart: Mapping[str, Any], cells: Sequence[StoredCell]) -> list[Shown]:
    return _pivots(table, apart, cells) if table.columns else [_list(table, apart, cells)]


def _grouped(cells: Sequence[StoredCell], axes: Sequence[str]) -> dict[Place, list[StoredCell]]:
    """Return cells by their values on some axes, in the order in which they come."""
    groups: dict[Place, list[StoredCell]] = {}
    for cell in cells:
        groups.setdefault(tuple(_at(cell, axis) for axis in axes), []).append(cell)
    return groups


def _at(cell: StoredCell, axis: str) -> Any:
    """Return the value of an axis, or of an option that all cells have; None without one."""
    value = cell.place.get(axis, cell.options.get(axis))
    return str(value) if isinstance(value, Mapping) else value


def _list(table: Table, apart: Mapping[str, Any], cells: Sequence[StoredCell]) -> Shown:
    lines = [
        (place, tuple(value_of(cell, figure) for figure in table.figures))
        for place, listed in _grouped(cells, table.rows).items()
        for cell in listed
    ]
    return Shown(table.title, "", apart, table.rows, table.figures, "", tuple(lines))


def _pivots(table: Table, apart: Mapping[str, Any], cells: Sequence[StoredCell]) -> list[Shown]:
    """Return a table for each figure."""
    axis = table.columns or ""
    columns = [value for (value,) in _grouped(cells, [axis])]
    found = []
    for figure in table.figures:
        lines = []
        for place, listed in _grouped(cells, table.rows).items():
            at = {cell.place.get(axis): value_of(cell, figure) for cell in listed}
            lines.append((place, tuple(at.get(value) for value in columns)))
        found.append(
            Shown(table.title, figure, apart, table.rows, tuple(columns), axis, tuple(lines))
        )
    return found


def _at_loss(table: Table, apart: Mapping[str, Any], cells: Sequence[StoredCell]) -> Shown:
    """Return the highest rates at losses above the dense model's perplexity, over all cells of a
    row."""
    done = [cell for cell in cells if isinstance(value_of(cell, "perplexity"), int | float)]
    dense = min(
        (value_of(cell, "perplexity") for cell in done if cell.options.get("method") == "dense"),
        default=None,
    )
    lines = []
    for place, listed in _grouped(done, table.rows).items():
        best: list[Any] = []
        for loss in table.at_loss:
            rates = [
                value_of(cell, "tokens_per_second")
                for cell in listed
                if dense is not None and value_of(cell, "perplexity") <= dense + loss
            ]
            best.append(max((rate for rate in rates if rate is not None), default=None))
        lines.append((place, tuple(best)))
    heads = tuple(f"+{loss:g}" for loss in table.at_loss)
    title = table.title if dense is not None else "no cell has the dense model to compare with"
    return Shown(title, "tokens_per_second", apart, table.rows, heads, "", tuple(lines))
