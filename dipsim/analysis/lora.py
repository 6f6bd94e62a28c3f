"""What an adapter brought back of what masks cost; measuring is `dipsim.lm`."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recovery:
    """An adapter judged on text it was not trained on, and what it took.

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
    """Of training, over all cores."""
    wall_minutes: float
    adapter_parameters: int
    adapter_bytes: int
    """Kept apart, as its folder holds it; fused it takes none."""
    model_bytes: int
    """Of all weights, in float32 as the adapter is."""

    @property
    def recovered(self) -> float | None:
        """Share of the log-perplexity lost that is there again; None where none was lost."""
        lost = math.log(self.sparse) - math.log(self.dense)
        return (math.log(self.sparse) - math.log(self.adapted)) / lost if lost > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "recovered": self.recovered}
