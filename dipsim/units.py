"""Quantities: the only parser and the only formatter of "8 GiB", "60 GB/s", "80 us".

Inside dipsim every quantity is a float in its base unit (bytes, bytes/s, seconds, FLOP/s, watts,
joules/byte). In files and on the command line it is text with a unit: decimal (GB = 1e9 bytes) or
binary (GiB = 2**30 bytes), case-sensitive, because ``60 Gb/s`` (bits) and ``60 GB/s`` differ by 8.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cached_property
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from dipsim.errors import brief

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)", re.DOTALL)
_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_EXACT = Context(prec=60)
"""Arithmetic of more digits than a float has; longer numbers are rounded to so many first."""
_BITS = re.compile(r"^[kKMGT]?i?b(it)?(/s|ps)?$")


@dataclass(frozen=True)
class Dimension:
    """One kind of quantity: its units (suffix -> base units), those for printing, and its range.

    A quantity outside its range is taken for a mistake; within it no product overflows.
    """

    name: str
    example: str
    units: Mapping[str, float]
    shown: tuple[str, ...]
    """Suffixes used for printing, smallest first."""
    range: tuple[str, str]
    """Smallest and largest quantity that is believed, as text; 0 is, beside them."""

    def parse(self, given: Any, *, unlimited: bool = False) -> float:
        """Read text such as ``"60 GB/s"`` into base units.

        Raises:
            ValueError: no unit, an unknown unit, or a number outside the range.
        """
        if unlimited and isinstance(given, str) and given.strip() == "unlimited":
            return math.inf
        article = "an" if self.name[0] in "aeiou" else "a"
        allowed = f"{article} {self.name} such as '{self.example}'" + (
            " or 'unlimited'" * unlimited
        )
        if not isinstance(given, str):
            raise ValueError(f"{brief(repr(given))} has no unit: write {allowed}")
        quoted = repr(brief(given))
        match = _NUMBER.fullmatch(given.strip())
        if match is None:
            raise ValueError(f"{quoted} is not {allowed}")
        suffix = match[2].strip().replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}")
        if suffix not in self.units:
            if not suffix:
                raise ValueError(f"{quoted} has no unit: write {allowed}")
            suffix = brief(suffix)
            why = f"{suffix!r} counts bits" if _BITS.match(suffix) else f"unknown unit {suffix!r}"
            raise ValueError(f"{quoted}: {why}; write {allowed}")
        value = self._value(match[1], suffix)
        if not self.believes(value):
            least, most = self.range
            raise ValueError(f"{quoted} is out of range: write {allowed}, {least} to {most}")
        return value

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Ends of the range in base units."""
        least, most = (self._value(*text.split()) for text in self.range)
        return least, most

    def believes(self, value: float) -> bool:
        """Return whether a value in base units is 0 or in the range."""
        least, most = self.bounds
        return value == 0 or least <= value <= most

    def _value(self, number: str, suffix: str) -> float:
        """Return a number with a unit in base units, rounded once.

        It is infinite if it is too large, and 0 only if the number is.
        """
        try:
            value = _EXACT.multiply(Decimal(number), Decimal(repr(self.units[suffix])))
        except ArithmeticError:
            return math.inf
        return max(float(value), math.ulp(0.0)) if value > 0 else float(value)

    def exact(self, value: float) -> str:
        """Return the shortest text that parses back to exactly ``value``: 131072 is ``128 KiB``."""
        if math.isinf(value):
            return "unlimited"
        if value == 0:
            return f"0 {self.shown[0]}"
        texts = []
        for suffix, scale in self.units.items():
            number = f"{value / scale:.12g}"
            if scale <= value and self._value(number, suffix) == value:
                texts.append(f"{number} {suffix}")
        base = next(suffix for suffix, scale in self.units.items() if scale == 1)
        return min(texts, key=len, default=f"{value!r} {base}")

    def show(self, value: float, digits: int = 3) -> str:
        """Return text for people: ``digits`` significant figures in the largest unit that fits."""
        if math.isinf(value):
            return "unlimited"
        suffix = self.shown[0]
        for larger in self.shown[1:]:
            if abs(value) >= 0.9995 * self.units[larger]:
                suffix = larger
        number = value / self.units[suffix]
        decimals = 0 if number == 0 else digits - 1 - math.floor(math.log10(abs(number)))
        decimals = min(max(decimals, 0), 9)
        text = f"{number:.{decimals}f}"
        return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {suffix}"


def _scaled(unit: str, binary: bool = False) -> dict[str, float]:
    """Return the unit with all decimal prefixes, and the binary ones if wanted."""
    prefixes = {**_DECIMAL, **_BINARY, "K": 1e3} if binary else _DECIMAL
    return {prefix + unit: scale for prefix, scale in prefixes.items()}


BYTES = Dimension(
    name="size",
    example="8 GiB",
    units=_scaled("B", binary=True),
    shown=("B", "kB", "MB", "GB", "TB"),
    range=("1 B", "1 PB"),
)
"""Sizes, in bytes."""
BANDWIDTH = Dimension(
    name="bandwidth",
    example="60 GB/s",
    units=_scaled("B/s", binary=True),
    shown=("B/s", "kB/s", "MB/s", "GB/s", "TB/s"),
    range=("0.001 B/s", "1 PB/s"),
)
"""Bandwidths, in bytes per second."""
TIME = Dimension(
    name="time",
    example="80 us",
    units={"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0},
    shown=("us", "ms", "s"),
    range=("0.001 ns", "1000000000 s"),
)
"""Times, in seconds."""
COMPUTE = Dimension(
    name="compute rate",
    example="2 TFLOP/s",
    units=_scaled("FLOP/s"),
    shown=("FLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s"),
    range=("0.001 FLOP/s", "1000000 PFLOP/s"),
)
"""Rates of computing, in FLOP per second."""
RATE = Dimension(
    name="rate of reads",
    example="100 kIOPS",
    units=_scaled("IOPS"),
    shown=("IOPS", "kIOPS", "MIOPS", "GIOPS"),
    range=("0.001 IOPS", "1000 GIOPS"),
)
"""Rates of reads, per second."""
POWER = Dimension(
    name="power",
    example="4 W",
    units={"mW": 1e-3, "W": 1.0},
    shown=("mW", "W"),
    range=("0.001 mW", "1000000 W"),
)
"""Power, in watts."""
ENERGY_PER_BYTE = Dimension(
    name="energy per byte",
    example="40 pJ/B",
    units={"pJ/B": 1e-12, "nJ/B": 1e-9, "uJ/B": 1e-6, "J/B": 1.0},
    shown=("pJ/B",),
    range=("0.000001 pJ/B", "1000 J/B"),
)
"""Energy per byte, in joules."""


def show_number(value: float, digits: int = 4) -> str:
    """Return a bare number for people: ``digits`` significant figures, never with an exponent.

    Whole numbers keep all their digits, and what is closer to 0 than nine decimals show is 0.
    """
    if not math.isfinite(value):
        return "unlimited" if value > 0 else f"{value}"
    decimals = 0 if value == 0 else digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{value:.{min(max(decimals, 0), 9)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def show_gain(times: float) -> str:
    """Return for people how much more a rate is that is so many ``times`` another, at least once:
    ``+12%``, and from twice on ``18.5 x``."""
    return f"{show_number(times, 3)} x" if times >= 2 else f"+{show_number(100 * (times - 1), 2)}%"


def parse_share(text: str) -> float | None:
    """Read ``"50%"`` as 0.5, and return None for text that is not a percentage.

    Raises:
        ValueError: a percentage that is no number from 0 to 1000.
    """
    if not text.strip().endswith("%"):
        return None
    match = _NUMBER.fullmatch(text.strip()[:-1].strip())
    share = float(match[1]) / 100 if match and not match[2] else math.nan
    if not 0 <= share <= 10:
        raise ValueError(f"{brief(text)!r} is no share from 0% to 1000%: write e.g. 50%")
    return share


def _field(dimension: Dimension, unlimited: bool = False) -> Any:
    """Return pydantic's metadata of a field that is read and written as text with a unit."""

    def parse(given: Any) -> float:
        return dimension.parse(given, unlimited=unlimited)

    pattern = r"^\s*[+]?[0-9.eE+-]+\s*\S+\s*$" + (r"|^unlimited$" if unlimited else "")
    schema = {
        "type": "string",
        "pattern": pattern,
        "examples": [dimension.example],
        "$comment": "0, or from {} to {}".format(*dimension.range),
    }
    return (
        BeforeValidator(parse),
        PlainSerializer(dimension.exact, return_type=str),
        WithJsonSchema(schema),
    )


# Annotated needs its metadata spelled out; a starred expression inside a subscript unpacks it.
Bytes = Annotated[float, *_field(BYTES)]
Bandwidth = Annotated[float, *_field(BANDWIDTH)]
UnlimitedBandwidth = Annotated[float, *_field(BANDWIDTH, unlimited=True)]
Seconds = Annotated[float, *_field(TIME)]
UnlimitedCompute = Annotated[float, *_field(COMPUTE, unlimited=True)]
UnlimitedIops = Annotated[float, *_field(RATE, unlimited=True)]
Watts = Annotated[float, *_field(POWER)]
JoulesPerByte = Annotated[float, *_field(ENERGY_PER_BYTE)]
