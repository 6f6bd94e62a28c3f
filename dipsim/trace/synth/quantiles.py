"""Quantiles of one distribution mapped to those of another."""

import numpy as np
from numpy.typing import NDArray

from dipsim.kernels.synthetic import add_pieces

_PLACES = 4096
_STEEPEST = 1e300


class QuantileMap:
    """Values moved as ``values + np.interp(values, model, source - model)`` says, bit for bit.

    Args:
        model: float64[n] quantiles, ascending.
        source: float64[n], those that replace them.
    """

    def __init__(self, model: NDArray[np.float64], source: NDArray[np.float64]) -> None:
        shift = source - model
        width, flat = np.diff(model), np.zeros(1)
        slopes = np.divide(np.diff(shift), width, out=np.zeros(len(width)), where=width > 0)
        span = float(model[-1] - model[0])
        scale = min(_PLACES / span, _STEEPEST) if span > 0 else 0.0
        places = np.minimum((model - model[0]) * scale, _PLACES - 1).astype(np.int64)
        self._tables = (
            np.append(model, np.nan),
            np.append(model[:1], model),
            np.concatenate((flat, slopes, flat)),
            np.append(shift[:1], shift),
            np.searchsorted(places, np.arange(_PLACES)).astype(np.uint16),
            float(model[0]),
            scale,
        )

    def move(self, values: NDArray[np.float32]) -> None:
        """Move values, [rows, n], in place; those beyond the outermost quantiles as these."""
        add_pieces(values, *self._tables)
