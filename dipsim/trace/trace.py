"""Traces: what a model did, token by token; independent of device, method and cache.

The format (docs/trace-format.md) is a plain `.npz`; `np.savez("t.npz", glu=abs_glu)` writes one.
A `Trace` knows shapes and marks (phase, sequence, token_id); the big arrays stay on disk and come
in blocks of tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError, brief
from dipsim.trace.beside import (
    missing,
)
from dipsim.trace.decisions import KeptPositions, LayerModes
from dipsim.trace.kept import inflated_bytes, with_kept
from dipsim.trace.layer_array import LayerArray
from dipsim.trace.npz import Array
from dipsim.trace.outline import Outline
from dipsim.trace.parts import Reading
from dipsim.trace.read_ahead import read_ahead
from dipsim.trace.routes import USED, Routes
from dipsim.trace.signal import Signal
from dipsim.trace.tokens import PREFILL
from dipsim.trace.vectors import Vectors

SUFFIX = ".npz"
_BLOCK_BYTES = 28 * 2**20  # held at a time, per signal
_UNIT_BYTES: Mapping[Reading, int] = {"scores": 4, "values": 4, "codes": 2, "sets": 2}
"""Bytes of a unit in a block, as it is decoded; of codes and sets as stored, and a copy."""
MAX_TOKENS = 2**22
KEPT_BYTES = 2**28
"""Most that arrays take to be kept inflated."""


@dataclass(frozen=True)
class Trace(Outline):
    """A trace, opened by `load_trace`; immutable.

    phase : uint8[tokens], 0 prefill, 1 decode;
    sequence : int32[tokens], non-decreasing;
    position : int64[tokens], number of earlier tokens of the same sequence;
    token_id : int32[tokens], or None where the trace has none;
    signals : by name, see `Signal`; meta : see docs/trace-format.md.
    """

    signals: Mapping[str, Signal]
    arrays: Mapping[str, LayerArray] = field(default_factory=dict)
    """Vectors and recorded decisions of the files, by name: `vectors`, `layer_modes` and
    `kept_positions` return those of this part."""
    token_id: NDArray[np.int32] | None = None
    warnings: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    """Files that it is read from; none in memory."""

    def __repr__(self) -> str:
        signals = [f"{s.name} {s.units} ({s.encoding})" for s in self.signals.values()]
        signals += self.arrays
        size = f"{self.tokens} tokens of {self.layers} layers"
        return f"Trace {brief(self.name, 60)}: {size}, {brief(', '.join(signals), 90)}"

    def blocks(self, wanted: Mapping[str, Reading]) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """Yield all tokens in blocks: (first token, end, {signal: decoded rows}).

        Args:
            wanted: how each signal is read; see `Signal.blocks` for shapes, dtypes and errors.
                `Routes` have one form.
        """
        size = min(self.block_size((name,), reading) for name, reading in wanted.items())
        last = self.first + self.tokens
        streams: list[Iterator[Array]] = []
        for name, reading in wanted.items():
            stream: Iterator[Array]
            parts: tuple[object, ...]
            if name in self.arrays:
                stream, parts = self.routes(name).blocks(size), self.arrays[name].parts
            else:
                signal = self.signals[name]
                stream, parts = signal.blocks(self.first, last, size, reading), signal.parts
            # Each deflated signal is inflated by a thread of its own; mapped ones cost little.
            streams.append(read_ahead(stream) if inflated_bytes(parts) else stream)
        start = 0
        for rows in zip(*streams, strict=True):
            yield start, start + len(rows[0]), dict(zip(wanted, rows, strict=True))
            start += len(rows[0])

    def block_size(self, names: tuple[str, ...], reading: Reading = "scores") -> int:
        """Return the number of tokens of these signals or arrays that make a block of at most
        28 MiB, each for itself."""
        row = max(
            self.arrays[name].row_bytes
            if name in self.arrays
            else _UNIT_BYTES[reading] * self.recorded_layers * self.signals[name].recorded_units
            for name in names
        )
        return max(1, min(self.tokens, _BLOCK_BYTES // max(row, 1)))

    def kept(self) -> Self:
        """Return the trace such that arrays it inflates stay in memory, for several passes over it;
        the trace itself where they take more than `KEPT_BYTES`."""
        parts = [signal.parts for signal in self.signals.values()]
        if (
            sum(map(inflated_bytes, (*parts, *(a.parts for a in self.arrays.values()))))
            > KEPT_BYTES
        ):
            return self
        signals = {key: replace(s, parts=with_kept(s.parts)) for key, s in self.signals.items()}
        arrays = {key: replace(a, parts=with_kept(a.parts)) for key, a in self.arrays.items()}
        return replace(self, signals=signals, arrays=arrays)

    def vectors(self, name: str) -> Vectors:
        """Return the vectors ``query``, ``key``, ``value`` or ``layer_io`` of these tokens.

        ``trace.vectors("query").read(0, 8)`` is float32[tokens, layers, width].

        Raises:
            TraceError: the trace does not hold them; says how they are recorded.
        """
        array = self.array(name)
        assert isinstance(array, Vectors)
        return array

    @property
    def has_routes(self) -> bool:
        """True where the experts that were used stand beside the scores of all."""
        return USED in self.arrays

    def routes(self, name: str = USED) -> Routes:
        """Return the ids of the experts that tokens used, or with ``expert.weights`` their weights.

        ``trace.routes().read(0, 8)`` is uint16[tokens, layers, k], 65535 where fewer are used.

        Raises:
            TraceError: the trace does not hold them.
        """
        array = self.array(name)
        assert isinstance(array, Routes), "beside.py opens it as such"
        return array

    def layer_modes(self) -> LayerModes:
        """Return the recorded mode of each token and layer.

        Raises:
            TraceError: the trace does not hold ``layer_mode``.
        """
        array = self.array("layer_mode")
        assert isinstance(array, LayerModes)
        return array

    def kept_positions(self) -> KeptPositions:
        """Return the recorded positions that each step of these tokens kept.

        Raises:
            TraceError: the trace does not hold ``kept``.
        """
        array = self.array("kept")
        assert isinstance(array, KeptPositions)
        return array

    def array(self, name: str) -> LayerArray:
        """Return one of `arrays`, of these tokens and layers.

        Raises:
            TraceError: the trace does not hold it; says how it is made.
        """
        if name not in self.arrays:
            raise missing(self.name, name)
        layers = (self.first_layer, self.first_layer + self.layers)
        return self.arrays[name].window(self.first, self.tokens, layers)

    def check_values(self) -> None:
        """Read all values once.

        Raises:
            TraceError: values that no trace may hold.
        """
        for name in self.arrays:
            self.array(name).check()
        for name, signal in self.signals.items():
            readings: tuple[Reading, ...] = ("values",) if signal.holds == "scores" else ("sets",)
            if signal.holds == "sets" and signal.scored:
                readings = ("sets", "scores")
            for reading in readings:
                for _ in self.blocks({name: reading}):
                    pass

    def window(self, start: int, stop: int) -> Self:
        """Return the tokens start..stop-1 as a trace of their own.

        Raises:
            TraceError: an empty window or one outside the trace.
        """
        cut = super().window(start, stop)
        return cut if self.token_id is None else replace(cut, token_id=self.token_id[start:stop])

    def layer_window(self, start: int, stop: int) -> Self:
        """Return the layers start..stop-1 as a trace of their own.

        Raises:
            TraceError: an empty window or one outside the trace.
        """
        cut = super().layer_window(start, stop)
        layers = (cut.first_layer, cut.first_layer + cut.layers)
        signals = {key: replace(signal, layers=layers) for key, signal in self.signals.items()}
        return replace(cut, signals=signals)

    def describe(self) -> dict[str, Any]:
        """Return shapes, counts of tokens, meta and hash as plain values."""
        return {
            "name": self.name,
            "tokens": self.tokens,
            "prefill_tokens": int((self.phase == PREFILL).sum()),
            "sequences": len(np.unique(self.sequence)),
            "layers": self.layers,
            "signals": {
                name: signal.describe(self.first_layer, self.layers)
                for name, signal in self.signals.items()
            },
            "arrays": {name: self.array(name).describe() for name in self.arrays},
            "meta": dict(self.meta),
            "hash": self.hash,
        }


def recording(outline: Outline) -> Trace:
    """Return the trace that an outline is.

    Raises:
        TraceError: it holds no values.
    """
    if not isinstance(outline, Trace):
        raise TraceError(f"{outline.name} holds no values: record a trace and replay it")
    return outline
