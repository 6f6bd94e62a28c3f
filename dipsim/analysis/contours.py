"""Rates over a grid of two of DRAM, flash bandwidth and IOPS."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from dipsim.analysis.frontier import OF_A_RUN
from dipsim.errors import brief
from dipsim.hardware import Profile, load_profile
from dipsim.replay.replay import Progress
from dipsim.resolve import Input
from dipsim.result import finite
from dipsim.sweep.many import many
from dipsim.sweep.point import Cell, Point
from dipsim.sweep.vary import (
    Axis,
    check_axes,
    check_direct,
    dram_sizes,
    iops_of,
    scaled,
    with_iops,
)
from dipsim.trace import Trace, load_trace
from dipsim.units import BYTES
from dipsim.views import Viewed


@dataclass(frozen=True)
class Contours(Viewed):
    """Rates over a grid."""

    report: ClassVar[str] = "search"
    trace: str
    """Name of the trace."""
    device: str
    """Name of the device."""
    axes: tuple[Axis, Axis]
    values: tuple[list[float], list[float]]
    """Ascending: bytes of DRAM, factors on the flash's bandwidth, or IOPS."""
    cells: list[list[Cell]]
    """Cells by the first axis, then by the second; their places are values of the two."""

    def __repr__(self) -> str:
        slow, fast = min(map(min, self.rates)), max(map(max, self.rates))
        by = " and ".join(self.axes)
        return f"Contours of {brief(self.trace, 60)} by {by}: {slow:.4g} to {fast:.4g} tokens/s"

    @property
    def rates(self) -> list[list[float]]:
        """Tokens per second, by the first axis, then by the second."""
        return [[cell.rate for cell in row] for row in self.cells]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield plain values of each cell, the two of the axes first."""
        for row in self.cells:
            yield from (cell.to_dict(OF_A_RUN) for cell in row)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "search": "contours",
            "axes": list(self.axes),
            "values": dict(zip(self.axes, self.values, strict=True)),
            "tokens_per_second": [[finite(rate) for rate in row] for row in self.rates],
            "points": list(self.rows()),
        }


def contours(
    trace: Input | Trace,
    profile: Input | Profile,
    axes: tuple[Axis, Axis],
    points: int = 6,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Contours:
    """Run a grid of DRAM, flash bandwidth or IOPS.

    DRAM goes from no cache to everything in DRAM, bandwidth from a quarter to four times the
    profile's, IOPS from a quarter of the profile's to what its bandwidth allows. Of bandwidth and
    IOPS the bandwidth is changed first, and no read becomes faster than it allows.

    Args:
        axes: two different ones.
        points: of each axis, at least 2.
        progress: called with (runs done, runs).
        options: as `simulate`; without a budget when DRAM is an axis.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    trace, device = load_trace(trace).kept(), load_profile(profile)
    check_axes(axes, options)
    grid = {axis: _grid(trace, device, axis, points, options) for axis in axes}
    retimes = "flash-bandwidth" in axes and "iops" not in axes
    before = check_direct if retimes else lambda _: None
    pairs = [dict(zip(axes, pair, strict=True)) for pair in product(*grid.values())]
    runs = [_point(trace, device, pair, options) for pair in pairs]
    cells = many(runs, before=before, progress=progress)
    rows = [cells[start : start + points] for start in range(0, len(cells), points)]
    first, second = grid.values()
    return Contours(trace.name, device.name, axes, (first, second), rows)


def _point(
    trace: Trace, device: Profile, place: Mapping[Axis, float], options: Mapping[str, Any]
) -> Point:
    """Return the run at a place; the bandwidth alone takes no replay of its own."""
    options = dict(options)
    model, speed = options.pop("model", None), place.get("flash-bandwidth")
    if "dram" in place:
        options["dram"] = BYTES.exact(place["dram"])
    if "iops" in place:
        if speed not in (None, 1.0):
            device = scaled(device, speed)
        device, speed = with_iops(device, place["iops"]), None
    return Point({axis: place[axis] for axis in place}, trace, device, options, model, speed)


def _grid(
    trace: Trace, device: Profile, axis: Axis, points: int, options: Mapping[str, Any]
) -> list[float]:
    """Return the values of an axis, ascending."""
    steps = [i / (points - 1) for i in range(points)]
    if axis == "dram":
        least, cacheless, most = dram_sizes(trace, device, options)
        most = min(most, float(math.floor(device.dram.capacity)))
        low = cacheless if cacheless < most else least
        return [float(round(low + (most - low) * step)) for step in steps]
    low, high = 1 / 4, 4.0
    if axis == "iops":
        now, high = iops_of(device)
        low = now / 4
    return [low * (high / low) ** step for step in steps]
