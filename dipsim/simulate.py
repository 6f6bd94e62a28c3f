"""The pipeline: trace, profile, model -> method, policy, budget -> replay -> time -> result."""

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.budget import Budget, GroupSize, Static, plan_budget
from dipsim.errors import ModelError, TraceError
from dipsim.hardware import Profile, load_profile
from dipsim.kernels import Requests
from dipsim.methods import Method, Wish, build_method
from dipsim.model import Model, load_model
from dipsim.policies import Policy, load_policy
from dipsim.replay import Plan, Progress, Traffic, largest_active, replay, uses
from dipsim.result import Result
from dipsim.settings import Settings, make_settings
from dipsim.timeline.flash import FlashCost, natural_layout, stride
from dipsim.timeline.steps import Workload
from dipsim.timeline.timing import time_traffic
from dipsim.trace import Trace, load_trace

Source = str | os.PathLike[str] | Mapping[str, Any]


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
    named = policy.name if isinstance(policy, Policy) else policy
    settings = make_settings({**options, "policy": named})
    device = load_profile(profile, overrides)
    trace = _window(load_trace(trace), settings)
    chosen = load_policy(policy if policy is not None else settings.policy)
    geometry = _model(trace, model, settings)
    method = _method(trace, geometry, settings)
    sizes = _unit_bytes(trace, method, geometry, model is not None)
    context = _context(trace, geometry, settings)
    budget = _budget(trace, device, geometry, method, sizes, context, settings)
    flash = FlashCost(device.flash)
    traffic = replay(
        trace,
        method,
        chosen,
        budget.capacity,
        _plan(settings, threads),
        requests=_requests(flash, method, geometry, sizes, settings),
        profile_uses=_profile_uses(trace, chosen, method, geometry, settings),
        progress=progress,
    )
    work = Workload(trace, geometry, method, sizes, budget, settings.kv_bits, context)
    backend, _ = device.backend(settings.backend)
    timing = time_traffic(work, traffic, device, backend, flash, settings.overlap)
    estimates = _estimates(device, (*timing.rests_on, *_budget_rests_on(settings)))
    resolved = settings.model_copy(update={"method": method.name, "backend": backend})
    return Result(
        traffic=traffic,
        budget=budget,
        timing=timing,
        unit_bytes=sizes,
        break_even=tuple(flash.break_even(float(size)) for size in sizes[0]),
        marks=_marks(traffic, method, chosen, flash, sizes, geometry, settings, estimates),
        estimates=estimates,
        method=method.name,
        policy=chosen.name,
        model_bytes=None if geometry is None else geometry.total_bytes,
        config=_config(trace, device, geometry, model is not None, resolved, method, context),
        version=version("dipsim"),
    )


# What is run ------------------------------------------------------------------------------------


def _window(trace: Trace, settings: Settings) -> Trace:
    window = settings.token_range(trace.tokens)
    return trace if window is None else trace.window(*window)


def _model(trace: Trace, wanted: Source | Model | None, settings: Settings) -> Model | None:
    """The model by option, else by the trace's meta; None when neither says.

    Raises:
        ModelError: a geometry that does not fit the trace.
    """
    given = wanted if wanted is not None else trace.model
    if given is None:
        return None
    if wanted is None and isinstance(given, str):
        given = {"name": given}  # a trace may name a preset, never a file
    if wanted is None and not isinstance(given, dict):
        raise ModelError(f"{trace.name}: meta.model must be a preset's name or a geometry")
    model = load_model(given, settings.bits)
    if model.layers != trace.layers:
        raise ModelError(
            f"model {model.name} has {model.layers} layers, {trace.name} has {trace.layers}: "
            "pass the --model the trace was recorded from"
        )
    for signal in trace.signals.values():
        units = {"mlp_input": model.hidden, "attn_input": model.hidden}.get(signal.name)
        units = model.intermediate if signal.name in ("glu", "gate", "up") else units
        if units is not None and units != signal.units:
            raise ModelError(
                f"model {model.name} has {units} units of {signal.name}, {trace.name} has "
                f"{signal.units}: pass the --model the trace was recorded from"
            )
    return model


def _method(trace: Trace, model: Model | None, settings: Settings) -> Method:
    wish = Wish(settings.density, settings.group_density, settings.gamma, settings.split)
    intermediate = None if model is None else model.intermediate
    return build_method(settings.method, trace, wish, intermediate)


def _unit_bytes(
    trace: Trace, method: Method, model: Model | None, model_given: bool
) -> NDArray[np.float64]:
    """[layers, groups]: by option, else by ``unit_bytes`` of the trace, else by its model.

    Raises:
        ModelError: nothing tells how large a unit is.
        TraceError: ``unit_bytes`` that are not one positive number, or one per layer.
    """
    sizes = np.empty((trace.layers, len(method.groups)))
    for i, group in enumerate(method.groups):
        signal = trace.signals.get(group.signal)
        declared = None if signal is None or model_given else signal.declared.get("unit_bytes")
        if declared is not None:
            try:
                sizes[:, i] = np.asarray(declared, np.float64)
            except (TypeError, ValueError, OverflowError):
                sizes[:, i] = np.nan
            if not (np.isfinite(sizes[:, i]) & (sizes[:, i] > 0) & (sizes[:, i] < 2**50)).all():
                raise TraceError(
                    f"{trace.name}: unit_bytes of {group.signal} must be a positive number, "
                    f"or {trace.layers} of them"
                )
        elif model is not None:
            sizes[:, i] = model.slice_bytes(group.slices)
        else:
            raise ModelError(
                f"{trace.name} does not say which model it is from: pass --model NAME or FILE "
                f"(or store meta.model, or unit_bytes of {group.signal})"
            )
    return sizes


def _context(trace: Trace, model: Model | None, settings: Settings) -> int:
    """Tokens the budget holds KV for: by option, else the longest sequence, at most the model's."""
    if settings.context is not None:
        return settings.context
    longest = trace.longest_sequence()
    return longest if model is None or model.context is None else min(longest, model.context)


def _static(model: Model | None, method: Method) -> Static:
    """Weights every token reads under a method."""
    if model is None:
        return Static()
    slices = [slice_ for group in method.groups for slice_ in group.slices]
    return Static(
        attention=model.layers * model.attention_bytes,
        norms=model.norm_bytes,
        head=model.head_bytes,
        dense_parts=model.layers * sum(model.matrix_bytes(matrix) for matrix in method.dense),
        scales=model.layers * model.static_scale_bytes(slices),
    )


def _budget(
    trace: Trace,
    device: Profile,
    model: Model | None,
    method: Method,
    sizes: NDArray[np.float64],
    context: int,
    settings: Settings,
) -> Budget:
    groups = [GroupSize(group.units, sizes[:, i]) for i, group in enumerate(method.groups)]
    static = _static(model, method)
    kv = 0.0 if model is None else model.kv_bytes(settings.kv_bits) * context
    cache, fraction = settings.cache_bytes(), settings.cache_fraction
    dram = settings.dram_bytes(None if model is None else model.total_bytes)
    if cache is not None or fraction is not None or dram is not None:
        return plan_budget(static, groups, dram=dram, cache=cache, fraction=fraction, kv=kv)
    staging = device.staging
    if staging is None:
        largest = largest_active(trace, method)
        staging = float(max(n * sizes[:, i].max() for i, n in enumerate(largest)))
    return plan_budget(
        static,
        groups,
        dram=device.dram.available,
        kv=kv,
        staging=staging,
        overhead=device.runtime_overhead,
    )


def _plan(settings: Settings, threads: int | None) -> Plan:
    return Plan(
        admission=settings.admission,
        warmup=settings.warmup,
        reset=settings.reset,
        prefill=settings.prefill,
        seed=settings.seed,
        threads=threads,
    )


def _requests(
    flash: FlashCost,
    method: Method,
    model: Model | None,
    sizes: NDArray[np.float64],
    settings: Settings,
) -> list[list[Requests]]:
    """What reads cost, per layer and group; groups of equal units share one table."""
    made: dict[tuple[int, float, float], Requests] = {}
    tables: list[list[Requests]] = []
    for layer_sizes in sizes:
        tables.append([])
        for size, group in zip(map(float, layer_sizes), method.groups, strict=True):
            layout = settings.layout or natural_layout(group.slices)
            apart = stride(layout, group.slices, model, size, group.signal)
            key = (group.units, size, apart)
            if key not in made:
                made[key] = flash.requests(*key)
            tables[-1].append(made[key])
    return tables


def _profile_uses(
    trace: Trace, policy: Policy, method: Method, model: Model | None, settings: Settings
) -> list[NDArray[np.int64]] | None:
    """Uses counted on the trace of ``--static-from``, when there is one."""
    if settings.static_from is None:
        return None
    if not policy.preload:
        raise TraceError(f"--static-from is for policy static, not for {policy.name}: drop it")
    other = load_trace(settings.static_from)
    there = _method(other, model, settings)
    units = [[group.units for group in found.groups] for found in (there, method)]
    if other.layers != trace.layers or units[0] != units[1]:
        raise TraceError(f"--static-from {other.name}: not the layers and units of {trace.name}")
    return uses(other, there)


# What is said about it --------------------------------------------------------------------------


def _budget_rests_on(settings: Settings) -> tuple[str, ...]:
    direct = settings.cache_fraction is not None or settings.cache is not None
    return () if direct or settings.dram is not None else ("dram.available", "runtime_overhead")


def _estimates(device: Profile, rests_on: Sequence[str]) -> tuple[str, ...]:
    """Which numbers of the profile a run rests on that are estimates or have no source."""
    stated = dict(device.numbers())
    found = []
    for key in rests_on:
        source = device.source(key)
        if key in stated and (source is None or source.kind == "estimate"):
            found.append(key)
    return tuple(found)


def _marks(
    traffic: Traffic,
    method: Method,
    policy: Policy,
    flash: FlashCost,
    sizes: NDArray[np.float64],
    model: Model | None,
    settings: Settings,
    estimates: tuple[str, ...],
) -> tuple[str, ...]:
    """One word for everything a reader must know before believing the figures."""
    shortest, longest = traffic.runs[..., 0] * sizes, traffic.runs[..., 1] * sizes
    read = traffic.runs[..., 1] > 0
    outside = read.any() and flash.extrapolated(shortest[read].min(), longest[read].max())
    profiled = settings.static_from is not None or settings.warmup > 0
    marks = {
        "open-loop": method.open_loop,
        "estimate": bool(estimates),
        "extrapolated": bool(outside),
        "clairvoyant": policy.future or (policy.preload and not profiled),
        "preloaded": policy.preload,
        "no-model": model is None,
    }
    return tuple(mark for mark, holds in marks.items() if holds)


def _config(
    trace: Trace,
    device: Profile,
    model: Model | None,
    model_given: bool,
    settings: Settings,
    method: Method,
    context: int,
) -> dict[str, Any]:
    """Everything that repeats the run; ``resolved`` says what the defaults came to."""
    return {
        "trace": {"name": trace.name, "hash": trace.hash},
        "profile": device.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "model": None if model is None else model.model_dump(mode="json", exclude_unset=True),
        "model_given": model_given,
        "settings": settings.model_dump(mode="json", exclude_none=True),
        "resolved": {
            "density": method.density,
            "group_density": {group.signal: group.density for group in method.groups},
            "kept": {group.signal: group.kept for group in method.groups},
            "gamma": {g.signal: g.gamma for g in method.groups if g.gamma is not None},
            "context": context,
        },
    }
