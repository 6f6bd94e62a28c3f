"""Page of studies: for each its tables and charts, one below the other."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from dipsim.analysis.study import StudyResult
from dipsim.analysis.tables import Shown, tables_of
from dipsim.errors import brief
from dipsim.report import columns
from dipsim.report.page.axes import varying
from dipsim.report.page.caveats import caveats
from dipsim.report.page.model import Cell, Chart, Lines, Page, Panel, Section, Series, Table, Tile
from dipsim.report.sweep_tables import reasons


def page_of_studies(results: Sequence[StudyResult]) -> Page:
    """Return the page of some studies.

    Args:
        results: one or more.
    """
    cells = [cell for result in results for cell in result.cells]
    done = [cell for cell in cells if cell.figures is not None]
    marks = list(dict.fromkeys(mark for cell in cells for mark in cell.marks))
    sections = [section for result in results for section in _sections(result)]
    named = f"Study {results[0].name} of {_subject(results[0])}"
    return Page(
        title=f"{named if len(results) == 1 else f'{len(results)} studies'}: {len(cells)} runs",
        answer=_answer(results),
        tiles=[
            Tile("studies", str(len(results))),
            Tile("runs", str(len(cells)), f"{len(cells) - len(done)} impossible"),
        ],
        sections=[*sections, caveats(marks, [], [])],
        footer=f"dipsim {version('dipsim')}",
        marks=marks,
    )


def _subject(result: StudyResult) -> str:
    """Return what a study replays or judges."""
    return brief(str(result.fixed.get("trace") or result.fixed.get("model") or "several"), 60)


def _answer(results: Sequence[StudyResult]) -> str:
    if len(results) == 1:
        return f"{_sentence(results[0].title)}."
    return f"{len(results)} studies of {_subject(results[0])}, each with its tables and charts."


def _sentence(title: str) -> str:
    """Return a title with its first letter as a sentence has it."""
    return title[:1].upper() + title[1:]


def _sections(result: StudyResult) -> list[Section]:
    shown = tables_of(result.tables, result.axes, result.cells)
    fixed = ", ".join(f"{name} {value}" for name, value in sorted(result.fixed.items()))
    texts = [f"{_sentence(result.title)} ({fixed})"]
    texts += [result.note] if result.note else []
    texts += reasons(result)
    charts = {_named(each): chart for each in shown if (chart := _chart(each)) is not None}
    panels = [Panel(charts)] if charts else []
    return [Section(result.name, texts, panels, [_table(each) for each in shown])]


def _named(shown: Shown) -> str:
    """Return what tells a table from the others of its study."""
    place = [f"{name} {columns.text(name, value)}" for name, value in shown.apart.items()]
    what = shown.title or (columns.title(shown.figure) if shown.figure else "figures")
    return _sentence(", ".join([what, *place]))


def _table(shown: Shown) -> Table:
    heads = [columns.head(axis) for axis in shown.rows]
    if shown.across:
        across = columns.head(shown.across)
        heads += [f"{across} {columns.place_text(shown.across, each)}" for each in shown.columns]
    else:
        heads += [columns.head(each) for each in shown.columns]
    rows = []
    for place, fields in shown.lines:
        names = shown.columns if not shown.figure else (shown.figure,) * len(fields)
        rows.append(
            [
                *(
                    _cell(axis, value, columns.place_text)
                    for axis, value in zip(shown.rows, place, strict=True)
                ),
                *(_cell(name, value) for name, value in zip(names, fields, strict=True)),
            ]
        )
    numbers = frozenset(range(len(shown.rows), len(heads)))
    return Table(_named(shown), heads, rows, numbers)


def _cell(name: str, value: Any, show: Callable[[str, Any], str] = columns.text) -> Cell:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(show(name, value), value if number else None)


def _chart(shown: Shown) -> Chart | None:
    """Return a line for each row of a table of one figure, or the points of one figure of a list;
    None where no axis varies alone."""
    if shown.across:
        return _across(shown)
    if len(shown.rows) == 1 and not shown.figure and len(shown.lines) > 1:
        axes = varying([{shown.rows[0]: place[0]} for place, _ in shown.lines])
        if not axes:
            return None
        axis = axes[0]
        x = [axis.position(place[0]) for place, _ in shown.lines]
        figure = "tokens_per_second" if "tokens_per_second" in shown.columns else shown.columns[0]
        at = shown.columns.index(figure)
        series = Series(columns.title(figure), x, [_float(line[at]) for _, line in shown.lines])
        joined = axis.positions is not None
        return Lines(columns.title(figure), axis.label, columns.title(figure), [series], joined)
    return None


def _across(shown: Shown) -> Lines | None:
    """Return a line for each row against the values of the axis that goes across."""
    kept = [i for i, each in enumerate(shown.columns) if each is not None]
    axes = varying([{shown.across: shown.columns[i]} for i in kept])
    if not axes:
        return None
    (axis,) = axes
    series = []
    for place, fields in shown.lines:
        values = [(axis.position(shown.columns[i]), _float(fields[i])) for i in kept]
        known = [(x, y) for x, y in values if y is not None]
        given = [(a, v) for a, v in zip(shown.rows, place, strict=True) if v is not None]
        name = ", ".join(columns.text(axis, value) for axis, value in given)
        if known:
            series.append(Series(name or "as usual", [x for x, _ in known], [y for _, y in known]))
    if not series:
        return None
    return Lines(_named(shown), axis.label, columns.title(shown.figure), series)


def _float(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else None
