"""Thresholds from calibration tokens: a unit is active when its score exceeds the layer's.

CATS and TEAL choose so, and the code of DIP's authors can in place of top-k. Of all calibration
scores of a layer the lowest 1 - density are dropped; the threshold is the largest of them.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError
from dipsim.methods.contract import Group
from dipsim.trace import Outline, recording

_HELD = 2**28
"""Bytes of calibration scores that are held at a time."""


class SortedScores:
    """Calibration scores of one group: float32[layers, n], each layer ascending.

    Raises:
        MethodError: no calibration tokens, or too many.
    """

    def __init__(self, trace: Outline, rows: str | None, method: str, group: Group) -> None:
        if rows is None:
            raise MethodError(
                f"method {method} is calibrated on tokens that are not measured: give "
                f"--calibrate-tokens A:B, e.g. 0:{max(1, trace.tokens // 4)}"
            )
        part = recording(trace).window(*trace.calibration_rows(rows))
        signal = part.signals[group.signal]
        each = 4 * trace.layers * signal.units
        if part.tokens > _HELD // each:
            raise MethodError(
                f"--calibrate-tokens {rows}: {part.tokens} tokens of {group.signal} are more than "
                f"is held at a time; give at most {max(1, _HELD // each)}"
            )
        blocks = signal.values(
            part.first, part.first + part.tokens, part.block_size((signal.name,))
        )
        scores = np.concatenate(list(blocks))
        self.scores: NDArray[np.float32] = scores.transpose(1, 0, 2).reshape(trace.layers, -1)
        self.scores.sort(axis=1)
        counts = trace.layer_units(group.signal) * part.tokens
        self._begin = self.scores.shape[1] - counts
        """[layers] where each layer's own scores begin: units that it has not have score 0."""

    def threshold(self, layer: int, density: float) -> float:
        """Return the score above which a share ``density`` of a layer lies; -1 keeps all."""
        own = self.scores[layer, self._begin[layer] :]
        dropped = math.floor((1 - density) * len(own) + 1e-9)
        return float(own[dropped - 1]) if dropped else -1.0

    def lost(self, layer: int) -> NDArray[np.float64]:
        """Return the share of the energy that the i lowest scores hold, float64[n + 1]."""
        own = self.scores[layer, self._begin[layer] :]
        energy = np.cumsum(np.square(own, dtype=np.float64))
        total = energy[-1] if len(energy) and energy[-1] > 0 else 1.0
        return np.concatenate([[0.0], energy / total])


def most_rows(trace: Outline) -> int:
    """Return how many rows of the largest signal are held at a time."""
    widths = [4 * trace.layers * signal.units for signal in trace.signals.values()]
    return _HELD // max(widths, default=4 * trace.layers)


def with_thresholds(
    trace: Outline, rows: str | None, method: str, groups: Sequence[Group]
) -> tuple[Group, ...]:
    """Return the groups with thresholds, each layer at the group's density.

    Raises:
        MethodError: no calibration tokens, or too many.
        TraceError: not rows of the trace.
    """
    calibrated = []
    for group in groups:
        scores = SortedScores(trace, rows, method, group)
        each = tuple(scores.threshold(layer, group.density) for layer in range(trace.layers))
        calibrated.append(replace(group, choice="threshold", thresholds=each))
    return tuple(calibrated)
