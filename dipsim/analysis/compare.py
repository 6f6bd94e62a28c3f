"""Devices, methods, policies and budgets side by side: every combination run, sorted, and held
against the optimum."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Unpack

from dipsim.analysis.axes import (
    GivenBudget,
    budgets_of,
    densities_of,
    density_of,
    has_density,
    methods_of,
    refuse_twice,
)
from dipsim.analysis.cliff import Cliff, cliff_warning, falls, find_cliff
from dipsim.analysis.default_policies import policies_that_apply
from dipsim.analysis.verdict import contenders, judge, no_optimum, rivals_of
from dipsim.errors import DipsimError, ProfileError, brief
from dipsim.hardware import Profile, load_profile
from dipsim.keywords import Size, SweepOptions, lists_options
from dipsim.lists import several, several_names, several_numbers
from dipsim.methods import PruningMethod, label_of
from dipsim.policies import Policy, load_policies
from dipsim.replay.contender import Contender
from dipsim.replay.replay import Progress
from dipsim.replay.traffic import Traffic
from dipsim.resolve import Input
from dipsim.result import Result
from dipsim.run import Run
from dipsim.sweep.many import many
from dipsim.sweep.methods import (
    IMPOSSIBLE,
    calibrated_tokens,
    check_used,
    options_of,
    part_of,
    warmed_up,
)
from dipsim.sweep.point import Cell, Figures, Place, Point, figures_of
from dipsim.timeline.timing import time_tokens
from dipsim.trace import Trace, load_trace
from dipsim.views import Viewed, report_module

AXES = ("profile", "method", "density", "policy", "budget")
PLURALS = {
    "profile": "profiles",
    "method": "methods",
    "density": "densities",
    "policy": "policies",
    "budget": "budgets",
}
USUAL = ("none", "lru", "lfu", "lfu-decay", "arc", "belady", "opt")
"""Policies that are compared when the user names none; of each method those that apply."""
FIGURES = (
    "dram_bytes",
    "cache_bytes",
    "hit_rate",
    "unit_hit_rate",
    "tokens_per_second",
    "tokens_per_second_range",
    "flash_bytes_per_token",
    "flash_reads_per_token",
    "to_optimum",
    "verdict",
)
"""Figures of a cell. ``dram_bytes``: what weights and KV may take, with a cache given directly what
it takes beside static weights and KV; ``to_optimum``: hit rate of the optimum less that of the
policy, of units over all tokens; ``verdict``: a `Verdict`; both None where there is no optimum."""
KNOWING = {"clairvoyant", "preloaded"}
"""Marks of policies that know the future, or the whole trace."""


def runs_on_a_device(cell: Cell) -> bool:
    """Return whether a policy ran, keeps something, and knows no more than a device does."""
    return cell.figures is not None and not (
        KNOWING & set(cell.marks) or cell.place["policy"] == "none"
    )


def fastest(cells: Iterable[Cell]) -> Cell | None:
    """Return the fastest cell whose policy a device can run; None where there is none."""
    return max(filter(runs_on_a_device, cells), key=lambda cell: cell.rate, default=None)


class Watch(Protocol):
    """Receiver of what happens while runs are compared."""

    def planned(self, places: Sequence[Place]) -> None:
        """Take note of the places of all cells, before the first run."""
        return

    def warned(self, text: str) -> None:
        """Take note of a warning about a run that will hit nothing, before it is replayed."""
        return

    def ran(self, result: Result) -> None:
        """Take note of a result, before its counts are let go."""
        return


class _Nobody(Watch):
    """Receiver that takes no note of anything."""


@dataclass(frozen=True, repr=False)
class Comparison(Viewed):
    """Cells of every combination, by device and budget, the fastest first.

    Places of cells are the `AXES`: ``density`` is None for methods without one, and where densities
    of groups were given; ``budget`` is as it was asked for, e.g. ``cache_fraction=0.6``. A cell of
    an impossible combination has no figures and says why.
    """

    report: ClassVar[str] = "compare"

    trace: Trace
    axes: Mapping[str, list[Any]]
    """Values of each axis, in the order in which they were given."""
    budgets: Mapping[str, GivenBudget]
    """Budgets by their texts on the axis ``budget``."""
    cells: list[Cell]
    no_optimum: str | None
    """Reason why runs have no distance to the optimum and no verdict; None where all have."""
    unmeasured: int = 0
    """Decode tokens no run measures, since thresholds of some methods are calibrated on them."""

    @property
    def best(self) -> Cell | None:
        """The fastest cell whose policy a device can run; None where there is none."""
        return fastest(self.cells)

    def varying(self, *axes: str) -> list[str]:
        """Return those of some axes that have several values."""
        return [axis for axis in axes if len(self.axes[axis]) > 1]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of plain values for each cell: its place, its figures, marks, and why it has
        none.

        Bytes and shares are numbers; a budget has those that were given. Where there is no figure
        it is None.
        """
        return [self._row(cell) for cell in self.cells]

    def _row(self, cell: Cell) -> dict[str, Any]:
        budget = self.budgets[cell.place["budget"]]
        plain = cell.to_dict(FIGURES)
        return {
            **cell.place,
            "budget_kind": budget.kind,
            "budget_bytes": budget.bytes,
            "budget_share": budget.share,
            **{name: plain.get(name) for name in FIGURES},
            "marks": list(cell.marks),
            "why": cell.why,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "trace": {"name": self.trace.name, "hash": self.trace.hash},
            "axes": {axis: list(values) for axis, values in self.axes.items()},
            "no_optimum": self.no_optimum,
            "unmeasured": self.unmeasured,
            "cells": self.rows(),
        }

    def __repr__(self) -> str:
        parts = (f"{len(self.axes[axis])} {PLURALS[axis]}" for axis in self.varying(*AXES))
        what = f"Comparison of {brief(self.trace.name, 60)}: {' x '.join(parts) or 'one run'}"
        best = self.best
        if best is None:
            return f"{what}\nno run of a policy that a device can run"
        places = (best.place[axis] for axis in AXES)
        place = ", ".join(brief(value, 30) for value in places if value is not None)
        return f"{what}\nbest: {best.rate:.4g} tokens/s with {place}"

    def _repr_html_(self) -> str:
        html: str = report_module(self.report).html(self)
        return html


@lists_options
def compare(
    trace: Input | Trace,
    profiles: Input | Profile | Sequence[Input | Profile],
    policies: str | Policy | Sequence[str | Policy] = (),
    *,
    methods: str | PruningMethod | Sequence[str | PruningMethod] = (),
    density: float | Sequence[float] = (),
    dram: Size | Sequence[Size] = (),
    cache: Size | Sequence[Size] = (),
    cache_fraction: float | Sequence[float] = (),
    watch: Watch | None = None,
    progress: Progress | None = None,
    **options: Unpack[SweepOptions],
) -> Comparison:
    """Run a trace with every combination of devices, methods, policies and budgets.

    Runs that need the same active sets are replayed in one pass over the trace. A combination that
    is impossible, such as `opt` with sets that depend on the cache, becomes a cell that says why.

    Args:
        trace: as of `simulate`.
        profiles: one device or several, each as of `simulate`.
        policies: names, ``file.py:attribute`` or objects; default: those of `USUAL` that apply.
            A text of these and of all that follow may be a comma list, as on the command line.
        methods: names, ``file.py:attribute`` or objects; default: the trace's own.
        density: of methods that take one; default: 0.7.
        dram: DRAM for weights and KV: ``"3.5GB"``, a number of bytes, or ``"50%"`` of the model.
        cache: bytes for the caches alone.
        cache_fraction: shares of the units that the caches hold, from 0 to 1. Without ``dram``,
            ``cache`` and ``cache_fraction`` there is one budget: what the device leaves.
        watch: told what happens.
        progress: called with (runs done, runs).
        options: they hold for all runs of methods that take them.

    Returns:
        A cell for every combination; a method without a density has none for each density.

    Raises:
        DipsimError: anything wrong with the input, in one line; no combination is possible.
    """
    model, overrides = options.pop("model", None), options.pop("overrides", ())
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name, argument in (("method", "methods"), ("policy", "policies")):
        if name in given:
            raise DipsimError(f"{name}={given[name]!r}: compare takes it as {argument}=[...]")
    opened = load_trace(trace).kept()
    devices = [load_profile(one, overrides) for one in several(profiles)]
    if not devices:
        raise DipsimError("no profile: give one, or a list of them")
    refuse_twice("--profile", [device.name for device in devices])
    budgets = budgets_of(
        several_names(dram),
        several_names(cache),
        several_numbers(cache_fraction, "--cache-fraction"),
    )
    densities = densities_of(several_numbers(density, "--density"))
    if densities:
        given["density"] = densities[0]  # each run has its own; that it is used is checked
    kinds = [
        _Kind.of(opened, given, method, kept)
        for method in methods_of(opened, several_names(methods))
        for kept in (densities if has_density(method) and densities else [None])
    ]
    chosen = load_policies(several_names(policies))
    points = [
        Point(
            {"profile": device.name, **kind.place, "policy": policy.label, "budget": budget.label},
            opened,
            device,
            {**kind.options, **budget.option, "policy": policy},
            model,
        )
        for kind in kinds
        for policy in chosen or kind.usual_policies(opened)
        for device in devices
        for budget in budgets
    ]
    check_used(given, [point.options for point in points], "compare")
    watch = watch or _Nobody()
    watch.planned([point.place for point in points])
    points, unmeasured = _measured_alike(part_of(opened, given), points)
    rivals = _Rivals(watch)
    cells = many(
        points,
        read=_reader(watch),
        before=rivals.of,
        tolerated=(*IMPOSSIBLE, ProfileError),
        progress=progress,
    )
    axes = {axis: _values(axis, points) for axis in AXES}
    by_label = {budget.label: budget for budget in budgets}
    return Comparison(opened, axes, by_label, _sorted(cells), rivals.no_optimum, unmeasured)


class _Kind(NamedTuple):
    """Runs of a method at a density, whatever their device, policy and budget."""

    place: Place
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        trace: Trace,
        given: Mapping[str, Any],
        method: str | PruningMethod,
        density: float | None,
    ) -> "_Kind":
        place = {"method": label_of(method), "density": density_of(method, density, given)}
        return cls(place, options_of(method, trace, given, {"density": density}))

    def usual_policies(self, trace: Trace) -> list[Policy]:
        """Return the policies that are compared when the user names none."""
        try:
            return load_policies(policies_that_apply(USUAL, trace, self.options))
        except IMPOSSIBLE:  # the cells will say why
            return load_policies(USUAL)


def _values(axis: str, points: Iterable[Point]) -> list[Any]:
    """Return the values of an axis in the order of the points; having none is no value."""
    values = dict.fromkeys(point.place[axis] for point in points)
    return [value for value in values if value is not None]


def _sorted(cells: list[Cell]) -> list[Cell]:
    """Return cells by device and budget, in the order given, and then the fastest first."""
    axes = "profile", "budget"
    places = {axis: list(dict.fromkeys(cell.place[axis] for cell in cells)) for axis in axes}

    def key(cell: Cell) -> Any:
        rate = -math.inf if cell.figures is None else cell.rate
        return *(places[axis].index(cell.place[axis]) for axis in axes), -rate

    return sorted(cells, key=key)


def _measured_alike(part: Trace, points: list[Point]) -> tuple[list[Point], int]:
    """Return points that measure the same tokens, and how many at the start none of them measures.

    A run leaves out the tokens its own thresholds are calibrated on, so that methods are compared
    on what all of them leave.
    """
    tokens = {point.place["method"]: calibrated_tokens(part, point.options) for point in points}
    until = max(tokens.values())
    if len(set(tokens.values())) > 1:
        points = [replace(each, options=warmed_up(each.options, until)) for each in points]
    return points, until


class _Rivals:
    """Contenders beside each run, and warnings about runs into the cliff."""

    def __init__(self, watch: Watch) -> None:
        self.no_optimum: str | None = None
        self._watch = watch
        self._cliffs: dict[Any, Cliff | None] = {}

    def of(self, run: Run) -> list[Contender]:
        """Return the contenders that judge a run."""
        self.no_optimum = self.no_optimum or no_optimum(run)
        if falls(run):
            sets = run.method.name, run.settings.density  # whatever the budget and the device
            if sets not in self._cliffs:
                self._cliffs[sets] = find_cliff(run)
            warning = cliff_warning(run, self._cliffs[sets])
            if warning is not None:
                self._watch.warned(warning)
        return contenders(run)


def _reader(watch: Watch) -> Callable[..., list[tuple[Place, Figures]]]:
    """Return what reads the cell of a run: the usual figures, and the verdict."""

    def read(result: Result, *beside: Traffic) -> list[tuple[Place, Figures]]:
        watch.ran(result)
        rates = [time_tokens(result.run, rival)[1] for rival in rivals_of(beside)]
        verdict = judge(result, beside, rates)
        distance = None
        if verdict is not None and verdict.accesses:
            distance = verdict.lost / verdict.accesses
        figures = {
            **figures_of(result),
            "dram_bytes": result.budget.total,
            "unit_hit_rate": result.unit_hit_rate,
            "to_optimum": distance,
            "verdict": verdict,
        }
        return [({}, figures)]

    return read
