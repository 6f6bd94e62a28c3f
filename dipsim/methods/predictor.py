"""predictor: a small network guesses beforehand which neurons matter (DejaVu, arXiv 2310.17157).

No predictor is trained here. The choice of one is the true choice blurred: noise of standard
deviation sigma is added to the log-scores, and sigma is solved, layer by layer, so that the wanted
share of the right neurons is found (recall). Of recorded sets as many neurons are kept as were
recorded. Its weights, rank (d + f) a layer for two factors, stay in DRAM and count in the density.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError
from dipsim.methods.contract import (
    DEFAULT_DENSITY,
    NEURON,
    Group,
    InfeasibleError,
    Method,
    check_settings,
    scores,
)
from dipsim.model import Model
from dipsim.settings import Settings
from dipsim.trace import Outline, Trace, recording
from dipsim.trace.encoding import unpack_sets

DEFAULT_RECALL = 0.9
_SAMPLE, _SAMPLE_BYTES = 32, 2**24
"""Rows on which sigma is solved, and the most bytes their scores may take."""
_LEAST, _MOST, _ROUNDS = 2.0**-10, 2.0**10, 20
"""Bounds between which sigma is sought, and the number of halvings of the span."""


def predictor(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Choose neurons with noise; at MLP density D the group keeps D less the predictor's share.

    Raises:
        MethodError: no ``glu``, a recall or rank that cannot be, no model to size it by, or D too
            small for the predictor's own weights.
    """
    glu = trace.signals.get("glu")
    recorded = glu is not None and not glu.scored
    units = glu.units if glu is not None and recorded else scores(trace, "glu", "predictor")
    check_settings("predictor", settings, () if recorded else ("glu",))
    recall = DEFAULT_RECALL if settings.recall is None else settings.recall
    if not 0 < recall <= 1:
        raise MethodError(f"recall {recall:g}: a share of the right neurons, above 0, at most 1")
    weights, share = _size(trace, settings, model, units)
    density = DEFAULT_DENSITY if settings.density is None else settings.density
    kept = 1.0 if recorded else settings.group_density.get("glu", density - share)
    if recorded and settings.density is not None:
        raise MethodError("method predictor keeps as many neurons as were recorded: drop --density")
    if kept <= 0:
        raise InfeasibleError("predictor", density, share)
    group = Group("glu", units, NEURON, "predicted", kept, seed=settings.seed)
    group = replace(group, noise=_solve(trace, group, settings.recall))
    return Method(
        "predictor",
        (group,),
        density=None if recorded else kept + share,
        predictor_weights=weights,
    )


def _size(trace: Outline, settings: Settings, model: Model | None, units: int) -> tuple[int, float]:
    """Return the weights of a layer's predictor, and their share of the MLP's."""
    entering = trace.widest("mlp_input") if "mlp_input" in trace.signals else None
    hidden = entering if model is None else model.hidden
    units = trace.widest("glu") if "glu" in trace.signals else units
    if hidden is None:
        raise MethodError(
            f"method predictor is sized by the model, which {trace.name} does not name: "
            "pass --model"
        )
    rank = max(1, hidden // 8) if settings.predictor_rank is None else settings.predictor_rank
    if not 0 <= rank <= hidden:
        raise MethodError(f"predictor rank {rank}: from 0 to the hidden size, {hidden}")
    weights = rank * (hidden + units)
    return weights, weights / (3 * hidden * units)


def noise_of(seed: int, layer: int, row: int, units: int) -> NDArray[np.float64]:
    """Draw standard normal noise, float64[units], for one layer and row of the file."""
    return np.random.default_rng([seed, layer, row]).standard_normal(units)


def blurred(truth: NDArray[Any], sigma: float, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the keys by which a predictor chooses: log-scores, or 1 and 0 of sets, plus noise."""
    if truth.dtype == np.bool_:
        return truth + sigma * noise
    with np.errstate(divide="ignore"):
        return np.log(truth.astype(np.float64)) + sigma * noise


def predicted(
    truth: NDArray[Any], sigma: float, noise: NDArray[np.float64], k: int
) -> NDArray[np.bool_]:
    """Return the neurons a predictor chooses, bool[units].

    They have the k largest keys (`blurred`), ties to the lower id; of recorded sets k is the number
    that was recorded.
    """
    k = int(truth.sum()) if truth.dtype == np.bool_ else k
    chosen = np.zeros(len(truth), np.bool_)
    chosen[np.argsort(-blurred(truth, sigma, noise), kind="stable")[:k]] = True
    return chosen


def _solve(trace: Outline, group: Group, asked: float | None) -> tuple[float, ...]:
    """Solve for the sigma of each layer whose predictions find the wanted share of the right
    neurons."""
    if asked == 1:
        return (0.0,) * trace.layers
    rows, truth = _sample(recording(trace), group)
    sigmas = []
    for layer, units in enumerate(trace.layer_units(group.signal).tolist()):
        own, number = replace(group, units=units), trace.first_layer + layer
        sigmas.append(_sigma(truth[:, layer, :units], rows, number, own, asked) if units else 0.0)
    return tuple(sigmas)


def _sigma(
    truth: NDArray[Any], rows: list[int], layer: int, group: Group, asked: float | None
) -> float:
    """Solve for one layer's sigma.

    Predictions of ``truth``, [rows, units], find the share of the right neurons that was asked for,
    or by default `DEFAULT_RECALL`, unless a blind predictor finds more.

    Raises:
        MethodError: the most blurred predictor still finds more than was asked for.
    """
    recall = DEFAULT_RECALL if asked is None else asked
    noise = np.stack([noise_of(group.seed, layer, row, group.units) for row in rows])
    clear = blurred(truth, 0.0, noise)
    right = np.stack([predicted(row, 0.0, noise[0], group.kept) for row in truth])

    def recalled(sigma: float) -> float:
        keys = clear + sigma * noise
        shares = []
        for key, true in zip(keys, right, strict=True):
            k = int(true.sum())
            cut = np.partition(key, len(key) - k)[len(key) - k] if k else np.inf
            shares.append((true & (key >= cut)).sum() / max(k, 1) if k else 1.0)
        return float(np.mean(shares))

    low, high = _LEAST, _MOST
    if recalled(high) > recall:
        if asked is None:
            return high
        raise MethodError(
            f"recall {recall:g}: the most blurred predictor still finds {recalled(high):.2f} in "
            f"layer {layer}; give more, or a smaller density"
        )
    for _ in range(_ROUNDS):  # sigma counts by its order of magnitude: halve in logarithms
        middle = math.sqrt(low * high)
        if recalled(middle) >= recall:
            low = middle
        else:
            high = middle
    return low


def _sample(trace: Trace, group: Group) -> tuple[list[int], NDArray[Any]]:
    """Return rows of the file, evenly spaced, and their scores or sets [rows, layers, units]."""
    each = 4 * trace.layers * group.units
    count = max(1, min(_SAMPLE, trace.tokens, _SAMPLE_BYTES // each))
    wanted = set(np.linspace(0, trace.tokens - 1, count).astype(int).tolist())
    scored = trace.signals[group.signal].scored
    sample = []
    for start, stop, data in trace.blocks({group.signal: "scores" if scored else "sets"}):
        for row in sorted(wanted & set(range(start, stop))):
            truth = data[group.signal][row - start]
            sample.append(truth.copy() if scored else unpack_sets(truth, group.units))
    return [trace.first + row for row in sorted(wanted)], np.stack(sample)
