"""The numbers of engines, from the rates of models: which backend they are of, and its fit."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from dipsim.calibrate.backend import INVENTED, BackendFit, FittedNumber, fit_backend, prior_spread
from dipsim.calibrate.evidence import TimedRate, as_evidence, best_setup, by_model
from dipsim.calibrate.geometry import Geometries
from dipsim.calibrate.measured import Rate
from dipsim.calibrate.number import (
    NumberChange,
    counted,
    measured_source,
    rounded,
    text_before,
)
from dipsim.hardware import Backend, Profile, Source
from dipsim.units import BANDWIDTH, COMPUTE, TIME
from dipsim.validate.devices import backend_of
from dipsim.validate.runs import with_all_dram

EFFICIENCY, EFFICIENCY_SPREAD = 0.55, 0.6
"""Share of peak bandwidth that engines reach: the median of 37 published runs is 0.56, all lie
between 0.15 and 0.83."""
PER_LAYER = {"cpu": 0.5e-3, "gpu": 0.1e-3, "npu": 0.1e-3}
PER_LAYER_SPREAD = 2.0
"""Seconds a layer costs on a unit where nobody measured it: on CPUs 0.2 to 1.5 ms are published."""
_USUAL = "usual on phones; not measured on this one"
_PER_LAYER_LEAST = 1e-6


@dataclass(frozen=True)
class EngineNumbers:
    """Numbers of one backend that rates told."""

    backend: str
    device: Profile
    """The device with the numbers."""
    numbers: tuple[NumberChange, ...]
    kept: tuple[str, ...]
    """Numbers that stay as they were: a sentence each."""
    evidence: tuple[TimedRate, ...]


def measure_engines(
    device: Profile,
    rates: Sequence[Rate],
    geometries: Geometries,
    backend: str | None = None,
    fixed: Collection[str] = (),
) -> tuple[list[EngineNumbers], list[str]]:
    """Fit the numbers of every engine that rates were measured with.

    Args:
        backend: the one that all rates are of; default: found by unit and engine, or new.
        fixed: dotted keys of numbers that the user states, which are not fitted.

    Returns:
        What was told of each engine, and why rates were refused.

    Raises:
        DipsimError: no such backend; a model that cannot be loaded.
    """
    if backend is not None:
        device.backend(backend)
    used, refused = best_setup(rates)
    device = with_all_dram(device)  # all rates were measured with the model in memory
    of_backend: dict[str, list[Rate]] = {}
    for rate in used:
        of_backend.setdefault(backend or _name_of(rate, device), []).append(rate)
    engines = []
    for name, some in of_backend.items():
        start, priors, starting = _start(device, name, some)
        evidence = []
        for rate in some:
            ready = as_evidence(rate, start, name, geometries)
            if isinstance(ready, str):
                refused.append(f"{rate.origin.file}: {ready}")
            else:
                evidence.append(ready)
        if evidence:
            held = {key.removeprefix(f"backends.{name}.") for key in fixed}
            priors = {key: spread for key, spread in priors.items() if key not in held}
            engines.append(_measured(start, name, priors, starting, evidence, device))
            device = engines[-1].device
    geometries.check_used()
    return engines, list(dict.fromkeys(refused))


def _name_of(rate: Rate, device: Profile) -> str:
    """Return the backend of a rate: the profile's on the same unit with the same engine, else a
    new name made of both."""
    unit = rate.case.backend or "cpu"
    name, same = backend_of(rate.case, device)
    engine = device.backends[name].engine
    unstated = engine is None and name.split("-")[0] == unit
    if (same and name.split("-")[0] == unit) or unstated:
        return name
    word = re.sub(r"[^a-z0-9]", "", rate.case.engine.lower().rpartition(" ")[2])
    taken = unit in device.backends
    return f"{unit}-{word or 'measured'}" if taken else unit


def _start(
    device: Profile, name: str, rates: Sequence[Rate]
) -> tuple[Profile, dict[str, float], dict[str, NumberChange]]:
    """Return the device with a starting value of every number that rates may tell, the spread of
    each, and those numbers that it did not state before.

    A backend that it does not have takes what others on its unit have, but for the engine's own.
    """
    known = device.backends.get(name)
    unit = name.split("-")[0]
    near = next((each for each in device.backends if each.split("-")[0] == unit), None)
    near = near or next(iter(device.backends))
    section = known or device.backends[near].model_copy(
        update={"engine": rates[0].case.engine or None, "gemv": {}, "dram_efficiency": EFFICIENCY}
    )
    stated = {key for key, _ in device.numbers()}
    own = f"backends.{name}."
    new: dict[str, NumberChange] = {}
    peak = device.dram.bandwidth
    gemv = dict(section.gemv)
    efficiency = section.dram_efficiency
    if f"{own}dram_efficiency" not in stated:
        efficiency = EFFICIENCY
        new["dram_efficiency"] = _estimate(f"{own}dram_efficiency", efficiency, EFFICIENCY_SPREAD)
    for each in sorted({rate.case.stored_as or "" for rate in rates} - {*gemv, ""}):
        gemv[each] = efficiency * peak
        text = BANDWIDTH.exact(rounded(gemv[each]))
        new[f"gemv.{each}"] = _estimate(f"{own}gemv.{each}", text, EFFICIENCY_SPREAD)
    per_layer = section.per_layer
    if f"{own}per_layer" not in stated or per_layer < _PER_LAYER_LEAST:
        per_layer = PER_LAYER.get(unit, PER_LAYER["gpu"])
        text = TIME.exact(per_layer)
        new["per_layer"] = _estimate(f"{own}per_layer", text, PER_LAYER_SPREAD)
    section = section.model_copy(
        update={"gemv": gemv, "per_layer": per_layer, "dram_efficiency": efficiency}
    )
    section = section.model_copy(update={"compute": _start_compute(rates, section)})
    if known is None:
        new = {**_borrowed(device, near, name), **new}
    started = _with_backend(device, name, section, new)
    priors = {
        key: float(new[key].source["spread"]) if key in new else prior_spread(device, name, key)
        for key in (*(f"gemv.{each}" for each in gemv), "per_layer", "dram_efficiency")
    }
    for key in priors:
        source = device.source(f"{own}{key}")
        if source is not None and source.origin.startswith(_files_of(rates)):  # the same rates
            priors[key] = PER_LAYER_SPREAD if key == "per_layer" else EFFICIENCY_SPREAD
    return started, {**priors, "compute": INVENTED}, new


def _files_of(rates: Sequence[Rate]) -> str:
    """Return the beginning of the origin of what was fitted to rates of these files."""
    origin = str(measured_source([rate.origin for rate in rates], "", 0.0)["from"])
    return origin.partition(": ")[0]


def _estimate(key: str, value: Any, spread: float) -> NumberChange:
    return NumberChange(key, None, value, {"kind": "estimate", "from": _USUAL, "spread": spread})


_BORROWED = ("per_mask", "per_score", "overlap_factor", "cache_copy", "active_power")
"""Numbers of a backend that benchmarks do not tell."""


def _borrowed(device: Profile, near: str, name: str) -> dict[str, NumberChange]:
    """Return the numbers that a new backend takes from another, which no rate tells."""
    stated = dict(device.numbers())
    numbers = {}
    for key in _BORROWED:
        path = f"backends.{near}.{key}"
        source = device.source(path)
        if path not in stated:
            continue
        told: dict[str, Any] = {"kind": "estimate", "from": f"that of {near}"}
        if source is not None:
            told["from"] = f"that of {near}: {source.origin}"
            told |= {} if source.spread is None else {"spread": source.spread}
        numbers[key] = NumberChange(f"backends.{name}.{key}", None, stated[path], told)
    return numbers


def _start_compute(rates: Sequence[Rate], section: Backend) -> float:
    """Return a first FLOP/s: 2 a weight at the rate of the prompts; without any, the backend's."""
    flops = [2 * r.parameters * r.value for r in rates if r.case.kind == "prefill" and r.parameters]
    return median(flops) if flops else section.compute


def _with_backend(
    device: Profile, name: str, section: Backend, new: Mapping[str, NumberChange]
) -> Profile:
    sources = {number.key: Source.model_validate(dict(number.source)) for number in new.values()}
    return device.model_copy(
        update={
            "backends": {**device.backends, name: section},
            "sources": {**device.sources, **sources},
        }
    )


def _measured(
    start: Profile,
    name: str,
    priors: Mapping[str, float],
    new: Mapping[str, NumberChange],
    evidence: Sequence[TimedRate],
    before: Profile,
) -> EngineNumbers:
    """Return the numbers of a backend, fitted to its rates: decoding first, then prompts."""
    device, numbers, kept = start, dict(new), []
    decode = [each for each in evidence if not each.is_prompt]
    prompts = [each for each in evidence if each.is_prompt]
    used = {each.rate.case.stored_as for each in decode}
    formats = {f"gemv.{each}" for each in used}
    keys = {
        key: spread
        for key, spread in priors.items()
        if key in formats or key in ("per_layer", "dram_efficiency")
    }
    fits = []
    if decode and keys:
        fits.append((fit_backend(device, name, keys, decode), decode))
        device = fits[-1][0].device
    if prompts and "compute" in priors:
        compute = {"compute": priors["compute"]}
        fits.append((fit_backend(device, name, compute, prompts), prompts))
        device = fits[-1][0].device
    for fit, some in fits:
        for fitted in fit.numbers:
            key = f"backends.{name}.{fitted.key}"
            if fitted.told:
                numbers[fitted.key] = _number(key, fitted, fit, some, before)
            else:
                kept.append(_kept(key, fitted.key, before if fitted.key == "compute" else start))
    device = _with_sources(device, numbers.values())
    return EngineNumbers(name, device, tuple(numbers.values()), tuple(kept), tuple(evidence))


def _number(
    key: str, fitted: FittedNumber, fit: BackendFit, evidence: Sequence[TimedRate], before: Profile
) -> NumberChange:
    models = len(by_model(evidence))
    what = f"{counted(len(evidence), 'rate')} of {counted(models, 'model')}"
    source = measured_source([each.rate.origin for each in evidence], what, fitted.spread)
    if fit.left_out is not None:
        source["left_out"] = rounded(fit.left_out, 2)
    after = spelled(fitted.key, fitted.value)
    return NumberChange(key, text_before(before, key), after, source, fit.median, fit.left_out)


def _kept(path: str, key: str, device: Profile) -> str:
    """Return that a number stays as a device states it."""
    source = device.source(path)
    kind = "estimate" if source is None else source.kind
    value = text_before(device, path) or "unlimited"
    return f"{path} stays {value} ({kind}): these rates do not tell it"


def spelled(key: str, value: float) -> Any:
    """Return a number of a backend as a profile states it, to four digits."""
    if key == "dram_efficiency":
        return rounded(value)
    dimension = BANDWIDTH if key.startswith("gemv.") else COMPUTE if key == "compute" else TIME
    return dimension.exact(rounded(value))


def _with_sources(device: Profile, numbers: Any) -> Profile:
    sources = {number.key: Source.model_validate(dict(number.source)) for number in numbers}
    return device.model_copy(update={"sources": {**device.sources, **sources}})
