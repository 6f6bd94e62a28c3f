"""Rates over a grid of two of DRAM, flash bandwidth and IOPS."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dipsim.analysis.search import Figures, Progress
from dipsim.hardware import Profile, load_profile
from dipsim.resolve import Source
from dipsim.result import Result, finite
from dipsim.simulate import Job, prepare, run_all
from dipsim.sweep.vary import Axis, check_axes, dram_sizes, iops_of, retimed, scaled, with_iops
from dipsim.trace import Trace, load_trace
from dipsim.units import BYTES


@dataclass(frozen=True)
class Contours:
    """Rates over a grid."""

    axes: tuple[Axis, Axis]
    values: tuple[list[float], list[float]]
    """Ascending: bytes of DRAM, factors on the flash's bandwidth, or IOPS."""
    cells: list[list[Figures]]
    """By the first axis, then by the second."""

    @property
    def rates(self) -> list[list[float]]:
        """Tokens per second, by the first axis, then by the second."""
        return [[cell.rate for cell in row] for row in self.cells]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Plain values of each cell, the two of the axes first."""
        for a, row in zip(self.values[0], self.cells, strict=True):
            for b, cell in zip(self.values[1], row, strict=True):
                yield {self.axes[0]: a, self.axes[1]: b, **cell.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "search": "contours",
            "axes": list(self.axes),
            "values": dict(zip(self.axes, self.values, strict=True)),
            "tokens_per_second": [[finite(rate) for rate in row] for row in self.rates],
            "points": list(self.rows()),
        }


def contours(
    trace: Source | Trace,
    profile: Source | Profile,
    axes: tuple[Axis, Axis],
    points: int = 6,
    *,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> Contours:
    """Rates over a grid of DRAM, flash bandwidth or IOPS.

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
    trace, device = load_trace(trace), load_profile(profile)
    check_axes(axes, options)
    grid = {axis: _grid(trace, device, axis, points, options) for axis in axes}
    sizes = grid.get("dram")
    budgets = [{"dram": BYTES.exact(size)} for size in sizes] if sizes else [{}]
    found: dict[tuple[float, ...], Figures] = {}

    def replayed(on: Profile) -> tuple[list[Job], list[Result]]:
        """One replay for all sizes of DRAM."""
        jobs = [prepare(trace, on, **{**options, **budget}) for budget in budgets]
        return jobs, run_all(jobs)

    def book(results: list[Result], at: dict[str, float]) -> None:
        for size, result in zip(sizes or [0.0], results, strict=True):
            place = {**at, "dram": size}
            found[tuple(place[axis] for axis in axes)] = Figures.of(result)
        progress(len(found), points * points)

    if "iops" not in grid:
        jobs, plain = replayed(device)  # one replay serves every bandwidth
        for factor in grid["flash-bandwidth"]:
            results = [retimed(job, at, factor) for job, at in zip(jobs, plain, strict=True)]
            book(results, {"flash-bandwidth": factor})
    for iops in grid.get("iops", ()):
        for factor in grid.get("flash-bandwidth", (1.0,)):
            faster = device if factor == 1 else scaled(device, factor)
            _, results = replayed(with_iops(faster, iops))
            book(results, {"iops": iops, "flash-bandwidth": factor})
    first, second = (grid[axis] for axis in axes)
    return Contours(axes, (first, second), [[found[a, b] for b in second] for a in first])


def _grid(
    trace: Trace, device: Profile, axis: Axis, points: int, options: Mapping[str, Any]
) -> list[float]:
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
