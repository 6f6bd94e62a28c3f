"""Tables and short texts that all reports share."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from dipsim.errors import printable


def table(*columns: str, right: tuple[int, ...] = ()) -> Table:
    """Return an empty table without borders, for an 80-column terminal.

    Args:
        columns: names; a long text is folded, never cut.
        right: positions of the columns that hold numbers.
    """
    empty = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(columns):
        empty.add_column(name, justify="right" if i in right else "left", overflow="fold")
    return empty


def number(value: float | None, form: str) -> str:
    """Return a number in a format such as ``{:.1%}``; a dash for None."""
    return "-" if value is None else form.format(value)


def marks_of(runs: Iterable[Iterable[str]]) -> list[Text]:
    """Return a line with the marks of several runs, each mark once; no line without marks."""
    marks = sorted({mark for marks in runs for mark in marks})
    return [Text(f"marks: {printable(', '.join(marks))}")] if marks else []
