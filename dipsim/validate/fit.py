"""Fits of a few bounded parameters to measured times, and the trivial predictors beside them.

All minimise squared relative (or logarithmic) errors over the same cases.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dipsim.validate.work import DeviceParameter, Work

_FIRST_STEP, _LAST_STEP = 0.25, 1e-7


def search(loss: Callable[[Sequence[float]], float], dimensions: int) -> list[float]:
    """Return the point of the unit cube with the least ``loss``.

    It is Hooke and Jeeves' pattern search, from the middle, for smooth losses of one or two
    parameters: try a step along each axis; as long as that helps, leap on in the same direction;
    if it does not, take smaller steps.
    """
    best, step = [0.5] * dimensions, _FIRST_STEP
    least = loss(best)

    def around(start: list[float], value: float) -> tuple[list[float], float]:
        for axis in range(dimensions):
            for change in (step, -step):
                point = list(start)
                point[axis] = min(1.0, max(0.0, point[axis] + change))
                point_loss = loss(point)
                if point_loss < value:
                    start, value = point, point_loss
                    break
        return start, value

    while step > _LAST_STEP:
        better, value = around(best, least)
        if value >= least:
            step /= 4
        while value < least:
            leap = [min(1.0, max(0.0, 2 * x - y)) for x, y in zip(better, best, strict=True)]
            best, least = better, value
            better, value = around(leap, loss(leap))
    return best


def fit(works: Sequence[Work], seconds: Sequence[float]) -> Mapping[str, float]:
    """Fit the parameters that ``works`` share to their measured seconds per token.

    The fit minimises the sum of squared logarithms of predicted / measured.
    """
    used = list(dict.fromkeys(parameter for work in works for parameter in work.parameters))

    def values(point: Sequence[float]) -> dict[str, float]:
        return {p.name: _scaled(p, x) for p, x in zip(used, point, strict=True)}

    def loss(point: Sequence[float]) -> float:
        trial = values(point)
        errors = (
            math.log(work.seconds(trial) / took) for work, took in zip(works, seconds, strict=True)
        )
        return sum(error * error for error in errors)

    return values(search(loss, len(used)))


def _scaled(parameter: DeviceParameter, x: float) -> float:
    """Map x in 0..1 to the parameter's range, low..high."""
    _, _, low, high, log = parameter
    return low * (high / low) ** x if log else low + (high - low) * x


def constant(seconds: Sequence[float]) -> float:
    """Return the geometric mean of other cases: the predictor that ignores the run."""
    return math.exp(sum(map(math.log, seconds)) / len(seconds))


def line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return (a, b) of the line seconds = a + b bytes with the least squared relative error.

    The line goes through the origin if all sizes are equal.
    """
    size, took = np.array(sizes), np.array(seconds)
    terms = np.stack([np.ones_like(size), size / size.max()], axis=1) / took[:, None]
    if np.ptp(size) == 0:
        return 0.0, constant(seconds) / float(size[0])
    a, b = np.linalg.lstsq(terms, np.ones_like(took), rcond=None)[0]
    return float(a), float(b / size.max())
