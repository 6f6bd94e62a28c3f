"""The pipeline: trace, profile, model -> method, policy, budget -> replay -> time -> result."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from dipsim.active import plain_energy
from dipsim.config import make_config
from dipsim.hardware import Profile, load_profile
from dipsim.marks import estimates, marks
from dipsim.model import Model
from dipsim.policies import Policy, load_policy
from dipsim.replay import Plan, Progress, replay
from dipsim.resolve import Source, profile_uses, resolve
from dipsim.result import Result
from dipsim.settings import make_settings
from dipsim.timeline.flash import FlashCost
from dipsim.timeline.timing import time_traffic
from dipsim.trace import Trace, load_trace


def simulate(
    trace: Source | Trace,
    profile: Source | Profile,
    *,
    model: Source | Model | None = None,
    policy: str | Policy | None = None,
    overrides: Sequence[str] = (),
    threads: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Replay a trace on a device.

    Args:
        trace: path, name of a shipped trace, arrays, or a `Trace`.
        profile: path, name of a shipped profile, mapping, or a `Profile`.
        model: preset, YAML file, geometry or `Model`; default: what the trace says.
        policy: name, ``file.py:attribute`` or a `Policy`; default lfu.
        overrides: ``key=value`` texts for the profile, as ``-s`` on the command line.
        threads: caches replayed at a time; changes no figure.
        progress: called with (tokens done, tokens).
        options: fields of `Settings`, e.g. ``method="dip-ca", density=0.7, dram="50%"``.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    settings = make_settings(
        {**options, "policy": policy.name if isinstance(policy, Policy) else policy}
    )
    device = load_profile(profile, overrides)
    backend, _ = device.backend(settings.backend)
    chosen = load_policy(settings.policy if policy is None else policy)
    part = load_trace(trace).part(settings.tokens, settings.layers, settings.sequence)
    work = resolve(part, device, model, settings)
    plan = Plan.of(settings, work.method, threads)
    flash = FlashCost(device.flash)
    traffic = replay(
        work.trace,
        work.method,
        chosen,
        work.budget.capacity,
        plan,
        requests=flash.tables(work.method, work.model, work.unit_bytes, settings.layout),
        profile_uses=profile_uses(work, chosen, settings),
        progress=progress,
    )
    flash.book_in_order(traffic, work.method, work.unit_bytes)
    timing = time_traffic(
        work, traffic, device, backend, flash, settings.overlap, plan.prefill == "cache"
    )
    plain = None
    if work.method.cache_aware:
        energy = plain_energy(work.trace, work.method)[traffic.measured]
        plain = tuple(map(float, energy.mean(axis=(0, 1), dtype="float64")))
    estimated = estimates(device, timing, settings)
    resolved = settings.model_copy(update={"method": work.method.name, "backend": backend})
    return Result(
        traffic=traffic,
        budget=work.budget,
        timing=timing,
        unit_bytes=work.unit_bytes,
        break_even=flash.break_even_of(work.method, work.model, work.unit_bytes, settings.layout),
        plain_energy_kept=plain,
        marks=marks(work, device, traffic, timing, chosen, settings, estimated),
        estimates=estimated,
        method=work.method.name,
        policy=chosen.name,
        model_bytes=None if work.model is None else work.model.total_bytes,
        config=make_config(work, device, model is not None, resolved),
        version=version("dipsim"),
    )
