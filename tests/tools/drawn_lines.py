"""Command lines drawn from the declared options.

Commands and their options are read off the program and off `Settings`, so what is added there is
drawn without a change here; `TEXTS` only makes texts likelier that mean something.
"""

from collections.abc import Mapping
from inspect import Parameter, signature
from random import Random
from typing import Any, NamedTuple, get_args, get_origin

from dipsim.analysis.profile_list import KEYS
from dipsim.analysis.study import STUDIES
from dipsim.cli import app
from dipsim.hardware import profile_names
from dipsim.methods import BUILTIN as METHODS
from dipsim.methods.masking import MASKING
from dipsim.methods.routing import ROUTING
from dipsim.model import model_names
from dipsim.option import flag
from dipsim.policies import BUILTIN as POLICIES
from dipsim.settings import OPTIONS, TAKES, Settings, concerning

Arrays = dict[str, Any]


WEIGHTS = {"run": 12, "compare": 3, "mrc": 3, "search": 3, "inspect": 2, "export": 3, "import": 2}
WEIGHTS |= {"profiles": 0.3, "models": 0.3, "policies": 0.1, "methods": 0.1, "validate": 0.3}
"""Likelihoods of commands, beside 1."""
LEFT_OUT = {"record", "eval", "lora", "iobench", "explore"}
"""Commands that need weights of a model, read a disk, or serve until they are interrupted."""
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
    "weight_format": ("q4_0", "Q4_K_M", "8da4w", "bf16", "f16", "none"),
    "speculate": (
        *("draft=1,accept=.8", "draft=2,accept=.5,cost=.1", "draft=3,accept=0", "draft=2,accept=1"),
        *("draft=0,accept=.5", "draft=2", "draft=2,accept=2"),
    ),
    "depth": ("0", "1", "5", "9", "1099511627776"),
    **dict.fromkeys(("tokens", "layers", "sequence", "calibrate_tokens", "order_from"), PARTS),
    **dict.fromkeys(("trace", "static_from", "warm_from"), (*["t.npz"] * 5, "shards", "other.npz")),
    "like": (*["t.npz"] * 5, "smollm2-chat"),
    "profile": (*["phone.yaml"] * 20, *["paper-a18"] * 6, *profile_names()),
    "extends": tuple(profile_names()),
    "profiles name": tuple(profile_names()),
    "profiles check": ("phone.yaml", *profile_names()),
    "profiles sort": tuple(KEYS),
    "profiles where": ("dram>=8GB", "backend=npu,measured>5%", "name=snap", "iops<1kIOPS", "flash"),
    "models name": ("model.yaml", *model_names()),
    "study name": tuple(STUDIES),
    "model": ("model.yaml", "model.yaml", "smollm2-135m"),
    "override": (
        "dram.background=1GB/s", "flash.bandwidth=1kB/s", "flash.align=4KiB", "flash.align=1B",
        "dram.bandwidth=1MB/s", "staging=0B", "staging=1kB", "runtime_overhead=1MB",
        "thermal.after=0s", "thermal.after=1ms", "thermal.flash=.1", "page_cache.size=0B",
        "page_cache.bandwidth=1GB/s", "backends.cpu.overlap_factor=1", "backends.cpu.per_layer=1s",
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
