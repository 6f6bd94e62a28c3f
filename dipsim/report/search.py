"""What `dipsim search` prints and writes: a sentence that answers, then what was run."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from dipsim.analysis.calibration import Bounds
from dipsim.analysis.contours import Contours
from dipsim.analysis.least import Least, Trial
from dipsim.analysis.search import Figures, Frontier, Point
from dipsim.errors import printable
from dipsim.report.files import write_flat
from dipsim.report.run import table
from dipsim.sweep.vary import Axis
from dipsim.units import BYTES

AXIS_NAMES: dict[Axis, str] = {"dram": "DRAM", "flash-bandwidth": "flash bandwidth", "iops": "IOPS"}
_ACROSS = 8
"""Columns of rates that fit in 80 characters."""


def render(found: Frontier | Least | Contours) -> RenderableType:
    """The answer in a sentence, a table of runs, marks."""
    if isinstance(found, Frontier):
        return _rate(found)
    return _least(found) if isinstance(found, Least) else _contours(found)


def _rate(found: Frontier) -> RenderableType:
    """The fastest point of each method and gamma."""
    calibrated = found.allowed.calibration is not None
    stages = "/".join(found.points[0].figures.energy_kept) if found.points else ""
    if len({point.method for point in found.points}) > 1:
        stages = "each stage"
    columns = ["method", "gamma", "density", "lost", "hits", "flash", "tok/s"]
    made = table(*columns, *(["perplexity"] if calibrated else []), right=(2, *range(4, 8)))
    best = best_of_each(found)
    for point in best:
        figures = point.figures
        lost = "/".join(f"{max(0.0, 1 - kept):.2%}" for kept in figures.energy_kept.values())
        row = [
            point.method,
            "/".join(f"{gamma:g}" for gamma in point.gamma.values()) or "-",
            f"{point.density:g}",
            lost,
            f"{figures.hit_rate:.1%}",
            BYTES.show(figures.flash_bytes),
            f"{figures.rate:.4g}",
        ]
        made.add_row(*row, *([perplexity(point.bounds)] if point.bounds else []))
    missing = len({point.series for point in found.points}) - len(best)
    note = f"lost: energy of {stages}, replayed open loop. "
    if calibrated:
        note += "perplexity: calibrated, bounds under monotonicity. "
    else:
        note += "It compares runs of one method; it is no accuracy. "
    note += f"{counted(len(found.points))} run; the fastest of each method and gamma are shown"
    note += f", {missing} had none that loses so little." if missing else "."
    parts: list[RenderableType] = [Text(_rate_sentence(found), style="bold"), Text()]
    if found.best is not None:
        parts += [Text(f"options: {options(found.best)}"), Text(), made, Text()]
    return Group(*parts, Text(note, style="dim"), *_marks(point.figures for point in best))


def best_of_each(found: Frontier) -> list[Point]:
    """The fastest point of each method and gamma that loses no more than allowed, fastest first."""
    meeting = sorted((at for at in found.points if at.meets), key=lambda at: at.series)
    fastest = [
        max(points, key=lambda at: at.figures.rate)
        for _, points in groupby(meeting, lambda at: at.series)
    ]
    return sorted(fastest, key=lambda at: -at.figures.rate)


def options(point: Point) -> str:
    """What `dipsim run` takes to repeat a point."""
    gamma = ",".join(f"{name}={value:g}" for name, value in point.gamma.items())
    said = f"--method {point.method} --density {point.density:g}"
    return f"{said} --gamma {gamma}" if gamma else said


def perplexity(bounds: Bounds) -> str:
    """Bounds in few characters."""
    low, high = bounds
    if high is None:
        return f">= {low:.4g}"
    return f"{low:.4g}" if low == high else f"{low:.4g}-{high:.4g}"


def perplexity_row(bounds: Bounds) -> tuple[str, str]:
    """A row of `dipsim run`: label and text."""
    low, high = bounds
    text = f"{low:.4g} or more: no calibrated point loses as much"
    if high is not None:
        text = f"{low:.4g} to {high:.4g} (bounds, nothing is fitted)"
    return "perplexity (calibrated)", text


def _rate_sentence(found: Frontier) -> str:
    most = found.allowed.most
    if found.allowed.calibration is not None:
        bound = f"at most {most:g} of perplexity above dense"
    elif isinstance(most, Mapping):
        each = ", ".join(f"{share:.3g} of {stage}" for stage, share in most.items())
        bound = f"at most these shares of the energy: {each}"
    else:
        bound = f"at most {most:.3g} of the energy at every stage"
    if found.best is None:
        return f"No density that was tried loses {bound}."
    slow, fast = found.best.figures.band
    band = "" if slow == fast else f" ({slow:.3g} to {fast:.3g}, overlap none to full)"
    return (
        f"{found.best.figures.rate:.4g} tokens/s{band} is the highest rate found that loses "
        f"{bound}."
    )


def _least(found: Least) -> RenderableType:
    """The least value, and every value that was run."""
    name = "factor" if found.what == "flash-bandwidth" else AXIS_NAMES[found.what]
    made = table(name, "cache", "hits", "flash", "tok/s", "", right=tuple(range(5)))
    for trial in found.trials:
        figures = trial.figures
        made.add_row(
            show_value(found.what, trial.value, 4),
            BYTES.show(figures.cache),
            f"{figures.hit_rate:.1%}",
            BYTES.show(figures.flash_bytes),
            f"{figures.rate:.4g}",
            "<- least" if trial is found.found else "",
        )
    return Group(
        Text(_least_sentence(found), style="bold"),
        Text(),
        made,
        Text(),
        *_marks(trial.figures for trial in found.trials),
    )


def _least_sentence(found: Least) -> str:
    span = found.span

    def told(trial: Trial) -> str:
        value = show_value(found.what, trial.value, 4)
        if found.what == "dram":
            return f"{value} of DRAM"
        if found.what == "iops":
            return f"{value} reads/s of {span.size} (the profile: {show_value('iops', span.now)})"
        return f"{value} the profile's flash bandwidth"

    target, answer, below = f"{found.target:g} tokens/s", found.found, found.below
    if answer is None:
        fastest = found.fastest
        return (
            f"{target} are out of reach: even with {span.most} it is "
            f"{fastest.figures.rate:.4g} tokens/s."
        )
    reached = f"{answer.figures.rate:.4g} tokens/s with {told(answer)}"
    if below is None:
        return f"{target} need no more than the least that was tried: {reached}."
    return (
        f"{target} need {told(answer)}: {answer.figures.rate:.4g} tokens/s, but "
        f"{below.figures.rate:.4g} with {show_value(found.what, below.value, 4)}."
    )


def _contours(found: Contours) -> RenderableType:
    """Rates: the first axis goes down, the second across."""
    down, across = found.axes
    names = [AXIS_NAMES[axis] for axis in found.axes]
    title = f"tokens per second, by {names[0]} (down) and {names[1]} (across)"
    parts: list[RenderableType] = [Text(title, style="bold")]
    for start in range(0, len(found.values[1]), _ACROSS):
        part = slice(start, start + _ACROSS)
        heads = [show_value(across, value) for value in found.values[1][part]]
        made = table("", *heads, right=tuple(range(len(heads) + 1)))
        for value, rates in zip(found.values[0], found.rates, strict=True):
            made.add_row(show_value(down, value), *(f"{rate:.3g}" for rate in rates[part]))
        parts += [Text(), made]
    return Group(*parts, Text(), *_marks(cell for row in found.cells for cell in row))


def show_value(axis: Axis, value: float, digits: int = 3) -> str:
    """A value of an axis for people."""
    if axis == "dram":
        return BYTES.show(value, digits)
    if axis == "iops":
        scale, suffix = (1e6, "M") if value >= 1e6 else (1e3, "k") if value >= 1e3 else (1, "")
        return f"{value / scale:.{digits}g}{suffix}"
    return f"{value:.{digits}g}x"


def _marks(figures: Iterable[Figures]) -> list[RenderableType]:
    marks = sorted({mark for at in figures for mark in at.marks})
    return [Text(f"marks: {printable(', '.join(marks))}")] if marks else []


def write_csv(found: Frontier | Least | Contours, path: Path) -> None:
    """A row for every run, numbers in base units.

    Raises:
        DipsimError: the file cannot be written.
    """
    rows: Iterable[Mapping[str, Any]]
    if isinstance(found, Contours):
        rows = found.rows()
    elif isinstance(found, Least):
        rows = ({"what": found.what, **trial.to_dict()} for trial in found.trials)
    else:
        rows = (point.to_dict() for point in found.points)
    write_flat(path, rows)


def counted(points: int) -> str:
    """``1 point was``, ``2 points were``."""
    return "1 point was" if points == 1 else f"{points} points were"
