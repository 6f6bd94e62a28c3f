"""Rule `drop`: the layers of the least influence are left out for every token."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dipsim.layers.contract import Calibration, LayerRule, Schedule, check_full, check_share
from dipsim.layers.fixed import FixedLayers, count_of, listed


@dataclass(frozen=True)
class Drop(LayerRule):
    """Skips the layers whose influence, 1 - mean cos(input, output), is least."""

    name: ClassVar[str] = "drop"
    summary: ClassVar[str] = "the layers of least influence, or those named, for all tokens"
    source: ClassVar[str] = "Men et al., ShortGPT, 2024 (arXiv 2403.03853)"

    share: float = 0.2
    """Share of the layers."""
    layers: str = ""
    """Their number (``6``), or which they are (``21-29``, ``3+7+9``); empty: `share` counts."""
    full: int = 1

    def __post_init__(self) -> None:
        check_share(self.name, "share", self.share)
        check_full(self.name, self.full)

    @property
    def _named(self) -> bool:
        return "-" in self.layers or "+" in self.layers

    @property
    def calibrates(self) -> bool:
        """True but for layers that are named."""
        return not self._named

    def fit(self, calibration: Calibration) -> Schedule:
        """Return the layers to skip; of equal influence the lower ones."""
        known = calibration.layers
        if self._named:
            return FixedLayers(listed(self.name, self.layers, known), self.full)
        count = count_of(self.name, self.layers, self.share, known)
        order = np.argsort(-calibration.mean_cosine(self.full), kind="stable")
        return FixedLayers(frozenset(order[:count].tolist()), self.full)
