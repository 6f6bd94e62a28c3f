"""Encodings of signals; the two compact ones are sets as bits and scores as 8-bit logarithms."""

import functools
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Encoding = Literal["float16", "float32", "float64", "log8", "bool", "bits", "sparse"]
Meaning = Literal["prob", "logits"]
"""Meaning of the floats of ``expert``."""
STEPS_PER_OCTAVE = 20


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
    values = scores.astype(np.float64)
    largest = values.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.rint(255 + STEPS_PER_OCTAVE * np.log2(values / largest))
    codes = np.where(values > 0, np.clip(codes, 0, 255), 0)
    return codes.astype(np.uint8), largest[..., 0].astype(np.float32)


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


def widen_halves(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """Convert float16 to float32, exactly.

    Where all are finite and >= 0, it takes a tenth of the time of a cast.
    """
    bits = halves.view(np.uint16)
    if bits.max(initial=0) >= 0x7C00:  # float16 infinity; NaN and every sign bit give more
        return halves.astype(np.float32)
    wide = np.left_shift(bits, np.uint32(13), dtype=np.uint32)  # right but for the exponent's bias
    scores: NDArray[np.float32] = wide.view(np.float32)
    scores *= np.float32(2.0 ** (127 - 15))
    return scores


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
