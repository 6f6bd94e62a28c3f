"""Marks of a result, and the estimates it rests on: what its reader must know."""

from pathlib import Path

from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.timeline.pressure import paged_share
from dipsim.timeline.timing import Timing
from dipsim.trace import load_trace
from dipsim.trace.logs.usage import holds_uses


def estimates(run: Run, timing: Timing) -> tuple[str, ...]:
    """Return the keys of the profile that a run rests on and that are estimates or unsourced."""
    settings, device = run.settings, run.device
    rests_on = list(timing.rests_on)
    if settings.dram is None and settings.cache is None and settings.cache_fraction is None:
        rests_on += ["dram.available", "runtime_overhead", "staging"]
    if settings.io == "mmap":
        rests_on = [key for key in rests_on if key not in ("flash.iops", "flash.align")]
        rests_on += [f"flash.fault.{name}" for name in ("seconds", "page", "readahead")]
    elif settings.io == "buffered":
        rests_on += ["page_cache.bandwidth", "page_cache.size", "dram.available"]
    stated = dict(device.numbers())
    estimated = []
    for key in dict.fromkeys(rests_on):
        source = device.source(key)
        if key in stated and (source is None or source.kind == "estimate"):
            estimated.append(key)
    return tuple(estimated)


def marks(
    run: Run, traffic: Traffic, timing: Timing, estimated: tuple[str, ...]
) -> tuple[str, ...]:
    """Return one word for everything a reader must know before believing the figures."""
    budget, settings, policy = run.budget, run.settings, run.policy
    asked = budget.dram if budget.dram is not None else budget.cache
    drafts = run.steps is not None and not run.steps.side_by_side
    holds = {
        "over-available": asked > run.device.dram.available,
        "paged": paged_share(run) > 0,
        "part": run.trace.layers < run.trace.recorded_layers,
        "held-out": settings.allocate == "optimal" or settings.layout == "permuted",
        "open-loop": run.method.open_loop,
        "calibrated": run.method.calibrated,
        "recorded-experts": run.method.among_recorded,
        "lossy-weights": settings.weights is not None,
        "estimate": bool(estimated),
        "extrapolated": bool(traffic.outside[traffic.measured].any()) or timing.extrapolated,
        "clairvoyant": policy.future
        or (policy.preload and not _profiled(run))
        or (run.kv is not None and run.kv.clairvoyant),
        "preloaded": policy.preload,
        "stand-ins": run.steps is not None,
        "free-drafts": drafts and not run.draft_seconds,
        "no-model": run.model is None,
        "approximate-model": run.model is not None and run.model.approximate is not None,
    }
    return tuple(mark for mark, applies in holds.items() if applies)


def _profiled(run: Run) -> bool:
    """Return whether `static` was profiled on something else than what it is measured on."""
    settings = run.settings
    if settings.static_from is not None and holds_uses(Path(settings.static_from)):
        return True
    if settings.static_from is not None:
        return load_trace(settings.static_from).hash != run.trace.hash
    return settings.warmup > 0 or settings.allocate == "optimal"
