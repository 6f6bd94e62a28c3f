"""The contract of a reader of benchmarks, checked numbers, and refusals in sentences."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Origin
from dipsim.errors import DipsimError, brief

_PLACES = 3
"""Places that a sentence names; the others are counted."""
_SENTENCES = 20
"""Refusals of a file that are told one by one."""
RATES = (1e-3, 1e7)
"""Believable tokens per second."""
BANDWIDTHS = (1e3, 1e13)
"""Believable bytes per second."""
SIZES = (1.0, 1e15)
"""Believable bytes of a model or of a device."""


@dataclass(frozen=True)
class Format:
    """A row of the table of formats."""

    name: str
    """Program that writes it, as messages call it."""
    recognises: Callable[[str], bool]
    """Returns True for the first 64 KiB of a file of this format."""
    read: Callable[[Source], Measurements]
    """Reads a file; raises `DipsimError` for what is damaged as a whole."""
    beside: bool = False
    """True for what states no figure, but belongs to files that do."""


@dataclass
class Refusals:
    """Parts of a file that tell nothing, by the reason."""

    file: str
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, place: str, reason: str) -> None:
        """Refuse what stands at a place, such as ``row 3``."""
        self.places.setdefault(reason, []).append(place)

    def sentences(self) -> tuple[str, ...]:
        """Return a sentence for each reason, with the first places that it holds for."""
        told = []
        for reason, places in list(self.places.items())[:_SENTENCES]:
            more = f" and {len(places) - _PLACES} more" if len(places) > _PLACES else ""
            told.append(f"{self.file}: {', '.join(places[:_PLACES])}{more}: {reason}")
        untold = sum(len(places) for places in list(self.places.values())[_SENTENCES:])
        if untold:
            told.append(f"{self.file}: {untold} more rows are refused, each for another reason")
        return tuple(told)


def number(given: Any, what: str, bounds: tuple[float, float]) -> float:
    """Return a number within bounds.

    Raises:
        ValueError: no number (a text is none), or none that is believable, in a sentence.
    """
    plain = isinstance(given, int | float) and not isinstance(given, bool)
    if not plain or not bounds[0] <= given <= bounds[1]:
        low, high = (f"{bound:.12g}" for bound in bounds)
        raise ValueError(f"{what} is {shown(given)}, not a number from {low} to {high}")
    return float(given)


def shown(given: Any) -> str:
    """Return a value out of a file, short and printable; of a list or an object its kind."""
    if isinstance(given, list | dict):
        return "a list" if isinstance(given, list) else "an object"
    return brief(repr(given), 40)


def whole(given: Any, what: str, least: int, most: int) -> int:
    """Return a whole number within bounds.

    Raises:
        ValueError: it is none, in a sentence.
    """
    value = number(given, what, (least, most))
    if not value.is_integer():
        raise ValueError(f"{what} is {value:g}, not a whole number")
    return int(value)


def plain(text: str) -> Any:
    """Return the number that a text writes, whole or not; another text as it is."""
    stripped = text.strip()
    if re.fullmatch(r"[+-]?\d{1,30}", stripped, re.ASCII):
        return int(stripped)
    try:
        value = float(stripped) if stripped[:1] in set("+-.0123456789") else math.nan
    except ValueError:
        return stripped
    return stripped if math.isnan(value) else value


def parsed(text: str, file: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        DipsimError: it is damaged; NaN and infinities are.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        raise DipsimError(f"{file}: not readable as JSON ({brief(problem)})") from None


def documents(text: str, file: str, start: re.Pattern[str]) -> Iterator[Any]:
    """Yield the JSON values of a text, each of which begins where ``start`` matches; lines around
    them are passed over.

    Raises:
        DipsimError: one is damaged, or there is none.
    """
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    at = 0
    while match := start.search(text, at):
        try:
            value, at = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError) as problem:
            raise DipsimError(f"{file}: not readable as JSON ({brief(problem)})") from None
        yield value
    if at == 0:
        raise DipsimError(f"{file}: no JSON that begins a line")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def day(given: Any) -> str:
    """Return the day of a time such as ``2025-04-24T11:57:09Z``, as YYYY-MM-DD; empty for none."""
    match = re.match(r"\d{4}-\d\d-\d\d(?!\d)", given) if isinstance(given, str) else None
    return match[0] if match else ""


def words(given: Any, longest: int = 200) -> str:
    """Return a text out of a file, short and printable; empty for what is no text."""
    return brief(given.strip(), longest) if isinstance(given, str) else ""


def one_device(names: Mapping[str, None], origin: Origin) -> tuple[tuple[str, Origin], ...]:
    """Return the device that a file states, or none.

    Raises:
        DipsimError: it states several.
    """
    if len(names) > 1:
        first, second = list(names)[:2]
        raise DipsimError(
            f"{origin.file}: measurements of {first} and of {second} in one file: "
            "give one device's alone"
        )
    return tuple((name, origin) for name in names)
