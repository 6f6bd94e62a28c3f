"""Outlines: all that is known of a trace but its values.

A model that is yet to run has an outline too: its layers and signals are known before any value
is. Methods, models and budgets are worked out on it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError, brief
from dipsim.trace.encoding import Encoding
from dipsim.trace.layer_units import KEY
from dipsim.trace.tokens import Tokens
from dipsim.views import shortened

_MOST_DENSE = 2.0**40
"""Bytes of a layer that are believed."""


@dataclass(frozen=True, kw_only=True)
class SignalOutline:
    """A vector per layer and token, without its values."""

    name: str
    encoding: Encoding
    """Storage of the values; of a running model float32."""
    recorded_units: int
    scored: bool
    """True if scores can be read; False for sets without scores."""
    declared: Mapping[str, Any] = field(default_factory=dict)
    """Entry of the signal in ``meta.signals``: ``unit_bytes``, ``slices`` and more."""
    cluster: int = 1
    """Number of neighbouring recorded units that are read as one."""
    recorded_layer_units: tuple[int, ...] = ()
    """Recorded units of each layer of the file or model; empty where all layers have all."""

    @property
    def units(self) -> int:
        """Number of units per token and layer, after clustering."""
        return self.recorded_units // self.cluster

    def units_of(self, first: int, layers: int) -> NDArray[np.int64]:
        """Return the units that layers have, the ``first`` one of the file first, int64[layers]."""
        if not self.recorded_layer_units:
            return np.full(layers, self.units)
        return np.array(self.recorded_layer_units[first : first + layers]) // self.cluster

    def describe(self, first: int, layers: int) -> dict[str, Any]:
        """Return plain values; ``layer_units`` only where layers differ. Arguments: `units_of`."""
        units = self.units_of(first, layers)
        differ = {} if (units == self.units).all() else {KEY: units.tolist()}
        return {
            "holds": self.holds,
            "encoding": self.encoding,
            "scores": self.scored,
            "units": self.units,
            **differ,
        }

    @property
    def holds(self) -> Literal["scores", "sets"]:
        """``scores`` that leave the choice of units to a method, or ``sets`` already chosen."""
        return "sets" if self.encoding in ("bool", "bits", "sparse") else "scores"


@dataclass(frozen=True)
class Outline:
    """Tokens, layers and signals of a trace, or of a model that runs; immutable.

    signals : by name, see `SignalOutline`; meta : see docs/trace-format.md.
    """

    name: str
    rows: Tokens
    """Phases, sequences and positions."""
    layers: int
    signals: Mapping[str, SignalOutline]
    meta: Mapping[str, Any]
    hash: str
    """SHA-256 (hexadecimal) of the contents of all arrays, independent of their compression; empty
    where there are none."""
    recorded_layers: int
    """Number of layers of the file or model; more than ``layers`` after `layer_window`."""
    first: int = 0
    """Row of the file that is token 0 here; above 0 after `window`."""
    first_layer: int = 0
    """Layer of the file that is layer 0 here; above 0 after `layer_window`."""

    __repr__ = shortened

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.rows)

    @property
    def phase(self) -> NDArray[np.uint8]:
        """[tokens] 0 prefill, 1 decode."""
        return self.rows.phase

    @property
    def sequence(self) -> NDArray[np.int32]:
        """[tokens] number of the sequence, non-decreasing."""
        return self.rows.sequence

    @property
    def position(self) -> NDArray[np.int64]:
        """[tokens] tokens of the same sequence before each."""
        return self.rows.position

    @property
    def has_routes(self) -> bool:
        """True where the experts that were used stand beside the scores of all."""
        return False

    @property
    def model(self) -> Any:
        """The value of ``meta.model``: a preset's name, a geometry, or None."""
        return self.meta.get("model")

    @property
    def weight_format(self) -> str | None:
        """The weight format that ``meta.weight_format`` names; None where it names none."""
        stated = self.meta.get("weight_format")
        return stated[:40] if isinstance(stated, str) and stated else None

    @property
    def states_bytes(self) -> bool:
        """True where the trace says what experts and the other weights of a layer take, as those
        do that a runtime recorded."""
        expert = self.signals.get("expert")
        return expert is not None and "unit_bytes" in expert.declared and "dense_bytes" in self.meta

    def layer_units(self, signal: str) -> NDArray[np.int64]:
        """Return the units of a signal that each layer has, int64[layers]."""
        return self.signals[signal].units_of(self.first_layer, self.layers)

    def widest(self, signal: str) -> int:
        """Return the most units of a signal that any layer has."""
        return int(self.layer_units(signal).max())

    def with_layer_units(self, units: Mapping[str, NDArray[np.int64]]) -> Self:
        """Return the trace whose layers have so many recorded units of some signals.

        Args:
            units: by signal int64[layers of the file].
        """
        signals = dict(self.signals)
        for name, counts in units.items():
            known = replace(signals[name], recorded_layer_units=tuple(counts.tolist()))
            signals[name] = known
        return replace(self, signals=signals) if units else self

    @property
    def dense_bytes(self) -> NDArray[np.float64]:
        """[layers] bytes of the weights that every token uses in a layer, by ``meta.dense_bytes``;
        zeros where it states none.

        Raises:
            TraceError: not a number from 0 up for each layer.
        """
        stated = self.meta.get("dense_bytes")
        if stated is None:
            return np.zeros(self.layers)
        values = stated if isinstance(stated, list) else [stated] * self.recorded_layers
        plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if (
            len(values) != self.recorded_layers
            or not plain
            or not all(0 <= value <= _MOST_DENSE for value in values)
        ):
            raise TraceError(
                f"{self.name}: meta.dense_bytes must be a number from 0 to {_MOST_DENSE:g}, or "
                f"{self.recorded_layers} of them, one per layer"
            )
        return np.array(values, np.float64)[self.first_layer :][: self.layers]

    def of_tokens(self, name: str, tokens: Tokens) -> "Outline":
        """Return the outline of other tokens of the same model, which has no values."""
        return Outline(
            name=name,
            rows=tokens,
            layers=self.layers,
            signals=self.signals,
            meta=self.meta,
            hash=self.hash,
            recorded_layers=self.recorded_layers,
            first_layer=self.first_layer,
        )

    def part(
        self, tokens: str | None = None, layers: str | None = None, sequence: str | None = None
    ) -> Self:
        """Return the tokens, layers and sequences "A:B" as a trace of their own.

        Either side of "A:B" may be left out; None keeps all. Sequences are counted from 0 in their
        order; tokens are counted within the sequences kept.

        Raises:
            TraceError: not of that form, or outside the trace.
        """
        cut = self
        if sequence is not None:
            starts = [*np.flatnonzero(self.rows.begins_sequence()), self.tokens]
            start, stop = _range("sequence", sequence, len(starts) - 1)
            cut = cut.window(int(starts[start]), int(starts[stop]))
        if tokens is not None:
            cut = cut.window(*_range("tokens", tokens, cut.tokens))
        if layers is not None:
            cut = cut.layer_window(*_range("layers", layers, self.layers))
        return cut

    def calibration_rows(self, tokens: str | None) -> tuple[int, int]:
        """Return the tokens "A:B" of ``--calibrate-tokens`` as (A, B), and None as (0, 0).

        Raises:
            TraceError: not of that form, or outside the trace.
        """
        return (0, 0) if tokens is None else self.token_rows("calibrate-tokens", tokens)

    def token_rows(self, option: str, tokens: str) -> tuple[int, int]:
        """Return the tokens "A:B" of an option as (A, B).

        Raises:
            TraceError: not of that form, or outside the trace.
        """
        start, stop = _range(option, tokens, self.tokens)
        _check_range(option, start, stop, self.tokens)
        return start, stop

    def window(self, start: int, stop: int) -> Self:
        """Return the tokens start..stop-1 as a trace of their own.

        Raises:
            TraceError: an empty window or one outside the trace.
        """
        _check_range("tokens", start, stop, self.tokens)
        return replace(self, rows=self.rows.window(start, stop), first=self.first + start)

    def layer_window(self, start: int, stop: int) -> Self:
        """Return the layers start..stop-1 as a trace of their own.

        Raises:
            TraceError: an empty window or one outside the trace.
        """
        _check_range("layers", start, stop, self.layers)
        return replace(self, layers=stop - start, first_layer=self.first_layer + start)

    def deeper(self, tokens: int) -> Self:
        """Return the trace with ``tokens`` more tokens before each of its sequences."""
        rows = Tokens(self.rows.phase, self.rows.sequence, self.rows.position + tokens)
        return replace(self, rows=rows) if tokens else self

    def clustered(self, size: int) -> Self:
        """Return the trace with every ``size`` neighbouring units of a signal read as one.

        Experts, and signals whose number of units ``size`` does not divide, stay as they are.
        """
        if size == 1:
            return self
        signals = dict(self.signals)
        for name, signal in signals.items():
            counts = (signal.recorded_units, *signal.recorded_layer_units)
            if name != "expert" and all(count % size == 0 for count in counts):
                signals[name] = replace(signal, cluster=size)
        return replace(self, signals=signals)


def _range(what: str, text: str, count: int) -> tuple[int, int]:
    """Parse "A:B", a range within 0..count, of the option ``what``."""
    if not isinstance(text, str):
        raise TraceError(f"--{what} {brief(repr(text), 60)}: write the text 'A:B', e.g. '0:64'")
    match = re.fullmatch(r"\s*(\d{0,12})\s*:\s*(\d{0,12})\s*", text, re.ASCII)
    if match is None:
        raise TraceError(f"--{what} {text!r}: write A:B, e.g. 0:64")
    start, stop = int(match[1] or 0), int(match[2] or count)
    _check_range(what, start, stop, count)
    return start, stop


def _check_range(what: str, start: int, stop: int, count: int) -> None:
    if not 0 <= start < stop <= count:
        raise TraceError(
            f"{what} {start}:{stop} of a trace of {count}: write A:B with 0 <= A < B <= {count}"
        )
