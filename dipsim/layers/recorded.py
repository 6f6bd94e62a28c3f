"""Rule `recorded`: the decisions that the trace holds as `layer_mode`."""

from dataclasses import dataclass
from typing import ClassVar

from dipsim.layers.contract import Calibration, LayerError, LayerRule, Schedule


@dataclass(frozen=True)
class Recorded(LayerRule):
    """Takes the modes of a trace as they are, attention and MLP apart."""

    name: ClassVar[str] = "recorded"
    summary: ClassVar[str] = "the decisions that the trace holds (layer_mode)"
    source: ClassVar[str] = "any scorer, e.g. that of DASH, 2025 (arXiv 2505.17420)"

    def fit(self, calibration: Calibration) -> Schedule:
        """Raise: decisions are read, not made anew.

        Raises:
            LayerError: always.
        """
        raise LayerError("layer rule recorded: its decisions are those of a trace with layer_mode")
