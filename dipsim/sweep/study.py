"""Studies in general: what one declares, what a user asks of it, and its cells.

`dipsim.analysis.study` declares those there are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from dipsim.errors import brief
from dipsim.hardware import Profile
from dipsim.methods import label_of, signals_of
from dipsim.model import Model
from dipsim.policies import Policy
from dipsim.replay.replay import Progress
from dipsim.resolve import Input
from dipsim.simulate import prepare
from dipsim.sweep.many import Read, many, one_cell
from dipsim.sweep.methods import (
    IMPOSSIBLE,
    calibrated_tokens,
    check_used,
    options_of,
    part_of,
    warmed_up,
)
from dipsim.sweep.point import Cell, Point
from dipsim.trace import Trace
from dipsim.views import Viewed, shortened


@dataclass(frozen=True)
class Ask:
    """Request of a user: a study on one device, with defaults filled in."""

    trace: Trace
    device: Profile
    model: Input | Model | None
    methods: tuple[str, ...]
    policies: tuple[str | Policy, ...]
    options: Mapping[str, Any]
    """They hold for all runs of methods that take them."""

    def point(self, place: Mapping[str, Any], method: str, **changes: Any) -> Point:
        """Return the run of a method; a change to None takes an option away.

        Args:
            place: on the axes, beside the device.
        """
        place = {"profile": self.device.name, **place}
        if "method" in place:
            place["method"] = label_of(place["method"])
        return Point(place, self.trace, self.device, self._options(method, changes), self.model)

    def _options(self, method: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        return options_of(method, self.trace, self.options, changes)

    @property
    def part(self) -> Trace:
        """The part of the trace that is replayed."""
        return part_of(self.trace, self.options)

    def model_of(self, method: str, **changes: Any) -> Model | None:
        """Return the model that a run of a method uses, whatever its budget; None without one."""
        changes = {"dram": None, "cache": None, "cache_fraction": 1.0, **changes}
        options = self._options(method, changes)
        return prepare(self.trace, self.device, model=self.model, **options).model


@dataclass(frozen=True)
class Study:
    """Declaration of a study: its axes, how its runs are made, and the figures that are shown."""

    name: str
    summary: str
    axes: tuple[str, ...]
    figures: tuple[str, ...]
    """Those that are shown; files have all."""
    points: Callable[[Ask], Iterable[Point]]
    x: str
    """The axis that goes across a picture, and across tables of a `grid`."""
    series: str | None = None
    """The axis with a line for each value, and in tables of a `grid` a row."""
    apart: tuple[str, ...] = ()
    """Axes of which each value has tables and panels of its own."""
    grid: bool = False
    """Tables of one figure each, instead of one table with a row per run."""
    methods: Callable[[Trace], tuple[str, ...]] = lambda _: ()
    """Those that run unless the user names others."""
    policies: tuple[str, ...] = ("lfu",)
    varies: tuple[str, ...] = ()
    """Options that cannot be given, as they are its axes."""
    repeats: str | None = None
    """The option of which several may be given: ``method`` or ``policy``."""
    profiles: tuple[str, ...] = ("paper-a18",)
    budget: Mapping[str, Any] = field(default_factory=lambda: {"cache_fraction": 0.6})
    """When none is given. Methods that keep different parts in DRAM are compared at equal DRAM."""
    note: str = ""
    """Remark that is printed below the tables."""
    read: Read = one_cell
    """Cells of a run, see `many`."""

    __repr__ = shortened


@dataclass(frozen=True)
class StudyResult(Viewed):
    """The cells of a study, in the order of its axes."""

    report: ClassVar[str] = "study"

    study: Study
    trace: Trace
    fixed: Mapping[str, Any]
    """Options that held for all runs of methods that take them."""
    left_out: tuple[str, ...]
    """Methods whose signals the trace does not have."""
    unmeasured: int
    """Decode tokens no run measures, since thresholds of some are calibrated on them."""
    cells: list[Cell]
    devices: Sequence[Profile] = ()
    """Devices, with what was overridden for all of them."""

    def __repr__(self) -> str:
        trace, cells = brief(self.trace.name, 60), len(self.cells)
        return f"Study {self.study.name} of {trace}: {cells} cells by {', '.join(self.study.axes)}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "study": self.study.name,
            "summary": self.study.summary,
            "trace": {"name": self.trace.name, "hash": self.trace.hash},
            "axes": ["profile", *self.study.axes],
            "fixed": _plain(self.fixed),
            "left_out": list(self.left_out),
            "unmeasured": self.unmeasured,
            "cells": [
                {**cell.to_dict(), "why": cell.why, "options": _plain(cell.options)}
                for cell in self.cells
            ],
        }


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the names of policies in place of the objects."""
    return {
        name: value.label if isinstance(value, Policy) else value for name, value in options.items()
    }


def served(trace: Trace, method: str) -> bool:
    """Return whether a trace records the scores that a method chooses by, if it does so."""
    if method in ("dense", "recorded", "moe"):
        return True
    scored = {signal.name for signal in trace.signals.values() if signal.scored}
    wants = set(signals_of(method))
    return bool(wants & scored) if method == "teal" else wants <= scored


def run_study(
    study: Study, asks: Sequence[Ask], progress: Progress | None = None
) -> tuple[list[Cell], int]:
    """Run every point on every device; also how many decode tokens none of them measures.

    Args:
        asks: one for each device.
        progress: called with (runs done, runs).

    Raises:
        DipsimError: anything wrong with the input, in one line; of what only some runs cannot do
            their cells say why.
    """
    points = [point for ask in asks for point in study.points(ask)]
    check_used(asks[0].options, [point.options for point in points], f"study {study.name}")
    part = asks[0].part
    until = max((calibrated_tokens(part, point.options) for point in points), default=0)
    if until:  # all runs measure the same tokens
        points = [replace(each, options=warmed_up(each.options, until)) for each in points]
    return many(points, read=study.read, tolerated=IMPOSSIBLE, progress=progress), until
