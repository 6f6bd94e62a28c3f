"""What `dipsim study` prints and writes: tables, what was left out and why, what holds for all."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dipsim.analysis.studies import STUDIES
from dipsim.errors import printable
from dipsim.report.files import write_flat
from dipsim.report.hints import INPUT_ENERGY
from dipsim.report.run import table
from dipsim.sweep.many import Cell, Found
from dipsim.units import BANDWIDTH, BYTES

ENERGY = "energy_kept"
_INPUT = "mlp_input"


class Shown(NamedTuple):
    """A figure for people: over a column, and over a table or beside an axis."""

    head: str
    meaning: str
    unit: str = ""
    scale: float = 1.0
    """From base units to the unit; of bytes it depends on how many there are."""


SHOWN = {
    "tokens_per_second": Shown("tok/s", "tokens per second"),
    "hit_rate": Shown("hits", "active bytes found in DRAM", "%", 100),
    "flash_bytes_per_token": Shown("flash", "flash per token", "B"),
    "flash_reads_per_token": Shown("reads", "flash reads per token"),
    "flash_ms_per_token": Shown("flash ms", "flash time per token", "ms"),
    "prefill_ms": Shown("prefill ms", "prefill", "ms"),
    "first_token_ms": Shown("token ms", "first token behind it", "ms"),
    "ttft_ms": Shown("ttft ms", "time to first token", "ms"),
    "cold_ttft_ms": Shown("cold ttft ms", "time to first token, cold", "ms"),
    "dram_bytes_per_token": Shown("active", "weights and KV a token uses", "B"),
    ENERGY: Shown("energy", "energy kept"),
}


class Figure(NamedTuple):
    """A figure that is shown; of the energy, that of one stage."""

    key: str
    stage: str | None = None

    @property
    def head(self) -> str:
        """Over a column."""
        head = SHOWN[self.key].head
        return f"{head}\n{self.stage}" if self.stage else head

    def of(self, cell: Cell) -> Any:
        """Its value; None where there is none."""
        found = None if cell.figures is None else cell.figures.get(self.key)
        return found if self.stage is None or found is None else found.get(self.stage)

    def scaled(self, cells: Iterable[Cell]) -> tuple[str, float]:
        """What stands over a table or beside an axis of some cells, and the scale to its unit."""
        _, meaning, unit, scale = SHOWN[self.key]
        if unit == "B":
            most = max((self.of(cell) or 0.0 for cell in cells), default=0.0)
            power = next((at for at in (9, 6, 3) if most >= 10**at), 0)
            unit, scale = {9: "GB", 6: "MB", 3: "kB", 0: "B"}[power], 10.0**-power
        title = f"{meaning} ({unit})" if unit else meaning
        return f"{title}, {self.stage}" if self.stage else title, scale

    def text(self, cell: Cell, scale: float | None = None) -> str:
        """Its value for people; without its unit where a ``scale`` to it is given."""
        value = self.of(cell)
        if value is None:
            return "-"
        if self.key == ENERGY:
            number = f"{value:.4f}" if scale is None else f"{value:.4f}".removeprefix("0")
            return number + ("!" if self.stage == _INPUT and is_low(cell) else "")
        if self.key == "hit_rate":
            return f"{100 * value:.1f}" + ("%" if scale is None else "")
        if SHOWN[self.key].unit == "B" and scale is None:
            return BYTES.show(value)
        value *= scale or 1.0
        if value >= 1e3:
            return f"{value:.0f}"
        return f"{value:.4g}" if value >= 0.1 or scale is None else f"{value:.3f}"


def figures_of(found: Found, cells: Sequence[Cell]) -> Iterator[Figure]:
    """The figures of a study; the energy once for each stage that the cells have."""
    for key in found.study.figures:
        if key == ENERGY:
            yield from (Figure(key, stage) for stage in _stages(cells))
        else:
            yield Figure(key)


def _stages(cells: Iterable[Cell]) -> dict[str, None]:
    done = [cell.figures for cell in cells if cell.figures is not None]
    return {stage: None for figures in done for stage in figures.get(ENERGY, {})}


def is_low(cell: Cell) -> bool:
    """Whether a cache-aware run keeps less at the input stage than perplexity stands."""
    figures = cell.figures or {}
    plain = figures.get("energy_kept_plain", {}).get(_INPUT)
    return plain is not None and bool(figures[ENERGY][_INPUT] < INPUT_ENERGY * plain)


def axis_text(axis: str, value: Any) -> str:
    """A value of an axis."""
    if axis == "dram":
        return f"{value:.0%}"
    if axis == "flash_bandwidth":
        return BANDWIDTH.show(value)
    return f"{value:.3g}" if isinstance(value, float) else printable(str(value))


def listing() -> Table:
    """A line for every study."""
    made = table("study", "what it varies")
    for name, study in STUDIES.items():
        made.add_row(name, study.summary)
    return made


def render(found: Found) -> RenderableType:
    """A table per device and figure, or per device; then notes."""
    study = found.study
    title = f"{study.name}: {study.summary}"
    fixed = ", ".join(f"{name}={_said(value)}" for name, value in found.fixed.items())
    parts: list[RenderableType] = [
        Text(title, style="bold"),
        Text(printable(f"{found.trace.name}; {fixed}")),
    ]
    groups = ["group"] if "group" in study.axes else []
    for place, cells in sections(found, *groups):
        if study.grid:
            for key in study.figures:
                title, scale = Figure(key).scaled(cells)
                heading = printable(", ".join([*place, title]))
                grid = _grid(found, key, cells, scale)
                parts += [Text(), Text(heading, style="bold"), grid]
        else:
            heading = ", ".join([*place, *_cache(cells)])
            parts += [Text(), Text(printable(heading), style="bold"), _list(found, cells)]
    return Group(*parts, Text(), *_notes(found))


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return "/".join(f"{inner:g}" for inner in value.values())
    return " ".join(value) if isinstance(value, list) else f"{value}"


def _cache(cells: list[Cell]) -> list[str]:
    """The size of the cache, where all runs have the same."""
    sizes = {cell.figures.get("cache_bytes") for cell in cells if cell.figures is not None}
    size = sizes.pop() if len(sizes) == 1 else None
    return [] if size is None else [f"{BYTES.show(size)} of cache"]


def sections(found: Found, *more: str) -> Iterator[tuple[list[str], list[Cell]]]:
    """The cells by device, by the axes that are told apart, and by ``more`` axes."""
    outer = ("profile", *found.study.apart, *more)

    def place(cell: Cell) -> list[str]:
        return [axis_text(axis, cell.at.get(axis, "")) for axis in outer]

    for at, cells in groupby(found.cells, place):
        yield at, list(cells)


def _grid(found: Found, key: str, cells: list[Cell], scale: float) -> Table:
    """One figure: a row for each value of the series, and of the energy for each stage."""
    down, x = str(found.study.series), found.study.x
    energy = key == ENERGY
    if energy:
        cells = [cell for cell in cells if cell.at[down] != "dense"]  # it keeps all of it
    across = sorted({cell.at[x] for cell in cells})
    heads = [down, *(["stage"] if energy else []), *(axis_text(x, value) for value in across)]
    made = table(*heads, right=tuple(range(1 + energy, len(heads))))
    for value, row in groupby(cells, lambda cell: cell.at[down]):
        there = {cell.at[x]: cell for cell in row}
        stages: Iterable[str | None] = _stages(there.values()) if energy else [None]
        for n, stage in enumerate(stages):
            figure = Figure(key, stage)
            texts = (figure.text(there[at], scale) if at in there else "-" for at in across)
            name = axis_text(down, value) if n == 0 else ""
            made.add_row(name, *([str(stage)] if energy else []), *texts)
    return _unfolded(made)


def _list(found: Found, cells: list[Cell]) -> Table:
    """A row for each cell."""
    axes = [axis for axis in found.study.axes if axis != "group"]
    figures = list(figures_of(found, cells))
    heads = [axis.replace(".", "\n") for axis in axes]
    heads += [figure.head for figure in figures]
    numbers = [i for i, axis in enumerate(axes) if not isinstance(cells[0].at.get(axis), str)]
    made = table(*heads, right=(*numbers, *range(len(axes), len(heads))))
    for cell in cells:
        places = (axis_text(axis, cell.at.get(axis, "-")) for axis in axes)
        made.add_row(*places, *(figure.text(cell) for figure in figures))
    return _unfolded(made)


def _unfolded(made: Table) -> Table:
    """The table, its first column on one line."""
    made.columns[0].no_wrap = True
    return made


def _notes(found: Found) -> Iterator[Text]:
    if found.study.note:
        yield Text(found.study.note, style="dim")
    for why in _impossible(found):
        yield Text(f"-: {printable(why)}", style="dim")
    if found.left_out:
        names = ", ".join(found.left_out)
        yield Text(f"not in this trace: the signals of {names}", style="dim")
    if found.unmeasured:
        yield Text(
            f"The first {found.unmeasured} decode tokens are measured by no run: thresholds are "
            "calibrated on them.",
            style="dim",
        )
    if ENERGY in found.study.figures:
        yield Text(
            "energy kept: a proxy, never accuracy; it compares runs of one method at one stage, "
            "neither methods nor stages.",
            style="dim",
        )
    if any(is_low(cell) for cell in found.cells):
        yield Text(
            f"!: less than {INPUT_ENERGY} of what plain top-k keeps; perplexity rises steeply.",
            style="dim",
        )
    marks = sorted({mark for cell in found.cells for mark in cell.marks})
    if marks:
        yield Text(f"marks: {printable(', '.join(marks))}")


def _impossible(found: Found) -> list[str]:
    """Why cells are empty, once for each device and value of the series."""
    key = found.study.series or found.study.x
    first: dict[Any, str] = {}
    for cell in found.cells:
        if cell.why is not None:
            first.setdefault((cell.at["profile"], cell.at.get(key)), cell.why)
    return list(dict.fromkeys(first.values()))


def write_csv(found: Found, path: Path) -> None:
    """A row for every cell, numbers in base units.

    Raises:
        DipsimError: the file cannot be written.
    """
    write_flat(
        path,
        (
            {**cell.at, **(cell.figures or {}), "marks": cell.marks, "why": cell.why}
            for cell in found.cells
        ),
    )
