"""What a run comes to: trace, device and settings worked out to model, method, sizes and budget."""

import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.budget.plan import Budget, GroupSize, Static, plan_budget
from dipsim.errors import BudgetError, MethodError, ModelError, TraceError
from dipsim.hardware import Profile
from dipsim.methods import Method, build_method
from dipsim.model import ATTENTION, Model, load_model
from dipsim.policies import Policy
from dipsim.replay.active_sets import largest_active, uses
from dipsim.settings import Settings
from dipsim.timeline.closed import is_paper
from dipsim.timeline.steps import Workload
from dipsim.trace import Trace, load_trace
from dipsim.units import BYTES

Source = str | os.PathLike[str] | Mapping[str, Any]


def resolve(
    trace: Trace, device: Profile, wanted: Source | Model | None, settings: Settings
) -> Workload:
    """Everything a replay and its timing need, the policy apart.

    Args:
        wanted: the model by option; None leaves it to the trace.

    Raises:
        DipsimError: options, trace and model do not fit together.
    """
    model = _model(trace, wanted, settings)
    if settings.weights is not None:
        model = _pruned(model, trace, settings)
    method = method_for(trace, model, settings)
    if model is not None:
        _check_kind(model, method)
    by_option = wanted is not None or (settings.bits is not None and model is not None)
    sizes = _unit_bytes(trace, method, model, by_option)
    context = _context(trace, model, settings)
    budget = _budget(trace, device, model, method, sizes, context, settings)
    return Workload(
        trace=trace,
        model=model,
        method=method,
        unit_bytes=sizes,
        budget=budget,
        kv_bits=settings.kv_bits,
        context=context,
        kv=_kv(settings),
        authors=settings.compat == "authors",
    )


def method_for(trace: Trace, model: Model | None, settings: Settings) -> Method:
    """The method of the settings, made ready for a trace.

    Raises:
        MethodError: see `build_method`.
    """
    if settings.cluster > 1 and settings.layout is not None:
        raise MethodError(
            f"--cluster {settings.cluster} joins units that lie side by side: drop --layout"
        )
    method = build_method(settings.method, trace, settings, model)
    for group in method.groups if settings.cluster > 1 else ():
        there = trace.signals.get(group.signal)
        if there is not None and not group.of_experts and there.cluster != settings.cluster:
            units = there.recorded_units
            fit = [n for n in (2, 4, 8, 16, 32, 64) if units % n == 0] or [1]
            raise TraceError(
                f"--cluster {settings.cluster} does not divide the {units} units of "
                f"{group.signal}: use one that does, e.g. {', '.join(map(str, fit))}"
            )
    if settings.cluster > 1 and any(at.choice == "all" or at.of_experts for at in method.groups):
        raise MethodError(
            f"--cluster {settings.cluster} joins columns or neurons that are chosen; {method.name} "
            "has none: drop it"
        )
    return method


def _pruned(model: Model | None, trace: Trace, settings: Settings) -> Model:
    """The model with two of every four MLP weights.

    Raises:
        ModelError: no model, or a method that prunes by itself.
    """
    if settings.method != "dense":
        raise ModelError(
            f"--weights {settings.weights} prunes beforehand, once for all tokens: give it with "
            "--method dense"
        )
    if model is None:
        raise ModelError(f"--weights {settings.weights}: {trace.name} names no model: pass --model")
    return model.model_copy(update={"weights": settings.weights})


def _kv(settings: Settings) -> Literal["grows", "average", "context"]:
    """How many positions a token reads (DESIGN section 8)."""
    if settings.compat == "authors" and settings.context is None:
        return "average"
    return "context" if is_paper(settings.overlap) else "grows"


def _check_kind(model: Model, method: Method) -> None:
    """A method's units must be those of the model's MLP."""
    of_experts = any(group.of_experts for group in method.groups)
    if of_experts != (model.experts is not None):
        has = f"{model.experts} experts a layer" if model.experts else "no experts"
        units = "whole experts" if of_experts else "neurons or columns of one MLP"
        raise ModelError(f"model {model.name} has {has}; {method.name} loads {units}")
    if not model.gated and method.name in ("glu", "dip", "dip-ca", "gate", "up", "cats"):
        raise ModelError(
            f"model {model.name} has no gate, which method {method.name} counts on: use "
            "recorded sets, glu-oracle or dense"
        )


def profile_uses(
    work: Workload, policy: Policy, settings: Settings
) -> list[NDArray[np.int64]] | None:
    """Per group int64[layers, units]: uses on the trace of ``--static-from``, when there is one.

    Raises:
        TraceError: the policy has no use for it, or that trace is of another shape.
    """
    if settings.static_from is None:
        return None
    if not policy.preload:
        raise TraceError(f"--static-from is for policy static, not for {policy.name}: drop it")
    other = load_trace(settings.static_from).clustered(settings.cluster)
    there = method_for(other, work.model, settings)
    units = [[group.units for group in found.groups] for found in (there, work.method)]
    if other.layers != work.trace.layers or units[0] != units[1]:
        raise TraceError(
            f"--static-from {other.name}: not the layers and units of {work.trace.name}"
        )
    return uses(other, there)


def _model(trace: Trace, wanted: Source | Model | None, settings: Settings) -> Model | None:
    """The model by option, else by the trace's meta; None when neither says."""
    given = wanted if wanted is not None else trace.model
    if given is None:
        return None
    if wanted is None and isinstance(given, str):
        given = {"name": given}  # a trace may name a preset, never a file
    if wanted is None and not isinstance(given, dict):
        raise ModelError(f"{trace.name}: meta.model must be a preset's name or a geometry")
    model = load_model(given, settings.bits)
    if model.layers != trace.recorded_layers:
        raise ModelError(
            f"model {model.name} has {model.layers} layers, {trace.name} has "
            f"{trace.recorded_layers}: pass the --model the trace was recorded from"
        )
    expected = {"mlp_input": model.hidden, "attn_input": model.hidden}
    expected |= dict.fromkeys(("glu", "gate", "up"), model.intermediate)
    expected["attn_output"] = model.heads * model.head_dim
    if model.experts is not None:
        expected["expert"] = model.experts
    for signal in trace.signals.values():
        if expected.get(signal.name, signal.recorded_units) != signal.recorded_units:
            raise ModelError(
                f"model {model.name} has {expected[signal.name]} units of {signal.name}, "
                f"{trace.name} has {signal.recorded_units}: pass the --model the trace was "
                "recorded from"
            )
    return model.model_copy(update={"layers": trace.layers})


def _unit_bytes(
    trace: Trace, method: Method, model: Model | None, by_option: bool
) -> NDArray[np.float64]:
    """[layers, groups]: by option, else by ``unit_bytes`` of the trace, else by its model."""
    sizes = np.empty((trace.layers, len(method.groups)))
    for i, group in enumerate(method.groups):
        signal = trace.signals.get(group.signal)
        declared = None if signal is None or by_option else signal.declared.get("unit_bytes")
        if declared is not None:
            sizes[:, i] = _declared_bytes(trace, group.signal, declared)
        elif model is not None:
            sizes[:, i] = model.mlp_bytes if group.of_experts else model.slice_bytes(group.slices)
        else:
            raise ModelError(
                f"{trace.name} does not say which model it is from: pass --model NAME or FILE "
                f"(or store meta.model, or unit_bytes of {group.signal})"
            )
        if signal is not None:
            sizes[:, i] *= signal.cluster
    return sizes


def _declared_bytes(trace: Trace, signal: str, declared: Any) -> NDArray[np.float64]:
    recorded = trace.recorded_layers
    values = declared if isinstance(declared, list) else [declared] * recorded
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if len(values) != recorded or not plain or not all(0 < v < 2**50 for v in values):
        raise TraceError(
            f"{trace.name}: unit_bytes of {signal} must be a positive number, or {recorded} of them"
        )
    return np.array(values, np.float64)[trace.first_layer :][: trace.layers]


def _context(trace: Trace, model: Model | None, settings: Settings) -> int:
    """Tokens the budget holds KV for: by option, else the longest sequence, at most the model's."""
    if settings.context is not None:
        return settings.context
    longest = int(trace.position.max()) + 1
    return longest if model is None or model.context is None else min(longest, model.context)


def _static(model: Model | None, method: Method, authors: bool) -> Static:
    """Weights every token reads under a method; the authors' simulator leaves norms out."""
    if model is None:
        return Static()
    slices = [slice_ for group in method.groups for slice_ in group.slices]
    pruned = {slice_.matrix for slice_ in slices if slice_.matrix in ATTENTION}
    attention = model.attention_bytes - sum(model.matrix_bytes(matrix) for matrix in pruned)
    return Static(
        attention=model.layers * attention,
        norms=0.0 if authors else model.norm_bytes,
        head=model.head_bytes,
        dense_parts=model.layers
        * (
            model.static_mlp_bytes
            + sum(model.matrix_bytes(matrix) for matrix in method.dense if matrix in model.matrices)
        ),
        scales=model.layers * model.static_scale_bytes(slices),
        predictors=model.layers * method.predictor_weights * model.bytes_per_weight,
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
    static = _static(model, method, settings.compat == "authors")
    kv = 0.0 if model is None else float(model.kv_bytes(context, settings.kv_bits))
    stored, flash = 0.0 if model is None else model.total_bytes, device.flash.capacity
    if flash is not None and stored > flash:
        raise ModelError(
            f"the model takes {BYTES.show(stored)}, flash of {device.name} holds "
            f"{BYTES.show(flash)}: give fewer --bits or another device"
        )
    buffer = 0.0
    if settings.overlap == "prefetch":  # one layer's units, as many as a token ever needs
        buffer = float((largest_active(trace, method) * sizes).sum(axis=1).max())
    cache, fraction = settings.cache_bytes(), settings.cache_fraction
    dram = settings.dram_bytes(None if model is None else model.total_bytes)
    for option, size in (("--dram", dram), ("--cache", cache)):
        if size is not None and size > device.dram.capacity:
            raise BudgetError(
                f"{option} {BYTES.show(size)} exceeds the {BYTES.show(device.dram.capacity)} of "
                f"{device.name}: give less, or override dram.capacity with -s"
            )
    equal = settings.allocate == "equal"
    if cache is not None or fraction is not None or dram is not None:
        return plan_budget(
            static,
            groups,
            dram=dram,
            cache=cache,
            fraction=fraction,
            kv=kv,
            equal=equal,
            buffer=buffer,
        )
    staging = 0.0 if settings.io == "mmap" else device.staging  # pages are mapped, not copied
    if staging is None:
        staging = float((largest_active(trace, method) * sizes).max())
    return plan_budget(
        static,
        groups,
        dram=device.dram.available,
        kv=kv,
        staging=staging,
        overhead=device.runtime_overhead,
        equal=equal,
        buffer=buffer,
    )
