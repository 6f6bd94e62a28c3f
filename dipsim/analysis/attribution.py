"""Where a run's time goes, and what would make it faster (``dipsim run --attribution``).

The elasticity of the rate to a parameter is d log rate / d log parameter: how many per cent more
tokens per second one per cent more of it gives. It is a central difference of 5 % either way.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from dipsim.allocate import allocate_optimal
from dipsim.analysis.variants import iops_of, retimed, with_iops
from dipsim.errors import BudgetError
from dipsim.growing import grow, redivided
from dipsim.hardware import Profile
from dipsim.resolve import profile_uses
from dipsim.result import Result
from dipsim.simulate import Job, result_of, run_all
from dipsim.timeline.closed import RESOURCES, Step, token_times
from dipsim.timeline.flash import FlashCost
from dipsim.timeline.steps import rates, steps

STEP = 0.05
SPEEDS = ("flash_bandwidth", "dram_bandwidth", "compute", "sync", "cache_copy")
"""All that a token's time is made of: their elasticities sum to 1. Of ``sync``, a time, it is that
of its inverse."""
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
    elasticity: Mapping[str, float | None]
    """`SPEEDS`, then ``iops``, which are a part of the flash, and ``dram_size``, or ``cache_size``
    where that was given; None where it has no meaning or no budget 5 % smaller holds KV."""

    @property
    def layers(self) -> list[Part]:
        """Those parts that are layers."""
        return [part for part in self.parts if isinstance(part.name, int)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        parts = [part.to_dict() for part in self.parts]
        return {"step": STEP, "elasticity": dict(self.elasticity), "parts": parts}


def attribute(job: Job, result: Result, step: float = STEP) -> Attribution:
    """Attribute a run's time.

    Times are those of the closed form. Speeds are changed without another replay, as counts do not
    depend on them; IOPS, which decide what is read together, and DRAM take two replays each.

    Args:
        job: what was run; result: what it came to.
        step: of the central differences.
    """
    found = {
        speed: _elasticity(step, *(_faster(job, result, speed, 1 + s) for s in (-step, step)))
        for speed in SPEEDS
    }
    found["iops"] = None
    if job.device.flash.reads:
        now, _ = iops_of(job.device)
        changed = [_on(job, with_iops(job.device, now * (1 + s))) for s in (-step, step)]
        found["iops"] = _elasticity(step, *(run_all([other])[0] for other in changed))
    size = "cache_size" if job.work.budget.dram is None else "dram_size"
    try:
        found[size] = _elasticity(step, *run_all([_sized(job, 1 + s) for s in (-step, step)]))
    except BudgetError:
        found[size] = None
    return Attribution(list(_parts(job, result)), found)


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
    change: dict[str, Any] = {
        "compute": {
            "compute": backend.compute * factor,
            "gemv": {weights: rate * factor for weights, rate in backend.gemv.items()},
        },
        "sync": {"sync": backend.sync / factor},
        "cache_copy": {"cache_copy": backend.cache_copy * factor},
    }[speed]
    backends = {**device.backends, name: backend.model_copy(update=change)}
    return device.model_copy(update={"backends": backends})


def _on(job: Job, device: Profile) -> Job:
    """The run on a device with another flash, to be replayed."""
    flash, work = FlashCost(device.flash), job.work
    requests = flash.tables(work.method, work.model, work.unit_bytes, job.settings.layout)
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
        budget = redivided(work, job.settings, cache=budget.cache * factor)
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
