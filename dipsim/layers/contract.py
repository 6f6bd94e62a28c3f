"""The contract of rules that skip layers: fit to calibration tokens, then decide layer by layer.

Rules come in two steps, because a threshold is solved on one text and used on another:
`LayerRule.fit` gives a `Schedule`, and that gives the mode of every token in a layer. A trace and a
running model ask the same schedule, one for all layers, the other layer by layer.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError
from dipsim.trace import Tokens, Trace
from dipsim.trace.decisions import FULL, PARTIAL, SKIP
from dipsim.views import shortened

COSINE = 4  # of the six figures of layer_io, that of the whole layer
SHARE_SLACK = 1e-9


class LayerError(DipsimError):
    """A rule that skips layers, or its parameters, cannot be used."""


def pack(attention: Any, mlp: Any) -> Any:
    """Return the mode of a layer, attention + 4 x MLP, each 0 skip, 1 partial, 2 full."""
    return attention + 4 * mlp


WHOLE = {mode: pack(mode, mode) for mode in (SKIP, PARTIAL, FULL)}
"""Modes of layers whose attention and MLP go together."""


def whole_modes(skip: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the modes of layers that are skipped whole or run in full, uint8 of the same shape."""
    modes: NDArray[np.uint8] = np.where(skip, WHOLE[SKIP], WHOLE[FULL]).astype(np.uint8)
    return modes


@dataclass(frozen=True)
class Calibration:
    """Tokens that a rule is fitted to."""

    layers: int
    rows: Tokens
    cosine: NDArray[np.float32] | None = None
    """float32[tokens, layers] cos(input, output) of each layer; None where the rule needs none."""

    __repr__ = shortened

    def exempt(self, full: int) -> NDArray[np.bool_]:
        """[tokens] whether a token is one of the first ``full`` of its sequence."""
        exempt: NDArray[np.bool_] = self.rows.position < full
        return exempt

    def mean_cosine(self, full: int) -> NDArray[np.float64]:
        """float64[layers] mean of cos(input, output) over the tokens that are not exempt.

        1 - mean is the influence of a layer (Men et al., ShortGPT, 2024).

        Raises:
            LayerError: all tokens are exempt.
        """
        assert self.cosine is not None, "the rule needs it"
        others = self.cosine[~self.exempt(full)]
        if len(others) == 0:
            raise LayerError(f"full={full}: exempts all {len(self.rows)} tokens of calibration")
        mean: NDArray[np.float64] = others.mean(axis=0, dtype=np.float64)
        return mean


class Schedule(ABC):
    """A rule that is fitted: gives the modes of tokens, layer by layer."""

    ahead: ClassVar[bool] = True
    """True if a layer's modes follow from the layers before it, so that they are known before it
    runs."""

    full: int
    """Number of tokens of each sequence, from its beginning, that run fully."""

    @abstractmethod
    def layer(self, layer: int, rows: Tokens, cosine: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return uint8[tokens], the mode of each token in a layer.

        Args:
            layer: number of the layer, from 0.
            rows: the tokens; their positions count from the beginning of their sequences.
            cosine: float32[tokens, layers] cos(input, output); of the layers before this one, and
                of this one too where the modes are not known ahead.
        """


@dataclass(frozen=True)
class LayerRule(ABC):
    """A rule that skips layers, with its parameters as fields."""

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    """Paper that the rule is of."""

    @property
    def reads_states(self) -> bool:
        """True if it needs ``layer_io`` of the tokens that it decides for."""
        return False

    @property
    def calibrates(self) -> bool:
        """True if it needs ``layer_io`` of the tokens that it is fitted to."""
        return self.reads_states

    @abstractmethod
    def fit(self, calibration: Calibration) -> Schedule:
        """Return the rule fitted to some tokens.

        Raises:
            LayerError: parameters that such a model or text does not allow.
        """


def calibration_of(rule: LayerRule, trace: Trace) -> Calibration:
    """Return the tokens of a trace as a rule is fitted to them.

    Raises:
        TraceError: the rule looks at states, and the trace holds no ``layer_io``.
    """
    cosine = None
    if rule.calibrates:
        cosine = np.ascontiguousarray(trace.vectors("layer_io").read()[..., COSINE])
    return Calibration(trace.layers, trace.rows, cosine)


def modes_of(
    schedule: Schedule, rows: Tokens, layers: int, cosine: NDArray[np.float32] | None
) -> NDArray[np.uint8]:
    """Return the modes of tokens in all layers, uint8[tokens, layers].

    Args:
        schedule: a rule that was fitted.
        rows: the tokens.
        layers: number of layers.
        cosine: float32[tokens, layers]; None for a schedule that looks at none.
    """
    known = np.zeros((len(rows), layers), np.float32) if cosine is None else cosine
    modes = np.stack([schedule.layer(layer, rows, known) for layer in range(layers)], axis=1)
    modes[rows.position < schedule.full] = WHOLE[FULL]
    return modes


def threshold(values: NDArray[np.floating[Any]], share: float) -> float:
    """Return the least threshold that at most a share of the values lie above.

    Args:
        values: float[n].
        share: 0 to 1; the count is floor(share x n).
    """
    count = int(share * values.size + SHARE_SLACK)
    if count == 0:
        return float("inf")
    if count >= values.size:
        return float("-inf")
    return float(np.partition(values, values.size - count - 1)[values.size - count - 1])


def check_share(rule: str, name: str, value: float, most: float = 1.0) -> None:
    """Refuse a share that is none.

    Raises:
        LayerError: outside 0..most.
    """
    if not 0 <= value <= most:
        raise LayerError(f"layer rule {rule}: {name}={value:g} is outside 0..{most:g}")


def check_full(rule: str, full: int) -> None:
    """Refuse a negative number of tokens that run fully.

    Raises:
        LayerError: it is below 0.
    """
    if full < 0:
        raise LayerError(f"layer rule {rule}: full={full} is below 0")
