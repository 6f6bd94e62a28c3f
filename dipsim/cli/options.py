"""Options that several commands share: those of `dipsim.settings`, as typer reads them."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, get_args, get_type_hints

import typer

from dipsim.cli import completion
from dipsim.cli.help import OUTPUT, PANELS
from dipsim.cli.trace_files import TRACE
from dipsim.errors import DipsimError
from dipsim.option import Concern, Option
from dipsim.settings import OPTIONS, concerning

DEVICE, NEEDS, STAYS, REPLAYED, TIME = PANELS[2:7]
_PANELS: dict[Concern, str] = {
    "method": NEEDS,
    "pruning": NEEDS,
    "calibration": NEEDS,
    "experts": NEEDS,
    "units": NEEDS,
    "policy": STAYS,
    "pins": STAYS,
    "replay": REPLAYED,
    "trace": REPLAYED,
    "draws": REPLAYED,
    "budget": STAYS,
    "kv": STAYS,
    "beside": STAYS,
    "steps": REPLAYED,
    "storage": DEVICE,
    "prompt": DEVICE,
    "caches": STAYS,
    "device": DEVICE,
    "flash": TIME,
    "comparison": TIME,
    "time": TIME,
}
"""Group of the help that options of a subject stand in."""
_METAVARS = {
    "density": "SHARE",
    "recall": "SHARE",
    "cache_fraction": "SHARE",
    "group_density": "NAME=SHARE,...",
    "gamma": "NAME=NUMBER,...",
    "masking": "NAME[:KEY=VALUE,...]",
    "routing": "NAME[:KEY=VALUE,...]",
    "policy": "NAME[:KEY=VALUE,...]",
    "calibrate_tokens": "A:B",
    "order_from": "A:B",
    "tokens": "A:B",
    "layers": "A:B",
    "sequence": "A:B",
    "static_from": "TRACE",
    "warm_from": "TRACE",
    "dram": "BYTES|SHARE",
    "cache": "BYTES",
    "bits": "BITS",
    "unit_bytes": "BYTES",
    "kv_bits": "BITS",
    "kv_policy": "NAME[:KEY=VALUE,...]",
    "kv_budget": "NUMBER|SHARE",
    "kv_quant": "NAME[:KEY=VALUE,...]",
    "kv_dram": "BYTES|SHARE",
    "kv_fetch": "top=NUMBER:block=NUMBER",
    "kv_recompute": "NAME|l=NUMBER",
    "prune_tokens": "NAME[:KEY=VALUE,...]",
    "skip_layers": "NAME[:KEY=VALUE,...]",
    "partial_bits": "BITS",
    "speculate": "KEY=VALUE,...",
    "prefetch": "NAME|TRACE",
    "prefetch_guard": "SHARE",
    "prefetch_cut": "SHARE",
}
"""Word behind an option in its help; of others ``NUMBER`` or ``NAME``, by their type."""


def needs(text: str, metavar: str = "NAME", *, names: Any = None) -> Any:
    """Return an option on what a token needs.

    Args:
        text: its help.
        metavar: what is written behind it.
        names: what a shell completes.
    """
    return typer.Option(help=text, metavar=metavar, rich_help_panel=NEEDS, autocompletion=names)


def stays(text: str, metavar: str, *flags: str, names: Any = None) -> Any:
    """Return an option on what stays in DRAM.

    Args:
        text: its help.
        metavar: what is written behind it.
        flags: as the command line spells it; by default by its name.
        names: what a shell completes.
    """
    declared: dict[str, Any] = {"help": text, "metavar": metavar, "autocompletion": names}
    return typer.Option(*flags, rich_help_panel=STAYS, **declared)


def number(text: str, **bounds: Any) -> Any:
    """Return an option that is a number, of the command's own."""
    return typer.Option(help=text, metavar="NUMBER", **bounds)


TraceArgument = Annotated[str | None, TRACE]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        help="device: a name or a YAML file",
        metavar="NAME|FILE",
        rich_help_panel=DEVICE,
        autocompletion=completion.profiles,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        help="a preset, YAML, config.json or GGUF",
        metavar="NAME|FILE",
        rich_help_panel=DEVICE,
        autocompletion=completion.models,
    ),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "-s",
        help="override the profile: flash.bandwidth=2GB/s",
        metavar="KEY=VALUE",
        rich_help_panel=DEVICE,
    ),
]
Policies = Annotated[
    list[str] | None,
    stays(
        "names with commas: lru,lfu-decay:half_life=32, or file.py:attribute",
        "NAME[:KEY=VALUE,...]",
        "--policy",
        names=completion.policies,
    ),
]
CacheFractions = Annotated[
    list[str] | None,
    stays("shares of the units the caches hold, with commas: .4,.6", "SHARE", "--cache-fraction"),
]
Csv = Annotated[
    str | None,
    typer.Option(
        "--csv", help="write the figures: a .csv file", metavar="FILE", rich_help_panel=OUTPUT
    ),
]
CalibrationOption = Annotated[
    str | None,
    typer.Option("--calibration", help="perplexities of a method: a .json file", metavar="FILE"),
]


NAMES = {
    "method": completion.methods,
    "policy": completion.policies,
    "static_from": completion.traces,
    "warm_from": completion.traces,
}
"""Names that a shell completes for the settings that name something shipped."""


def _annotation(option: Option) -> Any:
    """Return the type, the help text and its place that typer reads."""
    kind: Any = str if option.kind is dict else option.kind
    metavar = _METAVARS.get(option.name, "NAME" if kind is str else "NUMBER")
    declared = typer.Option(
        help=option.help,
        metavar=metavar,
        rich_help_panel=_PANELS[option.concerns],
        autocompletion=NAMES.get(option.name),
    )
    return Annotated[kind | None, declared]


def _several(option: Option) -> Any:
    """Return the annotation of an option that takes several values, with commas."""
    _, declared = get_args(_annotation(option))
    declared.help += ", with commas"
    return Annotated[list[str] | None, declared]


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
PROMPT = _annotations("prompt")
"""The prompt of a run without a trace."""
HOW = _annotations("replay", "trace", "draws")
"""Rules of the replay, and the part of the trace."""
BOS_HELP = "before each window, what the tokenizer puts before a text"
"""Help of ``--bos``."""
EACH_BESIDE: dict[str, Any] = {
    name: _several(OPTIONS[name])
    for name in concerning("beside")
    if name not in ("kv_dram", "kv_recompute")
}
"""Systems beside the weights, several values of each; where they lie changes no model's output."""
WHERE = _annotations(
    *("device", "storage", "beside", "steps", "caches", "pins", "flash", "comparison", "time")
)
"""Device, bytes of weights and KV, tokens of a step, division of DRAM, flash and time."""
_PICTURE = {
    "plot": Annotated[
        str | None,
        typer.Option(
            help="draw it: a .png, .svg or .pdf file", metavar="FILE", rich_help_panel=OUTPUT
        ),
    ],
    "size": Annotated[
        str | None,
        typer.Option(
            help="of the picture in inches, e.g. 8x4", metavar="WxH", rich_help_panel=OUTPUT
        ),
    ],
    "dpi": Annotated[
        int | None,
        typer.Option(
            help="dots per inch of a .png [120]", metavar="NUMBER", rich_help_panel=OUTPUT
        ),
    ],
}
"""Options of every command that draws."""


def draws(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--plot``, ``--size`` and ``--dpi``.

    They reach it as its parameter ``picture``: the `Sheet` to draw on, None without ``--plot``.
    """

    @wraps(command)
    def called(*, plot: str | None, size: str | None, dpi: int | None, **given: Any) -> None:
        from dipsim.report import files

        wanted = {"--size": size, "--dpi": dpi}
        if plot is None:
            for option, value in wanted.items():
                if value is not None:
                    raise DipsimError(f"{option} {value}: of which picture? add --plot FILE")
        command(picture=files.check_plot(plot, inches(size), dpi), **given)

    own = [each for each in _parameters(command) if each.name != "picture"]
    return _offering(called, [*own, *_keywords(_PICTURE)])


def inches(size: str | None) -> tuple[float, float] | None:
    """Read ``"8x4"`` as (8.0, 4.0); None stays None.

    Raises:
        DipsimError: not of that form.
    """
    if size is None:
        return None
    width, _, height = size.partition("x")
    try:
        return float(width), float(height)
    except ValueError:
        raise DipsimError(f"--size {size!r}: write width x height in inches, e.g. 8x4") from None


def takes(*groups: dict[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command shared options; they reach it as keywords, None where not given."""
    shared = {name: annotation for group in groups for name, annotation in group.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        return _offering(command, [*_parameters(command), *_keywords(shared)])

    return decorate


def _parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    """Return the parameters that a command declares by name."""
    hints = get_type_hints(command, include_extras=True)
    return [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def _keywords(annotations: Mapping[str, Any]) -> list[inspect.Parameter]:
    """Return keywords that are None where not given."""
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in annotations.items()
    ]


def _offering(
    called: Callable[..., None], parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    """Return a function that says it has these parameters, for typer to read."""
    signature = inspect.Signature(parameters)
    called.__signature__ = signature  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return called
