"""Weight formats: their names, as engines and files spell them, and their usual bits per weight."""

import re
from collections.abc import Mapping

from dipsim.errors import DipsimError

FORMAT_BITS: Mapping[str, float] = {
    "q4_0": 4.5,
    "q4_k": 4.85,
    "q5_k": 5.7,
    "q6_k": 6.6,
    "q8_0": 8.5,
    "8da4w": 4.5,
    "int4": 4.25,
    "int8": 8.0,
    "mxfp4": 4.25,
    "coreml_4bit": 4.5,
    "w2": 2.6,
    "w4": 4.5,
    "bf16": 16.0,
    "f16": 16.0,
    "f32": 32.0,
}
"""Bits per weight, scales included, of a model that is stored in a format."""
_NAME = re.compile(r"(?<![a-z0-9])(q\d_[01k]|8da4w|int[48]|mxfp4|bf16|f16|f32|w[24])(?![0-9])")
_SPELLINGS = {"fp16": "f16", "float16": "f16", "fp32": "f32", "bfloat16": "bf16"}


def weight_format(text: str) -> str | None:
    """Return the weight format that a text names, e.g. ``q4_k`` for ``Qwen3-8B-Q4_K_M.gguf``; None
    for none."""
    lowered = text.lower()
    for spelling, name in _SPELLINGS.items():
        lowered = lowered.replace(spelling, name)
    if lowered in FORMAT_BITS:
        return lowered
    match = _NAME.search(lowered)
    return None if match is None else match[1]


def nearest_format(bits: float, formats: Mapping[str, float]) -> str | None:
    """Return the first of ``formats`` whose usual bits are nearest ``bits``; None if none is within
    an eighth of them."""
    known = [name for name in formats if name in FORMAT_BITS]
    if not known:
        return None
    best = min(known, key=lambda name: abs(FORMAT_BITS[name] / bits - 1))
    return best if abs(FORMAT_BITS[best] / bits - 1) <= 1 / 8 else None


def parse_by_column(text: str | None) -> tuple[int, int] | None:
    """Read ``"4:32"`` as (bits per weight, weights of a group); None stays None.

    Raises:
        DipsimError: not of that form, or numbers outside their ranges.
    """
    if text is None:
        return None
    bits, colon, group = str(text).partition(":")
    if not (colon and bits.isdecimal() and group.isdecimal() and 1 <= int(bits) <= 8):
        raise DipsimError(f"--requantise {text!r}: write BITS:GROUP, e.g. 4:32, of 1 to 8 bits")
    if not 1 <= int(group) <= 2**16:
        raise DipsimError(f"--requantise {text!r}: a group has 1 to 65536 weights")
    return int(bits), int(group)
