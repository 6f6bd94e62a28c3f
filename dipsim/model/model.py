"""Models: kinds of layers in order, embeddings, and the totals of weights, bytes, KV and FLOP."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from dipsim.errors import brief, first_problem
from dipsim.model.layer import SIGNALS, Layer, kind_of, layer_units
from dipsim.model.storage import Count, Part, Positions, Weights, Width
from dipsim.units import BYTES

MOST_BYTES = 2.0**43
"""Bytes of the largest model that is believed: sums of its units' bytes, in 2**-10, are exact."""
MAIN = "main"
"""The kind of layer that the model's own keys describe."""
STATE_FLOPS = 4.0
"""FLOP per value of a state and token: it is scaled and added to, multiplied by a query, summed."""
BETWEEN = "full"
"""The kind of layer between those with a window, where ``window_every`` says so."""
_OF_MODEL = {"hidden", "bits", "quant", "weights"}


class Model(Layer):
    """Geometry and storage of a transformer. Load one with `load_model`.

    It is the main kind of its layers, the kind whose units traces record. ``kinds`` holds the
    others, each by the keys in which it differs, and ``pattern`` names the kind of every layer; a
    shorter pattern repeats. Without one, every ``window_every``-th layer, the first one included,
    attends to the last ``window`` positions only. ``context`` is the longest sequence that the
    model reads.
    """

    name: str = "unnamed"
    layers: Count
    vocab: Width
    tied_embeddings: bool = False
    activation: str = "silu"
    window_every: Count = 1
    kinds: Mapping[str, Mapping[str, Any]] = {}
    pattern: tuple[str, ...] | None = None
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
    _whole: "Model | None" = PrivateAttr(default=None)
    _kept: tuple[int, ...] = PrivateAttr(default=())
    _begins: tuple[int, ...] | None = PrivateAttr(default=None)

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
        if self.pattern is not None:
            if self.window_every != 1:
                raise ValueError("give window_every or pattern, not both")
            if not 1 <= len(self.pattern) <= self.layers:
                raise ValueError(
                    f"pattern names {len(self.pattern)} layers, there are {self.layers}"
                )
        elif self.kinds:
            raise ValueError("kinds need a pattern: the kind of every layer in order")
        self._check_kinds()
        if self.experts is None and any(layer.experts for layer in self._known.values()):
            raise ValueError("the main kind of a mixture of experts is the one with experts")
        if self.total_bytes > MOST_BYTES:
            raise ValueError(
                f"the model takes {BYTES.show(self.total_bytes)}, at most "
                f"{BYTES.show(MOST_BYTES)} are believable: correct its sizes"
            )
        return self

    def _check_kinds(self) -> None:
        if MAIN in self.kinds:
            raise ValueError(f"{MAIN!r} is the kind that the model's own keys describe: rename it")
        for name in dict.fromkeys(self.pattern or ()):
            if name not in self._known:
                raise ValueError(
                    f"pattern names the kind {brief(name)}: give {', '.join(self._known)}"
                )

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

    # Layers

    @cached_property
    def _known(self) -> dict[str, Layer]:
        """The kinds of layers by name, the main one first."""
        own = {
            key: getattr(self, key) for key in Layer.model_fields if key in self.model_fields_set
        }
        found = {MAIN: Layer.model_construct(**own)}
        for name, differences in self.kinds.items():
            for key in _OF_MODEL & set(differences):
                raise ValueError(
                    f"kinds.{brief(name)}: {key} is the model's, not a kind's: drop it"
                )
            try:
                found[name] = Layer.model_validate(kind_of(own, differences))
            except ValidationError as problem:
                raise ValueError(f"kinds.{brief(name)}: {first_problem(problem)}") from None
        if self.pattern is None and self.window_every > 1 and self.mixer == "window":
            between = {"window": None, "attention": None}
            found[BETWEEN] = found[MAIN].model_copy(update=between)
        return found

    @cached_property
    def kind_names(self) -> tuple[str, ...]:
        """The name of the kind of every layer, in order."""
        if self._whole is not None:
            return tuple(self._whole.kind_names[layer] for layer in self._kept)
        if self.pattern is not None:
            return tuple(self.pattern[i % len(self.pattern)] for i in range(self.layers))
        between = BETWEEN if BETWEEN in self._known else MAIN
        return tuple(between if i % self.window_every else MAIN for i in range(self.layers))

    @cached_property
    def stack(self) -> tuple[Layer, ...]:
        """Every layer, in order; layers of one kind are one object."""
        return tuple(self._known[name] for name in self.kind_names)

    @property
    def whole(self) -> "Model":
        """The model that this one holds some layers of; itself if all."""
        return self._whole or self

    def of_layers(self, kept: Sequence[int]) -> "Model":
        """Return the model that has nothing but some of the layers, in order."""
        return self if list(kept) == list(range(self.layers)) else self._part(kept)

    def _part(self, kept: Sequence[int]) -> "Model":
        part = self.model_copy(update={"layers": len(kept)})
        part._whole, part._kept = self, tuple(kept)
        return part

    def layers_with(self, signals: Iterable[str]) -> NDArray[np.bool_]:
        """Tell which layers have units of any of the signals, bool[layers]; all, if none has."""
        units = [self.layer_units(signal) for signal in signals if signal in SIGNALS]
        found: NDArray[np.bool_] = np.any(np.reshape(units, (-1, self.layers)), axis=0)
        return found if found.any() else ~found

    def recorded_by(self, holds: NDArray[np.bool_], first: int, stop: int) -> "Model":
        """Return the model as a trace sees it that has nothing but some of its layers.

        Args:
            holds: bool[layers], layers that the trace has.
            first: of them, the first that is kept; ``stop`` is the first behind that is not. A
                layer that the trace lacks belongs to the next one that it has, and goes with it.
        """
        ends = np.flatnonzero(holds) + 1
        begins = [0, *ends[:-1].tolist(), self.layers]
        kept = range(begins[first], begins[stop])
        if holds.all():
            return self.of_layers(kept)
        part = self._part(kept)
        part._begins = tuple(begin - begins[first] for begin in begins[first:stop])
        return part

    @property
    def layers_each(self) -> NDArray[np.int64]:
        """Layers that stand for each layer of the trace, int64[layers of the trace]."""
        return self.by_recorded(lambda layer: 1).astype(np.int64)

    def by_recorded(self, of: Callable[[Layer], Any]) -> NDArray[np.float64]:
        """Return a figure of each layer of the trace, float64[layers of the trace, ...]: those that
        it lacks are added to the layer that they belong to."""
        figures = self.per_layer(of)
        return figures if self._begins is None else np.add.reduceat(figures, self._begins, axis=0)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy that works its layers out anew."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("_known", "kind_names", "stack", "_counts"):
            copied.__dict__.pop(name, None)
        return copied

    def per_layer(self, of: Callable[[Layer], Any]) -> NDArray[np.float64]:
        """Return a figure of every layer, float64[layers, ...]."""
        figures = {name: of(self._known[name]) for name in set(self.kind_names)}
        return np.array([figures[name] for name in self.kind_names], np.float64)

    @cached_property
    def _counts(self) -> list[tuple[Layer, int]]:
        """The kinds that layers have, with their numbers."""
        return [(self._known[name], many) for name, many in Counter(self.kind_names).items()]

    def in_layers(self, of: Callable[[Layer], float]) -> float:
        """Return the sum of a figure over all layers: equal ones are multiplied, not added up."""
        many: Counter[float] = Counter()
        for layer, count in self._counts:
            many[of(layer)] += count
        return sum(count * figure for figure, count in many.items())

    @property
    def alike(self) -> bool:
        """True if all layers are those of a transformer, and differ in their windows at most."""
        shapes = {
            (each.intermediate, each.experts, each.shared_intermediate, each.extra_parameters)
            for each in self.stack
        }
        return self.heads_alike and len(shapes) == 1

    @property
    def heads_alike(self) -> bool:
        """True if all layers have q, k, v and o of one shape, and cache what k and v make."""
        kept = 2 * self.kv_heads * self.head_dim
        return self._begins is None and all(
            each.heads_attend
            and (each.heads, each.kv_heads) == (self.heads, self.kv_heads)
            and (each.head_dim, each.head_values) == (self.head_dim, self.head_dim)
            and (each.position_values, each.state_values) == (kept, 0)
            for each in self.stack
        )

    def layer_units(self, signal: str) -> NDArray[np.int64]:
        """Return the units of a signal that every layer has, int64[layers].

        Layers with experts have no neurons of their own, dense ones no experts; layers whose
        mixer is not made of heads have no channels that q, k, v and o read.

        Raises:
            KeyError: a signal of no matrix of a model.
        """
        return self.per_layer(lambda layer: layer_units(layer)[signal]).astype(np.int64)

    def recorded_units(self, signal: str) -> NDArray[np.int64]:
        """Return the units of a signal that every layer of the trace has, int64[layers of the
        trace].

        Raises:
            KeyError: a signal of no matrix of a model.
        """
        return self.by_recorded(lambda layer: layer_units(layer)[signal]).astype(np.int64)

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
