"""Traces: what a model did, token by token; independent of device, method and cache.

The format (docs/trace-format.md) is a plain `.npz`; `np.savez("t.npz", glu=abs_glu)` writes one.
A `Trace` knows shapes and marks (phase, sequence, token_id); the big arrays stay on disk and come
in blocks of tokens.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import files
from dipsim.errors import TraceError, brief
from dipsim.trace.npz import Array, InMemory, Member, open_npz
from dipsim.trace.signal import SIGNALS, Reading, Signal, arrays_of, open_signal
from dipsim.trace.tokens import DECODE, PREFILL, Tokens

FOLDER, SUFFIX = "traces", ".npz"
FORMAT, VERSION = "dipsim-trace", 1
_MARKS = ("phase", "sequence", "token_id", "meta")
_BLOCK_BYTES = 32 * 2**20  # decoded scores held at a time, per signal
MAX_TOKENS = 2**22


@dataclass(frozen=True)
class Trace:
    """A trace, opened by `load_trace`; immutable.

    phase : uint8[tokens], 0 prefill, 1 decode;
    sequence : int32[tokens], non-decreasing;
    position : int64[tokens], number of earlier tokens of the same sequence;
    token_id : int32[tokens], or None where the trace has none;
    signals : by name, see `Signal`; meta : see docs/trace-format.md.
    """

    name: str
    rows: Tokens
    """Phases, sequences and positions."""
    layers: int
    signals: Mapping[str, Signal]
    token_id: NDArray[np.int32] | None
    meta: Mapping[str, Any]
    hash: str
    """SHA-256 (hexadecimal) of the contents of all arrays, independent of their compression."""
    warnings: tuple[str, ...] = ()
    recorded_layers: int = 0
    """Number of layers of the file; more than ``layers`` after `layer_window`."""
    first: int = 0
    """Row of the file that is token 0 of this trace; above 0 after `window`."""
    first_layer: int = 0
    """Layer of the file that is layer 0 of this trace; above 0 after `layer_window`."""

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
    def model(self) -> Any:
        """The value of ``meta.model``: a preset's name, a geometry, or None."""
        return self.meta.get("model")

    def blocks(self, wanted: Mapping[str, Reading]) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """Yield all tokens in blocks: (first token, end, {signal: decoded rows}).

        Args:
            wanted: how each signal is read; see `Signal.blocks` for shapes, dtypes and errors.
        """
        size = self.block_size(tuple(wanted))
        last = self.first + self.tokens
        streams = [
            self.signals[name].blocks(self.first, last, size, reading)
            for name, reading in wanted.items()
        ]
        start = 0
        for rows in zip(*streams, strict=True):
            yield start, start + len(rows[0]), dict(zip(wanted, rows, strict=True))
            start += len(rows[0])

    def block_size(self, names: tuple[str, ...]) -> int:
        """Return the number of tokens of these signals that make a block of at most 32 MiB."""
        row = max(4 * self.recorded_layers * self.signals[name].recorded_units for name in names)
        return max(1, min(self.tokens, _BLOCK_BYTES // max(row, 1)))

    def part(
        self, tokens: str | None = None, layers: str | None = None, sequence: str | None = None
    ) -> "Trace":
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

    def window(self, start: int, stop: int) -> "Trace":
        """Return the tokens start..stop-1 as a trace of their own.

        Raises:
            TraceError: an empty window or one outside the trace.
        """
        _check_range("tokens", start, stop, self.tokens)
        return replace(
            self,
            rows=self.rows.window(start, stop),
            token_id=None if self.token_id is None else self.token_id[start:stop],
            first=self.first + start,
        )

    def layer_window(self, start: int, stop: int) -> "Trace":
        """Return the layers start..stop-1 as a trace of their own.

        Raises:
            TraceError: an empty window or one outside the trace.
        """
        _check_range("layers", start, stop, self.layers)
        first = self.first_layer + start
        layers = (first, first + stop - start)
        return replace(
            self,
            layers=stop - start,
            signals={key: replace(signal, layers=layers) for key, signal in self.signals.items()},
            first_layer=first,
        )

    def clustered(self, size: int) -> "Trace":
        """Return the trace with every ``size`` neighbouring units of a signal read as one.

        Experts, and signals whose number of units ``size`` does not divide, stay as they are.
        """
        if size == 1:
            return self
        signals = dict(self.signals)
        for name, signal in signals.items():
            if name != "expert" and signal.recorded_units % size == 0:
                signals[name] = replace(signal, cluster=size)
        return replace(self, signals=signals)

    def describe(self) -> dict[str, Any]:
        """Return shapes, counts of tokens, meta and hash as plain values."""
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
                    "scores": signal.scored,
                    "units": signal.units,
                }
                for signal in self.signals.values()
            },
            "meta": dict(self.meta),
            "hash": self.hash,
        }


def load_trace(given: "str | os.PathLike[str] | Mapping[str, Any] | Trace") -> Trace:
    """Open a trace by its path, by the name of a shipped one, or from arrays in memory.

    Args:
        given: ``"t.npz"``, ``"smollm2-chat"``, or ``{"glu": abs_glu, ...}`` with the arrays of
            docs/trace-format.md (``meta`` may be a dict).

    Raises:
        TraceError: missing, unreadable or hostile file; arrays that make no trace.
    """
    if isinstance(given, Trace):
        return given
    if isinstance(given, Mapping):
        arrays = as_arrays(given)
        return _assemble("arrays", {k: InMemory(v) for k, v in arrays.items()})
    path = files.find(given, FOLDER, SUFFIX)
    if path is None:
        known = ", ".join(trace_names())
        raise TraceError(f"no trace {str(given)!r}: give an .npz file, or a shipped one: {known}")
    return _load_shards(path) if path.is_dir() else _assemble(str(given), open_npz(path))


def trace_names() -> list[str]:
    """Return the names of the shipped traces."""
    return files.shipped_names(FOLDER, SUFFIX)


def _load_shards(folder: Path) -> Trace:
    """Open ``part-00000.npz``, ``part-00001.npz``, ... of a folder as one trace."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as problem:
        raise TraceError(f"{folder}: cannot be read ({problem.strerror})") from None
    shards = [name for name in names if re.fullmatch(r"part-\d{5}\.npz", name, re.ASCII)]
    if not shards:
        raise TraceError(
            f"{folder}: a folder without shards; give an .npz file, or a folder of "
            f"{shard_name(0)}, {shard_name(1)}, ..."
        )
    for i, name in enumerate(shards):
        if name != shard_name(i):
            raise TraceError(f"{folder}: {shard_name(i)} is missing (found {name})")
    traces: list[Trace] = []
    for name in shards:
        meta = traces[0].meta if traces else None
        traces.append(_assemble(f"{folder}/{name}", open_npz(folder / name), meta))
    others = [name for name in names if name not in shards and not name.startswith(".")]
    warnings = tuple(f"{folder}: {name} is no shard, ignored" for name in others)
    return _join(str(folder), traces, warnings)


def shard_name(number: int) -> str:
    """Return the file name of shard ``number``, counted from 0."""
    return f"part-{number:05d}.npz"


def _join(name: str, shards: list[Trace], warnings: tuple[str, ...]) -> Trace:
    """Join shards that differ in their tokens only, in their order."""
    first = shards[0]
    for shard in shards[1:]:
        same = shard.layers == first.layers and shard.meta == first.meta
        if not same or _kinds(shard) != _kinds(first):
            raise TraceError(
                f"{shard.name}: not the signals, shapes or meta of {first.name}: "
                "shards of one trace differ in their tokens only"
            )
    sequence = np.concatenate([shard.sequence for shard in shards])
    ids = [shard.token_id for shard in shards if shard.token_id is not None]
    if len(ids) not in (0, len(shards)):
        raise TraceError(f"{name}: token_id must be in every shard or in none")
    _check_tokens(name, len(sequence), sequence)
    phase = np.concatenate([shard.phase for shard in shards])
    signals = {
        key: replace(
            signal,
            trace=name,
            parts=tuple(part for shard in shards for part in shard.signals[key].parts),
        )
        for key, signal in first.signals.items()
    }
    digest = hashlib.sha256("".join(shard.hash for shard in shards).encode())
    return replace(
        first,
        name=name,
        rows=Tokens.of(phase, sequence),
        signals=signals,
        token_id=np.concatenate(ids) if ids else None,
        hash=digest.hexdigest(),
        warnings=tuple(text for shard in shards for text in shard.warnings) + warnings,
    )


def _kinds(shard: Trace) -> dict[str, tuple[Any, ...]]:
    """Return the properties of each signal that all shards must share."""
    return {key: (s.encoding, s.units, s.scored) for key, s in shard.signals.items()}


def as_arrays(given: Mapping[str, Any]) -> dict[str, Array]:
    """Return the values as numpy arrays, ``meta`` (a dict) as JSON text.

    Raises:
        TraceError: Python objects instead of numbers.
    """
    arrays = {}
    for key, value in given.items():
        try:
            arrays[key] = np.asarray(json.dumps(value) if key == "meta" else value)
        except (TypeError, ValueError) as problem:
            raise TraceError(f"array {key!r}: {str(problem).splitlines()[0]}") from None
        if arrays[key].dtype.hasobject:
            raise TraceError(f"array {key!r} holds Python objects: give numbers")
    return arrays


def _assemble(
    name: str, members: Mapping[str, Member], inherited: Mapping[str, Any] | None = None
) -> Trace:
    """Make a trace of the arrays of one file; a shard without ``meta`` inherits the first one's."""
    warnings: list[str] = []
    meta = _read_meta(name, members)
    if inherited is not None and "meta" not in members:
        meta = dict(inherited)
    signals = _open_signals(name, members, meta.get("signals", {}))
    for key, opened in signals.items():
        if opened.encoding == "float64":
            warnings.append(f"{name}: signal {key} is float64; rounded to float32")
    known = {*_MARKS, *(array for key in signals for array in arrays_of(key))}
    warnings += [
        f"{name}: unknown array {brief(key)!r} ignored" for key in members if key not in known
    ]
    if not signals:
        listed = brief(", ".join(members) or "nothing", 200)
        raise TraceError(
            f"{name}: no signal found (has {listed}); save one of {', '.join(SIGNALS)}"
        )
    shapes = {key: (opened.parts[0].tokens, opened.layers[1]) for key, opened in signals.items()}
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
    token_id = _mark(name, members, "token_id", tokens, np.int32, 0)
    if phase.max() > DECODE:
        raise TraceError(f"{name}: phase {phase.max()} found: 0 is prefill, 1 decode")
    _check_tokens(name, tokens, sequence)
    digest = hashlib.sha256()
    for key in sorted(members):
        member = members[key]
        digest.update(f"{key} {member.dtype.str} {member.shape} {member.crc}\n".encode())
    return Trace(
        name=name,
        rows=Tokens.of(phase, sequence),
        layers=layers,
        signals=signals,
        token_id=token_id if "token_id" in members else None,
        meta=meta,
        hash=digest.hexdigest(),
        warnings=tuple(warnings),
        recorded_layers=layers,
    )


def _open_signals(name: str, members: Mapping[str, Member], declared: Any) -> dict[str, Signal]:
    """Open all signals of a file; ``declared`` is its ``meta.signals``."""
    if not isinstance(declared, dict) or not all(isinstance(v, dict) for v in declared.values()):
        raise TraceError(f"{name}: meta.signals must map a signal's name to its properties")
    present = [key for key in SIGNALS if key in members or f"{key}.indptr" in members]
    for signal in declared:
        if signal not in present:
            raise TraceError(
                f"{name}: meta.signals names {brief(signal)!r}, which is no array here"
            )
    return {key: open_signal(name, key, members, declared.get(key, {})) for key in present}


def _check_tokens(name: str, tokens: int, sequence: NDArray[np.int32]) -> None:
    if tokens > MAX_TOKENS:
        raise TraceError(f"{name}: {tokens} tokens, at most {MAX_TOKENS} are allowed: split it")
    if (np.diff(sequence.astype(np.int64)) < 0).any():
        raise TraceError(f"{name}: sequence numbers fall: sort the tokens by sequence")


def _range(what: str, text: str, count: int) -> tuple[int, int]:
    """Parse "A:B", a range within 0..count, of the option ``what``."""
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
        given = brief(f"{meta.get('format')} version {meta.get('version')}")
        raise TraceError(f"{name}: written as {given}; this dipsim reads {FORMAT} version 1")
    return meta


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _mark(
    name: str, members: Mapping[str, Member], key: str, tokens: int, dtype: Any, default: int
) -> Array:
    """Read and check a mark ``key``, dtype[tokens]; an absent one is ``default`` throughout."""
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
