"""Export of a trace: other encodings, fewer signals, a part of it, one file or shards."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.errors import TraceError, check_pairs
from dipsim.files import path_of, refuse_same
from dipsim.trace.archive import Compress
from dipsim.trace.checks import names_of
from dipsim.trace.decisions import DECISIONS
from dipsim.trace.encoding import Encoding, unpack_sets
from dipsim.trace.layer_units import KEY
from dipsim.trace.load import load_trace
from dipsim.trace.npz import Array
from dipsim.trace.routes import ROUTES
from dipsim.trace.signal import Signal
from dipsim.trace.trace import Trace
from dipsim.trace.vectors import VectorEncoding
from dipsim.trace.writer import TraceWriter


def export(
    trace: str | os.PathLike[str] | Mapping[str, Any] | Trace,
    out: str | os.PathLike[str],
    *,
    signals: Sequence[str] | None = None,
    encodings: Mapping[str, Encoding | VectorEncoding] | None = None,
    tokens: str | None = None,
    layers: str | None = None,
    sequence: str | None = None,
    compress: Compress = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Write a trace, or a part of one, in other encodings, and open it.

    Args:
        trace: path, name of a shipped trace, arrays, or a `Trace`.
        out: a `.npz` file, or a new folder of shards.
        signals: names of some of its signals, vectors and decisions; default: all.
        encodings: new encodings, per signal; default: as they are.
        tokens: a part of the tokens, A:B.
        layers: a part of the layers, A:B.
        sequence: a part of the sequences, A:B.
        compress: see `TraceWriter`.
        progress: called with (tokens done, tokens).

    Returns:
        The new trace; its ``warnings`` say what could not be kept.

    Raises:
        DipsimError: an unknown signal, scores asked for as sets or sets as scores, no such part, or
            ``out`` is the trace itself.
    """
    check_pairs("encodings", encodings, '{"glu": "log8"}')
    part, target = load_trace(trace).part(tokens, layers, sequence), path_of(out)
    lost = _write(part, target, names_of(signals), encodings, compress, progress)
    written = load_trace(target)
    return replace(written, warnings=(*written.warnings, *lost))


def _write(
    trace: Trace,
    out: Path,
    signals: tuple[str, ...] | None,
    encodings: Mapping[str, Encoding | VectorEncoding] | None,
    compress: Compress,
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    """Write a trace and return sentences about properties that could not be kept."""
    refuse_same(out, trace.paths)
    held = (*trace.signals, *trace.arrays)
    names = held if signals is None else signals
    if "expert" in names:  # whose routes belong to it
        names = tuple(dict.fromkeys((*names, *(name for name in ROUTES if name in held))))
    for name in (*names, *(encodings or {})):
        if name not in held:
            raise TraceError(f"{trace.name} holds no {name}: it has {', '.join(held)}")
    meta, lost = _meta(trace)
    if "kept" in names and not trace.kept_positions().whole(trace.rows):
        names = tuple(name for name in names if name != "kept")
        lost.append("kept is left out: a sequence or prompt is cut, whose positions it counts")
    if set(names) <= {"kept"}:
        raise TraceError(f"{trace.name}: nothing is left to write: export a signal or layer_io too")
    stored = {name: encoding for name in names if (encoding := _encoding(trace, name, encodings))}
    kept = {key: value for key, value in meta.get("signals", {}).items() if key in names}
    meta = {**meta, "signals": kept} if "signals" in meta else meta
    norms = trace.signals["glu"].norms if "glu" in names else None
    block = trace.block_size(names)
    with TraceWriter(out, meta=meta, encodings=stored, norms=norms, compress=compress) as writer:
        streams = [_rows(trace, name, stored.get(name), block) for name in names if name != "kept"]
        steps = np.append(0, np.cumsum(trace.rows.begins_step()))
        start = 0
        for parts in zip(*streams, strict=True):
            stop = start + len(next(iter(parts[0].values())))
            rows: dict[str, Any] = {key: array for part in parts for key, array in part.items()}
            rows["phase"], rows["sequence"] = trace.phase[start:stop], trace.sequence[start:stop]
            if trace.token_id is not None:
                rows["token_id"] = trace.token_id[start:stop]
            if "kept" in names:
                rows["kept"] = trace.kept_positions().read(int(steps[start]), int(steps[stop]))
            writer.append(rows)
            start = stop
            if progress is not None:
                progress(start, trace.tokens)
    return lost


def _encoding(trace: Trace, name: str, wanted: Mapping[str, Any] | None) -> Any:
    """Return the encoding in which a signal or vectors are written; None for decisions."""
    if name in (*DECISIONS, *ROUTES):
        if name in (wanted or {}):
            raise TraceError(f"encoding {name}={(wanted or {})[name]}: {name} has one form")
        return None
    own = trace.vectors(name).encoding if name in trace.arrays else trace.signals[name].encoding
    return (wanted or {}).get(name, "float32" if own == "float64" else own)


def _rows(trace: Trace, name: str, encoding: Any, block: int) -> Iterator[dict[str, Array]]:
    """Yield blocks of a signal or of an array beside it as `TraceWriter.append` takes them."""
    if name in trace.signals:
        yield from _signal_rows(trace, trace.signals[name], encoding, block)
    elif name in ROUTES:
        yield from ({name: rows} for rows in trace.routes(name).blocks(block))
    elif name == "layer_mode":
        yield from ({name: rows} for rows in trace.layer_modes().blocks(block))
    elif encoding == trace.vectors(name).encoding:
        yield from trace.vectors(name).stored(block)
    else:
        yield from ({name: rows} for rows in trace.vectors(name).blocks(block))


def _signal_rows(
    trace: Trace, signal: Signal, encoding: Encoding, block: int
) -> Iterator[dict[str, Array]]:
    first, last = trace.first, trace.first + trace.tokens
    if signal.holds == "scores":
        for values in signal.values(first, last, block):
            yield {signal.name: values}
        return
    sets = signal.blocks(first, last, block, "sets")
    scored = signal.scored and encoding == "sparse"
    scores = signal.blocks(first, last, block, "scores") if scored else None
    for words in sets:
        rows = {signal.name: unpack_sets(words, signal.units)}
        if scores is not None:
            rows[f"{signal.name}.scores"] = next(scores)
        yield rows


def _meta(trace: Trace) -> tuple[dict[str, Any], list[str]]:
    """Return the meta of the layers kept, and sentences about entries left out."""
    meta: dict[str, Any] = dict(trace.meta)
    if trace.layers == trace.recorded_layers:
        return meta, []
    window = slice(trace.first_layer, trace.first_layer + trace.layers)
    signals = {key: dict(declared) for key, declared in meta.get("signals", {}).items()}
    for declared in signals.values():
        for key in ("unit_bytes", KEY):
            if isinstance(declared.get(key), list):
                declared[key] = declared[key][window]
    meta["signals"] = signals
    router = meta.get("router")
    if isinstance(router, Mapping) and isinstance(router.get("bias"), list):
        meta["router"] = {**router, "bias": router["bias"][window]}
    attention = meta.get("attention")
    if isinstance(attention, Mapping):  # what differs between layers is a list
        meta["attention"] = {
            key: value[window] if isinstance(value, list) else value
            for key, value in attention.items()
        }
    if meta.pop("model", None) is None:
        return meta, []
    return meta, [
        f"meta.model is left out: it has {trace.recorded_layers} layers, these are {trace.layers}"
    ]
