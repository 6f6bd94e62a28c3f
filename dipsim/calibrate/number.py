"""Numbers that measurements give a profile, each with its source."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dipsim.calibrate.measured import Origin
from dipsim.errors import brief
from dipsim.hardware import Profile

_LONGEST = 300
"""Characters of the origin of a number."""


class NumberChange(NamedTuple):
    """A number of a profile, before and after."""

    key: str
    """Dotted, e.g. ``backends.cpu.gemv.q4_0``; ``flash.reads`` for a curve."""
    before: str | None
    """Text that the profile had; None if it had none."""
    after: Any
    """Value that the file states."""
    source: Mapping[str, Any]
    """``kind``, ``from`` and, where they are known, ``spread`` and ``left_out``."""
    error: float | None = None
    """Median error of what it was fitted to; None where nothing was fitted."""
    left_out: float | None = None
    """Median error of what was left out of the fit in turn; None where nothing could be."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        kept = {key: self.source[key] for key in ("kind", "spread") if key in self.source}
        errors = {"fit_error": self.error, "left_out_error": self.left_out}
        return {"key": self.key, "before": self.before, "after": self.after, **kept, **errors}


def text_before(profile: Profile | None, key: str) -> str | None:
    """Return a number as a profile states it; None if it does not, or there is none."""
    stated = {} if profile is None else dict(profile.numbers())
    return str(stated[key]) if key in stated else None


def rounded(value: float, digits: int = 4) -> float:
    """Return a value to so many significant digits: four are more than a device repeats."""
    return float(f"{value:.{digits}g}")


def measured_source(origins: Iterable[Origin], what: str, spread: float) -> dict[str, Any]:
    """Return the source of a measured number, as a profile has it.

    Args:
        what: what was measured, e.g. ``6 rates of 3 models``.
        spread: nine of ten such numbers lie within a factor of 1 + spread.
    """
    origin = brief(_measured_by(origins, what), _LONGEST)
    return {"kind": "measured", "from": origin, "spread": rounded(spread, 2)}


def counted(many: int, what: str) -> str:
    """Return a number and its noun: ``1 rate``, ``2 rates``."""
    return f"{many} {what}{'s' * (many != 1)}"


def _measured_by(origins: Iterable[Origin], what: str) -> str:
    """Return program, files, days, commands, and what was measured, in words."""
    some = list(dict.fromkeys(origins))
    tools = _joined(origin.tool for origin in some)
    files = _joined(origin.file for origin in some)
    days = sorted({origin.date for origin in some if origin.date})
    text = f"{tools} ({files}"
    if days:
        text += f", {days[0]}" if len(days) == 1 else f", {days[0]} to {days[-1]}"
    commands = _joined((origin.command for origin in some if origin.command), most=1)
    return f"{text}{', ' + commands if commands else ''}): {what}"


def _joined(texts: Iterable[str], most: int = 3) -> str:
    some = list(dict.fromkeys(texts))
    more = f" and {len(some) - most} more" if len(some) > most else ""
    return ", ".join(some[:most]) + more


def nested(numbers: Sequence[NumberChange]) -> dict[str, Any]:
    """Return numbers as the sections of a profile, with their sources."""
    data: dict[str, Any] = {}
    for number in numbers:
        section = data
        *outer, last = number.key.split(".")
        for name in outer:
            section = section.setdefault(name, {})
        section[last] = number.after
    return {**data, "sources": {number.key: dict(number.source) for number in numbers}}
