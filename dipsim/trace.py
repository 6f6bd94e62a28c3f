"""Traces: what a model did, token by token; independent of device, method and cache.

The format (docs/trace-format.md) is a plain `.npz`; `np.savez("t.npz", glu=abs_glu)` writes one.
A `Trace` knows shapes and marks; the big arrays stay on disk and come in blocks of tokens.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim import files
from dipsim.encoding import decode_log8, pack_sets, widen_bits, widen_halves
from dipsim.errors import TraceError
from dipsim.npz import Array, InMemory, Member, open_npz

FOLDER, SUFFIX = "traces", ".npz"
FORMAT, VERSION = "dipsim-trace", 1
SIGNALS = ("mlp_input", "gate", "up", "glu", "expert", "attn_input", "attn_output")
_MARKS = ("phase", "sequence", "token_id", "meta")
_BLOCK_BYTES = 32 * 2**20  # decoded scores held at a time, per signal
_ROW_BYTES = 256 * 2**20  # one token of one signal: far above any real model
MAX_TOKENS = 2**22
PREFILL, DECODE = 0, 1
_INFINITY_BITS = 0x7F800000  # of float32; with a sign the bits are more

Encoding = Literal["float16", "float32", "float64", "log8", "bool", "bits"]
_BY_DTYPE: dict[str, Encoding] = {
    "float16": "float16",
    "float32": "float32",
    "float64": "float64",
    "bool": "bool",
}


@dataclass(frozen=True)
class Signal:
    """A vector per layer and token: scores, or sets of active units."""

    name: str
    encoding: Encoding
    units: int
    trace: str
    """Name of the trace, for messages."""
    declared: Mapping[str, Any]
    """What ``meta.signals`` says of it: ``unit_bytes``, ``slices`` and more."""
    _member: Member = field(repr=False)

    @property
    def holds(self) -> Literal["scores", "sets"]:
        """Scores leave the choice of units to a method; sets are already chosen."""
        return "sets" if self.encoding in ("bool", "bits") else "scores"

    def blocks(self, first: int, last: int, block: int) -> Iterator[Array]:
        """Tokens first..last-1, decoded and checked, at most ``block`` at a time.

        Yields:
            scores : float32[n, layers, units], or sets : uint64[n, layers, words].

        Raises:
            TraceError: NaN, infinite or negative scores, bits beyond the units.
        """
        start = first
        for raw in self._member.rows(first, last, block):
            yield self._decoded(raw, start)
            start += len(raw)

    def _decoded(self, raw: Array, start: int) -> Array:
        if self.encoding == "bool":
            if raw.size and raw.view(np.uint8).max() > 1:
                raise TraceError(
                    f"{self.trace}: signal {self.name}: bool bytes other than 0 and 1; damaged file"
                )
            return pack_sets(raw)
        if self.encoding == "bits":
            spare = raw.shape[-1] * 8 - self.units
            if spare and (raw[..., -1] >> (8 - spare)).any():
                raise TraceError(
                    f"{self.trace}: signal {self.name}: bits beyond its {self.units} units are set"
                )
            return widen_bits(raw)
        if self.encoding == "log8":
            return decode_log8(raw)
        if self.encoding == "float16":
            scores = widen_halves(raw)
        else:
            with np.errstate(over="ignore"):
                scores = np.array(raw, np.float32)  # a copy: kernels take plain, writeable arrays
        if scores.view(np.uint32).max(initial=0) < _INFINITY_BITS:  # finite, and none has a sign
            return scores
        if self.name != "expert" and not (scores.size == 0 or scores.min() >= 0):
            self._refuse(scores, start)
        if scores.size and not np.isfinite(scores.max()):
            self._refuse(scores, start)
        if self.name != "expert" and np.signbit(scores).any():
            np.abs(scores, out=scores)  # -0.0 is 0: kernels compare scores by their bits
        return scores

    def _refuse(self, scores: NDArray[np.float32], start: int) -> None:
        bad = ~np.isfinite(scores)
        if self.name != "expert":
            bad |= scores < 0
        token, layer, unit = (int(i) for i in np.argwhere(bad)[0])
        raise TraceError(
            f"{self.trace}: signal {self.name}: score {scores[token, layer, unit]} at token "
            f"{start + token}, layer {layer}, unit {unit}; scores are finite and >= 0 "
            "(save the absolute value)"
        )


@dataclass(frozen=True)
class Trace:
    """A trace, opened by `load_trace`; immutable.

    phase : uint8[tokens] (0 prefill, 1 decode); sequence : int32[tokens], non-decreasing;
    position : int64[tokens], tokens of the same sequence before each.
    """

    name: str
    tokens: int
    layers: int
    signals: Mapping[str, Signal]
    phase: NDArray[np.uint8]
    sequence: NDArray[np.int32]
    position: NDArray[np.int64]
    meta: Mapping[str, Any]
    hash: str
    """Identifies the contents of all arrays, whatever the compression (hexadecimal)."""
    warnings: tuple[str, ...] = ()
    first: int = 0
    """The row of the file that is token 0 here (after `window`)."""

    @property
    def model(self) -> Any:
        """What ``meta.model`` says: a preset's name, a geometry, or None."""
        return self.meta.get("model")

    def blocks(self, names: tuple[str, ...]) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """All tokens in blocks: (first token, end, {signal: decoded rows}); see `Signal.blocks`."""
        row = max(4 * self.layers * self.signals[name].units for name in names)
        size = max(1, min(self.tokens, _BLOCK_BYTES // max(row, 1)))
        streams = [
            self.signals[name].blocks(self.first, self.first + self.tokens, size) for name in names
        ]
        start = 0
        for rows in zip(*streams, strict=True):
            yield start, start + len(rows[0]), dict(zip(names, rows, strict=True))
            start += len(rows[0])

    def part(self, tokens: str | None) -> "Trace":
        """The tokens "A:B" (either side may be left out); None is all of them.

        Raises:
            TraceError: not of that form, or outside the trace.
        """
        if tokens is None:
            return self
        match = re.fullmatch(r"\s*(\d{0,12})\s*:\s*(\d{0,12})\s*", tokens, re.ASCII)
        if match is None:
            raise TraceError(f"--tokens {tokens!r}: write A:B, e.g. 0:64")
        return self.window(int(match[1] or 0), int(match[2] or self.tokens))

    def window(self, start: int, stop: int) -> "Trace":
        """The tokens start..stop-1 as a trace of their own.

        Raises:
            TraceError: an empty window or one outside the trace.
        """
        if not 0 <= start < stop <= self.tokens:
            raise TraceError(
                f"tokens {start}:{stop} of a trace of {self.tokens}: "
                f"write A:B with 0 <= A < B <= {self.tokens}"
            )
        return replace(
            self,
            tokens=stop - start,
            phase=self.phase[start:stop],
            sequence=self.sequence[start:stop],
            position=self.position[start:stop],
            first=self.first + start,
        )

    def describe(self) -> dict[str, Any]:
        """Shapes, marks and meta as plain values."""
        return {
            "name": self.name,
            "tokens": self.tokens,
            "prefill_tokens": int((self.phase == PREFILL).sum()),
            "sequences": len(np.unique(self.sequence)),
            "layers": self.layers,
            "signals": {
                signal.name: {
                    "holds": signal.holds,
                    "encoding": signal.encoding,
                    "units": signal.units,
                }
                for signal in self.signals.values()
            },
            "meta": dict(self.meta),
            "hash": self.hash,
        }

    def begins_sequence(self) -> NDArray[np.bool_]:
        """[tokens] whether a token is the first of its sequence here."""
        begins: NDArray[np.bool_] = np.diff(self.sequence, prepend=self.sequence[0] - 1) != 0
        return begins


def load_trace(given: "str | os.PathLike[str] | Mapping[str, Any] | Trace") -> Trace:
    """A trace by path, by the name of a shipped one, or from arrays in memory.

    Args:
        given: ``"t.npz"``, ``"smollm2-chat"``, or ``{"glu": abs_glu, ...}`` with the arrays of
            docs/trace-format.md (``meta`` may be a dict).

    Raises:
        TraceError: missing, unreadable or hostile file; arrays that make no trace.
    """
    if isinstance(given, Trace):
        return given
    if isinstance(given, Mapping):
        arrays = _as_arrays(given)
        return _assemble("arrays", {k: InMemory(v) for k, v in arrays.items()})
    path = files.find(given, FOLDER, SUFFIX)
    if path is None:
        known = ", ".join(trace_names())
        raise TraceError(f"no trace {str(given)!r}: give an .npz file, or a shipped one: {known}")
    return _assemble(str(given), open_npz(path))


def trace_names() -> list[str]:
    """Names of the shipped traces."""
    return files.shipped_names(FOLDER, SUFFIX)


def save_trace(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write arrays (and ``meta``, a dict) as a deflated `.npz`, whole or not at all."""
    members = _as_arrays(arrays)
    with files.whole_file(Path(path)) as handle:
        np.savez_compressed(handle, **members)  # type: ignore[arg-type]


def _as_arrays(given: Mapping[str, Any]) -> dict[str, Array]:
    arrays = {}
    for key, value in given.items():
        try:
            arrays[key] = np.asarray(json.dumps(value) if key == "meta" else value)
        except (TypeError, ValueError) as problem:
            raise TraceError(f"array {key!r}: {str(problem).splitlines()[0]}") from None
        if arrays[key].dtype.hasobject:
            raise TraceError(f"array {key!r} holds Python objects: give numbers")
    return arrays


def _assemble(name: str, members: Mapping[str, Member]) -> Trace:
    warnings: list[str] = []
    meta = _read_meta(name, members)
    declared = meta.get("signals", {})
    if not isinstance(declared, dict) or not all(isinstance(v, dict) for v in declared.values()):
        raise TraceError(f"{name}: meta.signals must map a signal's name to its properties")
    for signal in declared:
        if signal not in members or signal not in SIGNALS:
            raise TraceError(f"{name}: meta.signals names {signal!r}, which is no array here")
    signals = {}
    for key in SIGNALS:
        if key in members:
            signals[key] = _signal(name, key, members, declared.get(key, {}))
            if signals[key].encoding == "float64":
                warnings.append(f"{name}: signal {key} is float64; rounded to float32")
    known = {*SIGNALS, *_MARKS, *(f"{key}.max" for key in signals)}
    warnings += [f"{name}: unknown array {key!r} ignored" for key in members if key not in known]
    if not signals:
        found = ", ".join(members) or "nothing"
        raise TraceError(f"{name}: no signal found (has {found}); save one of {', '.join(SIGNALS)}")
    shapes = {key: members[key].shape[:2] for key in signals}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{key} {shape[0]} x {shape[1]}" for key, shape in shapes.items())
        raise TraceError(f"{name}: signals disagree on tokens x layers: {listed}")
    tokens, layers = next(iter(shapes.values()))
    if tokens > MAX_TOKENS:
        raise TraceError(f"{name}: {tokens} tokens, at most {MAX_TOKENS} are allowed: split it")
    if tokens == 0 or layers == 0:
        raise TraceError(f"{name}: {tokens} tokens of {layers} layers: at least one of each")
    phase = _mark(name, members, "phase", tokens, np.uint8, DECODE)
    sequence = _mark(name, members, "sequence", tokens, np.int32, 0)
    _mark(name, members, "token_id", tokens, np.int32, 0)
    if phase.max() > DECODE:
        raise TraceError(f"{name}: phase {phase.max()} found: 0 is prefill, 1 decode")
    if (np.diff(sequence.astype(np.int64)) < 0).any():
        raise TraceError(f"{name}: sequence numbers fall: sort the tokens by sequence")
    starts = np.flatnonzero(np.diff(sequence, prepend=sequence[0] - 1))
    lengths = np.diff(starts, append=tokens)
    position = np.arange(tokens) - np.repeat(starts, lengths)
    digest = hashlib.sha256()
    for key in sorted(members):
        member = members[key]
        digest.update(f"{key} {member.dtype.str} {member.shape} {member.crc}\n".encode())
    return Trace(
        name=name,
        tokens=tokens,
        layers=layers,
        signals=signals,
        phase=phase,
        sequence=sequence,
        position=position,
        meta=meta,
        hash=digest.hexdigest(),
        warnings=tuple(warnings),
    )


def _read_meta(name: str, members: Mapping[str, Member]) -> dict[str, Any]:
    if "meta" not in members:
        return {}
    member = members["meta"]
    if member.shape != () or member.dtype.kind != "U":
        raise TraceError(f"{name}: meta must be one text (0-d unicode) that holds a JSON object")
    try:
        meta = json.loads(str(member.whole()), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise TraceError(f"{name}: meta is not JSON: use json.dumps of a dict") from None
    if not isinstance(meta, dict):
        raise TraceError(f"{name}: meta must be a JSON object, got {type(meta).__name__}")
    if meta.get("format", FORMAT) != FORMAT or meta.get("version", VERSION) != VERSION:
        given = f"{meta.get('format')} version {meta.get('version')}"
        raise TraceError(f"{name}: written as {given}; this dipsim reads {FORMAT} version 1")
    return meta


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _signal(
    name: str, key: str, members: Mapping[str, Member], declared: Mapping[str, Any]
) -> Signal:
    member = members[key]
    what = f"{name}: signal {key}"
    if len(member.shape) != 3:
        raise TraceError(f"{what} has shape {member.shape}: it must be [tokens, layers, units]")
    units = member.shape[2]
    encoding = _encoding(what, member, declared)
    if encoding == "bits":
        given = declared.get("units")
        if not isinstance(given, int) or isinstance(given, bool) or -(-given // 8) != units:
            raise TraceError(
                f"{what} is bits in {units} bytes: meta.signals.{key}.units must be "
                f"{units * 8 - 7} to {units * 8}, given {given!r}"
            )
        units = given
    if encoding == "log8":
        largest = members.get(f"{key}.max")
        if largest is None or largest.shape != member.shape[:2] or largest.dtype.kind != "f":
            raise TraceError(f"{what} is log8: it needs {key}.max, float32 [tokens, layers]")
    if units == 0 or member.shape[1] * units * 4 > _ROW_BYTES:
        raise TraceError(f"{what} has {member.shape[1]} x {units} units a token: not believable")
    return Signal(key, encoding, units, name, declared, member)


def _encoding(what: str, member: Member, declared: Mapping[str, Any]) -> Encoding:
    given = declared.get("encoding")
    if member.dtype == np.uint8:
        if given == "bits" or given == "log8":
            return "bits" if given == "bits" else "log8"
        raise TraceError(f"{what} is uint8: say encoding 'bits' or 'log8' in meta, given {given!r}")
    if member.dtype.name not in _BY_DTYPE:
        raise TraceError(f"{what} is {member.dtype}: save float16, float32, bool or uint8")
    if given is not None and not (what.endswith("expert") and given == "prob"):
        raise TraceError(f"{what} is {member.dtype}: encoding {given!r} does not fit")
    return _BY_DTYPE[member.dtype.name]


def _mark(
    name: str, members: Mapping[str, Member], key: str, tokens: int, dtype: Any, default: int
) -> Array:
    if key not in members:
        return np.full(tokens, default, dtype)
    member = members[key]
    if member.shape != (tokens,) or member.dtype.kind not in "iu":
        raise TraceError(
            f"{name}: {key} is {member.dtype}{list(member.shape)}: it must be integers [{tokens}]"
        )
    values = member.whole()
    if values.min() < 0 or values.max() > 2**31 - 1:
        raise TraceError(f"{name}: {key} holds {values.min()}..{values.max()}: not 32-bit, >= 0")
    return values.astype(dtype) if key != "phase" else np.minimum(values, 255).astype(dtype)
