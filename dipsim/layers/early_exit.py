"""Rule `early-exit`: all layers behind one are left out, the same for all tokens or by token."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dipsim.layers.contract import (
    Calibration,
    LayerError,
    LayerRule,
    Schedule,
    check_full,
    check_share,
    threshold,
    whole_modes,
)
from dipsim.layers.fixed import FixedLayers, count_of
from dipsim.trace import Tokens


@dataclass(frozen=True)
class EarlyExit(LayerRule):
    """Skips the layers behind an exit: a fixed one, or where a token's state hardly moves any more.

    By ``saturation`` a token leaves behind the first layer, from ``behind`` on, whose cos(input,
    output) exceeds a threshold, which is solved for the wanted share.
    """

    name: ClassVar[str] = "early-exit"
    summary: ClassVar[str] = "all layers behind one: a fixed one, or where the state is saturated"
    source: ClassVar[str] = "Schuster et al., CALM, 2022 (arXiv 2207.07061): state saturation"

    share: float = 0.2
    """Share of the layers; by saturation, of those of all tokens."""
    layers: str = ""
    """Number of layers left out (by fixed); empty: `share` counts."""
    by: str = "fixed"
    behind: int = 1
    """Layers that every token runs (by saturation)."""
    full: int = 1

    def __post_init__(self) -> None:
        check_share(self.name, "share", self.share)
        check_full(self.name, self.full)
        if self.by not in ("fixed", "saturation"):
            raise LayerError(f"layer rule {self.name}: by={self.by}: give fixed or saturation")
        if self.by == "saturation" and (self.layers or self.behind < 1):
            raise LayerError(
                f"layer rule {self.name}: by=saturation takes share, and behind from 1 on"
            )

    @property
    def reads_states(self) -> bool:
        """True by saturation."""
        return self.by == "saturation"

    def fit(self, calibration: Calibration) -> Schedule:
        """Return the exit, or the threshold that gives the wanted share.

        Raises:
            LayerError: a share that no threshold gives, since some layers always run.
        """
        known = calibration.layers
        if self.by == "fixed":
            count = count_of(self.name, self.layers, self.share, known)
            return FixedLayers(frozenset(range(known - count, known)), self.full)
        assert calibration.cosine is not None, "the rule reads states"
        most = max(0, known - self.behind) / known
        if self.share > most:
            raise LayerError(
                f"layer rule {self.name}: share={self.share:g}: at most {most:.3g} of the layers "
                f"lie behind the first {self.behind}"
            )
        others = calibration.cosine[~calibration.exempt(self.full)]
        if len(others) == 0:
            raise LayerError(f"full={self.full}: exempts all tokens of calibration")
        scores = [saturation(others, layer, self.behind) for layer in range(known)]
        return _Saturated(threshold(np.concatenate(scores), self.share), self.behind, self.full)


@dataclass(frozen=True)
class _Saturated(Schedule):
    tau: float
    behind: int
    full: int

    def layer(self, layer: int, rows: Tokens, cosine: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return uint8[tokens], by the largest cosine of the layers before."""
        skip = saturation(cosine, layer, self.behind) > self.tau
        return whole_modes(skip)


def saturation(cosine: NDArray[np.float32], layer: int, behind: int) -> NDArray[np.float32]:
    """Return the largest cosine at which a token may have left before a layer, float32[tokens].

    Args:
        cosine: float32[tokens, layers].
        layer: number of the layer.
        behind: layers that every token runs; it may leave behind the last of them.
    """
    if layer < behind:
        return np.full(len(cosine), -np.inf, np.float32)
    largest: NDArray[np.float32] = cosine[:, behind - 1 : layer].max(axis=1)
    return largest
