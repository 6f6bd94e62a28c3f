"""The header of a GGUF file: its entries, and the shapes and types of its tensors.

Nothing is trusted: counts and lengths are checked against the bytes present and against limits,
long arrays are skipped, and only the header is read.
Format: GGUF, versions 2 and 3 (ggml, docs/gguf.md).
"""

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dipsim.errors import ModelError

SUFFIX = ".gguf"
MOST_TENSORS = 100_000
_MOST_ENTRIES = 10_000
_LONGEST_KEY, _LONGEST_TEXT = 1_000, 4 * 2**20
_LONGEST_HEADER = 64 * 2**20
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"}
_SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True)
class TensorType:
    """A storage format of ggml: blocks of ``weights`` weights in ``size`` bytes."""

    name: str
    weights: int
    size: int
    bits: int
    """Bits of a weight without its share of scales."""


_TYPES = {
    0: TensorType("f32", 1, 4, 32),
    1: TensorType("f16", 1, 2, 16),
    2: TensorType("q4_0", 32, 18, 4),
    3: TensorType("q4_1", 32, 20, 4),
    6: TensorType("q5_0", 32, 22, 5),
    7: TensorType("q5_1", 32, 24, 5),
    8: TensorType("q8_0", 32, 34, 8),
    9: TensorType("q8_1", 32, 36, 8),
    10: TensorType("q2_k", 256, 84, 2),
    11: TensorType("q3_k", 256, 110, 3),
    12: TensorType("q4_k", 256, 144, 4),
    13: TensorType("q5_k", 256, 176, 5),
    14: TensorType("q6_k", 256, 210, 6),
    15: TensorType("q8_k", 256, 292, 8),
    16: TensorType("iq2_xxs", 256, 66, 2),
    17: TensorType("iq2_xs", 256, 74, 2),
    18: TensorType("iq3_xxs", 256, 98, 3),
    19: TensorType("iq1_s", 256, 50, 1),
    20: TensorType("iq4_nl", 32, 18, 4),
    21: TensorType("iq3_s", 256, 110, 3),
    22: TensorType("iq2_s", 256, 82, 2),
    23: TensorType("iq4_xs", 256, 136, 4),
    24: TensorType("i8", 1, 1, 8),
    25: TensorType("i16", 1, 2, 16),
    26: TensorType("i32", 1, 4, 32),
    27: TensorType("i64", 1, 8, 64),
    28: TensorType("f64", 1, 8, 64),
    29: TensorType("iq1_m", 256, 56, 1),
    30: TensorType("bf16", 1, 2, 16),
    34: TensorType("tq1_0", 256, 54, 1),
    35: TensorType("tq2_0", 256, 66, 2),
    39: TensorType("mxfp4", 32, 17, 4),
    40: TensorType("nvfp4", 64, 36, 4),
    41: TensorType("q1_0", 128, 18, 1),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor's name, its numbers of columns, rows, ... and its type."""

    name: str
    shape: tuple[int, ...]
    kind: TensorType
    offset: int
    """Position of its first byte, in bytes after the aligned end of the header."""

    @property
    def weights(self) -> int:
        """Number of weights."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def bytes(self) -> float:
        """Stored size in bytes."""
        return self.weights / self.kind.weights * self.kind.size


def read_header(path: Path) -> tuple[dict[str, Any], list[Tensor], int]:
    """Return the entries, the tensors and the length in bytes of the header of one file.

    Raises:
        ModelError: no regular file, no GGUF, absurd counts, or cut short.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelError(f"{path}: not a regular file; give a .gguf file")
        with open(path, "rb") as file:
            values, tensors = _Header(path, file).read()
            return values, tensors, file.tell()
    except OSError as problem:
        raise ModelError(f"{path}: cannot be read ({problem.strerror})") from None


class _Header:
    """Reads a header and never beyond the bytes it may have (``left``)."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file = path, file
        self.left = min(os.fstat(file.fileno()).st_size, _LONGEST_HEADER)

    def read(self) -> tuple[dict[str, Any], list[Tensor]]:
        if self._bytes(4) != b"GGUF":
            raise ModelError(f"{self.path}: not a GGUF file")
        version = self._number("<I")
        if version not in (2, 3):
            raise ModelError(f"{self.path}: GGUF version {version}; 2 and 3 are read")
        tensors = self._count("tensors", MOST_TENSORS)
        entries = self._count("entries", _MOST_ENTRIES)
        values: dict[str, Any] = {}
        for _ in range(entries):
            key = self._text(_LONGEST_KEY)
            if key in values:
                raise ModelError(f"{self.path}: key {key[:80]!r} stands there twice")
            values[key] = self._value(self._number("<I"))
        return values, [self._tensor() for _ in range(tensors)]

    def _tensor(self) -> Tensor:
        name = self._text(_LONGEST_KEY)
        axes = self._number("<I")
        if not 1 <= axes <= 4:
            raise ModelError(f"{self.path}: tensor {name[:80]!r} has {axes} axes, at most 4")
        shape = tuple(self._number("<Q") for _ in range(axes))
        kind = self._number("<I")
        offset = self._number("<Q")
        if kind not in _TYPES:
            raise ModelError(f"{self.path}: tensor {name[:80]!r} has the unknown type {kind}")
        tensor = Tensor(name, shape, _TYPES[kind], offset)
        if not 0 < tensor.weights < 2**50:
            raise ModelError(f"{self.path}: tensor {name[:80]!r} has the shape {shape}")
        return tensor

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _TEXT:
            return self._text(_LONGEST_TEXT)
        if kind == _ARRAY:
            return self._array()
        raise ModelError(f"{self.path}: value of the unknown type {kind}")

    def _array(self) -> list[Any] | int:
        """Return a short array of numbers, or the length of any other array."""
        kind, count = self._number("<I"), self._number("<Q")
        if kind in _SCALARS:
            size = struct.calcsize(_SCALARS[kind])
            if count <= 1_000:
                return [self._number(_SCALARS[kind]) for _ in range(count)]
            self._skip(count * size)
        elif kind == _TEXT:
            for _ in range(self._within(count, 8)):
                self._skip(self._number("<Q"))
        else:
            raise ModelError(f"{self.path}: array of the type {kind}: only numbers and texts")
        return int(count)

    def _count(self, what: str, most: int) -> int:
        count = self._number("<Q")
        if count > most:
            raise ModelError(f"{self.path}: claims {count} {what}, at most {most} are believed")
        return int(count)

    def _within(self, count: int, size: int) -> int:
        if count * size > self.left:
            raise ModelError(f"{self.path}: claims {count} values, more than the file can hold")
        return count

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _text(self, longest: int) -> str:
        length = self._number("<Q")
        if length > longest:
            raise ModelError(f"{self.path}: claims a text of {length} bytes, at most {longest}")
        return self._bytes(length).decode("utf-8", "replace")

    def _bytes(self, size: int) -> bytes:
        data = self.file.read(size) if size <= self.left else b""
        if len(data) != size:
            raise ModelError(f"{self.path}: the header is cut short or longer than 64 MiB")
        self.left -= size
        return data

    def _skip(self, size: int) -> None:
        self._within(size, 1)
        self.file.seek(size, os.SEEK_CUR)
        self.left -= size
