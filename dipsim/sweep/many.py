"""A study: runs over some axes, in as few replays as their counts need.

What the eight studies vary is `dipsim.analysis.studies`; here is what all of them share.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import BudgetError, DipsimError, MethodError, ModelError, PolicyError
from dipsim.hardware import Profile
from dipsim.methods import BUILTIN
from dipsim.methods.thresholds import most_rows
from dipsim.model import Model
from dipsim.option import flag
from dipsim.replay.replay import replay_all
from dipsim.resolve import Source, profile_uses
from dipsim.result import Result, finite
from dipsim.settings import TAKES
from dipsim.simulate import Job, plain_kept, prepare, result_of
from dipsim.trace import DECODE, Trace

Progress = Callable[[int, int], None]
Figures = Mapping[str, Any]
Plain = dict[Any, NDArray[np.float64]]
_IMPOSSIBLE = (MethodError, ModelError, BudgetError, PolicyError)
"""What makes a run of a study impossible, and leaves the others."""


@dataclass(frozen=True)
class Point:
    """A run of a study."""

    at: Mapping[str, Any]
    """Its place on the axes."""
    options: Mapping[str, Any]
    """Of `dipsim.simulate`, and ``overrides``."""


@dataclass(frozen=True)
class Ask:
    """What the user asked of a study, with defaults filled in."""

    trace: Trace
    device: Profile
    model: Source | Model | None
    methods: tuple[str, ...]
    policies: tuple[str, ...]
    options: Mapping[str, Any]
    """They hold for all runs of methods that take them."""

    def run(self, method: str, **changes: Any) -> dict[str, Any]:
        """Options of a run; a change to None takes an option away.

        Thresholds are calibrated on the first quarter of the tokens unless told otherwise.
        """
        told = {
            name: value
            for name, value in self.options.items()
            if name not in TAKES or method in TAKES[name]
        }
        made = {**told, "method": method, **changes}
        if method in ("cats", "teal") or made.get("selection") == "threshold":
            rows = min(self.part.tokens // 4, most_rows(self.part))
            made.setdefault("calibrate_tokens", f"0:{max(1, rows)}")
        else:
            made.pop("calibrate_tokens", None)
        return {name: value for name, value in made.items() if value is not None}

    @property
    def part(self) -> Trace:
        """The part of the trace that is replayed."""
        cut = (self.options.get(name) for name in ("tokens", "layers", "sequence"))
        return self.trace.part(*cut)

    @property
    def model_bytes(self) -> float:
        """All weights of the model at its own bits.

        Raises:
            ModelError: no model.
        """
        options = self.run("dense", weights=None, dram=None, cache=None, cache_fraction=1.0)
        model = prepare(self.trace, self.device, model=self.model, **options).work.model
        if model is None:
            raise ModelError(f"{self.trace.name} names no model to take shares of: pass --model")
        return model.total_bytes


def whole(job: Job, result: Result) -> Iterator[tuple[Mapping[str, Any], Figures]]:
    """One cell per run: its figures, named as in a result."""
    plain = result.plain_kept
    groups = result.traffic.groups
    figures = {
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
    yield {}, figures


@dataclass(frozen=True)
class Study:
    """What a study varies, how its runs are made, and what is shown of them."""

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
    """What to know beside the tables."""
    read: Callable[[Job, Result], Iterable[tuple[Mapping[str, Any], Figures]]] = whole
    """Cells of a run: more of their place on the axes, and their figures."""


@dataclass(frozen=True)
class Cell:
    """Figures at a place on the axes, or why there are none."""

    at: Mapping[str, Any]
    """The profile's name and a value of each axis."""
    options: Mapping[str, Any]
    """Of `dipsim.simulate`: they repeat the run."""
    figures: Figures | None
    marks: tuple[str, ...] = ()
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **self.at,
            **(self.figures or {}),
            "marks": list(self.marks),
            "why": self.why,
            "options": dict(self.options),
        }


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
        """Plain values."""
        return {
            "study": self.study.name,
            "summary": self.study.summary,
            "trace": {"name": self.trace.name, "hash": self.trace.hash},
            "axes": ["profile", *self.study.axes],
            "fixed": dict(self.fixed),
            "left_out": list(self.left_out),
            "unmeasured": self.unmeasured,
            "cells": [cell.to_dict() for cell in self.cells],
        }


def served(trace: Trace, method: str) -> bool:
    """Whether a trace records the scores that a method chooses by, if it does so."""
    if method in ("dense", "recorded", "moe"):
        return True
    scored = {signal.name for signal in trace.signals.values() if signal.scored}
    wants = set(BUILTIN[method].signals)
    return bool(wants & scored) if method == "teal" else wants <= scored


def run_study(
    study: Study,
    asks: Sequence[Ask],
    progress: Progress = lambda done, total: None,
) -> tuple[list[Cell], int]:
    """Run every point on every device; also how many decode tokens none of them measures.

    Runs that differ in their budgets, in what they are timed by, or in the bandwidth of a flash
    that reads any size alike, share a replay.

    Args:
        asks: one for each device.
        progress: called with (runs done, runs).

    Raises:
        DipsimError: anything wrong with the input, in one line; of what only some runs cannot do
            their cells say why.
    """
    points = [(ask, point) for ask in asks for point in study.points(ask)]
    _check_used(study, asks[0], [point for _, point in points])
    until = max((_calibrated(ask, point) for ask, point in points), default=0)
    cells: dict[int, list[Cell]] = {}
    jobs: dict[int, Job] = {}
    problems: list[DipsimError] = []
    plain: Plain = {}

    def fails(i: int, problem: DipsimError) -> None:
        ask, point = points[i]
        cells[i] = [Cell(_place(ask, point), point.options, None, why=str(problem))]
        problems.append(problem)

    for i, (ask, point) in enumerate(points):
        if until:  # all runs measure the same tokens
            warmup = max(until, point.options.get("warmup", 0))
            point = replace(point, options={**point.options, "warmup": warmup})
            points[i] = ask, point
        try:
            jobs[i] = prepare(ask.trace, ask.device, model=ask.model, **point.options)
        except _IMPOSSIBLE as problem:
            fails(i, problem)
    for together in _sharing(jobs):
        try:
            results = _results([jobs[i] for i in together], plain)
            for i, result in zip(together, results, strict=True):
                ask, point = points[i]
                cells[i] = [
                    Cell({**_place(ask, point), **more}, point.options, figures, result.marks)
                    for more, figures in study.read(jobs[i], result)
                ]
        except _IMPOSSIBLE as problem:
            for i in together:
                fails(i, problem)
        progress(len(cells), len(points))
    if len(problems) == len(points):
        raise problems[0]
    return [cell for i in range(len(points)) for cell in cells[i]], until


def _place(ask: Ask, point: Point) -> dict[str, Any]:
    return {"profile": ask.device.name, **point.at}


def _check_used(study: Study, ask: Ask, points: list[Point]) -> None:
    """Refuse an option that no run uses."""
    methods = {point.options["method"] for point in points}
    for name in TAKES.keys() & ask.options.keys():
        if not methods & set(TAKES[name]):
            raise DipsimError(
                f"{flag(name)} is for {', '.join(TAKES[name])}, none of which study {study.name} "
                "runs here: drop it"
            )
    told = "calibrate_tokens" in ask.options
    if told and not any("calibrate_tokens" in point.options for point in points):
        raise DipsimError(
            f"--calibrate-tokens: study {study.name} runs nothing with thresholds here: drop it"
        )


def _calibrated(ask: Ask, point: Point) -> int:
    """Decode tokens up to the last one that thresholds are calibrated on."""
    rows = point.options.get("calibrate_tokens")
    if rows is None:
        return 0
    part = ask.part
    return int((part.phase[: part.calibration_rows(rows)[1]] == DECODE).sum())


def _sharing(jobs: Mapping[int, Job]) -> list[list[int]]:
    """Runs by the replay they share."""
    found: dict[Any, list[int]] = {}
    for i, job in jobs.items():
        flash = job.device.flash
        if flash.bandwidth is not None:
            flash = flash.model_copy(update={"bandwidth": 1.0})
        key = (
            job.work.method,
            job.policy.label,
            job.plan,
            job.work.unit_bytes.tobytes(),
            job.settings.layout,
            job.settings.io,
            flash,
        )
        found.setdefault(key, []).append(i)
    return list(found.values())


def _results(jobs: Sequence[Job], plain: Plain) -> Iterator[Result]:
    """Results of runs that share a replay: a pass for all sizes of cache, a timing for each run.

    Args:
        plain: what plain top-k keeps, by what it depends on; filled in.
    """
    first = jobs[0]
    sizes = {_size(job): job.capacity for job in jobs}
    traffics = replay_all(
        first.work.trace,
        first.work.method,
        first.policy,
        list(sizes.values()),
        first.plan,
        unit_bytes=first.work.unit_bytes,
        requests=first.requests,
        keep_missed=first.paging is not None,
        profile_uses=profile_uses(first.work, first.policy, first.settings),
    )
    counted = dict(zip(sizes, traffics, strict=True))
    for job in jobs:
        traffic, ours, theirs = counted[_size(job)], job.device.flash, first.device.flash
        if ours.bandwidth is not None and theirs.bandwidth is not None:
            seconds = traffic.flash_seconds * (theirs.bandwidth / ours.bandwidth)
            traffic = replace(traffic, flash_seconds=seconds)
        key = job.plan.warmup, tuple((at.signal, at.kept) for at in job.work.method.groups)
        if job.work.method.cache_aware and key not in plain:
            plain[key] = plain_kept(job, traffic)
        yield result_of(job, traffic, plain.get(key) if job.work.method.cache_aware else None)


def _size(job: Job) -> bytes:
    if job.growth is not None:
        return job.growth.each.tobytes() + job.growth.row.tobytes()
    return np.asarray(job.capacity).tobytes()
