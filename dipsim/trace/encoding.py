"""How signals are stored; the two compact encodings: sets as bits, scores as 8-bit logarithms."""

import functools
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Encoding = Literal["float16", "float32", "float64", "log8", "bool", "bits", "sparse"]
STEPS_PER_OCTAVE = 20


def _log8_table() -> NDArray[np.float32]:
    steps = np.arange(256, dtype=np.float64)
    table = np.exp2((steps - 255) / STEPS_PER_OCTAVE)
    table[0] = 0.0
    return table.astype(np.float32)


LOG8_TABLE = _log8_table()
"""float32[256]: what each code stands for, relative to the largest score of its token and layer."""


def encode_log8(scores: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Scores as 8-bit logarithms: 20 steps an octave, 12.75 octaves below the largest score.

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
    """int64[65536]: the two float32 that two neighbouring codes stand for."""
    pairs = np.empty((256, 256, 2), np.float32)  # [second code, first code]
    pairs[..., 0], pairs[..., 1] = LOG8_TABLE, LOG8_TABLE[:, None]
    return pairs.reshape(-1).view(np.int64)


def decode_log8(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What every code stands for in `LOG8_TABLE`; looked up in pairs, which takes a third."""
    flat = codes.reshape(-1)
    if flat.size % 2:
        return LOG8_TABLE[codes]
    return _log8_pairs().take(flat.view("<u2")).view(np.float32).reshape(codes.shape)


def widen_halves(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """float16 -> float32, exactly; a tenth of the time of a cast when all are finite and >= 0."""
    bits = halves.view(np.uint16)
    if bits.max(initial=0) >= 0x7C00:  # the bits of infinity; with a sign they are more
        return halves.astype(np.float32)
    wide = bits.astype(np.uint32) << np.uint32(13)  # in place but for the bias of the exponent
    scores = wide.view(np.float32)
    scores *= np.float32(2.0 ** (127 - 15))
    return scores


def join_scores(scores: NDArray[np.float32], cluster: int) -> NDArray[np.float32]:
    """Scores of clusters: the root of the sum of squares of ``cluster`` neighbouring units."""
    total = np.zeros((*scores.shape[:-1], scores.shape[-1] // cluster))
    for i in range(cluster):
        total += np.square(scores[..., i::cluster], dtype=np.float64)
    return np.sqrt(total).astype(np.float32)


def join_sets(words: NDArray[np.uint64], units: int, cluster: int) -> NDArray[np.uint64]:
    """Sets of clusters: those of which any unit is active."""
    sets = unpack_sets(words, units)
    return pack_sets(np.any(sets.reshape(*sets.shape[:-1], -1, cluster), axis=-1))


def words_for(units: int) -> int:
    """How many 64-bit words hold ``units`` bits."""
    return -(-units // 64)


def pack_sets(sets: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """bool[..., units] -> uint64[..., words], unit u in bit u % 64 of word u // 64."""
    return widen_bits(np.packbits(sets, axis=-1, bitorder="little"))


def widen_bits(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """uint8[..., bytes] of little-endian bits -> uint64[..., words], zero-filled."""
    words = -(-packed.shape[-1] // 8)
    wide = np.zeros((*packed.shape[:-1], words * 8), np.uint8)
    wide[..., : packed.shape[-1]] = packed
    return wide.view("<u8")


def unpack_sets(words: NDArray[np.uint64], units: int) -> NDArray[np.bool_]:
    """uint64[..., words] -> bool[..., units]."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=units, bitorder="little").view(np.bool_)
