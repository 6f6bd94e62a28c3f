"""Picture of `dipsim compare`: rates against DRAM, or of one budget a row for each policy."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np

from dipsim.analysis.compare import Comparison
from dipsim.errors import DipsimError
from dipsim.report.files import MOST_SERIES
from dipsim.report.pictures import (
    BESIDE,
    COLOURS,
    MARKERS,
    Sheet,
    finite_rates,
    picture,
    plain,
    series_style,
    short,
)
from dipsim.sweep.point import Cell, Place

_SPAN = 10
"""Ratio of the highest rate to the lowest above which rates are drawn in logarithms."""
_ACROSS = 3
"""Most panels beside each other."""
_LONGEST = 36
"""Characters of a name; a longer one loses its middle."""
_ROWS = ("method", "density", "policy")
_LEGEND = {**BESIDE, "loc": "outside right center"}
"""Style of a legend that leaves the title alone."""


class _X(NamedTuple):
    """Axis that goes across a picture."""

    axis: str
    label: str
    title: str
    of: Callable[[Cell], float]
    """Place of a cell."""


def check_picture(places: Sequence[Place]) -> None:
    """Refuse more lines, or with one budget more devices, than a picture can hold.

    Args:
        places: of all cells.

    Raises:
        DipsimError: in one line.
    """
    if _axis_across(places) is None:
        names, what = {place["profile"] for place in places}, "profiles"
    else:
        axes = [axis for axis in _ROWS if axis != _axis_across(places)]
        names = {tuple(place[axis] for axis in axes) for place in places}
        several = [axis for axis in axes if len({place[axis] for place in places}) > 1]
        what = "policies" if several == ["policy"] else f"lines, one for each {', '.join(several)}"
    if len(names) > MOST_SERIES:
        raise DipsimError(
            f"--plot shows {MOST_SERIES} {what} at most, not {len(names)}: name fewer"
        )


def _axis_across(places: Sequence[Place]) -> str | None:
    """Return the axis that goes across: of budgets, else of densities; None where both are one."""
    axes = ("budget", "density")
    return next((axis for axis in axes if len({place[axis] for place in places}) > 1), None)


def plot(comparison: Comparison, sheet: Sheet) -> Any:
    """Draw tokens per second against DRAM: a panel for each device, a line for each policy.

    Lines are told apart by method and density too. With one budget and several densities these go
    across; with one of both, policies stand one below the other with their rates and hits.

    Returns:
        The figure.

    Raises:
        DipsimError: too many lines, a rate is infinite, or the file cannot be written.
    """
    places = [cell.place for cell in comparison.cells]
    check_picture(places)
    cells = [cell for cell in comparison.cells if cell.figures is not None]
    finite_rates([cell.band[1] for cell in cells])
    if _axis_across(places) is None:
        return _plot_rows(comparison, cells, sheet)
    return _plot_lines(comparison, cells, _x(comparison, cells), sheet)


# Lines --------------------------------------------------------------------------------------------


def _x(comparison: Comparison, cells: Sequence[Cell]) -> _X:
    """Return what goes across a picture of lines."""
    if not comparison.varying("budget"):
        return _X("density", "MLP density", "MLP density", lambda cell: cell.place["density"])
    budgets = comparison.budgets
    kinds = {budget.kind for budget in budgets.values()}
    shares = {name: 100 * (budget.share or 0.0) for name, budget in budgets.items()}
    if len(kinds) == 1 and all(budget.share is not None for budget in budgets.values()):
        label, title = (
            ("DRAM (% of the model)", "DRAM")
            if kinds == {"dram"}
            else ("units that the caches hold (%)", "size of the caches")
        )
        return _X("budget", label, title, lambda cell: shares[cell.place["budget"]])
    figure, name, title = "dram_bytes", "DRAM", "DRAM"
    if kinds == {"cache"}:
        figure, name, title = "cache_bytes", "cache", "size of the caches"
    unit, scale = _unit(cell.number(figure) for cell in cells)
    return _X("budget", f"{name} ({unit})", title, lambda cell: cell.number(figure) / scale)


def _unit(sizes: Iterable[float]) -> tuple[str, float]:
    """Return a unit for some numbers of bytes, and its bytes."""
    most = max(sizes, default=0.0)
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    return next(((unit, scale) for unit, scale in units if most >= scale), ("B", 1.0))


def _plot_lines(comparison: Comparison, cells: Sequence[Cell], x: _X, sheet: Sheet) -> Any:
    """Draw a panel for each device that ran anything, a line for each method, density, policy."""
    devices = list(dict.fromkeys(cell.place["profile"] for cell in cells))
    across = min(_ACROSS, len(devices)) if len(devices) != 4 else 2
    down = -(-len(devices) // across)
    axes = [axis for axis in _varying(comparison, _ROWS) if axis != x.axis]
    lines = _lines(comparison, axes)
    styles = [_line_style(i, len(lines)) for i in range(len(lines))]
    width = (4.6 if across == 1 else 3.7) * across + _legend_width(lines)
    with picture(sheet, width, 3.2 * down + 0.5) as figure:
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for panel in panels[len(devices) :]:
            panel.remove()
        for panel, device in zip(panels, devices, strict=False):
            own = [cell for cell in cells if cell.place["profile"] == device]
            for name, style in zip(lines, styles, strict=True):
                _draw_line(
                    panel, x, [cell for cell in own if _name(cell, axes) == name], own, style
                )
            panel.set(xlabel=x.label)
            if len(devices) > 1:
                panel.set_title(plain(short(device, _LONGEST)), fontsize=10)
            panel.grid(alpha=0.3)
            _scale_rates(panel, own)
        for panel in panels[: len(devices) : across]:
            panel.set_ylabel("tokens per second")
        if len(lines) > 1:
            handles = [panels[0].plot([], [], **style)[0] for style in styles]
            names = [plain(short(name, _LONGEST)) for name in lines]
            figure.legend(handles, names, title=", ".join(axes), **_LEGEND)
        _entitle(figure, f"Tokens per second by {x.title}", comparison, axes)
    return figure


def _line_style(i: int, lines: int) -> dict[str, Any]:
    """Return the style of the i-th line: those drawn later are thinner, to leave others in sight
    where rates are equal."""
    above = lines - 1 - i
    return {**series_style(i), "linewidth": 1.2 + 0.3 * above, "markersize": 4 + 0.6 * above}


def _legend_width(names: Iterable[str]) -> float:
    """Return the inches that a legend takes."""
    return 0.075 * max(len(short(name, _LONGEST)) for name in names) + 0.75


def _varying(comparison: Comparison, axes: Iterable[str]) -> list[str]:
    """Return those of the axes that vary; the policy where none does."""
    return comparison.varying(*axes) or ["policy"]


def _name(cell: Cell, axes: Sequence[str]) -> str:
    """Return what tells a cell from others, by some axes."""
    values = (cell.place[axis] for axis in axes)
    return " ".join(
        f"{value:g}" if isinstance(value, float) else str(value)
        for value in values
        if value is not None
    )


def _lines(comparison: Comparison, axes: Sequence[str]) -> list[str]:
    """Return the names of all lines, in the order of the axes."""
    order = {axis: [None, *comparison.axes[axis]] for axis in axes}
    cells = sorted(
        comparison.cells, key=lambda cell: [order[axis].index(cell.place[axis]) for axis in axes]
    )
    return list(dict.fromkeys(_name(cell, axes) for cell in cells))


def _draw_line(
    panel: Any, x: _X, line: Sequence[Cell], all_cells: Sequence[Cell], style: dict[str, Any]
) -> None:
    """Draw the rates of some cells; of a method without density the same rate at each."""
    points = [(x.of(cell), cell.rate) for cell in line if cell.place[x.axis] is not None]
    if not points and line:
        every = [x.of(cell) for cell in all_cells if cell.place[x.axis] is not None]
        points = [(end, line[0].rate) for end in sorted({min(every), max(every)})]
    points.sort()
    places, rates = zip(*points, strict=True) if points else ((), ())
    panel.plot(places, rates, markevery=max(1, len(points) // 12), **style)


def _scale_rates(panel: Any, cells: Sequence[Cell]) -> None:
    """Scale rates that span much in logarithms, all else from zero."""
    rates = [cell.rate for cell in cells]
    low, high = min(rates), max(rates)
    if not 0 < _SPAN * low < high:
        panel.set_ylim(0, 1.05 * high or 1)
        return
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    panel.set_yscale("log")
    panel.set_ylim(low / 1.2, high * 1.2)
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


# Rows ---------------------------------------------------------------------------------------------


def _plot_rows(comparison: Comparison, cells: Sequence[Cell], sheet: Sheet) -> Any:
    """Draw rates and hit rates at one budget: rows of policies, the fastest on top, and a marker
    for each device."""
    axes = _varying(comparison, _ROWS)
    devices = list(dict.fromkeys(cell.place["profile"] for cell in cells))
    first = [cell for cell in cells if cell.place["profile"] == devices[0]]
    names = dict.fromkeys(_name(cell, axes) for cell in [*first, *cells])
    rows = {name: row for row, name in enumerate(reversed(names))}
    longest = min(max(map(len, rows)), _LONGEST)
    width = 6.8 + 0.08 * longest + (_legend_width(devices) if len(devices) > 1 else 0.0)
    height = 1.4 + max(0.34 * len(rows), 0.2 * len(devices))
    with picture(sheet, width, height) as figure:
        rate, hits = figure.subplots(1, 2, sharey=True)
        for i, device in enumerate(devices):
            own = [cell for cell in cells if cell.place["profile"] == device]
            offset = 0.5 / max(len(devices), 2) * (len(devices) - 1 - 2 * i) / 2
            heights = [rows[_name(cell, axes)] + offset for cell in own]
            style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": ""}
            middle = np.array([cell.rate for cell in own])
            band = np.array([cell.band for cell in own])
            sides = np.maximum(np.stack([middle - band[:, 0], band[:, 1] - middle]), 0)
            label = plain(short(device, _LONGEST))
            rate.errorbar(middle, heights, xerr=sides, capsize=2, label=label, **style)
            hits.plot([100 * cell.value("hit_rate") for cell in own], heights, **style)
        rate.set_yticks(list(rows.values()), [plain(short(name, _LONGEST)) for name in rows])
        rate.set_ylim(-0.6, len(rows) - 0.4)
        fastest = max(cell.band[1] for cell in cells)
        rate.set(
            xlabel="tokens per second\n(bar: overlap none to full)", xlim=(0, 1.05 * fastest or 1)
        )
        hits.set(xlabel="active bytes found in DRAM (%)", xlim=(-3, 103))
        if len(devices) > 1:
            figure.legend(*rate.get_legend_handles_labels(), title="profile", **_LEGEND)
        for panel in (rate, hits):
            panel.grid(alpha=0.3, axis="x")
        _entitle(figure, "Tokens per second and hits", comparison, axes)
    return figure


# Names --------------------------------------------------------------------------------------------


def _entitle(figure: Any, what: str, comparison: Comparison, shown: Sequence[str]) -> None:
    """Say over a picture what is seen, and the values of the axes that do not vary."""
    names = [Path(comparison.trace.name).name]
    for axis in ("method", "policy"):
        if axis not in shown and not comparison.varying(axis):
            names += comparison.axes[axis]
    if not comparison.varying("profile"):
        names.append(f"on {comparison.axes['profile'][0]}")
    if not comparison.varying("budget"):
        names.append(_budget_words(comparison))
    title = f"{what}: {', '.join(short(name, _LONGEST) for name in names)}"
    across = max(20, int(figure.get_size_inches()[0] * 11))
    figure.suptitle("\n".join(map(plain, wrap(title, across))), fontsize=11)


def _budget_words(comparison: Comparison) -> str:
    """Return the only budget in words."""
    (budget,) = comparison.budgets.values()
    if budget.kind == "available":
        return "the DRAM available"
    if budget.kind == "cache_fraction":
        return f"{100 * (budget.share or 0.0):.6g}% of the units in the caches"
    what = "DRAM" if budget.kind == "dram" else "cache"
    return f"{what} {budget.value}{' of the model' if budget.share is not None else ''}"
