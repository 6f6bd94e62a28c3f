"""Headers of safetensors files: names, types and sizes of tensors; no weight is read.

Nothing is trusted: lengths are checked against the file, and names of other files lie beside it.
Format: https://github.com/huggingface/safetensors.
"""

import json
import os
import re
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dipsim import files
from dipsim.errors import ModelError, brief

SUFFIX = ".safetensors"
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)
_LONGEST_HEADER = 100 * 10**6  # the format's own limit
_MOST_TENSORS, _MOST_FILES = 1_000_000, 10_000
_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "C64": 64,
}


class Tensor(NamedTuple):
    """A tensor: its type, its shape and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def numbers(self) -> int:
        """Count of the numbers it holds."""
        count = 1
        for length in self.shape:
            count *= length
        return count


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files of a model.

    Args:
        path: a folder, whose index or ``model.safetensors`` says which; or one file, with all of
            its shards.

    Returns:
        All of them; none of a folder that has none.

    Raises:
        ModelError: some are missing, or the index names no files beside it.
    """
    if not os.path.isdir(path):
        match = _SHARD.fullmatch(path.name)
        if match is None:
            return [path]
        count = int(match[3])
        if not 1 <= count <= _MOST_FILES:
            raise ModelError(f"{path}: shard of {count}, at most {_MOST_FILES} are believed")
        numbers = range(1, count + 1)
        names = [f"{match[1]}-{number:05d}-of-{match[3]}{SUFFIX}" for number in numbers]
        return _present(path.parent, names, str(path))
    if os.path.isfile(path / _INDEX):
        listed = files.read_json(path / _INDEX, ModelError).get("weight_map")
        if not isinstance(listed, dict):
            raise ModelError(f"{path / _INDEX}: has no weight_map: write it anew, or remove it")
        names = sorted({str(name) for name in listed.values()})
        if not any(os.path.isfile(path / os.path.basename(name)) for name in names):
            return []
        return _present(path, names, str(path / _INDEX))
    return [path / _WHOLE] if os.path.isfile(path / _WHOLE) else []


def _present(folder: Path, names: list[str], where: str) -> list[Path]:
    if len(names) > _MOST_FILES:
        raise ModelError(f"{where}: names {len(names)} files, at most {_MOST_FILES} are believed")
    for name in names:
        if name != os.path.basename(name) or not name.endswith(SUFFIX):
            raise ModelError(f"{where}: names {brief(name, 60)!r}: a file beside it, *{SUFFIX}")
        if not os.path.isfile(folder / name):
            raise ModelError(f"{where}: {brief(name, 80)} is missing beside it: download all files")
    return [folder / name for name in names]


def read_tensors(paths: list[Path]) -> dict[str, Tensor]:
    """Return the tensors of all files of a model, by name.

    Raises:
        ModelError: no regular file, a header that is cut short or too long, no JSON, or offsets
            that are not those of the tensors.
    """
    found: dict[str, Tensor] = {}
    for path in paths:
        for name, tensor in _read(path).items():
            if name in found:
                raise ModelError(f"{path}: {brief(name, 80)} stands in another file too")
            found[name] = tensor
        if len(found) > _MOST_TENSORS:
            raise ModelError(f"{path}: more than {_MOST_TENSORS} tensors, which none has")
    return found


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelError(f"{path}: not a regular file; give a {SUFFIX} file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ModelError(f"{path}: cut short, or no safetensors")
            text = file.read(length)
    except OSError as problem:
        raise ModelError(f"{path}: cannot be read ({problem.strerror})") from None
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelError(f"{path}: its header is not JSON: no safetensors") from None
    if not isinstance(listed, dict):
        raise ModelError(f"{path}: its header is no JSON object: no safetensors")
    tensors, begins = {}, []
    for name, entry in listed.items():
        if name == "__metadata__":
            continue
        tensors[name], begin = _tensor(f"{path}: {brief(name, 80)}", entry)
        begins.append((begin, begin + tensors[name].bytes))
    end = 0
    for begin, after in sorted(begins):
        if begin != end:
            raise ModelError(f"{path}: its tensors overlap or leave gaps: copy it again")
        end = after
    if 8 + length + end > size:
        raise ModelError(
            f"{path}: cut short: its weights end at byte {8 + length + end}, the file at {size}; "
            "copy it again"
        )
    return tensors


def _tensor(where: str, entry: Any) -> tuple[Tensor, int]:
    """Return a tensor, and where its bytes begin behind the header."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ModelError(f"{where}: dtype {brief(dtype, 20)} is not known: {', '.join(_BITS)}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise ModelError(f"{where}: shape and data_offsets must be lists of whole numbers")
    tensor = Tensor(dtype, tuple(shape), offsets[1] - offsets[0])
    if tensor.numbers * _BITS[dtype] != 8 * tensor.bytes:
        raise ModelError(f"{where}: {brief(shape, 60)} of {dtype} are not {tensor.bytes} bytes")
    return tensor, offsets[0]


def _naturals(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(type(each) is int and 0 <= each < 2**48 for each in value)
    )
