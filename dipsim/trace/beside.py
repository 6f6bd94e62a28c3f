"""The arrays beside a trace's signals, vectors, decisions and routes: opened, joined, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dipsim.errors import TraceError
from dipsim.trace.decisions import DECISIONS, KeptPositions, open_kept, open_layer_modes
from dipsim.trace.layer_array import LayerArray
from dipsim.trace.npz import Member
from dipsim.trace.routes import ROUTES, open_routes
from dipsim.trace.tokens import Tokens
from dipsim.trace.vectors import VECTORS, open_vectors

BESIDE = (*VECTORS, *DECISIONS, *ROUTES)
"""Arrays that a trace may hold beside signals, or alone."""
_COMPANIONS = {**{f"{name}.scale": name for name in VECTORS[:3]}, "kept.shape": "kept"}


def open_beside(
    trace: str, members: Mapping[str, Member], meta: Mapping[str, Any]
) -> dict[str, LayerArray]:
    """Open all arrays of one file that are no signals and no marks.

    Args:
        trace: the trace's name, for error messages.
        members: all arrays of the file.
        meta: of the trace.

    Raises:
        TraceError: arrays that make none, or a scale or shape whose array is missing.
    """
    for name, owner in _COMPANIONS.items():
        if name in members and owner not in members:
            raise TraceError(f"{trace}: {name} belongs to {owner}, which is missing")
    beside: dict[str, LayerArray] = {
        key: open_vectors(trace, key, members, meta) for key in VECTORS if key in members
    }
    beside |= {key: open_routes(trace, key, members) for key in ROUTES if key in members}
    if "layer_mode" in members:
        beside["layer_mode"] = open_layer_modes(trace, members)
    if "kept" in members:
        beside["kept"] = open_kept(trace, members)
    return beside


def arrays_beside(beside: Mapping[str, LayerArray]) -> set[str]:
    """Return the names of all arrays that these are stored in."""
    return {*beside, *(name for name, owner in _COMPANIONS.items() if owner in beside)}


def join_beside(trace: str, shards: Sequence[Mapping[str, LayerArray]]) -> dict[str, LayerArray]:
    """Return the arrays of shards that have the same ones, one after another."""
    return {
        key: replace(
            array,
            trace=trace,
            parts=tuple(part for shard in shards for part in shard[key].parts),
            count=sum(shard[key].count for shard in shards),
        )
        for key, array in shards[0].items()
    }


def with_steps(beside: Mapping[str, LayerArray], rows: Tokens) -> dict[str, LayerArray]:
    """Return the arrays, of which `kept` knows the steps of all tokens.

    Raises:
        TraceError: it has another number of steps.
    """
    return {
        key: array.of_tokens(rows) if isinstance(array, KeptPositions) else array
        for key, array in beside.items()
    }


def missing(trace: str, name: str) -> TraceError:
    """Return the error of a trace that lacks an array, with the command that records it."""
    way = (
        f"record it with dipsim record MODEL t.npz --signals {name}"
        if name in VECTORS
        else "record the signal expert with dipsim record"
        if name in ROUTES
        else "write it with dipsim.TraceWriter"
    )
    return TraceError(f"{trace} holds no {name}: {way}")
