"""Numbers that measurements give a profile, each with its source."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dipsim.calibrate.measured import Origin
from dipsim.hardware import Profile


class Number(NamedTuple):
    """A number of a profile, before and after."""

    key: str
    """Dotted, e.g. ``backends.cpu.gemv.q4_0``; ``flash.reads`` for a curve."""
    before: str | None
    """As the profile had it; None if it did not."""
    after: Any
    """As the file states it."""
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


def text_before(profile: Profile, key: str) -> str | None:
    """Return a number as a profile states it; None if it does not."""
    stated = dict(profile.numbers())
    return str(stated[key]) if key in stated else None


def measured_by(origins: Iterable[Origin], what: str) -> str:
    """Return the origin of a number in words: program, files, days, commands, and what they tell.

    Args:
        what: e.g. ``6 rates of 3 models``.
    """
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


def nested(numbers: Sequence[Number]) -> dict[str, Any]:
    """Return numbers as the sections of a profile, with their sources."""
    data: dict[str, Any] = {}
    for number in numbers:
        section = data
        *outer, last = number.key.split(".")
        for name in outer:
            section = section.setdefault(name, {})
        section[last] = number.after
    return {**data, "sources": {number.key: dict(number.source) for number in numbers}}
