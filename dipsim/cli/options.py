"""The options that several commands share: what is replayed, and how. Declared once."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from dipsim.errors import DipsimError

TraceArgument = Annotated[
    str | None, typer.Argument(help="an .npz file, a folder of shards, or a shipped name")
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", "-p", help="device: a name or a YAML file")
]
ModelOption = Annotated[str | None, typer.Option(help="a preset, YAML, config.json or GGUF")]
Override = Annotated[
    list[str] | None,
    typer.Option("-s", help="override the profile: flash.bandwidth=2GB/s", metavar="KEY=VALUE"),
]
Policies = Annotated[
    list[str] | None,
    typer.Option("--policy", help="as for run; repeat it", metavar="NAME[:KEY=VALUE,...]"),
]
Plot = Annotated[str | None, typer.Option(help="draw it: a .png, .svg or .pdf file")]
Csv = Annotated[str | None, typer.Option("--csv", help="write the figures to a file")]


def _text(help_text: str) -> Any:
    return Annotated[str | None, typer.Option(help=help_text)]


def _number(help_text: str) -> Any:
    return Annotated[float | None, typer.Option(help=help_text)]


def _count(help_text: str) -> Any:
    return Annotated[int | None, typer.Option(help=help_text)]


CalibrationOption = Annotated[
    str | None, typer.Option("--calibration", help="perplexities of a method: a JSON file")
]
KV = {"kv": _text("fixed: KV of --context tokens; grow: it takes from the caches [fixed]")}
"""How KV takes its DRAM; commands that vary the budget do without."""
METHOD = {"method": _text("see dipsim methods")}
"""One method; commands that run several declare their own."""
POLICY = {"policy": _text("see dipsim policies, or file.py:attribute [lfu]")}
"""One policy, likewise."""
BUDGET = {
    "dram": _text("for weights and KV: 3.5GB, or 50% of the model"),
    "cache": _text("for the caches alone: 400MiB"),
    "cache_fraction": _number("share of the units the caches hold"),
}
"""One budget, likewise."""
WHAT = {
    "density": _number("share of MLP weights kept [0.7]"),
    "group_density": _text("per group, e.g. mlp_input=.75,glu=.6"),
    "split": _text("of dip: authors or equal; of teal: greedy or equal"),
    "gamma": _text("of dip-ca: a number, or mlp_input=.5,glu=.2"),
    "masking": _text("of dip-ca: gamma, blend or approximate:top_m=.9 [gamma]"),
    "selection": _text("top-k, or threshold, a static one per layer [top-k]"),
    "calibrate_tokens": _text("tokens A:B for thresholds; they are not measured"),
    "recall": _number("of predictor: right neurons it finds [0.9]"),
    "predictor_rank": _count("of predictor: its width [hidden / 8]"),
    "routing": _text("of moe: cache-prior, max-rank, drop-cold or reuse-distance"),
    "top_k": _count("of moe: experts a token uses [the model's]"),
    "cluster": _count("neighbouring units read as one [1]"),
}
"""What a token needs."""
HOW = {
    "admission": _text("forced or ranked"),
    "access": _text("atomic or sequential [atomic]"),
    "warmup": _count("decode tokens not measured [0]"),
    "reset": _text("empty caches: never or sequence"),
    "prefill": _text("prefill tokens: stream or cache [experts: cache]"),
    "tokens": _text("a part of the trace, A:B"),
    "layers": _text("a part of the layers, A:B"),
    "sequence": _text("a part of the sequences, A:B"),
    "seed": _count("of every random draw [0]"),
}
"""How caches are replayed."""
WHERE = {
    "backend": _text("engine of the profile"),
    "bits": _number("bits per weight, scales included"),
    "context": _count("tokens of KV in the budget"),
    "kv_bits": _number("bits per key or value [16]"),
    "scope": _text("layer: a cache per layer and group; or global: one for all [layer]"),
    "allocate": _text("divide the cache: even, equal (bytes) or optimal [even]"),
    "static_from": _text("trace whose most used units static pins"),
    "layout": _text("in flash: column, bundle, expert, row or permuted"),
    "order_from": _text("of permuted: tokens A:B it learns from [the first half]"),
    "io": _text("direct, buffered (page cache) or mmap (page faults) [direct]"),
    "weights": _text("of dense: 2:4, two of four MLP weights kept"),
    "compat": _text("authors: rule for rule as the DIP authors' simulator"),
    "overlap": _text("paper-serial, paper-concurrent, serial, pipelined or prefetch [pipelined]"),
    "prefetch": _text("guesses: previous, next-layer, right=SHARE, a trace of predictions"),
    "engine": _text("of time: auto, closed or events [auto]"),
    "thermal": _text("cold, or sustained: throttles as it gets hot [cold]"),
}
"""On what: the device, the model's weights, the budget."""
_PAIRS = ("group_density", "gamma")


def takes(*groups: dict[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command shared options; they reach it as keywords, None where not given."""
    shared = {name: kind for group in groups for name, kind in group.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def called(**given: Any) -> None:
            for name in _PAIRS:
                if name in shared:
                    given[name] = pairs(given[name], f"--{name.replace('_', '-')}")
            command(**given)

        hints = get_type_hints(command, include_extras=True)
        own = [
            at.replace(annotation=hints[name])
            for name, at in inspect.signature(command).parameters.items()
            if at.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in shared.items()
        ]
        called.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
        called.__annotations__ = {at.name: at.annotation for at in (*own, *more)}
        return called

    return decorate


def pairs(text: str | None, option: str) -> Any:
    """``"a=.5,b=.2"`` -> {"a": 0.5, "b": 0.2}; a gamma of ``".5"`` holds for every group."""
    if text is None:
        return None
    try:
        if "=" not in text and option == "--gamma":
            return {"*": float(text)}
        parts = [part.partition("=") for part in text.split(",")]
        names = [name.strip() for name, _, _ in parts]
        if len(set(names)) < len(names):
            raise ValueError
        return {name.strip(): float(value) for name, _, value in parts}
    except ValueError:
        raise DipsimError(
            f"{option} {text!r}: write name=number,name=number, e.g. mlp_input=.5,glu=.2"
        ) from None
