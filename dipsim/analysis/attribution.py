"""Where a run's time goes, and what would make it faster (``dipsim run --attribution``).

The elasticity of the rate to a parameter is d log rate / d log parameter: how many per cent more
tokens per second one per cent more of it gives. It is a central difference of 5 % either way.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from dipsim.budget.allocate import allocate_optimal
from dipsim.budget.growth import grow, redivided
from dipsim.errors import BudgetError, DipsimError
from dipsim.flash.cost import FlashCost
from dipsim.hardware import Profile
from dipsim.resolve import profile_uses
from dipsim.result import Result
from dipsim.simulate import Job, result_of, run_all
from dipsim.sweep.vary import retimed
from dipsim.timeline.closed import RESOURCES, Step, token_times
from dipsim.timeline.steps import rates, steps

STEP = 0.05
SPEEDS = ("flash_bandwidth", "dram_bandwidth", "compute", "sync", "cache_copy")
"""All that a token's time is made of. On a cold device without background traffic the elasticities
sum to 1. Of ``sync``, a time, it is that of its inverse."""
Speed = Literal["flash_bandwidth", "dram_bandwidth", "compute", "sync", "cache_copy"]


class Part(NamedTuple):
    """A part of a token's chain of steps: a layer, or what comes before and after the layers."""

    name: int | str
    """The layer's number in the trace; ``embedding`` or ``head``."""
    exposed: Mapping[str, float]
    """Seconds per token and resource, mean over the measured tokens."""

    @property
    def binding(self) -> str:
        """The resource with the most exposed time."""
        return max(self.exposed, key=lambda resource: self.exposed[resource])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        times = {f"{resource}_ms": 1e3 * time for resource, time in self.exposed.items()}
        return {"part": self.name, "binding": self.binding, **times}


@dataclass(frozen=True)
class Attribution:
    """The parts of a token's time, and elasticities of the rate."""

    parts: Sequence[Part]
    """In closed form on a cold device; none of a run that reads ahead."""
    contends: bool
    """Whether the run was timed as discrete events, which know what the parts leave out."""
    elasticity: Mapping[str, float | None]
    """`SPEEDS`, then ``flash_requests``, what reads take beyond their bytes in order, a part of the
    flash, and ``dram_size``, or ``cache_size`` where that was given. None where it has no meaning,
    or where 5 % less DRAM would not hold KV."""

    @property
    def layers(self) -> list[Part]:
        """Those parts that are layers."""
        return [part for part in self.parts if isinstance(part.name, int)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        parts = [part.to_dict() for part in self.parts]
        return {"step": STEP, "elasticity": dict(self.elasticity), "parts": parts}


def check_attribution(job: Job) -> None:
    """Refuse, before a replay, what cannot be attributed.

    Raises:
        DipsimError: reads through the page cache, whose times are not all the flash's.
    """
    if job.settings.io != "direct":
        raise DipsimError(
            f"--io {job.settings.io}: what would be faster is worked out with direct reads only; "
            "drop --attribution"
        )


def attribute(job: Job, result: Result, step: float = STEP) -> Attribution:
    """Attribute a run's time.

    Speeds are changed without another replay, as counts do not depend on them. The cost of
    requests, which decides what is read together, and the size of DRAM take two replays each.

    Args:
        job: what was run; result: what it came to.
        step: of the central differences.
    """
    found = {
        speed: _elasticity(step, *(_faster(job, result, speed, 1 + s) for s in (-step, step)))
        for speed in SPEEDS
    }
    found["flash_requests"] = None
    if job.device.flash.reads:
        changed = [_with_requests(job, 1 + s) for s in (-step, step)]
        found["flash_requests"] = _elasticity(step, *(run_all([at])[0] for at in changed))
    size = "cache_size" if job.work.budget.dram is None else "dram_size"
    try:
        found[size] = _elasticity(step, *run_all([_sized(job, 1 + s) for s in (-step, step)]))
    except BudgetError:
        found[size] = None
    parts = [] if job.settings.overlap == "prefetch" else list(_parts(job, result))
    return Attribution(parts, result.timing.engine == "events", found)


def _elasticity(step: float, less: Result, more: Result) -> float | None:
    slow, fast = less.tokens_per_second, more.tokens_per_second
    if not (0 < slow < math.inf and 0 < fast < math.inf):
        return None
    return math.log(fast / slow) / math.log((1 + step) / (1 - step))


def _faster(job: Job, result: Result, speed: str, factor: float) -> Result:
    """The run with one thing ``factor`` times as fast."""
    if speed == "flash_bandwidth":
        return retimed(job, result, factor)
    device = _scaled(job.device, job.backend, speed, factor)
    return result_of(replace(job, device=device), result.traffic, plain=result.plain_kept)


def _scaled(device: Profile, name: str, speed: str, factor: float) -> Profile:
    if speed == "dram_bandwidth":
        bandwidth = device.dram.bandwidth * factor
        return device.model_copy(
            update={"dram": device.dram.model_copy(update={"bandwidth": bandwidth})}
        )
    _, backend = device.backend(name)
    change: dict[str, Any] = {speed: getattr(backend, speed) * factor}
    if speed == "sync":
        change = {"sync": backend.sync / factor}
    if speed == "compute":
        change["gemv"] = {weights: rate * factor for weights, rate in backend.gemv.items()}
    backends = {**device.backends, name: backend.model_copy(update=change)}
    return device.model_copy(update={"backends": backends})


def _with_requests(job: Job, factor: float) -> Job:
    """The run, to be replayed, with what each read takes beyond its bytes in order divided."""
    in_order = job.flash.sequential_bandwidth
    reads = []
    for read in job.device.flash.reads:
        bytes_alone = read.size / in_order
        beyond = max(0.0, read.size / read.bandwidth - bytes_alone)
        seconds = read.size / read.bandwidth - beyond + beyond / factor
        reads.append(read.model_copy(update={"bandwidth": read.size / seconds}))
    section = job.device.flash.model_copy(update={"reads": tuple(reads)})
    device = job.device.model_copy(update={"flash": section})
    flash, work = FlashCost(section), job.work
    layout, places = job.settings.layout, job.places
    requests = flash.tables(work.method, work.model, work.unit_bytes, layout, places)
    return replace(job, device=device, flash=flash, requests=requests)


def _sized(job: Job, factor: float) -> Job:
    """The run with ``factor`` times the DRAM, or the cache where that was given.

    Raises:
        BudgetError: KV and buffers alone exceed it.
    """
    budget, work = job.work.budget, job.work
    if job.growth is not None:
        assert budget.dram is not None, "KV grows in a given DRAM"
        more = replace(work, budget=replace(budget, dram=budget.dram * factor))
        budget, growth = grow(more, job.plan, job.settings)
        return replace(job, work=replace(work, budget=budget), growth=growth)
    if budget.dram is None:
        budget = redivided(work, job.settings, cache=(budget.cache + budget.buffer) * factor)
    else:
        budget = redivided(work, job.settings, dram=budget.dram * factor)
    work = replace(work, budget=budget)
    if job.settings.allocate == "optimal":
        uses = profile_uses(work, job.policy, job.settings)
        budget, _ = allocate_optimal(work, job.policy, job.plan, job.requests, uses)
        work = replace(work, budget=budget)
    return replace(job, work=work)


def _parts(job: Job, result: Result) -> Iterator[Part]:
    """The chain of steps cut into layers, and what comes before and after them."""
    work, overlap = job.work, job.settings.overlap
    _, backend = job.device.backend(job.backend)
    rate = rates(job.device, job.backend, backend, work.model, overlap)
    rows = np.flatnonzero(result.traffic.measured)
    chain = steps(work, result.traffic, rows, job.flash, rate, backend, overlap)

    def part(name: int | str, some: list[Step]) -> Part:
        times = token_times(some, len(rows), overlap, backend.overlap_factor, rate.compute_bound)
        mean = times.exposed.mean(axis=0).tolist()
        return Part(name, dict(zip(RESOURCES, mean, strict=True)))

    layers, groups = work.unit_bytes.shape
    if work.embedding_row_bytes(overlap):
        yield part("embedding", [next(chain)])
    for layer in range(layers):
        yield part(work.trace.first_layer + layer, [next(chain) for _ in range(1 + groups)])
    yield part("head", list(chain))
