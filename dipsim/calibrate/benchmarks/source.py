"""Files of benchmarks: opened by their content, inflated and read within bounds.

A path leads to a file, to a folder of files, or to a tar archive of them, each of which may be
gzipped. Nothing of an archive is written to disk.
"""

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO

from dipsim.errors import DipsimError, brief, printable

MOST_TEXT = 2**23
"""Bytes of a file that is read whole: far above the output of any benchmark."""
MOST_INFLATED = 2**28
"""Bytes of an archive, or of a gzipped file, once inflated."""
MOST_FILES = 2000
"""Files of a folder or members of an archive that are looked at."""
_LONGEST_LINE = 2**16
_HEAD = 2**16
_BAD = (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, OverflowError, RecursionError)
"""Exceptions of the libraries for files that are damaged or cannot be read."""


@dataclass(frozen=True)
class Source:
    """A file that may hold a benchmark's output."""

    name: str
    """Its name, printable and without its folder."""
    opened: Callable[[], IO[bytes]]
    """Opens what it holds, inflated."""

    @cached_property
    def head(self) -> str:
        """The first 64 KiB as text; empty for what is none, or cannot be read."""
        try:
            with self.opened() as file:
                return _text(file.read(_HEAD))
        except (*_BAD, DipsimError):
            return ""

    @cached_property
    def text(self) -> str:
        """All of it as text, with line ends as in Unix.

        Raises:
            DipsimError: too large, damaged, or no text.
        """
        with self.reading() as file:
            data = file.read(MOST_TEXT + 1)
        if len(data) > MOST_TEXT:
            raise DipsimError(f"{self.name}: larger than {MOST_TEXT} bytes: no benchmark's output")
        text = _text(data).replace("\r\n", "\n").replace("\r", "\n")
        if not text:
            raise DipsimError(f"{self.name}: empty, or no text")
        return text

    def lines(self) -> Iterator[str]:
        """Yield the lines of a text of any length, without their ends.

        Raises:
            DipsimError: damaged, or lines that are too long.
        """
        with self.reading() as file:
            text = io.TextIOWrapper(file, "utf-8-sig", "replace")
            while line := text.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE:
                    raise DipsimError(f"{self.name}: a line longer than {_LONGEST_LINE} characters")
                yield line.rstrip("\n")

    @contextmanager
    def reading(self) -> Iterator[IO[bytes]]:
        """Open it for a while.

        Raises:
            DipsimError: it is damaged, or cannot be read, in one line.
        """
        try:
            with self.opened() as file:
                yield file
        except _BAD as problem:
            reason = getattr(problem, "strerror", None) or problem
            raise DipsimError(f"{self.name}: cannot be read ({brief(reason)})") from None


def sources(path: str) -> tuple[Iterator[Source], bool]:
    """Return the files at a path, and True if it leads to one file alone.

    The files of a folder are those in it and in its own folders, in the order of their names.

    Raises:
        DipsimError: there is nothing; while iterated, an archive that is damaged or too large.
    """
    shown = printable(path)
    if os.path.isdir(path):
        return _of_folder(Path(path)), False
    if not os.path.exists(path):
        raise DipsimError(f"{shown}: no such file")
    if not os.path.isfile(path):
        raise DipsimError(f"{shown}: not a regular file")
    source = Source(printable(os.path.basename(path)), lambda: _inflated(path))
    with source.reading() as file:
        packed = file.read(512)[257:262] == b"ustar"
    return (_of_archive(path, source.name), False) if packed else (iter([source]), True)


def _of_folder(folder: Path) -> Iterator[Source]:
    found = sorted(
        path for form in ("*", "*/*") for path in folder.glob(form) if os.path.isfile(path)
    )
    if len(found) > MOST_FILES:
        raise DipsimError(f"{printable(str(folder))}: {len(found)} files; at most {MOST_FILES}")
    for path in found:
        yield Source(printable(path.name), lambda path=path: _inflated(path))  # type: ignore[misc]


def _of_archive(path: str, name: str) -> Iterator[Source]:
    """Yield the ordinary files of a tar archive, each read when its turn comes."""
    try:
        with _inflated(path) as file, tarfile.open(fileobj=file, mode="r|") as archive:
            for number, member in enumerate(archive):
                if number >= MOST_FILES:
                    raise DipsimError(f"{name}: more than {MOST_FILES} members")
                data = archive.extractfile(member) if member.isreg() and not member.sparse else None
                if data is not None:
                    held = data.read(MOST_TEXT + 1)  # one that is larger is refused when it is read
                    inner = printable(PurePosixPath(member.name).name) or "?"
                    yield Source(inner, lambda held=held: io.BytesIO(held))  # type: ignore[misc]
    except _BAD as problem:
        raise DipsimError(f"{name}: no sound archive ({brief(problem)})") from None


def _inflated(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file, inflated if it is gzipped, as far as the bound of inflated bytes."""
    file = open(path, "rb")  # noqa: SIM115 - it is closed by whom it is handed to
    if file.read(2) != b"\x1f\x8b":
        file.seek(0)
        return file
    file.close()
    return io.BufferedReader(_Bounded(gzip.open(path, "rb")))  # type: ignore[arg-type]


class _Bounded(io.RawIOBase):
    """Content of a stream, which is refused past `MOST_INFLATED` bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.left = stream, MOST_INFLATED

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        data = self.stream.read(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"more than {MOST_INFLATED} bytes once inflated")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


def _text(data: bytes) -> str:
    """Decode a text in UTF-8 or, with its mark, UTF-16; empty for what is none."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # as PowerShell redirects outputs
        return data.decode("utf-16", "replace").lstrip("\ufeff")
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    return "" if "\0" in text else text
