"""Parts of a run that trace, model, device and settings settle together."""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import ModelError, ProfileError, TraceError, brief
from dipsim.flash.cost import Placement
from dipsim.flash.layout import Places
from dipsim.flash.order import learned_places, order_rows
from dipsim.flash.page_cache import mapped
from dipsim.hardware import Flash, Profile
from dipsim.methods import build_method
from dipsim.methods.contract import Group
from dipsim.model import MOST_BYTES, SIGNALS, Layer, Model, layer_units, load_model
from dipsim.policies import Policy
from dipsim.replay.active_sets import ActiveSets, every_set, uses
from dipsim.settings import Settings
from dipsim.trace import DECODE, PREFILL, Outline, Tokens, load_trace, recording
from dipsim.trace.logs.usage import holds_uses, uses_for
from dipsim.trace.signal import Signal
from dipsim.units import BYTES

_UNIT_BYTES = 2.0**-10, 2.0**40
"""Range of the bytes of a unit that a trace declares."""
_LONGEST_PROMPT = 2**20
"""Tokens of the longest prompt without a trace."""
WITHOUT_TRACE = "no trace"
"""Name of the trace of a run that has none."""
_MOST_TENSORS = 16
_SAME_BYTES = 0.25
"""Share by which the bytes of experts may differ and still be the same experts."""
Input = str | os.PathLike[str] | Mapping[str, Any]
"""A file, the name of something shipped, or its contents."""


def trace_of(
    given: Input | Outline | None, model: Input | Model | None, settings: Settings
) -> Outline:
    """Return the trace of a run, opened; of a dense model without one, the tokens that are asked
    for: a prompt, and the token behind it.

    Raises:
        TraceError: no such trace; a prompt of no tokens, or too many; no trace where one is needed.
    """
    if (settings.prompt or 0) > _LONGEST_PROMPT:
        raise TraceError(f"--prompt {settings.prompt}: at most {_LONGEST_PROMPT} tokens")
    if given is not None and settings.prompt == 0:
        raise TraceError("--prompt 0: beside a trace a prompt has at least 1 token; drop it")
    if given is not None and settings.prompt is not None and settings.io != "direct":
        raise TraceError(
            f"--prompt {settings.prompt} and --io {settings.io}: a prompt streams its weights past "
            "the page cache, so it has direct reads only; drop one of them"
        )
    if isinstance(given, Outline):
        return given
    if given is not None:
        return load_trace(given)
    if settings.method != "dense" or model is None:
        raise TraceError(
            "no trace: give one (dipsim run TRACE --profile NAME); without one only a dense model "
            "is timed, with --model NAME --method dense"
        )
    known = load_model(model, settings.bits, settings.weight_format)
    layers = int(known.layers_with(_units_of(known, {})).sum())
    phase = np.append(np.full(settings.prompt or 0, PREFILL), DECODE).astype(np.uint8)
    return Outline(
        name=WITHOUT_TRACE,
        rows=Tokens.of(phase, np.zeros(len(phase), np.int32)),
        layers=layers,
        signals={},
        meta={},
        hash="",
        recorded_layers=layers,
    )


def find_model(trace: Outline, option: Input | Model | None, settings: Settings) -> Model | None:
    """Return the model by option, else by the trace's meta; None when neither says.

    Raises:
        ModelError: no such model, or not the one the trace was recorded from; weights pruned
            beforehand without a model, or with a method that prunes by itself.
    """
    given, weights = option if option is not None else trace.model, settings.weights
    if weights is not None and settings.method != "dense":
        raise ModelError(
            f"--weights {weights} prunes beforehand, once for all tokens: give it with "
            "--method dense"
        )
    if given is None:
        if weights is not None:
            raise ModelError(f"--weights {weights}: {trace.name} names no model: pass --model")
        if settings.prompt is not None:
            raise ModelError(f"--prompt: {trace.name} names no model to prefill one: pass --model")
        return None
    if option is None and isinstance(given, str):
        given = {"name": given}  # a trace may name a preset, never a file
    if option is None and not isinstance(given, dict):
        raise ModelError(f"{trace.name}: meta.model must be a preset's name or a geometry")
    model = load_model(given, settings.bits, settings.weight_format)
    holds = _layers_held(trace, model)
    _refuse_other_bytes(trace, model, option is not None and settings.bits is None)
    for signal in trace.signals.values():
        units = int(model.layer_units(signal.name).max()) if signal.name in SIGNALS else 0
        assumed = bool(signal.declared.get("assumed")) and units > signal.recorded_units
        if units not in (0, signal.recorded_units) and not assumed:
            raise ModelError(
                f"model {model.name} has {units} units of {signal.name}, "
                f"{trace.name} has {signal.recorded_units}: pass the --model the trace was "
                "recorded from"
            )
    _refuse_beyond_context(trace, model, settings)
    pruned = {} if weights is None else {"weights": weights}
    first = trace.first_layer
    return model.model_copy(update=pruned).recorded_by(holds, first, first + trace.layers)


def _with_all_experts(trace: Outline, model: Model | None) -> Outline:
    """Return the trace with as many experts as the model has, where its log did not say how many
    there are: the last ones are never used in it."""
    signal = trace.signals.get("expert")
    experts = 0 if model is None else model.experts or 0
    if not isinstance(signal, Signal) or not signal.declared.get("assumed"):
        return trace
    if experts <= signal.recorded_units:
        return trace
    return replace(trace, signals={**trace.signals, "expert": signal.with_units(experts)})


def with_units_of(trace: Outline, model: Model | None) -> Outline:
    """Return the trace whose layers have the units that a model gives them, of signals of which it
    does not state them itself.

    Raises:
        ModelError: it states others than the model has.
    """
    units = {}
    trace = _with_all_experts(trace, model)
    for signal in trace.signals.values():
        if model is None or signal.name not in SIGNALS:
            continue
        name, recorded = signal.name, trace.recorded_layers
        counts = np.full(recorded, signal.recorded_units)
        window = slice(trace.first_layer, trace.first_layer + trace.layers)
        known = model.recorded_units(name)
        if not known.any() or (known == signal.recorded_units).all():
            continue
        counts[window] = known
        stated = np.array(signal.recorded_layer_units or counts)
        if (stated[window] != counts[window]).any():
            layer = int((stated != counts).argmax())
            raise ModelError(
                f"model {model.name} has {counts[layer]} units of {name} in layer {layer}, "
                f"{trace.name} states {stated[layer]}: pass the --model the trace was recorded from"
            )
        units[name] = counts
    return trace.with_layer_units(units)


def _units_of(model: Model, signals: Collection[str]) -> Collection[str]:
    """Return the signals whose units are replayed: the trace's, or those of MLPs or experts."""
    return signals or ({"glu"} if model.experts is None else {"expert"})


def _layers_held(trace: Outline, model: Model) -> NDArray[np.bool_]:
    """Return which layers of a model a trace has: all, or those that have units of its signals.

    Raises:
        ModelError: neither are as many as the trace's.
    """
    layers, recorded = model.layers, trace.recorded_layers
    holds = model.layers_with(_units_of(model, trace.signals))
    numbers = trace.meta.get("layer_numbers")
    if isinstance(numbers, list) and numbers != np.flatnonzero(holds).tolist():
        raise ModelError(
            f"{trace.name} is of layers {brief(numbers, 60)}, model {brief(model.name, 60)} has "
            f"experts in {holds.sum()} of {layers} layers, and not in those: pass the --model the "
            "log is from, or import it with --layers-are moe"
        )
    if layers == recorded:
        return np.ones(layers, np.bool_)
    if holds.sum() == recorded:
        return holds
    if layers == trace.tokens:
        raise ModelError(
            f"model {model.name} has {layers} layers, {trace.name} has {trace.tokens} tokens "
            f"of {recorded} layers: its axes seem to be [layers, tokens, units], save "
            "np.swapaxes(x, 0, 1)"
        )
    some = "" if holds.all() else f" ({holds.sum()} with units of its signals)"
    raise ModelError(
        f"model {model.name} has {layers} layers{some}, {trace.name} has "
        f"{recorded}: pass the --model the trace was recorded from"
    )


def _refuse_beyond_context(trace: Outline, model: Model, settings: Settings) -> None:
    """Refuse a depth or a prompt that the model does not read.

    Raises:
        ModelError: it goes beyond the model's context.
    """
    asked = {"--depth": settings.depth or 0, "--prompt": settings.prompt or 0}
    option = max(asked, key=asked.__getitem__)
    if not asked[option] or model.context is None:
        return
    longest = max(int(trace.position.max()) + 1, asked["--prompt"])
    if longest > model.context:
        raise ModelError(
            f"{option} {asked[option]}: tokens would reach position {longest}, and model "
            f"{model.name} reads {model.context}: give less"
        )


def _refuse_other_bytes(trace: Outline, model: Model, by_option: bool) -> None:
    """Refuse a model by option whose experts are not as large as those the trace states.

    Raises:
        ModelError: they differ by more than a quarter.
    """
    signal = trace.signals.get("expert")
    if not by_option or not trace.states_bytes or signal is None:
        return
    declared = declared_bytes(trace, "expert")
    assert declared is not None, "states_bytes says that it is declared"
    if not (declared := declared[declared > 0]).size:
        return
    stated = float(declared.mean())
    if abs(model.mlp_bytes / stated - 1) > _SAME_BYTES:
        raise ModelError(
            f"model {model.name} has experts of {BYTES.show(model.mlp_bytes)}, {trace.name} states "
            f"{BYTES.show(stated)}: drop --model, or give the --bits to take the model's"
        )


def place_units(sets: ActiveSets, model: Model | None, by_option: bool) -> Placement:
    """Return the bytes of the units, and where they lie in flash.

    Args:
        by_option: the model was an option of the run, and so wins over what the trace declares.

    Raises:
        ModelError: nothing says what a unit takes.
        TraceError: it declares what makes no sense, or units larger than any model.
        MethodError: nothing an order can be learned from.
    """
    method, settings = sets.method, sets.settings
    by_option = by_option and not sets.trace.states_bytes
    by_option = by_option or (settings.bits is not None and model is not None)
    places: Places | None = None
    if settings.layout == "permuted":
        rows = order_rows(sets.trace, settings.order_from)
        part = recording(sets.trace).window(*rows)
        places = learned_places(every_set, part, method)
    tensors = tuple(_tensors(sets.trace, group.signal) for group in method.groups)
    sizes = _unit_bytes(sets, model, by_option)
    return Placement(method, model, sizes, settings.layout, places, tensors)


def _tensors(trace: Outline, signal: str) -> int:
    """Return the tensors that a unit is read from, by ``meta.signals.<signal>.tensors``, else one.

    Raises:
        TraceError: not a number from 1 to 16.
    """
    outline = trace.signals.get(signal)
    stated = 1 if outline is None else outline.declared.get("tensors", 1)
    if not isinstance(stated, int) or isinstance(stated, bool) or not 1 <= stated <= _MOST_TENSORS:
        raise TraceError(f"{trace.name}: tensors of {signal} must be 1 to {_MOST_TENSORS}")
    return stated


def learned_rows(sets: ActiveSets) -> tuple[tuple[int, int], ...]:
    """Return the rows (A, B) that something is learned from, so that they are not measured."""
    settings = sets.settings
    calibration = sets.trace.calibration_rows(settings.calibrate_tokens)
    if settings.layout != "permuted":
        return (calibration,)
    return calibration, order_rows(sets.trace, settings.order_from)


def find_flash(device: Profile, io: str) -> Flash:
    """Return the flash as the run reads it: mapped files are served a page per fault.

    Raises:
        ProfileError: the profile does not say what a fault, or a copy from the page cache, takes.
    """
    if io == "mmap":
        return mapped(device)
    if io == "buffered" and device.page_cache is None:
        raise ProfileError(
            f"profile {device.name} has no page_cache, which --io buffered needs: add it, "
            "e.g. -s page_cache.bandwidth=8GB/s, or use --io direct"
        )
    return device.flash


def count_profile(
    sets: ActiveSets, model: Model | None, policy: Policy
) -> list[NDArray[np.int64]] | None:
    """Per group int64[layers, units]: uses on the trace of ``--static-from`` or ``--warm-from``,
    when there is one.

    Raises:
        TraceError: the policy has no use for it, or that trace is of another shape.
    """
    settings, trace = sets.settings, sets.trace
    if settings.static_from is not None and not policy.preload:
        raise TraceError(
            f"--static-from is for policies static and pinned, not for {policy.name}: drop it, or "
            "use --warm-from"
        )
    if settings.warm_from is not None and policy.preload:
        raise TraceError(
            f"--warm-from with policy {policy.name}: it starts from --static-from: use that"
        )
    option = "--warm-from" if settings.static_from is None else "--static-from"
    profile = settings.static_from or settings.warm_from
    if profile is None:
        return None
    if holds_uses(path := Path(profile)):
        if not all(group.of_experts for group in sets.method.groups) or settings.cluster > 1:
            raise TraceError(f"{option} {path}: holds uses of experts, and the run has none")
        return [uses_for(option, path, trace, group.units) for group in sets.method.groups]
    other = load_trace(profile).clustered(settings.cluster)
    method = build_method(other, settings, model, sets.method.custom)
    units = [[group.units for group in each.groups] for each in (method, sets.method)]
    if other.layers != trace.layers or units[0] != units[1]:
        raise TraceError(
            f"{option} {other.name}: not the layers and units of the run ({trace.name}): "
            "give a trace of the same model"
        )
    return uses(other, method)


def _unit_bytes(sets: ActiveSets, model: Model | None, by_option: bool) -> NDArray[np.float64]:
    """[layers, groups] bytes by option, else by ``unit_bytes`` of the trace, else by its model."""
    trace, groups = sets.trace, sets.method.groups
    sizes = np.empty((trace.layers, len(groups)))
    asked = sets.settings.expert_bytes()
    if asked is not None and not all(group.of_experts for group in groups):
        raise ModelError(
            f"--unit-bytes {sets.settings.unit_bytes}: is the size of an expert, and "
            f"{groups[0].signal} has none: drop it"
        )
    for i, group in enumerate(groups):
        signal = trace.signals.get(group.signal)
        cluster = 1 if signal is None else signal.cluster
        declared = declared_bytes(trace, group.signal)  # refused if wrong, also where not used
        has = group.units_in(trace.layers)
        if asked is not None:
            sizes[:, i] = np.where(has, asked, 0)
        elif declared is not None and not by_option:
            sizes[:, i] = np.where(has, declared, 0)
        elif model is not None:
            sizes[:, i] = cluster * _model_bytes(model, group)
        else:
            raise ModelError(
                f"{trace.name} does not say which model it is from: pass --model NAME or FILE"
                + (
                    ", or how large an expert is: --unit-bytes 1MB"
                    if group.of_experts
                    else f" (or store meta.model, or unit_bytes of {group.signal})"
                )
            )
    total = float((sizes * sets.method.units_in(trace.layers)).sum())
    if total > MOST_BYTES:
        raise TraceError(
            f"{trace.name}: its units take {BYTES.show(total)}, at most {BYTES.show(MOST_BYTES)} "
            "are believable: correct unit_bytes, or the --model"
        )
    return sizes


def _model_bytes(model: Model, group: Group) -> NDArray[np.float64]:
    """[layers of the trace] bytes of a unit of a group; 0 in layers that have none."""

    def size(layer: Layer) -> float:
        if group.of_experts:
            return layer.mlp_bytes if layer.experts else 0.0
        has = group.signal not in SIGNALS or layer_units(layer)[group.signal]
        return layer.slice_bytes(group.slices) if has else 0.0

    return model.by_recorded(size)


def declared_bytes(trace: Outline, signal: str) -> NDArray[np.float64] | None:
    """Return [layers] bytes of a unit, neighbours that are read as one together, as ``unit_bytes``
    of a signal declares them; None where nothing does.

    Raises:
        TraceError: neither a number in range nor one per layer.
    """
    outline = trace.signals.get(signal)
    declared = None if outline is None else outline.declared.get("unit_bytes")
    if outline is None or declared is None:
        return None
    recorded = trace.recorded_layers
    values = declared if isinstance(declared, list) else [declared] * recorded
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    least, most = _UNIT_BYTES
    fits = plain and len(values) == recorded
    if fits:  # layers without units may take no bytes
        units = outline.units_of(0, recorded).tolist()
        fits = all(least <= v <= most or v == u == 0 for v, u in zip(values, units, strict=True))
    if not fits:
        raise TraceError(
            f"{trace.name}: unit_bytes of {signal} must be a number from {least:g} to {most:g}, or "
            f"{recorded} of them"
        )
    return outline.cluster * np.array(values, np.float64)[trace.first_layer :][: trace.layers]
