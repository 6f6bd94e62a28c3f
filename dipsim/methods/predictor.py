"""predictor: a small network guesses beforehand which neurons matter (DejaVu, arXiv 2310.17157).

No predictor is trained here. What one would choose is the true choice blurred: noise of standard
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
from dipsim.trace import Trace
from dipsim.trace.encoding import unpack_sets

DEFAULT_RECALL = 0.9
_SAMPLE, _SAMPLE_BYTES = 32, 2**24
"""Rows on which sigma is solved, and how many bytes of scores they may take."""
_LEAST, _MOST, _ROUNDS = 2.0**-10, 2.0**10, 20
"""Between which sigma is sought, and how often the span is halved."""


def predictor(trace: Trace, settings: Settings, model: Model | None) -> Method:
    """A noisy choice of neurons; at MLP density D the group keeps D less the predictor's share.

    Raises:
        MethodError: no ``glu``, a recall or rank that cannot be, no model to size it by, or D too
            small for the predictor's own weights.
    """
    there = trace.signals.get("glu")
    recorded = there is not None and not there.scored
    units = there.units if there is not None and recorded else scores(trace, "glu", "predictor")
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


def _size(trace: Trace, settings: Settings, model: Model | None, units: int) -> tuple[int, float]:
    """Weights of a layer's predictor, and their share of the MLP's."""
    entering = trace.signals.get("mlp_input")
    hidden = model.hidden if model is not None else entering.units if entering is not None else None
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
    """float64[units], standard normal: one draw per layer and row of the file."""
    return np.random.default_rng([seed, layer, row]).standard_normal(units)


def blurred(truth: NDArray[Any], sigma: float, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a predictor sees: log-scores, or of sets 1 and 0, plus noise."""
    if truth.dtype == np.bool_:
        return truth + sigma * noise
    with np.errstate(divide="ignore"):
        return np.log(truth.astype(np.float64)) + sigma * noise


def predicted(
    truth: NDArray[Any], sigma: float, noise: NDArray[np.float64], k: int
) -> NDArray[np.bool_]:
    """The neurons a predictor chooses: the k largest of what it sees, ties to the lower id; of
    recorded sets as many as were recorded."""
    k = int(truth.sum()) if truth.dtype == np.bool_ else k
    found = np.zeros(len(truth), np.bool_)
    found[np.argsort(-blurred(truth, sigma, noise), kind="stable")[:k]] = True
    return found


def _solve(trace: Trace, group: Group, asked: float | None) -> tuple[float, ...]:
    """Per layer the sigma whose predictions find the wanted share of the right neurons."""
    if asked == 1:
        return (0.0,) * trace.layers
    rows, truth = _sample(trace, group)
    return tuple(
        _sigma(truth[:, layer], rows, trace.first_layer + layer, group, asked)
        for layer in range(trace.layers)
    )


def _sigma(
    truth: NDArray[Any], rows: list[int], layer: int, group: Group, asked: float | None
) -> float:
    """The blur at which predictions of [rows, units] find the share of the right neurons that was
    asked for, or by default as much as is usual, if a blind predictor does not find more."""
    recall = DEFAULT_RECALL if asked is None else asked
    noise = np.stack([noise_of(group.seed, layer, row, group.units) for row in rows])
    clear = blurred(truth, 0.0, noise)
    right = np.stack([predicted(at, 0.0, noise[0], group.kept) for at in truth])

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
    """Rows of the file, evenly spaced, and their scores or sets [rows, layers, units]."""
    each = 4 * trace.layers * group.units
    count = max(1, min(_SAMPLE, trace.tokens, _SAMPLE_BYTES // each))
    wanted = set(np.linspace(0, trace.tokens - 1, count).astype(int).tolist())
    scored = trace.signals[group.signal].scored
    found = []
    for start, stop, data in trace.blocks({group.signal: "scores" if scored else "sets"}):
        for row in sorted(wanted & set(range(start, stop))):
            here = data[group.signal][row - start]
            found.append(here.copy() if scored else unpack_sets(here, group.units))
    return [trace.first + row for row in sorted(wanted)], np.stack(found)
