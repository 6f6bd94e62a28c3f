"""Errors that a user can cause: one line on what was given, what is allowed, what to do.

The command line prints the message and exits with code 2; any other exception is a bug.
"""

import re
from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails


def printable(text: str) -> str:
    """Make text from files one line that cannot steer a terminal.

    Line ends and other white space become spaces; control characters, marks that turn the direction
    of writing, invisible ones and lone surrogates become question marks.
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def brief(text: object, longest: int = 80) -> str:
    """Make text out of an untrusted file short and printable enough to quote."""
    line = printable(str(text))
    return line if len(line) <= longest else line[: longest - 3] + "..."


def not_taken(what: str, given: object, takes: str) -> str:
    """Return the message on an argument of a wrong type, e.g. an array where a path is due.

    Args:
        what: what was wanted, e.g. ``trace``.
        given: the argument.
        takes: what may be given.
    """
    shape = getattr(given, "shape", None)
    kind = type(given).__name__
    shown = f"an array of shape {shape}" if isinstance(shape, tuple) else f"of type {kind}"
    return f"{what}: what is given is {shown}; give {takes}"


class DipsimError(Exception):
    """Wrong input or usage; never raised for a bug of dipsim itself."""


def check_type(what: str, given: object, kinds: type | tuple[type, ...], takes: str) -> None:
    """Refuse an argument of a wrong type; None, which stands for the default, passes.

    A truth value is no number.

    Args:
        what: the argument's name.
        given: its value.
        kinds: types that it may have.
        takes: what may be given, for the message.

    Raises:
        DipsimError: it has another type.
    """
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    truth = isinstance(given, bool) and bool not in allowed
    if given is not None and (truth or not isinstance(given, allowed)):
        raise DipsimError(not_taken(what, given, takes))


def check_text(what: str, given: object, takes: str) -> None:
    """Refuse an argument that is no text.

    Args:
        what: the argument's name.
        given: its value.
        takes: what may be given, for the message.

    Raises:
        DipsimError: it has another type.
    """
    if not isinstance(given, str):
        raise DipsimError(not_taken(what, given, takes))


def check_pairs(what: str, given: object, example: str) -> None:
    """Refuse an argument that is no mapping of texts; None passes.

    Args:
        what: the argument's name.
        given: its value.
        example: what may be given, for the message.

    Raises:
        DipsimError: it is no mapping, or has keys that are no texts.
    """
    check_type(what, given, Mapping, f"a mapping such as {example}")
    for key in given if isinstance(given, Mapping) else ():
        check_text(f"a key of {what}", key, "a text")


class ProfileError(DipsimError):
    """A hardware profile that cannot be found, read or believed."""


class ModelError(DipsimError):
    """A model geometry that is unknown, incomplete or at odds with the trace."""


class TraceError(DipsimError):
    """A trace that cannot be read or whose contents are not a trace."""


class MethodError(DipsimError):
    """A method that cannot run on this trace or at this density."""


class PolicyError(DipsimError):
    """A cache policy that is unknown, misused, or breaks the contract."""


class BudgetError(DipsimError):
    """A division of DRAM that does not add up."""


class ConflictError(DipsimError):
    """Options that a run cannot have together, each of which it could have."""


class StoreError(DipsimError):
    """A result store that cannot be read or written."""


class StoredCodeWarning(UserWarning):
    """Compiled code that cannot be stored, or whose stored form cannot be read."""


def first_problem(problem: ValidationError) -> str:
    """Return one line out of pydantic's report: the key, the value given, the values allowed.

    Of several problems the first is told, and the keys of all others.
    """
    first, *others = problem.errors()
    places = dict.fromkeys(_place(other) for other in others)
    places.pop(_place(first), None)
    more = f"; wrong too: {brief(', '.join(places), 1000)}" if places else ""
    return _told(first) + more


def _place(detail: ErrorDetails) -> str:
    named = (str(part) for part in detail["loc"])
    return ".".join(part for part in named if not re.search(r"[\[(]", part)) or "the whole"


def _told(first: ErrorDetails) -> str:
    """Return a line on one problem."""
    place = _place(first)
    if first["type"] == "extra_forbidden":
        return f"unknown key {place!r}: remove it or correct its spelling"
    if first["type"] == "missing":
        return f"{place} is missing: add it"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if repr(first["input"])[:60] in message else f", given {str(first['input'])[:60]!r}"
    given = "" if isinstance(first["input"], dict | list) else given
    return f"{place}: {message[:1].lower() + message[1:]}{given}"
