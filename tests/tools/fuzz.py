"""Odd traces and drawn command lines: whatever dipsim is asked, it answers or refuses.

    python tests/tools/fuzz.py --seconds 3600 --seed 0

Every seed is one case, run in this process: a small trace that is valid but odd, a command line,
and for `run` a law that its figures must obey. Commands and their options are read off the program
and off `Settings`, so what is added there is drawn without a change here; `TEXTS` only makes texts
likelier that mean something. A failure is printed with its seed: `--seconds 0 --seed SEED` repeats
it, and `--keep FOLDER` leaves its files there.
"""

import argparse
import io
import json
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin
from unittest.mock import patch

import numpy as np
import yaml

from dipsim import simulate
from dipsim.analysis.compare import compare
from dipsim.analysis.study import STUDIES
from dipsim.cli import app, main
from dipsim.errors import DipsimError
from dipsim.hardware import profile_names
from dipsim.methods import BUILTIN as METHODS
from dipsim.methods.masking import MASKING
from dipsim.methods.routing import ROUTING
from dipsim.model import model_names
from dipsim.option import flag
from dipsim.policies import BUILTIN as POLICIES
from dipsim.repeat import read_config
from dipsim.result import Result
from dipsim.settings import OPTIONS, TAKES, Settings, concerning
from dipsim.trace.encoding import encode_log8
from dipsim.validate.cases import shipped_cases

Random = random.Random
Arrays = dict[str, Any]

# Traces -------------------------------------------------------------------------------------------

HOLDS = {
    ("mlp_input", "glu"): 5,
    ("glu",): 2,
    ("gate", "up", "glu"): 2,
    ("attn_input", "attn_output", "mlp_input", "gate", "up", "glu"): 2,
    ("expert",): 4,
    ("expert", "glu"): 0.5,
    ("mlp_input",): 0.5,
}
"""Signals of a trace, and how likely they are."""
SCORES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "uniform": lambda rng, shape: rng.random(shape),
    "lasting": lambda rng, shape: rng.random((1, *shape[1:])) + 0.3 * rng.random(shape),
    "ties": lambda rng, shape: rng.integers(0, 3, shape).astype(float),
    "equal": lambda rng, shape: np.ones(shape),
    "zero": lambda rng, shape: np.zeros(shape),
    "few": lambda rng, shape: rng.random(shape) * (rng.random(shape) < 0.1),
    "subnormal": lambda rng, shape: rng.random(shape) * 1e-43,
    "largest": lambda rng, shape: rng.random(shape) * np.finfo(np.float32).max,
    "spread": lambda rng, shape: 10 ** rng.uniform(-44, 38, shape),
    "huge": lambda rng, shape: rng.random(shape) * 1e300,
}
SHARES = (0.0, 0.02, 0.3, 0.3, 0.9, 1.0)
"""Shares of the units that sets hold."""


def draw_trace(draw: Random) -> Arrays:
    """Return the arrays of a trace, as `.npz` holds them."""
    rng = np.random.default_rng(draw.getrandbits(32))
    tokens, layers = draw.choice((1, 2, 3, 9, 20, 24, 40)), draw.choice((1, 1, 2, 3))
    hidden, neurons = draw.choice((1, 2, 4, 16)), draw.choice((1, 3, 8, 33, 65))
    experts = draw.choice((1, 2, 5, 9))
    widths = {"gate": neurons, "up": neurons, "glu": neurons, "expert": experts}
    arrays: Arrays = {}
    declared: dict[str, dict[str, Any]] = {}
    sets = draw.random() < 0.25
    for name in draw.choices(list(HOLDS), HOLDS.values())[0]:
        shape = (tokens, layers, widths.get(name, hidden))
        declared[name] = {}
        if sets or (name == "expert" and draw.random() < 0.3):
            arrays |= _sets(draw, rng, name, shape, declared[name])
        else:
            arrays |= _scores(draw, rng, name, shape, declared[name])
    model = _model(draw, layers, hidden, neurons)
    if "expert" in declared:
        model |= {"experts": experts, "experts_per_token": draw.randint(1, experts)}
    meta: dict[str, Any] = {"signals": declared}
    if draw.random() < 0.75:
        meta["model"] = model
    if "model" not in meta or draw.random() < 0.1:
        for entry in declared.values():
            sizes = draw.choice((1, 24.5, 3e6, 1e12, [24.5, 1e6, 1.0][:layers]))
            entry |= {"unit_bytes": sizes} if draw.random() < 0.95 else {}
    return arrays | _marks(draw, rng, tokens) | {"meta": np.array(json.dumps(meta))}


def _model(draw: Random, layers: int, hidden: int, neurons: int) -> dict[str, Any]:
    """Return the geometry of a model; most of what it need not say is there or not."""
    model = {"layers": layers, "hidden": hidden, "intermediate": neurons, "heads": 1, "kv_heads": 1}
    model |= {"vocab": draw.choice((1, 50)), "tied_embeddings": draw.random() < 0.5}
    quant = {"format": "q4_0", "bits": 4, "group": draw.choice((1, 32))}
    quant |= {"axis": draw.choice(("in", "out", "channel"))}
    bits = {"bits": draw.choice((1, 4.5, 4.8437, 16))}
    more = {"context": draw.choice((1, 9)), "window": draw.choice((1, 4)), "window_every": 2}
    more |= {"gated": False, "shared_intermediate": 3, "weights": "2:4"}
    model |= draw.choice((bits, bits, {"quant": quant}))
    return model | {key: value for key, value in more.items() if draw.random() < 0.08}


def _sets(
    draw: Random,
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int, int],
    declared: dict[str, Any],
) -> Arrays:
    """Return active sets in any encoding; ``declared``, the signal's part of meta, is filled."""
    sets = rng.random(shape) < draw.choice(SHARES)
    sets[rng.random(shape[:2]) < draw.choice((0, 0, 0.5))] = False
    encoding = draw.choice(("bool", "bits", "sparse"))
    if encoding == "bool":
        return {name: sets}
    if encoding == "bits":
        declared |= {"encoding": "bits", "units": shape[2]}
        return {name: np.packbits(sets, axis=-1, bitorder="little")}
    lists = {"indptr": np.cumsum([0, *sets.sum(axis=2).ravel()]), "shape": np.array(shape)}
    lists["indices"] = np.nonzero(sets)[2].astype(np.uint16)
    if draw.random() < 0.5:
        lists["scores"] = SCORES["uniform"](rng, shape)[sets].astype(np.float32)
    return {f"{name}.{part}": values for part, values in lists.items()}


def _scores(
    draw: Random,
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int, int],
    declared: dict[str, Any],
) -> Arrays:
    """Return scores in any encoding; ``declared``, the signal's part of meta, is filled."""
    scores = SCORES[draw.choice(tuple(SCORES))](rng, shape)
    encoding = draw.choice(("float16", "float32", "float32", "float64", "log8"))
    if name == "expert":
        scores = scores * rng.choice((-1, 1), shape) if draw.random() < 0.7 else scores
        encoding = "float32" if encoding == "log8" else encoding
        if scores.min() >= 0:
            declared |= {"encoding": "prob"} if draw.random() < 0.5 else {}
    if encoding == "log8" and scores.max() < np.finfo(np.float32).max:
        declared |= {"encoding": "log8"}
        codes, largest = encode_log8(scores.astype(np.float32))
        if draw.random() < 0.1:
            largest = SCORES["huge"](rng, shape[:2])
        return {name: codes, f"{name}.max": largest}
    kind = np.dtype("float32" if encoding == "log8" else encoding)
    most = np.finfo(kind).max
    arrays = {name: np.clip(scores, -most, most).astype(kind)}
    if name == "glu" and draw.random() < 0.2:
        norms = SCORES[draw.choice(("uniform", "zero", "largest", "huge"))](rng, shape[1:])
        small = norms.max() <= np.finfo(np.float32).max
        arrays["glu.norms"] = norms.astype(np.float32) if small else norms
    return arrays


def _marks(draw: Random, rng: np.random.Generator, tokens: int) -> Arrays:
    """Return phases, sequences and ids of tokens; each may be absent."""
    row = np.arange(tokens)
    phases = {
        "decode": np.ones(tokens),
        "prompt": np.zeros(tokens),
        "prompt first": row >= tokens // 2,
        "prompt last": row < tokens // 2,
        "in turn": row % 2,
        "any": rng.integers(0, 2, tokens),
    }
    sequences = {
        "one": np.zeros(tokens),
        "lone": row,
        "halves": row >= tokens // 2,
        "gaps": row // 3 * 1000,
    }
    marks: Arrays = {}
    if draw.random() < 0.6:
        marks["phase"] = phases[draw.choice(tuple(phases))].astype(np.uint8)
        marks["phase"][-1] |= draw.random() < 0.9
    if draw.random() < 0.5:
        marks["sequence"] = sequences[draw.choice(tuple(sequences))].astype(np.int32)
    if draw.random() < 0.2:
        marks["token_id"] = rng.integers(0, 50, tokens).astype(np.int32)
    return marks


# Files --------------------------------------------------------------------------------------------

ROUTES = (
    "# route_trace v1\n# model=m arch=a n_layer=1 n_expert=4 n_expert_used=1\n"
    "# layer=0 expert_bytes=10 dense_bytes=1\n"
    "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes\n0,1,0,0,0,1,0.5,0,10\n"
)


def draw_phone(draw: Random) -> dict[str, Any]:
    """Return a device; most of what a profile need not say is there or not."""
    reads = [{"size": "4 KiB", "lanes": 1, "bandwidth": "100 MB/s"}]
    reads += [{"size": "1 MiB", "lanes": lanes, "bandwidth": "2 GB/s"} for lanes in (1, 4)]
    speeds = ({"bandwidth": "1 kB/s"}, {"bandwidth": "1 GB/s"}, {"reads": reads}, {"reads": reads})
    flash: dict[str, Any] = {**draw.choice(speeds), "lanes": draw.choice((1, 4))}
    backend = {
        "gemv": {"q4_0": "20 GB/s"},
        "dram_efficiency": 0.5,
        "compute": "1 GFLOP/s",
        "sync": "10 us",
        "overlap_factor": draw.choice((0.5, 1.0)),
        "cache_copy": "1 GB/s",
        "active_power": "1 W",
    }
    parts = {
        "staging": draw.choice(("0 B", "100 B")),
        "runtime_overhead": "100 B",
        "thermal": {"after": draw.choice(("0 s", "1 ms")), "flash": 0.5, "compute": 0.5},
        "page_cache": {"bandwidth": "1 GB/s"},
        "energy": {"dram": "40 pJ/B", "flash": "400 pJ/B"},
    }

    def some(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in mapping.items() if draw.random() < 0.6}

    flash |= some({"align": draw.choice(("512 B", "4 KiB")), "fault": {"seconds": "100 us"}})
    dram = {"capacity": "8 GB", "bandwidth": draw.choice(("1 MB/s", "60 GB/s"))}
    dram |= some({"background": "100 kB/s"})
    return {"name": "phone", "dram": dram, "flash": flash, "backends": {"cpu": some(backend)}} | (
        some(parts)
    )


def fill(folder: Path, draw: Random) -> Arrays:
    """Write the files that command lines name into a folder; return the arrays of ``t.npz``."""
    arrays = draw_trace(draw)
    np.savez(folder / "t.npz", **arrays)
    (folder / "shards").mkdir()
    np.savez(folder / "shards/part-00000.npz", **arrays)
    np.savez(folder / "other.npz", **draw_trace(draw))
    signals = {key: values for key, values in arrays.items() if values.ndim == 3}
    before = draw.choice(("", "a."))
    np.savez(folder / "arrays.npz", **{f"{before}{key}": rows for key, rows in signals.items()})
    np.save(folder / "a.npy", next(iter(signals.values()), np.zeros(1)))
    (folder / "routes.csv").write_text(ROUTES)
    model = json.loads(str(arrays["meta"])).get("model", {"name": "smollm2-135m"})
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    (folder / "phone.yaml").write_text(yaml.safe_dump(draw_phone(draw)))
    lanes, speed = draw.choice((1, 4)), draw.choice((5e-324, 1.0, 1e6, 1e9, 1e14, 1e300))
    rows = [f"{4096 * 2**i},{lanes},{speed * (i + 1)}" for i in range(draw.choice((1, 2, 5, 9)))]
    (folder / "reads.csv").write_text("\n".join(["size,lanes,bandwidth", *rows]) + "\n")
    kept = {name: draw.choice((0.0, 0.9, 1.0)) for name in ("mlp_input", "glu")}
    points = [{"method": "dip", "energy_kept": kept, "perplexity": draw.choice((1e-300, 9.0))}]
    calibration = {"format": "dipsim-calibration", "version": 1, "model": "unnamed"}
    calibration |= {"dense_perplexity": 8.0, "points": points}
    (folder / "calibration.json").write_text(json.dumps(calibration))
    cases = json.loads(shipped_cases().read_text())
    cases["cases"] = draw.sample(cases["cases"], 4)
    (folder / "cases.json").write_text(json.dumps(cases))
    return arrays


# Command lines ------------------------------------------------------------------------------------

WEIGHTS = {"run": 12, "compare": 3, "mrc": 3, "search": 3, "inspect": 2, "export": 3, "import": 2}
WEIGHTS |= {"profiles": 0.3, "models": 0.3, "policies": 0.1, "methods": 0.1, "validate": 0.3}
"""Likelihoods of commands, beside 1."""
LEFT_OUT = {"record", "eval", "lora", "iobench"}
"""Commands that need weights of a model, or read a disk."""
NOT_GIVEN = {"validate": {"file", "replay"}, "run": {"config"}}
"""Options that would read a disk, or that a law tries, by command."""
USUAL = {"run": ("profile", "json"), "compare": ("profile",), "search": ("profile",)}
USUAL |= {"synth": ("like", "tokens"), "study": ("trace",)}
"""Options without which a command is mostly refused."""
QUESTIONS = {"search": ("max_loss", "target_rate", "axes")}
"""Options of a command of which one is wanted."""

GOES_WITH = {
    "calibrate_tokens": ("selection", "threshold"),
    "order_from": ("layout", "permuted"),
    "static_from": ("policy", "static"),
    "timeline_tokens": ("timeline", "timeline.json"),
}
"""Options that are mostly refused without another one, with that one and its text."""


def _ruled(rules: Mapping[str, Any]) -> tuple[str, ...]:
    """Return texts of rules: their names alone, and with each of their parameters."""
    pairs = ((name, key) for name, parameters in rules.items() for key in parameters)
    values = ("0", "1", "2", ".5", ".9", "1e-300", "1e9")
    return (*rules, *(f"{name}:{key}={value}" for name, key in pairs for value in values))


PARTS = (":", ":", ":", ":1", "0:1", ":1", "1:", "0:2", "0:9", "0:0")
SIZES = ("0 B", "1 B", "300 B", "2kB", "20kB", "1MB", "9 GB")
WHOLE = ("0", "1", "2", "3", "7", "-1")
NUMBERS = (*WHOLE, ".5", "1.5", "60")
TEXTS: dict[str, tuple[str, ...]] = {
    "method": tuple(METHODS),
    "split": ("authors", "equal", "greedy"),
    "masking": _ruled(MASKING),
    "routing": _ruled(ROUTING),
    "policy": _ruled({name: policy.parameters for name, policy in POLICIES.items()}),
    "check": tuple(POLICIES),
    "gamma": (".5", "0", "1", "mlp_input=.5,glu=.2", "glu=0"),
    "dram": (*SIZES, "0%", "30%", "60%", "100%"),
    "cache": SIZES,
    "prefetch": ("previous", "next-layer", "right=0", "right=.5", "right=1", "other.npz", "t.npz"),
    "backend": ("cpu", "default", "gpu"),
    **dict.fromkeys(("tokens", "layers", "sequence", "calibrate_tokens", "order_from"), PARTS),
    **dict.fromkeys(("trace", "static_from"), (*["t.npz"] * 5, "shards", "other.npz")),
    "like": (*["t.npz"] * 5, "smollm2-chat"),
    "profile": (*["phone.yaml"] * 20, *["paper-a18"] * 6, *profile_names()),
    "extends": tuple(profile_names()),
    "profiles name": tuple(profile_names()),
    "models name": ("model.yaml", *model_names()),
    "study name": tuple(STUDIES),
    "model": ("model.yaml", "model.yaml", "smollm2-135m"),
    "override": (
        "dram.background=1GB/s", "flash.bandwidth=1kB/s", "flash.align=4KiB", "flash.align=1B",
        "dram.bandwidth=1MB/s", "staging=0B", "staging=1kB", "runtime_overhead=1MB",
        "thermal.after=0s", "thermal.after=1ms", "thermal.flash=.1", "page_cache.size=0B",
        "page_cache.bandwidth=1GB/s", "backends.cpu.overlap_factor=1", "backends.cpu.sync=1s",
        "backends.cpu.compute=unlimited", "flash.lanes=8", "flash.fault.seconds=1us",
    ),
    "calibration": ("calibration.json",),
    "timeline": ("timeline.json",),
    "plot": ("p.png", "p.svg"),
    "csv": ("table.csv",),
    "calibrate csv": ("reads.csv",),
    "calibrate out": ("device.yaml",),
    "out": ("new.npz", "new.npz", "folder"),
    "page": ("page.md",),
    "bars": ("bars.json",),
    "cases": ("cases.json",),
    "max_loss": ("0", ".02", "1", "mlp_input=.01,glu=.1", "glu=.3"),
    "target_rate": ("1e-9", "1", "1000", "1e12"),
    "least": ("dram", "flash-bandwidth", "iops"),
    "axes": ("dram,flash-bandwidth", "iops,dram", "flash-bandwidth,iops"),
    "points": ("2", "3"),
    "signals": ("glu", "mlp_input", "mlp_input,glu", "expert", "gate,up"),
    "encoding": tuple(
        f"{signal}={encoding}"
        for signal in ("glu", "mlp_input", "expert")
        for encoding in ("float16", "float32", "log8", "bool", "bits", "sparse")
    ),
    "map": ("glu=a", "glu=a.glu", "mlp_input=a.mlp_input", "expert=a.expert"),
    "source": ("arrays.npz", "a.npy", "t.npz", "routes.csv"),
    "synth tokens": ("1", "2", "7", "64", "0"),
}  # fmt: skip
"""Texts that mean something, by the name of an option or by command and name."""
ODD = ("", "0", "-1", "nan", "1e999", "a=b", "A:B", "\N{GREEK SMALL LETTER MU}", "t.npz", ".5")
SCHEMA = Settings.model_json_schema()["properties"]


class Choice(NamedTuple):
    """A parameter of a command: how it is written, and the texts that it may be given."""

    name: str
    spelling: str | None
    """None for an argument."""
    needed: bool
    texts: tuple[str, ...]
    """Empty for a flag."""
    repeats: bool


def commands() -> dict[str, dict[str, Choice]]:
    """Return the parameters of every command that can be drawn, as the program declares them."""
    known = {}
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        parameters = signature(command.callback).parameters.values()
        choices = [_choice(name, parameter) for parameter in parameters]
        unwanted = NOT_GIVEN.get(name, set())
        known[name] = {choice.name: choice for choice in choices if choice.name not in unwanted}
    return {name: choices for name, choices in known.items() if name not in LEFT_OUT}


def _choice(command: str, parameter: Parameter) -> Choice:
    """Return what a parameter of a command may be given."""
    kind, declared = get_args(parameter.annotation)
    is_option = type(declared).__name__ == "OptionInfo"
    declarations = (declared.default, *(declared.param_decls or ()))  # typer reads the first too
    spellings = [text for text in declarations if str(text).startswith("-")]
    spelling = (spellings or [flag(parameter.name)])[0] if is_option else None
    name = spelling.strip("-").replace("-", "_") if parameter.name == "as_json" else parameter.name
    if kind is bool or bool in get_args(kind):
        return Choice(name, spelling, False, (), False)
    parts = [part for part in get_args(kind) or (kind,) if part is not type(None)]
    repeats = any(get_origin(part) is list for part in parts)
    own = TEXTS.get(f"{command} {name}", TEXTS.get(name))
    if own is None and name in OPTIONS:
        own = _texts_of(SCHEMA[name])
    if own is None:
        kinds = {*parts, *get_args(parts[0])}
        own = WHOLE if int in kinds else NUMBERS if float in kinds else None
    return Choice(name, spelling, spelling is None, own or ODD, repeats)


def _texts_of(schema: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the texts of a field of `Settings`: all allowed ones, or the bounds and some between.

    None where any text is allowed.
    """
    if "anyOf" in schema:
        return next(filter(None, map(_texts_of, schema["anyOf"])), None)
    if "const" in schema:
        return (schema["const"],)
    if "enum" in schema:
        return tuple(schema["enum"])
    if schema["type"] == "object":
        return ("mlp_input=.75,glu=.6", "mlp_input=1,glu=1", "glu=.5", "gate=.5", "glu=0")
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", 1)
    if schema["type"] == "integer":
        return (*(str(low + step) for step in (0, 0, 1, 2, 5)), str(high))
    if schema["type"] == "number":
        shares = (0.01, 0.151, 0.3, 0.5, 0.7, 0.9, 1.0)
        least = () if "exclusiveMinimum" in schema else (f"{low:g}",)
        return (*least, *(f"{low + share * (high - low):g}" for share in shares))
    return None


def draw_line(draw: Random, arrays: Arrays) -> list[str]:
    """Return a command line for a folder that `fill` filled; it mostly goes with the trace there.

    Args:
        arrays: those of the trace that most command lines name.
    """
    known = commands()
    command = draw.choices(list(known), [WEIGHTS.get(name, 1) for name in known])[0]
    choices = known[command]
    wanted = _wanted(draw, command, choices)
    fixed: dict[str, str] = {}
    method = _usual_method(arrays)
    if "method" in choices and ("method" in wanted or draw.random() < 0.5):
        method = fixed["method"] = _any_method(draw, arrays)
    if draw.random() < 0.9:
        taken = {name for name, methods in TAKES.items() if method in methods}
        wanted |= {name for name in choices if name in taken and draw.random() < 0.15}
        wanted |= {"calibrate_tokens"} if method in ("cats", "teal") else set()
        wanted |= {"calibrate_tokens"} if "selection" in wanted & taken else set()
        wanted -= TAKES.keys() - taken
        wanted -= {"density"} if "group_density" in wanted else set()
        for name, (other, text) in GOES_WITH.items():
            if name in wanted and (other not in TAKES or other in taken):
                fixed[other] = text
    words = [command]
    for name, choice in choices.items():
        if name in fixed:
            words += [*filter(None, [choice.spelling]), fixed[name]]
        elif name in wanted:
            count = draw.choice((1, 1, 2)) if choice.repeats else 1
            for text in draw.choices(choice.texts or (None,), k=count):
                words += [word for word in (choice.spelling, text) if word is not None]
    return words


def _wanted(draw: Random, command: str, choices: Mapping[str, Choice]) -> set[str]:
    """Return the names of the parameters that a command line gives."""
    questions = QUESTIONS.get(command, ())
    usual = [*USUAL.get(command, ()), *draw.sample(questions, min(1, len(questions)))]
    usual += [name for name, choice in choices.items() if choice.needed]
    likely = draw.choice((0, 1, 2, 5, 8)) / max(len(choices), 1)
    budget = [name for name in concerning("budget") if name in choices]
    wanted = {name for name in choices if draw.random() < likely} - {*questions, *budget}
    wanted |= {name for name in usual if draw.random() < 0.99}
    wanted |= {"json"} & choices.keys() if draw.random() < 0.5 else set()
    wanted |= {"policy"} & choices.keys() if draw.random() < 0.4 else set()
    if budget and "profile" in usual and draw.random() < (0.3 if questions else 0.8):
        wanted |= {draw.choice(budget)}
    return wanted


def _scored(arrays: Arrays) -> set[str]:
    """Return the signals of a trace that hold scores."""
    floats = {name for name, values in arrays.items() if values.dtype.kind == "f"}
    return floats | {name.removesuffix(".max") for name in floats}


def _usual_method(arrays: Arrays) -> str:
    """Return the method of a trace where none is named."""
    usual = ("moe", "dip", "glu")
    return next((name for name in usual if {*METHODS[name].signals} <= _scored(arrays)), "recorded")


def _any_method(draw: Random, arrays: Arrays) -> str:
    """Return a method, mostly one that a trace serves."""
    reading = {name: {*entry.signals} for name, entry in METHODS.items()}
    serving = [name for name, signals in reading.items() if signals and signals <= _scored(arrays)]
    return draw.choice(serving or ["recorded"] if draw.random() < 0.9 else list(METHODS))


# Running ------------------------------------------------------------------------------------------


class Broken(Exception):
    """Something that must hold does not; the first word names it."""


class Outcome(NamedTuple):
    """Exit code and output of a command line."""

    code: int
    out: str
    err: str


def call(words: list[str]) -> Outcome:
    """Run a command line in this process and folder; what is no `DipsimError` is raised."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["dipsim", *words]),
        patch.dict(os.environ, {"COLUMNS": "80"}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            return Outcome(code, out.getvalue(), err.getvalue())
    raise Broken("exit: main returned")


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of every file and folder below, hidden ones too."""
    files = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in files.items()}


NO_NUMBER = r"(?i)(?<![\w.=-])[+-]?(nan|inf|infinity)(?![\w.=-])"


def check(words: list[str], folder: Path) -> Outcome:
    """Run a command line, and check what must hold of any.

    Raises:
        Broken: it does not.
        Exception: a bug of dipsim.
    """
    before = listing(folder)
    outcome = call(words)
    after = listing(folder)
    if outcome.code not in (0, 2, 3):
        raise Broken(f"exit: code {outcome.code}, {outcome.err}")
    if outcome.code == 2:
        mild = ("dipsim: warning: ", "dipsim: hint: ")
        lines = [line for line in outcome.err.splitlines() if not line.startswith(mild)]
        lines = [line for line in lines if not line.rstrip().endswith(" ...")]
        if len(lines) != 1 and words[0] != "policies":
            raise Broken(f"lines: {len(lines)} lines on standard error: {outcome.err}")
        if "--json" in words and outcome.out:
            raise Broken(f"output: refused, and printed {outcome.out[:200]}")
        if before != after:
            raise Broken(f"files: refused, and changed {sorted(before.items() ^ after.items())}")
    hidden = [name for name in after if "/." in f"/{name}"]
    if hidden:
        raise Broken(f"files: left {hidden}")
    written = [Path(folder, name) for name in after if before.get(name) != after[name]]
    texts = [file.read_text() for file in written if file.suffix in (".json", ".csv", ".md")]
    endless = NO_NUMBER if "--json" in words else r"\bnan\b"  # tokens that take no time: inf tok/s
    for pattern, text in [(endless, outcome.out), *((NO_NUMBER, text) for text in texts)]:
        if match := re.search(pattern, text):
            raise Broken(f"finite: {text[max(0, match.start() - 200) : match.end() + 50]}")
    return outcome


# Laws ---------------------------------------------------------------------------------------------

Figures = dict[str, Any]
RESULT = "result.json"


def check_figures(figures: Figures) -> None:
    """Check the figures of `dipsim run --json` against each other."""
    counts = [figures, *figures["groups"], *filter(None, [figures["prefill"]])]
    for count in counts:
        if not 0 <= count["hits"] <= count["accesses"]:
            raise Broken(f"hits: {count['hits']} of {count['accesses']} accesses")
    for key in ("hits", "accesses"):
        if figures[key] != sum(group[key] for group in figures["groups"]):
            raise Broken(f"groups: {key} do not add up")
    shares = figures["time_share"].values()
    whole = 1.0 if figures["latency_ms"]["mean"] else 0.0
    if min(shares) < 0 or abs(sum(shares) - whole) > 1e-9:
        raise Broken(f"shares: {figures['time_share']}")
    for key in ("hit_rate", "unit_hit_rate"):
        if not 0 <= figures[key] <= 1 + 1e-12:
            raise Broken(f"rate: {key} {figures[key]}")
    negative = [key for key in figures if isinstance(figures[key], float) and figures[key] < 0]
    if negative:
        raise Broken(f"negative: {negative[0]} {figures[negative[0]]}")


def again(threads: int | None = None, **changes: Any) -> Result:
    """Repeat the run of ``result.json``, with other options; None takes one away."""
    saved = read_config(RESULT)
    options = {**saved.settings, **changes}
    options = {name: value for name, value in options.items() if value is not None}
    trace = saved.open_trace()
    return simulate(trace, saved.profile, model=saved.model, threads=threads, **options)


def same(figures: Figures, result: Result, why: str) -> None:
    """Check that a result has the same figures, all but its configuration."""
    other = json.loads(result.to_json())
    differing = [
        key for key in other if key not in ("config", "version") and other[key] != figures[key]
    ]
    if differing:
        key = differing[0]
        raise Broken(f"{why}: {key} {figures[key]} and {other[key]}")


def threads_are_equal(figures: Figures) -> None:
    """Check that one thread and two give the same."""
    same(figures, again(threads=1), "threads")
    same(figures, again(threads=2), "threads")


def config_repeats(figures: Figures) -> None:
    """Check that ``--config`` gives the same figures and the same configuration."""
    outcome = call(["run", "--config", RESULT, "--json"])
    if outcome.code:
        raise Broken(f"config: refused: {outcome.err}")
    if json.loads(outcome.out)["config"]["settings"] != figures["config"]["settings"]:
        raise Broken("config: other settings")
    other = json.loads(outcome.out)
    differing = [key for key in other if key != "config" and other[key] != figures.get(key)]
    if differing:
        key = differing[0]
        raise Broken(f"config: {key} {figures.get(key)} and {other[key]}")


def opt_is_best(figures: Figures) -> None:
    """Check that over all tokens no policy that starts empty hits more than opt."""
    settings = figures["config"]["settings"]
    plain = settings["access"] == "atomic" and settings["scope"] == "layer"
    steady = settings["kv"] == "fixed" and settings["allocate"] != "optimal"
    empty = settings["policy"].partition(":")[0] != "static" and settings["io"] == "direct"
    if not (plain and steady and empty and settings["warmup"] == 0) or settings.get("compat"):
        return
    try:
        best = again(policy="opt", admission=None)
    except DipsimError:  # masks that depend on what is resident
        return
    ours = figures["hits"] + (figures["prefill"] or {"hits": 0})["hits"]
    prefill = best.timing.prefill
    most = best.hits + (prefill.hits if prefill is not None else 0)
    if ours > most:
        raise Broken(f"opt: {ours} hits of {settings['policy']}, {most} of opt")


def engines_agree(figures: Figures) -> None:
    """Check that discrete events and the closed form agree where nothing meets."""
    settings = figures["config"]["settings"]
    if settings["engine"] != "auto" or figures["engine"] != "closed":
        return
    other = json.loads(again(engine="events").to_json())
    for key, scale in (("latency_ms", figures["latency_ms"]["mean"]), ("time_share", 1.0)):
        for name, value in figures[key].items():
            if abs(other[key][name] - value) > 1e-9 * scale:
                raise Broken(f"engines: {key}.{name} {value} closed, {other[key][name]} events")


def one_cache_of_everything(figures: Figures) -> None:
    """Check that a global cache hits what caches of layers do where all have room for all."""
    settings = figures["config"]["settings"]
    room: dict[str, Any] = {"dram": None, "cache": "1 TB", "cache_fraction": None, "kv": "fixed"}
    room |= {"allocate": "even", "admission": None}
    if settings["access"] != "atomic" or settings["io"] != "direct" or settings.get("compat"):
        return
    try:
        each, one = (again(**room, scope=scope) for scope in ("layer", "global"))
    except DipsimError:  # policies and methods that know no such scope
        return
    if (each.hits, each.accesses) != (one.hits, one.accesses):
        raise Broken(f"scope: {each.hits} of {each.accesses}, global {one.hits}")


def compare_agrees(figures: Figures) -> None:
    """Check that `compare`, which shares replays, gives the rate and the hits of the run."""
    saved = read_config(RESULT)
    options = dict(saved.settings)
    policy, _ = options.pop("policy"), options.pop("kv", None)
    budget = {name: options.pop(name) for name in concerning("budget") if name in options}
    if figures["config"]["settings"]["kv"] != "fixed":
        return
    policies = list(dict.fromkeys([policy, "lru"]))
    trace = saved.open_trace()
    try:
        comparison = compare(trace, saved.profile, policies, [budget], model=saved.model, **options)
    except DipsimError:  # lru knows no such admission or access
        return
    is_lru = policy == "lru"
    ours = next(cell for cell in comparison.cells if (cell.place["policy"] == "lru") == is_lru)
    for key in ("tokens_per_second", "hit_rate", "flash_bytes_per_token"):
        if ours.value(key) != figures[key]:
            raise Broken(f"compare: {key} {ours.value(key)}, of the run {figures[key]}")


LAWS = (
    threads_are_equal,
    config_repeats,
    compare_agrees,
    opt_is_best,
    engines_agree,
    one_cache_of_everything,
)


# Cases --------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What came of a case."""

    seed: int
    line: str
    code: int | None
    """Exit code; None where it failed."""
    kind: str
    """Kind of the failure."""
    detail: str


def try_case(seed: int, folder: Path) -> Verdict:
    """Draw and run the case of a seed in an empty folder."""
    draw = Random(seed)
    arrays = fill(folder, draw)
    words = draw_line(draw, arrays)
    line = shlex.join(words)
    with chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            outcome = check(words, folder)
            if outcome.code == 0 and words[0] == "run" and "--json" in words:
                figures = json.loads(outcome.out)
                check_figures(figures)
                Path(RESULT).write_text(outcome.out)
                line += f"  # {(law := draw.choice(LAWS)).__name__}"
                law(figures)
            elif outcome.code == 0 and "--json" in words:
                json.loads(outcome.out)
        except Broken as problem:
            return Verdict(seed, line, None, str(problem).partition(":")[0], str(problem))
        except (Exception, SystemExit) as problem:
            frames = traceback.extract_tb(problem.__traceback__)
            ours = [frame for frame in frames if "/dipsim/" in frame.filename] or frames
            place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
            text = traceback.format_exc(limit=-6)
            return Verdict(seed, line, None, f"{type(problem).__name__} at {place}", text)
    return Verdict(seed, line, outcome.code, "", "")


def cases(first: int, keep: Path | None = None) -> Iterator[Verdict]:
    """Run the cases of the seeds from the first on, without end."""
    seed = first
    while True:
        with tempfile.TemporaryDirectory() as folder:
            verdict = try_case(seed, Path(folder).resolve())
            if keep is not None:
                shutil.copytree(folder, keep / str(seed))
        yield verdict
        seed += 1


def fuzz() -> int:
    """Read the command line, run cases for a time, print failures and counts; 1 after a failure."""
    parser = argparse.ArgumentParser(description="Ask dipsim anything.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--keep", type=Path, help="copy the files of every case here")
    options = parser.parse_args()
    end, codes, kinds = time.monotonic() + options.seconds, Counter[int | None](), Counter[str]()
    for verdict in cases(options.seed, options.keep):
        codes[verdict.code] += 1
        if verdict.code is None:
            kinds[verdict.kind] += 1
            print(f"seed {verdict.seed}: {verdict.kind}\n  dipsim {verdict.line}")
            print("\n".join(f"  {line}" for line in verdict.detail.splitlines()), flush=True)
        if time.monotonic() >= end:
            break
    print(f"{codes.total()} cases: {codes[0]} done, {codes[2] + codes[3]} refused", end="")
    print(f", {codes[None]} failures of {len(kinds)} kinds {dict(kinds)}")
    return int(bool(kinds))


if __name__ == "__main__":
    sys.exit(fuzz())
