"""Leave-one-out: every case predicted with parameters fitted on the other cases of its key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from dipsim.validate.cases import Cases
from dipsim.validate.fit import constant, fit, line
from dipsim.validate.setups import GROUPS, Group, Setup, explanation_of, reason_against, setup_of

PREDICTORS = ("dipsim", "constant", "line")


@dataclass(frozen=True)
class Judged:
    """A case: what was predicted, by whom, and what was measured."""

    case: str
    device: str
    key: str
    fitted_on: tuple[str, ...]
    """The cases its parameters come from; its own among them when it is `fitted`."""
    parameters: Mapping[str, float]
    seconds: Mapping[str, float]
    """Predicted seconds per token, by predictor; of a fitted case dipsim's alone."""
    measured: float

    @property
    def fitted(self) -> bool:
        """Whether it fits its own parameter: it shows nothing and is not counted."""
        return self.case in self.fitted_on

    def error(self, predictor: str = "dipsim") -> float:
        """predicted / measured - 1."""
        return self.seconds[predictor] / self.measured - 1

    def factor(self, predictor: str = "dipsim") -> float:
        """How many times too long or too short."""
        ratio = self.seconds[predictor] / self.measured
        return max(ratio, 1 / ratio) if ratio > 0 else float("inf")


@dataclass(frozen=True)
class GroupResult:
    """The cases of a group."""

    group: Group
    cases: tuple[Judged, ...]

    @cached_property
    def counted(self) -> tuple[Judged, ...]:
        """Those predicted from other cases."""
        return tuple(case for case in self.cases if not case.fitted)

    def off(self, case: Judged, predictor: str = "dipsim") -> float:
        """How far off a prediction is, in the terms of the group's bar."""
        return case.factor(predictor) if self.group.factor else abs(case.error(predictor))

    def median(self, predictor: str = "dipsim") -> float | None:
        """The median of `off` over the counted cases; None where a predictor has none."""
        found = [self.off(at, predictor) for at in self.counted if predictor in at.seconds]
        return median(found) if found else None

    @property
    def misses(self) -> tuple[Judged, ...]:
        """Counted cases outside the bar."""
        return tuple(case for case in self.counted if self.off(case) > self.group.bar)

    def by_key(self) -> dict[str, "GroupResult"]:
        """The counted cases of every key apart."""
        keys = dict.fromkeys(case.key for case in self.counted)
        return {
            key: GroupResult(self.group, tuple(at for at in self.counted if at.key == key))
            for key in keys
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
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
                    "case": at.case,
                    "key": at.key,
                    "fitted": at.fitted,
                    "fitted_on": list(at.fitted_on),
                    "parameters": dict(at.parameters),
                    "predicted_s": dict(at.seconds),
                    "measured_s": at.measured,
                    "error": at.error(),
                    "explained": explanation_of(at.case) if at in self.misses else None,
                }
                for at in self.cases
            ],
        }


@dataclass(frozen=True)
class Validation:
    """Predictions of all cases that can be predicted, and why the others cannot."""

    groups: tuple[GroupResult, ...]
    not_applicable: Mapping[str, str]
    """Reason, by case."""

    def group(self, name: str) -> GroupResult | None:
        """The group of that name; None when it has no case."""
        return next((at for at in self.groups if at.group.name == name), None)


def judge(cases: Cases) -> Validation:
    """Predict every case that can be.

    Raises:
        DipsimError: a case lacks a figure it is predicted from, or a measured time.
    """
    setups, against = [], {}
    for case in cases.facts:
        reason = reason_against(case)
        if reason is None and case.id not in cases.seconds:
            reason = "no time was measured"
        if reason is None:
            setups.append(setup_of(case))
        else:
            against[case.id] = reason
    groups = []
    for group in GROUPS:
        members = [at for at in setups if at.group == group.name]
        if members:
            judged = tuple(_judged(at, members, group, cases.seconds) for at in members)
            groups.append(GroupResult(group, judged))
    return Validation(tuple(groups), against)


def _judged(
    setup: Setup, members: Sequence[Setup], group: Group, seconds: Mapping[str, float]
) -> Judged:
    """A case, with parameters of the others of its key where they determine all it needs."""
    own = setup.case.id
    others = [at for at in members if at.key == setup.key and at.case.id != own]
    known = {parameter for at in others for parameter in at.work.parameters}
    fitted = not known.issuperset(setup.work.parameters)
    used = [*others, setup] if fitted else others
    took = [seconds[at.case.id] for at in used]
    parameters = fit([at.work for at in used], took)
    predicted = {"dipsim": setup.work.seconds(parameters)}
    if others and not fitted:
        a, b = line([at.case.bytes_of(group.bytes_of) for at in others], took)
        predicted["constant"] = constant(took)
        predicted["line"] = a + b * setup.case.bytes_of(group.bytes_of)
    return Judged(
        case=own,
        device=setup.case.device,
        key=setup.key,
        fitted_on=tuple(at.case.id for at in used) if setup.work.parameters else (),
        parameters=parameters,
        seconds=predicted,
        measured=seconds[own],
    )
