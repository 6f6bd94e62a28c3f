"""Fit of measured reads of a disk: they become the flash section of a profile.

The section holds either the points themselves or the formula of flash/read_time.py fitted to them.
Errors are those of the logarithm of the bandwidth, computed by the class that a run uses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError
from dipsim.flash.read_time import speed_of
from dipsim.hardware import Flash
from dipsim.units import BANDWIDTH, BYTES, RATE, TIME

LEAST_TO_FIT = 6
"""Least number of points for the four or five numbers of the formula."""
MOST_POINTS = 2000
_FASTEST_READ, _SLOWEST_READ = 1e-8, 10.0
"""Seconds between which a read is believed: page caches take longer, and memory cards less."""
_ALIGN = "4 KiB"
_WORTH = 0.95  # a limit of IOPS is kept if it brings the error below this share of that without
_STEPS, _ENOUGH = 200, 1e-12
_LOW = np.log([1e-9, 1e3, 1e3, 1.0, 0.5])
_HIGH = np.log([1e2, 1e14, 1e14, 1e12, 32.0])
"""Bounds of the logarithms of t0, bandwidth, cap, iops and p."""


class Measured(NamedTuple):
    """Measured reads of ``size`` bytes, ``lanes`` in flight, that reach ``bandwidth`` bytes/s."""

    size: float
    lanes: int
    bandwidth: float


class Errors(NamedTuple):
    """Errors of predicted bandwidths."""

    rms: float
    """Root mean square of log(predicted / measured)."""
    worst: float
    """The largest error, as predicted / measured - 1."""
    at: Measured
    """Point with the largest error."""


@dataclass(frozen=True)
class Calibrated:
    """A flash section and its errors."""

    flash: dict[str, Any]
    """The section, in the form a profile has it."""
    points: list[Measured]
    direct: bool
    """True if all reads were direct."""
    errors: Errors | None
    """Errors on the points that the formula was fitted to; None without a formula."""
    left_out: Errors | None
    """Errors on points left out one at a time; None for too few points.

    The formula is fitted to all others; without a formula, points between two others of the same
    lanes are interpolated.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        both = {"errors": self.errors, "left_out": self.left_out}
        plain = {key: off and {"rms": off.rms, "worst": off.worst} for key, off in both.items()}
        return {"flash": self.flash, "points": len(self.points), "direct": self.direct, **plain}

    def section(self, origin: str) -> dict[str, Any]:
        """Return ``flash`` and its ``sources`` in the form a profile has them.

        Args:
            origin: the origin of the points, in words.
        """
        kind = "measured" if self.direct else "estimate"
        basis = f"{len(self.points)} points of {origin}"
        if not self.direct:
            basis += ", through the page cache"
        if self.errors is not None:
            basis += f"; rms log error {self.errors.rms:.1%}"
        reasons = {
            "fit" if "fit" in self.flash else "reads": basis,
            "lanes": "reads in flight",
            "align": "direct reads are of whole pages",
        }
        sources = {
            f"flash.{key}": {"kind": kind, "from": f"dipsim calibrate: {text}"}
            for key, text in reasons.items()
        }
        return {"flash": self.flash, "sources": sources}


def calibrated(
    points: list[Measured], direct: bool, fit: bool = False, lanes: int | None = None
) -> Calibrated:
    """Make a flash section from points that are ordered by lanes, then by size.

    A fit needs at least `LEAST_TO_FIT` of them.

    Raises:
        DipsimError: impossible lanes.
    """
    if lanes is not None and not 1 <= lanes <= 256:
        raise DipsimError(f"--lanes {lanes}: reads kept in flight, from 1 to 256")
    in_flight = max(point.lanes for point in points) if lanes is None else lanes
    if not fit:
        flash = _section({"reads": [_read(point) for point in points]}, in_flight)
        return Calibrated(flash, points, direct, None, _errors(_between(points)))
    best = fit_points(points)
    flash = _section({"fit": _fit_section(best, points)}, in_flight)
    fitted = [_predicted(flash, point) for point in points]
    outside = None
    if len(points) > LEAST_TO_FIT:
        outside = _errors([_without(points, i, best) for i in range(len(points))])
    return Calibrated(flash, points, direct, _errors(fitted), outside)


def _section(speed: dict[str, Any], lanes: int) -> dict[str, Any]:
    return {"lanes": lanes, "align": _ALIGN, **speed}


def _read(point: Measured) -> dict[str, Any]:
    rate = BANDWIDTH.exact(_short(point.bandwidth))
    return {"size": BYTES.exact(point.size), "lanes": point.lanes, "bandwidth": rate}


def _short(value: float) -> float:
    """Round to four significant digits, more than a disk repeats."""
    return float(f"{value:.4g}")


def _fit_section(logs: NDArray[np.float64], points: Sequence[Measured]) -> dict[str, Any]:
    """Return a profile's ``fit``: the formula's numbers, and the range of the points."""
    t0, bandwidth, cap, iops, p = (_short(value) for value in np.exp(logs).tolist())
    return {
        "t0": TIME.exact(t0),
        "bandwidth": BANDWIDTH.exact(bandwidth),
        "cap": BANDWIDTH.exact(cap),
        "iops": RATE.exact(iops),
        "p": p,
        "sizes": [BYTES.exact(bound(point.size for point in points)) for bound in (min, max)],
        "lanes": [bound(point.lanes for point in points) for bound in (min, max)],
    }


# Errors -------------------------------------------------------------------------------------------


def _predicted(flash: dict[str, Any], point: Measured) -> tuple[Measured, float]:
    """Return a point and the bandwidth that a run would assume for it."""
    speed = speed_of(Flash.model_validate({**flash, "lanes": point.lanes}))
    seconds = float(speed.seconds(np.array([point.size]), point.lanes)[0])
    return point, point.size / seconds


def _between(points: Sequence[Measured]) -> list[tuple[Measured, float]]:
    """Predict each point that lies between two others of its lanes from those two."""
    predicted = []
    for before, point, after in zip(points, points[1:], points[2:], strict=False):
        if before.lanes == after.lanes == point.lanes:
            pair = [_read(before), _read(after)]
            predicted.append(_predicted(_section({"reads": pair}, point.lanes), point))
    return predicted


def _without(
    points: Sequence[Measured], i: int, start: NDArray[np.float64]
) -> tuple[Measured, float]:
    """Predict point ``i`` from the formula fitted to all others."""
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
    """Return float64[5]: logarithms of the t0, bandwidth, cap, iops and p that fit points best.

    The formula is that of flash/read_time.py. The fit minimises the squared error of the logarithm
    of the bandwidth, by Levenberg and Marquardt's method from several starts. The limit of IOPS is
    infinite unless it makes the fit clearly better.
    """
    rates = np.array([point.bandwidth for point in points])
    sizes = np.array([point.size for point in points])
    lanes = np.array([point.lanes for point in points], np.float64)
    fastest_read = float((sizes * lanes / rates).min())
    lane_rate, device_rate, read_rate = (
        float((rates / lanes).max()),
        float(rates.max()),
        float((rates / sizes).max()),
    )
    best: list[tuple[float, NDArray[np.float64]]] = []
    for limited in (False, True):
        fits = []
        for t0 in (0.3 * fastest_read, fastest_read):
            for bandwidth in (lane_rate, 4 * lane_rate):
                for cap in (device_rate, 1.5 * device_rate):
                    for p in (2.0, 6.0):
                        iops = 1.5 * read_rate if limited else math.inf
                        start = np.log([t0, bandwidth, cap, iops, p])
                        logs, error = _descend(start, points, limited)
                        fits.append((error, logs))
        best.append(min(fits, key=lambda pair: pair[0]))
    (plain, without), (capped, within) = best
    return within if capped < _WORTH**2 * plain else without


def _descend(
    start: NDArray[np.float64], points: Sequence[Measured], limited: bool
) -> tuple[NDArray[np.float64], float]:
    """Return (logs, sum of squares) at the end of the descent from ``start``."""
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
        tried_residual, tried_slope = _residual(tried, table)
        tried_error = float(tried_residual @ tried_residual)
        if tried_error < error:
            gained, logs, residual, slope = error - tried_error, tried, tried_residual, tried_slope
            error, damping = tried_error, max(damping / 4, 1e-12)
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
    """Return log(predicted / measured bandwidth) [n], and its slopes in the logarithms [n, 5]."""
    sizes, lanes, rates = table.T
    t0, bandwidth, cap, iops, p = np.exp(logs)
    wait, flow = t0 / lanes, sizes / bandwidth / lanes
    with np.errstate(divide="ignore"):  # an infinite limit of IOPS takes no time
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


def implausible(point: Measured) -> str | None:
    """Return words on reads that no disk makes, for the time that each would take; else None."""
    seconds = point.size * point.lanes / point.bandwidth
    if _FASTEST_READ <= seconds <= _SLOWEST_READ:
        return None
    return (
        f"a read of {BYTES.show(point.size)}, {point.lanes} in flight, would take "
        f"{TIME.show(seconds)}; no disk takes less than {TIME.exact(_FASTEST_READ)} or more than "
        f"{TIME.exact(_SLOWEST_READ)}"
    )
