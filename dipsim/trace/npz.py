"""Untrusted `.npz` files: no pickle, no trust in declared sizes, bounded memory.

A `Member` is one array of the archive whose header was checked against the bytes present.
Stored members are memory-mapped; deflated ones are streamed in blocks of rows.
"""

import io
import os
import stat
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.lib import format as npy

from dipsim.errors import TraceError, brief
from dipsim.views import shortened

Array = np.ndarray[Any, np.dtype[Any]]
MAX_MEMBERS = 1000
_LONGEST_NAME = 1000  # characters
_DEFLATE_LIMIT = 1040  # deflate cannot expand more than 1032 times
_SMALL = 64 * 2**20
_LARGE = 768 * 2**20
_EMPTIEST = 1000  # times: sets with 1 unit of 20 000 active deflate 880, nothing but zeros 1030
_BAD_HEADER = (  # exceptions of numpy's header parser
    EOFError,
    MemoryError,
    RecursionError,
    SyntaxError,
    ValueError,
    tokenize.TokenError,
    zlib.error,
)
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def evenly(total: int, block: int) -> Iterator[int]:
    """Yield ``total`` in pieces of ``block`` and a rest: 10 by 4 is 4, 4, 2."""
    for start in range(0, total, block):
        yield min(block, total - start)


class Member(Protocol):
    """One array, readable in blocks of rows (its first axis)."""

    @property
    def path(self) -> Path | None:
        """File that holds it; None in memory."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    @property
    def crc(self) -> int:
        """CRC-32 of the array as an `.npy` file: identifies the contents."""

    def rows(self, first: int, counts: Iterable[int]) -> Iterator[Array]:
        """Yield arrays of ``counts`` rows each, one after another from row ``first`` on."""

    def whole(self) -> Array:
        """Return the whole array, for members that are small by their nature."""


@dataclass(frozen=True)
class InMemory:
    """An array that is already in memory."""

    array: Array
    path: None = None

    __repr__ = shortened

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(self.array.shape)

    @property
    def crc(self) -> int:
        """CRC-32 of type, shape and contents."""
        array = np.ascontiguousarray(self.array)
        head = f"{array.dtype.str}{array.shape}".encode()
        return zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(head))

    def rows(self, first: int, counts: Iterable[int]) -> Iterator[Array]:
        """Yield views of the array."""
        for count in counts:
            yield self.array[first : first + count]
            first += count

    def whole(self) -> Array:
        """Return the array itself."""
        return self.array


@dataclass(frozen=True)
class InArchive:
    """A checked member of an archive on disk."""

    path: Path
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    crc: int
    header: int
    """Length in bytes of the `.npy` header in front of the data."""
    offset: int | None
    """Position of the data in the archive, in bytes, for a stored member; None when deflated."""

    def rows(self, first: int, counts: Iterable[int]) -> Iterator[Array]:
        """Yield rows: mapped when stored, decompressed in order when deflated."""
        if self.offset is not None:
            mapped: Array
            if 0 in self.shape:  # memmap refuses an empty array
                mapped = np.zeros(self.shape, self.dtype)
            else:
                mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
            for count in counts:
                yield mapped[first : first + count]
                first += count
            return
        row = int(np.prod(self.shape[1:], dtype=object)) * self.dtype.itemsize
        with self._stream() as stream:
            _skip(stream, self.header + first * row, self)
            for count in counts:
                data = _exactly(stream, count * row, self)
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def whole(self) -> Array:
        """Return the whole array.

        Raises:
            TraceError: larger than 64 MiB, damaged, or cut short.
        """
        size = int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        if size > _SMALL:
            raise TraceError(f"{self}: {size} bytes, at most {_SMALL} are allowed for this array")
        if self.shape:
            (array,) = self.rows(0, [self.shape[0]])
            return array
        with self._stream() as stream:
            _skip(stream, self.header, self)
            return np.frombuffer(_exactly(stream, size, self), self.dtype).reshape(())

    @contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        """Open the decompressed bytes; archive and stream are closed in case of errors too."""
        with ExitStack() as opened:
            try:
                archive = opened.enter_context(zipfile.ZipFile(self.path))
                stream = opened.enter_context(archive.open(self.name))
            except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as problem:
                raise TraceError(f"{self}: damaged ({brief(problem)})") from None
            yield stream

    def __str__(self) -> str:
        return f"{self.path}: array {brief(self.name.removesuffix('.npy'))!r}"


def open_npz(path: Path) -> dict[str, InArchive]:
    """Return the members of an archive by name (without ``.npy``), headers read and checked.

    Raises:
        TraceError: no regular file, no zip, a bomb, damaged, encrypted, a name twice, object
            arrays, Fortran order, or a header that disagrees with the bytes present.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise TraceError(f"{path}: not a regular file; give an .npz file")
        with zipfile.ZipFile(path) as archive, open(path, "rb") as raw:
            infos = archive.infolist()
            names = [info.filename.removesuffix(".npy") for info in infos]
            check_names(str(path), names)
            if sum(info.compress_size for info in infos) > os.fstat(raw.fileno()).st_size:
                raise TraceError(f"{path}: its members overlap; write the file again")
            if is_bomb(infos):
                raise TraceError(
                    f"{path}: {sum(info.file_size for info in infos)} bytes of nearly nothing when "
                    "inflated: store sets as sparse, or arrays uncompressed (np.savez)"
                )
            members: dict[str, InArchive] = {}
            for name, info in zip(names, infos, strict=True):
                if name == info.filename:
                    raise TraceError(f"{path}: member {brief(name)!r} is no .npy array")
                members[name] = _check(path, archive, info, raw)
            return members
    except zipfile.BadZipFile as problem:
        text = brief(str(problem).lower().rstrip("."))
        raise TraceError(f"{path}: not a readable .npz file ({text}); write it again") from None
    except (OSError, EOFError, zlib.error, NotImplementedError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise TraceError(f"{path}: cannot be read ({brief(reason)})") from None


def check_names(what: str, names: Collection[str]) -> None:
    """Refuse names that arrays of an archive cannot or must not have.

    Args:
        what: the archive, for error messages.
        names: of all its arrays, without ``.npy``.

    Raises:
        TraceError: too many, one twice, one like a path, too long or not printable.
    """
    if len(names) > MAX_MEMBERS:
        raise TraceError(f"{what}: {len(names)} members, at most {MAX_MEMBERS} are allowed")
    known: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise TraceError(
                f"{what}: array {brief(name)!r}: a name is text of at most {_LONGEST_NAME} "
                "printable characters"
            )
        if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
            raise TraceError(f"{what}: array {brief(name)!r} is named like a path")
        if name in known:
            raise TraceError(f"{what}: array {brief(name)!r} stands there twice")
        known.add(name)


def is_bomb(infos: Iterable[zipfile.ZipInfo]) -> bool:
    """Return True if an archive inflates to more than 768 MiB and to over 1000 times its size.

    Arrays are read in blocks, so size alone costs time, not memory.
    """
    inflated = packed = 0
    for info in infos:
        inflated += info.file_size
        packed += info.compress_size
    return inflated > max(_LARGE, packed * _EMPTIEST)


def _check(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, raw: IO[bytes]
) -> InArchive:
    """Check a member's kind, compression, header and sizes against the file."""
    what = f"{path}: array {brief(info.filename.removesuffix('.npy'))!r}"
    if info.flag_bits & 1:
        raise TraceError(f"{what} is encrypted: write it without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise TraceError(f"{what} uses an unusual compression: use np.savez or savez_compressed")
    with archive.open(info) as stream:
        dtype, shape, header = _read_header(stream, what, info.file_size)
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    largest = info.compress_size * (_DEFLATE_LIMIT if deflated else 1) + 64 * deflated
    if info.file_size > largest:
        raise TraceError(f"{what} claims {info.file_size} bytes, more than its file can hold")
    offset = None if deflated else _data_offset(info, raw, what) + header
    return InArchive(path, info.filename, dtype, shape, info.CRC, header, offset)


def open_npy(path: Path) -> InArchive:
    """Open a `.npy` file, its header read and checked; rows are memory-mapped.

    Raises:
        TraceError: as `open_npz`.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise TraceError(f"{path}: not a regular file; give a .npy file")
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            dtype, shape, header = _read_header(stream, str(path), size)
    except OSError as problem:
        raise TraceError(f"{path}: cannot be read ({problem.strerror})") from None
    return InArchive(path, path.name, dtype, shape, 0, header, header)


def read_npy(data: bytes, what: str) -> Array:
    """Return the array of a `.npy` file in memory, its header checked.

    Raises:
        TraceError: as `open_npz`; names ``what`` it is.
    """
    dtype, shape, header = _read_header(io.BytesIO(data), what, len(data))
    return np.frombuffer(data, dtype, offset=header).reshape(shape)


def _read_header(
    stream: IO[bytes], what: str, size: int
) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return type, shape and header length of an array that takes ``size`` bytes in all."""
    with warnings.catch_warnings():
        try:
            warnings.simplefilter("ignore")  # numpy grumbles about headers of Python 2
            version = npy.read_magic(stream)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            if version not in read:
                raise ValueError(f"npy version {version}")
            shape, fortran, dtype = read[version](stream, max_header_size=10_000)
        except _BAD_HEADER as problem:
            line = str(problem).splitlines()[0] if str(problem) else "cut short"
            raise TraceError(f"{what} has no readable .npy header ({brief(line)})") from None
    header = stream.tell()
    if dtype.hasobject:
        raise TraceError(
            f"{what} holds Python objects: save numbers, dipsim never unpickles; of a list with an "
            "array [tokens, units] per layer save np.stack(list, axis=1)"
        )
    if dtype.byteorder == ">" or dtype.names is not None:
        raise TraceError(
            f"{what} is {dtype}: save it as plain little-endian numbers, x.astype(np.float32)"
        )
    if fortran and len(shape) > 1:
        raise TraceError(f"{what} is in Fortran order: save np.ascontiguousarray(it)")
    if any(not isinstance(n, int) or n < 0 for n in shape):
        raise TraceError(f"{what} declares the shape {shape}: lengths cannot be negative")
    expected = header + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if expected != size:
        raise TraceError(
            f"{what} declares {shape} {dtype} ({expected} bytes) but holds {size} bytes"
        )
    return dtype, shape, header


def _data_offset(info: zipfile.ZipInfo, raw: IO[bytes], what: str) -> int:
    """Return the position of a stored member's bytes.

    They begin behind its local header, whose lengths may differ from those of the directory.
    """
    raw.seek(info.header_offset)
    local = raw.read(_LOCAL_HEADER.size)
    if len(local) < _LOCAL_HEADER.size or local[:4] != b"PK\x03\x04":
        raise TraceError(f"{what}: damaged zip header; write the file again")
    _, name, extra = _LOCAL_HEADER.unpack(local)
    begin = int(info.header_offset + _LOCAL_HEADER.size + name + extra)
    if begin + info.file_size > os.fstat(raw.fileno()).st_size:
        raise TraceError(f"{what} is cut short: write the file again")
    return begin


def _exactly(stream: IO[bytes], size: int, what: InArchive) -> bytes:
    """Read ``size`` bytes or fail."""
    try:
        data = stream.read(size)
    except (zlib.error, zipfile.BadZipFile, EOFError, OSError) as problem:
        raise TraceError(f"{what}: damaged ({brief(problem)}); write the file again") from None
    if len(data) != size:
        raise TraceError(f"{what} is cut short: write the file again")
    return data


def _skip(stream: IO[bytes], size: int, what: InArchive) -> None:
    while size > 0:
        size -= len(_exactly(stream, min(size, 2**20), what))
