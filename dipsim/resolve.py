"""The nouns of a run, worked out together: its model, method, sizes, layout and flash."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError, ModelError, ProfileError, TraceError
from dipsim.flash.cost import Placement
from dipsim.flash.layout import Places
from dipsim.flash.order import learned_places, order_rows
from dipsim.flash.page_cache import mapped
from dipsim.hardware import Flash, Profile
from dipsim.methods import Method, build_method
from dipsim.model import Model, load_model
from dipsim.policies import Policy
from dipsim.replay.active_sets import every_set, uses
from dipsim.settings import Settings
from dipsim.trace import Trace, load_trace

Input = str | os.PathLike[str] | Mapping[str, Any]
"""A file, the name of something shipped, or its contents."""


def find_model(trace: Trace, given: Input | Model | None, settings: Settings) -> Model | None:
    """Return the model by option, else by the trace's meta; None when neither says.

    Raises:
        ModelError: no such model, or not the one the trace was recorded from.
    """
    model = _model(trace, given, settings)
    return model if settings.weights is None else _pruned(model, trace, settings)


def find_method(trace: Trace, model: Model | None, settings: Settings) -> Method:
    """Return the method of the settings, made ready for a trace.

    Raises:
        MethodError: see `build_method`; or a cluster of units that are not chosen one by one.
        ModelError: a model whose MLP does not have the units of the method.
    """
    if settings.cluster > 1 and settings.layout is not None:
        raise MethodError(
            f"--cluster {settings.cluster} joins units that lie side by side: drop --layout"
        )
    method = build_method(settings.method, trace, settings, model)
    if settings.cluster > 1:
        _check_cluster(trace, method, settings.cluster)
    if settings.io == "mmap" and method.cache_aware:
        raise MethodError(
            f"method {method.name} prefers what its cache holds; with --io mmap there is "
            "none to look into: use dip, or --io buffered"
        )
    if model is not None:
        _check_kind(model, method)
    return method


def _check_cluster(trace: Trace, method: Method, size: int) -> None:
    """Refuse a cluster that does not divide units, or of units that are not chosen one by one."""
    for group in method.groups:
        signal = trace.signals.get(group.signal)
        if signal is not None and not group.of_experts and signal.cluster != size:
            units = signal.recorded_units
            divisors = [n for n in (2, 4, 8, 16, 32, 64) if units % n == 0] or [1]
            raise TraceError(
                f"--cluster {size} does not divide the {units} units of "
                f"{group.signal}: use one that does, e.g. {', '.join(map(str, divisors))}"
            )
    if any(group.choice == "all" or group.of_experts for group in method.groups):
        raise MethodError(
            f"--cluster {size} joins columns or neurons that are chosen; {method.name} "
            "has none: drop it"
        )


def place_units(
    trace: Trace, method: Method, model: Model | None, by_option: bool, settings: Settings
) -> Placement:
    """Return the bytes of the units, and where they lie in flash.

    Args:
        by_option: the model was an option of the run, and so wins over what the trace declares.

    Raises:
        ModelError: nothing says what a unit takes.
        TraceError: it declares what makes no sense.
        MethodError: nothing an order can be learned from.
    """
    by_option = by_option or (settings.bits is not None and model is not None)
    sizes = _unit_bytes(trace, method, model, by_option)
    places: Places | None = None
    if settings.layout == "permuted":
        part = trace.window(*order_rows(trace, settings.order_from))
        places = learned_places(every_set, part, method)
    return Placement(method, model, sizes, settings.layout, places)


def learned_rows(trace: Trace, settings: Settings) -> list[tuple[int, int]]:
    """Return the rows (A, B) that something is learned from, so that they are not measured."""
    rows = [trace.calibration_rows(settings.calibrate_tokens)]
    if settings.layout == "permuted":
        rows.append(order_rows(trace, settings.order_from))
    return rows


def find_flash(device: Profile, settings: Settings) -> Flash:
    """Return the flash as the run reads it: mapped files are served a page per fault.

    Raises:
        ProfileError: the profile does not say what a fault, or a copy from the page cache, takes.
    """
    if settings.io == "mmap":
        return mapped(device)
    if settings.io == "buffered" and device.page_cache is None:
        raise ProfileError(
            f"profile {device.name} has no page_cache, which --io buffered needs: add it, "
            "e.g. -s page_cache.bandwidth=8GB/s, or use --io direct"
        )
    return device.flash


def count_profile(
    trace: Trace, method: Method, model: Model | None, policy: Policy, settings: Settings
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
    other_method = find_method(other, model, settings)
    units = [[group.units for group in each.groups] for each in (other_method, method)]
    if other.layers != trace.layers or units[0] != units[1]:
        raise TraceError(f"--static-from {other.name}: not the layers and units of {trace.name}")
    return uses(other, other_method)


def _model(trace: Trace, option: Input | Model | None, settings: Settings) -> Model | None:
    """Return the model of all weights, held against the trace."""
    given = option if option is not None else trace.model
    if given is None:
        return None
    if option is None and isinstance(given, str):
        given = {"name": given}  # a trace may name a preset, never a file
    if option is None and not isinstance(given, dict):
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


def _unit_bytes(
    trace: Trace, method: Method, model: Model | None, by_option: bool
) -> NDArray[np.float64]:
    """[layers, groups] bytes by option, else by ``unit_bytes`` of the trace, else by its model."""
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
