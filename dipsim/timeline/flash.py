"""Flash: where units lie (layout) and what a set of misses costs (DESIGN section 7).

A profile's points (size, lanes, bandwidth) become service times: t(s) = s / bandwidth is what one
read of s bytes adds while ``lanes`` reads are in flight. Time, never bandwidth, is linear in s
between points: interpolated bandwidth would be up to 2.7 times wrong at 18 KB.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError
from dipsim.hardware import Flash
from dipsim.kernels import Requests
from dipsim.model import Model, Slice

Layout = Literal["column", "bundle"]
LAYOUTS: tuple[Layout, ...] = ("column", "bundle")
_SLACK = 1e-9  # a unit's bytes may carry float noise; it must not cost a page
_WITHOUT_POINTS = 2.0**20  # size of a sequential read when the profile has no points


class Curve(NamedTuple):
    """Service times at one number of lanes: ``seconds`` at ``sizes`` (bytes), both ascending."""

    sizes: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def at(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        """t(s): linear between points, constant below the smallest, proportional above."""
        inside = np.interp(size, self.sizes, self.seconds)
        beyond = size * (self.seconds[-1] / self.sizes[-1])
        return np.where(size > self.sizes[-1], beyond, inside)


class FlashCost:
    """What reads cost on one flash device."""

    def __init__(self, flash: Flash) -> None:
        self.flash = flash
        self.curves: dict[int, Curve] = {}
        for lanes in sorted({read.lanes for read in flash.reads}):
            points = sorted((r.size, r.size / r.bandwidth) for r in flash.reads if r.lanes == lanes)
            sizes, seconds = np.array(points).T
            self.curves[lanes] = Curve(sizes, seconds)

    def lanes_for(self, reads: int) -> int:
        """Which measured lane count serves ``reads`` in flight: the largest that is reached."""
        reached = [lanes for lanes in self.curves if lanes <= min(self.flash.lanes, reads)]
        return max(reached, default=min(self.curves, default=1))

    def seconds(self, size: NDArray[np.float64], reads: int) -> NDArray[np.float64]:
        """t of one read of ``size`` bytes (whole pages) with ``reads`` in flight."""
        if self.flash.bandwidth is not None:
            return size / self.flash.bandwidth
        return self.curves[self.lanes_for(reads)].at(size)

    def pages(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bytes the device moves for a read of ``size``: whole pages, first offset ignored."""
        return np.ceil(size / self.flash.align - _SLACK) * self.flash.align

    @property
    def sequential_bandwidth(self) -> float:
        """Bytes per second of long reads in order: the largest point at the flash's lanes."""
        if self.flash.bandwidth is not None:
            return self.flash.bandwidth
        curve = self.curves[self.lanes_for(self.flash.lanes)]
        return float(curve.sizes[-1] / curve.seconds[-1])

    @property
    def sequential_read(self) -> float:
        """Bytes of one read when reading in order."""
        if self.flash.bandwidth is not None:
            return _WITHOUT_POINTS
        return float(self.curves[self.lanes_for(self.flash.lanes)].sizes[-1])

    def requests(self, units: int, size: float, stride: float) -> Requests:
        """The cost table of a group of ``units``, ``size`` bytes each, ``stride`` bytes apart."""
        spans = np.maximum(np.arange(units + 1) - 1, 0) * stride + size
        moved = self.pages(spans)
        moved[0] = 0
        most = self.flash.lanes
        lanes = [self.lanes_for(n) for n in range(most + 1)]
        distinct = sorted(set(lanes))
        whole = units * stride
        return Requests(
            seconds=np.array([self.seconds(moved, n) for n in distinct]),
            moved=moved,
            curve_of=np.array([distinct.index(n) for n in lanes], np.int64),
            whole=np.array([self.reads_in_order(whole), whole, whole / self.sequential_bandwidth]),
        )

    def reads_in_order(self, size: float) -> int:
        """How many reads it takes to read ``size`` bytes in order."""
        return math.ceil(size / self.sequential_read - _SLACK)

    def break_even(self, size: float) -> float:
        """q*: the share of missing units below which single reads beat reading everything.

        q* = (s / B_sequential) / t(s), at most 1, with many reads in flight.
        """
        pages = self.pages(np.array([size]))
        alone = float(self.seconds(pages, self.flash.lanes)[0])
        return min(1.0, size / self.sequential_bandwidth / alone)

    def extrapolated(self, shortest: float, longest: float, reads: int = 1 << 30) -> bool:
        """Whether reads between these sizes (bytes) lie outside the measured points."""
        if self.flash.bandwidth is not None:
            return False
        sizes = self.curves[self.lanes_for(reads)].sizes
        low, high = self.pages(np.array([shortest, longest]))
        return bool(low < sizes[0] or high > sizes[-1])


def natural_layout(slices: tuple[Slice, ...]) -> Layout:
    """Columns lie by column; what holds a row lies as bundles of a neuron's slices."""
    return "column" if all(slice_.part == "column" for slice_ in slices) else "bundle"


def stride(
    layout: Layout, slices: tuple[Slice, ...], model: Model | None, size: float, group: str
) -> float:
    """Bytes from one unit to the next of its group.

    Raises:
        MethodError: the layout scatters the slices of a unit, so no read can fetch it alone.
    """
    over_neurons = [s.part == "row" or s.matrix == "down" for s in slices]
    if layout == "column":
        if any(s.part == "row" for s in slices):
            raise MethodError(
                f"layout column stores no rows of gate and up, which group {group} loads: "
                "use --layout bundle"
            )
        return size
    if not all(over_neurons):
        raise MethodError(
            f"layout bundle stores no columns of gate and up, which group {group} loads: "
            "use --layout column"
        )
    alone = slices == (Slice("down", "column"),)
    if alone and model is not None:
        bundle = (Slice("gate", "row"), Slice("up", "row"), Slice("down", "column"))
        return max(size, model.slice_bytes(bundle))
    return size
