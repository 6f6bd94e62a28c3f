"""Objects that a user wrote, policies and methods: ``file.py:attribute``, perhaps with parameters.

A file is Python and is run, as any program of the user's would be. Parameters follow after another
colon, ``file.py:attribute:key=value,key=value``, for what is built in too.
"""

import functools
import importlib.util
import math
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

from dipsim.errors import DipsimError, brief

Given = tuple[tuple[str, float], ...]
"""Parameters that a user has set, as (key, value)."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NUMBA_NOISE = (
    "File",
    "^",
    "During",
    "Failed in nopython",
    "There are",
    "Of which",
    "Overload",
    "TypingError: Failed",
    "NumbaTypeError: Failed",
    "With argument",
    "Rejected",
    "No match",
    "raised from",
    "This error",
    ">>>",
    "<source",
    "def ",
)
"""Beginnings of lines of numba's reports that say nothing of the cause."""


@dataclass(frozen=True)
class Kind:
    """A kind of object that a user may write: its noun, its class, and what messages say."""

    noun: str
    of: type
    error: type[DipsimError]
    builtin: Collection[str]
    """Names of those that are built in."""
    example: str
    """One with a parameter."""


def check_name(noun: str, name: str, error: type[DipsimError]) -> None:
    """Refuse a name that comma lists and parameters could not hold.

    Raises:
        DipsimError: ``error``; not text, or empty, or with a blank, comma, colon or equals sign.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[^\s,:=]+", name):
        raise error(f"{noun} {name!r}: a name has no blank, comma, colon or equals sign; rename it")


def name_and_parameters(given: str) -> tuple[str, str]:
    """Split ``"name:key=value"`` into its name and the text of its parameters, perhaps empty."""
    name, colon, parameters = given.rpartition(":")
    return (name, parameters) if colon and "=" in parameters else (given, "")


def runs_file(kind: Kind, given: str) -> bool:
    """Return whether loading this text runs a file."""
    name, _ = name_and_parameters(given)
    return name not in kind.builtin and name.rpartition(":")[0].endswith(".py")


def full_name(given: str) -> str:
    """Return a text with the full path of its file, if it has one that exists."""
    file, suffix, rest = given.rpartition(".py:")
    return full_path(file + ".py") + ":" + rest if suffix else given


def full_path(name: str) -> str:
    """Return the full path of a file that exists, any other name as it is."""
    return os.path.abspath(name) if os.path.exists(name) else name


def parse_parameters(kind: Kind, given: str) -> dict[str, float]:
    """Parse the parameters of ``"name:key=value,key=value"``; none without them.

    Raises:
        DipsimError: of the kind; not of that form, or a key given twice.
    """
    _, text = name_and_parameters(given)
    if not text:
        return {}
    pairs = [pair.partition("=") for pair in text.split(",")]
    if len({key.strip() for key, _, _ in pairs}) < len(pairs):
        raise kind.error(f"{kind.noun} {given!r}: a parameter is given twice; give it once")
    try:
        values = {key.strip(): float(value) for key, _, value in pairs}
        if not all(map(math.isfinite, values.values())):
            raise ValueError
    except ValueError:
        raise kind.error(
            f"{kind.noun} {given!r}: parameters are key=number,key=number, as in {kind.example}"
        ) from None
    return values


def unknown(kind: Kind, name: str, others: str = "") -> DipsimError:
    """Return the error of a name that is not built in, or is followed by no parameters.

    Args:
        others: what else may be given, for the message.
    """
    first = name.partition(":")[0]
    if first in kind.builtin:
        return kind.error(f"{kind.noun} {brief(name)!r}: write parameters as {first}:key=value")
    known = ", ".join(kind.builtin)
    return kind.error(f"no {kind.noun} {brief(name)!r}: use one of {known}{others}")


def load(kind: Kind, name: str) -> Any:
    """Run ``file.py`` of ``file.py:attribute`` and return the object that it defines.

    A file that has not changed is run once, so that what was compiled for its object is found.

    Raises:
        DipsimError: of the kind; no such file or attribute, a file that fails, or an attribute of
            another type.
    """
    file, colon, attribute = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise unknown(kind, name, ", or file.py:attribute")
    if not os.path.isfile(file):
        raise kind.error(f"{kind.noun} {name!r}: no file {file}; give path/to/file.py:attribute")
    try:
        digest = sha256(Path(file).read_bytes()).hexdigest()
        module = _module(os.path.abspath(file), digest)
    except DipsimError:
        raise
    except (Exception, SystemExit) as problem:  # the user's code: show whatever it raises
        raise kind.error(
            f"{kind.noun} {name!r}: {file} fails with {type(problem).__name__}: {problem}"
        ) from problem
    value = getattr(module, attribute, None)
    if not isinstance(value, kind.of):
        raise kind.error(
            f"{kind.noun} {name!r}: {file} has no dipsim.{kind.of.__name__} named "
            f"{attribute!r}; define one"
        )
    return value


@functools.lru_cache(maxsize=64)
def _module(file: str, digest: str) -> Any:
    """Run a file of Python, once as long as its contents stay the same."""
    loader = SourceFileLoader(f"dipsim_user_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(ModuleSpec(loader.name, loader, origin=file))
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def refuse_same(kind: Kind, labels: Sequence[str]) -> None:
    """Refuse two objects with one label: reports tell them apart by it.

    Raises:
        DipsimError: of the kind.
    """
    plural = {"policy": "policies"}.get(kind.noun, f"{kind.noun}s")
    for label in labels:
        if labels.count(label) > 1:
            raise kind.error(f"two {plural} are called {label!r}: name each once, or rename yours")


def label(name: str, given: Given) -> str:
    """Return a name followed by the parameters that were set: ``name:key=value``."""
    parameters = ",".join(f"{key}={_short(value)}" for key, value in given)
    return f"{name}:{parameters}" if parameters else name


def no_parameter(
    what: str, known: Mapping[str, Any], key: str, error: type[DipsimError]
) -> DipsimError:
    """Return the error of a parameter that there is not.

    Args:
        what: noun and name, for the message.
        known: all parameters, with their defaults.
    """
    hint = f"its parameters are {', '.join(known)}" if known else "it has no parameters"
    return error(f"{what}: no parameter {brief(key, 40)!r}; {hint}")


def with_values(
    what: str,
    known: Mapping[str, Any],
    given: Given,
    values: Mapping[str, float],
    error: type[DipsimError],
) -> Given:
    """Return the parameters that are set once some more are.

    Args:
        what: noun and name, for messages.
        known: all parameters, with their defaults.

    Raises:
        DipsimError: ``error``; no such parameter, or it is a whole number and the value is not.
    """
    setting = dict(given)
    for key, value in values.items():
        if key not in known:
            raise no_parameter(what, known, key, error)
        if isinstance(known[key], bool) or not isinstance(known[key], int | float):
            raise error(
                f"{what}: {key} cannot be set: its default {known[key]!r} in `state` is not a "
                "number"
            )
        if isinstance(known[key], int) and value != int(value):
            raise error(f"{what}: {key} is a whole number, not {value:g}")
        setting[key] = type(known[key])(value)
    return tuple(setting.items())


def _short(value: float) -> str:
    """Write a number as briefly as is possible without loss."""
    brief = f"{value:g}"
    return brief if float(brief) == value else repr(value)


def cause_of(problem: Exception) -> str:
    """Return the line of numba's long report that says what it stumbled over."""
    lines = [line.strip(" -") for line in _COLOUR.sub("", str(problem)).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NUMBA_NOISE)]
    inner = [line for line in telling if not line.startswith("No implementation of function")]
    return (inner or telling or [""])[0][:200]
