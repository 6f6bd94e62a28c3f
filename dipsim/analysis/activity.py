"""Statistics of a trace's active sets: overlap of successive tokens, popularity of units."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import ModelError
from dipsim.methods.contract import Group, Method
from dipsim.model import load_model
from dipsim.replay.active_sets import active_sets
from dipsim.trace import Trace, load_trace
from dipsim.trace.encoding import unpack_sets
from dipsim.trace.layer_units import KEY
from dipsim.views import shortened

DENSITIES = (0.25, 0.5, 0.75)
USUAL = 0.5
"""Share of the units with the largest scores that counts as active."""
TOP = 0.1
"""Share of the units that `Activity.top_share` calls most used."""
SETS_BYTES = 48 * 2**20  # packed sets that are held for replays


@dataclass(frozen=True)
class Activity:
    """Statistics of the active sets of one signal.

    Where the trace holds scores, units with the largest ones, a share called density, are active.
    """

    units: NDArray[np.int64]
    """int64[layers], units of each layer."""
    overlap: dict[float, float]
    """Share of a token's active units that the token before used too, per density.

    Recorded sets (1.0) and experts whose number per token is known have one density only. Pairs of
    tokens of different sequences are left out; empty without pairs.
    """
    active: float
    """Mean share of the units that are active (recorded sets, or scores at the usual density)."""
    uses: NDArray[np.int64]
    """int64[layers, units], number of tokens that use each unit."""
    sets: Trace
    """Active sets of the first tokens as a trace of their own, for replays."""

    __repr__ = shortened

    @property
    def top_share(self) -> float:
        """Share of all uses that go to the 10 % most used units of a layer; mean over layers."""
        shares = []
        for uses in self._each:
            most = max(1, int(TOP * len(uses) + 1e-9))
            shares.append(-np.sort(-uses)[:most].sum() / max(1, uses.sum()))
        return float(np.mean(shares)) if shares else 0.0

    @property
    def gini(self) -> float:
        """Gini coefficient of the uses of a layer's units (0: all alike); mean over layers."""
        found = []
        for uses in self._each:
            n, total = len(uses), max(1, uses.sum())
            weight = 2 * np.arange(1, n + 1) - n - 1
            found.append((np.sort(uses) * weight).sum() / (n * total))
        return float(np.mean(found)) if found else 0.0

    def lorenz(self) -> NDArray[np.float64]:
        """Return float64[units + 1]: share of all uses of the most used units, mean over layers."""
        used = self.uses[self.units > 0]
        ranked = -np.sort(-used, axis=1) / np.maximum(used.sum(axis=1), 1)[:, None]
        return np.concatenate([[0.0], np.cumsum(ranked.mean(axis=0))])

    @property
    def _each(self) -> list[NDArray[np.int64]]:
        """The uses of each layer's own units, of layers that have some."""
        pairs = zip(self.uses, self.units.tolist(), strict=True)
        return [uses[:units] for uses, units in pairs if units]


def activity(trace: Trace, name: str) -> Activity:
    """Read one signal of a trace once and return the statistics of its active sets.

    Raises:
        TraceError: invalid values in the trace.
    """
    signal = trace.signals[name]
    densities = _densities(trace, name)
    own = trace.layer_units(name)
    each = tuple(own.tolist()) if (own != signal.units).any() else ()
    groups = tuple(
        Group(
            name,
            signal.units,
            (),
            "sets" if density == 1 else "top-k",
            density,
            layer_units=each,
        )
        for density in densities
    )
    usual = len(densities) // 2
    uses = np.zeros((trace.layers, signal.units), np.int64)
    shared, active = np.zeros(len(groups)), np.zeros(len(groups))
    members = 0
    previous: list[NDArray[np.uint64]] = []
    octets = -(-signal.units // 8)
    most = max(1, SETS_BYTES // (trace.layers * octets))
    kept = np.zeros((min(trace.tokens, most), trace.layers, octets), np.uint8)
    for start, stop, sets in active_sets(trace, Method("inspect", groups)):
        inside = np.diff(trace.sequence[max(start - 1, 0) : stop]) == 0
        for i, words in enumerate(sets):
            rows = np.concatenate([previous[i], words]) if previous else words
            both = np.bitwise_count(rows[1:] & rows[:-1]).sum(axis=(1, 2), dtype=np.int64)
            size = np.bitwise_count(rows[1:]).sum(axis=(1, 2), dtype=np.int64)
            shared[i] += both[inside].sum()
            active[i] += size[inside].sum()
        for row in sets[usual]:
            uses += unpack_sets(row, signal.units)
        members += int(np.bitwise_count(sets[usual]).sum(dtype=np.int64))
        end = min(stop, len(kept))
        if start < end:
            packed = np.ascontiguousarray(sets[usual][: end - start]).view(np.uint8)
            kept[start:end] = packed[..., :octets]
        previous = [words[-1:] for words in sets]
    overlap = {
        density: float(shared[i] / active[i]) for i, density in enumerate(densities) if active[i]
    }
    return Activity(
        units=own,
        overlap=overlap,
        active=members / max(1, trace.tokens * int(own.sum())),
        uses=uses,
        sets=_as_trace(trace, name, kept),
    )


def _densities(trace: Trace, name: str) -> tuple[float, ...]:
    """Return the densities to look at; 1 stands for sets as recorded."""
    signal = trace.signals[name]
    if signal.holds == "sets":
        return (1.0,)
    known = _experts_per_token(trace) if name == "expert" else None
    return DENSITIES if known is None else (known / max(1, trace.widest(name)),)


def _experts_per_token(trace: Trace) -> int | None:
    """Return the number of experts per token that the trace or its model states, if any."""
    count = trace.meta.get("experts_per_token")
    if count is None and trace.model is not None:
        named = {"name": trace.model} if isinstance(trace.model, str) else trace.model
        with suppress(ModelError):  # a trace of an unknown model can be inspected too
            count = load_model(named).experts_per_token
    units = trace.widest("expert")
    return count if isinstance(count, int) and 0 < count < units else None


def _as_trace(trace: Trace, name: str, packed: NDArray[np.uint8]) -> Trace:
    signal = trace.signals[name]
    declared = {"encoding": "bits", "units": signal.units, KEY: trace.layer_units(name).tolist()}
    meta = {"signals": {name: declared}}
    marks = {"phase": trace.phase[: len(packed)], "sequence": trace.sequence[: len(packed)]}
    return load_trace({name: packed, **marks, "meta": meta})
