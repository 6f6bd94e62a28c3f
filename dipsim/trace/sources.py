"""Array files of other programs: `.npy`, `.npz`, `.safetensors`, or a folder of such files."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.errors import TraceError, brief
from dipsim.trace.foreign import way_to_trace
from dipsim.trace.npz import Array, Member, open_npy, open_npz

SUFFIXES = (".npy", ".npz", ".safetensors")
_MOST_FILES = 10_000
_TYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "BOOL": "bool"}
_TYPES |= {"U8": "uint8", "I32": "int32", "I64": "int64"}


def open_arrays(path: Path) -> dict[str, Member]:
    """Return all arrays by name, headers checked; the data stays on disk.

    A `.npy` file has one array, named like the file. In a folder, arrays of `.npz` and
    `.safetensors` files are called ``file.array``.

    Raises:
        TraceError: files that are unreadable, hostile, or of another kind.
    """
    if not os.path.isdir(path):
        return dict(_open_file(path))
    try:
        names = sorted(os.listdir(path))
    except OSError as problem:
        raise TraceError(f"{path}: cannot be read ({problem.strerror})") from None
    files = [path / name for name in names if Path(name).suffix in SUFFIXES]
    if not files or len(files) > _MOST_FILES:
        raise TraceError(
            f"{path}: {len(files)} files of arrays ({', '.join(SUFFIXES)}) in it: 1 to "
            f"{_MOST_FILES} are read"
        )
    arrays: dict[str, Member] = {}
    for file in files:
        for name, member in _open_file(file).items():
            arrays[name if file.suffix == ".npy" else f"{file.stem}.{name}"] = member
    return arrays


def _open_file(path: Path) -> Mapping[str, Member]:
    if path.suffix == ".npy":
        return {path.stem: open_npy(path)}
    if path.suffix == ".npz":
        return open_npz(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if (way := way_to_trace(path)) is not None:
        raise TraceError(f"{path}: {way}")
    raise TraceError(
        f"{path}: give a folder or a file that ends in {', '.join(SUFFIXES)}, or a routing log "
        "(dipsim import --list)"
    )


@dataclass(frozen=True)
class InSafetensors:
    """A tensor of a `.safetensors` file."""

    path: Path
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    crc: int = 0

    def rows(self, first: int, counts: Iterable[int]) -> Iterator[Array]:
        """Yield arrays of ``counts`` rows each from row ``first`` on; the library maps the file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="numpy") as file:
                rows = file.get_slice(self.name)
                for count in counts:
                    yield rows[first : first + count]
                    first += count
        except (SafetensorError, OSError) as problem:
            raise TraceError(
                f"{self.path}: tensor {brief(self.name)!r}: {brief(problem)}"
            ) from None

    def whole(self) -> Array:
        """Return the whole tensor."""
        return next(self.rows(0, [self.shape[0]]))


def _open_safetensors(path: Path) -> dict[str, InSafetensors]:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        raise TraceError(f"{path}: reading it needs a library: pip install safetensors") from None
    if not os.path.isfile(path):
        raise TraceError(f"{path}: not a regular file")
    tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                rows = file.get_slice(name)
                kind = rows.get_dtype()
                if kind not in _TYPES:
                    raise TraceError(
                        f"{path}: tensor {brief(name)!r} is {brief(kind)}: save it as float16"
                    )
                shape = tuple(rows.get_shape())
                tensors[name] = InSafetensors(path, name, np.dtype(_TYPES[kind]), shape)
    except (SafetensorError, OSError) as problem:
        raise TraceError(f"{path}: not readable as safetensors ({brief(problem)})") from None
    return tensors
