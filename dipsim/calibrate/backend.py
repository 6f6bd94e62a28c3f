"""Fit of a backend's numbers to measured rates, and what is known of each afterwards.

The time of a run is linear in the costs of a backend and in the inverses of its rates
(`dipsim.validate.fit.terms_of`). What was believed of a number before counts as one more
measurement of it, as good as its spread says. So a number that the rates do not tell stays as it
was, and several that they tell only together share what was measured. The spread that a number
has afterwards follows from the curvature of the fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.calibrate.evidence import NOISE, TimedRate, by_model, median_error
from dipsim.hardware import FIXED_COSTS, Profile, spread_of
from dipsim.validate.fit import tells, terms_of, value_of, with_number

INVENTED = 20.0
"""Spread of a starting value that nobody stated: any order of magnitude."""
LEAST_SPREAD = 0.02
"""Spread below which no number is claimed to be known."""
_TOLD, _TOLD_BEST = 0.7, 0.95
"""A number counts as told if its spread falls below the first share of that before; if none does,
the one that the rates tell best, if its spread falls below the second."""
_LEAST_MODELS = 3
"""Models of which each may be left out in turn."""
_SIGMAS = NormalDist().inv_cdf(0.95)
"""Standard deviations within which nine of ten lie."""
_HUBER_KNEE = 1.5
"""Standard deviations of an error from which on its weight in the fit falls."""
_NORMAL = 1.4826
"""Standard deviation of normal errors, by the median of their absolute values."""
_ROUNDS, _STEP = 60, 0.5
"""Most rounds of a fit, and the largest change of a logarithm in one."""
Floats = NDArray[np.float64]


class FittedNumber(NamedTuple):
    """A number of a backend after the fit."""

    key: str
    """E.g. ``gemv.q4_0``, ``per_layer``."""
    value: float
    spread: float
    """Nine of ten such numbers lie within a factor of 1 + spread."""
    told: bool
    """True if the rates told it; else it is as it was."""


@dataclass(frozen=True)
class BackendFit:
    """A backend's numbers, fitted to rates."""

    numbers: tuple[FittedNumber, ...]
    median: float
    """Median of the relative errors of the times that were fitted."""
    left_out: float | None
    """Median error of the times of models that were left out of the fit in turn; None for fewer
    than three models."""
    device: Profile
    """The device with the numbers."""


class _Problem(NamedTuple):
    """The linearised fit: seconds of each rate are ``rest`` + ``terms`` @ scales."""

    terms: Floats
    """float64[rates, numbers] seconds in proportion to each number, or to a rate's inverse."""
    rest: Floats
    took: Floats
    noise: Floats
    """float64[rates] standard deviations of logarithms."""
    prior: Floats
    """float64[numbers] standard deviations of the logarithms that were believed before."""

    def part(self, rows: Sequence[int]) -> "_Problem":
        """Return the problem of some of the rates."""
        pick = list(rows)
        return self._replace(
            terms=self.terms[pick],
            rest=self.rest[pick],
            took=self.took[pick],
            noise=self.noise[pick],
        )


def fit_backend(
    device: Profile, backend: str, keys: Mapping[str, float], evidence: Sequence[TimedRate]
) -> BackendFit:
    """Fit numbers of a backend to rates.

    Args:
        device: states each number, as a start.
        keys: the numbers that may be fitted, with the spread of what was believed of each.
        evidence: at least one rate; each is a run on ``device``.
    """
    names = list(keys)
    pairs = [terms_of(device, backend, names, each.run) for each in evidence]
    terms = np.array([[_matters(seconds, told[key]) for key in names] for seconds, told in pairs])
    rest = np.array([seconds for seconds, _ in pairs]) - terms.sum(axis=1)
    took = np.array([each.took for each in evidence])
    prior = np.log1p(np.array([*keys.values()])) / _SIGMAS
    noise = np.array([each.noise for each in evidence])
    problem = _Problem(terms, rest, took, noise, prior)
    _, deviations = _fitted(problem)
    spreads = np.maximum(np.expm1(deviations * _SIGMAS), LEAST_SPREAD)
    remaining = np.where(terms.any(axis=0), spreads / np.array([*keys.values()]), 1.0)
    told = remaining < _TOLD
    if not told.any():  # several numbers that the rates tell only together: the one they tell best
        told = (remaining == remaining.min()) & (remaining < _TOLD_BEST)
    scales = np.ones(len(names))
    if told.any():  # once more, with the numbers that were not told as they were
        fixed = rest + terms[:, ~told].sum(axis=1)
        logs, _ = _fitted(_Problem(terms[:, told], fixed, took, noise, prior[told]))
        scales[told] = np.exp(logs)
    fitted = []
    for place, key in enumerate(names):
        value, scale = value_of(device, backend, key), float(scales[place])
        value = value * scale if key in FIXED_COSTS else value / scale
        device = with_number(device, backend, key, value)
        spread = float(spreads[place]) if told[place] else keys[key]
        fitted.append(FittedNumber(key, value, spread, bool(told[place])))
    errors = np.log((rest + terms @ scales) / took)
    return BackendFit(
        numbers=tuple(fitted),
        median=median_error(errors.tolist()),
        left_out=_left_out(problem, evidence),
        device=device,
    )


def _sigmas(freedom: int) -> float:
    """Return within how many standard deviations nine of ten lie, when these are estimated with so
    many degrees of freedom: the quantile of Student's t (Cornish and Fisher's expansion)."""
    z, n = _SIGMAS, max(1, freedom)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return float(z + first / n + second / n**2 + third / n**3)


def _matters(seconds: float, term: float) -> float:
    """Return a part of a rate's seconds; 0 where it is too small to tell anything."""
    return term if tells(seconds, term) else 0.0


def _left_out(problem: _Problem, evidence: Sequence[TimedRate]) -> float | None:
    """Return the median error of the times of each model, fitted to all others."""
    if len(by_model(evidence)) < _LEAST_MODELS:
        return None
    errors: list[float] = []
    for model in by_model(evidence):
        own = [place for place, each in enumerate(evidence) if each.model == model]
        others = [place for place in range(len(evidence)) if place not in own]
        logs, _ = _fitted(problem.part(others))
        alone = problem.part(own)
        errors += np.log((alone.rest + alone.terms @ np.exp(logs)) / alone.took).tolist()
    return median_error(errors)


def _fitted(problem: _Problem) -> tuple[Floats, Floats]:
    """Return the logarithms of the scales that fit best, float64[numbers], and their standard
    deviations.

    The noise of all rates is raised to that of the errors that are left: a rule that does not hold
    of a device is worth no more than it gets right there. For the deviations it is raised once
    more, as few rates tell their noise badly.
    """
    logs = _descend(problem)
    errors = _errors(problem, logs)
    free = max(1, len(errors) - int((problem.terms.any(axis=0)).sum()))
    usual = _NORMAL * float(np.median(np.abs(errors))) * np.sqrt(len(errors) / free)
    noise = np.maximum(problem.noise, max(usual, NOISE))
    logs = _descend(problem._replace(noise=noise))
    unsure = problem._replace(noise=noise * _sigmas(len(errors) - 1) / _SIGMAS)
    return logs, np.sqrt(np.diag(np.linalg.inv(_curvature(unsure, logs)[0])))


def _errors(problem: _Problem, logs: Floats) -> Floats:
    """Return the logarithms of predicted / measured time, float64[rates]."""
    return np.log((problem.rest + problem.terms @ np.exp(logs)) / problem.took)


def _curvature(problem: _Problem, logs: Floats) -> tuple[Floats, Floats]:
    """Return the matrix of the normal equations, float64[numbers, numbers], and the slopes of the
    errors, float64[rates, numbers], each weighted."""
    predicted = problem.rest + problem.terms @ np.exp(logs)
    slopes = problem.terms * np.exp(logs) / predicted[:, None]
    off = np.abs(_errors(problem, logs)) / problem.noise
    weights = np.minimum(1.0, _HUBER_KNEE / np.maximum(off, 1e-12)) / problem.noise**2
    weighted = weights[:, None] * slopes
    return slopes.T @ weighted + np.diag(1 / problem.prior**2), weighted


def _descend(problem: _Problem) -> Floats:
    """Return the logarithms of scales at the least of the weighted squares of the errors, of which
    large ones weigh less (Huber), and of the distance from what was believed."""
    logs = np.zeros(problem.terms.shape[1])
    for _ in range(_ROUNDS):
        matrix, weighted = _curvature(problem, logs)
        gradient = weighted.T @ _errors(problem, logs) + logs / problem.prior**2
        change = np.clip(-np.linalg.solve(matrix, gradient), -_STEP, _STEP)
        logs = logs + change
        if np.abs(change).max() < 1e-10:
            break
    return logs


def prior_spread(device: Profile, backend: str, key: str) -> float:
    """Return the spread of a number that the profile states; `INVENTED` for one it does not."""
    path = f"backends.{backend}.{key}"
    stated = {number for number, _ in device.numbers()}
    return spread_of(device, path) if path in stated else INVENTED
