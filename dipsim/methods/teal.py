"""teal: thresholds on the inputs of all matrices that the trace has, attention's too.

TEAL, arXiv 2408.14690.

A column is used when abs(x) exceeds the threshold of its layer. TEAL divides the sparsity between
matrices greedily: whichever loses least is made sparser by a step, until the layer is as sparse as
wanted. It measures the error of the layer's output, for which one needs the model; here the lost
share of the input's energy stands for it. q, k and v share an input and therefore a threshold.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError
from dipsim.methods.contract import (
    COLUMN_OF_DOWN,
    COLUMN_OF_GATE_AND_UP,
    DEFAULT_DENSITY,
    Group,
    Method,
    check_settings,
)
from dipsim.methods.thresholds import SortedScores
from dipsim.model import MATRICES, Model, Slice
from dipsim.settings import Settings
from dipsim.trace import Outline

SLICES = {
    "attn_input": tuple(Slice(matrix, "column") for matrix in ("q", "k", "v")),
    "attn_output": (Slice("o", "column"),),
    "mlp_input": COLUMN_OF_GATE_AND_UP,
    "glu": COLUMN_OF_DOWN,
}
SPLITS = ("greedy", "equal")
STEP = 0.01
"""Share of the layer's weights that a step of the greedy division prunes."""
MOST = 0.99
"""Largest sparsity of a matrix under the greedy division."""


def teal(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Return one group per recorded input, with thresholds at MLP-and-attention density D.

    Raises:
        MethodError: the trace holds none of the inputs as scores, no calibration tokens, or no
            model although the sizes of matrices are needed (greedy).
    """
    units_of = {
        name: trace.signals[name].units
        for name in SLICES
        if name in trace.signals and trace.signals[name].scored
    }
    if not units_of:
        raise MethodError(
            f"method teal needs scores of {', '.join(SLICES)}, of which {trace.name} holds none"
        )
    check_settings("teal", settings, tuple(units_of))
    split = settings.split or ("equal" if settings.group_density else "greedy")
    if split not in SPLITS or (split == "greedy" and settings.group_density):
        raise MethodError(f"split {split!r}: teal has greedy or equal, or --group-density")
    density = DEFAULT_DENSITY if settings.density is None else settings.density
    groups = [
        Group(name, units, SLICES[name], "threshold", settings.group_density.get(name, density))
        for name, units in units_of.items()
    ]
    calibrations = [
        SortedScores(trace, settings.calibrate_tokens, "teal", group) for group in groups
    ]
    kept = np.array([[group.density for group in groups]] * trace.layers)
    if split == "greedy" and len(groups) > 1:
        weights = _weights(units_of, model, trace)
        kept = np.stack(
            [
                1 - divide([scores.lost(layer) for scores in calibrations], weights, 1 - density)
                for layer in range(trace.layers)
            ]
        )
    groups = [
        replace(
            group,
            density=float(kept[:, i].mean()),
            thresholds=tuple(
                scores.threshold(layer, float(kept[layer, i])) for layer in range(trace.layers)
            ),
        )
        for i, (group, scores) in enumerate(zip(groups, calibrations, strict=True))
    ]
    share = _weights(units_of, model, trace) if len(groups) > 1 and model is not None else None
    mean = float(np.average(kept.mean(axis=0), weights=share))
    pruned = {slice_.matrix for group in groups for slice_ in group.slices}
    dense = tuple(matrix for matrix in MATRICES if matrix not in pruned)
    return Method("teal", tuple(groups), dense=dense, density=mean)


def _weights(units_of: dict[str, int], model: Model | None, trace: Outline) -> NDArray[np.float64]:
    """Return each group's share of the weights of a layer that are pruned, float64[groups]."""
    if model is None:
        raise MethodError(
            f"--split greedy weighs matrices by size, but {trace.name} does not say which model "
            "it is from: pass --model, or --split equal"
        )
    sizes = [
        trace.widest(name) * sum(model.slice_weights(slice_) for slice_ in SLICES[name])
        for name in units_of
    ]
    return np.array(sizes, np.float64) / sum(sizes)


def divide(
    lost: list[NDArray[np.float64]], weights: NDArray[np.float64], sparsity: float
) -> NDArray[np.float64]:
    """Divide a sparsity between groups so that their weighted mean is as wanted; float64[groups].

    Args:
        lost: per group float64[n + 1], the energy lost when the i lowest scores are dropped.
        weights: float64[groups], shares of the layer's weights.
    """
    sparse = np.zeros(len(lost))
    while (left := sparsity - float(weights @ sparse)) > 1e-12:
        tried = np.minimum(sparse + min(STEP, left) / weights, MOST)
        losses = [
            curve[int(p * (len(curve) - 1) + 1e-9)] if p > s else np.inf
            for curve, p, s in zip(lost, tried, sparse, strict=True)
        ]
        if not np.isfinite(min(losses)):
            break
        cheapest = int(np.argmin(losses))
        sparse[cheapest] = tried[cheapest]
    return sparse
