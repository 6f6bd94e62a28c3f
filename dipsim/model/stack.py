"""The layers of a model: their kinds, which of them each one is, and those that a trace has."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr, ValidationError, model_validator

from dipsim.errors import brief, first_problem
from dipsim.model.layer import SIGNALS, Layer, kind_of, layer_units
from dipsim.model.storage import Count

MAIN = "main"
"""The kind of layer that the model's own keys describe."""
BETWEEN = "full"
"""The kind of layer between those with a window, where ``window_every`` says so."""
_OF_MODEL = {"hidden", "bits", "quant", "weights"}


class Stack(Layer):
    """Layers in order; by its own keys it is the main kind of them, whose units traces record.

    ``kinds`` holds the other kinds, each by the keys in which it differs, and ``pattern`` names
    the kind of every layer; a shorter pattern repeats. Without one, every ``window_every``-th
    layer, the first one included, attends to the last ``window`` positions only.
    """

    layers: Count
    window_every: Count = 1
    kinds: Mapping[str, Mapping[str, Any]] = {}
    pattern: tuple[str, ...] | None = None
    _whole: Self | None = PrivateAttr(default=None)
    _kept: tuple[int, ...] = PrivateAttr(default=())
    _begins: tuple[int, ...] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _checked_stack(self) -> Self:
        if self.pattern is not None:
            if self.window_every != 1:
                raise ValueError("give window_every or pattern, not both")
            if not 1 <= len(self.pattern) <= self.layers:
                raise ValueError(
                    f"pattern names {len(self.pattern)} layers, there are {self.layers}"
                )
        elif self.kinds:
            raise ValueError("kinds need a pattern: the kind of every layer in order")
        if MAIN in self.kinds:
            raise ValueError(f"{MAIN!r} is the kind that the model's own keys describe: rename it")
        for name in dict.fromkeys(self.pattern or ()):
            if name not in self._known:
                raise ValueError(
                    f"pattern names the kind {brief(name)}: give {', '.join(self._known)}"
                )
        if self.experts is None and any(layer.experts for layer in self._known.values()):
            raise ValueError("the main kind of a mixture of experts is the one with experts")
        return self

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
    def whole(self) -> Self:
        """The model that this one holds some layers of; itself if all."""
        return self._whole or self

    def of_layers(self, kept: Sequence[int]) -> Self:
        """Return the model that has nothing but some of the layers, in order."""
        return self if list(kept) == list(range(self.layers)) else self._part(kept)

    def _part(self, kept: Sequence[int]) -> Self:
        part = self.model_copy(update={"layers": len(kept)})
        part._whole, part._kept = self, tuple(kept)
        return part

    def layers_with(self, signals: Iterable[str]) -> NDArray[np.bool_]:
        """Tell which layers have units of any of the signals, bool[layers]; all, if none has."""
        units = [self.layer_units(signal) for signal in signals if signal in SIGNALS]
        found: NDArray[np.bool_] = np.any(np.reshape(units, (-1, self.layers)), axis=0)
        return found if found.any() else ~found

    def recorded_by(self, holds: NDArray[np.bool_], first: int, stop: int) -> Self:
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
