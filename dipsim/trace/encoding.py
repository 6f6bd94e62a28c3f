"""Encodings of signals; the two compact ones are sets as bits and scores as 8-bit logarithms."""

import functools
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Encoding = Literal["float16", "float32", "float64", "log8", "bool", "bits", "sparse"]
Meaning = Literal["prob", "logits"]
"""Meaning of the floats of ``expert``."""
STEPS_PER_OCTAVE = 20
_CACHED = 2**14  # scores encoded at a time: their temporaries stay in the processor's cache
_CLOSE = np.float32(0.499)  # float32 computes steps to 0.0003
_MANY = 2**20
_INFINITY = {np.dtype("<f2"): 0x7C00, np.dtype("<f4"): 0x7F800000}
"""Bits of infinity: NaN and every sign bit give more."""


def _log8_table() -> NDArray[np.float32]:
    steps = np.arange(256, dtype=np.float64)
    table = np.exp2((steps - 255) / STEPS_PER_OCTAVE)
    table[0] = 0.0
    return table.astype(np.float32)


LOG8_TABLE = _log8_table()
"""float32[256], the score of each code, relative to the largest score of its token and layer."""


def encode_log8(scores: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Encode scores as 8-bit logarithms: 20 steps per octave, 12.7 octaves below the largest.

    Args:
        scores: float[tokens, layers, units], >= 0.

    Returns:
        codes : uint8[tokens, layers, units] and max : float32[tokens, layers]. A score more than
        12.7 octaves below the largest becomes 0.
    """
    rows = scores.reshape(-1, scores.shape[-1])
    largest = scores.max(axis=-1)
    codes = np.empty(rows.shape, np.uint8)
    at_once = max(1, _CACHED // rows.shape[1])
    for first in range(0, len(rows), at_once):
        here = slice(first, first + at_once)
        _encode_rows(rows[here], largest.reshape(-1, 1)[here], codes[here])
    return codes.reshape(scores.shape), largest.astype(np.float32)


def _encode_rows(values: NDArray[Any], largest: NDArray[Any], codes: NDArray[np.uint8]) -> None:
    """Write the codes of rows of scores; float64 decides where float32 is too close to call."""
    wide = np.promote_types(values.dtype, np.float32)
    scale = np.where(largest > 0, largest, 1).astype(wide)
    with np.errstate(divide="ignore"):
        steps = np.divide(values, scale, dtype=wide).astype(np.float32, copy=False)
        np.log(steps, out=steps)
    steps *= np.float32(STEPS_PER_OCTAVE / np.log(2))
    steps += np.float32(255)
    np.maximum(steps, 0, out=steps)
    nearest = np.rint(steps)
    np.copyto(codes, nearest, casting="unsafe")
    steps -= nearest
    np.abs(steps, out=steps)
    row, unit = np.divmod(np.flatnonzero(steps > _CLOSE), values.shape[1])
    exact = values[row, unit].astype(np.float64) / scale[row, 0]
    codes[row, unit] = np.rint(255 + STEPS_PER_OCTAVE * np.log2(exact))


@functools.cache
def _log8_pairs() -> NDArray[np.int64]:
    """Return int64[65536]: for each pair of codes their two float32 scores, side by side."""
    pairs = np.empty((256, 256, 2), np.float32)  # [second code, first code]
    pairs[..., 0], pairs[..., 1] = LOG8_TABLE, LOG8_TABLE[:, None]
    return pairs.reshape(-1).view(np.int64)


def decode_log8(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Look every code up in `LOG8_TABLE`, in pairs, which takes a third of the time."""
    flat = codes.reshape(-1)
    if flat.size % 2:
        return LOG8_TABLE[codes]
    return _log8_pairs().take(flat.view("<u2")).view(np.float32).reshape(codes.shape)


def decode_floats(raw: NDArray[Any]) -> tuple[NDArray[np.float32], bool]:
    """Return floats as `as_float32` does, and True where all are seen to be finite and >= 0.

    False where one is not, or where nobody has looked: the kernels, which copy and look in one
    pass, are worth loading for many floats only.
    """
    if raw.dtype not in _INFINITY or raw.size < _MANY:
        return as_float32(raw), False
    from dipsim.kernels.floats import copy_floats, widen_halves  # numba takes long to load

    bits = np.require(raw, requirements=["C", "A"]).reshape(-1).view(f"<u{raw.itemsize}")
    bits.flags.writeable = False  # numba compiles for each kind of array
    scores = np.empty(raw.shape, np.float32)
    kernel = widen_halves if raw.dtype == np.float16 else copy_floats
    if kernel(bits, scores.reshape(-1)) < _INFINITY[raw.dtype]:
        return scores, True
    return as_float32(raw), False


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return floats as a plain, writeable array; those beyond float32 become infinite."""
    with np.errstate(over="ignore"):
        return np.array(values, np.float32, order="C")


def join_scores(scores: NDArray[np.float32], cluster: int) -> NDArray[np.float32]:
    """Return float32[..., units // cluster]: the root of the sum of squares of each cluster.

    One above the largest float32 is held there.
    """
    total = np.zeros((*scores.shape[:-1], scores.shape[-1] // cluster))
    for i in range(cluster):
        total += np.square(scores[..., i::cluster], dtype=np.float64)
    return np.minimum(np.sqrt(total), np.finfo(np.float32).max).astype(np.float32)


def join_sets(words: NDArray[np.uint64], units: int, cluster: int) -> NDArray[np.uint64]:
    """Return sets of clusters, uint64[..., words]: a cluster is active if any of its units is."""
    sets = unpack_sets(words, units)
    return pack_sets(np.any(sets.reshape(*sets.shape[:-1], -1, cluster), axis=-1))


def words_for(units: int) -> int:
    """Return the number of 64-bit words that hold ``units`` bits."""
    return -(-units // 64)


def pack_sets(sets: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack bool[..., units] into uint64[..., words]: unit u is bit u % 64 of word u // 64."""
    return widen_bits(np.packbits(sets, axis=-1, bitorder="little"))


def widen_bits(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Widen uint8[..., bytes] of little-endian bits to uint64[..., words], filled with zeros."""
    words = -(-packed.shape[-1] // 8)
    wide = np.zeros((*packed.shape[:-1], words * 8), np.uint8)
    wide[..., : packed.shape[-1]] = packed
    return wide.view("<u8")


def unpack_sets(words: NDArray[np.uint64], units: int) -> NDArray[np.bool_]:
    """Unpack uint64[..., words] to bool[..., units]."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=units, bitorder="little").view(np.bool_)
