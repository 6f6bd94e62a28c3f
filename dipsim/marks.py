"""What must be said beside the figures: marks, and the estimates a run rests on."""

from dipsim.hardware import Profile
from dipsim.policies import Policy
from dipsim.replay.traffic import Traffic
from dipsim.settings import Settings
from dipsim.timeline.steps import Workload
from dipsim.timeline.timing import Timing
from dipsim.trace import load_trace


def estimates(device: Profile, timing: Timing, settings: Settings) -> tuple[str, ...]:
    """Keys of the profile that a run rests on and that are estimates or have no source."""
    rests_on = list(timing.rests_on)
    if settings.dram is None and settings.cache is None and settings.cache_fraction is None:
        rests_on += ["dram.available", "runtime_overhead", "staging"]
    if settings.io == "mmap":
        served = ("flash.bandwidth", "flash.reads", "flash.align", "flash.lanes")
        rests_on = [key for key in rests_on if key not in served]
        rests_on += ["flash.fault.seconds", "flash.fault.page"]
    elif settings.io == "buffered":
        rests_on += ["page_cache.bandwidth", "page_cache.size", "dram.available"]
    stated = dict(device.numbers())
    found = []
    for key in dict.fromkeys(rests_on):
        source = device.source(key)
        if key in stated and (source is None or source.kind == "estimate"):
            found.append(key)
    return tuple(found)


def marks(
    work: Workload,
    device: Profile,
    traffic: Traffic,
    timing: Timing,
    policy: Policy,
    settings: Settings,
    estimated: tuple[str, ...],
) -> tuple[str, ...]:
    """One word for everything a reader must know before believing the figures."""
    asked = work.budget.dram if work.budget.dram is not None else work.budget.cache
    found = {
        "over-available": asked > device.dram.available,
        "part": work.trace.layers < work.trace.recorded_layers,
        "held-out": settings.allocate == "optimal" or settings.layout == "permuted",
        "open-loop": work.method.open_loop,
        "calibrated": work.method.calibrated,
        "recorded-experts": work.method.among_recorded,
        "lossy-weights": settings.weights is not None,
        "estimate": bool(estimated),
        "extrapolated": bool(traffic.outside[traffic.measured].any()) or timing.extrapolated,
        "clairvoyant": policy.future or (policy.preload and not _profiled(work, settings)),
        "preloaded": policy.preload,
        "no-model": work.model is None,
    }
    return tuple(mark for mark, holds in found.items() if holds)


def _profiled(work: Workload, settings: Settings) -> bool:
    """Whether `static` was profiled on something else than what it is measured on."""
    if settings.static_from is not None:
        return load_trace(settings.static_from).hash != work.trace.hash
    return settings.warmup > 0 or settings.allocate == "optimal"
