"""Report of `dipsim study`: tables, notes on what was left out, CSV, a picture of panels."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from dipsim.analysis.study import STUDIES
from dipsim.analysis.study_beside import ACCEPTANCES
from dipsim.report.files import flat_rows, write_rows
from dipsim.report.hints import INPUT_ENERGY
from dipsim.report.pictures import (
    BESIDE,
    FAINT,
    Sheet,
    label,
    picture,
    scale_by_ratio,
    series_style,
    set_heading,
    short,
    trace_name,
)
from dipsim.report.tables import Table, line, marks_of, stacked
from dipsim.sweep.point import Cell
from dipsim.sweep.study import StudyResult
from dipsim.units import BANDWIDTH, BYTES, show_number

ENERGY = "energy_kept"
_INPUT = "mlp_input"
UNITS = {
    **dict.fromkeys(("prefill_ms", "first_token_ms", "ttft_ms", "cold_ttft_ms"), "ms"),
    **dict.fromkeys(("density.mlp_input", "density.glu", "experts_used"), "share"),
    **dict.fromkeys(("prompt_rows", "decode_rows"), "tokens"),
    **dict.fromkeys(("gamma.mlp_input", "gamma.glu"), "factor"),
    "dram": "share of the model",
    "flash_bandwidth": "B/s",
    "layer": "index of a layer",
    "prompt": "tokens",
    **dict.fromkeys(("depth", "width"), "tokens"),
    **dict.fromkeys(("skipped", "tokens_computed", "units_needed"), "share"),
    "speed_up": "factor",
    **dict.fromkeys(("weights_per_step", "weights_per_token", "kv_held_bytes"), "B"),
    **{f"weights_per_token_at_{a:g}": "B" for a in ACCEPTANCES},
    "unmeasured": "tokens",
}
"""Units of figures that `dipsim.report.envelope` does not know, or knows as others."""


# Figures ------------------------------------------------------------------------------------------


class Wording(NamedTuple):
    """Words and unit of a figure."""

    head: str
    """Name over a column."""
    meaning: str
    """Name over a table or beside an axis."""
    unit: str = ""
    scale: float = 1.0
    """Factor from base units to the unit; of bytes it depends on how many there are."""


WORDING = {
    "tokens_per_second": Wording("tok/s", "tokens per second"),
    "hit_rate": Wording("hits", "active bytes found in DRAM", "%", 100),
    "flash_bytes_per_token": Wording("flash", "flash per token", "B"),
    "flash_reads_per_token": Wording("reads", "flash reads per token"),
    "flash_ms_per_token": Wording("flash ms", "flash time per token", "ms"),
    "experts_used": Wording("experts", "experts the prompt is sent to", "%", 100),
    "prefill_ms": Wording("prefill ms", "prefill", "ms"),
    "first_token_ms": Wording("token ms", "first token behind it", "ms"),
    "ttft_ms": Wording("ttft ms", "time to first token", "ms"),
    "cold_ttft_ms": Wording("cold ttft ms", "time to first token, cold", "ms"),
    "dram_bytes_per_token": Wording("active", "weights and KV a token uses", "B"),
    ENERGY: Wording("energy", "energy kept"),
    "kv_held_bytes": Wording("KV", "KV in DRAM", "B"),
    "kv_read_bytes_per_token": Wording("KV read", "KV read per token", "B"),
    "kv_flash_bytes_per_token": Wording("KV flash", "KV from flash per token", "B"),
    "speed_up": Wording("x", "prefill of the whole prompt over this one"),
    "tokens_computed": Wording("computed", "share of (token, layer) computed", "%", 100),
    "units_needed": Wording("units", "share of the units needed", "%", 100),
    "weights_per_step": Wording("step", "weights used in a step", "B"),
    "weights_per_token": Wording("token", "weights used per token", "B"),
    **{
        f"weights_per_token_at_{a:g}": Wording(
            f"at {a:g}", f"weights per token, {a:g} accepted", "B"
        )
        for a in ACCEPTANCES
    },
}


class Figure(NamedTuple):
    """A figure of a study; of the energy, that of one stage."""

    key: str
    stage: str | None = None

    @property
    def head(self) -> list[str]:
        """Name over a column, line by line."""
        head = WORDING[self.key].head
        return [head, self.stage] if self.stage else [head]

    def value(self, cell: Cell) -> Any:
        """Return the figure of a cell; None where it has none."""
        value = None if cell.figures is None else cell.figures.get(self.key)
        return value if self.stage is None or value is None else value.get(self.stage)

    def title(self, cells: Iterable[Cell]) -> tuple[str, float]:
        """Return the title of a table or an axis of some cells, and the scale to its unit."""
        _, meaning, unit, scale = WORDING[self.key]
        if unit == "B":
            most = max((self.value(cell) or 0.0 for cell in cells), default=0.0)
            power = next((power for power in (9, 6, 3) if most >= 10**power), 0)
            unit, scale = {9: "GB", 6: "MB", 3: "kB", 0: "B"}[power], 10.0**-power
        title = f"{meaning} ({unit})" if unit else meaning
        return f"{title}, {self.stage}" if self.stage else title, scale

    def text(self, cell: Cell, scale: float | None = None) -> str:
        """Return the figure of a cell as text; without its unit where a ``scale`` is given."""
        value = self.value(cell)
        if value is None:
            return "-"
        if self.key == ENERGY:
            share = f"{value:.4f}" if scale is None else f"{value:.4f}".removeprefix("0")
            return share + ("!" if self.stage == _INPUT and _loses_input(cell) else "")
        if WORDING[self.key].unit == "%":
            return f"{100 * value:.1f}" + ("%" if scale is None else "")
        if WORDING[self.key].unit == "B" and scale is None:
            return BYTES.show(value)
        value *= scale or 1.0
        if value >= 1e3:
            return f"{value:.0f}"
        return show_number(value) if value >= 0.1 or scale is None else f"{value:.3f}"


def _figures(results: StudyResult, cells: Sequence[Cell]) -> Iterator[Figure]:
    """Yield the figures of a study; the energy once for each stage that the cells have, and the
    experts only where there are any."""
    experts = any("experts_used" in (cell.figures or {}) for cell in cells)
    for key in results.study.figures:
        if key == "experts_used" and not experts:
            continue
        if key == ENERGY:
            yield from (Figure(key, stage) for stage in _stages(cells))
        else:
            yield Figure(key)


def _stages(cells: Iterable[Cell]) -> dict[str, None]:
    done = [cell.figures for cell in cells if cell.figures is not None]
    return {stage: None for figures in done for stage in figures.get(ENERGY, {})}


def _loses_input(cell: Cell) -> bool:
    """Tell whether a cache-aware run keeps so little at the input stage that perplexity rises."""
    figures = cell.figures or {}
    plain = figures.get("energy_kept_plain", {}).get(_INPUT)
    return plain is not None and bool(figures[ENERGY][_INPUT] < INPUT_ENERGY * plain)


def _axis_text(axis: str, value: Any) -> str:
    if axis == "dram":
        return f"{value:.0%}"
    if axis == "flash_bandwidth":
        return BANDWIDTH.show(value)
    return show_number(value, 3) if isinstance(value, float) else str(value)


def _sections(results: StudyResult, *more: str) -> Iterator[tuple[list[str], list[Cell]]]:
    """Yield the cells by device, by the axes that are told apart, and by ``more`` axes."""
    outer = ("profile", *results.study.apart, *more)

    def place(cell: Cell) -> list[str]:
        return [_axis_text(axis, cell.place.get(axis, "")) for axis in outer]

    for names, cells in groupby(results.cells, place):
        yield names, list(cells)


# Text ---------------------------------------------------------------------------------------------


def listing() -> Table:
    """Return a line for every study."""
    rows = Table("study", "what it varies")
    for name, study in STUDIES.items():
        rows.add_row(name, study.summary)
    return rows


def render(results: StudyResult) -> RenderableType:
    """Return a table for each device and figure, or for each device; then notes."""
    study = results.study
    title = f"{study.name}: {study.summary}"
    fixed = ", ".join(f"{name}={_setting(value)}" for name, value in results.fixed.items())
    parts: list[RenderableType] = [
        line(title, style="bold"),
        line(f"{results.trace.name}; {fixed}"),
    ]
    groups = ["group"] if "group" in study.axes else []
    for place, cells in _sections(results, *groups):
        if study.grid:
            for key in study.figures:
                title, scale = Figure(key).title(cells)
                heading = ", ".join([*place, title])
                grid = _grid(results, key, cells, scale)
                parts += [line(), line(heading, style="bold"), grid]
        else:
            heading = ", ".join([*place, *_cache(cells)])
            parts += [line(), line(heading, style="bold"), _list(results, cells)]
    return Group(*parts, line(), *_notes(results))


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return "/".join(show_number(number, 6) for number in value.values())
    return " ".join(value) if isinstance(value, list) else f"{value}"


def _cache(cells: list[Cell]) -> list[str]:
    """Return the size of the cache where all runs have the same, else nothing."""
    sizes = {cell.figures.get("cache_bytes") for cell in cells if cell.figures is not None}
    size = sizes.pop() if len(sizes) == 1 else None
    return [] if size is None else [f"{BYTES.show(size)} of cache"]


def _grid(results: StudyResult, key: str, cells: list[Cell], scale: float) -> Table:
    """Return one figure: a row for each value of the series, and of the energy for each stage."""
    down, x = str(results.study.series), results.study.x
    energy = key == ENERGY
    if energy:
        cells = [cell for cell in cells if cell.place[down] != "dense"]  # it keeps all of it
    across = sorted({cell.place[x] for cell in cells})
    heads = [down, *(["stage"] if energy else []), *(_axis_text(x, value) for value in across)]
    rows = Table(*heads, right=range(1 + energy, len(heads)), whole=(0,))
    for name, row in groupby(cells, lambda cell: cell.place[down]):
        by_x = {cell.place[x]: cell for cell in row}
        stages: Iterable[str | None] = _stages(by_x.values()) if energy else [None]
        for n, stage in enumerate(stages):
            figure = Figure(key, stage)
            texts = (figure.text(by_x[v], scale) if v in by_x else "-" for v in across)
            label = _axis_text(down, name) if n == 0 else ""
            rows.add_row(label, *([str(stage)] if energy else []), *texts)
    return rows


def _list(results: StudyResult, cells: list[Cell]) -> Table:
    """Return a row for each cell."""
    axes = [axis for axis in results.study.axes if axis != "group"]
    figures = list(_figures(results, cells))
    heads = [axis.split(".") for axis in axes]
    heads += [figure.head for figure in figures]
    numbers = [i for i, axis in enumerate(axes) if not isinstance(cells[0].place.get(axis), str)]
    right = (*numbers, *range(len(axes), len(heads)))
    rows = Table(*(stacked(*head) for head in heads), right=right, whole=(0,))
    for cell in cells:
        places = (_axis_text(axis, cell.place.get(axis, "-")) for axis in axes)
        rows.add_row(*places, *(figure.text(cell) for figure in figures))
    return rows


def _notes(results: StudyResult) -> Iterator[Text]:
    if results.study.note:
        yield line(results.study.note, style="dim")
    for reason in _reasons(results):
        yield line(f"-: {reason}", style="dim")
    if results.left_out:
        names = ", ".join(results.left_out)
        yield line(f"not in this trace: the signals of {names}", style="dim")
    if results.unmeasured:
        yield line(
            f"The first {results.unmeasured} decode tokens are measured by no run: thresholds are "
            "calibrated on them.",
            style="dim",
        )
    if ENERGY in results.study.figures:
        yield line(
            "energy kept: a proxy, never accuracy; it compares runs of one method at one stage, "
            "neither methods nor stages.",
            style="dim",
        )
    if any(_loses_input(cell) for cell in results.cells):
        yield line(
            f"!: less than {INPUT_ENERGY} of what plain top-k keeps; perplexity rises steeply.",
            style="dim",
        )
    yield from marks_of(cell.marks for cell in results.cells)


def _reasons(results: StudyResult) -> list[str]:
    """Return the reasons of empty cells, one for each device and value of the series."""
    key = results.study.series or results.study.x
    first: dict[Any, str] = {}
    for cell in results.cells:
        if cell.why is not None:
            first.setdefault((cell.place["profile"], cell.place.get(key)), cell.why)
    return list(dict.fromkeys(first.values()))


def records(results: StudyResult) -> list[dict[str, Any]]:
    """Return a row for every cell, numbers in base units."""
    return flat_rows(
        {
            "trace": results.trace.name,
            **_given(results),
            **cell.place,
            **(cell.figures or {}),
            "marks": cell.marks,
            "why": cell.why,
        }
        for cell in results.cells
    )


def write_csv(results: StudyResult, path: Path) -> None:
    """Write `records`.

    Raises:
        DipsimError: the file cannot be written.
    """
    write_rows(path, records(results))


def _given(results: StudyResult) -> dict[str, Any]:
    """Return what held for all runs, but for what an axis varies."""
    axes = {axis.partition(".")[0] for axis in results.study.axes}
    return {name: _setting(value) for name, value in results.fixed.items() if name not in axes}


# Picture ------------------------------------------------------------------------------------------

_ALIKE = ("hit_rate", ENERGY, "dram_bytes_per_token")
"""Figures that are the same on every device."""
_SPAN = 10
"""Ratio of the highest rate to the lowest above which rates are drawn in logarithms."""
_WIDTHS = {4: 2, 5: 3, 6: 3}
"""Panels in a row, by the number of panels of one device; of any other number, all of them."""
_AXIS_LABELS = {
    "dram": "DRAM (share of the model)",
    "flash_bandwidth": "flash bandwidth (GB/s)",
    "density": "MLP density",
    "prompt": "prompt (tokens)",
    "depth": "positions before the token",
    "skipped": "share of the layers left out",
    "width": "tokens in a step",
}


class _Panel(NamedTuple):
    """One figure of some cells."""

    figure: Figure
    cells: list[Cell]
    place: str
    """Title that tells the panel from others of the same figure."""

    @property
    def known(self) -> list[Cell]:
        """Cells that have the figure."""
        return [cell for cell in self.cells if self.figure.value(cell) is not None]

    @property
    def label(self) -> str:
        """Label of the axis of the figure."""
        return self.figure.title(self.cells)[0]

    def values(self, cells: list[Cell]) -> list[float]:
        """Return the figure of some of the cells, in the unit of the panel."""
        scale = self.figure.title(self.cells)[1]
        return [scale * self.figure.value(cell) for cell in cells]


def plot(results: StudyResult, sheet: Sheet) -> Any:
    """Draw a panel for each figure, and for each device where it matters.

    Energies of several methods, which do not compare, are left out.

    Returns:
        The matplotlib figure.

    Raises:
        DipsimError: the file cannot be written.
    """
    named = results.study.x == "variant"
    rows = _rows_of_panels(results, named)
    down, across = len(rows), max(map(len, rows))
    width, height = 4 * across + 1.6, 3.2 * down + 0.8
    if named:
        names = {cell.place["variant"] for cell in results.cells}
        width, height = 2.4 * across + 2.8, (0.8 + 0.35 * len(names)) * down + 0.4
    with picture(sheet, width, height) as figure:
        grid = figure.subplots(down, across, squeeze=False, sharey=named)
        labels: dict[str, Any] = {}
        for axes, panel in _placed(grid, rows):
            if named:
                _draw_variants(axes, panel)
            else:
                _draw_series(axes, results, panel)
            lines, texts = axes.get_legend_handles_labels()
            labels = {**dict(zip(texts, lines, strict=True)), **labels}
        if labels:
            series = None if results.study.series is None else _axis_label(results.study.series)
            figure.legend(labels.values(), labels, title=series, **BESIDE)
        devices = ", ".join(map(short, _devices(results)))
        what = f"{trace_name(results.trace.name)} on {devices}"
        set_heading(figure, f"Study {results.study.name}: {results.study.summary}\n{what}")
    return figure


def _done(results: StudyResult) -> list[Cell]:
    return [cell for cell in results.cells if cell.figures is not None]


def _devices(results: StudyResult) -> list[str]:
    return list(dict.fromkeys(cell.place["profile"] for cell in results.cells))


def _rows_of_panels(results: StudyResult, named: bool) -> list[list[_Panel]]:
    """Return a row of panels that are the same on all devices, then a row for each device."""
    alike: list[_Panel] = []
    own: dict[str, list[_Panel]] = {}
    devices = _devices(results)
    for (profile, *place), cells in _sections(results):
        of_device = own.setdefault(profile, [])
        for figure in _figures(results, cells):
            if figure.key == ENERGY and results.study.grid:
                continue
            if figure.key not in _ALIKE:
                title = [profile, *place] if len(devices) > 1 else place
                of_device.append(_Panel(figure, cells, ", ".join(title)))
            elif profile == devices[0]:
                alike.append(_Panel(figure, cells, ", ".join(place)))
    if len(devices) > 1:
        return [row for row in (alike, *own.values()) if row]
    panels = [*alike, *own[devices[0]]]
    width = len(panels) if named else _WIDTHS.get(len(panels), len(panels))
    return [panels[i : i + width] for i in range(0, len(panels), width)]


def _placed(grid: Any, rows: list[list[_Panel]]) -> list[tuple[Any, _Panel]]:
    """Return each panel with its axes; axes without a panel are removed from the picture."""
    placed = []
    for row, panels in zip(grid, rows, strict=True):
        placed += list(zip(row, panels, strict=False))
        for axes in row[len(panels) :]:
            axes.remove()
    return placed


def _draw_series(axes: Any, results: StudyResult, panel: _Panel) -> None:
    """Draw a line for each value of the series."""
    x, series = results.study.x, results.study.series
    names = dict.fromkeys(series and cell.place[series] for cell in _done(results))
    for i, name in enumerate(names):
        cells = [cell for cell in panel.known if series is None or cell.place[series] == name]
        if cells:
            across = [cell.place[x] for cell in cells]
            told = {} if series is None else {"label": label(_axis_text(series, name))}
            style = {**told, **series_style(i)}
            axes.plot(across, panel.values(cells), **style)
    for cell in panel.known:
        if cell.place.get("split"):
            split = {"equal": "equal split", "authors": "authors' split"}[cell.place["split"]]
            colour = FAINT if cell.place["split"] == "equal" else "k"
            axes.axvline(cell.place[x], color=colour, linestyle=":", label=split, zorder=0)
    axes.set(xlabel=_axis_label(x), ylabel=panel.label, title=label(panel.place, 36))
    axes.grid(alpha=0.3)
    if panel.figure.key != ENERGY:
        _scale_figure(axes, results, panel.figure)
    _scale_axis(axes, results)


def _scale_figure(axes: Any, results: StudyResult, figure: Figure) -> None:
    """Scale rates that span much in logarithms, alike in all panels; all else from zero."""
    values = [value for cell in results.cells if (value := figure.value(cell)) is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if figure.key != "tokens_per_second" or not 0 < _SPAN * low < high:
        axes.set_ylim(0, 1.05 * axes.dataLim.y1 or 1)
        return
    scale_by_ratio(axes.yaxis, low, high)
    axes.set_ylim(low / 1.2, high * 1.2)


def _scale_axis(axes: Any, results: StudyResult) -> None:
    """Scale lengths of prompts and bandwidths in logarithms, with ticks at what was run."""
    x = results.study.x
    if x not in ("prompt", "flash_bandwidth"):
        return
    values = sorted({cell.place[x] for cell in _done(results)})
    if x == "prompt":
        ticks = values[:: 1 + len(values) // 6]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{value}" for value in ticks])
    else:
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{value / 1e9:g}" for value in values])
        axes.set_xticks([], minor=True)


def _draw_variants(axes: Any, panel: _Panel) -> None:
    """Draw named cells one below the other."""
    from matplotlib.ticker import MaxNLocator

    rows = {cell.place["variant"]: -i for i, cell in enumerate(panel.cells)}
    heights = [rows[cell.place["variant"]] for cell in panel.known]
    axes.plot(panel.values(panel.known), heights, **(series_style(0) | {"linestyle": ""}))
    axes.set_yticks(list(rows.values()), [label(name, 40) for name in rows])
    axes.set(xlabel=panel.label, title=label(panel.place, 36))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(alpha=0.3)


def _axis_label(axis: str) -> str:
    name, _, stage = axis.partition(".")
    return f"{name} of {stage}" if stage else _AXIS_LABELS.get(name, name)
