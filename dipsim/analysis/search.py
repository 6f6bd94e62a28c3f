"""The highest rate at a given loss: the density of each method is bisected, gammas are tried."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dipsim.analysis.calibration import Bounds
from dipsim.analysis.loss import Allowed, energy_of
from dipsim.errors import DipsimError, MethodError
from dipsim.hardware import Profile, load_profile
from dipsim.methods.contract import InfeasibleError
from dipsim.resolve import Source
from dipsim.result import Result, finite
from dipsim.simulate import Job, prepare, run_all
from dipsim.trace import Trace, load_trace

Progress = Callable[[int, int], None]
GAMMAS = {"mlp_input": (1.0, 0.7, 0.5), "glu": (1.0, 0.5, 0.2)}
"""Tried in all pairs for dip-ca. The first is plain top-k."""
STEPS = 100
"""Densities are tried in hundredths."""


@dataclass(frozen=True)
class Figures:
    """What a search keeps of a run; the counts of all of them would fill the memory."""

    rate: float
    """Tokens per second."""
    band: tuple[float, float]
    """With no and with full overlap."""
    hit_rate: float
    flash_bytes: float
    """Per token."""
    cache: float
    """Bytes."""
    energy_kept: Mapping[str, float]
    """Per group."""
    marks: tuple[str, ...]

    @classmethod
    def of(cls, result: Result) -> "Figures":
        """Of one run."""
        return cls(
            rate=result.tokens_per_second,
            band=result.timing.rate_range,
            hit_rate=result.hit_rate,
            flash_bytes=result.flash_bytes_per_token,
            cache=result.budget.cache,
            energy_kept=energy_of(result),
            marks=result.marks,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, named as in a result."""
        return {
            "tokens_per_second": finite(self.rate),
            "tokens_per_second_range": [finite(rate) for rate in self.band],
            "hit_rate": self.hit_rate,
            "flash_bytes_per_token": self.flash_bytes,
            "cache_bytes": self.cache,
            "energy_kept": dict(self.energy_kept),
            "marks": list(self.marks),
        }


@dataclass(frozen=True)
class Point:
    """A method at a density, run."""

    method: str
    gamma: Mapping[str, float]
    """Per group; empty unless the method is cache-aware."""
    density: float
    loss: float
    """See `Allowed`; infinite where a calibration does not bound it."""
    meets: bool
    """Whether it loses no more than allowed."""
    bounds: Bounds | None
    """Of the perplexity, with a calibration."""
    figures: Figures

    @property
    def series(self) -> tuple[str, tuple[float, ...]]:
        """Method and gammas: what a density is bisected for."""
        return self.method, tuple(self.gamma.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "method": self.method,
            "density": self.density,
            "gamma": dict(self.gamma),
            "loss": finite(self.loss),
            "meets": self.meets,
            "perplexity": None if self.bounds is None else self.bounds._asdict(),
            **self.figures.to_dict(),
        }


@dataclass(frozen=True)
class Frontier:
    """Every point that was run, in that order, and the fastest that loses no more than allowed."""

    allowed: Allowed
    points: list[Point]
    best: Point | None
    result: Result | None
    """The run of the best point."""

    def front(self) -> list[Point]:
        """Points that no other beats in loss and in rate, by rising loss."""
        found: list[Point] = []
        for point in sorted(self.points, key=lambda at: (at.loss, -at.figures.rate)):
            if not found or point.figures.rate > found[-1].figures.rate:
                found.append(point)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values; ``config`` repeats the run of the best point."""
        most = self.allowed.most
        return {
            "search": "rate",
            "max_loss": dict(most) if isinstance(most, Mapping) else most,
            "loss": self.allowed.meaning,
            "best": None if self.best is None else self.best.to_dict(),
            "points": [point.to_dict() for point in self.points],
            "config": None if self.result is None else dict(self.result.config),
        }


def search_rate(
    trace: Source | Trace,
    profile: Source | Profile,
    allowed: Allowed,
    methods: Sequence[str | None] = (None,),
    *,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> Frontier:
    """The highest rate that loses no more than ``allowed``.

    For each method, and for dip-ca each pair of `GAMMAS` unless it is told how to mask, the least
    density in hundredths that loses no more is bisected. The answer is the fastest of all points
    that were run and lose no more.

    Args:
        methods: names; None is the trace's default.
        progress: called with (runs done, runs expected).
        options: as `simulate`, without a density.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    if len(methods) > 1 and allowed.calibration is None:
        raise DipsimError(
            f"--max-loss of {len(methods)} methods: the energies they lose do not compare; give "
            "--calibration FILE, or one --method"
        )
    for method in methods:
        if method in ("moe", "recorded", "dense"):
            raise MethodError(f"method {method} has no density to search: name one that has")
    trace, device = load_trace(trace), load_profile(profile)
    points: list[Point] = []
    best: tuple[Point, Result] | None = None
    refused: list[MethodError] = []
    series = [(method, gamma) for method in methods for gamma in _gammas(method, options)]

    def meets(method: str | None, gamma: Any, step: int) -> bool:
        """Run one density of a series; where the method cannot have it, say on which side to go
        on."""
        nonlocal best
        density = step / STEPS
        given = {**options, "method": method, "gamma": gamma, "density": density}
        try:
            job = prepare(trace, device, **given)
        except InfeasibleError as problem:
            refused.append(problem)
            return False
        except MethodError as problem:  # not one for so many units: fewer may do
            refused.append(problem)
            return True
        point, result = _run(job, density, allowed)
        points.append(point)
        if point.meets and (best is None or point.figures.rate > best[0].figures.rate):
            best = point, result
        progress(len(points), max(7 * len(series), len(points)))
        return point.meets

    fails: dict[str | None, int] = {}
    for method, gamma in series:
        # Of all gammas plain top-k, tried first, keeps the most: where it fails, all do.
        low = fails.get(method, 0)
        fails.setdefault(method, _least(partial(meets, method, gamma), low) - 1)
    if refused and not points:
        raise refused[-1]
    return Frontier(allowed, points, *(best or (None, None)))


def _run(job: Job, density: float, allowed: Allowed) -> tuple[Point, Result]:
    """A job at a density, and what it lost."""
    name, groups = job.work.method.name, job.work.method.groups
    model = None if job.work.model is None else job.work.model.name
    allowed.check(name, [group.signal for group in groups], model)
    result = run_all([job])[0]
    kept = energy_of(result)
    loss, bounds = allowed.loss(name, kept), allowed.bounds(name, kept)
    gammas = {group.signal: group.gamma for group in groups if group.gamma is not None}
    within = loss <= allowed.limit
    return Point(name, gammas, density, loss, within, bounds, Figures.of(result)), result


def _least(meets: Callable[[int], bool], low: int) -> int:
    """The least step above ``low`` that meets, by bisection; the last, if none does."""
    high = STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    if high == STEPS:
        meets(high)
    return high


def _gammas(method: str | None, options: Mapping[str, Any]) -> Iterator[Any]:
    told = any(options.get(name) is not None for name in ("gamma", "masking"))
    if method != "dip-ca" or told:
        yield options.get("gamma")
        return
    into, out = GAMMAS
    for first in GAMMAS[into]:
        for second in GAMMAS[out]:
            yield {into: first, out: second}
