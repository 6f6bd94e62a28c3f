"""Weights of a model: its geometry, and the bytes of every matrix, row and column as stored.

Nothing here knows a device or a cache. Weights are counted in bytes as stored: ``bits`` per weight
plus, with ``quant``, the scales. Which scales travel with a loaded slice and which must stay in
DRAM depends on the axis they lie along, so a slice's bytes (`Model.slice_bytes`) and the scales
left behind (`Model.static_scale_bytes`) are two functions.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dipsim.errors import brief
from dipsim.units import BYTES

DEFAULT_BITS = 4.5
NORM_BYTES = 2  # every format dipsim knows keeps norms in 16 bits
Count = Annotated[int, Field(ge=1, le=2**16, strict=True)]
"""Layers, heads, experts, and what is counted with them."""
Width = Annotated[int, Field(ge=1, le=2**26, strict=True)]
"""Units of a vector, words of a vocabulary."""
Positions = Annotated[int, Field(ge=1, le=2**40, strict=True)]
Bits = Annotated[float, Field(ge=0.01, le=32)]
"""Bits per weight, or per key or value."""
MOST_BYTES = 2.0**43
"""Bytes of the largest model that is believed: sums of its units' bytes, in 2**-10, are exact."""
Matrix = Literal["gate", "up", "down", "q", "k", "v", "o"]
MATRICES: tuple[Matrix, ...] = ("gate", "up", "down")
"""Matrices of a gated MLP; a plain one has no gate."""
ATTENTION: tuple[Matrix, ...] = ("q", "k", "v", "o")
INDEX_BITS = 2  # per weight that 2:4 pruning keeps: its place among the four


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


class Model(BaseModel):
    """Geometry and storage of a transformer. Load one with `load_model`.

    With ``experts`` a layer holds that many MLPs of width ``intermediate``, a router, and
    perhaps a shared MLP that every token uses. Every ``window_every``-th layer, the first one
    included, attends to the last ``window`` positions only. ``context`` is the longest sequence
    that the model reads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "unnamed"
    layers: Count
    hidden: Width
    intermediate: Width
    heads: Count
    kv_heads: Count
    head_dim: Count
    vocab: Width
    tied_embeddings: bool = False
    activation: str = "silu"
    gated: bool = True
    experts: Count | None = None
    experts_per_token: Count | None = None
    shared_intermediate: int = Field(default=0, ge=0, le=2**26, strict=True)
    window: Positions | None = None
    window_every: Count = 1
    context: Positions | None = None
    bits: Bits = Field(default=DEFAULT_BITS, strict=True, description="bits per weight, in all")
    quant: Quant | None = None
    weight_format: str | None = Field(
        default=None, min_length=1, max_length=40, description="format of weights without a quant"
    )
    weights: Literal["2:4"] | None = Field(
        default=None, description="two of every four weights of an MLP are kept"
    )
    approximate: str | None = Field(
        default=None, description="what the model has and this geometry cannot express"
    )
    sources: Mapping[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _usual_head_dim(cls, data: Any) -> Any:
        if isinstance(data, dict) and "head_dim" not in data:
            hidden, heads = data.get("hidden"), data.get("heads")
            if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
                return {**data, "head_dim": hidden // heads}
        return data

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.kv_heads > self.heads:
            raise ValueError(f"kv_heads {self.kv_heads} exceeds heads {self.heads}")
        if (self.experts is None) != (self.experts_per_token is None):
            raise ValueError("give both of experts and experts_per_token, or neither")
        if (self.experts or 0) < (self.experts_per_token or 0):
            raise ValueError(f"experts_per_token {self.experts_per_token} exceeds experts")
        if self.shared_intermediate and self.experts is None:
            raise ValueError("shared_intermediate is for models with experts")
        if self.quant is not None and "bits" in self.model_fields_set:
            raise ValueError("give bits or quant, not both")
        if self.total_bytes > MOST_BYTES:
            raise ValueError(
                f"the model takes {BYTES.show(self.total_bytes)}, at most "
                f"{BYTES.show(MOST_BYTES)} are believable: correct its sizes"
            )
        return self

    def __repr__(self) -> str:
        size = f"{self.layers} layers of {self.hidden} x {self.intermediate}"
        return f"Model {brief(self.name, 60)}: {size}, {BYTES.show(self.total_bytes)}"

    __str__ = __repr__

    @property
    def stored_as(self) -> str | None:
        """Name of the format that the weights are stored in; None where nothing says it."""
        return self.weight_format if self.quant is None else self.quant.format

    # Parameters

    @property
    def attention_parameters(self) -> int:
        """Weights of q, k, v and o of one layer."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Names of the matrices of an MLP."""
        return MATRICES if self.gated else ("up", "down")

    @property
    def matrix_parameters(self) -> int:
        """Weights of one matrix of an MLP, or of one expert."""
        return self.hidden * self.intermediate

    @property
    def mlp_parameters(self) -> int:
        """Weights of one layer's MLP: all its experts, the router and the shared expert."""
        mlp = len(self.matrices) * self.matrix_parameters
        if self.experts is None:
            return mlp
        shared = len(self.matrices) * self.hidden * self.shared_intermediate
        return self.experts * (mlp + self.hidden) + shared

    @property
    def norm_parameters(self) -> int:
        """Weights of all norms: two norms per layer and the last one."""
        return (2 * self.layers + 1) * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Weights of the input embedding; lm_head has as many, and is the same matrix when tied."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Number of all weights of the model."""
        layer = self.attention_parameters + self.mlp_parameters
        embeddings = self.embedding_parameters * (1 if self.tied_embeddings else 2)
        return self.layers * layer + self.norm_parameters + embeddings

    @property
    def active_parameters(self) -> int:
        """Weights that one token uses: all but those of experts it is not sent to."""
        idle = (self.experts or 0) - (self.experts_per_token or 0)
        return self.parameters - self.layers * idle * len(self.matrices) * self.matrix_parameters

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer that one token uses, without norms."""
        idle = (self.experts or 0) - (self.experts_per_token or 0)
        mlp = self.mlp_parameters - idle * len(self.matrices) * self.matrix_parameters
        return self.attention_parameters + mlp

    def _shape(self, matrix: Matrix) -> tuple[int, int]:
        """Return (outputs, inputs) of a matrix of one layer, or of one expert."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "gate": (self.intermediate, self.hidden),
            "up": (self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
            "q": (queries, self.hidden),
            "k": (keys, self.hidden),
            "v": (keys, self.hidden),
            "o": (self.hidden, queries),
        }[matrix]

    # Bytes

    def _weight_bits(self, mlp: bool) -> float:
        """Return the bits per weight without scales, averaged over kept and pruned weights."""
        bits = self.bits if self.quant is None else self.quant.bits
        return (bits + INDEX_BITS) / 2 if mlp and self.weights == "2:4" else bits

    def _stored(self, weights: int, outputs: int, *, mlp: bool = False) -> float:
        """Return the bytes of ``weights`` weights in matrices with ``outputs`` rows in all."""
        packed = weights * self._weight_bits(mlp) / 8
        if self.quant is None:
            return packed
        scales = weights * self.quant.scale_per_weight
        if self.quant.axis == "channel":
            scales = 2.0 * outputs
        return packed + scales

    @property
    def attention_bytes(self) -> float:
        """Bytes of q, k, v and o of one layer."""
        outputs = self.head_dim * (self.heads + 2 * self.kv_heads) + self.hidden
        return self._stored(self.attention_parameters, outputs)

    def matrix_bytes(self, matrix: Matrix) -> float:
        """Return the bytes of one whole matrix of a layer or expert, its scales included."""
        outputs, inputs = self._shape(matrix)
        return self._stored(outputs * inputs, outputs, mlp=matrix in MATRICES)

    @property
    def mlp_bytes(self) -> float:
        """Bytes of the MLP of one layer, or of one expert."""
        return sum(self.matrix_bytes(matrix) for matrix in self.matrices)

    @property
    def static_mlp_bytes(self) -> float:
        """Bytes of one layer's router and shared expert, which every token uses."""
        if self.experts is None:
            return 0.0
        router = self._stored(self.experts * self.hidden, self.experts)
        width = self.shared_intermediate
        outputs = (len(self.matrices) - 1) * width + self.hidden if width else 0
        shared = self._stored(len(self.matrices) * self.hidden * width, outputs, mlp=True)
        return router + shared

    @property
    def norm_bytes(self) -> float:
        """Bytes of all norms of the model."""
        return float(self.norm_parameters * NORM_BYTES)

    @property
    def head_bytes(self) -> float:
        """Bytes of lm_head (the tied embedding, when tied)."""
        return self._stored(self.embedding_parameters, self.vocab)

    @property
    def embedding_row_bytes(self) -> float:
        """Bytes of one token's row of the input embedding in flash; 0 when tied to lm_head."""
        return 0.0 if self.tied_embeddings else self.head_bytes / self.vocab

    @property
    def total_bytes(self) -> float:
        """Bytes of the whole model as stored, the input embedding included."""
        mlp = (self.experts or 1) * self.mlp_bytes + self.static_mlp_bytes
        embeddings = self.head_bytes * (1 if self.tied_embeddings else 2)
        return self.layers * (self.attention_bytes + mlp) + self.norm_bytes + embeddings

    @property
    def bytes_per_weight(self) -> float:
        """Stored bytes per weight that an MLP matrix multiplies by, its scales included."""
        kept = 0.5 if self.weights == "2:4" else 1.0
        return self.matrix_bytes("up") / (self.matrix_parameters * kept)

    def slice_weights(self, slice_: Slice) -> int:
        """Return the weights in a slice: a row holds one per input, a column one per output."""
        outputs, inputs = self._shape(slice_.matrix)
        return inputs if slice_.part == "row" else outputs

    def slice_bytes(self, slices: Iterable[Slice]) -> float:
        """Return the bytes loaded for one unit made of ``slices``.

        They are its weights, and the scales of groups of weights that lie inside a slice.
        """
        total = 0.0
        for slice_ in self._of_this_model(slices):
            weights = self.slice_weights(slice_)
            total += weights * self._weight_bits(slice_.matrix in MATRICES) / 8
            if self.quant is not None and self._scales_inside(slice_):
                total += weights * self.quant.scale_per_weight
        return total

    def static_scale_bytes(self, slices: Iterable[Slice]) -> float:
        """Return the bytes of one layer's scales that stay in DRAM, lying across ``slices``."""
        if self.quant is None:
            return 0.0
        total = 0.0
        for slice_ in self._of_this_model(slices):
            if not self._scales_inside(slice_):
                outputs, inputs = self._shape(slice_.matrix)
                mlp = slice_.matrix in MATRICES
                weights = outputs * inputs * self._weight_bits(mlp) / 8
                total += self.matrix_bytes(slice_.matrix) - weights
        return total

    def _of_this_model(self, slices: Iterable[Slice]) -> list[Slice]:
        """Leave out slices of matrices that the model lacks: a plain MLP has no gate."""
        return [slice_ for slice_ in slices if slice_.matrix in (*self.matrices, *ATTENTION)]

    def _scales_inside(self, slice_: Slice) -> bool:
        """Return True if the weights that share a scale lie within the slice."""
        along = {"row": "in", "column": "out"}[slice_.part]
        return self.quant is not None and self.quant.axis == along

    def kv_bytes(self, positions: NDArray[Any] | int, kv_bits: float) -> Any:
        """Return the bytes of keys and values of the first ``positions`` of a sequence, all layers.

        The result has the shape of ``positions``. Layers with a window keep the last ``window``
        positions only. ``kv_bits`` are the bits per key or value.
        """
        windowed = 0 if self.window is None else -(-self.layers // self.window_every)
        kept = (self.layers - windowed) * np.asarray(positions, np.float64)
        if self.window is not None:
            kept = kept + windowed * np.minimum(positions, self.window)
        return 2 * self.kv_heads * self.head_dim * kv_bits / 8 * kept

    def attention_flops(self, tokens: Any, before: Any = 0) -> Any:
        """Return the FLOP of a batch's attention: each token looks at those before it, and itself.

        A query meets a key, and weighs its value, with 2 FLOP per element each. Layers with a
        window look at the last ``window`` positions only.

        Args:
            tokens: of the batch; the result has their shape.
            before: positions before it, of the same shape.
        """
        many, first = np.asarray(tokens, np.float64), np.asarray(before, np.float64)
        windowed = 0 if self.window is None else -(-self.layers // self.window_every)
        pairs = (self.layers - windowed) * _pairs(many, first, np.inf)
        if self.window is not None:
            pairs = pairs + windowed * _pairs(many, first, float(self.window))
        return 4.0 * self.heads * self.head_dim * pairs

    @property
    def layer_windows(self) -> NDArray[np.float64]:
        """Positions that each layer attends to, float64[layers]; infinite without a window."""
        windows = np.full(self.layers, np.inf)
        if self.window is not None:
            windows[:: self.window_every] = self.window
        return windows

    def layer_attention_flops(self, tokens: NDArray[Any] | float) -> NDArray[np.float64]:
        """Return the FLOP of the attention of each layer to a prompt, float64[layers].

        Args:
            tokens: of the prompt, or [layers], those that each layer sees.
        """
        pairs: NDArray[np.float64] = _pairs(np.asarray(tokens, np.float64), 0.0, self.layer_windows)
        return 4.0 * self.heads * self.head_dim * pairs


def _pairs(tokens: Any, before: Any, window: Any) -> Any:
    """Return the pairs of a query and a key of a batch, each query seeing ``window`` at most."""
    growing = np.clip(window - before, 0, tokens)  # tokens that see all that came before
    return (
        growing * before
        + growing * (growing + 1) / 2
        + (tokens - growing) * np.minimum(window, 1e18)
    )
