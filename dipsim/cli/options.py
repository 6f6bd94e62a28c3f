"""Options that several commands share: those of `dipsim.settings`, as typer reads them."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from dipsim.cli import completion
from dipsim.errors import DipsimError
from dipsim.option import Concern, Option, flag
from dipsim.settings import OPTIONS, concerning

TraceArgument = Annotated[
    str | None,
    typer.Argument(
        help="an .npz file, a folder of shards, or a shipped name", autocompletion=completion.traces
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        help="device: a name or a YAML file",
        autocompletion=completion.profiles,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="a preset, YAML, config.json or GGUF", autocompletion=completion.models),
]
Override = Annotated[
    list[str] | None,
    typer.Option("-s", help="override the profile: flash.bandwidth=2GB/s", metavar="KEY=VALUE"),
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        help="as for run; repeat it",
        metavar="NAME[:KEY=VALUE,...]",
        autocompletion=completion.policies,
    ),
]
Plot = Annotated[str | None, typer.Option(help="draw it: a .png, .svg or .pdf file")]
Csv = Annotated[str | None, typer.Option("--csv", help="write the figures to a file")]


CalibrationOption = Annotated[
    str | None, typer.Option("--calibration", help="perplexities of a method: a JSON file")
]


NAMES = {
    "method": completion.methods,
    "policy": completion.policies,
    "static_from": completion.traces,
}
"""What a shell completes for the settings that name something shipped."""


def _annotation(option: Option) -> Any:
    """Return the type and the help text that typer reads."""
    kind: Any = str if option.kind is dict else option.kind
    names = NAMES.get(option.name)
    return Annotated[kind | None, typer.Option(help=option.help, autocompletion=names)]


def _annotations(*concerns: Concern) -> dict[str, Any]:
    """Return annotations of the settings that concern these subjects, by name."""
    return {name: _annotation(OPTIONS[name]) for name in concerning(*concerns)}


KV = _annotations("kv")
"""The growth of KV; commands that vary the budget do without."""
METHOD = _annotations("method")
"""Name of one method; commands that run several declare their own."""
POLICY = _annotations("policy")
"""Name of one policy, likewise."""
BUDGET = _annotations("budget")
"""Sizes of one budget, likewise."""
WHAT = _annotations("pruning", "calibration", "experts", "units")
"""Choice of what a token needs."""
HOW = _annotations("replay", "trace", "draws")
"""Rules of the replay, and the part of the trace."""
WHERE = _annotations("device", "storage", "caches", "pins", "flash", "comparison", "time")
"""Device, bytes of weights and KV, division of DRAM, flash and time."""


def takes(*groups: dict[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command shared options; they reach it as keywords, None where not given."""
    shared = {name: annotation for group in groups for name, annotation in group.items()}
    mappings = [name for name in shared if OPTIONS[name].kind is dict]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def called(**given: Any) -> None:
            for name in mappings:
                given[name] = pairs(given[name], flag(name))
            command(**given)

        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        keyword = inspect.Parameter.KEYWORD_ONLY
        more = [
            inspect.Parameter(name, keyword, default=None, annotation=annotation)
            for name, annotation in shared.items()
        ]
        parameters = [*own, *more]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return decorate


def pairs(text: str | None, option: str) -> Any:
    """Read ``"a=.5,b=.2"`` as {"a": 0.5, "b": 0.2}; a gamma of ``".5"`` holds for every group.

    Args:
        option: as the command line spells it.

    Raises:
        DipsimError: not of that form, or a name given twice.
    """
    if text is None:
        return None
    try:
        if "=" not in text and option == "--gamma":
            return {"*": float(text)}
        parts = [part.partition("=") for part in text.split(",")]
        groups = [name.strip() for name, _, _ in parts]
        if len(set(groups)) < len(groups):
            raise ValueError
        return {name.strip(): float(value) for name, _, value in parts}
    except ValueError:
        raise DipsimError(
            f"{option} {text!r}: write name=number,name=number, e.g. mlp_input=.5,glu=.2"
        ) from None
