"""Import of files of other programs as a trace: routing logs, arrays, histories of use."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, cast

from dipsim.errors import DipsimError, brief, check_pairs, check_text, check_type
from dipsim.files import path_of
from dipsim.model import Model, load_model
from dipsim.trace.archive import Compress
from dipsim.trace.convert.arrays import import_arrays
from dipsim.trace.encoding import Encoding
from dipsim.trace.load import load_trace
from dipsim.trace.logs import Ask, Format, format_named, recognised
from dipsim.trace.logs.contract import LayersAre
from dipsim.trace.logs.convert import import_log
from dipsim.trace.meta import plain_meta
from dipsim.trace.trace import Trace
from dipsim.trace.vectors import VectorEncoding
from dipsim.units import BYTES


def import_(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - as the command line calls it
    names: Mapping[str, str] | None = None,
    encodings: Mapping[str, Encoding | VectorEncoding] | None = None,
    model: str | os.PathLike[str] | Mapping[str, Any] | Model | None = None,
    layers_are: str | None = None,
    top_k: int | None = None,
    decode_only: bool = False,
    rank_order: bool = False,
    experts: int | None = None,
    layers: int | None = None,
    layers_first: bool = False,
    unit_bytes: str | float | None = None,
    meta: Mapping[str, Any] | None = None,
    compress: Compress = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Make a trace out of arrays or of a routing log, and open it.

    Args:
        source: a routing log of one of the formats that ``dipsim import --list`` shows; or arrays:
            a `.npy`, `.npz` or `.safetensors` file, or a folder of them.
        out: a `.npz` file, or a new folder of shards.
        format: name of the log's format; default: told by its contents.
        names: per signal (or phase, sequence, token_id) the array's name, e.g.
            ``{"glu": "layers.*.acts"}``; ``*`` stands for the number of the layer. Default: arrays
            that are named like signals.
        encodings: of arrays, per signal float16, float32, log8, bool, bits or sparse; of vectors
            int8.
        model: what the trace is from; kept in it.
        layers_are: whether a log counts all layers of the model, or those with experts alone.
        top_k: experts that a token uses in a layer, where the log does not say it.
        decode_only: leave out the tokens of prompts.
        rank_order: ids are in the order of the router's preference: ranks become scores.
        experts: number of experts of a layer; default: the model's, the log's, or the largest id
            and one.
        layers: number of layers, for ids without a shape.
        layers_first: arrays of ids are [layers, tokens, k].
        unit_bytes: size of an expert, e.g. ``"1MB"``; a number is one of bytes.
        meta: further entries of its meta, e.g. ``source`` and ``license``.
        compress: see `TraceWriter`.
        progress: called with (tokens done, tokens).

    Returns:
        The trace; its ``warnings`` say what was changed, assumed or left out.

    Raises:
        DipsimError: files that are unreadable, or hold no trace, or leave something open; ``out``
            is one of them.
    """
    check_pairs("names", names, '{"glu": "layers.*.acts"}')
    for name in (names or {}).values():
        check_text("names", name, "the name of an array")
    check_pairs("encodings", encodings, '{"glu": "log8"}')
    check_type("format", format, str, "the name of a format of routing logs")
    ask = Ask(
        cast("LayersAre | None", layers_are),
        top_k,
        decode_only,
        rank_order,
        experts,
        layers,
        layers_first,
    )
    _check_types(ask, unit_bytes)
    kept = plain_meta({} if meta is None else meta)
    loaded = None if model is None else load_model(model)
    if loaded is not None:
        kept["model"] = loaded.model_dump(mode="json", exclude_unset=True)
    path, target = path_of(source, "source"), path_of(out)
    if os.path.isfile(path) and not os.path.getsize(path):
        raise DipsimError(f"{path}: is empty: give a routing log or arrays")
    log = _format_of(path, format, names, encodings)
    if log is None:
        if given := ask.given() or ("--unit-bytes" if unit_bytes is not None else None):
            raise DipsimError(f"{path}: {given} is for routing logs, and this is none: drop it")
        notes = import_arrays(
            path,
            target,
            names=names,
            encodings=encodings,
            meta=kept,
            compress=compress,
            progress=progress,
        )
    else:
        if encodings:
            raise DipsimError("--encoding is for arrays of values: a routing log has none")
        ask = replace(ask, names=(names or {}).get("expert"))
        notes = import_log(
            path,
            target,
            log,
            ask,
            model=loaded,
            unit_bytes=_size(unit_bytes),
            meta=kept,
            compress=compress,
            progress=progress,
        )
    written = load_trace(Path(target))
    return replace(written, warnings=(*written.warnings, *notes))


def _check_types(ask: Ask, unit_bytes: str | float | None) -> None:
    """Refuse options of types that they cannot have.

    Raises:
        DipsimError: names the option.
    """
    check_type("layers_are", ask.layers_are, str, "model or moe")
    if ask.layers_are not in (None, "model", "moe"):
        raise DipsimError(f"--layers-are {brief(ask.layers_are, 40)}: model or moe")
    for name in ("decode_only", "rank_order", "layers_first"):
        check_type(name, getattr(ask, name), bool, "True or False")
    for name in ("top_k", "experts", "layers"):
        check_type(name, getattr(ask, name), int, "a number")
    check_type("unit_bytes", unit_bytes, (str, Real), "a size such as '1MB'")


def _format_of(
    path: Path,
    name: str | None,
    names: Mapping[str, str] | None,
    encodings: Mapping[str, Any] | None,
) -> Format | None:
    """Return the format of a routing log; None for arrays of values."""
    if name is not None:
        return format_named(name)
    if names and set(names) != {"expert"}:
        return None
    found = recognised(path)
    return None if found is not None and names and found.name != "arrays" else found


def _size(unit_bytes: str | float | None) -> float | None:
    """Return the size of an expert in bytes.

    Raises:
        DipsimError: none that an expert has.
    """
    if unit_bytes is None:
        return None
    try:
        size = BYTES.parse(unit_bytes) if isinstance(unit_bytes, str) else float(unit_bytes)
    except (ValueError, TypeError) as problem:
        raise DipsimError(f"--unit-bytes: {problem}") from None
    if not 1 <= size <= 2**40:
        raise DipsimError(f"--unit-bytes {unit_bytes}: an expert has 1 byte to 1 TB")
    return size
