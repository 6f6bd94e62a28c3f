"""A layer of a model: its geometry, its weights, and their bytes as stored.

Nothing here knows a device or a cache. Weights are counted in bytes as stored: ``bits`` per weight
plus, with ``quant``, the scales. Which scales travel with a loaded slice and which must stay in
DRAM depends on the axis they lie along, so a slice's bytes (`Layer.slice_bytes`) and the scales
left behind (`Layer.static_scale_bytes`) are two functions.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dipsim.model.storage import (
    ATTENTION,
    DEFAULT_BITS,
    INDEX_BITS,
    MATRICES,
    NORM_BITS,
    PRUNED,
    Bits,
    Count,
    Matrix,
    Part,
    Positions,
    Quant,
    Slice,
    Storage,
    Weights,
    Width,
    WidthOrNone,
)
from dipsim.views import shortened

Attention = Literal["full", "window", "latent", "state", "none"]
"""Kind of mixer: attention to all positions or to the last ones, to a latent of keys and values
(MLA), a state of fixed size (linear attention, state-space), or nothing."""


SIGNALS = ("mlp_input", "gate", "up", "glu", "expert", "attn_input", "attn_output")
"""Signals whose units a layer has."""


class Layer(BaseModel):
    """Geometry and storage of one layer.

    With ``experts`` it holds that many MLPs of width ``intermediate``, a router, and perhaps a
    shared MLP that every token uses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: Width
    intermediate: WidthOrNone
    heads: Count
    kv_heads: Count
    head_dim: Count
    value_dim: Count | None = Field(default=None, description="size of a head's values")
    attention: Attention | None = Field(
        default=None, description="full, or window where there is one, unless said"
    )
    window: Positions | None = None
    kv_values: WidthOrNone | None = Field(
        default=None, description="values cached per position, keys and values of all heads"
    )
    state_values: Weights = Field(default=0, description="values of a state of fixed size")
    state_bits: Bits = 16.0
    attention_parameters: Weights | None = Field(
        default=None, description="weights of the mixer where q, k, v and o do not give them"
    )
    gated: bool = True
    experts: Count | None = None
    experts_per_token: Count | None = None
    shared_intermediate: WidthOrNone = 0
    norms: Annotated[int, Field(ge=0, le=16, strict=True)] | None = Field(
        default=None, description="norms of hidden weights; one before the mixer and the MLP each"
    )
    extra_parameters: Weights = Field(
        default=0, description="weights beside mixer and MLP that every token uses"
    )
    bits: Bits = Field(default=DEFAULT_BITS, strict=True, description="bits per weight, in all")
    quant: Quant | None = None
    parts: Mapping[Part, Storage] = {}
    weights: Literal["2:4"] | None = Field(
        default=None,
        description="pattern of pruning: 2:4 keeps two of every four weights of an MLP",
    )

    __repr__ = __str__ = shortened

    @model_validator(mode="after")
    def _checked_layer(self) -> Self:
        if self.kv_heads > self.heads:
            raise ValueError(f"kv_heads {self.kv_heads} exceeds heads {self.heads}")
        if (self.experts is None) != (self.experts_per_token is None):
            raise ValueError("give both of experts and experts_per_token, or neither")
        if (self.experts or 0) < (self.experts_per_token or 0):
            raise ValueError(f"experts_per_token {self.experts_per_token} exceeds experts")
        if self.shared_intermediate and self.experts is None:
            raise ValueError("shared_intermediate is for models with experts")
        if self.experts is not None and not self.intermediate:
            raise ValueError("intermediate 0 is for layers without an MLP: experts have a width")
        if self.quant is not None and "bits" in self.model_fields_set:
            raise ValueError("give bits or quant, not both")
        if self.mixer == "window" and self.window is None:
            raise ValueError("attention window needs a window")
        if self.mixer in ("latent", "state") and self.attention_parameters is None:
            raise ValueError(f"attention {self.mixer} needs attention_parameters")
        if self.mixer == "latent" and self.kv_values is None:
            raise ValueError("attention latent needs kv_values")
        return self

    # Mixing of positions

    @property
    def mixer(self) -> Attention:
        """Kind of mixer, from ``window`` where ``attention`` is not given."""
        return self.attention or ("full" if self.window is None else "window")

    @property
    def heads_attend(self) -> bool:
        """True where q, k, v and o are all there is to the mixer."""
        return self.mixer in ("full", "window")

    @property
    def reach(self) -> float:
        """Positions that the layer attends to: the window, infinite without one, 0 if none."""
        if self.mixer in ("state", "none"):
            return 0.0
        windowed = self.window is not None and self.mixer != "full"
        return float(self.window or 0) if windowed else np.inf

    @property
    def head_values(self) -> int:
        """Size of a head of values."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def position_values(self) -> int:
        """Values that the layer caches per position: keys and values of all heads."""
        return self.read_values if self.kv_values is None else self.kv_values

    @property
    def read_values(self) -> int:
        """Values that attention reads per position: those that the layer caches, or as many of an
        earlier one where it caches none."""
        own = self.kv_heads * (self.head_dim + self.head_values) if self.heads_attend else 0
        return self.kv_values or own

    @property
    def state_bytes(self) -> float:
        """Bytes of the state of fixed size."""
        return self.state_values * self.state_bits / 8

    @property
    def pair_flops(self) -> float:
        """FLOP for a query of every head to meet one key, and to weigh its value."""
        return 2.0 * self.heads * (self.head_dim + self.head_values)

    @property
    def position_flops(self) -> float:
        """FLOP for a token's queries to meet a cached position; a latent meets all heads."""
        if self.mixer == "latent":
            return 4.0 * self.heads * self.read_values
        return self.pair_flops if self.read_values else 0.0

    # Parameters

    @property
    def mixer_parameters(self) -> int:
        """Weights of q, k, v and o, or of what stands in their place."""
        if self.attention_parameters is not None:
            return self.attention_parameters
        heads = (self.heads + self.kv_heads) * (self.head_dim + self.head_values)
        return self.hidden * heads if self.heads_attend else 0

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
        """Weights of the MLP: all its experts, the router and the shared expert."""
        mlp = len(self.matrices) * self.matrix_parameters
        if self.experts is None:
            return mlp
        shared = len(self.matrices) * self.hidden * self.shared_intermediate
        return self.experts * (mlp + self.hidden) + shared

    @property
    def part_parameters(self) -> dict[Part, int]:
        """Weights of each part of the layer."""
        experts = self.experts or 0
        mlp: dict[Part, int] = {
            _part(matrix): (experts or 1) * self.matrix_parameters for matrix in self.matrices
        }
        return {
            **mlp,
            "attention": self.mixer_parameters,
            "router": experts * self.hidden,
            "shared": len(self.matrices) * self.hidden * self.shared_intermediate,
            "norm": self.layer_norm_parameters,
            "other": self.extra_parameters,
        }

    @property
    def idle_parameters(self) -> int:
        """Weights of the experts that a token is not sent to."""
        idle = (self.experts or 0) - (self.experts_per_token or 0)
        return idle * len(self.matrices) * self.matrix_parameters

    @property
    def layer_norm_parameters(self) -> int:
        """Weights of the layer's norms."""
        usual = (self.mixer != "none") + (self.intermediate > 0)
        return (usual if self.norms is None else self.norms) * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Weights of the layer that one token uses, without norms."""
        mlp = self.mlp_parameters - self.idle_parameters
        return self.mixer_parameters + mlp + self.extra_parameters

    def _shape(self, matrix: Matrix) -> tuple[int, int]:
        """Return (outputs, inputs) of a matrix of the layer, or of one expert."""
        return {
            "gate": (self.intermediate, self.hidden),
            "up": (self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
            "q": (self.heads * self.head_dim, self.hidden),
            "k": (self.kv_heads * self.head_dim, self.hidden),
            "v": (self.kv_heads * self.head_values, self.hidden),
            "o": (self.hidden, self.heads * self.head_values),
        }[matrix]

    # Bytes

    def _storage(self, part: Part) -> Storage:
        """Return how a part is stored."""
        if part in self.parts:
            return self.parts[part]
        if part == "norm":
            return NORM_BITS
        return self.bits if self.quant is None else self.quant

    def _weight_bits(self, part: Part) -> float:
        """Return the bits per weight without scales, averaged over kept and pruned weights."""
        stored = self._storage(part)
        bits = stored.bits if isinstance(stored, Quant) else stored
        return (bits + INDEX_BITS) / 2 if part in PRUNED and self.weights == "2:4" else bits

    def stored_bytes(self, part: Part, weights: int, outputs: int) -> float:
        """Return the bytes of ``weights`` weights in matrices with ``outputs`` rows in all."""
        packed, stored = weights * self._weight_bits(part) / 8, self._storage(part)
        if not isinstance(stored, Quant):
            return packed
        scales = weights * stored.scale_per_weight
        if stored.axis == "channel":
            scales = 2.0 * outputs
        return packed + scales

    @property
    def attention_bytes(self) -> float:
        """Bytes of q, k, v and o, or of what stands in their place."""
        outputs = self.hidden
        if self.heads_attend:
            outputs += self.head_dim * (self.heads + self.kv_heads)
            outputs += self.head_values * self.kv_heads
        return self.stored_bytes("attention", self.mixer_parameters, outputs)

    def matrix_bytes(self, matrix: Matrix) -> float:
        """Return the bytes of one whole matrix of the layer or of an expert, scales included."""
        outputs, inputs = self._shape(matrix)
        return self.stored_bytes(_part(matrix), outputs * inputs, outputs)

    @property
    def mlp_bytes(self) -> float:
        """Bytes of the MLP, or of one expert."""
        return sum(self.matrix_bytes(matrix) for matrix in self.matrices)

    @property
    def static_mlp_bytes(self) -> float:
        """Bytes of the router and the shared expert, which every token uses."""
        if self.experts is None:
            return 0.0
        router = self.stored_bytes("router", self.experts * self.hidden, self.experts)
        width = self.shared_intermediate
        outputs = (len(self.matrices) - 1) * width + self.hidden if width else 0
        weights = len(self.matrices) * self.hidden * width
        return router + self.stored_bytes("shared", weights, outputs)

    @property
    def layer_norm_bytes(self) -> float:
        """Bytes of the layer's norms."""
        return self.stored_bytes("norm", self.layer_norm_parameters, 0)

    @property
    def extra_bytes(self) -> float:
        """Bytes of the weights beside mixer and MLP, without norms."""
        return self.stored_bytes("other", self.extra_parameters, 0)

    @property
    def layer_bytes(self) -> float:
        """Bytes of the whole layer, without norms."""
        mlp = (self.experts or 1) * self.mlp_bytes + self.static_mlp_bytes
        return self.attention_bytes + mlp + self.extra_bytes

    @property
    def bytes_per_weight(self) -> float:
        """Stored bytes per weight that an MLP matrix multiplies by, its scales included."""
        if not self.intermediate:
            return self.stored_bytes("attention", self.hidden**2, self.hidden) / self.hidden**2
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
            total += weights * self._weight_bits(_part(slice_.matrix)) / 8
            if (quant := self._scales_inside(slice_)) is not None:
                total += weights * quant.scale_per_weight
        return total

    def static_scale_bytes(self, slices: Iterable[Slice]) -> float:
        """Return the bytes of the layer's scales that stay in DRAM, lying across ``slices``."""
        total = 0.0
        for slice_ in self._of_this_model(slices):
            part = _part(slice_.matrix)
            if isinstance(self._storage(part), Quant) and self._scales_inside(slice_) is None:
                outputs, inputs = self._shape(slice_.matrix)
                weights = outputs * inputs * self._weight_bits(part) / 8
                total += self.matrix_bytes(slice_.matrix) - weights
        return total

    def _of_this_model(self, slices: Iterable[Slice]) -> list[Slice]:
        """Leave out slices of matrices that the layer lacks: a plain MLP has no gate."""
        return [slice_ for slice_ in slices if slice_.matrix in (*self.matrices, *ATTENTION)]

    def _scales_inside(self, slice_: Slice) -> Quant | None:
        """Return the storage of a slice if the weights that share a scale lie within it."""
        along = {"row": "in", "column": "out"}[slice_.part]
        stored = self._storage(_part(slice_.matrix))
        return stored if isinstance(stored, Quant) and stored.axis == along else None


def _part(matrix: Matrix) -> Part:
    return "attention" if matrix in ATTENTION else matrix  # type: ignore[return-value]


def layer_units(layer: Layer) -> dict[str, int]:
    """Return the units of every signal that a layer has.

    A layer with experts has no neurons of its own, one whose mixer is not made of heads no
    channels that its q, k, v and o read.
    """
    dense = layer.experts is None and layer.intermediate > 0
    neurons = layer.intermediate if dense else 0
    return {
        "expert": layer.experts or 0,
        "glu": neurons,
        "gate": neurons,
        "up": neurons,
        "mlp_input": layer.hidden if dense else 0,
        "attn_input": layer.hidden if layer.heads_attend else 0,
        "attn_output": layer.heads * layer.head_values if layer.heads_attend else 0,
    }


def kind_of(main: Mapping[str, Any], differences: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a kind of layer: those of the main kind, and where it differs."""
    changes = dict(differences)
    if "experts" in changes and changes["experts"] is None:
        changes = {"experts_per_token": None, "shared_intermediate": None, **changes}
    return {key: value for key, value in {**main, **changes}.items() if value is not None}
