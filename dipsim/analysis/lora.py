"""Figures of an adapter: the part of the masks' loss that it recovers. `dipsim.lm` measures it."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recovery:
    """Figures of an adapter on text it was not trained on, and the cost of its training.

    ``dense``, ``sparse``, ``adapted`` (sparse, with the adapter) and ``masks_off`` (dense, with the
    adapter) are perplexities.
    """

    model: str
    dense: float
    sparse: float
    adapted: float
    masks_off: float
    judged_tokens: int
    trained_tokens: int
    steps: int
    cpu_minutes: float
    """Processor time of the training, over all cores."""
    wall_minutes: float
    adapter_parameters: int
    adapter_bytes: int
    """Bytes of the adapter's weights in its folder; a fused one takes none."""
    model_bytes: int
    """Bytes of all weights of the model, in float32 like the adapter."""

    @property
    def recovered(self) -> float | None:
        """Share of the lost log-perplexity that the adapter recovers; None if none was lost."""
        lost = math.log(self.sparse) - math.log(self.dense)
        return (math.log(self.sparse) - math.log(self.adapted)) / lost if lost > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "recovered": self.recovered}
