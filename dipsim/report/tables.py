"""Lines and tables that all reports are made of: here foreign text becomes harmless."""

from collections.abc import Iterable
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from dipsim.errors import printable

_GAP = Text("  ", no_wrap=True, overflow="ignore")
"""Between the columns of a table."""


class _Line(Text):
    """Text that folds between words, even where a word is longer than the terminal is wide."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        width = max(options.max_width, _longest_word(self))
        for folded in self.wrap(console, width):
            folded.rstrip()
            yield from Text.__rich_console__(folded, console, options.update(width=width))


def line(text: str = "", style: str = "") -> Text:
    """Return a text as one line that cannot steer a terminal, wherever the text is from."""
    return _Line(printable(text), style=style)


def stacked(*texts: str) -> Text:
    """Return texts as lines one below the other."""
    return Text("\n").join(map(line, texts))


class Table:
    """A table without borders, whose texts fold between words: no word or number is broken.

    Where that needs more room than the terminal has, lines are longer than the terminal is wide.

    Args:
        heads: names of the columns; without any name there is no head.
        right: positions of the columns that hold numbers, which never fold.
        whole: positions of other columns that never fold.
    """

    def __init__(
        self, *heads: str | Text, right: Iterable[int] = (), whole: Iterable[int] = ()
    ) -> None:
        self._heads = [_as_line(head) for head in heads]
        self._right = frozenset(right)
        self._whole = self._right.union(whole)
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row: a cell for each column."""
        self._rows.append([_as_line(cell) for cell in cells])

    @property
    def heads(self) -> list[str]:
        """Names of the columns."""
        return [head.plain for head in self._heads]

    @property
    def rows(self) -> list[list[str]]:
        """Texts of the cells, row by row."""
        return [[cell.plain for cell in row] for row in self._rows]

    @property
    def words(self) -> list[str]:
        """Names of columns and rows: texts that a reader may want explained."""
        labels = [] if 0 in self._right else [row[0] for row in self.rows]
        return [text for text in (*self.heads, *labels) if text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths(options.max_width)
        if any(self._heads):
            for text in self._lines(console, self._heads, widths):
                text.stylize("dim")
                yield text
        for row in self._rows:
            yield from self._lines(console, row, widths)

    def _widths(self, room: int) -> list[int]:
        """Return the width of every column; the widest of those that can fold give way first."""
        room -= len(_GAP) * (len(self._heads) - 1)
        least, widths = [], []
        for i, head in enumerate(self._heads):
            cells = [row[i] for row in self._rows]
            folded = map(_longest_line if i in self._whole else _longest_word, cells)
            least.append(max([_longest_word(head), *folded]))
            widths.append(max(least[i], min(room, max(map(_longest_line, [head, *cells])))))
        while sum(widths) > room and widths != least:
            folding = [i for i, width in enumerate(widths) if width > least[i]]
            widths[max(folding, key=widths.__getitem__)] -= 1
        return widths

    def _lines(self, console: Console, row: list[Text], widths: list[int]) -> Iterable[Text]:
        """Yield the lines of a row, of which there are several where a cell folds."""
        folded = [
            cell.wrap(console, max(width, 1)) for cell, width in zip(row, widths, strict=True)
        ]
        lines = list(zip_longest(*folded))
        if row is self._heads:  # names stand right above their columns
            lines = list(zip_longest(*(texts[::-1] for texts in folded)))[::-1]
        for texts in lines:
            parts = [Text() if text is None else text for text in texts]
            for i, (part, width) in enumerate(zip(parts, widths, strict=True)):
                part.rstrip()
                part.align("right" if i in self._right else "left", width)
            joined = _GAP.join(parts)
            joined.rstrip()
            yield joined


def number(value: float | None, form: str) -> str:
    """Return a number in a format such as ``{:.1%}``; a dash for None."""
    return "-" if value is None else form.format(value)


def marks_of(runs: Iterable[Iterable[str]]) -> list[Text]:
    """Return a line with the marks of several runs, each mark once; no line without marks."""
    marks = sorted({mark for marks in runs for mark in marks})
    return [line(f"marks: {', '.join(marks)}")] if marks else []


def _as_line(text: str | Text) -> Text:
    return line(text) if isinstance(text, str) else text


def _longest_line(text: Text) -> int:
    return max(map(cell_len, text.plain.split("\n")))


def _longest_word(text: Text) -> int:
    return max(map(cell_len, text.plain.split()), default=0)
