"""Plan of a sweep: what every cell runs, in the order of the grid."""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dipsim import methods, policies
from dipsim.errors import ConflictError, DipsimError, brief
from dipsim.plugins import full_name, full_path
from dipsim.settings import OPTIONS, concerning, make_settings
from dipsim.store import key_of
from dipsim.sweep import loop
from dipsim.sweep.cell_key import CellKeys
from dipsim.sweep.file import Sweep
from dipsim.sweep.grid import Grid
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.keys import FILES, INPUTS, LOOP, PAIRS, PLUGINS, SHARE
from dipsim.sweep.methods import calibrated_tokens, check_used, options_of, part_of, warmed_up
from dipsim.sweep.point import Place
from dipsim.views import shortened


@dataclass(frozen=True)
class Planned:
    """A cell that is to be run; all its values are plain, so that it can be sent anywhere."""

    key: str
    place: Place
    options: Mapping[str, Any]
    """Arguments of `dipsim.simulate`."""

    __repr__ = shortened


@dataclass(frozen=True)
class Plan:
    """All cells of a sweep, in the order of its grid."""

    sweep: Sweep
    cells: tuple[Planned, ...]

    __repr__ = shortened

    def missing(self, known: Iterable[str]) -> list[Planned]:
        """Return the cells whose keys are not among the known ones, of several with one key the
        first."""
        known = set(known)
        runs = {cell.key: cell for cell in reversed(self.cells) if cell.key not in known}
        return list(reversed(runs.values()))


def make_plan(
    sweep: Sweep,
    inputs: Inputs,
    *,
    limit: int,
    trust_files: bool = False,
    asked: Collection[str] | None = None,
) -> Plan:
    """Work out what every cell of a sweep runs.

    An option that the method of a cell does not take is left out of it, and cells that then are
    equal are one. A cell whose options exclude each other fails when it is run. Runs on one part of
    a trace measure the same tokens: those that none of them calibrates thresholds on.

    Args:
        inputs: opens traces and profiles.
        limit: most cells of the grid.
        trust_files: policies and methods that are files may be run.
        asked: options that some cell must use; default: all that the sweep gives.

    Raises:
        DipsimError: anything wrong with the input, in one line; why the first cell is impossible,
            where all are.
    """
    cells = _expanded(sweep, inputs, limit, trust_files)
    conflicts = [cell.conflict for cell in cells]
    if all(conflicts):
        raise DipsimError(f"{_named(sweep, cells[0].given)}: {conflicts[0]}")
    possible = [cell.options for cell in cells if cell.conflict is None]
    with _naming(sweep):
        warm = iter(_measured_alike(possible, inputs))
    runs = [next(warm) if cell.conflict is None else cell.options for cell in cells]
    if all("method" in options for options in runs):
        every = {*sweep.grid.fixed, *sweep.grid.names} if asked is None else asked
        check_used({name.partition(".")[0] for name in every}, runs, f"sweep {sweep.name}")
    keys, planned = CellKeys(inputs), []
    for cell, options in zip(cells, runs, strict=True):
        with _naming(sweep, cell.given):
            planned.append(Planned(keys.of(options), cell.place, _named_in_full(options)))
    return Plan(sweep, tuple(planned))


class _Expanded(NamedTuple):
    """A cell of a grid."""

    given: Mapping[str, Any]
    """Options that the grid gives."""
    place: Place
    options: dict[str, Any]
    conflict: ConflictError | None
    """Why its options exclude each other; None where they do not."""


def _expanded(sweep: Sweep, inputs: Inputs, limit: int, trust_files: bool) -> list[_Expanded]:
    """Return the cells of a sweep, equal ones once.

    Raises:
        DipsimError: in one line.
    """
    labels = _labels(sweep.grid)
    named: set[Any] = set()
    cells: dict[str, _Expanded] = {}
    for given in sweep.grid.cells(limit):
        with _naming(sweep, given):
            _check_names(given, named, trust_files)
            options = _options(given, inputs)
            conflict = _conflict(options)
        varying = [name for name in sweep.grid.names if _has(options, name)]
        place = {
            name: labels[name].get(json.dumps(given[name]), _label(name, given[name]))
            for name in varying
        }
        cell = _Expanded(given, place, options, conflict)
        cells.setdefault(key_of({"place": place, "options": options}), cell)
    if not cells:
        raise DipsimError(f"sweep {sweep.name}: no cell is left: see its where and exclude")
    return [*cells.values()]


@contextmanager
def _naming(sweep: Sweep, given: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Name the file of a sweep, and a cell's values of its axes, in errors."""
    try:
        yield
    except DipsimError as problem:
        raise DipsimError(f"{_named(sweep, given or {})}: {problem}") from None


def _named(sweep: Sweep, given: Mapping[str, Any]) -> str:
    varied = [f"{name}={given[name]}" for name in sweep.grid.names if name in given]
    return f"{sweep.source}, {brief(', '.join(varied), 120)}" if varied else sweep.source


def _conflict(options: Mapping[str, Any]) -> ConflictError | None:
    """Return why options exclude each other; None where they do not.

    Raises:
        DipsimError: a value that no run can have.
    """
    try:
        make_settings({name: value for name, value in options.items() if name in OPTIONS})
    except ConflictError as problem:
        return problem
    return None


def _check_names(given: Mapping[str, Any], named: set[Any], trust_files: bool) -> None:
    """Refuse a policy or a method that there is not, or a file that nobody asked to be run.

    Args:
        named: those that were checked; these are added.

    Raises:
        DipsimError: in one line.
    """
    for what, load, runs_file in (
        ("policy", policies.load_policy, policies.runs_file),
        ("method", methods.load_method, methods.runs_file),
    ):
        name = given.get(what)
        if name is None or (what, name) in named:
            continue
        if runs_file(name) and not trust_files:
            raise DipsimError(
                f"names the {what} {brief(name, 200)}, a file that would be run: look at it, then "
                "add --trust-files"
            )
        load(name)
        named.add((what, name))


def _options(given: Mapping[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Return the options of a run, without those that its method does not take.

    Raises:
        DipsimError: no such trace, or an option that is given twice, or is for other cells.
    """
    given = _folded(given)
    if SHARE in given:
        given["dram"] = _share_of_dram(given, inputs)
        del given[SHARE]
    if loop.is_judged(given):
        return loop.options_of(given)
    for name in LOOP:
        if name in given:
            raise DipsimError(f"{name} is of a model that is judged: add text, or drop it")
    settings = {name: value for name, value in given.items() if name in OPTIONS}
    trace = given.get("trace")
    if isinstance(trace, str):
        opened = inputs.trace(trace)
        method = given.get("method") or methods.default_method(opened)
        settings = options_of(method, opened, settings, {})
    named = {name: given[name] for name in INPUTS if name in given}
    return {"trace": None, **named, **settings}


def _share_of_dram(given: Mapping[str, Any], inputs: Inputs) -> str:
    """Return the bytes of a share of the model at its own bits.

    Raises:
        DipsimError: another size of DRAM beside it, or a judged model of unknown sizes.
    """
    if given.get("dram") is not None:
        raise DipsimError(f"{SHARE} {given[SHARE]} and dram {given['dram']}: give one of them")
    if not loop.is_judged(given):
        return inputs.share_of_model(given[SHARE], given)
    if given.get("geometry") is None:
        raise DipsimError(f"{SHARE} of a model that is judged: add geometry, which has its sizes")
    return inputs.share_of_model(given[SHARE], {"model": given["geometry"]})


def _folded(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in which pairs that are given one by one (``gamma.glu``) are one mapping.

    Raises:
        DipsimError: the option is given as a number or a text, too.
    """
    folded = {name: value for name, value in given.items() if "." not in name}
    for key in [name for name in given if "." in name]:
        option, _, name = key.partition(".")
        whole = folded.get(option, {})
        if option not in PAIRS or not isinstance(whole, Mapping):
            raise DipsimError(f"{key} and {option} {brief(repr(whole), 60)}: give one of them")
        folded[option] = {**whole, name: given[key]}
    return folded


def _has(options: Mapping[str, Any], name: str) -> bool:
    """Return whether a run has an option of the grid, under the name that the grid gives it."""
    name = "dram" if name == SHARE else name.partition(".")[0]
    return options.get(name) is not None


def _named_in_full(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in which files have their full path, so that they mean the same anywhere."""
    full = {**dict.fromkeys(FILES, full_path), **dict.fromkeys(PLUGINS, full_name)}
    return {
        name: full[name](value) if name in full and value is not None else value
        for name, value in options.items()
    }


def _labels(grid: Grid) -> dict[str, dict[str, Any]]:
    """Return, by axis, how a place names each value: pairs by a text, files by their name unless
    two have the same."""
    labels: dict[str, dict[str, Any]] = {}
    for axis in grid.axes:
        for name, values in zip(axis.names, zip(*axis.steps, strict=True), strict=True):
            texts = {json.dumps(value): value for value in values}
            short = {text: _label(name, value) for text, value in texts.items()}
            labels[name] = (
                short
                if len(set(short.values())) == len(texts)
                else {
                    text: text if isinstance(value, Mapping) else value
                    for text, value in texts.items()
                }
            )
    return labels


def _label(name: str, value: Any) -> Any:
    """Return how a place names the value of an option: pairs by a text, a file by its name."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={each}" for name, each in value.items())
    if name in (*FILES, *PLUGINS) and isinstance(value, str) and os.sep in value:
        file, suffix, rest = value.partition(".py:")
        return f"{Path(file).name}{suffix}{rest}"
    return value


def _measured_alike(runs: Sequence[dict[str, Any]], inputs: Inputs) -> list[dict[str, Any]]:
    """Return the options of runs such that those on one part of a trace measure the same tokens."""
    parts: dict[str, list[int]] = {}
    for number, options in enumerate(runs):
        if loop.is_judged(options):
            continue
        part = {name: options.get(name) for name in ("trace", *concerning("trace"))}
        parts.setdefault(key_of(part), []).append(number)
    warm = list(runs)
    for numbers in parts.values():
        if not any("calibrate_tokens" in runs[number] for number in numbers):
            continue
        first = runs[numbers[0]]
        replayed = part_of(inputs.trace(first["trace"]), first)
        until = {number: calibrated_tokens(replayed, runs[number]) for number in numbers}
        if len(set(until.values())) > 1:
            for number in numbers:
                warm[number] = warmed_up(runs[number], max(until.values()))
    return warm
