"""Cells of a sweep that judge a model in closed loop, with masks in it and perhaps an adapter."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dipsim.errors import DipsimError
from dipsim.lm.distil import Recipe, train_adapter
from dipsim.lm.evaluate import Judge
from dipsim.lm.load import Loaded
from dipsim.lm.lora import load_adapter, shared_copy
from dipsim.lm.prepared import prepared
from dipsim.lm.requantise import requantised
from dipsim.lm.structure import find_structure
from dipsim.lm.text import judged_apart, prefix_of, read_ids
from dipsim.model.formats import parse_by_column
from dipsim.settings import OPTIONS
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.plan import Planned
from dipsim.sweep.point import Cell, Figures

_MASKS = ("density", "group_density", "split", "gamma", "masking", "selection", "recall")
"""Settings of the masks that an adapter is trained under."""
_JUDGED_AFTER_TRAINING = 2
"""Windows on which a trained adapter is judged at once; its cells are judged on all of theirs."""


def judge(cells: Sequence[Planned], inputs: Inputs) -> list[Cell]:
    """Judge the model of cells, each under its own method and settings.

    Args:
        cells: cells that share a model, its text and its adapter.
        inputs: opens profiles.

    Raises:
        DipsimError: anything wrong with what they share.
    """
    first = cells[0].options
    with _model(first) as (loaded, windows, calibrate):
        return [
            _judged(
                Judge(
                    loaded, windows, inputs.profile(cell.options), calibrate, prompt=0, keep=True
                ),
                cell,
            )
            for cell in cells
        ]


def _judged(judge: Judge, cell: Planned) -> Cell:
    method, settings = _candidate(cell.options)
    try:
        judge.check_model()
        row = judge.row(method, settings)
    except DipsimError as problem:
        return Cell(cell.place, cell.options, None, why=str(problem))
    figures = None if row.result is None else _figures(row)
    marks = () if row.result is None else row.result.marks
    return Cell(cell.place, cell.options, figures, marks, why=row.why)


def _figures(row: Cell) -> Figures:
    """Return the figures of the run beneath, with what the model said of the text."""
    assert row.result is not None, "asked before"
    own = {name: row.value(name) for name in ("perplexity", "loss")}
    own["density_used"] = row.value("density")
    beside = {name: row.value(name) for name in ("kv", "tokens", "layers") if row.value(name)}
    return {**row.result.figures(), **own, "judged": beside or None}


def _candidate(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the method of a cell, and its settings as `dipsim.lm.sparsify` takes them."""
    settings = {name: value for name, value in options.items() if name in OPTIONS}
    settings.pop("calibrate_tokens", None)
    return settings.pop("method"), settings


@contextmanager
def _model(options: Mapping[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the model of a cell, its windows, and the tokens that are calibrated on."""
    bits = parse_by_column(options.get("requantise"))
    loaded = _dense(options["model"], options.get("geometry"), bits)
    tokenizer = loaded.tokenizer  # of the model that chunks share, so that it is made once
    if (adapter := options.get("adapter") or _trained(options)) is not None:
        loaded = replace(loaded, model=load_adapter(shared_copy(loaded.model), adapter))
    ids = read_ids(options["text"], tokenizer)
    windows, calibrate = judged_apart(
        ids,
        options["window"],
        options.get("text_tokens"),
        options.get("calibrate_tokens"),
        prefix=prefix_of(tokenizer),
    )
    stored: Any = nullcontext()
    if bits is not None:
        stored = requantised(find_structure(loaded.model), *bits)
    with stored:
        yield loaded, windows, calibrate


@lru_cache(maxsize=1)
def _dense(model: str, geometry: str | None, bits: tuple[int, int] | None) -> Loaded:
    """Load the model that many chunks share."""
    return prepared(model, geometry, bits=bits)


def _trained(options: Mapping[str, Any]) -> str | None:
    """Return the folder of the adapter that a cell asks to be trained; None for none."""
    if options.get("lora_steps") is None:
        return None
    masks = {name: options[name] for name in _MASKS if options.get(name) is not None}
    asked = ("model", "geometry", "text", "window", "lora_steps", "method", "seed")
    known = {**{name: options.get(name) for name in asked}, "masks": masks}
    return _adapter(json.dumps({**known, "behind": _behind(options)}))


@lru_cache(maxsize=64)
def _adapter(asked: str) -> str:
    """Train an adapter on the text behind the tokens that are judged; return its folder.

    Args:
        asked: JSON of what it follows from.
    """
    options = json.loads(asked)
    loaded = _dense(options["model"], options["geometry"], None)
    ids = read_ids(options["text"], loaded.tokenizer)
    window = options["window"]
    judges = _JUDGED_AFTER_TRAINING * window
    recipe = Recipe(
        method=options["method"],
        settings=options["masks"],
        steps=options["lora_steps"],
        window=window,
        prefix=prefix_of(loaded.tokenizer),
        judge_tokens=judges,
        seed=options["seed"] or 0,
    )
    folder = Path(_folder().name) / sha256(asked.encode()).hexdigest()
    train_adapter(loaded, ids[max(options["behind"] - judges, 0) :], folder, recipe)
    return str(folder)


def _behind(options: Mapping[str, Any]) -> int:
    """Return the token from which on a text neither judges nor calibrates."""
    _, _, stop = str(options.get("calibrate_tokens") or ":0").partition(":")
    return int(options["text_tokens"]) + int(stop)


@lru_cache(maxsize=1)
def _folder() -> "TemporaryDirectory[str]":
    """Return the folder of this process's adapters, which goes when it ends."""
    return TemporaryDirectory(prefix="dipsim-adapters-")
