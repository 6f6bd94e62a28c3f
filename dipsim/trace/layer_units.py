"""Layers that have fewer units than others: dense first layers of a mixture of experts, experts in
every second layer, MLPs of different widths.

A signal is at least as wide as its widest layer. ``meta.signals.<signal>.layer_units`` states how
many units each layer has; what lies beyond them is no unit and is never active.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError, brief
from dipsim.trace.npz import Array

KEY = "layer_units"


def read_layer_units(
    what: str, declared: Mapping[str, Any], layers: int, units: int
) -> tuple[int, ...]:
    """Return the units of each layer, as a signal's entry in meta states them; empty where all
    layers have ``units``.

    Args:
        what: the trace and the signal, for messages.

    Raises:
        TraceError: not a number from 0 to ``units`` for each layer.
    """
    given = declared.get(KEY)
    if given is None:
        return ()
    plain = isinstance(given, list) and all(type(count) is int for count in given)
    if not plain or len(given) != layers or not all(0 <= count <= units for count in given):
        raise TraceError(
            f"{what}: {KEY} must be a list of {layers} whole numbers, one per layer, from 0 to its "
            f"{units} units; given {brief(repr(given), 60)}"
        )
    return tuple(given) if min(given) < units else ()


def refuse_beyond(what: str, rows: Array, counts: Sequence[int], first: tuple[int, int]) -> None:
    """Refuse units that are active, or have a score, where a layer has none.

    Args:
        what: the trace and the signal, for messages.
        rows: uint64[n, layers, words] sets, or [n, layers, units] scores, codes or bool.
        counts: units of each layer.
        first: token and layer that stand first.

    Raises:
        TraceError: there are some; names the first.
    """
    for layer, count in enumerate(counts):
        if rows.dtype == np.uint64:
            beyond = rows[:, layer] & ~_below(count, rows.shape[2])
        else:
            beyond = rows[:, layer, count:]
        used = beyond.any(axis=1)
        if used.any():
            token, number = first[0] + int(used.argmax()), first[1] + layer
            raise TraceError(_beyond(what, token, count, number))


def refuse_written(key: str, rows: Array, meta: Mapping[str, Any], token: int) -> None:
    """Refuse rows of a signal that a trace of such a meta may not hold; as `refuse_beyond`.

    Args:
        rows: [n, layers, units] scores or bool.
        token: the one that stands first.
    """
    what, (_, layers, units) = f"signal {key}", rows.shape
    counts = read_layer_units(what, meta.get("signals", {}).get(key, {}), layers, units)
    refuse_beyond(what, rows, counts, (token, 0))


def refuse_listed(key: str, ids: Array, units: int, meta: Mapping[str, Any], token: int) -> None:
    """Refuse ids of a signal that a trace of such a meta may not hold; as `refuse_written`.

    Args:
        ids: int[n, layers, k].
        units: of the signal.
    """
    what, layers = f"signal {key}", ids.shape[1]
    counts = read_layer_units(what, meta.get("signals", {}).get(key, {}), layers, units)
    for layer, count in enumerate(counts):
        beyond = (ids[:, layer] >= count).any(axis=1)
        if beyond.any():
            raise TraceError(_beyond(what, token + int(beyond.argmax()), count, layer))


def _beyond(what: str, token: int, count: int, layer: int) -> str:
    return (
        f"{what}: token {token} uses units beyond the {count} that {KEY} gives layer {layer}: "
        "correct it, or store 0 there"
    )


def _below(count: int, words: int) -> NDArray[np.uint64]:
    """Return uint64[words], the set of the first ``count`` ids."""
    bits = np.arange(64 * words) < count
    return np.packbits(bits, bitorder="little").view(np.uint64)
