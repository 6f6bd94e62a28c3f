"""Headers of GGUF files, written by hand."""

import struct
from collections.abc import Mapping
from typing import Any

F32, F16, Q4_0, Q8_0, Q4_K, Q6_K, BF16, MXFP4 = 0, 1, 2, 8, 12, 14, 30, 39
BITS = {F32: 32, F16: 16, Q4_0: 4.5, Q8_0: 8.5, Q4_K: 4.5, Q6_K: 6.5625, BF16: 16, MXFP4: 4.25}
"""Bits per weight of each type, scales included."""
Tensors = Mapping[str, tuple[tuple[int, ...], int]]
"""By name: the shape, columns first, and the type."""


def text(value: str) -> bytes:
    """Return a text as it stands in a header."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value_of(value: Any) -> bytes:
    """Return a value with its type: a text, a bool, a whole number, or a list of such."""
    if isinstance(value, list):
        kind = {str: 8, bool: 7}.get(type(value[0]) if value else int, 4)
        form = {7: "<?", 4: "<I"}.get(kind, "")
        items = (text(item) if kind == 8 else struct.pack(form, item) for item in value)
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(items)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    return struct.pack("<II", 4, value)


def header(values: Mapping[str, Any], listed: Tensors) -> bytes:
    """Return a header of version 3."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(values))
    body = b"".join(text(key) + value_of(value) for key, value in values.items())
    for name, (shape, kind) in listed.items():
        body += text(name) + struct.pack("<I", len(shape))
        body += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, 0)
    return head + body


def weights_of(listed: Tensors) -> int:
    """Return the number of weights of all tensors."""
    total = 0
    for shape, _ in listed.values():
        count = 1
        for length in shape:
            count *= length
        total += count
    return total


def bytes_of(listed: Tensors) -> float:
    """Return the bytes of all tensors."""
    return sum(weights_of({"": (shape, kind)}) * BITS[kind] / 8 for shape, kind in listed.values())
