"""Pictures of studies: a panel for each figure, and for each device where it matters."""

from pathlib import Path
from typing import Any, NamedTuple

from dipsim.report.plots import picture, series_style
from dipsim.report.study import ENERGY, Figure, axis_text, figures_of, sections
from dipsim.sweep.many import Cell, Found

_ALIKE = ("hit_rate", ENERGY, "dram_bytes_per_token")
"""Figures that are the same on every device."""
_SPAN = 10
"""Rates that differ by more are drawn in logarithms."""
_WIDTHS = {4: 2, 5: 3, 6: 3}
"""Panels in a row, by how many there are of one device; else all of them."""


class _Panel(NamedTuple):
    """One figure of some cells."""

    figure: Figure
    cells: list[Cell]
    place: str
    """What tells it from other panels of the figure."""


def draw(found: Found, path: Path) -> None:
    """The figures of a study, but not the energies of several methods, which do not compare.

    Raises:
        DipsimError: the file cannot be written.
    """
    named = found.study.x == "variant"
    rows = _rows(found, named)
    down, across = len(rows), max(map(len, rows))
    width, height = 4 * across + 1.6, 3.1 * down + 0.6
    if named:
        names = {cell.at["variant"] for cell in found.cells}
        width, height = 2.4 * across + 2.8, (0.8 + 0.35 * len(names)) * down + 0.4
    with picture(path, width, height) as figure:
        places = figure.subplots(down, across, squeeze=False, sharey=named)
        labels: dict[str, Any] = {}
        for axes, panel in _placed(places, rows):
            if named:
                _dots(axes, panel)
            else:
                _lines(axes, found, panel)
            lines, texts = axes.get_legend_handles_labels()
            labels = {**dict(zip(texts, lines, strict=True)), **labels}
        if labels:
            series = None if found.study.series is None else _label(found.study.series)
            style = {"fontsize": 8, "title_fontsize": 8, "loc": "outside right upper"}
            figure.legend(labels.values(), labels, title=series, **style)
        title = f"{found.study.name}: {Path(found.trace.name).name}, {', '.join(_devices(found))}"
        figure.suptitle(title)


def _done(found: Found) -> list[Cell]:
    return [cell for cell in found.cells if cell.figures is not None]


def _devices(found: Found) -> list[str]:
    return list(dict.fromkeys(cell.at["profile"] for cell in found.cells))


def _placed(places: Any, rows: list[list[_Panel]]) -> list[tuple[Any, _Panel]]:
    """Each panel with its axes; those without a panel are taken away."""
    found = []
    for row, panels in zip(places, rows, strict=True):
        found += list(zip(row, panels, strict=False))
        for axes in row[len(panels) :]:
            axes.remove()
    return found


def _rows(found: Found, named: bool) -> list[list[_Panel]]:
    """Panels of what is the same on all devices, then a row for each device."""
    alike: list[_Panel] = []
    own: dict[str, list[_Panel]] = {}
    devices = _devices(found)
    for (profile, *place), cells in sections(found):
        of_device = own.setdefault(profile, [])
        for figure in figures_of(found, cells):
            if figure.key == ENERGY and found.study.grid:
                continue
            if figure.key not in _ALIKE:
                told = [profile, *place] if len(devices) > 1 else place
                of_device.append(_Panel(figure, cells, ", ".join(told)))
            elif profile == devices[0]:
                alike.append(_Panel(figure, cells, ", ".join(place)))
    if len(devices) > 1:
        return [row for row in (alike, *own.values()) if row]
    panels = [*alike, *own[devices[0]]]
    width = len(panels) if named else _WIDTHS.get(len(panels), len(panels))
    return [panels[i : i + width] for i in range(0, len(panels), width)]


def _lines(axes: Any, found: Found, panel: _Panel) -> None:
    """A line for each value of the series."""
    x, series = found.study.x, found.study.series
    names = [None] if series is None else list(dict.fromkeys(at.at[series] for at in _done(found)))
    known = [cell for cell in panel.cells if panel.figure.of(cell) is not None]
    for i, name in enumerate(names):
        cells = [cell for cell in known if series is None or cell.at[series] == name]
        if cells:
            at = [cell.at[x] for cell in cells]
            label = {} if series is None else {"label": axis_text(series, name)}
            axes.plot(at, _values(panel, cells), markersize=5, **label, **series_style(i))
    for cell in known:
        if cell.at.get("split"):
            name = {"equal": "equal split", "authors": "authors' split"}[cell.at["split"]]
            colour = "0.6" if cell.at["split"] == "equal" else "k"
            axes.axvline(cell.at[x], color=colour, linestyle=":", label=name, zorder=0)
    axes.set(xlabel=_label(x), ylabel=panel.figure.scaled(panel.cells)[0], title=panel.place)
    axes.grid(alpha=0.3)
    if panel.figure.key != ENERGY:
        _scale(axes, found, panel.figure)
    if x == "prompt":
        at = sorted({cell.at[x] for cell in _done(found)})
        axes.set_xscale("log", base=2)
        axes.set_xticks(at[:: 1 + len(at) // 6], [f"{value}" for value in at[:: 1 + len(at) // 6]])
    if x == "flash_bandwidth":
        at = sorted({cell.at[x] for cell in _done(found)})
        axes.set_xscale("log")
        axes.set_xticks(at, [f"{value / 1e9:g}" for value in at])
        axes.set_xticks([], minor=True)


def _scale(axes: Any, found: Found, figure: Figure) -> None:
    """Rates that span much in logarithms, the same in all panels; all else from zero."""
    values = [value for cell in found.cells if (value := figure.of(cell)) is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if figure.key != "tokens_per_second" or not 0 < _SPAN * low < high:
        axes.set_ylim(0, 1.05 * axes.dataLim.y1 or 1)
        return
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.set_ylim(low / 1.2, high * 1.2)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _dots(axes: Any, panel: _Panel) -> None:
    """Named cells one below the other."""
    known = [cell for cell in panel.cells if panel.figure.of(cell) is not None]
    rows = {cell.at["variant"]: -i for i, cell in enumerate(panel.cells)}
    at = [rows[cell.at["variant"]] for cell in known]
    axes.plot(_values(panel, known), at, **(series_style(0) | {"linestyle": ""}))
    axes.set_yticks(list(rows.values()), list(rows))
    axes.set(xlabel=panel.figure.scaled(panel.cells)[0], title=panel.place)
    axes.grid(alpha=0.3)


def _values(panel: _Panel, cells: list[Cell]) -> list[float]:
    """In the unit of the panel."""
    scale = panel.figure.scaled(panel.cells)[1]
    return [scale * panel.figure.of(cell) for cell in cells]


def _label(axis: str) -> str:
    name, _, stage = axis.partition(".")
    words = {
        "dram": "DRAM (share of the model)",
        "flash_bandwidth": "flash bandwidth (GB/s)",
        "density": "MLP density",
        "prompt": "prompt (tokens)",
    }
    return f"{name} of {stage}" if stage else words.get(name, name)
