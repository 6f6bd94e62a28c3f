"""`dipsim.plan`: a model, a device, and how to run the one on the other."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

from dipsim.analysis.calibration import Calibration, load_calibration
from dipsim.errors import BudgetError, DipsimError, check_type
from dipsim.hardware import Overrides, Profile, load_profile
from dipsim.model import FORMAT_BITS, Model, load_model
from dipsim.planning.of_any import (
    fewer_bits,
    less_kv,
    mapped,
    other_engines,
    smaller_models,
    without_cache,
)
from dipsim.planning.of_experts import cached
from dipsim.planning.of_pruning import pruned
from dipsim.planning.plainly import measured
from dipsim.planning.question import Figures, Question
from dipsim.planning.room import Room, room_of
from dipsim.planning.uniform import bounds, routed_alike
from dipsim.planning.way import Way
from dipsim.trace import Trace, load_trace
from dipsim.trace.synth import synth
from dipsim.units import BYTES
from dipsim.views import Viewed, shortened

CONTEXT, PROMPT = 4096, 128
"""Positions and tokens of a prompt unless said."""
_MOST_BITS = 32
SYNTHETIC_TOKENS = 16
"""Tokens that are drawn after another trace: enough to rank ways, few enough for seconds."""


@dataclass(frozen=True)
class Plan(Viewed):
    """Answer of a plan: a model on a device, and the ways to run it."""

    report: ClassVar[str] = "plan"
    question: Question
    room: Room
    plain: Figures | None
    """A plain run; None where nothing tells it."""
    why_not: str
    """Why there is no plain run; empty where there is."""
    ways: tuple[Way, ...]
    """Ways that were tried, those that are as fast as wanted first, then the fastest; none where
    the model fits and is as fast as wanted."""
    warnings: tuple[str, ...]

    __repr__ = __str__ = shortened

    @property
    def meets(self) -> bool:
        """True if all of it fits in DRAM and the plain run is as fast as wanted."""
        target = self.question.target
        fast = self.plain is not None and (target is None or self.plain.rate.value >= target)
        return self.room.fits and fast

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        question = self.question
        return {
            "model": question.model.name,
            "profile": question.device.name,
            "context": question.context,
            "prompt": question.prompt,
            "target_rate": question.target,
            "room": self.room.to_dict(),
            "plain": None if self.plain is None else self.plain.to_dict(),
            "why_not": self.why_not,
            "meets": self.meets,
            "ways": [way.to_dict() for way in self.ways],
            "warnings": [*self.warnings],
        }


def plan(
    model: str | os.PathLike[str] | Mapping[str, Any] | Model,
    profile: str | os.PathLike[str] | Mapping[str, Any] | Profile,
    *,
    trace: Any = None,
    like: str | None = None,
    context: int | None = None,
    prompt: int = PROMPT,
    target_rate: float | None = None,
    max_loss: float | None = None,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    backend: str | None = None,
    kv_bits: float | None = None,
    weight_format: str | None = None,
    bits: float | None = None,
    dram: float | None = None,
    overrides: Overrides = (),
) -> Plan:
    """Plan how to run a model on a device.

    Args:
        model: preset, GGUF, config.json, YAML file, geometry or `Model`.
        profile: path, name of a shipped profile, mapping, or a `Profile`.
        trace: scores or routes of the model: path, name, or a `Trace`.
        like: a trace of another model, after which one of this model is drawn.
        context: positions of keys and values; default: 4096, or as many as the model reads.
        prompt: tokens of the prompt before the first token.
        target_rate: tokens per second that are wanted.
        max_loss: most that leaving weights out may lose, as of `dipsim.search`.
        calibration: perplexities of methods, a file or `Calibration`.
        backend: of the profile; default: the first.
        kv_bits: bits of an element of keys and values; default: 16.
        weight_format: format that the weights are stored in; default: the model's.
        bits: bits a weight; default: the model's, or those of the format.
        dram: bytes that the system leaves to an app; default: the profile's.
        overrides: of the profile, as ``-s`` on the command line.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    _check_types(context=context, prompt=prompt, target_rate=target_rate, max_loss=max_loss)
    _check_types(kv_bits=kv_bits, bits=bits, dram=dram, backend=backend, like=like)
    _check_types(weight_format=weight_format, calibration=calibration)
    device = load_profile(profile, overrides)
    device.backend(backend)
    geometry = _stored(load_model(model), weight_format, bits)
    if context is None:
        context = min(CONTEXT, geometry.context or CONTEXT)
    _check(context, prompt, target_rate, max_loss, trace, like)
    if context > (geometry.context or context):
        raise DipsimError(
            f"--context {context}: model {geometry.name} reads {geometry.context}: give less"
        )
    options = {"backend": backend, "kv_bits": kv_bits, "weight_format": weight_format, "bits": bits}
    question = Question(
        model=geometry,
        device=device,
        trace=None,
        context=context,
        prompt=prompt,
        target=target_rate,
        max_loss=max_loss,
        calibration=_calibration(calibration),
        options={key: value for key, value in options.items() if value is not None},
    )
    if dram is not None:
        question = _with_dram(question, dram)
    if max_loss is not None and question.of_experts:
        raise DipsimError(
            f"--max-loss is for leaving weights out, and {geometry.name} is a mixture of experts, "
            "all of which are read that a token uses: drop it"
        )
    if trace is not None:
        return _answer(_with_trace(question, load_trace(trace)))
    if like is None:
        return _answer(routed_alike(question) if question.of_experts else question)
    with tempfile.TemporaryDirectory() as folder:
        return _answer(_drawn(question, like, Path(folder)))


_COUNT, _NUMBER = (Integral, "a whole number"), (Real, "a number")
_TEXT, _FILE = (str, "a text"), ((str, os.PathLike), "a path or a name")
_TAKES: Mapping[str, tuple[Any, str]] = {
    **dict.fromkeys(("context", "prompt"), _COUNT),
    **dict.fromkeys(("target_rate", "max_loss", "kv_bits", "bits", "dram"), _NUMBER),
    **dict.fromkeys(("backend", "weight_format"), _TEXT),
    "like": _FILE,
    "calibration": ((str, os.PathLike, Calibration), "a path or a `Calibration`"),
}
"""Types that arguments may have, and what they are in words."""


def _check_types(**given: Any) -> None:
    """Refuse arguments of a wrong type.

    Raises:
        DipsimError: one of them.
    """
    for name, value in given.items():
        check_type(name, value, *_TAKES[name])


def _check(
    context: int,
    prompt: int,
    target: float | None,
    max_loss: float | None,
    trace: Any,
    like: str | None,
) -> None:
    """Refuse numbers that make no sense, and options that ask for a trace without one.

    Raises:
        DipsimError: one of them.
    """
    if not 1 <= prompt <= context <= 2**24:
        raise DipsimError(
            f"--context {context}, --prompt {prompt}: 1 to {2**24} positions, a prompt within them"
        )
    if target is not None and not 0 < target < 1e9:
        raise DipsimError(f"--target-rate {target:g}: tokens per second, above 0, below 1e9")
    if max_loss is not None and not 0 <= max_loss < 1e9:
        raise DipsimError(f"--max-loss {max_loss:g}: a share of the energy, or perplexity, from 0")
    if trace is not None and like is not None:
        raise DipsimError("--trace and --like: one of them; --like is for a trace of another model")
    if max_loss is not None and trace is None and like is None:
        raise DipsimError(
            "--max-loss is for leaving weights out, which needs a --trace of the model, or --like"
        )


def _calibration(given: str | os.PathLike[str] | Calibration | None) -> Calibration | None:
    return given if given is None or isinstance(given, Calibration) else load_calibration(given)


def _stored(model: Model, form: str | None, bits: float | None) -> Model:
    """Return the model as it is to be stored."""
    if form is None and bits is None:
        return model
    known = FORMAT_BITS.get(form or "")
    width = known if bits is None else bits
    if width is not None and not 0 < width <= _MOST_BITS:
        raise DipsimError(f"--bits {width:g}: bits a weight, above 0 and at most {_MOST_BITS}")
    if width is None:
        raise DipsimError(f"--weight-format {form}: its bits are not known: add --bits NUMBER")
    return model.stored_at(width, form or model.weight_format)


def _with_dram(question: Question, dram: float) -> Question:
    """Return the question for a device whose system leaves so much.

    Raises:
        DipsimError: more than the device has.
    """
    capacity = question.device.dram.capacity
    if not 0 < dram <= capacity:
        raise DipsimError(
            f"--dram {BYTES.show(dram)}: what the system leaves to an app, at most the "
            f"{BYTES.show(capacity)} of {question.device.name}"
        )
    return question.on(available=dram)


def _with_trace(question: Question, trace: Trace) -> Question:
    """Return the question with a trace of its model.

    Raises:
        DipsimError: the trace has other layers, or is of another model.
    """
    layers, name = question.model.layers, question.model.name
    has = trace.layers
    if has != layers and not question.of_experts:
        known = trace.model
        named = known.get("name") if isinstance(known, Mapping) else known
        raise DipsimError(
            f"{trace.name} is of {named or 'another model'}, of {has} layers, not of {name}, of "
            f"{layers}: give a trace of the model, or --like"
        )
    return replace(question, trace=trace.kept())


def _drawn(question: Question, like: str, folder: Path) -> Question:
    """Return the question with a trace drawn after another.

    Raises:
        DipsimError: the other has no routes for a mixture, or routes for a dense model.
    """
    source, model = load_trace(like), question.model
    routes = "expert" in source.signals
    if routes != question.of_experts:
        has, needs = ("routes", "scores") if routes else ("scores", "routes of experts")
        raise DipsimError(
            f"--like {like} has {has}, and {model.name} needs {needs}: give a trace that has them"
        )
    tokens = source.tokens if routes else SYNTHETIC_TOKENS  # routes take no time
    signals = ["expert"] if routes else None
    drawn = synth(folder / "drawn.npz", source, model=model, tokens=tokens, signals=signals)
    named = replace(drawn, name=f"a trace drawn like {like}")
    assumed = f"{'routes' if routes else 'scores'} drawn like {like}"
    return replace(question, trace=named.kept(), like=str(like), assumed=assumed)


def _answer(question: Question) -> Plan:
    """Return the plan: the plain run, and the ways where it does not do."""
    plain, why_not = None, ""
    try:
        room, plain = measured(question)
    except BudgetError as refused:
        room, why_not = room_of(question, 0.0), str(refused)
    answer = Plan(question, room, plain, why_not, (), tuple(_of_routes(question, room)))
    if answer.meets:
        return answer
    ways, refusals = _ways(question, room, plain)
    ranked = sorted(
        ways, key=lambda way: (not way.reaches(question.target), -way.figures.rate.value)
    )
    warnings = (
        *answer.warnings,
        *refusals,
        *_largest(question, ways),
        *_missed(question, plain, ways),
    )
    return replace(answer, ways=tuple(ranked), warnings=warnings)


def _of_routes(question: Question, room: Room) -> list[str]:
    """Return what to say of a mixture whose routes are not known, where they matter."""
    if not question.warmup or room.fits:
        return []
    ends = bounds(question, room)
    between = (
        "" if ends is None else f"; {ends[0]:.3g} tok/s with no cache, {ends[1]:.3g} if all hit"
    )
    return [
        f"routes are not known, and experts are used unevenly, which hits more{between}; a routing "
        "log of the model tells (--trace)"
    ]


def _ways(question: Question, room: Room, plain: Figures | None) -> tuple[list[Way], list[str]]:
    """Return the ways to run the model that a question leaves, and why others cannot be run."""
    refusals: list[str] = []
    ways = [*fewer_bits(question), *less_kv(question, plain)]
    if not room.fits:
        ways += mapped(question)
    if question.of_experts:
        ways += [] if room.fits else without_cache(question, plain)
        ways += [] if room.fits or question.warmup else cached(question, room)
    elif question.trace is not None:
        some, refusals = pruned(question)
        ways += some
    return [*ways, *other_engines(question, plain), *smaller_models(question)], refusals


def _missed(question: Question, plain: Figures | None, ways: Sequence[Way]) -> list[str]:
    """Return a warning where no run is known, or none is as fast as wanted."""
    target = question.target
    known = [*([] if plain is None else [plain]), *(way.figures for way in ways)]
    if not known:
        return ["no way to run it is known"]
    if target is None or any(figures.rate.value >= target for figures in known):
        return []
    return [f"no way reaches {target:g} tok/s"]


def _largest(question: Question, ways: Sequence[Way]) -> list[str]:
    """Return a warning where the largest cache of experts is not the fastest."""
    sized = [way for way in ways if "cache" in way.options and "s" not in way.options]
    if len(sized) < 2:
        return []
    best = max(sized, key=lambda way: way.figures.rate.value)
    largest = max(sized, key=lambda way: way.figures.dram)
    if best is largest:
        return []
    return [
        f"the largest cache is not the fastest: {largest.name} does "
        f"{largest.figures.rate.value:.3g} tok/s, {best.name} {best.figures.rate.value:.3g}"
    ]
