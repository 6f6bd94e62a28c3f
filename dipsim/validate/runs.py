"""A published case as a run of dipsim, timed by the code and the numbers of every run.

A dense case is a run without a trace; one that reads experts from flash is made in streaming.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dipsim.hardware import Profile
from dipsim.model import DEFAULT_BITS, FORMAT_BITS, Model
from dipsim.replay.traffic import Traffic
from dipsim.run import Run, replay
from dipsim.simulate import prepare
from dipsim.timeline.interval import prompt_range, rate_interval
from dipsim.timeline.timing import rate_tokens, time_tokens, time_traffic
from dipsim.validate.cases import Case
from dipsim.validate.devices import backend_of, model_of
from dipsim.validate.streaming import streamed_run

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
        """Return the seconds that the case's figure stands for: of a token; of a prompt, by token
        if the figure is a rate; or to the first token."""
        if not self.of_a_prompt:
            return 1 / time_tokens(self.run, self.traffic)[1]
        timing = time_traffic(self.run, self.traffic)
        assert timing.prefill is not None, "a run with a prompt"
        assert timing.ttft is not None, "a token follows it"
        if self.case.kind == "ttft":
            return timing.ttft
        return timing.prefill.seconds / (timing.prefill.tokens if self.case.is_rate else 1)

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
        ends = self.case.figure_of(seconds * short), self.case.figure_of(seconds * long)
        return Prediction(self.case.figure_of(seconds), min(ends), max(ends))

    @property
    def of_a_prompt(self) -> bool:
        """True if the figure is of a prompt, not of a token after it."""
        return self.case.kind in ("prefill", "ttft")


def run_of(case: Case, device: Profile, models: Mapping[str, Mapping[str, Any]]) -> CaseRun | str:
    """Return a case as a run on a device, or why it is none.

    Args:
        models: geometries that the file of the case states, by name.

    Raises:
        DipsimError: a figure of the case makes no sense.
    """
    model = model_of(case, models)
    stored = None if model is None else stored_model(case, model)
    name, same_engine = backend_of(case, device)
    if case.kind in ("streaming", "mapped"):
        streamed = streamed_run(case, device, name, stored or model)
        return streamed if isinstance(streamed, str) else CaseRun(case, *streamed, same_engine)
    if model is None:
        return "the geometry of its model is not known: state it under models"
    if stored is None:
        return "neither bits, bytes nor weight format are stated"
    options: dict[str, Any] = {"depth": case.depth, "backend": name, "method": "dense"}
    options["cache_fraction"] = 1.0  # it was measured with all of it in memory
    device = with_all_dram(device)
    if case.kind != "decode":
        options["prompt"] = case.prompt or _PROMPT
    run = prepare(None, device, model=stored, **options)
    if run.budget.static.total + run.budget.units_bytes > device.dram.capacity:
        return "its weights do not fit in the DRAM of the device"
    return CaseRun(case, run, replay(run), same_engine)


def with_all_dram(device: Profile) -> Profile:
    """Return the device with all its DRAM left to the run."""
    dram = device.dram.model_copy(update={"available": device.dram.capacity})
    return device.model_copy(update={"dram": dram})


def stored_model(case: Case, model: Model) -> Model | None:
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
    return model.stored_at(bits, case.stored_as)
