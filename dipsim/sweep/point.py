"""Points and cells of a sweep: the runs to be made, and the figures of each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dipsim.hardware import Profile
from dipsim.model import Model
from dipsim.resolve import Input
from dipsim.result import Result, finite
from dipsim.trace import Trace
from dipsim.views import shortened

Place = Mapping[str, Any]
"""A value of each axis of a sweep."""
Figures = Mapping[str, Any]
"""Plain values, or records that become some: see `Cell.to_dict`."""


@dataclass(frozen=True)
class Point:
    """A run of a sweep, not yet worked out."""

    place: Place
    trace: Trace
    device: Profile
    options: Mapping[str, Any]
    """Arguments of `prepare`: fields of `Settings`, ``policy`` and ``overrides``."""
    model: Input | Model | None = None
    flash_speed: float | None = None
    """A factor on the speed of all reads, see `retimed`; it takes no replay of its own."""


@dataclass(frozen=True)
class Cell:
    """Figures at a place on the axes, or why there are none."""

    place: Place
    options: Mapping[str, Any]
    """They repeat the run."""
    figures: Figures | None
    marks: tuple[str, ...] = ()
    why: str | None = None
    """Reason why the run is impossible; then there are no figures."""
    result: Result | None = field(default=None, repr=False, compare=False)
    """The whole run, with its counts; only where it was asked for."""

    __repr__ = shortened

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.number("tokens_per_second")

    @property
    def band(self) -> tuple[float, float]:
        """Tokens per second with no and with full overlap."""
        slow, fast = self.value("tokens_per_second_range")
        return _number(slow), _number(fast)

    def value(self, figure: str) -> Any:
        """Return a figure; None where there is none."""
        return None if self.figures is None else self.figures.get(figure)

    def number(self, figure: str) -> float:
        """Return a figure that may be infinite, for which plain values have None."""
        return _number(self.value(figure))

    def to_dict(self, figures: Sequence[str] | None = None) -> dict[str, Any]:
        """Return place, figures and marks as plain values.

        Args:
            figures: those that are wanted, in this order; default: all.
        """
        known = self.figures or {}
        names = known if figures is None else figures
        return {
            **self.place,
            **{name: _plain(known[name]) for name in names if name in known},
            "marks": list(self.marks),
        }


def figures_of(result: Result) -> dict[str, Any]:
    """Return what a sweep keeps of a run, named as in a result; rates that are infinite are None.

    The counts of all runs would fill the memory.
    """
    groups, plain = result.traffic.groups, result.plain_kept
    figures: dict[str, Any] = {
        "tokens_per_second": finite(result.tokens_per_second),
        "tokens_per_second_range": [finite(rate) for rate in result.timing.rate_range],
        "hit_rate": result.hit_rate,
        "flash_bytes_per_token": result.flash_bytes_per_token,
        "flash_reads_per_token": result.flash_reads_per_token,
        "dram_bytes_per_token": result.dram_bytes_per_token,
        "cache_bytes": result.budget.cache,
        "energy_kept": dict(zip(groups, result.energy_kept, strict=True)),
    }
    if plain is not None:
        figures["energy_kept_plain"] = dict(zip(groups, plain[:, 1].tolist(), strict=True))
    return figures


def _number(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _plain(value: Any) -> Any:
    """Return numbers and texts as they are, and a record as its mapping."""
    for method in ("to_dict", "_asdict"):
        if hasattr(value, method):
            return getattr(value, method)()
    return dict(value) if isinstance(value, Mapping) else value
