"""Sweep files: the options of a run, in which a list is an axis (docs/sweeps.md)."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dipsim.errors import DipsimError, brief, check_pairs, first_problem, not_taken
from dipsim.files import parse_yaml, path_of, read_yaml
from dipsim.settings import OPTIONS
from dipsim.sweep.grid import Axis, Grid, Match, Rule
from dipsim.sweep.keys import (
    FILES,
    PAIRS,
    PLUGINS,
    Keys,
    SweepFile,
    TableKeys,
    When,
    check_key,
    check_option,
    is_option,
)

_MOST_BYTES = 2**18


@dataclass(frozen=True)
class Table:
    """Table of a sweep: a row for each value of some axes.

    Cells that differ in other axes as well have tables of their own.
    """

    title: str
    rows: tuple[str, ...]
    columns: str | None
    """Axis that goes across; None where the figures do."""
    figures: tuple[str, ...]
    """With an axis across, each has a table."""
    at_loss: tuple[float, ...]
    """Losses in perplexity that go across, above each the highest rate; none for figures."""


@dataclass(frozen=True)
class Sweep:
    """A sweep, as its file states it."""

    name: str
    title: str
    grid: Grid
    tables: tuple[Table, ...] = ()
    """Tables of its cells that are shown; none for the fastest cells."""
    note: str = ""
    """Remark below the tables."""
    source: str = "the sweep"
    """File that it was read from."""


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
        check_key(key, "changes")
    return _declared({**data, **(changes or {})}, where)


def read_changes(texts: Sequence[str], option: str = "-s") -> dict[str, Any]:
    """Return the keys that ``key=value`` texts change; values are YAML.

    Args:
        texts: as the user wrote them.
        option: as the command line spells it, for errors.

    Raises:
        DipsimError: not of that form, an unknown key, or one given twice.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise DipsimError(
                f"{option} {brief(text)}: write key=value, e.g. cache_fraction=[.4,.6]"
            )
        check_key(key, option)
        if key in changes:
            raise DipsimError(f"{option} {key} given twice: one only, e.g. {key}=[first, second]")
        changes[key] = parse_yaml(value, f"{option} {key}")
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
        check_key(key, where)
    data = {key: _beside(folder, key, value) for key, value in data.items()}
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise DipsimError(f"{where}: extends is the name of one file, not {brief(repr(base), 60)}")
    beneath = _read(folder / base, seen)
    beneath.pop("name", None)
    return {**beneath, **data}


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
        keys = SweepFile.model_validate({key: data[key] for key in data if "." not in key})
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
    tables = tuple(_table(each, given, f"{where}: tables") for each in keys.tables)
    return Sweep(name, keys.title, grid, tables, keys.note, where)


def _table(given: TableKeys, known: set[str], where: str) -> Table:
    """Return a table, of axes that there are.

    Raises:
        DipsimError: an axis that the sweep does not have, or not either figures or losses.
    """
    rows = (given.rows,) if isinstance(given.rows, str) else tuple(given.rows)
    for axis in (*rows, *filter(None, [given.columns])):
        if axis not in known:
            raise DipsimError(f"{where}: {brief(repr(axis), 60)} is no option of this sweep")
    if bool(given.figures) == bool(given.at_loss) or not rows:
        raise DipsimError(f"{where}: give rows, and either figures or at_loss")
    if given.at_loss and "text" not in known:
        raise DipsimError(
            f"{where}: at_loss is of perplexities: add text, so that a model is judged"
        )
    if given.at_loss and given.columns:
        raise DipsimError(f"{where}: at_loss goes across: drop columns")
    return Table(given.title, rows, given.columns, tuple(given.figures), tuple(given.at_loss))


def _axes(data: Mapping[str, Any], keys: Keys, where: str) -> tuple[dict[str, Any], list[Axis]]:
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
        elif is_option(key) and isinstance(value, list):
            axes.append(_zipped({key: value}, where))
        elif is_option(key) and value is not None:
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
        check_option(name, where)
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
    pairs = name in PAIRS
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
        check_option(name, where)
        if name not in known:
            raise DipsimError(
                f"{where}: {name} is no option of this sweep: add it, or drop it here"
            )
        values = value if isinstance(value, list) else [value]
        match[name] = [_value(name, each, where) for each in values]
    return match


def _rule(given: When, known: set[str], where: str) -> Rule:
    for name in given.set:
        check_option(name, where)
    changes = {name: _value(name, value, where) for name, value in given.set.items()}
    return Rule(_match(given.when, known, where), changes)
