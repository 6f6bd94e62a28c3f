"""Archives as dipsim writes them: arrays, in memory or spooled to disk, packed as an `.npz`."""

import os
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from dipsim.trace.npz import Array, is_bomb

_COPY = 2**20


def pack(handle: IO[bytes], arrays: "Mapping[str, Array | Spool]", *, deflate: bool) -> None:
    """Write arrays as an `.npz`, equal arrays as equal bytes.

    Args:
        handle: an empty file.
        arrays: by name; those in memory little-endian and in C order.
        deflate: whether to compress them. What deflates so well that a reader would take it for a
            bomb is stored all the same.
    """
    compression = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    archive = zipfile.ZipFile(handle, "w", compression)
    try:
        for name, array in arrays.items():
            _add(archive, name, array)
    except BaseException:
        archive.fp = None  # closing would complain of the member that is open
        raise
    archive.close()
    bomb = is_bomb(archive.infolist())
    if deflate and bomb:
        handle.seek(0)
        handle.truncate()
        pack(handle, arrays, deflate=False)


def _add(archive: zipfile.ZipFile, name: str, array: "Array | Spool") -> None:
    entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, whenever it is written
    entry.compress_type = archive.compression
    head = {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    with archive.open(entry, "w", force_zip64=True) as out:
        npy.write_array_header_1_0(out, head)
        if isinstance(array, Spool):
            array.copy_to(out)
        elif array.nbytes:
            out.write(array.reshape(-1).view(np.uint8).data)


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
        self._file.write(data.tobytes())
        self._file.flush()  # small rows too, so that a full disk shows at once
        self.row_count += len(data)
        self.bytes += data.nbytes

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
