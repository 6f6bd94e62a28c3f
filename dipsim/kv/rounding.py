"""Rounding of keys and values to a format: the numbers that a model reads back."""

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError
from dipsim.kv.bits import KvFormat, Part

Rows = NDArray[np.float32]
_FP8_LARGEST, _FP8_MANTISSA, _FP8_LEAST_EXPONENT = 448.0, 3, -6


def check_rounds(format_: KvFormat) -> None:
    """Check that a format can be computed, not only counted.

    Raises:
        DipsimError: bits that no code of it has, in one line.
    """
    for part in (format_.key, format_.value):
        known = (16, 8) if part.code == "float" else range(1, 17)
        if part.bits not in known:
            raise DipsimError(
                f"KV format {format_.name}: numbers of {part.bits:g} bits are counted, not "
                "computed; take whole bits"
            )


def rounded(part: Part, rows: Rows) -> Rows:
    """Return keys or values as they are read back once all of them are quantised.

    Args:
        part: storage of the keys, or of the values.
        rows: float32[positions, width], the heads of a position side by side. Where groups lie
            along positions, those of the last group stay as they are until it is full.
    """
    if part.code == "float":
        return _fp8(rows) if part.bits == 8 else _half(rows)
    if part.along == "channels":
        return _by_groups(part, rows)
    whole = len(rows) // part.group * part.group
    return np.concatenate([_by_groups(part, rows[:whole].T).T, rows[whole:]])


def _by_groups(part: Part, rows: Rows) -> Rows:
    """Round rows whose neighbours share scales; the last group of a row may be shorter."""
    count, width = rows.shape
    groups = -(-width // part.group)
    padded = np.pad(rows, ((0, 0), (0, groups * part.group - width)), mode="edge")
    blocks = padded.reshape(count, groups, part.group)
    coded = _range(blocks, part.bits) if part.code == "range" else _scale(blocks, part.bits)
    back: Rows = np.ascontiguousarray(coded.reshape(count, -1)[:, :width])
    return back


def _half(values: Rows) -> Rows:
    return values.astype(np.float16).astype(np.float32)


def _range(blocks: Rows, bits: float) -> Rows:
    """Round to 2^bits steps from the least to the largest of a block; both ends in fp16 (KIVI,
    arXiv 2402.02750, equation 2)."""
    steps = np.float32(2**bits - 1)
    zero = _half(blocks.min(axis=-1, keepdims=True))
    scale = _half((blocks.max(axis=-1, keepdims=True) - zero) / steps)
    codes = np.clip(np.rint((blocks - zero) / np.where(scale > 0, scale, np.float32(1))), 0, steps)
    back: Rows = codes * scale + zero
    return back


def _scale(blocks: Rows, bits: float) -> Rows:
    """Round to multiples of a scale in fp16: of 8 bits by the largest size over 127, of fewer so
    that the number of the largest size is the lowest code (q8_0, q4_0 of llama.cpp, ggml-quants.c).
    """
    peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1, keepdims=True), axis=-1)
    lowest = -(2.0 ** (bits - 1))
    scale: Rows = (np.abs(peak) / 127 if bits == 8 else peak / lowest).astype(np.float32)
    codes = blocks / np.where(scale == 0, 1, scale).astype(np.float32)
    if bits == 8:
        codes = np.copysign(np.floor(np.abs(codes) + 0.5), codes)
    else:
        codes = np.minimum(np.floor(codes + 0.5), -lowest - 1)
    return codes.astype(np.float32) * _half(scale)


def _fp8(rows: Rows) -> Rows:
    """Round to E4M3: 4 bits of exponent, 3 of mantissa, at most 448 (arXiv 2209.05433)."""
    exponent = np.maximum(np.frexp(rows)[1] - 1, _FP8_LEAST_EXPONENT) - _FP8_MANTISSA
    steps = np.ldexp(np.float32(1), exponent)
    back: Rows = np.clip(np.rint(rows / steps) * steps, -_FP8_LARGEST, _FP8_LARGEST)
    return back
