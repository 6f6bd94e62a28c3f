"""The question of a plan, and runs that answer it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from dipsim.hardware import Profile
from dipsim.model import Model
from dipsim.result import Result
from dipsim.simulate import simulate
from dipsim.timeline.interval import prompt_range
from dipsim.trace import Trace
from dipsim.views import shortened


@dataclass(frozen=True)
class Question:
    """A model on a device, with what a run of it is to be."""

    model: Model
    device: Profile
    trace: Trace | None
    """Scores or routes; None: nothing is known of which units a token needs."""
    context: int
    """Positions of keys and values that are held, and read by a token."""
    prompt: int
    """Tokens of the prompt that the first token waits for."""
    target: float | None = None
    """Tokens per second that are wanted."""
    max_loss: float | None = None
    """Most that a way may lose, as of ``dipsim search``."""
    calibration: Any = None
    """A `dipsim.analysis.calibration.Calibration`; None without one."""
    like: str | None = None
    """Name of the trace that ``trace`` was drawn after; None for a recorded one."""
    assumed: str = ""
    """Assumption that runs of ``trace`` rest on; empty for a recorded one."""
    warmup: int = 0
    """First tokens of routes that were drawn, which fill the caches and are not timed."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of every run."""

    __repr__ = __str__ = shortened

    @property
    def of_experts(self) -> bool:
        """True for a mixture of experts."""
        return self.model.experts is not None

    def run(self, trace: Trace | None = None, **changes: Any) -> Result:
        """Return a run of the model, dense without a trace.

        Raises:
            DipsimError: it cannot be run so; e.g. keys and values alone exceed DRAM.
        """
        options = self.options_of(trace, **changes)
        model = options.pop("model", self.model)
        device = options.pop("device", self.device)
        return simulate(trace, device, model=model, **options)

    def options_of(self, trace: Trace | None = None, **changes: Any) -> dict[str, Any]:
        """Return the options of a run, whose last token fills the context."""
        options = {**self.options, "prompt": self.prompt, "context": self.context, **changes}
        if trace is None:
            depth = max(0, options.pop("context") - self.prompt - 1)
            return {"method": "dense", "depth": depth, **options}
        if self.of_experts:
            options.pop("prompt")  # that of the routes
        if self.warmup:
            options["warmup"] = self.warmup
        longest = int(trace.position.max()) + 1
        return {**options, "depth": max(0, options["context"] - longest)}

    def changed(self, **options: Any) -> "Question":
        """Return the question with other options of every run; ``model`` is a `Model`."""
        changes = dict(options)
        model, context = changes.pop("model", self.model), changes.pop("context", self.context)
        if "bits" in changes:
            model = model.stored_at(changes["bits"], changes.get("weight_format"))
        return replace(self, model=model, context=context, options={**self.options, **changes})

    def on(self, **dram: Any) -> "Question":
        """Return the question for a device with other numbers of DRAM."""
        device = self.device
        changed = device.model_copy(update={"dram": device.dram.model_copy(update=dram)})
        return replace(self, device=changed)


class Span(NamedTuple):
    """A figure with the ends of its 90 % interval; equal ends are none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    """Figures of a run."""

    rate: Span
    """Tokens per second."""
    ttft: Span | None
    """Seconds to the first token; None without a prompt."""
    prompt: int
    """Tokens of the prompt before it."""
    energy: Span | None
    """Joules a token; None where the profile states none."""
    dram: float
    """Bytes of DRAM that the run takes."""
    flash: float
    """Bytes read from flash a token."""
    first: tuple[str, ...]
    """Keys of the numbers that widen the rate most."""
    marks: tuple[str, ...]
    assumed: str = ""
    """Assumption that they rest on beside the profile; empty for none."""

    __repr__ = __str__ = shortened

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        spans = {"rate": self.rate, "ttft": self.ttft, "energy": self.energy}
        plain = {key: None if span is None else span._asdict() for key, span in spans.items()}
        rest = {
            "prompt": self.prompt,
            "dram": self.dram,
            "flash_bytes_per_token": self.flash,
            "marks": [*self.marks],
            "assumed": self.assumed,
        }
        return {**plain, **rest}


def figures_of(result: Result) -> Figures:
    """Return the figures of a run."""
    rate, interval = result.tokens_per_second, result.interval
    low, high = (rate, rate) if interval is None else (interval.low, interval.high)
    measured = () if interval is None else interval.first_to_measure
    return Figures(
        rate=Span(rate, low, high),
        ttft=_first_token(result, low, high),
        prompt=0 if result.timing.prefill is None else result.timing.prefill.tokens,
        energy=_energy(result),
        dram=taken(result),
        flash=result.flash_bytes_per_token,
        first=tuple(number.key for number in measured),
        marks=result.marks,
    )


def taken(result: Result) -> float:
    """Return the bytes of DRAM that a run takes: what its budget holds, and what is beside it."""
    budget = result.budget
    if budget.fits:  # no more than there is to hold
        held = budget.static.total + budget.units_bytes + budget.kv_in_all + budget.buffer
        return held + max(budget.beside, budget.overhead + budget.staging)
    return budget.total + budget.beside


def _first_token(result: Result, low: float, high: float) -> Span | None:
    """Return the seconds to the first token: the prompt, then a token, each within its interval."""
    ttft, prefill = result.timing.ttft, result.timing.prefill
    if ttft is None or prefill is None:
        return None
    short, long = prompt_range(result.run, result.traffic)
    prompt = min(prefill.seconds, ttft)
    token = ttft - prompt
    rate = result.tokens_per_second
    fast, slow = rate / high, rate / low
    return Span(ttft, prompt * short + token * fast, prompt * long + token * slow)


def _energy(result: Result) -> Span | None:
    energy = result.to_dict()["energy_mj_per_token"]
    if energy is None:
        return None
    low, high = energy["low"] / 1e3, energy["high"] / 1e3
    return Span((low * high) ** 0.5, low, high)
