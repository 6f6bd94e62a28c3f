"""Models: kinds of layers in order, embeddings, and the totals of weights, bytes, KV and FLOP."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dipsim.errors import brief
from dipsim.model.layer import Layer
from dipsim.model.stack import Stack
from dipsim.model.storage import Part, Positions, Weights, Width
from dipsim.units import BYTES

MOST_BYTES = 2.0**43
"""Bytes of the largest model that is believed: sums of its units' bytes, in 2**-10, are exact."""
STATE_FLOPS = 4.0
"""FLOP per value of a state and token: it is scaled and added to, multiplied by a query, summed."""


class Model(Stack):
    """Geometry and storage of a transformer. Load one with `load_model`.

    ``context`` is the longest sequence that the model reads.
    """

    name: str = "unnamed"
    vocab: Width
    tied_embeddings: bool = False
    activation: str = "silu"
    context: Positions | None = None
    embedding_dim: Width | None = Field(
        default=None, description="width of the embedding where it is not hidden"
    )
    per_layer_embedding: Width | None = Field(
        default=None, description="width of the embedding that each layer reads of its own table"
    )
    per_layer_vocab: Width | None = Field(default=None, description="rows of that table")
    other_parameters: Weights = Field(
        default=0, description="weights beside layers and embeddings that every token uses"
    )
    weight_format: str | None = Field(
        default=None, min_length=1, max_length=40, description="format of weights without a quant"
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

    def stored_at(self, bits: float, weight_format: str | None) -> "Model":
        """Return the model with all weights stored at so many bits, scales included."""
        kinds = without_parts({"kinds": self.kinds})["kinds"]
        whole = {"bits": bits, "quant": None, "parts": {}, "kinds": kinds}
        return self.model_copy(update={**whole, "weight_format": weight_format})

    def as_read(self) -> "Model":
        """Return the dense model that reads as much a token: each MLP of a mixture is as wide as
        the experts of a token together. A dense model is itself."""
        layers = dict(zip(self.kind_names, self.stack, strict=True))
        kinds = {
            name: {**changes, **(_of_used_experts(layers[name]) if name in layers else {})}
            for name, changes in self.kinds.items()
        }
        return self.model_copy(update={**_of_used_experts(self), "kinds": kinds})

    # Parameters

    @property
    def norm_parameters(self) -> int:
        """Weights of all norms: those of the layers and the last one."""
        return self._summed(lambda layer: layer.layer_norm_parameters) + self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Weights of the input embedding; lm_head has as many, and is the same matrix when tied."""
        return self.vocab * (self.embedding_dim or self.hidden)

    @property
    def per_layer_parameters(self) -> int:
        """Weights of the embeddings that layers read of their own tables."""
        return (self.per_layer_vocab or self.vocab) * self.layers * (self.per_layer_embedding or 0)

    @property
    def parameters(self) -> int:
        """Number of all weights of the model."""
        layers = self._summed(
            lambda layer: layer.mixer_parameters + layer.mlp_parameters + layer.extra_parameters
        )
        embeddings = self.embedding_parameters * (1 if self.tied_embeddings else 2)
        beside = self.per_layer_parameters + self.other_parameters
        return layers + self.norm_parameters + embeddings + beside

    @property
    def part_parameters(self) -> "Counter[Part]":
        """Weights of each part that a file may store differently."""
        found: Counter[Part] = Counter()
        for layer, many in self._counts:
            for part, weights in layer.part_parameters.items():
                found[part] += many * weights
        found["norm"] += self.hidden
        found["other"] += self.other_parameters
        found["head"] = self.embedding_parameters
        found["embedding"] = self.per_layer_parameters
        found["embedding"] += 0 if self.tied_embeddings else self.embedding_parameters
        return found

    @property
    def active_parameters(self) -> int:
        """Weights that one token uses: all but those of experts it is not sent to, and of tables
        that layers read a row of."""
        idle = self._summed(lambda layer: layer.idle_parameters)
        return self.parameters - idle - self.per_layer_parameters

    def _summed(self, of: Callable[[Layer], int]) -> int:
        return sum(many * of(layer) for layer, many in self._counts)

    # Bytes

    @property
    def norm_bytes(self) -> float:
        """Bytes of all norms of the model."""
        last = self.stored_bytes("norm", self.hidden, 0)
        return self.in_layers(lambda layer: layer.layer_norm_bytes) + last

    @property
    def head_bytes(self) -> float:
        """Bytes of lm_head (the tied embedding, when tied)."""
        return self.stored_bytes("head", self.embedding_parameters, self.vocab)

    @property
    def embedding_bytes(self) -> float:
        """Bytes of the embeddings that are read by row: the input's, unless tied to lm_head, and
        those of the layers."""
        return self._input_bytes + self._per_layer_bytes

    @property
    def embedding_row_bytes(self) -> float:
        """Bytes of what one token reads of these embeddings in flash; 0 when there are none."""
        own = self._input_bytes / self.vocab
        return own + self._per_layer_bytes / (self.per_layer_vocab or self.vocab)

    @property
    def _input_bytes(self) -> float:
        if self.tied_embeddings:
            return 0.0
        return self.stored_bytes("embedding", self.embedding_parameters, self.vocab)

    @property
    def _per_layer_bytes(self) -> float:
        rows = self.layers * (self.per_layer_vocab or self.vocab)
        weights = self.per_layer_parameters
        return self.stored_bytes("embedding", weights, rows) if weights else 0.0

    @property
    def other_bytes(self) -> float:
        """Bytes of the weights beside layers and embeddings that every token uses."""
        return self.stored_bytes("other", self.other_parameters, 0)

    @property
    def total_bytes(self) -> float:
        """Bytes of the whole model as stored, the input embedding included."""
        layers = self.in_layers(lambda layer: layer.layer_bytes)
        embeddings = self.head_bytes + self.embedding_bytes
        return layers + self.norm_bytes + embeddings + self.other_bytes

    # Keys and values

    def kv_bytes(self, positions: NDArray[Any] | int, kv_bits: float) -> Any:
        """Return the bytes of keys and values of the first ``positions`` of a sequence, all layers.

        The result has the shape of ``positions``. Layers with a window keep the last ``window``
        positions only; states of fixed size are kept whole. ``kv_bits`` are the bits per key or
        value, those of a state its own.
        """
        return self._kv_bytes(positions, kv_bits, lambda layer: layer.position_values)

    def kv_read_bytes(self, positions: NDArray[Any] | int, kv_bits: float) -> Any:
        """Return the bytes of keys and values that a token reads of so many positions: as
        `kv_bytes`, and once more where a layer uses those of an earlier one."""
        return self._kv_bytes(positions, kv_bits, lambda layer: layer.read_values)

    def _kv_bytes(self, positions: Any, kv_bits: float, of: Callable[[Layer], int]) -> Any:
        """Return the bytes of positions of which each layer has so many values, and of states."""
        many = np.asarray(positions, np.float64)
        total: Any = self.in_layers(lambda layer: layer.state_bytes)
        for values, reaches in self._reaches(of).items():
            kept = sum(count * np.minimum(many, reach) for reach, count in reaches.items())
            total = total + values * kv_bits / 8 * kept
        return total + np.zeros_like(many)

    def attention_flops(self, tokens: Any, before: Any = 0) -> Any:
        """Return the FLOP of a batch's attention: each token looks at those before it, and itself.

        A query meets a key, and weighs its value, with 2 FLOP per element each. Layers with a
        window look at the last ``window`` positions only; a state takes `STATE_FLOPS` per value.

        Args:
            tokens: of the batch; the result has their shape.
            before: positions before it, of the same shape.
        """
        many, first = np.asarray(tokens, np.float64), np.asarray(before, np.float64)
        total: Any = STATE_FLOPS * self.in_layers(lambda layer: layer.state_values) * many
        for flops, reaches in self._reaches(lambda layer: layer.pair_flops).items():
            pairs = sum(count * _pairs(many, first, reach) for reach, count in reaches.items())
            total = total + flops * pairs
        return total

    def _reaches(self, of: Callable[[Layer], float]) -> dict[float, dict[float, int]]:
        """Return, per figure of a layer and positions it attends to, how many layers have them.

        Equal figures are multiplied, not added up; infinite windows come first.
        """
        found: dict[float, dict[float, int]] = {}
        for layer, many in sorted(self._counts, key=lambda each: -each[0].reach):
            if layer.reach:
                reaches = found.setdefault(of(layer), {})
                reaches[layer.reach] = reaches.get(layer.reach, 0) + many
        return found

    def layer_kv_bytes(self, positions: NDArray[Any], kv_bits: float) -> NDArray[np.float64]:
        """Return `kv_read_bytes` by layer of the trace, float64[layers of the trace, ...].

        Layers that all read as much have equal shares of them.
        """
        reads = {(each.read_values, each.reach, each.state_bytes) for each in self.stack}
        if len(reads) == 1:
            whole = self.kv_read_bytes(positions, kv_bits)
            shared: NDArray[np.float64] = np.multiply.outer(self.layers_each, whole / self.layers)
            return shared
        many = np.asarray(positions, np.float64)

        def kept(layer: Layer) -> NDArray[np.float64]:
            values = layer.read_values * np.minimum(many, layer.reach)
            return values * kv_bits / 8 + layer.state_bytes

        return self.by_recorded(kept)

    @property
    def decode_flops(self) -> NDArray[np.float64]:
        """FLOP per value read and query token, float64[layers of the trace]."""
        values = self.by_recorded(lambda layer: layer.read_values)
        flops = self.by_recorded(lambda layer: layer.position_flops)
        beside = np.full_like(flops, STATE_FLOPS)
        return np.divide(flops, values, out=beside, where=values > 0)

    @property
    def layer_windows(self) -> NDArray[np.float64]:
        """Positions that each layer attends to, float64[layers]: infinite without a window, 0
        where it keeps a state or nothing."""
        return self.per_layer(lambda layer: layer.reach)

    def layer_attention_flops(self, tokens: NDArray[Any] | float) -> NDArray[np.float64]:
        """Return the FLOP of the attention of each layer to a prompt, float64[layers].

        Args:
            tokens: of the prompt, or [layers], those that each layer sees.
        """
        many = np.asarray(tokens, np.float64)
        pairs: NDArray[np.float64] = _pairs(many, 0.0, self.layer_windows)
        states = STATE_FLOPS * self.per_layer(lambda layer: layer.state_values) * many
        return self.per_layer(lambda layer: layer.pair_flops) * pairs + states


def _pairs(tokens: Any, before: Any, window: Any) -> Any:
    """Return the pairs of a query and a key of a batch, each query seeing ``window`` at most."""
    growing = np.clip(window - before, 0, tokens)  # tokens that see all that came before
    return (
        growing * before
        + growing * (growing + 1) / 2
        + (tokens - growing) * np.minimum(window, 1e18)
    )


def without_parts(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's keys without those that say how its parts are stored."""
    kept = {key: value for key, value in model.items() if key not in ("quant", "parts")}
    if isinstance(kinds := model.get("kinds"), Mapping):
        kept["kinds"] = {
            name: {key: value for key, value in kind.items() if key != "parts"}
            if isinstance(kind, Mapping)
            else kind
            for name, kind in kinds.items()
        }
    return kept


def _of_used_experts(layer: Layer) -> dict[str, Any]:
    """Return what makes a layer with experts a dense one that reads as much a token."""
    if layer.experts is None:
        return {}
    wide = layer.intermediate * (layer.experts_per_token or 1) + layer.shared_intermediate
    alone = {"experts": None, "experts_per_token": None, "shared_intermediate": 0}
    return {"intermediate": wide, **alone}
