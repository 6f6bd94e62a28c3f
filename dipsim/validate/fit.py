"""Fits of a few bounded parameters to measured times, and the trivial predictors beside them.

All of them minimise the same thing, squared relative (or logarithmic) errors, over the same cases.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dipsim.validate.work import Parameter, Work

_FIRST_STEP, _LAST_STEP = 0.25, 1e-7


def search(loss: Callable[[Sequence[float]], float], dimensions: int) -> list[float]:
    """Where in the unit cube ``loss`` is least, for smooth losses of one or two parameters.

    Hooke and Jeeves' pattern search from the middle: look around along the axes; as long as that
    helps, leap on in the same direction; where it does not, look closer.
    """
    best, step = [0.5] * dimensions, _FIRST_STEP
    least = loss(best)

    def around(start: list[float], value: float) -> tuple[list[float], float]:
        for axis in range(dimensions):
            for sign in (step, -step):
                at = list(start)
                at[axis] = min(1.0, max(0.0, at[axis] + sign))
                there = loss(at)
                if there < value:
                    start, value = at, there
                    break
        return start, value

    while step > _LAST_STEP:
        found, value = around(best, least)
        if value >= least:
            step /= 4
        while value < least:
            leap = [min(1.0, max(0.0, 2 * x - y)) for x, y in zip(found, best, strict=True)]
            best, least = found, value
            found, value = around(leap, loss(leap))
    return best


def fit(works: Sequence[Work], seconds: Sequence[float]) -> Mapping[str, float]:
    """The parameters that all these works share, fitted to what they took.

    Minimises the sum of squared logarithms of predicted / measured.
    """
    used = list(dict.fromkeys(at for work in works for at in work.parameters))

    def values(at: Sequence[float]) -> dict[str, float]:
        return {p.name: _scaled(p, x) for p, x in zip(used, at, strict=True)}

    def loss(at: Sequence[float]) -> float:
        now = values(at)
        errors = (
            math.log(work.seconds(now) / took) for work, took in zip(works, seconds, strict=True)
        )
        return sum(error * error for error in errors)

    return values(search(loss, len(used)))


def _scaled(parameter: Parameter, at: float) -> float:
    """``at`` in 0..1 -> low..high."""
    _, _, low, high, log = parameter
    return low * (high / low) ** at if log else low + (high - low) * at


def constant(seconds: Sequence[float]) -> float:
    """The trivial predictor that ignores what was run: the geometric mean of the others."""
    return math.exp(sum(map(math.log, seconds)) / len(seconds))


def line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(a, b) of seconds = a + b bytes, with the least squared relative error; through the origin
    where all sizes are equal."""
    size, took = np.array(sizes), np.array(seconds)
    terms = np.stack([np.ones_like(size), size / size.max()], axis=1) / took[:, None]
    if np.ptp(size) == 0:
        return 0.0, constant(seconds) / float(size[0])
    a, b = np.linalg.lstsq(terms, np.ones_like(took), rcond=None)[0]
    return float(a), float(b / size.max())
