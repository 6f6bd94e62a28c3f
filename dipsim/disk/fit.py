"""`dipsim calibrate`: measured reads of a disk become the flash section of a profile.

Either the points themselves, or the formula of flash/speed.py fitted to them. How far each is
off is measured in the logarithm of the bandwidth, with the class a run uses.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim import files
from dipsim.errors import DipsimError, brief, printable
from dipsim.flash.speed import speed_of
from dipsim.hardware import Flash
from dipsim.units import BANDWIDTH, BYTES, RATE, TIME, Dimension

LEAST_TO_FIT = 6
"""Points for the four or five numbers of the formula."""
MOST_POINTS = 2000
_ALIGN = "4 KiB"
_WORTH = 0.95  # a limit of IOPS is kept when it takes the error below this share of the one without
_STEPS, _ENOUGH = 200, 1e-12
_LOW = np.log([1e-9, 1e3, 1e3, 1.0, 0.5])
_HIGH = np.log([1e2, 1e14, 1e14, 1e12, 32.0])
"""Of t0, bandwidth, cap, iops and p."""


class Measured(NamedTuple):
    """Reads of ``size`` bytes, ``lanes`` in flight, reach ``bandwidth`` bytes/s in all."""

    size: float
    lanes: int
    bandwidth: float


class Errors(NamedTuple):
    """How far predicted bandwidths are off."""

    rms: float
    """Root mean square of log(predicted / measured)."""
    worst: float
    """The largest of them, as predicted / measured - 1."""
    at: Measured
    """Where that is."""


@dataclass(frozen=True)
class Calibrated:
    """A flash section and how far it is off."""

    flash: dict[str, Any]
    """As in a profile."""
    points: list[Measured]
    direct: bool
    """Whether the reads were direct ones."""
    errors: Errors | None
    """On the points the formula was fitted to; None of points, which are met exactly."""
    left_out: Errors | None
    """On points left out one at a time; of points the ones between two others. None: too few."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        found = {"errors": self.errors, "left_out": self.left_out}
        plain = {key: at and {"rms": at.rms, "worst": at.worst} for key, at in found.items()}
        return {"flash": self.flash, "points": len(self.points), "direct": self.direct, **plain}

    def section(self, origin: str) -> dict[str, Any]:
        """``flash`` and its ``sources``, as they stand in a profile.

        Args:
            origin: where the points are from.
        """
        kind = "measured" if self.direct else "estimate"
        told = f"{len(self.points)} points of {origin}"
        if not self.direct:
            told += ", through the page cache"
        if self.errors is not None:
            told += f"; rms log error {self.errors.rms:.1%}"
        because = {
            "fit" if "fit" in self.flash else "reads": told,
            "lanes": "reads in flight",
            "align": "direct reads are of whole pages",
        }
        sources = {
            f"flash.{key}": {"kind": kind, "from": f"dipsim calibrate: {text}"}
            for key, text in because.items()
        }
        return {"flash": self.flash, "sources": sources}


def calibrate(path: str, fit: bool = False, lanes: int | None = None) -> Calibrated:
    """Make a flash section of a table of reads.

    Args:
        path: a CSV with the columns size, lanes and bandwidth (others are ignored): bytes and
            bytes/s, or texts with a unit; for each number of lanes the sizes ascend.
        fit: fit the formula instead of keeping the points.
        lanes: reads the runtime keeps in flight; default: the most measured.

    Raises:
        DipsimError: a file that is no such table, or too few points, in one line.
    """
    points, direct = read_points(path)
    if fit and len(points) < LEAST_TO_FIT:
        raise DipsimError(
            f"{printable(path)}: {len(points)} points; --fit needs {LEAST_TO_FIT}: measure more, "
            "or drop --fit"
        )
    return calibrated(points, direct, fit, lanes)


def calibrated(
    points: list[Measured], direct: bool, fit: bool = False, lanes: int | None = None
) -> Calibrated:
    """The same of points by lanes, then by size, at least `LEAST_TO_FIT` for a fit.

    Raises:
        DipsimError: impossible lanes.
    """
    if lanes is not None and not 1 <= lanes <= 256:
        raise DipsimError(f"--lanes {lanes}: reads kept in flight, from 1 to 256")
    usual = max(point.lanes for point in points) if lanes is None else lanes
    if not fit:
        flash = _section({"reads": [_read(point) for point in points]}, usual)
        return Calibrated(flash, points, direct, None, _errors(_between(points)))
    best = fit_points(points)
    flash = _section({"fit": _fit_section(best, points)}, usual)
    rested = [_predicted(flash, point) for point in points]
    outside = None
    if len(points) > LEAST_TO_FIT:
        outside = _errors([_without(points, i, best) for i in range(len(points))])
    return Calibrated(flash, points, direct, _errors(rested), outside)


def _section(speed: dict[str, Any], lanes: int) -> dict[str, Any]:
    return {"lanes": lanes, "align": _ALIGN, **speed}


def _read(point: Measured) -> dict[str, Any]:
    rate = BANDWIDTH.exact(_short(point.bandwidth))
    return {"size": BYTES.exact(point.size), "lanes": point.lanes, "bandwidth": rate}


def _short(value: float) -> float:
    """Four significant digits, which is more than a disk repeats."""
    return float(f"{value:.4g}")


def _fit_section(logs: NDArray[np.float64], points: Sequence[Measured]) -> dict[str, Any]:
    t0, bandwidth, cap, iops, p = (_short(value) for value in np.exp(logs).tolist())
    return {
        "t0": TIME.exact(t0),
        "bandwidth": BANDWIDTH.exact(bandwidth),
        "cap": BANDWIDTH.exact(cap),
        "iops": RATE.exact(iops),
        "p": p,
        "sizes": [BYTES.exact(at(point.size for point in points)) for at in (min, max)],
        "lanes": [at(point.lanes for point in points) for at in (min, max)],
    }


# Errors -------------------------------------------------------------------------------------------


def _predicted(flash: dict[str, Any], point: Measured) -> tuple[Measured, float]:
    """A point and the bandwidth a run would reckon with."""
    speed = speed_of(Flash.model_validate({**flash, "lanes": point.lanes}))
    seconds = float(speed.seconds(np.array([point.size]), point.lanes)[0])
    return point, point.size / seconds


def _between(points: Sequence[Measured]) -> list[tuple[Measured, float]]:
    """Each point that lies between two others of its lanes, from those two."""
    found = []
    for before, point, after in zip(points, points[1:], points[2:], strict=False):
        if before.lanes == after.lanes == point.lanes:
            pair = [_read(before), _read(after)]
            found.append(_predicted(_section({"reads": pair}, point.lanes), point))
    return found


def _without(
    points: Sequence[Measured], i: int, start: NDArray[np.float64]
) -> tuple[Measured, float]:
    """A point from a formula fitted to all others."""
    others = [point for n, point in enumerate(points) if n != i]
    logs, _ = _descend(start, others, math.isfinite(start[3]))
    return _predicted(_section({"fit": _fit_section(logs, points)}, points[i].lanes), points[i])


def _errors(predicted: Sequence[tuple[Measured, float]]) -> Errors | None:
    if not predicted:
        return None
    logs = [math.log(rate / point.bandwidth) for point, rate in predicted]
    worst = int(np.argmax(np.abs(logs)))
    rms = math.sqrt(float(np.mean(np.square(logs))))
    return Errors(rms, math.expm1(logs[worst]), predicted[worst][0])


# The fit ------------------------------------------------------------------------------------------


def fit_points(points: Sequence[Measured]) -> NDArray[np.float64]:
    """Logarithms of t0, bandwidth, cap, iops and p (flash/speed.py) that fit points best.

    Least squares of the logarithm of the bandwidth, by Levenberg and Marquardt from several starts.
    The limit of IOPS is infinite unless it makes the fit clearly better.
    """
    rates = np.array([point.bandwidth for point in points])
    sizes = np.array([point.size for point in points])
    lanes = np.array([point.lanes for point in points], np.float64)
    alone = float((sizes * lanes / rates).min())
    one, all_, reads = (
        float((rates / lanes).max()),
        float(rates.max()),
        float((rates / sizes).max()),
    )
    best: list[tuple[float, NDArray[np.float64]]] = []
    for limited in (False, True):
        found = []
        for t0 in (0.3 * alone, alone):
            for bandwidth in (one, 4 * one):
                for cap in (all_, 1.5 * all_):
                    for p in (2.0, 6.0):
                        iops = 1.5 * reads if limited else math.inf
                        start = np.log([t0, bandwidth, cap, iops, p])
                        logs, error = _descend(start, points, limited)
                        found.append((error, logs))
        best.append(min(found, key=lambda pair: pair[0]))
    (plain, without), (capped, within) = best
    return within if capped < _WORTH**2 * plain else without


def _descend(
    start: NDArray[np.float64], points: Sequence[Measured], limited: bool
) -> tuple[NDArray[np.float64], float]:
    """(logs, sum of squares) at the end of the descent from ``start``."""
    table = np.array(points, np.float64)
    free = np.array([True, True, True, limited, True])
    high = np.where(free, _HIGH, math.inf)
    logs, damping = np.clip(start, _LOW, high), 1e-2
    residual, slope = _residual(logs, table)
    error = float(residual @ residual)
    for _ in range(_STEPS):
        inner = slope[:, free]
        square = inner.T @ inner
        matrix = square + damping * np.diag(np.maximum(np.diag(square), 1e-9))
        step = np.zeros(5)
        step[free] = -np.linalg.solve(matrix, inner.T @ residual)
        tried = np.clip(logs + step, _LOW, high)
        residual_there, slope_there = _residual(tried, table)
        there = float(residual_there @ residual_there)
        if there < error:
            gained, logs, residual, slope = error - there, tried, residual_there, slope_there
            error, damping = there, max(damping / 4, 1e-12)
            if gained < _ENOUGH * (error + _ENOUGH):
                break
        else:
            damping *= 5
            if damping > 1e12:
                break
    return logs, error


def _residual(
    logs: NDArray[np.float64], table: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[n] log(predicted / measured bandwidth), and its slope [n, 5] in the logarithms."""
    sizes, lanes, rates = table.T
    t0, bandwidth, cap, iops, p = np.exp(logs)
    wait, flow = t0 / lanes, sizes / bandwidth / lanes
    with np.errstate(divide="ignore"):  # without a limit of IOPS, its time is 0
        terms = np.log(np.stack([wait + flow, sizes / cap, np.full(len(sizes), 1 / iops)]))
    largest = terms.max(axis=0)
    powers = np.exp(p * (terms - largest))
    total = powers.sum(axis=0)
    seconds = largest + np.log(total) / p
    share = powers / total
    inner = (share * np.where(share > 0, terms - seconds, 0)).sum(axis=0)
    first = share[0] / (wait + flow)
    slope = np.stack([-first * wait, first * flow, share[1], share[2], -inner], axis=1)
    return np.log(sizes / rates) - seconds, slope


# The table ----------------------------------------------------------------------------------------


def read_points(path: str) -> tuple[list[Measured], bool]:
    """Points of a CSV by lanes, then by size, and whether they are all of direct reads.

    Raises:
        DipsimError: in one line.
    """
    if not Path(path).exists():
        raise DipsimError(f"{printable(path)}: no such file; dipsim iobench FILE --csv writes one")
    text = files.read_text(Path(path), DipsimError).removeprefix("\ufeff")  # of spreadsheets
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        columns = reader.fieldnames or []
        missing = [name for name in Measured._fields if name not in columns]
        if missing:
            raise DipsimError(
                f"{printable(path)}: no column {missing[0]}: the first line names size, lanes and "
                "bandwidth"
            )
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as problem:
        raise DipsimError(f"{printable(path)}: not readable as CSV ({brief(problem)})") from None
    if not 2 <= len(rows) <= MOST_POINTS:
        raise DipsimError(
            f"{printable(path)}: {len(rows)} point{'s' * (len(rows) != 1)}; a curve needs 2, and "
            f"{MOST_POINTS} are the most"
        )
    points: dict[int, list[Measured]] = {}
    for line, row in rows:
        where = f"{printable(path)}, line {line}"
        point = _point(row, where)
        before = points.setdefault(point.lanes, [])
        if before and before[-1].size >= point.size:
            raise DipsimError(
                f"{where}: size {BYTES.exact(point.size)} after {BYTES.exact(before[-1].size)} "
                f"with {point.lanes} lanes: sizes must ascend, each once"
            )
        before.append(point)
    if len({point.size for of in points.values() for point in of}) < 2:
        raise DipsimError(f"{printable(path)}: one size only: a curve needs two")
    ordered = [point for lanes in sorted(points) for point in points[lanes]]
    return ordered, all(row.get("direct") != "False" for _, row in rows)


def _point(row: dict[str, Any], where: str) -> Measured:
    size = _quantity(BYTES, row["size"], f"{where}: size")
    bandwidth = _quantity(BANDWIDTH, row["bandwidth"], f"{where}: bandwidth")
    lanes = str(row["lanes"]).strip()
    if not (lanes.isascii() and lanes.isdecimal() and len(lanes) < 4 and 1 <= int(lanes) <= 256):
        raise DipsimError(f"{where}: lanes {brief(lanes, 20)!r}: reads in flight, from 1 to 256")
    return Measured(size, int(lanes), bandwidth)


def _quantity(dimension: Dimension, given: Any, what: str) -> float:
    """A positive number in base units, or a text with its unit."""
    text = str(given or "").strip()
    try:
        value = float(text)
    except ValueError:
        try:
            value = dimension.parse(text)
        except ValueError as problem:
            raise DipsimError(f"{what} {brief(problem, 120)}") from None
    if not 0 < value < 1e18:
        raise DipsimError(f"{what} {brief(text, 20)}: it must be a positive {dimension.name}")
    return value
