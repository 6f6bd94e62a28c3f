"""The header of a GGUF file: the model it holds, and how its weights are stored.

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
_MOST_ENTRIES, _MOST_TENSORS = 10_000, 100_000
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


def read_gguf(path: Path) -> dict[str, Any]:
    """Read the geometry and storage that a GGUF file declares, in the form `load_model` takes.

    Storage is ``quant`` where all MLP matrices have one type (their bytes are then exact), else
    ``bits``, the mean over all matrices (the model's bytes are then exact).

    Raises:
        ModelError: no regular file, no GGUF, absurd counts, cut short, or no language model.
    """
    values, tensors, _ = _opened(path)
    return {**_geometry(path, values, tensors), **_storage(path, tensors)}


def check_whole(path: Path) -> None:
    """Check that a GGUF file holds all weights that its header lists.

    Raises:
        ModelError: the file is cut short, or its header is refused (as by `read_gguf`).
    """
    values, tensors, header = _opened(path)
    align = values.get("general.alignment", 32)
    if not isinstance(align, int) or align < 1:
        raise ModelError(f"{path}: general.alignment is {str(align)[:40]}: not a number of bytes")
    begin = -(-header // align) * align
    end = max((begin + tensor.offset + int(tensor.bytes) for tensor in tensors), default=0)
    size = os.stat(path).st_size
    if size < end:
        raise ModelError(
            f"{path}: cut short: its weights end at byte {end}, the file at {size}; copy it again"
        )


def _opened(path: Path) -> tuple[dict[str, Any], list[Tensor], int]:
    """Return the entries, the tensors and the length in bytes of a header."""
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
        tensors = self._count("tensors", _MOST_TENSORS)
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


def _geometry(path: Path, values: dict[str, Any], tensors: list[Tensor]) -> dict[str, Any]:
    arch = values.get("general.architecture")
    if not isinstance(arch, str):
        raise ModelError(f"{path}: names no general.architecture: not a language model")
    shapes = {tensor.name: tensor.shape for tensor in tensors}

    def number(key: str, default: Any = None) -> Any:
        value = values.get(f"{arch}.{key}", default)
        if isinstance(value, list):  # one per layer: they must agree
            value = value[0] if len(set(value)) == 1 else None
        return value

    embedding = shapes.get("token_embd.weight", ())
    heads, hidden = number("attention.head_count"), number("embedding_length")
    experts = number("expert_count") or None
    geometry = {
        "name": values.get("general.name") or path.stem,
        "layers": number("block_count"),
        "hidden": hidden,
        "intermediate": number("expert_feed_forward_length") or number("feed_forward_length"),
        "heads": heads,
        "kv_heads": number("attention.head_count_kv", heads),
        "head_dim": number("attention.key_length"),
        "vocab": embedding[1] if len(embedding) == 2 else number("vocab_size"),
        "tied_embeddings": "output.weight" not in shapes,
        "gated": any(".ffn_gate" in name for name in shapes) or _fused(shapes, number),
        "context": number("context_length"),
        "window": number("attention.sliding_window") or None,
        "experts": experts,
        "experts_per_token": number("expert_used_count") if experts else None,
        "shared_intermediate": number("expert_shared_feed_forward_length", 0) if experts else 0,
    }
    if geometry["window"] and arch == "gemma2":
        geometry["window_every"] = 2
    geometry["name"] = str(geometry["name"])[:80]
    return {key: value for key, value in geometry.items() if value is not None}


def _fused(shapes: dict[str, tuple[int, ...]], number: Any) -> bool:
    """Return True if gate and up are one matrix, as in Phi-3."""
    up, width = shapes.get("blk.0.ffn_up.weight", ()), number("feed_forward_length")
    return len(up) == 2 and isinstance(width, int) and up[1] == 2 * width


def _storage(path: Path, tensors: list[Tensor]) -> dict[str, Any]:
    """Return ``quant`` if all MLP matrices have one type, else the mean ``bits`` of all."""
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1]
    mlp = {
        tensor.kind
        for tensor in matrices
        if ".ffn_" in tensor.name and "_inp" not in tensor.name and tensor.kind.bits < 32
    }
    if len(mlp) == 1:
        kind = mlp.pop()
        scales = kind.size - kind.weights * kind.bits / 8
        quant = {
            "format": kind.name,
            "bits": float(kind.bits),
            "group": kind.weights,
            "scale_bytes": scales,
        }
        return {"quant": quant}
    weights = sum(tensor.weights for tensor in matrices)
    if not weights:
        raise ModelError(f"{path}: holds no weight matrices (only a vocabulary?)")
    return {"bits": 8 * sum(tensor.bytes for tensor in matrices) / weights}
