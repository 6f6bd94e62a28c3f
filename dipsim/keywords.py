"""Keyword arguments that the functions of dipsim share: the options of `Settings`, typed.

An option is declared in `dipsim.settings`, and here a second time, since a type checker and an
editor read nothing else; a test holds both declarations together.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from textwrap import wrap
from typing import Any, Literal, TypedDict, TypeVar, get_args, get_type_hints

from dipsim.hardware import Overrides
from dipsim.methods import PruningMethod
from dipsim.model import Model
from dipsim.policies import Policy
from dipsim.resolve import Input
from dipsim.settings import OPTIONS, Access, Layout, Overlap, Prefill, Reset, Scope

Size = str | float
"""A text such as ``"3.5 GB"``, or a number of bytes."""
File = str | os.PathLike[str]
_BESIDE = {
    "model": "preset, YAML, config.json, GGUF, geometry or Model [the one that the trace names]",
    "overrides": "of the profile: 'flash.bandwidth=2GB/s' or {'flash.bandwidth': '2GB/s'}",
}
"""Meanings of the keywords that are no settings."""
F = TypeVar("F", bound=Callable[..., Any])


class ChoiceOptions(TypedDict, total=False):
    """Options on what a token needs, but for the density, and on the replay and its part of the
    trace."""

    group_density: str | Mapping[str, float] | None
    split: str | None
    gamma: str | float | Mapping[str, float] | None
    masking: str | None
    routing: str | None
    top_k: int | None
    selection: Literal["top-k", "threshold"] | None
    calibrate_tokens: str | None
    recall: float | None
    predictor_rank: int | None
    cluster: int | None
    admission: Literal["forced", "ranked"] | None
    access: Access | None
    warmup: int | None
    reset: Reset | None
    prefill: Prefill | None
    tokens: str | None
    layers: str | None
    sequence: str | None
    seed: int | None


class DensityOption(TypedDict, total=False):
    """Option on the share of the weights that a token needs."""

    density: float | None


class DeviceOptions(TypedDict, total=False):
    """Options on the device, bytes of weights and KV, division of DRAM, flash and time."""

    model: Input | Model | None
    overrides: Overrides
    weights: Literal["2:4"] | None
    compat: Literal["authors"] | None
    static_from: File | None
    warm_from: File | None
    bits: float | None
    weight_format: str | None
    unit_bytes: Size | None
    context: int | None
    depth: int | None
    kv: Literal["fixed", "grow"] | None
    kv_policy: str | None
    kv_budget: str | float | None
    kv_when: Literal["token", "prompt", "both"] | None
    kv_quant: str | None
    kv_dram: Size | None
    kv_fetch: str | None
    kv_recompute: str | None
    prune_tokens: str | None
    skip_layers: str | None
    skip_kv: Literal["project", "hole", "copy"] | None
    batch: int | None
    speculate: str | None
    partial_bits: float | None
    kv_bits: float | None
    layout: Layout | None
    order_from: str | None
    io: Literal["direct", "buffered", "mmap"] | None
    overlap: Overlap | None
    prefetch: File | None
    prefetch_into: Literal["buffer", "cache"] | None
    prefetch_guard: float | None
    prefetch_depth: int | None
    prefetch_cut: float | None
    engine: Literal["auto", "closed", "events"] | None
    thermal: Literal["cold", "sustained"] | None
    backend: str | None
    scope: Scope | None
    allocate: Literal["even", "equal", "optimal"] | None


class BudgetOptions(TypedDict, total=False):
    """Options on the DRAM that is given: one of these, or none for the profile's own."""

    dram: Size | None
    cache: Size | None
    cache_fraction: float | None


class CurveOptions(ChoiceOptions, DensityOption, total=False):
    """Options of what needs no device."""

    method: str | PruningMethod | None


class SweepOptions(ChoiceOptions, DeviceOptions, total=False):
    """Options of what varies methods, densities, policies and budgets itself."""


class StudyOptions(SweepOptions, DensityOption, BudgetOptions, total=False):
    """Options of what varies methods and policies itself."""


class SearchOptions(StudyOptions, total=False):
    """Options of what varies methods itself."""

    policy: str | Policy | None


class RunOptions(SearchOptions, total=False):
    """Options of one run."""

    method: str | PruningMethod | None
    prompt: int | None


def lists_options(function: F) -> F:
    """Make ``help()``, notebooks and `inspect.signature` list what a function takes as options.

    The function takes them as ``**options: Unpack[...]`` of a class of this module.
    """
    signature = inspect.signature(function)
    *own, rest = signature.parameters.values()
    (kind,) = get_args(rest.annotation)
    options = options_of(kind)
    function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    lines = [line for option in options for line in _help(option.name)]
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n" + "\n".join(
        lines
    )
    return function


def options_of(kind: type) -> list[inspect.Parameter]:
    """Return the options of a class of this module, in the order of their declaration."""
    hints = get_type_hints(kind)
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=_default(name), annotation=hints[name]
        )
        for name in (*_BESIDE, *OPTIONS)
        if name in hints
    ]


def meaning_of(name: str) -> str:
    """Return what an option means, in a line; its default stands in brackets."""
    return OPTIONS[name].help if name in OPTIONS else _BESIDE[name]


def _default(name: str) -> Any:
    if name not in OPTIONS:
        return () if name == "overrides" else None
    default = OPTIONS[name].default
    return None if default == {} else default


def _help(name: str) -> list[str]:
    """Return the lines of an option in a docstring."""
    text = f"{name}: {meaning_of(name)}"
    return wrap(text, 88, initial_indent="    ", subsequent_indent="        ")
