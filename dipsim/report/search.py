"""Report of `dipsim search`: a sentence that answers, then what was run, as tables, CSV, picture.

The three questions, each with an answer of its own kind: the highest rate at a loss (`Frontier`),
the least hardware for a rate (`Least`), rates over two axes (`Contours`).
"""

import math
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from dipsim.analysis.calibration import Bounds
from dipsim.analysis.contours import Contours
from dipsim.analysis.frontier import FIGURES, OF_A_RUN, Frontier, series_of
from dipsim.analysis.least import Least
from dipsim.errors import DipsimError
from dipsim.report.files import check_series, flat_rows, write_rows
from dipsim.report.pictures import (
    BESIDE,
    COLOURS,
    FAINT,
    MARKERS,
    Sheet,
    finite_rates,
    label,
    picture,
    ring,
    scale_by_ratio,
    series_style,
    set_heading,
    short,
    trace_name,
)
from dipsim.report.tables import Table, line, marks_of
from dipsim.sweep.point import Cell
from dipsim.sweep.vary import Axis
from dipsim.units import BYTES, show_number

AXIS_NAMES: dict[Axis, str] = {"dram": "DRAM", "flash-bandwidth": "flash bandwidth", "iops": "IOPS"}
_AXIS_UNITS: dict[Axis, str] = {
    "dram": "B",
    "flash-bandwidth": "times the profile's",
    "iops": "reads/s",
}
_ACROSS = 8
"""Columns of rates that fit in 80 characters."""


def render(answer: Frontier | Least | Contours) -> RenderableType:
    """Return the answer in a sentence, a table of runs, and marks."""
    if isinstance(answer, Frontier):
        return _render_frontier(answer)
    return _render_least(answer) if isinstance(answer, Least) else _render_contours(answer)


def records(answer: Frontier | Least | Contours) -> list[dict[str, Any]]:
    """Return a row for every run, numbers in base units."""
    if isinstance(answer, Contours):
        return flat_rows(answer.rows())
    if isinstance(answer, Least):
        trials = answer.trials
        return flat_rows({"what": answer.what, **trial.to_dict(OF_A_RUN)} for trial in trials)
    return flat_rows(point.to_dict(FIGURES) for point in answer.points)


def what_searched(answer: Frontier | Least | Contours) -> str:
    """Return what was searched: ``smollm2-chat on paper-a18``."""
    return f"{trace_name(answer.trace)} on {short(answer.device)}"


def units(answer: Frontier | Least | Contours) -> dict[str, str]:
    """Return units of figures that `dipsim.report.envelope` does not know, or knows as others."""
    if isinstance(answer, Contours):
        return {str(axis): unit for axis, unit in _AXIS_UNITS.items()}
    if isinstance(answer, Least):
        return {
            "target_rate": "tokens/s",
            **dict.fromkeys(("value", "now"), _AXIS_UNITS[answer.what]),
        }
    lost = "share" if answer.allowed.calibration is None else "perplexity"
    of_loss = dict.fromkeys(("loss", "max_loss"), lost)
    return {**of_loss, "gamma": "factor"}


def write_csv(
    answer: Frontier | Least | Contours, path: Path, places: Mapping[str, Any] | None = None
) -> None:
    """Write `records`.

    Args:
        answer: what was found.
        path: the file.
        places: columns that are the same in all rows: trace, profile, policy, budget.

    Raises:
        DipsimError: the file cannot be written.
    """
    write_rows(path, ({**(places or {}), **row} for row in records(answer)))


def plot(answer: Frontier | Least | Contours, sheet: Sheet) -> Any:
    """Draw rate against loss, rate against hardware, or lines of equal rate.

    Args:
        answer: what was found.
        sheet: what it is drawn on.

    Returns:
        The matplotlib figure.

    Raises:
        DipsimError: too many methods and gammas, nothing to draw, a rate is infinite, or the file
            cannot be written.
    """
    if isinstance(answer, Frontier):
        return _plot_frontier(answer, sheet)
    if isinstance(answer, Least):
        return _plot_least(answer, sheet)
    return _plot_contours(answer, sheet)


# The highest rate at a loss -----------------------------------------------------------------------


def _render_frontier(frontier: Frontier) -> RenderableType:
    """Return the fastest point of each method and gamma."""
    calibrated = frontier.allowed.calibration is not None
    stages = "/".join(frontier.points[0].value("energy_kept")) if frontier.points else ""
    if len({point.place["method"] for point in frontier.points}) > 1:
        stages = "each stage"
    columns = ["method", "gamma", "density", "lost", "hits", "flash", "tok/s"]
    rows = Table(*columns, *(["perplexity"] if calibrated else []), right=(2, *range(4, 8)))
    best = _best_of_each(frontier)
    for point in best:
        lost = (max(0.0, 1 - kept) for kept in point.value("energy_kept").values())
        row = [
            point.place["method"],
            "/".join(show_number(gamma, 6) for gamma in point.place["gamma"].values()) or "-",
            show_number(point.place["density"], 6),
            "/".join(f"{share:.2%}" for share in lost),
            f"{point.value('hit_rate'):.1%}",
            BYTES.show(point.value("flash_bytes_per_token")),
            show_number(point.rate),
        ]
        bounds = point.value("perplexity")
        rows.add_row(*row, *([_perplexity(bounds)] if bounds else []))
    missing = len(set(map(series_of, frontier.points))) - len(best)
    run = "1 point was" if len(frontier.points) == 1 else f"{len(frontier.points)} points were"
    note = f"lost: energy of {stages}, replayed open loop. "
    if calibrated:
        note += "perplexity: calibrated, bounds under monotonicity. "
    else:
        note += "It compares runs of one method; it is no accuracy. "
    note += f"{run} run; the fastest of each method and gamma are shown"
    note += f", {missing} had none that loses so little." if missing else "."
    parts: list[RenderableType] = [line(_frontier_sentence(frontier), style="bold"), line()]
    if frontier.best is not None:
        parts += [line(f"options: {_options(frontier.best)}"), line(), rows, line()]
    return Group(*parts, line(note, style="dim"), *marks_of(point.marks for point in best))


def _best_of_each(frontier: Frontier) -> list[Cell]:
    """Return the fastest point of each method and gamma that loses no more than allowed.

    The fastest comes first.
    """
    meeting = sorted((cell for cell in frontier.points if cell.value("meets")), key=series_of)
    fastest = [
        max(points, key=lambda point: point.rate) for _, points in groupby(meeting, series_of)
    ]
    return sorted(fastest, key=lambda point: -point.rate)


def _options(point: Cell) -> str:
    """Return the options of `dipsim run` that repeat a point."""
    gammas = point.place["gamma"].items()
    gamma = ",".join(f"{name}={show_number(value, 6)}" for name, value in gammas)
    density = show_number(point.place["density"], 6)
    asked = point.options.get("method")  # a file, where the place has the label of its method
    method = asked if isinstance(asked, str) else point.place["method"]
    options = f"--method {method} --density {density}"
    return f"{options} --gamma {gamma}" if gamma else options


def _perplexity(bounds: Bounds) -> str:
    low, high = bounds
    if high is None:
        return f">= {show_number(low)}"
    return show_number(low) if low == high else f"{show_number(low)}-{show_number(high)}"


def _frontier_sentence(frontier: Frontier) -> str:
    most = frontier.allowed.most
    if isinstance(most, Mapping):
        each = ", ".join(f"{show_number(share, 3)} of {stage}" for stage, share in most.items())
        bound = f"at most these shares of the energy: {each}"
    elif frontier.allowed.calibration is not None:
        bound = f"at most {show_number(most, 6)} of perplexity above dense"
    else:
        bound = f"at most {show_number(most, 3)} of the energy at every stage"
    if frontier.best is None:
        return f"No density that was tried loses {bound}."
    slow, fast = frontier.best.band
    between = f"{show_number(slow, 3)} to {show_number(fast, 3)}"
    band = "" if slow == fast else f" ({between}, overlap none to full)"
    rate = show_number(frontier.best.rate)
    return f"{rate} tokens/s{band} is the highest rate found that loses {bound}."


def _plot_frontier(frontier: Frontier, sheet: Sheet) -> Any:
    """Draw rate against loss of the points that were run, and the Pareto front.

    A colour for each method and first gamma, a marker for each other gamma. Points that lose more
    than three times what they may are counted, not drawn.
    """
    limit = frontier.allowed.limit
    known = [p for p in frontier.points if np.isfinite([p.number("loss"), p.rate]).all()]
    shown = [point for point in known if point.number("loss") <= 3 * limit] or known
    if not shown:
        raise DipsimError("--plot: no point has both a loss and a rate that are known")
    series = len(set(map(series_of, shown)))
    with picture(sheet, 8, max(5, 1.2 + 0.18 * (series + 4))) as figure:
        axes = figure.subplots()
        _draw_points(axes, shown)
        front = [point for point in frontier.front() if point in shown]
        steps = [point.number("loss") for point in front], [point.rate for point in front]
        style = {"where": "post", "color": "0.5", "linewidth": 1, "zorder": 0}
        axes.step(*steps, label="Pareto front", **style)
        axes.axvline(limit, color="0.5", linestyle=":", label="what may be lost")
        if frontier.best is not None:
            answer = frontier.best.number("loss"), frontier.best.rate
            axes.plot(*answer, label="answer", **ring())
        beyond = len(frontier.points) - len(shown)
        more = f"\n(not shown, as they lose more: {beyond})" if beyond else ""
        axes.set(xlabel=frontier.allowed.meaning + more, ylabel="tokens per second")
        axes.grid(alpha=0.3)
        stages = "/".join(next((gamma for point in shown if (gamma := point.place["gamma"])), {}))
        figure.legend(title=f"gamma of {stages}" if stages else None, **BESIDE)
        set_heading(figure, f"Tokens per second against loss: {what_searched(frontier)}")
    return figure


def _draw_points(axes: Any, shown: list[Cell]) -> None:
    series = list(dict.fromkeys(map(series_of, shown)))
    heads = list(dict.fromkeys((method, gamma[:1]) for method, gamma in series))
    tails = list(dict.fromkeys(gamma[1:] for _, gamma in series))
    check_series("methods and gammas", heads)
    check_series("gammas", tails)
    for method, gamma in series:
        points = [point for point in shown if series_of(point) == (method, gamma)]
        head, tail = heads.index((method, gamma[:1])), tails.index(gamma[1:])
        axes.plot(
            [point.number("loss") for point in points],
            [point.rate for point in points],
            linestyle="",
            color=COLOURS[head],
            marker=MARKERS[tail if len(tails) > 1 else head],
            label=label(
                " ".join([method, "/".join(show_number(value, 6) for value in gamma)]).strip()
            ),
        )


# The least hardware for a rate --------------------------------------------------------------------


def _render_least(least: Least) -> RenderableType:
    """Return the least value, and every value that was run."""
    name = "factor" if least.what == "flash-bandwidth" else AXIS_NAMES[least.what]
    rows = Table(name, "cache", "hits", "flash", "tok/s", "", right=tuple(range(5)))
    for trial in least.trials:
        rows.add_row(
            _value(least.what, trial.place["value"], 4),
            BYTES.show(trial.value("cache_bytes")),
            f"{trial.value('hit_rate'):.1%}",
            BYTES.show(trial.value("flash_bytes_per_token")),
            _rate_text(trial.rate, least.target),
            "<- least" if trial is least.found else "",
        )
    marks = marks_of(trial.marks for trial in least.trials)
    return Group(line(_least_sentence(least), style="bold"), line(), rows, line(), *marks)


def _rate_text(rate: float, target: float) -> str:
    """Return a rate with four figures, or with as many more as show on which side of the target it
    is."""
    texts = (show_number(rate, digits) for digits in range(4, 17))
    if not math.isfinite(rate):
        return next(texts)
    exact = f"{rate:.17g}"
    return next((text for text in texts if (float(text) >= target) == (rate >= target)), exact)


def _least_sentence(least: Least) -> str:
    span = least.span

    def hardware(trial: Cell) -> str:
        value = _value(least.what, trial.place["value"], 4)
        if least.what == "dram":
            return f"{value} of DRAM"
        if least.what == "iops":
            return f"{value} reads/s of {span.size} (the profile: {_value('iops', span.now)})"
        return f"{value} the profile's flash bandwidth"

    target, answer, below = f"{show_number(least.target, 6)} tokens/s", least.found, least.below
    if answer is None:
        fastest = least.fastest
        return (
            f"{target} are out of reach: even with {span.most} it is "
            f"{_rate_text(fastest.rate, least.target)} tokens/s."
        )
    reached = f"{_rate_text(answer.rate, least.target)} tokens/s with {hardware(answer)}"
    if below is None:
        return f"{target} need no more than the least that was tried: {reached}."
    less = _value(least.what, below.place["value"], 4)
    return (
        f"{target} need {hardware(answer)}: {_rate_text(answer.rate, least.target)} tokens/s, but "
        f"{_rate_text(below.rate, least.target)} with {less}."
    )


def _plot_least(least: Least, sheet: Sheet) -> Any:
    """Draw the rate of every value that was run."""
    rates = finite_rates([trial.rate for trial in least.trials])
    with picture(sheet, 7, 4.5) as figure:
        axes = figure.subplots()
        values, label = _in_unit(least.what, [trial.place["value"] for trial in least.trials])
        axes.plot(values, rates, **series_style(0))
        axes.axhline(least.target, color="0.5", linestyle=":", label="wanted")
        if least.found is not None:
            place = least.trials.index(least.found)
            axes.plot(values[place], rates[place], label="least", **ring())
        axes.set(xlabel=label, ylabel="tokens per second")
        if least.what != "dram":
            scale_by_ratio(axes.xaxis, min(values), max(values))
        axes.grid(alpha=0.3)
        axes.legend()
        set_heading(
            figure, f"Tokens per second by {AXIS_NAMES[least.what]}: {what_searched(least)}"
        )
    return figure


# Rates over two axes ------------------------------------------------------------------------------


def _render_contours(contours: Contours) -> RenderableType:
    """Return rates: the first axis goes down, the second across."""
    down, across = contours.axes
    names = [AXIS_NAMES[axis] for axis in contours.axes]
    title = f"tokens per second, by {names[0]} (down) and {names[1]} (across)"
    parts: list[RenderableType] = [line(title, style="bold")]
    for start in range(0, len(contours.values[1]), _ACROSS):
        part = slice(start, start + _ACROSS)
        heads = [_value(across, value) for value in contours.values[1][part]]
        rows = Table("", *heads, right=tuple(range(len(heads) + 1)))
        for value, rates in zip(contours.values[0], contours.rates, strict=True):
            rows.add_row(_value(down, value), *(show_number(rate, 3) for rate in rates[part]))
        parts += [line(), rows]
    marks = marks_of(cell.marks for row in contours.cells for cell in row)
    return Group(*parts, line(), *marks)


def _plot_contours(contours: Contours, sheet: Sheet) -> Any:
    """Draw lines of equal tokens per second; a dot is a run."""
    rates = np.array([finite_rates(row) for row in contours.rates]).T
    (across, xlabel), (up, ylabel) = map(_in_unit, contours.axes, contours.values)
    with picture(sheet, 7, 5) as figure:
        axes = figure.subplots()
        axes.plot(*np.meshgrid(across, up), ".", color=FAINT, clip_on=False)
        levels = _levels(float(rates.min()), float(rates.max()))
        if levels:  # in logarithms, as rates span decades
            lines = axes.contour(
                across, up, np.log(rates), np.log(levels), colors=COLOURS[0], linewidths=1.2
            )
            axes.clabel(lines, fmt=lambda level: show_number(np.exp(level)))
        axes.set(xlabel=xlabel, xscale=_scale(contours.axes[0]))
        axes.set(ylabel=ylabel, yscale=_scale(contours.axes[1]))
        for axis, name, values in (
            (axes.xaxis, contours.axes[0], across),
            (axes.yaxis, contours.axes[1], up),
        ):
            if name != "dram":
                ticks = values[:: -(-len(values) // 8)]
                axis.set_ticks(ticks, [show_number(value, 3) for value in ticks])
                axis.set_ticks([], minor=True)
        names = " and ".join(AXIS_NAMES[axis] for axis in contours.axes)
        set_heading(figure, f"Tokens per second by {names}: {what_searched(contours)}")
    return figure


def _levels(low: float, high: float) -> list[float]:
    """Return about ten round rates between two."""
    from matplotlib.ticker import MaxNLocator

    levels = list(MaxNLocator(10).tick_values(low, high))
    if high > 5 * low > 0:
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))))
        levels = [step * 10.0**decade for decade in decades for step in (1, 1.5, 2, 3, 5, 7)]
    return [float(level) for level in levels if low < level < high]


# Values of an axis --------------------------------------------------------------------------------


def _value(axis: Axis, value: float, digits: int = 3) -> str:
    """Return a value of an axis with its unit."""
    if axis == "dram":
        return BYTES.show(value, digits)
    if axis == "iops":
        scale, suffix = (1e6, "M") if value >= 1e6 else (1e3, "k") if value >= 1e3 else (1, "")
        return f"{show_number(value / scale, digits)}{suffix}"
    return f"{show_number(value, digits)}x"


def _scale(axis: Axis) -> str:
    return "linear" if axis == "dram" else "log"


def _in_unit(axis: Axis, values: list[float]) -> tuple[list[float], str]:
    """Return values in a handy unit, and the label of their axis in a picture."""
    if axis == "flash-bandwidth":
        return values, "flash bandwidth (times the profile's)"
    if axis == "iops":
        return [value / 1e3 for value in values], "smallest reads per second (thousands)"
    unit, size = ("GB", 1e9) if values[-1] >= 1e9 else ("MB", 1e6)
    return [value / size for value in values], f"DRAM ({unit})"
