"""Marks of a result, and the estimates it rests on: what its reader must know."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dipsim.budget.plan import keeps_recorded_bytes
from dipsim.replay.traffic import Traffic
from dipsim.resolve import declared_bytes
from dipsim.run import Run
from dipsim.timeline.pressure import paged_share
from dipsim.timeline.timing import Timing
from dipsim.trace import load_trace
from dipsim.trace.logs.usage import holds_uses
from dipsim.units import BYTES

_SAME, _ALIKE = 1e-6, 1e-2
"""Shares by which bytes may differ and still be the same, or not worth a word."""


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
        or (run.loads and not _profiled(run))
        or (run.kv is not None and run.kv.clairvoyant),
        "preloaded": run.loads,
        "stand-ins": run.steps is not None,
        "free-drafts": drafts and not run.draft_seconds,
        "no-model": run.model is None,
        "replaced": bool(replaced(run)),
        "approximate-model": run.model is not None and run.model.approximate is not None,
    }
    return tuple(mark for mark, applies in holds.items() if applies)


def replaced(run: Run) -> tuple[str, ...]:
    """Return what options and models replace of the bytes and the format that the trace states,
    in words."""
    trace, settings = run.trace, run.settings
    model_by = "--model" if run.model_given else "meta.model"
    by = model_by if settings.bits is None else "--bits"
    texts = []
    for i, group in enumerate(run.method.groups):
        declared = declared_bytes(trace, group.signal)
        has = group.units_in(trace.layers) > 0
        if declared is None or not has.any():
            continue
        declared, used = declared[has], run.unit_bytes[has, i]
        if not np.allclose(declared, used, rtol=_SAME, atol=0):
            option = by if settings.unit_bytes is None else "--unit-bytes"
            texts.append(
                f"{option} replaces the bytes of a unit of {group.signal} that {trace.name} "
                f"states, {_span(declared)}: here {_span(used)}"
            )
    if run.model is None:
        return tuple(texts)
    static, stated = run.budget.static, float(trace.dense_bytes.sum())
    used_dense = static.total - static.head - static.norms - static.predictors
    if "dense_bytes" in trace.meta and not math.isclose(stated, used_dense, rel_tol=_SAME):
        texts.append(
            f"{by} replaces the weights beside the units that {trace.name} states (dense_bytes), "
            f"{BYTES.show(stated)}: here {BYTES.show(used_dense)}"
        )
    if trace.weight_format is not None and run.stored_as not in (trace.weight_format, None):
        by = model_by if settings.weight_format is None else "--weight-format"
        texts.append(
            f"{by} replaces the weight format that {trace.name} states, {trace.weight_format}: "
            f"here {run.stored_as}"
        )
    return tuple(texts)


def kept(run: Run) -> tuple[str, ...]:
    """Return what the trace states and a model by option does not replace, in words."""
    kept_bytes = keeps_recorded_bytes(run.sets) and run.settings.unit_bytes is None
    if run.model is None or not run.model_given or not kept_bytes:
        return ()
    stated, other = run.unit_bytes[:, 0], run.model.mlp_bytes
    stated = stated[stated > 0]
    if np.allclose(stated, other, rtol=_ALIKE, atol=0):
        return ()
    return (
        f"experts take {_span(stated)}, as {run.trace.name} states, not the {BYTES.show(other)} of "
        "--model: --bits takes the model's",
    )


def _span(sizes: NDArray[np.float64]) -> str:
    """Return the least and the greatest of some sizes, in words."""
    least, most = (BYTES.show(float(bound)) for bound in (sizes.min(), sizes.max()))
    return least if least == most else f"{least} to {most}"


def _profiled(run: Run) -> bool:
    """Return whether what is loaded was chosen by something else than what it is measured on."""
    settings = run.settings
    profile = settings.static_from or settings.warm_from
    if profile is not None:
        return holds_uses(Path(profile)) or load_trace(profile).hash != run.trace.hash
    return settings.warmup > 0 or settings.allocate == "optimal"
