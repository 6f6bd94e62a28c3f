"""The least DRAM, flash bandwidth or IOPS that reaches a rate."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from dipsim.analysis.frontier import OF_A_RUN
from dipsim.errors import brief
from dipsim.hardware import Profile, load_profile
from dipsim.replay.replay import Progress
from dipsim.resolve import Input
from dipsim.result import Result
from dipsim.sweep.many import many
from dipsim.sweep.point import Cell, Point, figures_of
from dipsim.sweep.vary import (
    Axis,
    check_axes,
    dram_sizes,
    iops_of,
    retimed,
    with_iops,
)
from dipsim.trace import Trace, load_trace
from dipsim.units import BYTES
from dipsim.views import Viewed

PRECISION = 0.01
"""The answer is known to this share of itself."""
REACH = 1000.0
"""Factor by which a search goes down from the most, and up from the profile's bandwidth."""


@dataclass(frozen=True)
class SearchRange:
    """The values that are tried."""

    low: float
    high: float
    most: str
    """Meaning of ``high``, in words."""
    now: float = math.nan
    """The profile's own; of DRAM there is no such value."""
    size: str = ""
    """Bytes of the reads that IOPS count."""


@dataclass(frozen=True)
class Least(Viewed):
    """The least of something for a rate."""

    report: ClassVar[str] = "search"
    trace: str
    """Name of the trace."""
    device: str
    """Name of the device."""
    what: Axis
    target: float
    """Tokens per second."""
    span: SearchRange
    trials: list[Cell]
    """Every value that was run, ascending. The place of a cell is its ``value``: bytes of DRAM, a
    factor on the flash's bandwidth, or IOPS."""
    result: Result
    """The run that was found, else the fastest."""

    def __repr__(self) -> str:
        reached = "out of reach" if self.found is None else f"{self.found.place['value']:g}"
        asked = f"least {self.what} for {self.target:g} tokens/s"
        return f"Least of {brief(self.trace, 60)}: {asked}: {reached}, {len(self.trials)} runs"

    @property
    def found(self) -> Cell | None:
        """The least value of those that were run and reach the rate."""
        return next((trial for trial in self.trials if trial.rate >= self.target), None)

    @property
    def below(self) -> Cell | None:
        """The greatest value that was run below what was found."""
        found = self.found
        return self.trials[self.trials.index(found) - 1] if found in self.trials[1:] else None

    @property
    def fastest(self) -> Cell:
        """The fastest run."""
        return max(self.trials, key=lambda trial: trial.rate)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; ``config`` repeats the run that was found, else the fastest."""
        found = self.found
        return {
            "search": "least",
            "what": self.what,
            "target_rate": self.target,
            "reached": found is not None,
            "found": None if found is None else found.to_dict(OF_A_RUN),
            "fastest": self.fastest.to_dict(OF_A_RUN),
            "now": None if self.what == "dram" else self.span.now,
            "points": [trial.to_dict(OF_A_RUN) for trial in self.trials],
            "config": dict(self.result.config),
        }


def search_least(
    trace: Input | Trace,
    profile: Input | Profile,
    what: Axis,
    target: float,
    *,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> Least:
    """Find the least DRAM, flash bandwidth or IOPS with which a run reaches a rate.

    Bisected to `PRECISION`. Where the rate falls while the value grows, the answer still is a
    value that was run and reaches it, but a lesser one might too.

    Args:
        target: tokens per second, > 0.
        progress: called with (runs done, runs expected).
        options: as `simulate`; without a budget when DRAM is searched.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    trace, device = load_trace(trace).kept(), load_profile(profile)
    check_axes((what,), options)
    span = _span(trace, device, what, options)
    run = _runner(trace, device, what, options)
    ran: dict[float, Cell] = {}
    best: Cell | None = None
    halvings = math.log(max(span.high / span.low, 2)) / math.log1p(PRECISION)
    expected = 2 + math.ceil(math.log2(halvings))

    def reaches(value: float) -> bool:
        nonlocal best
        cell = run(value)
        ran[value] = replace(cell, result=None)
        if best is None or _better(cell, best, target):
            best = cell
        progress(len(ran), max(expected, len(ran)))
        return cell.rate >= target

    low, high = span.low, span.high
    if reaches(high) and low < high and not reaches(low):
        while high > low * (1 + PRECISION):
            middle = math.sqrt(low * high)
            if what == "dram":
                middle = float(math.ceil(middle))
                if middle >= high:  # two bytes side by side
                    break
            low, high = (low, middle) if reaches(middle) else (middle, high)
    assert best is not None
    assert best.result is not None
    trials = [ran[value] for value in sorted(ran)]
    return Least(trace.name, device.name, what, target, span, trials, best.result)


def _better(new: Cell, old: Cell, target: float) -> bool:
    """Return whether the new cell answers the question better than the old one."""
    if (new.rate >= target) != (old.rate >= target):
        return new.rate >= target
    if new.rate >= target:
        return bool(new.place["value"] < old.place["value"])
    return new.rate > old.rate


def _span(trace: Trace, device: Profile, what: Axis, options: Mapping[str, Any]) -> SearchRange:
    if what == "flash-bandwidth":
        return SearchRange(1 / REACH, REACH, f"{REACH:g} times its flash bandwidth", 1.0)
    if what == "iops":
        now, most = iops_of(device)
        size = BYTES.exact(min(read.size for read in device.flash.reads))
        return SearchRange(
            most / REACH, most, f"reads of {size} as fast as its bandwidth allows", now, size
        )
    least, _, most = dram_sizes(trace, device, options)
    capacity = float(math.floor(device.dram.capacity))
    if most > capacity:
        return SearchRange(min(least, capacity), capacity, "all of its DRAM")
    return SearchRange(max(least, float(math.ceil(most / REACH))), most, "everything in DRAM")


def _runner(
    trace: Trace, device: Profile, what: Axis, options: Mapping[str, Any]
) -> Callable[[float], Cell]:
    """Return what runs one value; the cells have their results."""
    options = dict(options)
    model = options.pop("model", None)

    def ran(value: float, device: Profile = device, **changes: Any) -> Cell:
        point = Point({"value": value}, trace, device, {**options, **changes}, model)
        return many([point], keep=True)[0]

    if what == "dram":
        return lambda size: ran(size, dram=BYTES.exact(size))
    if what == "iops":
        return lambda iops: ran(iops, with_iops(device, iops))
    usual = ran(1.0).result  # one replay serves every bandwidth
    assert usual is not None

    def with_bandwidth(factor: float) -> Cell:
        result = retimed(usual.run, usual.traffic, factor)
        place = {"value": factor}
        return Cell(place, options, figures_of(result), result.marks, result=result)

    return with_bandwidth
