"""Opening dipsim's own traces: a file, a folder of shards, or arrays in memory."""

import difflib
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import files
from dipsim.errors import TraceError, brief, not_taken
from dipsim.trace.beside import (
    arrays_beside,
    join_beside,
    open_beside,
    with_steps,
)
from dipsim.trace.checks import JUDGED_TOKENS, check_router, plain_array
from dipsim.trace.foreign import check_trace_file
from dipsim.trace.layer_array import LayerArray
from dipsim.trace.meta import meta_text, misplaced, plain_meta, read_meta
from dipsim.trace.npz import Array, InMemory, Member, open_npz
from dipsim.trace.signal import SIGNALS, Signal, arrays_of, check_companions, open_signal
from dipsim.trace.tokens import DECODE, Tokens
from dipsim.trace.trace import MAX_TOKENS, SUFFIX, Trace

FOLDER = "traces"
_MARKS = ("phase", "sequence", "token_id", "meta")


def open_trace(given: "str | os.PathLike[str] | Mapping[str, Any] | Trace") -> Trace:
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
        return _with_steps(_assemble("arrays", {k: InMemory(v) for k, v in arrays.items()}))
    if not isinstance(given, str | os.PathLike):
        takes = 'a path, a shipped name, a Trace, or a mapping of arrays such as {"glu": array}'
        raise TraceError(not_taken("trace", given, takes))
    path = files.find(given, FOLDER, SUFFIX)
    if path is None:
        known = ", ".join(trace_names())
        meant = files.nearest(given, "trace")
        raise TraceError(
            f"no trace {str(given)!r}: {meant}give an .npz file, or a shipped one: {known}"
        )
    check_trace_file(path)
    if path.is_dir():
        return _with_steps(_load_shards(path))
    return _with_steps(replace(_assemble(str(given), open_npz(path)), paths=(path,)))


def _with_steps(trace: Trace) -> Trace:
    return replace(trace, arrays=with_steps(trace.arrays, trace.rows))


_SHARD = re.compile(r"part-\d{5}\.npz", re.ASCII)


def trace_names() -> list[str]:
    """Return the names of the shipped traces."""
    return files.shipped_names(FOLDER, SUFFIX)


def _load_shards(folder: Path) -> Trace:
    """Open ``part-00000.npz``, ``part-00001.npz``, ... of a folder as one trace."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as problem:
        raise TraceError(f"{folder}: cannot be read ({problem.strerror})") from None
    shards = [name for name in names if _SHARD.fullmatch(name)]
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
    joined = _join(str(folder), traces, warnings)
    return replace(joined, paths=tuple(folder / name for name in shards))


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
        arrays=join_beside(name, [shard.arrays for shard in shards]),
        token_id=np.concatenate(ids) if ids else None,
        hash=digest.hexdigest(),
        warnings=tuple(text for shard in shards for text in shard.warnings) + warnings,
    )


def _kinds(shard: Trace) -> dict[str, tuple[Any, ...]]:
    """Return the properties of each signal and array that all shards must share."""
    kinds: dict[str, tuple[Any, ...]] = {key: array.kind for key, array in shard.arrays.items()}
    return kinds | {key: (s.encoding, s.units, s.scored) for key, s in shard.signals.items()}


def as_arrays(given: Mapping[str, Any]) -> dict[str, Array]:
    """Return the values as plain arrays (see `plain_array`), ``meta`` (a dict) as JSON text.

    Raises:
        TraceError: names that are no texts, Python objects instead of numbers, meta that JSON
            cannot hold.
    """
    for key in given:
        if not isinstance(key, str):
            raise TraceError(not_taken("name of an array", key, "a text such as 'glu'"))
    return {
        key: np.asarray(meta_text(plain_meta(value)))
        if key == "meta" and isinstance(value, Mapping)
        else plain_array(key, value)
        for key, value in given.items()
    }


def _assemble(
    name: str, members: Mapping[str, Member], inherited: Mapping[str, Any] | None = None
) -> Trace:
    """Make a trace of the arrays of one file; a shard without ``meta`` inherits the first one's."""
    warnings: list[str] = []
    meta = read_meta(name, members)
    if inherited is not None and "meta" not in members:
        meta = dict(inherited)
    signals = _open_signals(name, members, meta.get("signals", {}))
    for key, opened in signals.items():
        if opened.encoding == "float64":
            warnings.append(f"{name}: signal {key} is float64; rounded to float32")
    check_companions(name, members, signals)
    arrays = open_beside(name, members, meta)
    known = {*_MARKS, *(array for signal in signals.values() for array in arrays_of(signal))}
    known |= arrays_beside(arrays)
    warnings += [
        f"{name}: unknown array {brief(key)!r} ignored" for key in members if key not in known
    ]
    warnings += [f"{name}: {remark}" for remark in misplaced(meta, SIGNALS)]
    if not signals and not arrays:
        raise TraceError(f"{name}: no signal found {_instead(name, members)}")
    if inherited is None and "expert" in signals:
        _check_router(name, signals["expert"])
    tokens, layers = _tokens_and_layers(name, signals, arrays)
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
        arrays=arrays,
        token_id=token_id if "token_id" in members else None,
        meta=meta,
        hash=digest.hexdigest(),
        warnings=tuple(warnings),
        recorded_layers=layers,
    )


def _tokens_and_layers(
    name: str, signals: Mapping[str, Signal], arrays: Mapping[str, LayerArray]
) -> tuple[int, int]:
    """Return the tokens and layers on which all signals and arrays of one file agree."""
    shapes = {key: (opened.parts[0].tokens, opened.layers[1]) for key, opened in signals.items()}
    shapes |= {k: (a.count, a.recorded_layers) for k, a in arrays.items() if k != "kept"}
    if not shapes:
        raise TraceError(f"{name}: kept alone: save a signal or layer_io of its tokens beside it")
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{key} {shape[0]} x {shape[1]}" for key, shape in shapes.items())
        raise TraceError(f"{name}: signals disagree on tokens x layers: {listed}")
    tokens, layers = next(iter(shapes.values()))
    if "kept" in arrays and arrays["kept"].recorded_layers != layers:
        raise TraceError(
            f"{name}: kept has {arrays['kept'].recorded_layers} layers, the tokens have {layers}"
        )
    return tokens, layers


def _instead(name: str, members: Mapping[str, Member]) -> str:
    """Return what a file without signals has, and how a signal is made of it."""
    listed = brief(", ".join(members) or "nothing", 200)
    arrays = [key for key in members if key not in _MARKS]
    signals = ", ".join(SIGNALS)
    if not arrays:
        return f"(has {listed}); save one of {signals}"
    first = brief(arrays[0])
    if first == "expert.uses":
        return "(it holds uses of experts, without an order): give it as --static-from"
    close = difflib.get_close_matches(first.lower(), SIGNALS, 1)
    signal = "expert" if "rout" in first.lower() else close[0] if close else "glu"
    return (
        f"(has {listed}); save one of {signals}, e.g. np.savez('t.npz', {signal}=x), or say which "
        f"is which: dipsim import {brief(name, 200)} t.npz --map {signal}={first}"
    )


def _open_signals(
    name: str, members: Mapping[str, Member], declared: Mapping[str, Any]
) -> dict[str, Signal]:
    """Open all signals of a file; ``declared`` is its ``meta.signals``."""
    present = [key for key in SIGNALS if key in members or f"{key}.indptr" in members]
    for signal in declared:
        if signal not in present:
            raise TraceError(
                f"{name}: meta.signals names {brief(signal)!r}, which is no array here"
            )
    return {key: open_signal(name, key, members, declared.get(key, {})) for key in present}


def _check_router(name: str, signal: Signal) -> None:
    """Judge by the first tokens whether the scores of ``expert`` are what they are taken for."""
    if signal.holds != "scores":
        return
    (part,) = signal.parts
    count = min(part.tokens, JUDGED_TOKENS)
    for rows in part.rows(0, count, count, "values") if count else ():
        check_router(rows, f"{name}: signal expert", signal.declared.get("encoding"))


def _check_tokens(name: str, tokens: int, sequence: NDArray[np.int32]) -> None:
    if tokens > MAX_TOKENS:
        raise TraceError(f"{name}: {tokens} tokens, at most {MAX_TOKENS} are allowed: split it")
    if (np.diff(sequence.astype(np.int64)) < 0).any():
        raise TraceError(f"{name}: sequence numbers fall: sort the tokens by sequence")


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
