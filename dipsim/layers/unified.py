"""Rule `unified`: layers at equal distances are left out, the same for every token."""

from dataclasses import dataclass
from typing import ClassVar

from dipsim.layers.contract import Calibration, LayerRule, Schedule, check_full, check_share
from dipsim.layers.fixed import FixedLayers, count_of, evenly_spread


@dataclass(frozen=True)
class Unified(LayerRule):
    """Skips every so many-th layer."""

    name: ClassVar[str] = "unified"
    summary: ClassVar[str] = "layers at equal distances, the same for all tokens"
    source: ClassVar[str] = "Liu et al., Accelerating Inference by Unified Layer Skipping, 2024"

    share: float = 0.2
    """Share of the layers."""
    layers: str = ""
    """Their number; empty: `share` counts."""
    full: int = 1

    def __post_init__(self) -> None:
        check_share(self.name, "share", self.share)
        check_full(self.name, self.full)

    def fit(self, calibration: Calibration) -> Schedule:
        """Return the layers to skip: the middle of each of as many equal stretches."""
        count = count_of(self.name, self.layers, self.share, calibration.layers)
        return FixedLayers(frozenset(evenly_spread(count, calibration.layers)), self.full)
