"""Direct reads of a local file, past the page cache: O_DIRECT, aligned buffers, several threads.

Nothing here writes to a file it did not make. Where a file system has no direct reads, they are
buffered and `DirectFile.direct` is False: such figures may be those of memory.
"""

import errno
import math
import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from dipsim.errors import DipsimError, printable
from dipsim.files import unwritable
from dipsim.units import BYTES

PAGE = 4096
"""Offsets, sizes and buffers of direct reads are multiples of this many bytes."""
_CHUNK = 2**22
_SPARE = 2**28
"""Bytes that must stay free on the disk beside a new file."""
_FLAG: int = getattr(os, "O_DIRECT", 0)


class DirectFile:
    """A file open for reading. Use `open_file` or `made_file`."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor, self.name = descriptor, name
        self.size = os.fstat(descriptor).st_size // PAGE * PAGE
        """Size in bytes, rounded down to whole pages."""
        self.direct = self._make_direct()

    def _make_direct(self) -> bool:
        """Switch to direct reads if the file system has them; return True if so."""
        if not _FLAG or not self.size:
            return False
        import fcntl

        flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags | _FLAG)
            with mmap.mmap(-1, PAGE) as page:
                os.preadv(self.descriptor, [page], 0)
        except OSError as problem:
            if problem.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise _unreadable(self.name, problem) from None
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags)
            return False
        return True

    def forget(self) -> None:
        """Drop the file from the page cache, so that buffered reads reach the disk."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def open_file(path: str) -> Iterator[DirectFile]:
    """Open an existing regular file for reading only.

    Raises:
        DipsimError: no such file, a directory or device, no permission, or a sparse file, whose
            holes are read without the disk.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)  # O_NONBLOCK: opening a pipe must not wait
    except OSError as problem:
        raise _unreadable(path, problem) from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise DipsimError(f"{printable(path)}: not a regular file; give one on the disk")
        if 512 * getattr(about, "st_blocks", about.st_size) < about.st_size // 2:
            raise DipsimError(
                f"{printable(path)}: half of it is holes, which are read without the disk: give "
                "a file whose bytes were written"
            )
        yield DirectFile(descriptor, path)
    finally:
        os.close(descriptor)


@contextmanager
def made_file(path: str, size: int) -> Iterator[DirectFile]:
    """Make a new file of ``size`` random bytes.

    It loses its name at once, so the system frees it when it is closed, however the program ends.

    Raises:
        DipsimError: the file exists, cannot be made, or would fill the disk.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        room = os.statvfs(folder)
        free = room.f_bavail * room.f_frsize
        if free < size + _SPARE:
            raise DipsimError(
                f"{printable(path)}: {BYTES.show(free)} are free there, the file takes "
                f"{BYTES.show(size)} and {BYTES.show(_SPARE)} must be left: give another folder "
                "or a smaller --file-size"
            )
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as problem:
        raise DipsimError(f"{printable(path)}: cannot be made ({problem.strerror})") from None
    try:
        os.unlink(path)
        _fill(descriptor, path, size)
        yield DirectFile(descriptor, path)
    finally:
        os.close(descriptor)


def _fill(descriptor: int, path: str, size: int) -> None:
    """Write random bytes through to the disk and drop them from the page cache."""
    rng = np.random.default_rng(0)
    try:
        for begin in range(0, size, _CHUNK):
            rest = memoryview(rng.bytes(min(_CHUNK, size - begin)))
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError as problem:
        raise unwritable(path, problem) from None
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class Done(NamedTuple):
    """Outcome of a batch of reads: bytes, number of reads, seconds from the first to the last."""

    size: int
    reads: int
    seconds: float


class Readers:
    """Threads that read a file, each with a buffer of its own."""

    def __init__(self, file: DirectFile, threads: int, largest: int) -> None:
        self.file, self.threads = file, threads
        self._buffers = [mmap.mmap(-1, largest) for _ in range(threads)]
        for buffer in self._buffers:
            buffer.write(bytes(largest))  # touch all memory now, not while timing
        self._pool = ThreadPoolExecutor(threads)  # the caller is one of the threads that read

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    def read(self, wanted: Iterable[tuple[int, int]], seconds: float = math.inf) -> Done:
        """Read pieces of the file in turn, as many at a time as there are threads.

        Args:
            wanted: (offset, size) in bytes, whole pages of at most the largest size.
            seconds: time after which no further read begins.

        Raises:
            DipsimError: the file became shorter, or the device failed.
        """
        listed = list(wanted)
        shared = iter(listed)  # the threads take turns at it
        begin = perf_counter()
        until = begin + seconds
        busy = min(self.threads, len(listed))
        others = [self._pool.submit(self._work, i, shared, until) for i in range(1, busy)]
        parts = [self._work(0, shared, until), *(other.result() for other in others)]
        spent = perf_counter() - begin
        return Done(sum(size for size, _ in parts), sum(reads for _, reads in parts), spent)

    def _work(
        self, thread: int, shared: Iterator[tuple[int, int]], until: float
    ) -> tuple[int, int]:
        whole = memoryview(self._buffers[thread])
        descriptor, total, reads = self.file.descriptor, 0, 0
        for offset, size in shared:
            try:
                received = os.preadv(descriptor, [whole[:size]], offset)
            except OSError as problem:
                raise _unreadable(self.file.name, problem) from None
            if received != size:
                raise DipsimError(
                    f"{printable(self.file.name)}: a read of {size} bytes at {offset} gave "
                    f"{received}: the file became shorter"
                )
            total += size
            reads += 1
            if perf_counter() > until:
                break
        return total, reads


def _unreadable(path: str, problem: OSError) -> DipsimError:
    return DipsimError(f"{printable(path)}: cannot be read ({problem.strerror})")
