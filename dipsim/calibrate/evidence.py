"""Rates as runs: what each took, what dipsim says it takes, and which number it tells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

import numpy as np

from dipsim.calibrate.geometry import Geometries
from dipsim.calibrate.measured import Rate
from dipsim.calibrate.number import counted
from dipsim.errors import DipsimError
from dipsim.hardware import Profile
from dipsim.model import Model
from dipsim.units import BANDWIDTH
from dipsim.validate.cases import Case
from dipsim.validate.predictors import bytes_of
from dipsim.validate.runs import CaseRun, run_of

NOISE = 0.03
"""Least standard deviation of a rate's logarithm: what a phone repeats even in one sitting."""


LEAST_PROMPT = 32
"""Tokens of the shortest prompt that tells FLOP/s rather than bytes/s."""
_MOST_BITS = 32.0
_DEFAULTS = "the defaults"


@dataclass(frozen=True)
class TimedRate:
    """A rate of a model, as a run of dipsim."""

    rate: Rate
    model: str
    """Label of the model: equal for one shape, whatever it is called."""
    run: CaseRun
    noise: float
    """Standard deviation of the logarithm of the rate."""

    @property
    def took(self) -> float:
        """Measured seconds of a token."""
        return 1 / self.rate.value

    @property
    def is_prompt(self) -> bool:
        """True for the rate of a prompt."""
        return self.rate.case.kind == "prefill"


def as_evidence(
    rate: Rate, device: Profile, backend: str, geometries: Geometries
) -> TimedRate | str:
    """Return a rate as a run on a device, or a sentence why it is none.

    Raises:
        DipsimError: a model that cannot be loaded.
    """
    model = geometries.of(rate)
    if isinstance(model, str):
        return model
    if rate.kv_bits != 16:
        return f"{rate.case.model}: KV of {rate.kv_bits:g} bits; measure with f16"
    if model.experts is not None and rate.case.kind != "decode":
        return f"{rate.case.model}: which experts a prompt used is not known"
    if (rate.case.model_bytes or 0.0) > device.dram.capacity:
        return f"{rate.case.model}: its weights do not fit in the DRAM of the device"
    if rate.case.kind == "decode" and rate.case.stored_as is None:
        return f"{rate.case.model}: its weight format is not known"
    if rate.case.kind == "prefill" and (rate.case.prompt or LEAST_PROMPT) < LEAST_PROMPT:
        return f"{rate.case.model}: a prompt of {rate.case.prompt} is too short to tell compute"
    try:
        run = run_of(_case(rate.case, model, backend), device, {})
    except DipsimError as problem:
        return f"{rate.case.model}, {rate.value:.4g} tok/s: {problem}"
    if isinstance(run, str):
        return f"{rate.case.model}: {run}"
    peak = device.dram.bandwidth
    reached = bytes_of(run).size * rate.value
    if rate.case.kind == "decode" and reached > peak:
        return (
            f"{rate.case.model}: {rate.value:.4g} tok/s read {BANDWIDTH.show(reached)}, more than "
            f"dram.bandwidth, {BANDWIDTH.show(peak)}: correct that one with -s, or leave it out"
        )
    deviation = 0.0 if rate.deviation is None else rate.deviation / rate.value
    label = f"{model.layers} x {model.hidden} x {model.intermediate}, {model.kv_heads} KV heads"
    return TimedRate(rate, label, run, max(NOISE, deviation))


def _case(case: Case, model: Model, backend: str) -> Case:
    """Return the case with its geometry, and with the bits of a weight where its bytes are told."""
    bits = case.bits
    if case.model_bytes is not None:
        bits = min(_MOST_BITS, 8 * case.model_bytes / model.parameters)
    plain = model.as_read().stored_at(16.0, None)  # what it is stored in, the case says
    geometry: dict[str, Any] = plain.model_dump(mode="json", exclude_none=True)
    changes = {"model": geometry, "backend": backend, "engine": "", "profile": None}
    return case.model_copy(update={**changes, "bits": bits, "model_bytes": None})


def best_setup(rates: Sequence[Rate]) -> tuple[list[Rate], list[str]]:
    """Return the rates with the best threads and options of each engine, and a sentence for each
    engine of which others are refused.

    The best are those with the highest mean of the decode rates that were measured with all of
    them; of an engine that decoded nothing, of the prompts. Work that was not measured with the
    best is used as it was.
    """
    used: list[Rate] = []
    refused = []
    engines: dict[tuple[str, str], list[Rate]] = {}
    for rate in rates:
        engines.setdefault((rate.case.backend, rate.case.engine), []).append(rate)
    for (_, engine), some in engines.items():
        tried = list(dict.fromkeys(setup_of(rate) for rate in some))
        best = tried[0] if len(tried) == 1 else max(tried, key=_mean_of(some, tried))
        have_best = {work_of(rate) for rate in some if setup_of(rate) == best}
        used += [r for r in some if setup_of(r) == best or work_of(r) not in have_best]
        others = [r for r in some if setup_of(r) != best and work_of(r) in have_best]
        if others:
            setups = ", ".join(dict.fromkeys(setup_of(rate) or _DEFAULTS for rate in others))
            many = counted(len(others), "rate")
            refused.append(f"{engine}: {many} with {setups}: slower than with {best or _DEFAULTS}")
    return used, refused


def setup_of(rate: Rate) -> str:
    """Return the threads and options of a rate, in words."""
    threads = [] if rate.threads is None else [f"{rate.threads} threads"]
    return ", ".join([*threads, *([rate.settings] if rate.settings else [])])


def work_of(rate: Rate) -> str:
    """Return what was timed, whatever the setup."""
    case = rate.case
    return f"{case.kind} {case.model} {case.weight_format} {case.depth} {case.prompt}"


def _mean_of(rates: Sequence[Rate], tried: Sequence[str]) -> Callable[[str], float]:
    """Return the mean rate of a setup, over the work that was measured with all of ``tried``."""
    kinds = {rate.case.kind for rate in rates}
    kind = "decode" if "decode" in kinds else "prefill"
    table: dict[str, dict[str, float]] = {}
    for rate in rates:
        if rate.case.kind == kind:
            table.setdefault(work_of(rate), {})[setup_of(rate)] = rate.value
    shared = [row for row in table.values() if all(each in row for each in tried)]

    def mean(setup: str) -> float:
        rows = shared or [row for row in table.values() if setup in row]
        return geometric_mean(row[setup] for row in rows) if rows else 0.0

    return mean


def by_model(evidence: Sequence[TimedRate]) -> Mapping[str, list[TimedRate]]:
    """Return the evidence of each model."""
    models: dict[str, list[TimedRate]] = {}
    for each in evidence:
        models.setdefault(each.model, []).append(each)
    return models


def median_error(errors: Sequence[float]) -> float:
    """Return the median of the absolute relative errors of times, from their logarithms."""
    return float(np.median(np.abs(np.expm1(errors))))
