"""Storage of weights: the parts of a model that may be stored differently, and its slices."""

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_BITS = 4.5
NORM_BITS = 16.0  # of norms, unless a file says otherwise
Count = Annotated[int, Field(ge=1, le=2**16, strict=True)]
"""Layers, heads, experts, and what is counted with them."""
Width = Annotated[int, Field(ge=1, le=2**26, strict=True)]
"""Units of a vector, words of a vocabulary."""
WidthOrNone = Annotated[int, Field(ge=0, le=2**26, strict=True)]
"""Units of an MLP that may be missing."""
Positions = Annotated[int, Field(ge=1, le=2**40, strict=True)]
Weights = Annotated[int, Field(ge=0, le=2**44, strict=True)]
"""Number of weights."""
Bits = Annotated[float, Field(ge=0.01, le=32)]
"""Bits per weight, or per key or value."""
Matrix = Literal["gate", "up", "down", "q", "k", "v", "o"]
MATRICES: tuple[Matrix, ...] = ("gate", "up", "down")
"""Matrices of a gated MLP; a plain one has no gate."""
ATTENTION: tuple[Matrix, ...] = ("q", "k", "v", "o")
INDEX_BITS = 2  # per weight that 2:4 pruning keeps: its place among the four
Part = Literal[
    "gate", "up", "down", "attention", "router", "shared", "norm", "head", "embedding", "other"
]
"""Parts of a model that a file may store differently."""
PRUNED: frozenset[Part] = frozenset(("gate", "up", "down", "shared"))
"""Parts that 2:4 pruning thins out."""


class Slice(NamedTuple):
    """A row (one output) or a column (one input) of a matrix of one layer."""

    matrix: Matrix
    part: Literal["row", "column"]


class Quant(BaseModel):
    """The storage of quantised weights.

    ``axis`` is the direction in which the ``group`` weights that share a scale lie: ``in`` (along
    a row: GPTQ, AWQ, GGUF), ``out`` (along a column), ``channel`` (one scale per output row).
    ``bits`` are those of a weight without scales; ``scale_bytes`` and ``zero_bytes`` are per group.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = Field(min_length=1)
    bits: Bits = Field(strict=True)
    group: Count = 32
    axis: Literal["in", "out", "channel"] = "in"
    scale_bytes: float = Field(default=2, ge=0, le=64)
    zero_bytes: float = Field(default=0, ge=0, le=16)

    @property
    def scale_per_weight(self) -> float:
        """Bytes of scales and zero points per weight; 0 for ``channel``, which has them per row."""
        return 0.0 if self.axis == "channel" else (self.scale_bytes + self.zero_bytes) / self.group


Storage = Bits | Quant
"""Bits per weight with all scales, or weights and scales apart."""
