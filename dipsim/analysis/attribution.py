"""Attribution of a run's time, and what would make it faster (``dipsim run --attribution``).

The elasticity of the rate to a parameter is d log rate / d log parameter: how many per cent more
tokens per second one per cent more of it gives. It is a central difference of 5 % either way.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from dipsim.budget.allocate import allocate_optimal
from dipsim.budget.divide import Budget
from dipsim.budget.plan import grown, redivided
from dipsim.errors import BudgetError, DipsimError
from dipsim.flash.cost import FlashCost
from dipsim.flash.read_time import with_times
from dipsim.hardware import FIXED_COSTS, Profile
from dipsim.replay.traffic import Traffic
from dipsim.result import Result
from dipsim.run import Run
from dipsim.sweep.passes import replay_runs
from dipsim.sweep.vary import retimed
from dipsim.timeline.closed import RESOURCES, Step, token_times
from dipsim.timeline.steps import rates, steps
from dipsim.timeline.timing import time_traffic

STEP = 0.05
"""Change of a parameter, either way."""
SPEEDS = ("flash_bandwidth", "dram_bandwidth", "compute", "sync", "cache_copy")
"""All that a token's time is made of. On a cold device without background traffic the elasticities
sum to 1. For ``sync``, a time, it is the elasticity to its inverse."""


class Part(NamedTuple):
    """A part of a token's chain of steps: a layer, or what comes before and after the layers."""

    name: int | str
    """The layer's number in the trace; ``page faults``, ``embedding``, ``head`` or ``drafting``."""
    exposed: Mapping[str, float]
    """Seconds per token and resource, mean over the measured tokens."""

    @property
    def binding(self) -> str:
        """The resource with the most exposed time."""
        return max(self.exposed, key=lambda resource: self.exposed[resource])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        times = {f"{resource}_ms": 1e3 * time for resource, time in self.exposed.items()}
        return {"part": self.name, "binding": self.binding, **times}


@dataclass(frozen=True)
class Attribution:
    """The parts of a token's time, and elasticities of the rate."""

    parts: Sequence[Part]
    """In closed form on a cold device; none of a run that reads ahead."""
    contends: bool
    """True where the run was timed as discrete events, which know what the parts leave out."""
    elasticity: Mapping[str, float | None]
    """`SPEEDS`, then ``flash_requests``, what reads take beyond their bytes in order, a part of the
    flash, and ``dram_size``, or ``cache_size`` where that was given. None where it has no meaning,
    or where 5 % less DRAM would not hold KV."""

    @property
    def layers(self) -> list[Part]:
        """Those parts that are layers."""
        return [part for part in self.parts if isinstance(part.name, int)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        parts = [part.to_dict() for part in self.parts]
        return {"step": STEP, "elasticity": dict(self.elasticity), "parts": parts}


def check_attribution(run: Run) -> None:
    """Refuse, before a replay, what cannot be attributed.

    Raises:
        DipsimError: reads through the page cache, whose times are not all the flash's.
    """
    if run.settings.io != "direct":
        raise DipsimError(
            f"--io {run.settings.io}: what would be faster is worked out with direct reads only; "
            "drop --attribution"
        )


def attribute(result: Result, step: float = STEP) -> Attribution:
    """Attribute a run's time.

    Speeds are changed without another replay, as counts do not depend on them. The cost of
    requests, which decides what is read together, and the size of DRAM are replayed in one pass.

    Args:
        step: relative change of the central differences.
    """
    run, factors = result.run, (1 - step, 1 + step)
    elasticity: dict[str, float | None] = {
        speed: _elasticity(step, *(_faster(result, speed, factor) for factor in factors))
        for speed in SPEEDS
    }
    elasticity["flash_requests"] = None
    changed: dict[tuple[str, float], Run] = {}
    if run.device.flash.reads:
        changed |= {("flash_requests", f): _with_requests(run, f) for f in factors}
    size = "cache_size" if run.budget.dram is None else "dram_size"
    elasticity[size] = None
    with suppress(BudgetError):  # 5 % less may not hold KV
        changed |= {(size, f): replace(run, budget=_resized(run, f)) for f in factors}
    ran = _results(changed)
    for name in dict.fromkeys(name for name, _ in changed):
        elasticity[name] = _elasticity(step, *(ran[name, factor] for factor in factors))
    parts = [] if run.settings.overlap == "prefetch" else list(_parts(run, result.traffic))
    return Attribution(parts, result.timing.engine == "events", elasticity)


def _results(runs: Mapping[tuple[str, float], Run]) -> dict[tuple[str, float], Result]:
    """Replay runs together."""
    names = list(runs)
    results = {}
    for number, traffic, _ in replay_runs(dict(enumerate(runs.values()))):
        assert isinstance(traffic, Traffic), "no error is tolerated"
        run = runs[names[number]]
        results[names[number]] = Result(run, traffic, time_traffic(run, traffic))
    return results


def _elasticity(step: float, less: Result, more: Result) -> float | None:
    slow, fast = less.tokens_per_second, more.tokens_per_second
    if not (0 < slow < math.inf and 0 < fast < math.inf):
        return None
    return math.log(fast / slow) / math.log((1 + step) / (1 - step))


def _faster(result: Result, speed: str, factor: float) -> Result:
    """Return the run with one thing ``factor`` times as fast."""
    run, traffic = result.run, result.traffic
    if speed == "flash_bandwidth":
        return retimed(run, traffic, factor)
    run = replace(run, device=_scaled(run.device, run.settings.backend, speed, factor))
    return Result(run, traffic, time_traffic(run, traffic))


def _scaled(device: Profile, backend_name: str | None, speed: str, factor: float) -> Profile:
    """Return the device with one thing but its flash ``factor`` times as fast."""
    if speed == "dram_bandwidth":
        bandwidth = device.dram.bandwidth * factor
        return device.model_copy(
            update={"dram": device.dram.model_copy(update={"bandwidth": bandwidth})}
        )
    name, backend = device.backend(backend_name)
    change: dict[str, Any]
    if speed == "sync":
        change = {cost: getattr(backend, cost) / factor for cost in FIXED_COSTS}
    else:
        change = {speed: getattr(backend, speed) * factor}
    if speed == "compute":
        change["gemv"] = {weights: rate * factor for weights, rate in backend.gemv.items()}
    backends = {**device.backends, name: backend.model_copy(update=change)}
    return device.model_copy(update={"backends": backends})


def _with_requests(run: Run, factor: float) -> Run:
    """Return the run with what each read takes beyond its bytes in order divided by ``factor``."""
    in_order = run.flash.sequential_bandwidth

    def divided(size: float, seconds: float) -> float:
        beyond = max(0.0, seconds - size / in_order)
        return seconds - beyond + beyond / factor

    section = with_times(run.device.flash, divided)
    device, flash = run.device.model_copy(update={"flash": section}), FlashCost(section)
    return replace(run, device=device, flash=flash, costs=run.placement.costs(flash))


def _resized(run: Run, factor: float) -> Budget:
    """Return the budget with ``factor`` times the DRAM, or the cache where that was given.

    Raises:
        BudgetError: KV and buffers alone exceed it.
    """
    budget, placement = run.budget, run.placement
    equal = run.settings.allocate == "equal"
    if budget.growth is not None:
        assert budget.dram is not None, "KV grows in a given DRAM"
        resized = replace(budget, dram=budget.dram * factor, growth=None)
        return grown(resized, run.sets, placement, run.beside)
    if budget.dram is None:
        cache = (budget.cache + budget.buffer) * factor
        resized = redivided(budget, placement, equal=equal, cache=cache)
    else:
        resized = redivided(budget, placement, equal=equal, dram=budget.dram * factor)
    if run.settings.allocate != "optimal":
        return resized
    return allocate_optimal(
        resized,
        run.sets,
        placement,
        run.policy,
        costs=run.costs,
        profile_uses=run.profile_uses,
    )


def _parts(run: Run, traffic: Traffic) -> Iterator[Part]:
    """Yield the chain of steps cut into layers, and what comes before and after them."""
    overlap, rate = run.settings.overlap, rates(run)
    rows, given = np.flatnonzero(traffic.measured), run.tokens_per_step(traffic.measured)

    def part(name: int | str, some: Iterable[Step]) -> Part:
        times = token_times(
            some, len(rows), overlap, run.backend.overlap_factor, rate.compute_bound
        )
        mean = (times.exposed.mean(axis=0) / given).tolist()
        return Part(name, dict(zip(RESOURCES, mean, strict=True)))

    for place, some in groupby(steps(run, traffic, rows, rate), _part_of):
        yield part(run.trace.first_layer + place if isinstance(place, int) else place, some)


def _part_of(step: Step) -> int | str:
    """Return the layer that a step works in, counted from the first that is replayed, or its
    place."""
    what, *which = step.place.split()
    return int(which[0]) if what == "layer" else step.place
