"""The least DRAM, flash bandwidth or IOPS that reaches a rate."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dipsim.analysis.search import Figures, Progress
from dipsim.hardware import Profile, load_profile
from dipsim.resolve import Source
from dipsim.result import Result
from dipsim.simulate import prepare, run_all
from dipsim.sweep.vary import Axis, check_axes, dram_sizes, iops_of, retimed, with_iops
from dipsim.trace import Trace, load_trace
from dipsim.units import BYTES

PRECISION = 0.01
"""What is found is known to this share of itself."""
REACH = 1000.0
"""How far down from the most a search goes, and how far up from the profile's bandwidth."""


@dataclass(frozen=True)
class Trial:
    """One value that was run: bytes of DRAM, a factor on the flash's bandwidth, or IOPS."""

    value: float
    figures: Figures

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"value": self.value, **self.figures.to_dict()}


@dataclass(frozen=True)
class Span:
    """What is tried."""

    low: float
    high: float
    most: str
    """What ``high`` is."""
    now: float = math.nan
    """What the profile has; of DRAM there is no such value."""
    size: str = ""
    """Of the reads that IOPS count."""


@dataclass(frozen=True)
class Least:
    """The least of something for a rate."""

    what: Axis
    target: float
    """Tokens per second."""
    span: Span
    trials: list[Trial]
    """Every value that was run, ascending."""
    result: Result
    """The run of what was found, else the fastest."""

    @property
    def found(self) -> Trial | None:
        """The least value of those that were run and reach the rate."""
        return next((at for at in self.trials if at.figures.rate >= self.target), None)

    @property
    def below(self) -> Trial | None:
        """The greatest value that was run below what was found."""
        found = self.found
        under = [at for at in self.trials if found is not None and at.value < found.value]
        return under[-1] if under else None

    @property
    def fastest(self) -> Trial:
        """The fastest run."""
        return max(self.trials, key=lambda trial: trial.figures.rate)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; ``config`` repeats the run of what was found, else of the fastest."""
        found = self.found
        return {
            "search": "least",
            "what": self.what,
            "target_rate": self.target,
            "reached": found is not None,
            "found": None if found is None else found.to_dict(),
            "fastest": self.fastest.to_dict(),
            "now": None if self.what == "dram" else self.span.now,
            "points": [trial.to_dict() for trial in self.trials],
            "config": dict(self.result.config),
        }


def search_least(
    trace: Source | Trace,
    profile: Source | Profile,
    what: Axis,
    target: float,
    *,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> Least:
    """The least DRAM, flash bandwidth or IOPS with which a run reaches a rate.

    Bisected to `PRECISION`. Where the rate falls while the value grows, what is found still is a
    value that was run and reaches it, but a lesser one might too.

    Args:
        target: tokens per second, > 0.
        progress: called with (runs done, runs expected).
        options: as `simulate`; without a budget when DRAM is searched.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    trace, device = load_trace(trace), load_profile(profile)
    check_axes((what,), options)
    span = _span(trace, device, what, options)
    run = _runner(trace, device, what, options)
    ran: dict[float, Figures] = {}
    best: tuple[float, Result] | None = None
    halvings = math.log(max(span.high / span.low, 2)) / math.log1p(PRECISION)
    expected = 2 + math.ceil(math.log2(halvings))

    def reaches(value: float) -> bool:
        nonlocal best
        result = run(value)
        rate = result.tokens_per_second
        ran[value] = Figures.of(result)
        if best is None or _better((value, rate), (best[0], ran[best[0]].rate), target):
            best = value, result
        progress(len(ran), max(expected, len(ran)))
        return rate >= target

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
    trials = [Trial(value, ran[value]) for value in sorted(ran)]
    return Least(what, target, span, trials, best[1])


def _better(new: tuple[float, float], old: tuple[float, float], target: float) -> bool:
    """Whether of two (value, rate) the new one answers the question better."""
    if (new[1] >= target) != (old[1] >= target):
        return new[1] >= target
    return new[0] < old[0] if new[1] >= target else new[1] > old[1]


def _span(trace: Trace, device: Profile, what: Axis, options: Mapping[str, Any]) -> Span:
    if what == "flash-bandwidth":
        return Span(1 / REACH, REACH, f"{REACH:g} times its flash bandwidth", 1.0)
    if what == "iops":
        now, most = iops_of(device)
        size = BYTES.exact(min(read.size for read in device.flash.reads))
        told = f"reads of {size} as fast as its bandwidth allows"
        return Span(most / REACH, most, told, now, size)
    least, _, most = dram_sizes(trace, device, options)
    capacity = float(math.floor(device.dram.capacity))
    if most > capacity:
        return Span(min(least, capacity), capacity, "all of its DRAM")
    return Span(max(least, float(math.ceil(most / REACH))), most, "everything in DRAM")


def _runner(
    trace: Trace, device: Profile, what: Axis, options: Mapping[str, Any]
) -> Callable[[float], Result]:
    """What runs one value."""

    def with_dram(size: float) -> Result:
        return run_all([prepare(trace, device, **{**options, "dram": BYTES.exact(size)})])[0]

    def with_reads(iops: float) -> Result:
        return run_all([prepare(trace, with_iops(device, iops), **options)])[0]

    if what == "dram":
        return with_dram
    if what == "iops":
        return with_reads
    job = prepare(trace, device, **options)
    result = run_all([job])[0]  # one replay serves every bandwidth
    return lambda factor: retimed(job, result, factor)
