"""A router's rule, as ``meta.router`` of a trace describes it: what its scores weigh.

A router scores its experts by a function of its logits (softmax, sigmoid, ...), perhaps adds a bias
for the choice alone, perhaps closes groups of experts, and takes the k best. A trace holds the
scores z that it *selects by*; the weight of an expert, which is never biased, follows from them:

    no bias     p = softmax(z), of probabilities z = log of them
    bias b      p = (z - b) / sum of (z - b),  0 where an expert is closed
    unknown     none
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dipsim.errors import TraceError, brief
from dipsim.trace import Outline

SOFTMAX, BIASED, UNKNOWN = 0, 1, 2
"""`Weighing.kind`."""


class Weighing(NamedTuple):
    """The rule by which weights of experts follow from the scores that a router selects by."""

    kind: int = SOFTMAX
    bias: tuple[tuple[float, ...], ...] = ()
    """[layers][experts] added to the scores for the choice; empty without."""

    def numbers(self, layer: int) -> tuple[float, ...]:
        """Return the kind and the biases of a layer, as kernels take them."""
        return (float(self.kind), *(self.bias[layer] if self.bias else ()))

    def in_layers(self, layers: Sequence[int]) -> "Weighing":
        """Return the weighing of some layers."""
        return self._replace(bias=tuple(self.bias[layer] for layer in layers if self.bias))


BY_SOFTMAX = Weighing()


def weighing_of(trace: Outline) -> Weighing:
    """Return how the weights of a trace's experts follow from its scores.

    Raises:
        TraceError: ``meta.router`` is no object, or its bias is none of these experts.
    """
    router = _router(trace)
    if router.get("function") == "unknown":
        return Weighing(UNKNOWN)
    bias = router.get("bias")
    if bias is None:
        return Weighing()
    layers, units = trace.recorded_layers, trace.signals["expert"].recorded_units
    rows = bias if isinstance(bias, list) else []
    fits = len(rows) == layers and all(isinstance(row, list) and len(row) == units for row in rows)
    if not fits or not all(_is_number(value) for row in rows for value in row):
        raise TraceError(
            f"{trace.name}: meta.router.bias must be numbers [layers][experts], here "
            f"{layers} lists of {units}"
        )
    own = rows[trace.first_layer : trace.first_layer + trace.layers]
    return Weighing(BIASED, tuple(tuple(map(float, row)) for row in own))


def selection_known(trace: Outline) -> bool:
    """Return whether a router selects by the scores of a trace, as far as it says.

    Raises:
        TraceError: ``meta.router`` is no object.
    """
    return bool(_router(trace).get("selection") != "unknown")


def _router(trace: Outline) -> Mapping[str, Any]:
    router = trace.meta.get("router")
    if router is None:
        return {}
    if not isinstance(router, Mapping):
        raise TraceError(
            f"{trace.name}: meta.router is {brief(repr(router), 60)}: it must be an object, e.g. "
            '{"function": "sigmoid", "bias": [[...], ...]}'
        )
    return router


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) < 1e300 and math.isfinite(value)
