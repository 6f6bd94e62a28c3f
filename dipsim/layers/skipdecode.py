"""Rule `skipdecode`: the lowest layers behind the first are left out, more of them the later."""

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
    whole_modes,
)
from dipsim.trace import Tokens


@dataclass(frozen=True)
class SkipDecode(LayerRule):
    """Skips lower layers, their number growing linearly with the position.

    At the first position ``most`` of the layers run, at the last ``least``; layers below ``behind``
    always do.
    """

    name: ClassVar[str] = "skipdecode"
    summary: ClassVar[str] = "the lowest layers behind the first, more of them the later the token"
    source: ClassVar[str] = "Del Corro et al., SkipDecode, 2023 (arXiv 2307.02628)"

    share: float = 0.2
    """Mean share of the layers that is skipped; `least` follows from it."""
    most: float = 1.0
    """Share of the layers that runs at the first position."""
    length: int = 0
    """Positions over which it falls; 0: the longest sequence of calibration."""
    behind: int = 1
    full: int = 1

    def __post_init__(self) -> None:
        check_share(self.name, "share", self.share)
        check_share(self.name, "most", self.most)
        check_full(self.name, self.full)
        if self.share and not 0 <= 2 * (1 - self.share) - self.most <= self.most:
            raise LayerError(
                f"layer rule {self.name}: share={self.share:g} with most={self.most:g}: the layers "
                "that run fall from most to 2 (1 - share) - most, which must lie in 0..most"
            )
        if self.length < 0 or self.behind < 0:
            raise LayerError(f"layer rule {self.name}: length and behind are 0 or more")

    def fit(self, calibration: Calibration) -> Schedule:
        """Return the schedule of a model with so many layers."""
        length = self.length or int(calibration.rows.position.max()) + 1
        least = 2 * (1 - self.share) - self.most if self.share else 1.0
        most = self.most if self.share else 1.0
        return _FewerLater(calibration.layers, most, least, length, self.behind, self.full)


@dataclass(frozen=True)
class _FewerLater(Schedule):
    layers: int
    most: float
    least: float
    length: int
    behind: int
    full: int

    def layer(self, layer: int, rows: Tokens, cosine: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return uint8[tokens], by their positions."""
        place = np.minimum(rows.position, self.length - 1) / max(1, self.length - 1)
        running = np.rint(self.layers * (self.most + (self.least - self.most) * place))
        skipped = np.minimum(self.layers - running, self.layers - self.behind)
        skip = (layer >= self.behind) & (layer - self.behind < skipped)
        return whole_modes(skip)
