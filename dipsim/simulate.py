"""The pipeline: trace, profile, model -> method, policy, budget -> replay -> time -> result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.budget.allocate import allocate_optimal
from dipsim.budget.growth import grow, redivided
from dipsim.flash.cost import FlashCost
from dipsim.flash.layout import Places
from dipsim.flash.order import learned_places, order_rows
from dipsim.flash.page_cache import Paging, paged
from dipsim.hardware import Profile, load_profile
from dipsim.kernels import Requests
from dipsim.marks import estimates, marks
from dipsim.model import Model
from dipsim.policies import Policy, load_policy
from dipsim.repeat import make_config
from dipsim.replay.active_sets import plain_shares
from dipsim.replay.cache import Sizes
from dipsim.replay.prefetch import Guesses, parse_guesses
from dipsim.replay.replay import Capacity, Plan, Progress, replay_all
from dipsim.replay.traffic import Traffic
from dipsim.resolve import Source, profile_uses, resolve
from dipsim.result import Result, mean_share
from dipsim.settings import Settings, make_settings
from dipsim.timeline.cold import cold_start
from dipsim.timeline.steps import Workload
from dipsim.timeline.timing import time_traffic
from dipsim.trace import Trace, load_trace


def simulate(
    trace: Source | Trace,
    profile: Source | Profile,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    **what: Any,
) -> Result:
    """Replay a trace on a device.

    Args:
        trace: path, name of a shipped trace, arrays, or a `Trace`.
        profile: path, name of a shipped profile, mapping, or a `Profile`.
        threads: caches replayed at a time; changes no figure.
        progress: called with (tokens done, tokens).
        what: ``model``, ``policy``, ``overrides`` of `prepare`, and fields of `Settings`, e.g.
            ``method="dip-ca", density=0.7, dram="50%"``.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    return run_all([prepare(trace, profile, threads=threads, **what)], progress)[0]


@dataclass(frozen=True)
class Job:
    """A run worked out, ready to be replayed."""

    work: Workload
    device: Profile
    backend: str
    settings: Settings
    policy: Policy
    plan: Plan
    flash: FlashCost
    requests: Sequence[Sequence[Requests]]
    model_given: bool
    growth: Sizes | None = None
    """What the caches hold at every row, where KV takes from them (``--kv grow``)."""
    paging: Paging | None = None
    """The system's page cache; None with direct reads."""
    places: Places | None = None
    """Of the layout permuted: where each unit lies."""

    @property
    def capacity(self) -> Capacity:
        """What the caches hold: units of each, or in global scope bytes."""
        if self.growth is not None:
            return self.growth
        budget = self.work.budget
        return budget.cache if self.plan.scope == "global" else budget.capacity

    @property
    def other_admission(self) -> Literal["forced", "ranked"] | None:
        """The other way the policy could admit misses; None when it has one way only."""
        if not self.policy.ranks or self.policy.admit == "never" or self.plan.access != "atomic":
            return None
        usual = self.plan.admission or self.policy.admit
        return "ranked" if usual == "forced" else "forced"


def prepare(
    trace: Source | Trace,
    profile: Source | Profile,
    *,
    model: Source | Model | None = None,
    policy: str | Policy | None = None,
    overrides: Sequence[str] = (),
    threads: int | None = None,
    **options: Any,
) -> Job:
    """Work a run out: what is replayed, and with how much cache.

    Args:
        model: preset, YAML file, geometry or `Model`; default: what the trace says.
        policy: name, ``file.py:attribute`` or a `Policy`; default lfu.
        overrides: ``key=value`` texts for the profile, as ``-s`` on the command line.
        options: fields of `Settings`.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    settings = make_settings(
        {**options, "policy": policy.label if isinstance(policy, Policy) else policy}
    )
    device = load_profile(profile, overrides)
    backend, _ = device.backend(settings.backend)
    chosen = load_policy(settings.policy if policy is None else policy)
    whole = load_trace(trace).clustered(settings.cluster)
    part = whole.part(settings.tokens, settings.layers, settings.sequence)
    work = resolve(part, device, model, settings)
    plan = Plan.of(
        settings, work.method, threads, (part.calibration_rows(settings.calibrate_tokens),)
    )
    if settings.prefetch is not None:
        guesses = parse_guesses(settings.prefetch, part, work.method, settings.cluster)
        plan = replace(plan, guesses=guesses)
        work = _with_room(work, guesses, settings)
    places, learned = None, (0, 0)
    if settings.layout == "permuted":
        learned = order_rows(part, settings.order_from)
        places = learned_places(part.window(*learned), work.method)
    work, served, paging = paged(work, device, settings, places)
    flash = FlashCost(served)
    requests = flash.tables(work.method, work.model, work.unit_bytes, settings.layout, places)
    if settings.allocate == "optimal":
        uses = profile_uses(work, chosen, settings)
        budget, plan = allocate_optimal(work, chosen, plan, requests, uses)
        work = replace(work, budget=budget)
    growth = None
    if settings.kv == "grow":
        budget, growth = grow(work, plan, settings)
        work = replace(work, budget=budget)
    plan = replace(plan, unmeasured=(*plan.unmeasured, learned))
    resolved = settings.model_copy(update={"method": work.method.name, "backend": backend})
    made = work, device, backend, resolved, chosen, plan, flash, requests
    return Job(*made, model is not None, growth, paging, places)


def _with_room(work: Workload, guesses: Guesses, settings: Settings) -> Workload:
    """The workload, its buffer of reads ahead large enough for predictions of more than is needed.

    Raises:
        BudgetError: the caches are smaller than that.
    """
    budget, room = work.budget, guesses.room(work.unit_bytes)
    if room <= budget.buffer:
        return work
    cache = None
    if budget.dram is None:
        given, share = settings.cache_bytes(), settings.cache_fraction or 0.0
        cache = share * budget.units_bytes if given is None else given
    return replace(work, budget=redivided(work, settings, cache=cache, buffer=room))


def run_all(
    jobs: Sequence[Job],
    progress: Progress | None = None,
    *,
    keep_missed: bool = False,
    **more: Any,
) -> list[Result]:
    """Run jobs that differ in their budgets only, in one pass.

    Args:
        keep_missed: hand on which units were missed (`Traffic.missed`).
        more: arguments of `replay_all`.
    """
    first = jobs[0]
    traffics = replay_all(
        first.work.trace,
        first.work.method,
        first.policy,
        [job.capacity for job in jobs],
        first.plan,
        unit_bytes=first.work.unit_bytes,
        requests=first.requests,
        profile_uses=profile_uses(first.work, first.policy, first.settings),
        keep_missed=keep_missed or first.paging is not None,
        progress=progress,
        **more,
    )
    plain = plain_kept(first, traffics[0]) if first.work.method.cache_aware else None
    return [result_of(job, traffic, plain) for job, traffic in zip(jobs, traffics, strict=True)]


def plain_kept(job: Job, traffic: Traffic) -> NDArray[np.float64]:
    """[groups, 3]: mass, energy and error if no group preferred what is resident."""
    shares = plain_shares(job.work.trace, job.work.method)[traffic.measured]
    return mean_share(shares)


def result_of(job: Job, traffic: Traffic, plain: NDArray[np.float64] | None = None) -> Result:
    """Time what a replay counted.

    Args:
        plain: [groups, 3] of a cache-aware method, what plain top-k would keep; worked out unless
            given.
    """
    if plain is None and job.work.method.cache_aware:
        plain = plain_kept(job, traffic)
    work, settings, flash = job.work, job.settings, job.flash
    flash.book_in_order(traffic, work.method, work.unit_bytes)
    if job.paging is not None:
        traffic = job.paging.book(traffic, work, job.plan, flash, job.requests)
    cached_prefill = job.plan.prefill == "cache"
    timing = time_traffic(
        work,
        traffic,
        job.device,
        job.backend,
        flash,
        settings.overlap,
        cached_prefill,
        settings.engine,
        settings.thermal == "sustained",
    )
    estimated = estimates(job.device, timing, settings)
    mapped = math.inf if job.paging is None else job.paging.static_room
    return Result(
        traffic=traffic,
        budget=work.budget,
        timing=timing,
        unit_bytes=work.unit_bytes,
        break_even=flash.break_even_of(work.method, work.model, work.unit_bytes, settings.layout),
        plain_kept=plain,
        marks=marks(work, job.device, traffic, timing, job.policy, settings, estimated),
        estimates=estimated,
        method=work.method.name,
        policy=job.policy.label,
        other_admission=job.other_admission,
        model_bytes=None if work.model is None else work.model.total_bytes,
        cold_start=cold_start(work, flash, _first_content(job), mapped),
        config=make_config(work, job.device, job.model_given, settings),
        version=version("dipsim"),
        page_cache=None if job.paging is None else job.paging.size,
    )


def _first_content(job: Job) -> float:
    """Bytes in the caches before the first token: of policies that start full."""
    budget = job.work.budget
    if not job.policy.preload:
        return 0.0
    if job.plan.scope == "global":
        return budget.cache
    return float((budget.capacity * job.work.unit_bytes).sum())
