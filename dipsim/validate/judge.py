"""Leave-one-out: every case is predicted with parameters fitted on the other cases of its key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from dipsim.validate.cases import Cases
from dipsim.validate.fit import constant, fit, line
from dipsim.validate.setups import (
    GROUPS,
    CaseGroup,
    Setup,
    explanation_of,
    reason_against,
    setup_of,
)

PREDICTORS = ("dipsim", "constant", "line")


@dataclass(frozen=True)
class Judged:
    """A case with its predictions and its measured time."""

    case: str
    device: str
    key: str
    fitted_on: tuple[str, ...]
    """Ids of the cases that its parameters were fitted on; its own among them if it is `fitted`."""
    parameters: Mapping[str, float]
    seconds: Mapping[str, float]
    """Predicted seconds per token, by predictor; a fitted case has dipsim's alone."""
    measured: float
    """Measured seconds per token."""

    @property
    def fitted(self) -> bool:
        """True if its own time was used in the fit: it then proves nothing and is not counted."""
        return self.case in self.fitted_on

    def error(self, predictor: str = "dipsim") -> float:
        """Return the relative error: predicted / measured - 1."""
        return self.seconds[predictor] / self.measured - 1

    def factor(self, predictor: str = "dipsim") -> float:
        """Return the factor by which the prediction is too long or too short, at least 1."""
        ratio = self.seconds[predictor] / self.measured
        return max(ratio, 1 / ratio) if ratio > 0 else float("inf")


@dataclass(frozen=True)
class GroupResult:
    """The judged cases of a group."""

    group: CaseGroup
    cases: tuple[Judged, ...]

    @cached_property
    def counted(self) -> tuple[Judged, ...]:
        """Cases that were predicted from other cases."""
        return tuple(case for case in self.cases if not case.fitted)

    def off(self, case: Judged, predictor: str = "dipsim") -> float:
        """Return the error of a prediction, as a factor or relative, like the group's bar."""
        return case.factor(predictor) if self.group.factor else abs(case.error(predictor))

    def median(self, predictor: str = "dipsim") -> float | None:
        """Return the median of `off` over the counted cases; None without any."""
        errors = [self.off(case, predictor) for case in self.counted if predictor in case.seconds]
        return median(errors) if errors else None

    @property
    def misses(self) -> tuple[Judged, ...]:
        """Counted cases outside the bar."""
        return tuple(case for case in self.counted if self.off(case) > self.group.bar)

    def by_key(self) -> dict[str, "GroupResult"]:
        """Return the counted cases, divided by their keys."""
        keys = dict.fromkeys(case.key for case in self.counted)
        return {
            key: GroupResult(self.group, tuple(case for case in self.counted if case.key == key))
            for key in keys
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.group.name,
            "bar": self.group.bar,
            "bar_is": "factor" if self.group.factor else "relative error",
            "target": self.group.target,
            "counted": len(self.counted),
            "fitted": len(self.cases) - len(self.counted),
            "median": {name: self.median(name) for name in PREDICTORS},
            "cases": [
                {
                    "case": case.case,
                    "key": case.key,
                    "fitted": case.fitted,
                    "fitted_on": list(case.fitted_on),
                    "parameters": dict(case.parameters),
                    "predicted_s": dict(case.seconds),
                    "measured_s": case.measured,
                    "error": case.error(),
                    "explained": explanation_of(case.case) if case in self.misses else None,
                }
                for case in self.cases
            ],
        }


@dataclass(frozen=True)
class Validation:
    """Predictions of all cases that can be predicted, and the reasons against the others."""

    groups: tuple[GroupResult, ...]
    not_applicable: Mapping[str, str]
    """Reason by the id of the case."""

    def group(self, name: str) -> GroupResult | None:
        """Return the group called ``name``; None if it has no case."""
        return next((result for result in self.groups if result.group.name == name), None)


def judge(cases: Cases) -> Validation:
    """Predict every case for which there is a rule and a measured time.

    Raises:
        DipsimError: a case lacks a figure that its prediction needs.
    """
    setups, reasons = [], {}
    for case in cases.facts:
        reason = reason_against(case)
        if reason is None and case.id not in cases.seconds:
            reason = "no time was measured"
        if reason is None:
            setups.append(setup_of(case))
        else:
            reasons[case.id] = reason
    groups = []
    for group in GROUPS:
        members = [setup for setup in setups if setup.group == group.name]
        if members:
            judged = tuple(_judged(setup, members, group, cases.seconds) for setup in members)
            groups.append(GroupResult(group, judged))
    return Validation(tuple(groups), reasons)


def _judged(
    setup: Setup, members: Sequence[Setup], group: CaseGroup, seconds: Mapping[str, float]
) -> Judged:
    """Predict a case with parameters fitted on the others of its key.

    Where they do not determine all its parameters, its own time is used in the fit as well.
    """
    case_id = setup.case.id
    others = [other for other in members if other.key == setup.key and other.case.id != case_id]
    known = {parameter for other in others for parameter in other.work.parameters}
    fitted = not known.issuperset(setup.work.parameters)
    used = [*others, setup] if fitted else others
    took = [seconds[member.case.id] for member in used]
    parameters = fit([member.work for member in used], took)
    predicted = {"dipsim": setup.work.seconds(parameters)}
    if others and not fitted:
        a, b = line([other.case.bytes_of(group.bytes_of) for other in others], took)
        predicted["constant"] = constant(took)
        predicted["line"] = a + b * setup.case.bytes_of(group.bytes_of)
    return Judged(
        case=case_id,
        device=setup.case.device,
        key=setup.key,
        fitted_on=tuple(member.case.id for member in used) if setup.work.parameters else (),
        parameters=parameters,
        seconds=predicted,
        measured=seconds[case_id],
    )
