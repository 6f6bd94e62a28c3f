"""Sweep files: the options of a run, in which a list is an axis (docs/sweeps.md)."""

import difflib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationError, create_model

from dipsim.errors import DipsimError, brief, check_pairs, first_problem, not_taken
from dipsim.files import parse_yaml, path_of, read_yaml
from dipsim.settings import OPTIONS, Settings
from dipsim.sweep.grid import Axis, Grid, Match, Rule

Pairs = dict[str, str | float]
"""Names and numbers, e.g. of ``gamma`` or ``overrides``."""
INPUTS: dict[str, tuple[Any, str]] = {
    "trace": (str | None, "a file, or the name of a shipped one"),
    "profile": (str, "device: a name or a YAML file"),
    "model": (str | None, "a preset, YAML, config.json or GGUF [the one that the trace names]"),
    "overrides": (str | Pairs | None, "of the profile: flash.bandwidth=2GB/s, or a mapping"),
}
"""Options of a run that are no settings: type of a value, and help."""
RUN = (*INPUTS, *OPTIONS)
"""Options of a run, as keys of a sweep file."""
FILES = ("trace", "profile", "model", "static_from", "prefetch")
"""Options that may name a file."""
PLUGINS = ("method", "policy")
"""Options that may be ``file.py:attribute``."""
_MOST_SEEDS = 10_000
_MOST_BYTES = 2**18


class _When(BaseModel):
    """Change of the cells that match."""

    model_config = ConfigDict(extra="forbid")

    when: dict[str, Any] = Field(description="values that the cells have, by option")
    set: dict[str, Any] = Field(description="options that they get instead")


class _Keys(BaseModel):
    """Keys of a sweep file beside the options of a run."""

    model_config = ConfigDict(extra="forbid", title="dipsim sweep")

    name: str | None = Field(None, description="of the sweep [that of the file]")
    title: str = Field("", description="text for people")
    extends: str | None = Field(None, description="file whose keys these replace")
    seeds: int | None = Field(
        None, description="number of seeds, an axis", ge=1, le=_MOST_SEEDS, strict=True
    )
    zip: list[dict[str, list[Any]]] | dict[str, list[Any]] = Field(
        [], description="options that change together, lists of equal length"
    )
    where: list[dict[str, Any]] | dict[str, Any] = Field(
        [], description="only cells that match one of these: options and their values"
    )
    exclude: list[dict[str, Any]] | dict[str, Any] = Field([], description="no cells that match")
    rules: list[_When] = Field([], alias="for", description="changes of single cells, in order")


def _option_fields() -> dict[str, Any]:
    """Return a field for each option of a run: a value, or a list of them."""
    fields: dict[str, Any] = {}
    for name in RUN:
        if name in INPUTS:
            kind, text = INPUTS[name]
        else:
            field, text = Settings.model_fields[name], OPTIONS[name].help
            kind = (
                Annotated[field.annotation, *field.metadata]
                if field.metadata
                else (field.annotation)
            )
            if OPTIONS[name].kind is dict:
                kind = str | float | Pairs
            elif name in ("dram", "cache", "kv_dram", "kv_budget"):
                kind = str | float | None
        value = Annotated[kind | list[kind], SkipValidation]  # type: ignore[valid-type]
        fields[name] = (value, Field(None, description=text))
    return fields


SweepFile = create_model("SweepFile", __base__=_Keys, **_option_fields())
"""Schema of a sweep file. Values of options are checked with each run, by `make_settings`."""


@dataclass(frozen=True)
class Sweep:
    """A sweep, as its file states it."""

    name: str
    title: str
    grid: Grid


def schema() -> dict[str, Any]:
    """Return the JSON Schema of sweep files."""
    return SweepFile.model_json_schema()


def load_sweep(
    given: str | os.PathLike[str] | Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> Sweep:
    """Load a sweep from a file, or from a mapping such as the file holds.

    Args:
        given: path of a YAML file, or its keys.
        changes: keys that replace those of the file.

    Raises:
        DipsimError: unreadable, unknown keys, values that are none, axes that contradict.
    """
    if isinstance(given, Mapping):
        where, data = "the sweep", _extended(dict(given), "the sweep", Path(), ())
    elif isinstance(given, str | os.PathLike):
        where, data = str(given), _read(path_of(given, "sweep"), ())
        data = {"name": Path(given).stem, **data}
    else:
        raise DipsimError(not_taken("sweep", given, "a YAML file, or a mapping of its keys"))
    check_pairs("changes", changes, "{'cache_fraction': [0.4, 0.6]}")
    for key in changes or {}:
        _check_key(key, "changes")
    return _declared({**data, **(changes or {})}, where)


def read_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Return the keys that ``key=value`` texts change; values are YAML.

    Raises:
        DipsimError: not of that form, an unknown key, or one given twice.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise DipsimError(f"-s {brief(text)}: write key=value, e.g. cache_fraction=[.4,.6]")
        _check_key(key, "-s")
        if key in changes:
            raise DipsimError(f"-s {key} given twice: one only, e.g. {key}=[first, second]")
        changes[key] = parse_yaml(value, f"-s {key}")
    return changes


# Reading ------------------------------------------------------------------------------------------


def _read(path: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    """Read a file and those that it extends.

    Args:
        seen: paths of the files that led here.

    Raises:
        DipsimError: no such file, unreadable, unknown keys, or a circle.
    """
    if not os.path.lexists(path):
        raise DipsimError(f"{path}: no such file; give the YAML file of a sweep")
    identity = os.path.realpath(path)
    if identity in seen:
        raise DipsimError(f"{path}: extends itself in a circle: break it")
    if path.is_file() and path.stat().st_size > _MOST_BYTES:
        raise DipsimError(f"{path}: larger than {_MOST_BYTES} bytes: a sweep is a short file")
    data = read_yaml(path, DipsimError)
    return _extended(data, str(path), path.parent, (*seen, identity))


def _extended(
    data: dict[str, Any], where: str, folder: Path, seen: tuple[str, ...]
) -> dict[str, Any]:
    """Return the keys of a file with those it extends beneath; files are found beside it.

    Raises:
        DipsimError: as `_read`.
    """
    for key in data:
        _check_key(key, where)
    data = {key: _beside(folder, key, value) for key, value in data.items()}
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise DipsimError(f"{where}: extends is the name of one file, not {brief(repr(base), 60)}")
    beneath = _read(folder / base, seen)
    beneath.pop("name", None)
    return {**beneath, **data}


def _check_key(key: Any, where: str) -> None:
    """Refuse a key that sweep files do not have.

    Raises:
        DipsimError: with the nearest one that they have.
    """
    known = [field.alias or name for name, field in SweepFile.model_fields.items()]
    if key not in known:
        close = difflib.get_close_matches(str(key), known, 1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise DipsimError(
            f"{where}: unknown key {brief(repr(key), 60)}: {meant}(dipsim sweep --schema has all)"
        )


def _beside(folder: Path, key: str, value: Any) -> Any:
    """Return a value in which files that lie in a folder have their path."""
    if isinstance(value, list):
        return [_beside(folder, key, each) for each in value]
    if isinstance(value, dict) and key not in OPTIONS:
        return {name: _beside(folder, name, each) for name, each in value.items()}
    if not isinstance(value, str) or key not in (*FILES, *PLUGINS):
        return value
    name, suffix, rest = value.partition(".py:") if key in PLUGINS else (value, "", "")
    path = folder / f"{name}{suffix.removesuffix(':')}"
    try:
        there = path.exists() if suffix or key in FILES else False
    except (OSError, ValueError):  # no name that a file can have
        there = False
    return f"{path}{':' * bool(suffix)}{rest}" if there else value


# What it declares ---------------------------------------------------------------------------------


def _declared(data: dict[str, Any], where: str) -> Sweep:
    """Return the sweep that keys declare.

    Raises:
        DipsimError: in one line.
    """
    try:
        keys = SweepFile.model_validate(data)
    except ValidationError as problem:
        raise DipsimError(f"{where}: {first_problem(problem)}") from None
    name = keys.name or "sweep"
    if not re.fullmatch(r"[^\W.][\w. +-]{0,99}", name):
        raise DipsimError(
            f"{where}: name {brief(repr(name), 60)}: letters, digits and . _ + - are allowed"
        )
    fixed, axes = _axes(data, keys, where)
    if "profile" not in {*fixed, *(each for axis in axes for each in axis.names)}:
        raise DipsimError(f"{where}: no profile: add one, e.g. profile: snapdragon8")
    given = {*fixed, *(each for axis in axes for each in axis.names)}
    grid = Grid(
        fixed,
        tuple(axes),
        where=_matches(keys.where, given, f"{where}: where"),
        exclude=_matches(keys.exclude, given, f"{where}: exclude"),
        rules=tuple(_rule(each, given, f"{where}: for") for each in keys.rules),
    )
    return Sweep(name, keys.title, grid)


def _axes(data: Mapping[str, Any], keys: _Keys, where: str) -> tuple[dict[str, Any], list[Axis]]:
    """Return the options that are fixed, and the axes in the order of the keys.

    Raises:
        DipsimError: an axis without values, with lists among them, or there twice.
    """
    fixed: dict[str, Any] = {}
    axes: list[Axis] = []
    for key, value in data.items():
        if key == "seeds" and value is not None:
            axes.append(Axis(("seed",), tuple((seed,) for seed in range(value))))
        elif key == "zip":
            groups = keys.zip if isinstance(keys.zip, list) else [keys.zip]
            axes += [_zipped(group, f"{where}: zip") for group in groups]
        elif key in RUN and isinstance(value, list):
            axes.append(_zipped({key: value}, where))
        elif key in RUN and value is not None:
            fixed[key] = _value(key, value, where)
    names = [*fixed, *(name for axis in axes for name in axis.names)]
    for name in names:
        if names.count(name) > 1:
            raise DipsimError(f"{where}: {name} is there twice: as a key, seeds or in zip")
    return fixed, axes


def _zipped(group: Mapping[str, list[Any]], where: str) -> Axis:
    """Return the axis of options that change together.

    Raises:
        DipsimError: lists that are empty or of other lengths, or an unknown option.
    """
    for name in group:
        _check_option(name, where)
    lengths = {name: len(values) for name, values in group.items()}
    if not lengths or 0 in lengths.values():
        raise DipsimError(f"{where}: {', '.join(group) or 'it'} has no values: give one or more")
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DipsimError(f"{where}: lists of equal length change together, not {listed}")
    columns = [[_value(name, each, where) for each in values] for name, values in group.items()]
    steps = tuple(zip(*columns, strict=True))
    known: set[str] = set()
    for step in steps:
        text = json.dumps(step, sort_keys=True)
        if text in known:
            shown = f"{', '.join(group)}: {brief(text[1:-1], 60)}"
            raise DipsimError(f"{where}: {shown} is there twice: once is enough")
        known.add(text)
    return Axis(tuple(group), steps)


def _value(name: str, value: Any, where: str) -> Any:
    """Return a value of an option: a number, a text, a mapping of these, or None.

    Raises:
        DipsimError: anything else.
    """
    pairs = name == "overrides" or (name in OPTIONS and OPTIONS[name].kind is dict)
    if isinstance(value, Mapping) and pairs:
        return {str(key): _value("", each, f"{where}: {name}") for key, each in value.items()}
    names = name in (*FILES, *PLUGINS)
    plain = isinstance(value, str | None if names else str | int | float | None)
    plain = plain and not isinstance(value, bool)
    if plain and (not isinstance(value, float) or math.isfinite(value)):
        return value
    kinds = "a text" if names else "a number or a text"
    kinds = "a number, a text or a mapping of these" if pairs else kinds
    raise DipsimError(f"{where}: {name or 'it'} has {brief(repr(value), 60)}: a value is {kinds}")


def _check_option(name: str, where: str) -> None:
    """Refuse what is no option of a run.

    Raises:
        DipsimError: with the nearest option.
    """
    if name not in RUN:
        close = difflib.get_close_matches(name, RUN, 1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise DipsimError(f"{where}: {brief(repr(name), 60)} is no option of a run{meant}")


def _matches(given: Any, known: set[str], where: str) -> tuple[Match, ...]:
    """Return filters: options and the values of which one must be there.

    Raises:
        DipsimError: an option that the sweep does not give, or no value.
    """
    listed = given if isinstance(given, list) else [given] if given else []
    return tuple(_match(each, known, where) for each in listed)


def _match(given: Mapping[str, Any], known: set[str], where: str) -> Match:
    match = {}
    for name, value in given.items():
        _check_option(name, where)
        if name not in known:
            raise DipsimError(
                f"{where}: {name} is no option of this sweep: add it, or drop it here"
            )
        values = value if isinstance(value, list) else [value]
        match[name] = [_value(name, each, where) for each in values]
    return match


def _rule(given: _When, known: set[str], where: str) -> Rule:
    for name in given.set:
        _check_option(name, where)
    changes = {name: _value(name, value, where) for name, value in given.set.items()}
    return Rule(_match(given.when, known, where), changes)
