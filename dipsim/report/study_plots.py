"""Pictures of studies: a panel for each figure, and for each device where it matters."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dipsim.analysis.study import Cell, Found
from dipsim.report.plots import picture, series_style
from dipsim.report.studies import ENERGY, SHOWN, Figure, axis_text, figures_of, sections

_ALIKE = ("hit_rate", ENERGY, "dram_bytes_per_token")
"""Figures that are the same on every device."""
_SPAN = 20
"""Rates that differ by more are drawn in logarithms."""


class _Panel(NamedTuple):
    """One figure of some cells."""

    figure: Figure
    cells: list[Cell]
    place: str
    """The device, and what else tells it from other panels of the figure."""


def draw(found: Found, path: Path) -> None:
    """All figures of a study; energy not where it would lie beside that of other methods.

    Raises:
        DipsimError: the file cannot be written.
    """
    rows = _rows(found)
    across, down = max(map(len, rows)), len(rows)
    bars = found.study.series is None and isinstance(found.cells[0].at[found.study.x], str)
    size = (2.6 * across + 2.6, 0.9 + 0.35 * len(found.cells)) if bars else (
        4.0 * across + 1.6, 3.1 * down + 0.6)  # fmt: skip
    with picture(path, *size) as figure:
        axes = figure.subplots(down, across, squeeze=False, sharey=bars)
        for row, panels in zip(axes, rows, strict=True):
            for at, panel in zip(row, panels, strict=False):
                (_dots if bars else _lines)(at, found, panel)
            for at in row[len(panels) :]:
                at.remove()
        handles = {label: line for at in axes.flat for line, label in
                   zip(*at.get_legend_handles_labels(), strict=True)}  # fmt: skip
        if len(handles) > 1:
            title = None if found.study.series is None else _label(found.study.series)
            figure.legend(
                handles.values(), handles, title=title, fontsize=8, title_fontsize=8,
                loc="outside right upper",
            )  # fmt: skip
        figure.suptitle(f"{found.study.name}: {Path(found.trace.name).name}, {_devices(found)}")


def _rows(found: Found) -> list[list[_Panel]]:
    """Panels; with several devices first what is the same on all of them, then a row for each."""
    parts = list(sections(found))
    if found.study.name == "layers":  # its groups are lines of one panel
        parts = [([cell.at["profile"]], [c for c in found.cells if c.at["profile"] == name])
                 for name, cell in {c.at["profile"]: c for c in found.cells}.items()]  # fmt: skip
    alike: list[_Panel] = []
    own: dict[str, list[_Panel]] = {}
    for place, cells in parts:
        for figure in figures_of(found, cells):
            if figure.key == ENERGY and found.study.grid:
                continue
            if figure.key in _ALIKE:
                if place == parts[0][0]:
                    alike.append(_Panel(figure, cells, ", ".join(place[1:])))
                continue
            several = place if len(_profiles(found)) > 1 else place[1:]
            own.setdefault(place[0], []).append(_Panel(figure, cells, ", ".join(several)))
    rows = [alike, *own.values()] if alike else list(own.values())
    if len(own) == 1:  # one device: as square as it goes
        panels = [panel for row in rows for panel in row]
        width = len(panels) if len(panels) < 4 else 2 if len(panels) == 4 else 3
        width = len(panels) if found.study.x == "variant" else width
        rows = [panels[i : i + width] for i in range(0, len(panels), width)]
    return rows


def _lines(axes: Any, found: Found, panel: _Panel) -> None:
    study, scale = found.study, SHOWN[panel.figure.key].scale
    values: list[float] = []
    names = list(dict.fromkeys(cell.at[study.series] for cell in found.cells)
                 if study.series else [None])  # fmt: skip
    for i, name in enumerate(names):
        cells = [c for c in panel.cells if study.series is None or c.at[study.series] == name]
        points = [(c.at[study.x], panel.figure.of(c)) for c in cells]
        known = [(x, scale * y) for x, y in points if y is not None]
        if not known:
            continue
        values += [y for _, y in known]
        label = "" if study.series is None else axis_text(study.series, name)
        xs, ys = zip(*known, strict=True)
        axes.plot(xs, ys, label=label, markersize=5, **series_style(i))
    title = [panel.place] if panel.place else []
    axes.set(xlabel=_label(study.x), ylabel=panel.figure.title, title=", ".join(title))
    axes.grid(alpha=0.3)
    _scales(axes, found, panel, values)
    for split, colour in (("equal", "0.5"), ("authors", "k")):
        for cell in panel.cells:
            if cell.at.get("split") == split:
                axes.axvline(cell.at[study.x], color=colour, linestyle=":", label=f"{split}' split"
                             if split == "authors" else "equal split")  # fmt: skip


def _scales(axes: Any, found: Found, panel: _Panel, values: list[float]) -> None:
    positive = [value for value in values if value > 0]
    rate = panel.figure.key == "tokens_per_second"
    if rate and positive and max(positive) > _SPAN * min(positive):
        axes.set_yscale("log")
    elif panel.figure.key != ENERGY:
        axes.set_ylim(bottom=0)
    if found.study.x == "flash_bandwidth":
        at = sorted({cell.at[found.study.x] for cell in found.cells})
        axes.set_xscale("log")
        axes.set_xticks(at, [f"{value / 1e9:g}" for value in at])
        axes.set_xticks([], minor=True)


def _dots(axes: Any, found: Found, panel: _Panel) -> None:
    """Named cells one below the other."""
    names = [axis_text(found.study.x, cell.at[found.study.x]) for cell in panel.cells]
    rows = np.arange(len(names))[::-1]
    scale = SHOWN[panel.figure.key].scale
    values = [np.nan if (y := panel.figure.of(cell)) is None else scale * y
              for cell in panel.cells]  # fmt: skip
    axes.plot(values, rows, **(series_style(0) | {"linestyle": ""}))
    axes.set_yticks(rows, names)
    axes.set(xlabel=panel.figure.title, title=panel.place)
    axes.grid(alpha=0.3)


def _label(axis: str) -> str:
    name, _, stage = axis.partition(".")
    words = {
        "dram": "DRAM (share of the model)",
        "flash_bandwidth": "flash bandwidth (GB/s)",
        "density": "MLP density",
    }
    return f"{name} of {stage}" if stage else words.get(name, name)


def _profiles(found: Found) -> list[str]:
    return list(dict.fromkeys(cell.at["profile"] for cell in found.cells))


def _devices(found: Found) -> str:
    return ", ".join(_profiles(found))
