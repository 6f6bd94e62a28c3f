"""A page as plain data: sections of texts, charts and tables, whatever they are drawn as later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Value = str | float | None


@dataclass(frozen=True)
class Series:
    """Points of one name, in the order of x."""

    name: str
    x: Sequence[str | float]
    y: Sequence[float | None]
    """A point without a value is a gap."""
    low: Sequence[float | None] | None = None
    """Lower ends of intervals around y; None where nothing has one."""
    high: Sequence[float | None] | None = None
    notes: Sequence[str] = ()
    """A text beside each point; none for none."""


@dataclass(frozen=True)
class Lines:
    """Values against a number, or against names: a line for each series."""

    title: str
    across: str
    """Title of the axis of x, with its unit."""
    up: str
    """Title of the axis of y, with its unit."""
    series: Sequence[Series]
    joined: bool = True
    """False for points that no line joins."""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, each of parts that add up."""

    title: str
    across: str
    """Title of the axis along which bars are long, with its unit."""
    rows: Sequence[str]
    parts: Mapping[str, Sequence[float]]
    """Lengths of a part in all rows, by its name."""


@dataclass(frozen=True)
class Heat:
    """A value for each pair of names, as a colour."""

    title: str
    across: str
    down: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float | None]]
    """A row of values for each of ``rows``; None where nothing is known."""
    meaning: str
    """Name of the values, with their unit."""


Chart = Lines | Bars | Heat


@dataclass(frozen=True)
class Panel:
    """One chart, or several of which a reader chooses one."""

    charts: Mapping[str, Chart]
    """Charts by the name they are chosen by; the first is shown."""
    note: str = ""
    """Remark that is needed to read it."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    value: Value = None
    """Number or text that it is sorted by; None for its text."""


@dataclass(frozen=True)
class Table:
    """Rows of cells below heads."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[int] = frozenset()
    """Positions of the columns that hold numbers."""
    filters: Sequence[int] = ()
    """Positions of the columns whose values a reader may choose; a long table has a search, too."""
    commands: Sequence[str] = ()
    """Command line of each row; none for none."""


@dataclass(frozen=True)
class Code:
    """A text to be copied."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading."""

    name: str
    """Its heading."""
    texts: Sequence[str] = ()
    panels: Sequence[Panel] = ()
    tables: Sequence[Table] = ()
    codes: Sequence[Code] = ()

    @property
    def empty(self) -> bool:
        """True if there is nothing to show."""
        return not (self.texts or self.panels or self.tables or self.codes)


@dataclass(frozen=True)
class Tile:
    """A figure that stands out at the top."""

    label: str
    figure: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """All that a report says."""

    title: str
    answer: str
    """The answer in a sentence."""
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    footer: str
    marks: Sequence[str] = field(default=())
    """Marks of what is reported, to stand beside the answer."""

    @property
    def charts(self) -> list[Chart]:
        """Every chart that is shown without a choice, in order."""
        panels = (panel for section in self.sections for panel in section.panels)
        return [next(iter(panel.charts.values())) for panel in panels]
