"""Models: the geometry of a network and how its weights are stored; one function per quantity.

Nothing here knows a device or a cache. Weights are counted in bytes as stored: ``bits`` per weight
plus, with ``quant``, the scales. Which scales travel with a loaded slice and which must stay in
DRAM depends on the axis they lie along, so a slice's bytes (`Model.slice_bytes`) and the scales
left behind (`Model.static_scale_bytes`) are two functions.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dipsim import files
from dipsim.errors import ModelError
from dipsim.hardware import first_problem

FOLDER, SUFFIX = "models", ".yaml"
DEFAULT_BITS = 4.5
NORM_BYTES = 2  # norms are kept in 16 bits by every format dipsim knows
Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Matrix = Literal["gate", "up", "down"]
MATRICES: tuple[Matrix, ...] = ("gate", "up", "down")


class Slice(NamedTuple):
    """A row (one output) or a column (one input) of an MLP matrix."""

    matrix: Matrix
    part: Literal["row", "column"]


class Quant(BaseModel):
    """How quantised weights are stored.

    ``axis`` is the direction in which the ``group`` weights that share a scale lie: ``in`` (along
    a row: GPTQ, AWQ, GGUF), ``out`` (along a column), ``channel`` (one scale per output row).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = Field(min_length=1)
    bits: float = Field(gt=0, le=32, strict=True)
    group: Count = 32
    axis: Literal["in", "out", "channel"] = "in"
    scale_bytes: float = Field(default=2, ge=0, le=16)
    zero_bytes: float = Field(default=0, ge=0, le=16)

    @property
    def scale_per_weight(self) -> float:
        """Bytes of scales and zero points per weight (0 for ``channel``, which counts rows)."""
        return 0.0 if self.axis == "channel" else (self.scale_bytes + self.zero_bytes) / self.group


class Model(BaseModel):
    """Geometry and storage of a gated-MLP transformer. Load one with `load_model`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "unnamed"
    layers: Count
    hidden: Count
    intermediate: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    vocab: Count
    tied_embeddings: bool = False
    activation: str = "silu"
    context: Count | None = None
    bits: float = Field(
        default=DEFAULT_BITS, gt=0, le=32, strict=True, description="bits per weight, in all"
    )
    quant: Quant | None = None
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
        if self.quant is not None and "bits" in self.model_fields_set:
            raise ValueError("give bits or quant, not both")
        return self

    # Parameters

    @property
    def attention_parameters(self) -> int:
        """Weights of q, k, v and o of one layer."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    @property
    def matrix_parameters(self) -> int:
        """Weights of one MLP matrix of one layer."""
        return self.hidden * self.intermediate

    @property
    def norm_parameters(self) -> int:
        """All norms: two per layer and the last one."""
        return (2 * self.layers + 1) * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """The input embedding; lm_head has as many, and is the same matrix when tied."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All weights of the model."""
        layer = self.attention_parameters + 3 * self.matrix_parameters
        embeddings = self.embedding_parameters * (1 if self.tied_embeddings else 2)
        return self.layers * layer + self.norm_parameters + embeddings

    # Bytes

    def _stored(self, weights: int, outputs: int) -> float:
        """Bytes of ``weights`` that make up matrices with ``outputs`` output rows in all."""
        if self.quant is None:
            return weights * self.bits / 8
        scales = weights * self.quant.scale_per_weight
        if self.quant.axis == "channel":
            scales = 2.0 * outputs
        return weights * self.quant.bits / 8 + scales

    @property
    def attention_bytes(self) -> float:
        """q, k, v and o of one layer."""
        outputs = self.head_dim * (self.heads + 2 * self.kv_heads) + self.hidden
        return self._stored(self.attention_parameters, outputs)

    def matrix_bytes(self, matrix: Matrix) -> float:
        """One whole MLP matrix of one layer, its scales included."""
        outputs = self.hidden if matrix == "down" else self.intermediate
        return self._stored(self.matrix_parameters, outputs)

    @property
    def norm_bytes(self) -> float:
        """All norms of the model."""
        return float(self.norm_parameters * NORM_BYTES)

    @property
    def head_bytes(self) -> float:
        """lm_head (the tied embedding, when tied)."""
        return self._stored(self.embedding_parameters, self.vocab)

    @property
    def embedding_row_bytes(self) -> float:
        """One token's row of the input embedding, read from flash; 0 when tied to lm_head."""
        return 0.0 if self.tied_embeddings else self.head_bytes / self.vocab

    @property
    def total_bytes(self) -> float:
        """The whole model as stored, the input embedding included."""
        mlp = sum(self.matrix_bytes(matrix) for matrix in MATRICES)
        embeddings = self.head_bytes * (1 if self.tied_embeddings else 2)
        return self.layers * (self.attention_bytes + mlp) + self.norm_bytes + embeddings

    @property
    def bytes_per_weight(self) -> float:
        """Stored bytes per weight of an MLP matrix, its scales included."""
        return self.matrix_bytes("gate") / self.matrix_parameters

    def slice_weights(self, slice_: Slice) -> int:
        """Weights in a slice: a row holds one per input, a column one per output."""
        wide = (slice_.matrix == "down") == (slice_.part == "row")
        return self.intermediate if wide else self.hidden

    def slice_bytes(self, slices: Iterable[Slice]) -> float:
        """Bytes that are loaded for one unit made of ``slices``: weights and the scales of groups
        that lie inside the slice."""
        total = 0.0
        for slice_ in slices:
            weights = self.slice_weights(slice_)
            if self.quant is None:
                total += weights * self.bits / 8
            else:
                inside = self._scales_inside(slice_)
                scale = self.quant.scale_per_weight if inside else 0.0
                total += weights * (self.quant.bits / 8 + scale)
        return total

    def static_scale_bytes(self, slices: Iterable[Slice]) -> float:
        """Bytes of one layer's scales that stay in DRAM because they lie across ``slices``."""
        if self.quant is None:
            return 0.0
        total = 0.0
        for slice_ in slices:
            if not self._scales_inside(slice_):
                weights = self.matrix_parameters * self.quant.bits / 8
                total += self.matrix_bytes(slice_.matrix) - weights
        return total

    def _scales_inside(self, slice_: Slice) -> bool:
        along = {"row": "in", "column": "out"}[slice_.part]
        return self.quant is not None and self.quant.axis == along

    def kv_bytes(self, kv_bits: float) -> float:
        """Keys and values of one position, all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * kv_bits / 8


def load_model(
    given: str | os.PathLike[str] | Mapping[str, Any] | Model, bits: float | None = None
) -> Model:
    """A model by preset name, by YAML file, or from a mapping of its geometry.

    Args:
        given: e.g. ``"llama-3-8b"``, ``"my/model.yaml"``, ``{"layers": 32, ...}``; a mapping with
            nothing but a ``name`` (and ``bits`` or ``quant``) names a preset.
        bits: bits per weight, scales included; takes the place of the model's own storage.

    Raises:
        ModelError: unknown name, unreadable file, unknown or missing key, impossible value.
    """
    if isinstance(given, Model):
        data, where = given.model_dump(mode="json", exclude_unset=True), given.name
    elif isinstance(given, Mapping):
        data, where = dict(given), str(given.get("name", "unnamed"))
        if set(data) <= {"name", "bits", "quant"} and "name" in data:
            data = {**_preset(str(data["name"])), **data}
    else:
        data, where = _read(given), str(given)
    if bits is not None:
        data = {**data, "bits": bits}
        data.pop("quant", None)
    try:
        return Model.model_validate(data)
    except ValidationError as problem:
        raise ModelError(f"model {where}: {first_problem(problem)}") from None


def model_names() -> list[str]:
    """Names of the presets."""
    return files.shipped_names(FOLDER, SUFFIX)


def _preset(name: str) -> dict[str, Any]:
    if name not in model_names():
        raise ModelError(f"no model preset {name!r}: use one of {', '.join(model_names())}")
    return files.read_yaml(files.shipped(FOLDER) / f"{name}{SUFFIX}", ModelError)


def _read(given: str | os.PathLike[str]) -> dict[str, Any]:
    path = files.find(given, FOLDER, SUFFIX)
    if path is None:
        known = ", ".join(model_names())
        raise ModelError(f"no model {str(given)!r}: give a YAML file, or one of {known}")
    return files.read_yaml(path, ModelError)
