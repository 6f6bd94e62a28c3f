"""Declaration of an option: what a field of the settings says beside its type and default."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field

Concern = Literal[
    "method",  # which method
    "pruning",  # how much it keeps, and how a mask prefers what is resident
    "calibration",  # its thresholds, its predictor
    "experts",  # its routing
    "units",  # what is loaded as one
    "policy",  # which policy
    "pins",  # what the policy static holds, and what caches start with
    "replay",  # rules of the replay
    "trace",  # which part of the trace is replayed
    "draws",  # random numbers
    "budget",  # DRAM that is given
    "kv",  # whether KV takes DRAM from the caches
    "beside",  # which positions of KV stay, in how many bits, and where
    "steps",  # how many tokens a decode step takes
    "storage",  # bits of the weights, bits and tokens of KV
    "prompt",  # the prompt of a run without a trace
    "caches",  # how many there are, and how DRAM is divided between them
    "device",  # which engine of the profile
    "flash",  # where units lie, and how they are read
    "comparison",  # what dipsim is compared with
    "time",  # how reads and arithmetic overlap, and how they are timed
]
"""Subject of an option; a command takes options by it."""
Parent = Literal["method", "policy", "layout", "kv_policy", "prefetch"]
Family = Literal["budget", "density", "threshold", "overlap", "kv_format", "steps"]


@dataclass(frozen=True)
class Option:
    """Declaration of one option, as `Settings` holds it."""

    name: str
    kind: type
    """``int``, ``float`` or ``str``, as the command line reads it; ``dict`` for ``key=number``
    pairs."""
    default: Any
    help: str
    concerns: Concern
    of: Parent | None
    """Option that this one refines: giving that one discards the saved value of this one."""
    family: Family | None
    """Name of the options that together state one thing: giving one discards the saved values of
    all."""
    methods: tuple[str, ...]
    """Methods that take it; empty for all."""
    own_check: bool
    """True if a check of its own, which looks at the value, refuses it for other methods."""

    @property
    def flag(self) -> str:
        """Name on the command line, e.g. ``--cache-fraction``."""
        return flag(self.name)


def option(
    default: Any,
    text: str,
    concerns: Concern,
    *,
    of: Parent | None = None,
    family: Family | None = None,
    methods: tuple[str, ...] = (),
    own_check: bool = False,
    **bounds: Any,
) -> Any:
    """Declare a field of `Settings`; what the arguments mean stands at `Option`.

    Args:
        of: by default the method, of options that only some methods take.
        bounds: ``ge``, ``gt`` and ``le`` of pydantic.
    """
    about: dict[str, Any] = {
        "concerns": concerns,
        "of": of or ("method" if methods else None),
        "family": family,
        "methods": methods,
        "own_check": own_check,
    }
    return Field(default, description=text, json_schema_extra=about, **bounds)


def flag(name: str) -> str:
    """Return an option as the command line spells it: ``--cache-fraction``."""
    return f"--{name.replace('_', '-')}"


def declarations(model: type[BaseModel]) -> dict[str, Option]:
    """Return the options that a model's fields declare, by name, in their order."""
    options = {}
    for name, field in model.model_fields.items():
        about: Any = field.json_schema_extra
        options[name] = Option(
            name, _kind(field.annotation), field.default, field.description or "", **about
        )
    return options


def _kind(annotation: Any) -> type:
    """Return `Option.kind` of a field's type; of a union that of its part that is no text."""
    if get_origin(annotation) is Mapping:
        return dict
    if annotation in (int, float):
        number: type = annotation
        return number
    parts = [part for part in get_args(annotation) if isinstance(part, type) or get_args(part)]
    return next((kind for kind in map(_kind, parts) if kind is not str), str)
