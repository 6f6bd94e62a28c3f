"""A published case as a run of dipsim, timed by the code and the numbers of every run.

A dense case is a run without a trace. A case that streams experts states its bytes, not its routes:
its counts are laid out evenly over a few tokens, so that their means are those of the case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.hardware import Profile
from dipsim.kernels import Requests
from dipsim.model import DEFAULT_BITS, FORMAT_BITS, Model
from dipsim.replay.traffic import Traffic, empty_traffic
from dipsim.run import Run, replay
from dipsim.simulate import prepare
from dipsim.timeline.interval import prompt_range, rate_interval
from dipsim.timeline.timing import rate_tokens, time_tokens, time_traffic
from dipsim.trace import DECODE, Outline, Tokens
from dipsim.trace.outline import SignalOutline
from dipsim.validate.cases import UNITS, Case
from dipsim.validate.devices import backend_of, model_of

_ANY_CACHE = 0.01
"""Share of the experts that a cache holds whose hits are stated anyway."""
_TOKENS = 32
"""Tokens that the counts of a streaming case are laid out over."""
_SLACK = 0.01
"""Share of an expert by which stated bytes may exceed those of the experts used."""
_PROMPT = 512
"""Tokens of a prompt that a case does not state."""


class Prediction(NamedTuple):
    """A figure that `run` would print, in the unit of the case, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CaseRun:
    """A case made ready to be timed."""

    case: Case
    run: Run
    traffic: Traffic
    same_engine: bool
    """False where the profile has no numbers of the case's engine, and another's are used."""

    def on(self, device: Profile) -> "CaseRun":
        """Return the same work on a device whose backends have other numbers."""
        return replace(self, run=replace(self.run, device=device))

    def seconds(self) -> float:
        """Return the seconds of a token, of a prompt (of its token, for a rate), or to the first
        one."""
        if not self.of_a_prompt:
            return 1 / time_tokens(self.run, self.traffic)[1]
        timing = time_traffic(self.run, self.traffic)
        assert timing.prefill is not None, "a run with a prompt"
        assert timing.ttft is not None, "a token follows it"
        if self.case.kind == "ttft":
            return timing.ttft
        per_token = UNITS[self.case.unit][1] < 0
        return timing.prefill.seconds / (timing.prefill.tokens if per_token else 1)

    def predict(self) -> Prediction:
        """Return the figure that is printed, with its 90 % interval."""
        if self.of_a_prompt:
            seconds = self.seconds()
            short, long = prompt_range(self.run, self.traffic)
        else:
            timing = rate_tokens(self.run, self.traffic)
            seconds = 1 / timing.rate
            interval = rate_interval(self.run, self.traffic, timing)
            low, high = timing.rate_range if interval is None else (interval.low, interval.high)
            short, long = timing.rate / high, timing.rate / low
        scale, power = UNITS[self.case.unit]
        value, *ends = (float(s**power / scale) for s in (seconds, seconds * short, seconds * long))
        return Prediction(value, min(ends), max(ends))

    @property
    def of_a_prompt(self) -> bool:
        """True if the figure is of a prompt, not of a token after it."""
        return self.case.kind in ("prefill", "ttft")


def run_of(case: Case, device: Profile, models: Mapping[str, Mapping[str, Any]]) -> CaseRun | str:
    """Return a case as a run on a device, or why it is none.

    Raises:
        DipsimError: a figure of the case makes no sense.
    """
    model = model_of(case, models)
    name, same_engine = backend_of(case, device)
    if case.kind in ("streaming", "mapped"):
        return _streaming(case, device, model, name, same_engine)
    if model is None:
        return "the geometry of its model is not known: state it under models"
    stored = _stored(case, model)
    if stored is None:
        return "neither bits, bytes nor weight format are stated"
    options: dict[str, Any] = {"depth": case.depth, "backend": name, "method": "dense"}
    options["cache_fraction"] = 1.0  # it was measured with all of it in memory
    device = with_all_dram(device)
    if case.kind != "decode":
        options["prompt"] = case.prompt or _PROMPT
    run = prepare(None, device, model=_active(stored), **options)
    if run.budget.static.total + run.budget.units_bytes > device.dram.capacity:
        return "its weights do not fit in the DRAM of the device"
    return CaseRun(case, run, replay(run), same_engine)


def with_all_dram(device: Profile) -> Profile:
    """Return the device with all its DRAM left to the run."""
    dram = device.dram.model_copy(update={"available": device.dram.capacity})
    return device.model_copy(update={"dram": dram})


def _stored(case: Case, model: Model) -> Model | None:
    """Return the model as the case stores it: by bytes where they are stated, else by bits, else
    by its format; None where nothing says it."""
    untied = 0 if model.tied_embeddings else model.embedding_parameters
    read = model.active_parameters - untied
    bits = case.bits
    if case.weight_bytes is not None:
        bits = 8 * case.weight_bytes / read
    elif case.model_bytes is not None:
        bits = 8 * case.model_bytes / model.parameters
    if bits is None and case.stored_as is None:
        return None
    if bits is None:
        bits = FORMAT_BITS.get(str(case.stored_as), DEFAULT_BITS)
    changes = {"bits": bits, "quant": None, "weight_format": case.stored_as}
    return model.model_copy(update=changes)


def _active(model: Model) -> Model:
    """Return the dense model that uses as many weights a token as a model of experts in memory."""
    if model.experts is None:
        return model
    width = (model.experts_per_token or 1) * model.intermediate + model.shared_intermediate
    none = {"experts": None, "experts_per_token": None, "shared_intermediate": 0}
    return model.model_copy(update={"intermediate": width, **none})


def _streaming(
    case: Case, device: Profile, model: Model | None, backend: str, same_engine: bool
) -> CaseRun | str:
    """Return the run of a case that reads experts from flash."""
    layers = case.layers or (model.layers if model is not None else None)
    used = case.experts_used or (model.experts_per_token if model is not None else None)
    if case.flash_bytes is None:
        return "no bytes from flash are stated"
    if layers is None or used is None:
        return "layers and experts of its model are not known: state them"
    stored = None if model is None else _stored(case, model) or model
    size = case.expert_bytes or (None if stored is None else stored.mlp_bytes)
    if size is None:
        return "the bytes of an expert are not stated"
    dense = case.dense_bytes or 0.0
    if stored is not None:
        dense = (dense or _in_layers(stored)) + stored.head_bytes
    if not dense:
        return "the bytes of the weights that every token uses are not stated"
    outline = Outline(
        name=case.id,
        rows=Tokens.of(np.full(_TOKENS, DECODE, np.uint8), np.zeros(_TOKENS, np.int32)),
        layers=layers,
        signals={
            "expert": SignalOutline(
                name="expert",
                encoding="sparse",
                recorded_units=case.experts or (model.experts if model else None) or 2 * used,
                scored=False,
                declared={"unit_bytes": size, "tensors": case.tensors},
            )
        },
        meta={"dense_bytes": dense / layers, "weight_format": case.stored_as},
        hash="",
        recorded_layers=layers,
    )
    mapped = case.kind == "mapped"
    run = prepare(
        outline,
        device,
        method="recorded",
        policy="lru" if case.cache_bytes and not mapped else "none",
        backend=backend,
        overlap="serial" if mapped else case.overlap,
        overrides=[] if case.lanes is None else [f"flash.lanes={case.lanes}"],
        cache_fraction=_ANY_CACHE,
        io="mmap" if mapped else "direct",
    )
    missed = case.flash_bytes / size / layers
    used = max(used, int(np.ceil(missed - _SLACK)))
    return CaseRun(case, run, _laid_out(run, used, min(missed, used)), same_engine)


def _in_layers(model: Model) -> float:
    """Return the bytes of the layers that every token uses: attention, routers, shared experts."""
    return model.layers * (model.attention_bytes + model.static_mlp_bytes)


def _laid_out(run: Run, used: int, missed: float) -> Traffic:
    """Return counts whose means are ``used`` experts a layer, of which ``missed`` are read.

    Misses are spread so that every layer and token has the whole number below or above the mean.
    """
    layers, tokens = run.trace.layers, len(run.tokens)
    measured = np.ones(tokens, np.bool_)
    traffic = empty_traffic(
        tokens, run.method.groups, run.budget.capacity, measured, run.sets.no_shares()
    )
    steps = np.floor(missed * np.arange(layers * tokens + 1) + 1e-9)
    misses: NDArray[np.int32] = np.diff(steps).astype(np.int32).reshape(layers, tokens).T
    traffic.active[:, :, 0] = used
    traffic.hits[:, :, 0] = used - misses
    traffic.kept[:, :, 0] = misses if run.policy.admit != "never" else 0
    for layer in range(layers):
        for count in np.unique(misses[:, layer]):
            rows = misses[:, layer] == count
            reads, moved, seconds = _alone(run, layer, int(count))
            traffic.reads[rows, layer, 0] = reads
            traffic.moved[rows, layer, 0] = moved
            traffic.flash_seconds[rows, layer, 0] = seconds
    return traffic


def _alone(run: Run, layer: int, count: int) -> tuple[int, float, float]:
    """Return reads, bytes moved and seconds of ``count`` missed experts that are no neighbours."""
    costs, fault = run.costs[layer][0], run.device.flash.fault
    assert isinstance(costs, Requests), "experts are read alone"
    moved = count * float(costs.moved[1])
    if run.settings.io == "mmap":
        assert fault is not None, "refused when the flash was looked up"
        return count, moved, moved / fault.page * fault.seconds
    curve = costs.curve_of[min(count, len(costs.curve_of) - 1)]
    return count * costs.tensors, moved, count * float(costs.seconds[curve, 1])
