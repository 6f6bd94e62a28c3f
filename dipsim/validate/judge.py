"""Predictions of published cases, each without its own model in any fit, held against measurements.

A case that no number was fitted to is predicted with the shipped numbers. One whose model was among
those that numbers of its backend were fitted to is predicted with these fitted anew without it;
where nothing is left to fit them to, it is told and not counted.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from statistics import geometric_mean, median
from typing import Any

from dipsim.errors import DipsimError
from dipsim.hardware import Profile
from dipsim.replay.replay import Progress
from dipsim.validate.cases import Case, Cases
from dipsim.validate.devices import label_of, profile_of, shipped
from dipsim.validate.evidence import device_of, evidence_of
from dipsim.validate.fit import (
    Evidence,
    fitted_numbers,
    refit,
    tells,
    terms_of,
    value_of,
    with_number,
)
from dipsim.validate.predictors import PREDICTORS, Bytes, bytes_of, trivial
from dipsim.validate.runs import CaseRun, Prediction, run_of

BANDS = ((0.0, 1e9, "below 1 B"), (1e9, 2e9, "1 to 2 B"), (2e9, math.inf, "2 B and more"))
"""Sizes of models, in parameters, and their names."""


@dataclass(frozen=True)
class Judged:
    """A case with its prediction and its measured figure, both in the unit of the case."""

    case: Case
    measured: float | None
    prediction: Prediction | None = None
    """Without its model in any fit; None where it is not predicted."""
    prints: float | None = None
    """Figure that `run` prints: the same with the shipped numbers."""
    without_device: float | None = None
    """The figure with every case of its device left out of the fits; None where nothing is left, or
    no fit knows the device."""
    counted: bool = False
    why: str = ""
    """Why it is not counted or not predicted; what else a reader must know."""
    profile: str = ""
    backend: str = ""
    model: str = ""
    parameters: float = 0.0
    bytes: Bytes | None = None
    trivial: Mapping[str, float] = field(default_factory=dict)
    """Figures of the trivial predictors."""

    def error(self, figure: float | None = None) -> float:
        """Return the relative error of the time: predicted / measured - 1, of the prediction or of
        another figure."""
        assert self.measured is not None
        assert self.prediction is not None
        ratio = (self.prediction.value if figure is None else figure) / self.measured
        return (1 / ratio if self.case.is_rate else ratio) - 1

    @property
    def covered(self) -> bool:
        """True if the measured figure lies within the interval."""
        assert self.measured is not None
        assert self.prediction is not None
        return self.prediction.low <= self.measured <= self.prediction.high

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, of figures in the unit of the case."""
        predicted = self.prediction
        return {
            "id": self.case.id,
            "kind": self.case.kind,
            "profile": self.profile or None,
            "backend": self.backend or None,
            "unit": self.case.unit,
            "predicted": predicted and predicted.value,
            "measured": self.measured,
            "low": predicted and predicted.low,
            "high": predicted and predicted.high,
            "run_prints": self.prints,
            "without_device": self.without_device,
            "counted": self.counted,
            "why": self.why,
            "trivial": dict(self.trivial),
        }


@dataclass(frozen=True)
class GroupResult:
    """Counted cases that are judged together."""

    name: str
    cases: tuple[Judged, ...]

    @cached_property
    def errors(self) -> list[float]:
        """Relative errors of the times."""
        return [case.error() for case in self.cases]

    @property
    def median(self) -> float:
        """Median of the absolute errors."""
        return median(map(abs, self.errors))

    @property
    def signed_median(self) -> float:
        """Median of the errors: above 0 where predicted times are too long."""
        return median(self.errors)

    @property
    def worst(self) -> Judged:
        """The case that is furthest off, as a factor."""
        return max(self.cases, key=lambda case: abs(math.log1p(case.error())))

    @property
    def coverage(self) -> float:
        """Share of the measured figures that lie within their intervals."""
        return sum(case.covered for case in self.cases) / len(self.cases)

    @property
    def width(self) -> float:
        """Median of high / low of the intervals."""
        bounds = [case.prediction for case in self.cases if case.prediction is not None]
        return median(bound.high / bound.low for bound in bounds)

    @property
    def device_median(self) -> tuple[int, float] | None:
        """Number of cases that are predicted without their device in any fit, and the median of
        their absolute errors; None for none."""
        return self._median_of(lambda case: case.without_device)

    def trivial_median(self, predictor: str) -> tuple[int, float] | None:
        """Return how many cases a trivial predictor predicts, and its median absolute error; None
        for none."""
        return self._median_of(lambda case: case.trivial.get(predictor))

    def _median_of(self, figure_of: Callable[[Judged], float | None]) -> tuple[int, float] | None:
        """Return how many cases have a figure, and its median absolute error; None for none."""
        figures = [(case, figure_of(case)) for case in self.cases]
        errors = [abs(case.error(figure)) for case, figure in figures if figure is not None]
        return (len(errors), median(errors)) if errors else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        baselines = {name: self.trivial_median(name) for name in PREDICTORS}
        return {
            "name": self.name,
            "n": len(self.cases),
            "median": self.median,
            "worst": self.worst.error(),
            "worst_case": self.worst.case.id,
            "signed_median": self.signed_median,
            "coverage": self.coverage,
            "width": self.width,
            "without_device": _plain(self.device_median),
            "trivial": {name: _plain(each) for name, each in baselines.items()},
        }


def _plain(errors: tuple[int, float] | None) -> dict[str, float] | None:
    """Return a number of cases and their median error as plain values."""
    return None if errors is None else {"n": errors[0], "median": errors[1]}


@dataclass(frozen=True)
class Validation:
    """All cases of a file, judged."""

    cases: tuple[Judged, ...]

    @cached_property
    def counted(self) -> tuple[Judged, ...]:
        """Cases whose prediction counts."""
        return tuple(case for case in self.cases if case.counted)

    @cached_property
    def groups(self) -> tuple[GroupResult, ...]:
        """Groups of counted cases: by kind, then decoding by size, and by engine and format."""
        decode = [case for case in self.counted if case.case.kind == "decode"]
        by_kind = self._grouped(self.counted, lambda case: case.case.kind)
        by_size = self._grouped(decode, _band_of)
        by_engine = self._grouped(self.counted, _setup_of)
        order = {name: place for place, (_, _, name) in enumerate(BANDS)}
        by_size = sorted(by_size, key=lambda group: order[group.name.removeprefix("decode, ")])
        return (*by_kind, *by_size, *by_engine)

    def group(self, name: str) -> GroupResult | None:
        """Return a group by its name; None if no counted case belongs to it."""
        return next((group for group in self.groups if group.name == name), None)

    @staticmethod
    def _grouped(cases: Iterable[Judged], name_of: Callable[[Judged], str]) -> list[GroupResult]:
        members: dict[str, list[Judged]] = {}
        for case in cases:
            members.setdefault(name_of(case), []).append(case)
        return [GroupResult(name, tuple(some)) for name, some in members.items()]


def _band_of(case: Judged) -> str:
    """Return the group of a case by the size of its model."""
    name = next(name for low, high, name in BANDS if low <= case.parameters < high)
    return f"decode, {name}"


def _setup_of(case: Judged) -> str:
    """Return the group of a case by kind, profile, backend and format."""
    kind, stored = case.case.kind, case.case.stored_as or "any format"
    return f"{kind}, {case.profile} {case.backend}, {stored}"


def judge(cases: Cases, progress: Progress | None = None) -> Validation:
    """Predict every case for which there is a profile and a rule.

    Args:
        progress: called with (cases done, cases).

    Raises:
        DipsimError: a case names a profile that does not exist, or figures that make no sense.
    """
    predictor = _Predictor(cases.models)
    judged = []
    for place, case in enumerate(cases.facts, 1):
        measured = cases.measured.get(case.id)
        judged.append(replace(predictor.judged(case), case=case, measured=measured))
        if progress is not None:
            progress(place, len(cases.facts))
    return Validation(tuple(_with_trivial([_if_measured(case) for case in judged])))


def _if_measured(judged: Judged) -> Judged:
    """Return a case that counts only where a figure was measured."""
    if judged.measured is not None or not judged.counted:
        return judged
    return replace(judged, counted=False, why="nothing was measured")


class _Predictor:
    """Predictions of cases; equal work is predicted once, and fits are kept.

    Args:
        models: geometries that a file of cases states.
    """

    def __init__(self, models: Mapping[str, Mapping[str, Any]]) -> None:
        self._models = models
        self._known: dict[str, Judged] = {}
        self._fits: dict[tuple[str, str, tuple[int, ...]], tuple[Profile, tuple[str, ...]]] = {}
        self._evidence: dict[tuple[str, str], list[Evidence]] = {}

    def judged(self, case: Case) -> Judged:
        """Return a case with its prediction, without its measured figure."""
        work = case.model_dump_json(exclude={"id", "source", "note"}, exclude_unset=True)
        if work not in self._known:
            self._known[work] = self._judged(case)
        return self._known[work]

    def _judged(self, case: Case) -> Judged:
        judged = Judged(case, None)
        if case.not_predicted:
            return replace(judged, why=case.not_predicted)
        profile = profile_of(case)
        if profile is None:
            return replace(judged, why="no profile of its device")
        try:
            ready = run_of(case, profile, self._models)
        except DipsimError as problem:
            ready = str(problem)
        if isinstance(ready, str):
            return replace(judged, why=ready, profile=profile.name)
        shipped_figure = ready.predict()
        judged = replace(
            judged,
            prediction=shipped_figure,
            prints=shipped_figure.value,
            profile=profile.name,
            backend=str(ready.run.settings.backend),
            model=label_of(case, self._models),
            parameters=_parameters(ready),
            bytes=bytes_of(ready),
            counted=True,
            why="" if ready.same_engine else "no numbers of its engine: another's on the same unit",
        )
        return self._left_out(judged, ready, profile)

    def _left_out(self, judged: Judged, ready: CaseRun, profile: Profile) -> Judged:
        """Return a case predicted without its model, and without its device, where these were in a
        fit that it rests on."""
        backend, model = judged.backend, judged.model
        fault = profile.source("flash.fault.seconds")
        if judged.case.kind == "mapped" and fault is not None and _rests_on(fault.cases, model):
            why = "the cost of a page fault in the profile was worked out from its model"
            return replace(judged, counted=False, why=why)
        keys = [number.key for number in fitted_numbers(profile, backend)]
        seconds, terms = terms_of(profile, backend, keys, ready)
        told = {key for key, term in terms.items() if tells(seconds, term)}
        evidence = self._of(profile, backend)
        figure = self._without_device(judged, ready, profile, told)
        judged = replace(judged, without_device=figure)
        if not any(case.model == model and told & _told_by(case) for case in evidence):
            return judged
        others = [case for case in evidence if case.model != model]
        fitted, missing = self._refitted(profile, backend, others)
        compute = self._borrowed(profile, backend, model) if "compute" in missing else None
        if compute is not None:
            fitted = with_number(fitted, backend, "compute", compute)
            missing = tuple(key for key in missing if key != "compute")
        if told & set(missing):
            why = "the only model that numbers of its backend were fitted to"
            return replace(judged, counted=False, why=why)
        return replace(judged, prediction=ready.on(fitted).predict())

    def _without_device(
        self, judged: Judged, ready: CaseRun, profile: Profile, told: set[str]
    ) -> float | None:
        """Return `Judged.without_device` of a case.

        Args:
            told: the fitted numbers that its time rests on.
        """
        device, evidence = device_of(ready.case), self._of(profile, judged.backend)
        if not any(case.device == device and told & _told_by(case) for case in evidence):
            return None
        others = [case for case in evidence if case.device != device]
        fitted, missing = self._refitted(profile, judged.backend, others)
        if told & set(missing):
            return None
        return ready.case.figure_of(ready.on(fitted).seconds())

    def _refitted(
        self, profile: Profile, backend: str, evidence: Sequence[Evidence]
    ) -> tuple[Profile, tuple[str, ...]]:
        """Return the profile with a backend's numbers fitted to some cases; see `refit`."""
        key = (profile.name, backend, tuple(map(id, evidence)))
        if key not in self._fits:
            self._fits[key] = refit(profile, backend, fitted_numbers(profile, backend), evidence)
        return self._fits[key]

    def _borrowed(self, profile: Profile, backend: str, model: str) -> float | None:
        """Return the ``compute`` (FLOP/s) of the other engines on the same unit, fitted without a
        model, as their geometric mean; None where they have none.

        It takes the place of one that no case is left for.
        """
        rates = []
        for other in profile.backends:
            same_unit = other.split("-")[0] == backend.split("-")[0]
            numbers = fitted_numbers(profile, other)
            if other == backend or not same_unit or "compute" not in {n.key for n in numbers}:
                continue
            others = [case for case in self._of(profile, other) if case.model != model]
            fitted, missing = self._refitted(profile, other, others)
            rates += [] if "compute" in missing else [value_of(fitted, other, "compute")]
        return geometric_mean(rates) if rates else None

    def _of(self, profile: Profile, backend: str) -> list[Evidence]:
        """Return the cases that numbers of a backend were fitted to."""
        key = (profile.name, backend)
        if key not in self._evidence:
            self._evidence[key] = evidence_of(profile, backend)
        return self._evidence[key]


def _told_by(case: Evidence) -> set[str]:
    """Return the numbers that a case tells."""
    return {key for key, term in case.terms.items() if tells(case.seconds, term)}


def _rests_on(cases: Iterable[str], model: str) -> bool:
    """Return whether one of the shipped cases of these ids is of a model."""
    return any(_shipped_labels().get(name) == model for name in cases)


@cache
def _shipped_labels() -> dict[str, str]:
    """Return the label of each shipped case's model, by the id of the case; see `label_of`."""
    known = shipped()
    return {case.id: label_of(case, known.models) for case in known.facts}


def _parameters(ready: CaseRun) -> float:
    """Return the parameters of the model of a run; 0 where its geometry is not known."""
    return 0.0 if ready.run.model is None else float(ready.run.model.parameters)


def _with_trivial(judged: Sequence[Judged]) -> list[Judged]:
    """Return the cases with the figures of the trivial predictors."""
    measured: dict[str, list[tuple[str, Bytes, float]]] = {}
    for case in judged:
        if case.measured is not None and case.bytes is not None:
            facts = case.model, case.bytes, case.case.seconds_of(case.measured)
            measured.setdefault(_setup_of(case), []).append(facts)

    @cache
    def seconds(setup: str, model: str, own: Bytes) -> dict[str, float]:
        others = [(size, took) for name, size, took in measured[setup] if name != model]
        return trivial(own, others)

    result = []
    for case in judged:
        figures = {}
        if case.counted and case.bytes is not None:
            times = seconds(_setup_of(case), case.model, case.bytes)
            figures = {name: case.case.figure_of(time) for name, time in times.items()}
        result.append(replace(case, trivial=figures))
    return result
