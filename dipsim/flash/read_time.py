"""Time of one read: t(s), the seconds a read of s bytes adds while n reads are in flight.

Three ways to know it, one for each form a profile may give (docs/layout.md): one bandwidth for
reads of any size, measured points, or a formula that was fitted to such points. Time, never
bandwidth, is linear in s between points: interpolated bandwidth would be up to 2.7 times wrong at
18 KB.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dipsim.hardware import Fit, Flash

_WITHOUT_POINTS = 2.0**20  # size of a sequential read when the profile measured none


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
        """Return the same number for any ``reads``."""
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

    def at(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return t(s) in seconds.

        It is linear between points, constant below the smallest and proportional above the largest.
        """
        inside = np.interp(size, self.sizes, self.seconds)
        beyond = size * (self.seconds[-1] / self.sizes[-1])
        return np.where(size > self.sizes[-1], beyond, inside)


class Points:
    """Measured points (size, lanes, bandwidth)."""

    def __init__(self, flash: Flash) -> None:
        self.lanes = flash.lanes
        self.curves: dict[int, ReadCurve] = {}
        for lanes in sorted({read.lanes for read in flash.reads}):
            points = sorted((r.size, r.size / r.bandwidth) for r in flash.reads if r.lanes == lanes)
            sizes, seconds = np.array(points).T
            self.curves[lanes] = ReadCurve(sizes, seconds)

    def lanes_for(self, reads: int) -> int:
        """Return the largest measured number of lanes that is reached, else the fewest measured."""
        reached = [lanes for lanes in self.curves if lanes <= min(self.lanes, reads)]
        return max(reached, default=min(self.curves))

    def curve_for(self, reads: int) -> ReadCurve:
        """Return the curve that serves ``reads`` in flight."""
        return self.curves[self.lanes_for(reads)]

    def seconds(self, size: NDArray[np.float64], reads: int) -> NDArray[np.float64]:
        """Return seconds, see `ReadCurve.at`."""
        return self.curve_for(reads).at(size)

    @property
    def sequential_bandwidth(self) -> float:
        """Bytes per second of the largest point at the flash's lanes."""
        curve = self.curve_for(self.lanes)
        return float(curve.sizes[-1] / curve.seconds[-1])

    @property
    def sequential_read(self) -> float:
        """The size of the largest point at the flash's lanes."""
        return float(self.curve_for(self.lanes).sizes[-1])

    def outside(self, size: NDArray[np.float64], reads: int) -> NDArray[np.bool_]:
        """Return True for sizes beyond every point of the curve that serves them."""
        sizes = self.curve_for(reads).sizes
        beyond: NDArray[np.bool_] = (size < sizes[0]) | (size > sizes[-1])
        return beyond


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
