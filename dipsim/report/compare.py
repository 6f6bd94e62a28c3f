"""Report of `dipsim compare`: an answer, tables of rates or of every figure, HTML, CSV."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from dipsim.analysis.compare import Comparison, fastest, runs_on_a_device
from dipsim.report.compare_picture import check_picture, plot
from dipsim.report.files import write_rows
from dipsim.report.tables import Table, line, marks_of, number
from dipsim.sweep.point import Cell
from dipsim.units import BYTES

__all__ = ["check_picture", "html", "one_of_each_kind", "plot", "records", "render", "write_csv"]

MOST_TABLES = 2
"""Devices times budgets up to which tables show every figure; more of them show rates alone."""
_WIDTH = 80
"""Columns of a terminal that tables of rates are cut to fit."""
_AMOUNT = re.compile(r"\d[\d.]*( [kMGT]?B)?")


class _Listing(NamedTuple):
    """A table before it becomes text or HTML."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    labels: int
    """Columns at the left that hold names."""


# Text ---------------------------------------------------------------------------------------------


def render(comparison: Comparison, details: bool = False) -> RenderableType:
    """Return a table of every figure and a verdict for each device and budget, notes and marks.

    Where that were many tables, an answer for each device and its rates by budget stand instead.

    Args:
        comparison: what to show.
        details: show every figure in any case.
    """
    sections = _sections(comparison)
    brief = len(sections) > MOST_TABLES
    parts: list[RenderableType] = []
    grids = list(_grids(comparison)) if brief else []
    if brief:
        parts += [line(answer) for answer in _answers(comparison)]
        for listing in grids:
            parts += [line(), line(listing.title, style="bold"), _table(listing)]
        parts.append(line())
    if details or not brief:
        for cells in sections:
            listing = _every_figure(comparison, cells)
            parts += [line(listing.title, style="bold"), _table(listing), line()]
            parts += [part for text in _verdict(comparison, cells) for part in (line(text), line())]
    notes = _notes(comparison, grids, figures=details or not brief)
    return Group(*parts, *notes, *marks_of(cell.marks for cell in comparison.cells))


def _sections(comparison: Comparison) -> list[list[Cell]]:
    """Return the cells of each device and budget, the fastest first."""

    def place(cell: Cell) -> Any:
        return cell.place["profile"], cell.place["budget"]

    return [list(cells) for _, cells in groupby(comparison.cells, place)]


def _labels(comparison: Comparison) -> list[str]:
    """Return the axes that name a row."""
    return comparison.varying("method", "density", "policy") or ["policy"]


def _names(cell: Cell, axes: Iterable[str]) -> list[str]:
    """Return the place of a cell on some axes, as texts."""
    values = (cell.place[axis] for axis in axes)
    return [
        "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        for value in values
    ]


def _named(comparison: Comparison, cell: Cell) -> str:
    """Return what tells a cell from others of its device and budget, as part of a sentence."""
    axes = [axis for axis in _labels(comparison) if cell.place[axis] is not None]
    names = zip(axes, _names(cell, axes), strict=True)
    return " ".join(f"density {name}" if axis == "density" else name for axis, name in names)


def _table(listing: _Listing) -> Table:
    columns = len(listing.heads)
    table = Table(*listing.heads, right=range(listing.labels, columns), whole=range(listing.labels))
    for row in listing.rows:
        table.add_row(*row)
    return table


def _short(value: float) -> str:
    """Return four figures of a number, never as a power of ten."""
    return f"{value:.4g}" if not 1e4 <= abs(value) < math.inf else f"{value:.0f}"


# Every figure -------------------------------------------------------------------------------------


def _other_admission(cell: Cell) -> str:
    verdict = cell.value("verdict")
    if verdict is None or verdict.admission is None:
        return "-"
    return f"{verdict.gained / max(verdict.accesses, 1):+.1%}"


_COLUMNS: dict[str, Callable[[Cell], str]] = {
    "hits": lambda cell: f"{cell.value('hit_rate'):.1%}",
    "to opt": lambda cell: number(cell.value("to_optimum"), "{:.1%}"),
    "other adm.": _other_admission,
    "tok/s": lambda cell: _short(cell.rate),
    "band": lambda cell: "-".join(map(_short, cell.band)),
    "flash": lambda cell: BYTES.show(cell.value("flash_bytes_per_token")),
    "reads": lambda cell: _short(cell.value("flash_reads_per_token")),
}
_SPARED = ("other adm.", "reads")
"""Columns that give way where a row has several names."""


def _every_figure(comparison: Comparison, cells: list[Cell]) -> _Listing:
    """Return every figure of the cells of a device and budget."""
    axes = _labels(comparison)
    columns = [head for head in _COLUMNS if len(axes) == 1 or head not in _SPARED]
    rows = []
    for cell in cells:
        known = cell.figures is not None
        texts = (_COLUMNS[head](cell) if known else "-" for head in columns)
        rows.append([*_names(cell, axes), *texts])
    names = [cells[0].place["profile"]] if comparison.varying("profile") else []
    if "policy" not in axes:
        names.append(f"policy {cells[0].place['policy']}")
    sizes = {BYTES.show(cell.number("cache_bytes")) for cell in cells if cell.figures is not None}
    title = ", ".join([*names, cells[0].place["budget"]])
    if len(sizes) == 1:
        title += f": {sizes.pop()} of cache"
    return _Listing(title, [*axes, *columns], rows, len(axes))


def _verdict(comparison: Comparison, cells: list[Cell]) -> Iterator[str]:
    """Yield the verdict on the fastest policy that a device can run, if there is one."""
    best = fastest(cells)
    verdict = None if best is None else best.value("verdict")
    if best is not None and verdict is not None:
        yield f"{_named(comparison, best)}: {' '.join(verdict.lines)}"


# Rates alone --------------------------------------------------------------------------------------


def _answers(comparison: Comparison) -> Iterator[str]:
    """Yield for each device what is the fastest, and where."""
    for profile in comparison.axes["profile"]:
        own = [cell for cell in comparison.cells if cell.place["profile"] == profile]
        best = fastest(own)
        if best is None:
            yield f"{profile}: nothing ran that a device can run."
            continue
        budget = best.place["budget"]
        column = [cell for cell in own if cell.place["budget"] == budget and cell.figures]
        first, *others = (_named(comparison, cell) for cell in _winners(column))
        alike = f", as {others[0] if len(others) == 1 else f'{len(others)} others'}"
        text = f"{profile}: {first} is the fastest{alike if others else ''}"
        text += f": {_short(best.rate)} tokens/s at {budget}"
        ahead = max(column, key=lambda cell: cell.rate)
        if ahead.rate > best.rate:
            text += f" ({_named(comparison, ahead)}: {_short(ahead.rate)})"
        if comparison.varying("budget"):
            text += f". {_leaders(comparison, own)}"
        yield f"{text}."


def _leaders(comparison: Comparison, cells: Iterable[Cell]) -> str:
    """Return at how many budgets of a device which of the cells is the fastest."""
    counts: dict[str, int] = {}
    alike = 0
    for _, group in groupby(cells, lambda cell: cell.place["budget"]):
        winners = _winners(group)
        if len(winners) == 1:
            name = _named(comparison, winners[0])
            counts[name] = counts.get(name, 0) + 1
        else:
            alike += len(winners) > 1
    ranking = sorted(counts.items(), key=lambda item: -item[1])
    total = len(comparison.axes["budget"])
    texts = [
        f"{name} leads at {count} of {total} budgets" if i == 0 else f"{name} at {count}"
        for i, (name, count) in enumerate(ranking)
    ]
    if alike and not ranking:
        return f"Several are alike at {alike} of {total} budgets"
    return ", ".join([*texts, *([f"several alike at {alike}"] if alike else [])])


def _winners(cells: Iterable[Cell]) -> list[Cell]:
    """Return the fastest of the cells that run on a device; several only if their rates agree."""
    known = [cell for cell in cells if runs_on_a_device(cell)]
    most = max((cell.rate for cell in known), default=0.0)
    return [cell for cell in known if cell.rate >= most * (1 - 1e-9)]


def _grids(comparison: Comparison) -> Iterator[_Listing]:
    """Yield rates by budget, a table for each device; of one budget, rates by device.

    Where there are too many columns for a terminal, the table continues in another.
    """
    if not comparison.varying("budget"):
        title = f"{comparison.axes['budget'][0]}: tokens per second"
        heads = {name: str(name) for name in comparison.axes["profile"]}
        yield from _grid(comparison, title, "profile", heads, comparison.cells)
        return
    heads = _budget_heads(comparison)
    for profile in comparison.axes["profile"]:
        own = [cell for cell in comparison.cells if cell.place["profile"] == profile]
        title = f"{profile}: tokens per second{_by(comparison)}"
        yield from _grid(comparison, title, "budget", heads, own)


def _budget_heads(comparison: Comparison) -> dict[str, str]:
    """Return a short name for each budget."""
    budgets = comparison.budgets
    if len({budget.kind for budget in budgets.values()}) > 1:
        return {label: label for label in budgets}
    return {
        label: f"{100 * budget.share:.6g}%" if budget.share is not None else str(budget.value)
        for label, budget in budgets.items()
    }


def _by(comparison: Comparison) -> str:
    """Return what the short names of budgets are of."""
    kinds = {budget.kind for budget in comparison.budgets.values()}
    words = {"dram": "DRAM", "cache": "cache", "cache_fraction": "share of the units in the cache"}
    return f", by {words[kinds.pop()]}" if len(kinds) == 1 else ""


def _grid(
    comparison: Comparison, title: str, across: str, heads: dict[Any, str], cells: Sequence[Cell]
) -> Iterator[_Listing]:
    """Yield the rates of some cells: the best row first, a column for each value of an axis."""
    axes = _labels(comparison)
    texts: dict[tuple[str, ...], dict[Any, str]] = {}
    scores: dict[tuple[str, ...], float] = {}
    stars = {
        id(winner)
        for value in heads
        for winner in _starred([cell for cell in cells if cell.place[across] == value])
    }
    for cell in cells:
        row = tuple(_names(cell, axes))
        known = cell.figures is not None
        text = f"{'*' if id(cell) in stars else ''}{_short(cell.rate)}" if known else "-"
        texts.setdefault(row, {})[cell.place[across]] = text
        scores[row] = scores.get(row, 0.0) + (math.log(max(cell.rate, 1e-300)) if known else -1e3)
    order = sorted(texts, key=lambda row: -scores[row])
    room = _WIDTH - sum(max(map(len, names)) + 2 for names in zip(axes, *order, strict=True))
    for n, values in enumerate(_columns_that_fit(heads, texts.values(), room)):
        rows = [[*row, *(texts[row].get(value, "-") for value in values)] for row in order]
        head = [*axes, *(heads[value] for value in values)]
        yield _Listing(title if n == 0 else f"{title}, continued", head, rows, len(axes))


def _starred(cells: Sequence[Cell]) -> list[Cell]:
    """Return the fastest of a column, unless all that a device can run are alike."""
    winners = _winners(cells)
    return winners if len(winners) < sum(map(runs_on_a_device, cells)) else []


def _columns_that_fit(
    heads: dict[Any, str], rows: Iterable[dict[Any, str]], room: int
) -> Iterator[list[Any]]:
    """Yield values of an axis in lists whose columns take no more than the room there is."""
    listed = list(rows)
    block: list[Any] = []
    used = 0
    for value, head in heads.items():
        width = max(map(len, [head, *(row.get(value, "-") for row in listed)])) + 2
        if block and used + width > room:
            yield block
            block, used = [], 0
        block.append(value)
        used += width
    yield block


# Notes --------------------------------------------------------------------------------------------


def _notes(comparison: Comparison, grids: Sequence[_Listing], figures: bool) -> Iterator[Text]:
    """Yield what the tables leave to be said.

    Args:
        comparison: what is shown.
        grids: tables of rates alone.
        figures: there are tables of every figure.
    """
    for reason in one_of_each_kind(cell.why for cell in comparison.cells if cell.why):
        yield line(f"-: {reason}", style="dim")
    if comparison.unmeasured:
        yield line(
            f"The first {comparison.unmeasured} decode tokens are not measured: thresholds are "
            "calibrated on them.",
            style="dim",
        )
    starred = any(
        text.startswith("*") for grid in grids for row in grid.rows for text in row[grid.labels :]
    )
    note = "*: the fastest that a device can run. " if starred else ""
    if grids and not figures:
        note += "Hits, flash, distance to opt, verdicts: --details, --csv, --json. "
    if figures:
        note += "band: rates with no and with full overlap. "
        if any(cell.value("to_optimum") is not None for cell in comparison.cells):
            note += (
                "to opt: hit rate of the optimum less that of the policy, of units over all "
                "tokens; "
            )
            spared = len(_labels(comparison)) > 1
            note = note[:-2] + ". " if spared else note
            if not spared:
                note += "other adm.: what the other way to admit misses would change. "
    if comparison.no_optimum is not None:
        note += f"No distance to the optimum: {comparison.no_optimum}. "
    if comparison.varying("method", "density"):
        note += (
            "Methods and densities differ in what they lose, which no rate shows: see dipsim "
            "search --max-loss. "
        )
    yield line(note.strip(), style="dim")


def one_of_each_kind(texts: Iterable[str]) -> Iterator[str]:
    """Yield the first of the texts that differ in numbers only, and how many others there are."""
    kinds: dict[str, dict[str, None]] = {}
    for text in texts:
        kinds.setdefault(_AMOUNT.sub("#", text), {})[text] = None
    for first, *others in map(list, kinds.values()):
        yield first + (f" (and {len(others)} more with other numbers)" if others else "")


# HTML and CSV -------------------------------------------------------------------------------------


def html(comparison: Comparison) -> str:
    """Return what `render` shows, without notes, as HTML for a notebook."""
    sections = _sections(comparison)
    if len(sections) > MOST_TABLES:
        answers, listings = list(_answers(comparison)), list(_grids(comparison))
    else:
        listings = [_every_figure(comparison, cells) for cells in sections]
        answers = [text for cells in sections for text in _verdict(comparison, cells)]
    parts = [f"<p>{escape(text)}</p>" for text in answers]
    return "".join([*parts, *map(_html_table, listings)])


def _html_table(listing: _Listing) -> str:
    def row(texts: Sequence[str], tag: str) -> str:
        styles = ("left" if i < listing.labels else "right" for i in range(len(texts)))
        cells = (
            f'<{tag} style="text-align: {style}">{escape(text)}</{tag}>'
            for text, style in zip(texts, styles, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(row(texts, "td") for texts in listing.rows)
    head = row(listing.heads, "th")
    caption = f"<caption>{escape(listing.title)}</caption>"
    return f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"


def records(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a row for each cell, of plain values that a table has columns for.

    Bytes, tokens per second and shares from 0 to 1 are numbers; marks are one text.
    """
    return [{"trace": comparison.trace.name, **_flat(row)} for row in comparison.rows()]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    slow, fast = row.pop("tokens_per_second_range") or (None, None)
    verdict = row.pop("verdict") or {}
    marks, why = row.pop("marks"), row.pop("why")
    counts = ("accesses", "misses", "unavoidable", "first_uses")
    return {
        **row,
        "tokens_per_second_slow": slow,
        "tokens_per_second_fast": fast,
        **{name: verdict.get(name) for name in counts},
        "marks": " ".join(marks),
        "why": why,
    }


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write a row for each cell.

    Raises:
        DipsimError: the file cannot be written.
    """
    write_rows(path, records(comparison))
