"""Time of one read: t(s), the seconds a read of s bytes adds while n reads are in flight.

Three ways to know it, one for each form a profile may give (docs/layout.md): one bandwidth for
reads of any size, measured points, or a formula that was fitted to such points. Time, never
bandwidth, is linear in s between points: interpolated bandwidth would be up to 2.7 times wrong at
18 KB.
"""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dipsim.hardware import SMALL_READ, Fit, Flash

_WITHOUT_POINTS = 2.0**20
"""Bytes of a read in order where the profile has no measured points."""


class Speed(Protocol):
    """Times of the reads of a flash device. Sizes are bytes, times seconds."""

    @property
    def sequential_bandwidth(self) -> float:
        """Bytes per second of long reads in order, with all lanes busy."""

    @property
    def sequential_read(self) -> float:
        """Bytes of one read when reading in order."""

    def lanes_for(self, reads: int) -> int:
        """Return the number of lanes whose times serve ``reads`` in flight."""

    def seconds(self, size: NDArray[np.float64], reads: int) -> NDArray[np.float64]:
        """Return t of one read of each size in seconds, with ``reads`` in flight."""

    def outside(self, size: NDArray[np.float64], reads: int) -> NDArray[np.bool_]:
        """Tell which sizes lie outside what was measured."""


def speed_of(flash: Flash) -> Speed:
    """Return the speed that a profile states, in the form it states it."""
    if flash.bandwidth is not None:
        return Steady(flash.bandwidth)
    if flash.fit is not None:
        return Formula(flash.fit, flash.lanes)
    return Points(flash)


class Steady:
    """One bandwidth for reads of any size."""

    def __init__(self, bandwidth: float) -> None:
        self.sequential_bandwidth = bandwidth
        self.sequential_read = _WITHOUT_POINTS

    def lanes_for(self, reads: int) -> int:
        """Return 1: all lanes are in the one bandwidth."""
        return 1

    def seconds(self, size: NDArray[np.float64], reads: int) -> NDArray[np.float64]:
        """Return seconds in proportion to the size."""
        return size / self.sequential_bandwidth

    def outside(self, size: NDArray[np.float64], reads: int) -> NDArray[np.bool_]:
        """Return False for every size: no point bounds them."""
        return np.zeros(size.shape, np.bool_)


class ReadCurve(NamedTuple):
    """Service times at one number of lanes: ``seconds`` at ``sizes`` (bytes), both ascending."""

    sizes: NDArray[np.float64]
    seconds: NDArray[np.float64]
    small: float | None = None
    """Seconds of a read of `SMALL_READ` bytes, where ``sizes`` begin above it and it is known."""

    def at(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return t(s) in seconds.

        It is linear between points and down to ``small``, constant below the smallest of them and
        proportional above the largest.
        """
        sizes, seconds = self.sizes, self.seconds
        if self.small is not None:
            sizes, seconds = np.append(SMALL_READ, sizes), np.append(self.small, seconds)
        inside = np.interp(size, sizes, seconds)
        beyond = size * (seconds[-1] / sizes[-1])
        return np.where(size > sizes[-1], beyond, inside)

    def scaled_to(self, size: float, seconds: float) -> "ReadCurve":
        """Return a curve of the same shape on which a read of ``size`` takes ``seconds``."""
        ratio = seconds / float(self.at(np.array([size]))[0])
        return ReadCurve(self.sizes, self.seconds * ratio)

    def floored(self, iops: float) -> "ReadCurve":
        """Return the curve of a device that does at most ``iops`` small reads a second.

        A small read never takes longer than the smallest measured one, nor less per byte.
        """
        smallest, seconds = float(self.sizes[0]), float(self.seconds[0])
        if smallest <= SMALL_READ:
            return self
        small = min(max(1 / iops, seconds * SMALL_READ / smallest), seconds)
        return self._replace(small=small)


class Points:
    """Measured points (size, lanes, bandwidth)."""

    def __init__(self, flash: Flash) -> None:
        self.lanes = flash.lanes
        measured: dict[int, ReadCurve] = {}
        for lanes in {read.lanes for read in flash.reads}:
            points = sorted((r.size, r.size / r.bandwidth) for r in flash.reads if r.lanes == lanes)
            sizes, seconds = np.array(points).T
            # A larger read that takes less time serves instead.
            seconds = np.minimum.accumulate(seconds[::-1])[::-1]
            measured[lanes] = ReadCurve(sizes, seconds)
        self.curves = {lanes: _shaped(lanes, measured) for lanes in sorted(measured)}
        if flash.iops is not None:
            self.curves = {n: curve.floored(flash.iops) for n, curve in self.curves.items()}

    def lanes_for(self, reads: int) -> int:
        """Return the number of lanes that ``reads`` in flight keep busy.

        It is at least the fewest measured, and at most the most.
        """
        busy = max(min(self.lanes, reads), min(self.curves))
        return busy if busy <= max(self.curves) else max(self.curves)

    def curve_for(self, reads: int) -> ReadCurve:
        """Return the curve of the largest measured number of lanes that is reached."""
        return self.curves[max(n for n in self.curves if n <= self.lanes_for(reads))]

    def seconds(self, size: NDArray[np.float64], reads: int) -> NDArray[np.float64]:
        """Return seconds, see `ReadCurve.at`.

        A read is as fast as on the best curve of at most as many lanes, for fewer may be kept busy.
        Nor do n reads take longer than the larger number that keeps the next measured lanes busy.
        """
        busy = self.lanes_for(reads)
        times = [curve.at(size) for lanes, curve in self.curves.items() if lanes <= busy]
        more = min((lanes for lanes in self.curves if lanes > busy), default=None)
        if more is not None:
            times.append(self.curves[more].at(size) * (more / busy))
        fastest: NDArray[np.float64] = np.min(times, axis=0)
        return fastest

    @cached_property
    def sequential_bandwidth(self) -> float:
        """Bytes per second of the largest point at the flash's lanes."""
        size = np.array([self.sequential_read])
        return float(size[0] / self.seconds(size, self.lanes)[0])

    @cached_property
    def sequential_read(self) -> float:
        """The size of the largest point at the flash's lanes."""
        return float(self.curve_for(self.lanes).sizes[-1])

    def outside(self, size: NDArray[np.float64], reads: int) -> NDArray[np.bool_]:
        """Return True for sizes beyond every point of the curve that serves them."""
        sizes = self.curve_for(reads).sizes
        beyond: NDArray[np.bool_] = (size < sizes[0]) | (size > sizes[-1])
        return beyond


def _shaped(lanes: int, measured: Mapping[int, ReadCurve]) -> ReadCurve:
    """Return the curve of a number of lanes.

    Where it was measured at one size alone it takes the shape of the curve with the next more lanes
    that has several.
    """
    own = measured[lanes]
    others = [n for n, curve in measured.items() if n > lanes and len(curve.sizes) > 1]
    if len(own.sizes) > 1 or not others:
        return own
    return measured[min(others)].scaled_to(float(own.sizes[0]), float(own.seconds[0]))


def with_times(flash: Flash, change: Callable[[float, float], float]) -> Flash:
    """Return a flash of measured points on which other reads take other times.

    Args:
        change: from the bytes of a read and its seconds to the seconds that it takes instead.
    """
    reads = tuple(
        read.model_copy(
            update={"bandwidth": read.size / change(read.size, read.size / read.bandwidth)}
        )
        for read in flash.reads
    )
    update: dict[str, Any] = {"reads": reads}
    if flash.iops is not None and flash.iops < math.inf:
        update["iops"] = 1 / change(SMALL_READ, 1 / flash.iops)
    return flash.model_copy(update=update)


class Formula:
    """``BW = (x^-p + cap^-p + (iops s)^-p)^(-1/p)`` with ``x = n s / (t0 + s / bandwidth)``.

    x is what n lanes reach when nothing is shared: each read takes ``t0``, then its bytes at the
    ``bandwidth`` of one lane. The device as a whole delivers at most ``cap`` bytes and ``iops``
    reads a second; p says how sharply the three limits meet. t = s / BW is then the p-norm of the
    three times, so a read of almost no bytes still takes t0 / n or 1 / iops.
    """

    def __init__(self, fit: Fit, lanes: int) -> None:
        self.fit, self.lanes = fit, lanes

    def lanes_for(self, reads: int) -> int:
        """Return the reads in flight, within those the fit was made from."""
        fewest, most = self.fit.lanes
        return min(max(min(self.lanes, reads), fewest), most)

    def seconds(self, size: NDArray[np.float64], reads: int) -> NDArray[np.float64]:
        """Return t(s) in seconds, see the class."""
        fit = self.fit
        alone = (fit.t0 + size / fit.bandwidth) / self.lanes_for(reads)
        terms = np.stack([alone, size / fit.cap, np.full(size.shape, 1 / fit.iops)])
        largest = np.maximum(terms.max(axis=0), np.finfo(float).tiny)
        times: NDArray[np.float64] = largest * ((terms / largest) ** fit.p).sum(axis=0) ** (
            1 / fit.p
        )
        return times

    @property
    def sequential_bandwidth(self) -> float:
        """Bytes per second of the largest read the fit was made from, at the flash's lanes."""
        size = np.array([self.sequential_read])
        return float(size[0] / self.seconds(size, self.lanes)[0])

    @property
    def sequential_read(self) -> float:
        """The largest read the fit was made from."""
        return self.fit.sizes[1]

    def outside(self, size: NDArray[np.float64], reads: int) -> NDArray[np.bool_]:
        """Return True for sizes beyond every read that the fit was made from."""
        smallest, largest = self.fit.sizes
        beyond: NDArray[np.bool_] = (size < smallest) | (size > largest)
        return beyond
