"""Evidence for a backend's fitted numbers: which cases tell them, and the fit from no prior value.

A profile's fitted numbers name their cases. What `fit_anew` makes of them rests on the cases alone,
whatever the profile states, so that shipped profiles can be made by a script.
"""

import re
from collections.abc import Sequence
from statistics import median

from dipsim.hardware import Profile
from dipsim.validate.cases import Case, Cases
from dipsim.validate.devices import label_of, shipped
from dipsim.validate.fit import Evidence, fitted_numbers, refit, tells, terms_of, value_of
from dipsim.validate.runs import run_of

_MOST_FITS = 20
"""Most fits, each from the numbers of the one before, until they stay."""
_SETTLED = 1e-6
"""Relative change of a number below which it stays."""


def evidence_of(profile: Profile, backend: str, cases: Cases | None = None) -> list[Evidence]:
    """Return the cases that the numbers of a backend were fitted to.

    Args:
        cases: where they are looked up; by default those that dipsim carries.
    """
    numbers, known = fitted_numbers(profile, backend), cases or shipped()
    wanted = {name for number in numbers for name in number.cases}
    evidence = []
    for case in known.facts:
        ready = run_of(case, profile, known.models) if case.id in wanted else ""
        if isinstance(ready, str):
            continue
        seconds, terms = terms_of(profile, backend, [number.key for number in numbers], ready)
        took = case.seconds_of(known.measured[case.id])
        label = label_of(case, known.models)
        evidence.append(Evidence(label, device_of(case), took, seconds, terms, case.id))
    return evidence


def device_of(case: Case) -> str:
    """Return the name that a case's device goes by, up to a bracket or a comma, without its memory
    and the word class."""
    name = re.split(r"[(,;]", case.device.lower())[0]
    return re.sub(r"(\s+\d+ gb|\s+class)\s*$", "", name.strip())


def fit_anew(
    profile: Profile, backend: str, cases: Cases | None = None
) -> tuple[Profile, tuple[str, ...]]:
    """Return the profile with a backend's fitted numbers as their cases give them, and the keys of
    those that no case tells.

    A case's time is not quite in proportion to a number (a product takes the longer of its
    operations and its bytes), so fits follow one another until the numbers stay.
    """
    numbers = fitted_numbers(profile, backend)
    missing = tuple(number.key for number in numbers)
    for _ in range(_MOST_FITS):
        before = [value_of(profile, backend, number.key) for number in numbers]
        profile, missing = refit(profile, backend, numbers, evidence_of(profile, backend, cases))
        after = [value_of(profile, backend, number.key) for number in numbers]
        if all(abs(new / old - 1) < _SETTLED for new, old in zip(after, before, strict=True)):
            break
    return profile, missing


def errors_left_out(
    profile: Profile, backend: str, cases: Cases | None = None
) -> dict[str, tuple[float, ...]]:
    """Return by number the absolute relative errors of the times of its cases, each predicted with
    all of the backend's numbers fitted without the case's model.

    Cases that nothing else tells are left out; they are none where there is one model only.
    """
    numbers = fitted_numbers(profile, backend)
    evidence = evidence_of(profile, backend, cases)
    errors: dict[str, float] = {}
    for model in dict.fromkeys(case.model for case in evidence):
        others = [case for case in evidence if case.model != model]
        fitted, missing = refit(profile, backend, numbers, others)
        for case in evidence_of(fitted, backend, cases):
            told = {key for key, term in case.terms.items() if tells(case.seconds, term)}
            if case.model == model and not told & set(missing):
                errors[case.id] = abs(case.seconds / case.took - 1)
    return {
        number.key: tuple(errors[name] for name in number.cases if name in errors)
        for number in numbers
    }


def median_left_out(errors: Sequence[float]) -> float | None:
    """Return the median of errors, to two digits; None for none."""
    return round(median(errors), 2) if errors else None
