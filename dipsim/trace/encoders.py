"""Encoders of a writer of traces: from what is appended to the arrays that store it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError, brief
from dipsim.trace.checks import check_not_negative, check_written
from dipsim.trace.decisions import check_modes
from dipsim.trace.encoding import Encoding, encode_log8
from dipsim.trace.npz import Array
from dipsim.trace.signal import MEANINGS, SIGNALS
from dipsim.trace.vectors import (
    ATTENTION_VECTORS,
    VECTORS,
    check_layer_io,
    check_width,
    encode_int8,
    encoding_of,
    heads_of,
)
from dipsim.trace.vectors import ENCODINGS as VECTOR_ENCODINGS


def check_encoding(key: str, encoding: str) -> None:
    """Refuse an unknown array or encoding, or one that does not fit the other.

    Raises:
        TraceError: says which encodings there are.
    """
    allowed: list[str]
    if key in VECTORS:
        allowed = [*VECTOR_ENCODINGS[: None if key in ATTENTION_VECTORS else 2]]
    else:
        allowed = [name for name in ENCODERS if (key, name) != ("expert", "log8")]
        allowed += MEANINGS if key == "expert" else ()
    if key not in (*SIGNALS, *VECTORS) or encoding not in allowed:
        raise TraceError(
            f"encoding {key}={brief(encoding)}: write SIGNAL=ENCODING with one of "
            f"{', '.join((*SIGNALS, *VECTORS))} and one of {', '.join(allowed)}"
        )


def encoded(key: str, values: Array, scores: Array | None, encoding: Encoding) -> dict[str, Array]:
    """Return the rows of the arrays that a signal is stored in."""
    if scores is not None:
        scores = scores.reshape(values.shape)
    rows: dict[str, Array] = ENCODERS[encoding](key, values, scores)
    return rows


def _floats(dtype: Any) -> Any:
    return lambda key, values, scores: {key: values.astype(dtype, copy=False)}


def _log8(key: str, values: Array, scores: None) -> dict[str, Array]:
    codes, largest = encode_log8(values)
    return {key: codes, f"{key}.max": largest}


def _bits(key: str, values: Array, scores: None) -> dict[str, Array]:
    return {key: np.packbits(values, axis=-1, bitorder="little")}


def _sparse(key: str, values: NDArray[np.bool_], scores: Array | None) -> dict[str, Array]:
    tokens, layers, units = values.shape
    active = np.flatnonzero(values)
    rows = np.arange(tokens * layers + 1) * units  # where each begins among all values
    lengths = np.diff(np.searchsorted(active, rows))
    narrow = np.uint16 if units <= 2**16 else np.uint32
    indices = (active - np.repeat(rows[:-1], lengths)).astype(narrow)
    arrays = {f"{key}.indptr": lengths, f"{key}.indices": indices}
    if scores is not None:
        arrays[f"{key}.scores"] = scores.reshape(-1)[active].astype(np.float32)
    return arrays


def listed_rows(key: str, ids: Array, scores: Array | None, units: int) -> dict[str, Array]:
    """Return the rows of sparse sets that are given as lists of units.

    Args:
        ids: ints [tokens, layers, k], each unit once a list, -1 for none.
        scores: of these units, floats of the same shape, or None.
        units: number of units.

    Raises:
        TraceError: ids beyond the units, or one twice in a list.
    """
    if ids.min(initial=0) < -1 or ids.max(initial=-1) >= units:
        raise TraceError(f"signal {key}: ids from 0 to {units - 1}, or -1 for none, are appended")
    if scores is None:
        ordered = np.sort(ids, axis=-1)
    else:
        order = np.argsort(ids, axis=-1, kind="stable")
        ordered = np.take_along_axis(ids, order, axis=-1)
    chosen = ordered >= 0
    if ((ordered[..., 1:] == ordered[..., :-1]) & chosen[..., 1:]).any():
        raise TraceError(f"signal {key}: an id twice for one token and layer")
    narrow = np.uint16 if units <= 2**16 else np.uint32
    arrays = {
        f"{key}.indptr": chosen.sum(axis=-1).reshape(-1),
        f"{key}.indices": ordered[chosen].astype(narrow),
    }
    if scores is not None:
        listed = np.take_along_axis(scores.reshape(ids.shape), order, axis=-1)[chosen]
        check_written(key, listed, "sparse")
        arrays[f"{key}.scores"] = listed.astype(np.float32)
    return arrays


ENCODERS: dict[str, Any] = {
    "float16": _floats(np.float16),
    "float32": _floats(np.float32),
    "log8": _log8,
    "bool": _floats(np.bool_),
    "bits": _bits,
    "sparse": _sparse,
}


def vector_rows(
    key: str, values: Array, scale: Array | None, encoding: str | None, meta: Mapping[str, Any]
) -> tuple[str, dict[str, Array]]:
    """Return the encoding of vectors, and the rows of the arrays that they are stored in.

    Args:
        key: one of `VECTORS`.
        values: floats, or int8 codes, [tokens, layers, width].
        scale: of codes, float[tokens, layers, heads].
        encoding: the wanted one; None: float16 and int8 stay, other floats become float32.
        meta: of the trace, for the number of heads.

    Raises:
        TraceError: values or a scale that no vectors have, or beyond the encoding.
    """
    what = f"vectors {key}"
    if values.dtype.kind == "f" and values.dtype.itemsize != 2:
        values = _within(what, values, np.float32)
    stored = encoding_of(what, key, values.dtype)
    if (stored == "int8") != (scale is not None):
        raise TraceError(f"{what}: append int8 codes with {key}.scale, or floats without")
    if scale is not None:
        return _coded_rows(what, key, values, scale, encoding)
    if not np.isfinite(values).all():
        raise TraceError(f"{what}: values must be finite")
    check_width(what, key, values.shape[2], None)
    if key == "layer_io":
        check_layer_io(what, values, 0)
    chosen = encoding or stored
    if chosen != "int8":
        return chosen, {key: _within(what, values, np.dtype(chosen))}
    heads = heads_of(meta, key)
    if heads is None:
        raise TraceError(
            f"{what}: int8 has a scale per head: say how many there are, "
            "meta={'attention': {'heads': 9, 'kv_heads': 3}}"
        )
    check_width(what, key, values.shape[2], heads)
    codes, factors = encode_int8(values, heads)
    return "int8", {key: codes, f"{key}.scale": factors}


def _coded_rows(
    what: str, key: str, codes: Array, scale: Array, encoding: str | None
) -> tuple[str, dict[str, Array]]:
    if encoding not in (None, "int8"):
        raise TraceError(f"{what} holds int8 codes, which {encoding} cannot hold")
    shaped = scale.reshape(*codes.shape[:2], -1) if scale.ndim in (2, 3) else scale
    if scale.dtype.kind != "f" or shaped.ndim != 3 or shaped.size == 0:
        raise TraceError(f"{key}.scale is {scale.dtype}{list(scale.shape)}: append floats per head")
    check_width(what, key, codes.shape[2], shaped.shape[2])
    check_not_negative(shaped, f"{key}.scale")
    return "int8", {key: codes, f"{key}.scale": _within(f"{key}.scale", shaped, np.float16)}


def _within(what: str, values: Array, dtype: Any) -> Array:
    """Return floats in a type.

    Raises:
        TraceError: finite values become infinite in it.
    """
    with np.errstate(over="ignore"):
        narrow: Array = values.astype(dtype, copy=False)
    if (np.isinf(narrow) & np.isfinite(values)).any():
        raise TraceError(f"{what}: values go beyond {np.dtype(dtype)}: use float32")
    return narrow


def decision_rows(key: str, values: Array) -> Array:
    """Return rows of ``layer_mode`` or ``kept`` as they are stored.

    Args:
        key: one of `DECISIONS`.
        values: integers [tokens, layers], or bool[steps, layers, positions].

    Raises:
        TraceError: modes that do not exist, or sets that are not bool.
    """
    if key == "kept":
        if values.dtype != np.bool_:
            raise TraceError(f"kept is {values.dtype}: append bool [steps, layers, positions]")
        return np.packbits(values, axis=-1, bitorder="little")
    if values.dtype.kind not in "iu":
        raise TraceError(f"layer_mode is {values.dtype}: append integers [tokens, layers]")
    check_modes("layer_mode", values)
    return values.astype(np.uint8)
