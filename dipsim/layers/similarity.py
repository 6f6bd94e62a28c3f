"""Rule `similarity`: a token skips the layers whose output resembles their input."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dipsim.layers.contract import (
    SHARE_SLACK,
    WHOLE,
    Calibration,
    LayerError,
    LayerRule,
    Schedule,
    check_full,
    check_share,
    threshold,
)
from dipsim.layers.fixed import FixedLayers
from dipsim.trace import Tokens
from dipsim.trace.decisions import FULL, PARTIAL, SKIP


@dataclass(frozen=True)
class Similarity(LayerRule):
    """Skips a layer where cos(input, output) exceeds tau, and runs it partially from tau' on.

    The cosine is that of the token itself (``oracle``: known only once the layer has run, an upper
    end), of the token before (``previous``), or the mean of calibration (``calibrated``). What a
    trained scorer is worth (DASH) lies between previous and oracle.
    """

    name: ClassVar[str] = "similarity"
    summary: ClassVar[str] = "layers whose output resembles their input, token by token"
    source: ClassVar[str] = "the signal of DASH, 2025 (arXiv 2505.17420), without its training"

    share: float = 0.2
    """Share of (token, layer) that is skipped on the tokens of calibration."""
    partial: float = 0.0
    """Share that runs with partial weights."""
    by: str = "oracle"
    full: int = 1

    def __post_init__(self) -> None:
        check_share(self.name, "share", self.share)
        check_share(self.name, "partial", self.partial)
        check_share(self.name, "share + partial", self.share + self.partial, 1 + SHARE_SLACK)
        check_full(self.name, self.full)
        if self.by not in ("oracle", "previous", "calibrated"):
            raise LayerError(
                f"layer rule {self.name}: by={self.by}: give oracle, previous or calibrated"
            )

    @property
    def reads_states(self) -> bool:
        """True but for ``calibrated``, which knows means alone."""
        return self.by != "calibrated"

    @property
    def calibrates(self) -> bool:
        """True always."""
        return True

    def fit(self, calibration: Calibration) -> Schedule:
        """Return the thresholds that give the wanted shares; ``calibrated`` gives layers.

        Raises:
            LayerError: no token of calibration is judged.
        """
        if self.by == "calibrated":
            order = np.argsort(-calibration.mean_cosine(self.full), kind="stable").tolist()
            skipped = int(self.share * len(order) + SHARE_SLACK)
            reduced = int((self.share + self.partial) * len(order) + SHARE_SLACK)
            return FixedLayers(
                frozenset(order[:skipped]), self.full, frozenset(order[skipped:reduced])
            )
        assert calibration.cosine is not None, "the rule reads states"
        scores = calibration.cosine
        if self.by == "previous":
            scores = before(scores, calibration.rows, self.full)
        judged = scores[~calibration.exempt(self.full)].ravel()
        if judged.size == 0:
            raise LayerError(f"full={self.full}: exempts all tokens of calibration")
        tau = threshold(judged, self.share)
        tau_partial = threshold(judged, self.share + self.partial)
        kind = _Before if self.by == "previous" else _Itself
        return kind(tau, tau_partial, self.full)


@dataclass(frozen=True)
class _Itself(Schedule):
    ahead: ClassVar[bool] = False
    tau: float
    tau_partial: float
    full: int

    def layer(self, layer: int, rows: Tokens, cosine: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return uint8[tokens], by the cosine of each token in this layer."""
        return self._modes(cosine[:, layer])

    def _modes(self, scores: NDArray[np.float32]) -> NDArray[np.uint8]:
        modes = np.where(scores > self.tau_partial, WHOLE[PARTIAL], WHOLE[FULL])
        decided: NDArray[np.uint8] = np.where(scores > self.tau, WHOLE[SKIP], modes).astype(
            np.uint8
        )
        return decided


@dataclass(frozen=True)
class _Before(_Itself):
    def layer(self, layer: int, rows: Tokens, cosine: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return uint8[tokens], by the cosine of the token before each in this layer."""
        return self._modes(before(cosine[:, layer], rows, self.full))


def before(scores: NDArray[np.float32], rows: Tokens, full: int) -> NDArray[np.float32]:
    """Return the scores of the token before each, float32[tokens, ...].

    -inf where there is none, or where it is one of the first ``full``: the state of a sequence's
    first token hardly moves in most layers, which says nothing of the second.
    """
    shifted = np.full_like(scores, -np.inf)
    shifted[1:] = scores[:-1]
    shifted[rows.begins_sequence()] = -np.inf
    shifted[1:][rows.position[:-1] < full] = -np.inf
    return shifted
