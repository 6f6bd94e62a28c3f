"""Archives as dipsim writes them: arrays, in memory or spooled to disk, packed as an `.npz`.

A stored array is mapped when it is read, a deflated one is inflated at every pass
(docs/trace-format.md, Storage).
"""

import mmap
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
from numpy.lib import format as npy

from dipsim.errors import DipsimError, brief
from dipsim.trace.npz import Array, is_bomb

Compress = Literal["auto", "always", "never"]
"""Arrays that are deflated: those of which that saves enough, all, or none."""

_COPY = 2**20
_SAMPLES, _SAMPLE = 8, 32 * 2**10  # of an array, in bytes
_WORTH = 0.7  # of its size: what deflates less is stored; zlib makes 25 MB/s of scores
_LEVEL = 1  # takes a third to an eighth of the time of the usual 6, for a tenth to a third more


def check_compress(given: object) -> None:
    """Refuse what is no `Compress`.

    Raises:
        DipsimError: in one line.
    """
    if not isinstance(given, str) or given not in get_args(Compress):
        raise DipsimError(
            f"--compress {brief(repr(given), 40)}: auto (where it saves more than 30 %), always or "
            "never"
        )


def pack(
    handle: IO[bytes], arrays: "Mapping[str, Array | Spool]", compress: Compress = "never"
) -> None:
    """Write arrays as an `.npz`, equal arrays as equal bytes.

    Args:
        handle: an empty file.
        arrays: by name; those in memory little-endian and in C order.
        compress: ``auto`` deflates those of which more than 30 % is saved: not scores, whose bits
            are mostly noise. What deflates so well that a reader would take it for a bomb is stored
            all the same.
    """
    archive = zipfile.ZipFile(handle, "w", compresslevel=_LEVEL)
    try:
        for name, array in arrays.items():
            deflate = compress == "always" or (compress == "auto" and _deflates(array))
            _add(archive, name, array, deflate)
    except BaseException:
        archive.fp = None  # closing would complain of the member that is open
        raise
    archive.close()
    bomb = is_bomb(archive.infolist())
    if compress != "never" and bomb:
        handle.seek(0)
        handle.truncate()
        pack(handle, arrays)


def _deflates(array: "Array | Spool") -> bool:
    """Return True if more than 30 % of samples of an array is saved."""
    sampled = array.sample() if isinstance(array, Spool) else _sample(_bytes(array).data)
    return len(zlib.compress(sampled, _LEVEL)) < _WORTH * len(sampled)


def _sample(data: memoryview) -> bytes:
    """Return pieces from all over some bytes; all of them where they are few."""
    starts = range(0, len(data), max(_SAMPLE, len(data) // _SAMPLES))
    return b"".join(data[start : start + _SAMPLE] for start in starts)


def _bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


def _add(archive: zipfile.ZipFile, name: str, array: "Array | Spool", deflate: bool) -> None:
    archive.compression = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    head = {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    # by its name alone a member is dated 1980, whenever it is written
    with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
        npy.write_array_header_1_0(out, head)
        if isinstance(array, Spool):
            array.copy_to(out)
        elif array.nbytes:
            out.write(_bytes(array).data)


class Spool:
    """The rows of one array, on disk until their number is known.

    Args:
        path: file to hold them.
        dtype: type of the elements.
        tail: lengths of all axes but the first.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], tail: tuple[int, ...]) -> None:
        self.path, self.dtype, self.tail = path, dtype, tail
        self.row_count = self.bytes = 0
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115 - closed by `close`

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self.row_count, *self.tail

    def write(self, rows: Array) -> None:
        """Append rows [n, *tail].

        Raises:
            OSError: the disk is full.
        """
        data = np.ascontiguousarray(rows, self.dtype)
        self._file.write(_bytes(data).data)
        self._file.flush()  # small rows too, so that a full disk shows at once
        self.row_count += len(data)
        self.bytes += data.nbytes

    def sample(self) -> bytes:
        """Return pieces from all over the rows.

        Raises:
            OSError: the disk is full.
        """
        self._file.close()
        if self.bytes == 0:
            return b""
        with (
            open(self.path, "rb") as raw,
            mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as data,
        ):
            return _sample(data)

    def rows_on_disk(self) -> int:
        """Return the number of complete rows on disk, also after a write that failed."""
        self.close()
        return self.path.stat().st_size // self._row_bytes

    def cut(self, rows: int) -> None:
        """Keep the first rows."""
        self.close()
        os.truncate(self.path, rows * self._row_bytes)
        self.row_count = rows

    def close(self) -> None:
        """End writing; what cannot be written any more is lost."""
        with suppress(OSError):
            self._file.close()

    def copy_to(self, out: IO[bytes]) -> None:
        """Copy the bytes of all rows.

        Raises:
            OSError: the disk is full.
        """
        self._file.close()  # a row that does not reach the disk is an error here, unlike in `close`
        with open(self.path, "rb") as raw:
            shutil.copyfileobj(raw, out, _COPY)

    @property
    def _row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.tail, dtype=np.int64))


class ListSpool(Spool):
    """Ends of lists (an array ``indptr``), appended as the lengths of the lists."""

    def write(self, rows: Array) -> None:
        """Append lists of these lengths, int64[n].

        Raises:
            OSError: the disk is full.
        """
        if self.row_count == 0:
            self._end = 0
            super().write(np.zeros(1, np.int64))
        ends = np.cumsum(rows, dtype=np.int64) + self._end
        super().write(ends)
        self._end = int(ends[-1])
