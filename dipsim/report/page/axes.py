"""Axes of a sweep: which vary, which go across a chart, and where their values lie."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dipsim.errors import brief
from dipsim.report.page.texts import byte_scale
from dipsim.units import BYTES, parse_share

BUDGETS = ("dram", "cache", "cache_fraction", "kv_dram")
"""Axes that are sizes of memory, in the order in which they go across."""
_SERIES = ("policy", "method")
"""Axes whose values become lines before others do."""
_LONGEST = 60
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Axis:
    """An axis of a sweep that varies."""

    name: str
    values: tuple[Any, ...]
    """Plain values in their order: numbers and sizes rise, others as they came."""
    positions: tuple[float, ...] | None
    """Numbers of the values, in the unit of ``label``; None where they are names."""
    words: str
    """The name in words."""
    unit: str = ""

    @property
    def label(self) -> str:
        """The words with the unit of the positions."""
        return f"{self.words} ({self.unit})" if self.unit else self.words

    def texts(self) -> list[str]:
        """Return the values as texts."""
        return list(map(value_text, self.values))

    def position(self, value: Any) -> float | str:
        """Return where a value lies: its number, or its text."""
        if self.positions is None:
            return value_text(value)
        return self.positions[self.values.index(value)]


def value_text(value: Any) -> str:
    """Return a value of an axis as a short text; a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        value = ",".join(f"{key}={value_text(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        value = ",".join(map(value_text, value))
    return f"{value:g}" if isinstance(value, float) else brief(value, _LONGEST)


def varying(places: Sequence[Mapping[str, Any]]) -> list[Axis]:
    """Return the axes with several values, in the order of the first place that has each."""
    names = list(dict.fromkeys(name for place in places for name in place))
    axes = []
    for name in names:
        values = list(
            {_key(value): value for place in places for value in [place.get(name)]}.values()
        )
        if len(values) > 1:
            axes.append(_axis(name, values))
    return axes


def constant(places: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the value of each axis that has one only."""
    known: dict[str, dict[Hashable, Any]] = {}
    for place in places:
        for name, value in place.items():
            known.setdefault(name, {})[_key(value)] = value
    counts = {name: sum(name in place for place in places) for name in known}
    return {
        name: next(iter(values.values()))
        for name, values in known.items()
        if len(values) == 1 and counts[name] == len(places)
    }


def across(axes: Sequence[Axis]) -> Axis | None:
    """Return the axis that goes across charts: a size of memory, else numbers, else the longest."""
    sizes = [axis for name in BUDGETS for axis in axes if axis.name == name]
    numbers = [axis for axis in axes if axis.positions is not None]
    longest = sorted(axes, key=lambda axis: -len(axis.values))
    return next(iter([*sizes, *numbers, *longest]), None)


def lines(axes: Iterable[Axis]) -> Axis | None:
    """Return the axis whose values become lines: policies, else methods, else the first."""
    listed = list(axes)
    return next(
        iter([*(axis for name in _SERIES for axis in listed if axis.name == name), *listed]), None
    )


def _key(value: Any) -> Hashable:
    """Return what tells values apart, of mappings and lists too."""
    return type(value).__name__, str(value)


def _axis(name: str, values: list[Any]) -> Axis:
    """Return an axis with its values in order."""
    known = [value for value in values if value is not None]
    positions, unit = _numbers(known)
    if positions is None or len(known) < len(values):
        return Axis(name, tuple(values), None, _words(name))
    order = sorted(range(len(values)), key=lambda i: positions[i])
    ordered = tuple(values[i] for i in order)
    return Axis(name, ordered, tuple(positions[i] for i in order), _words(name), unit)


def _words(name: str) -> str:
    """Return the name of an option in words."""
    words = {"dram": "DRAM", "cache_fraction": "share of the units that the caches hold"}
    return words.get(name, brief(name.replace("_", " "), _LONGEST))


def _numbers(values: Sequence[Any]) -> tuple[list[float] | None, str]:
    """Return values as numbers with their unit; None where they are no numbers of one kind."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return [float(value) for value in values], ""
    if not all(isinstance(value, str) for value in values):
        return None, ""
    try:
        shares = [parse_share(value) for value in values]
        if all(share is not None for share in shares):
            return [round(100 * (share or 0.0), 9) for share in shares], "%"
        sizes = [BYTES.parse(value) for value in values]
    except ValueError:
        return None, ""
    unit, scale = byte_scale(sizes)
    return [size / scale for size in sizes], unit
