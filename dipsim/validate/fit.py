"""Fits of a profile's numbers to published cases, so that a case's own model can be left out.

Numbers of a backend that are marked ``fitted`` name the cases they were fitted to. The time of such
a case is linear in the backend's costs and in the inverses of its rates; the fit minimises the sum
of the absolute logarithms of predicted / measured time, in which one odd measurement weighs as much
as any other.
"""

from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.hardware import FIXED_COSTS, Profile
from dipsim.timeline.steps import rates
from dipsim.validate.runs import CaseRun

_ROUNDS = 200
"""Most rounds of a fit."""
_FLOOR = 0.02
"""Error of a logarithm below which a case's weight no longer rises."""
_STEP = 0.3
"""Largest change of a logarithm in a round."""
_MATTERS = 1e-3
"""Share of a case's time that a number must exceed for the case to tell something of it."""


class Fitted(NamedTuple):
    """A number of a backend that was fitted to cases."""

    key: str
    """E.g. ``gemv.q4_0`` or ``per_layer``."""
    cases: tuple[str, ...]


class Evidence(NamedTuple):
    """A case that numbers are fitted to: what it took, and what dipsim says it takes."""

    model: str
    """Label of its model, see `dipsim.validate.devices.label_of`."""
    device: str
    took: float
    """Measured seconds."""
    seconds: float
    """Seconds that dipsim says with the shipped numbers."""
    terms: Mapping[str, float]
    """Part of ``seconds`` that is in proportion to each number, by its key; if it is a rate, to its
    inverse."""
    id: str = ""
    """The case's."""


def fitted_numbers(profile: Profile, backend: str) -> list[Fitted]:
    """Return the numbers of a backend that are marked as fitted to cases."""
    prefix = f"backends.{backend}."
    numbers = []
    for path, _ in profile.numbers():
        source = profile.source(path) if path.startswith(prefix) else None
        if source is not None and source.kind == "fitted" and source.cases:
            numbers.append(Fitted(path.removeprefix(prefix), source.cases))
    return numbers


def with_number(profile: Profile, backend: str, key: str, value: float) -> Profile:
    """Return the profile with another value of one of a backend's numbers."""
    old = profile.backends[backend]
    if key.startswith("gemv."):
        name = key.removeprefix("gemv.")
        new = old.model_copy(update={"gemv": {**old.gemv, name: value}})
    else:
        new = old.model_copy(update={key: value})
    return profile.model_copy(update={"backends": {**profile.backends, backend: new}})


def value_of(profile: Profile, backend: str, key: str) -> float:
    """Return one of a backend's numbers."""
    section = profile.backends[backend]
    return float(
        section.gemv[key.removeprefix("gemv.")]
        if key.startswith("gemv.")
        else getattr(section, key)
    )


def terms_of(
    profile: Profile, backend: str, keys: Sequence[str], run: CaseRun
) -> tuple[float, dict[str, float]]:
    """Return the seconds of a case, and by key the part of them that is in proportion to a number.

    Seconds are in proportion to a cost, and to the inverse of a rate.
    """
    seconds = run.on(profile).seconds()
    used = rates(run.run).used
    terms = {}
    for key in keys:
        if key.startswith("gemv.") and f"backends.{backend}.{key}" not in used:
            terms[key] = 0.0  # the rate of another format
            continue
        value = value_of(profile, backend, key)
        slower = value * 2 if key in FIXED_COSTS else value / 2
        terms[key] = run.on(with_number(profile, backend, key, slower)).seconds() - seconds
    return seconds, terms


def tells(seconds: float, term: float) -> bool:
    """Return whether a case of ``seconds``, ``term`` of them due to a number, tells that number."""
    return term > _MATTERS * seconds


def refit(
    profile: Profile, backend: str, numbers: Sequence[Fitted], evidence: Sequence[Evidence]
) -> tuple[Profile, tuple[str, ...]]:
    """Fit numbers of a backend to some of the cases they were fitted to.

    Args:
        numbers: of `fitted_numbers`.
        evidence: cases that are left.

    Returns:
        The profile with the new numbers, and the keys that no case was left for. A rate of a
        format without cases takes the mean of the engine's other rates that have some.
    """
    keys = [number.key for number in numbers]
    told = [key for key in keys if any(tells(case.seconds, case.terms[key]) for case in evidence)]
    if not told:
        return profile, tuple(keys)
    terms = np.array([[case.terms[key] for key in told] for case in evidence])
    rest = np.array([case.seconds for case in evidence]) - terms.sum(axis=1)
    took = np.array([case.took for case in evidence])
    for key, scale in zip(told, _least_errors(terms, rest, took), strict=True):
        value = value_of(profile, backend, key)
        better = value * scale if key in FIXED_COSTS else value / scale
        profile = with_number(profile, backend, key, float(better))
    gemv = [value_of(profile, backend, key) for key in told if key.startswith("gemv.")]
    for key in keys:
        if key not in told and key.startswith("gemv.") and gemv:
            profile = with_number(profile, backend, key, geometric_mean(gemv))
            told.append(key)
    return profile, tuple(key for key in keys if key not in told)


def _least_errors(
    terms: NDArray[np.float64], rest: NDArray[np.float64], took: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return scales s > 0 that minimise the sum of |log((rest + terms s) / took)|.

    Each round solves the least squares of the linearised problem, weighted by the inverses of the
    errors, for the logarithms of the scales. The first ones have equal weights: between two cases
    that contradict each other every value is as good, and this is their geometric mean.

    Args:
        terms: float64[cases, keys] seconds that are in proportion to a number.
        rest: float64[cases] all other seconds.
        took: float64[cases] measured seconds.

    Returns:
        float64[keys] factors on costs and on the inverses of rates.
    """
    scales = np.ones(terms.shape[1])
    for squares in (True, False):
        for _ in range(_ROUNDS):
            predicted = rest + terms @ scales
            errors = np.log(predicted / took)
            slopes = terms * scales / predicted[:, None]
            weights = np.ones_like(errors) if squares else 1 / np.maximum(np.abs(errors), _FLOOR)
            normal = slopes.T @ (weights[:, None] * slopes) + 1e-9 * np.eye(len(scales))
            change = np.linalg.solve(normal, -slopes.T @ (weights * errors))
            scales = scales * np.exp(np.clip(change, -_STEP, _STEP))
            if np.abs(change).max() < 1e-9:
                break
    return scales
