"""Marks and caveats: what a reader must know before believing the figures, each explained."""

from collections.abc import Iterable, Sequence

from dipsim.report.glossary import MARKS
from dipsim.report.page.model import Cell, Section, Table

_MEANINGS = {entry.name: entry.meaning for entry in MARKS}
_UNKNOWN = "a mark that this version of dipsim does not know"


def caveats(marks: Iterable[str], sentences: Sequence[str], runs: Sequence[str] = ()) -> Section:
    """Return the section that explains every mark.

    Args:
        marks: those of what is reported.
        sentences: caveats of other kinds.
        runs: how many runs have each mark, where there are several.
    """
    rows = [[Cell(mark), Cell(_MEANINGS.get(mark, _UNKNOWN))] for mark in marks]
    heads = ["mark", "what it means"]
    if runs:
        heads.insert(1, "runs")
        rows = [[row[0], Cell(count), row[1]] for row, count in zip(rows, runs, strict=True)]
    table = Table("", heads, rows, frozenset({1} if runs else ()))
    none = () if rows else ("No mark applies to these figures.",)
    return Section("Marks and caveats", [*none, *sentences], tables=[table] if rows else [])
