"""Studies in general: what one declares, what a user asks of it, and its cells.

`dipsim.analysis.study` declares those there are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dipsim.errors import BudgetError, DipsimError, MethodError, ModelError, PolicyError
from dipsim.hardware import Profile
from dipsim.methods import BUILTIN
from dipsim.methods.thresholds import most_rows
from dipsim.model import Model
from dipsim.option import flag
from dipsim.replay.replay import Progress
from dipsim.resolve import Input
from dipsim.settings import TAKES
from dipsim.simulate import prepare
from dipsim.sweep.many import Read, many, one_cell
from dipsim.sweep.point import Cell, Point
from dipsim.trace import DECODE, Trace

_IMPOSSIBLE = (MethodError, ModelError, BudgetError, PolicyError)
"""Errors that make a run of a study impossible, and leave the others."""


@dataclass(frozen=True)
class Ask:
    """Request of a user: a study on one device, with defaults filled in."""

    trace: Trace
    device: Profile
    model: Input | Model | None
    methods: tuple[str, ...]
    policies: tuple[str, ...]
    options: Mapping[str, Any]
    """They hold for all runs of methods that take them."""

    def point(self, place: Mapping[str, Any], method: str, **changes: Any) -> Point:
        """Return the run of a method; a change to None takes an option away.

        Args:
            place: on the axes, beside the device.
        """
        place = {"profile": self.device.name, **place}
        return Point(place, self.trace, self.device, self._options(method, changes), self.model)

    def _options(self, method: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a run.

        Thresholds are calibrated on the first quarter of the tokens unless the user says which.
        """
        taken = {
            name: value
            for name, value in self.options.items()
            if name not in TAKES or method in TAKES[name]
        }
        options = {**taken, "method": method, **changes}
        if method in ("cats", "teal") or options.get("selection") == "threshold":
            rows = min(self.part.tokens // 4, most_rows(self.part))
            options.setdefault("calibrate_tokens", f"0:{max(1, rows)}")
        else:
            options.pop("calibrate_tokens", None)
        return {name: value for name, value in options.items() if value is not None}

    @property
    def part(self) -> Trace:
        """The part of the trace that is replayed."""
        cut = (self.options.get(name) for name in ("tokens", "layers", "sequence"))
        return self.trace.part(*cut)

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


@dataclass(frozen=True)
class Found:
    """The cells of a study, in the order of its axes."""

    study: Study
    trace: Trace
    fixed: Mapping[str, Any]
    """Options that held for all runs of methods that take them."""
    left_out: tuple[str, ...]
    """Methods whose signals the trace does not have."""
    unmeasured: int
    """Decode tokens no run measures, since thresholds of some are calibrated on them."""
    cells: list[Cell]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "study": self.study.name,
            "summary": self.study.summary,
            "trace": {"name": self.trace.name, "hash": self.trace.hash},
            "axes": ["profile", *self.study.axes],
            "fixed": dict(self.fixed),
            "left_out": list(self.left_out),
            "unmeasured": self.unmeasured,
            "cells": [
                {**cell.to_dict(), "why": cell.why, "options": dict(cell.options)}
                for cell in self.cells
            ],
        }


def served(trace: Trace, method: str) -> bool:
    """Return whether a trace records the scores that a method chooses by, if it does so."""
    if method in ("dense", "recorded", "moe"):
        return True
    scored = {signal.name for signal in trace.signals.values() if signal.scored}
    wants = set(BUILTIN[method].signals)
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
    _check_used(study, asks[0], points)
    part = asks[0].part
    until = max((_calibrated(part, point) for point in points), default=0)
    if until:  # all runs measure the same tokens
        points = [_warmed_up(point, until) for point in points]
    return many(points, read=study.read, tolerated=_IMPOSSIBLE, progress=progress), until


def _warmed_up(point: Point, tokens: int) -> Point:
    """Return the point with a warm-up of at least so many decode tokens."""
    warmup = max(tokens, point.options.get("warmup", 0))
    return replace(point, options={**point.options, "warmup": warmup})


def _check_used(study: Study, ask: Ask, points: Sequence[Point]) -> None:
    """Refuse an option that no run uses."""
    methods = {point.options["method"] for point in points}
    for name in TAKES.keys() & ask.options.keys():
        if not methods & set(TAKES[name]):
            raise DipsimError(
                f"{flag(name)} is for {', '.join(TAKES[name])}, none of which study {study.name} "
                "runs here: drop it"
            )
    calibrated = any("calibrate_tokens" in point.options for point in points)
    if "calibrate_tokens" in ask.options and not calibrated:
        raise DipsimError(
            f"--calibrate-tokens: study {study.name} runs nothing with thresholds here: drop it"
        )


def _calibrated(part: Trace, point: Point) -> int:
    """Return the decode tokens up to the last one that thresholds are calibrated on."""
    rows = point.options.get("calibrate_tokens")
    if rows is None:
        return 0
    return int((part.phase[: part.calibration_rows(rows)[1]] == DECODE).sum())
