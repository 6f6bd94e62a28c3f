"""Deflated arrays that stay in memory once they are inflated, for commands of several passes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from dipsim.trace.npz import Array, InArchive, Member, evenly
from dipsim.trace.parts import DensePart, SparsePart, VectorPart
from dipsim.views import shortened

_PIECE = 2**20
"""Bytes inflated at a time."""


class Kept:
    """An array of an archive that is inflated once, as far as it is read.

    Args:
        source: the array.
    """

    def __init__(self, source: Member) -> None:
        self.source = source
        self._array: Array | None = None
        self._pieces: Iterator[Array] = iter(())
        self._rows = 0  # inflated so far
        self._lock = Lock()

    __repr__ = shortened

    @property
    def path(self) -> Path | None:
        """File that holds it."""
        return self.source.path

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self.source.shape

    @property
    def crc(self) -> int:
        """CRC-32 of the array as an `.npy` file."""
        return self.source.crc

    def rows(self, first: int, counts: Iterable[int]) -> Iterator[Array]:
        """Yield read-only views of the array."""
        for count in counts:
            yield self._inflated(first + count)[first : first + count]
            first += count

    def whole(self) -> Array:
        """Return the whole array, which is small."""
        return self.source.whole()

    def _inflated(self, rows: int) -> Array:
        """Return the array, of which the first ``rows`` are inflated.

        Raises:
            TraceError: damaged, or cut short.
        """
        with self._lock:
            if self._array is None:
                array: Array = np.empty(self.shape, self.dtype)
                row = max(1, array[:1].nbytes)
                self._pieces = self.source.rows(0, evenly(len(array), max(1, _PIECE // row)))
                self._array, self._rows = array, 0
            try:
                while self._rows < rows:
                    piece = next(self._pieces)
                    self._array[self._rows : self._rows + len(piece)] = piece
                    self._rows += len(piece)
            except BaseException:  # also when the user interrupts
                self._array = None  # whoever reads it again meets the same error
                raise
            if self._rows == len(self._array):
                self._pieces = iter(())  # nothing is left to read: the file is closed
            known = self._array[:]
        known.flags.writeable = False
        return known


Part = TypeVar("Part")


def with_kept(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return parts of a signal or array whose deflated arrays are kept; others are mapped, or in
    memory."""
    return tuple(_with_kept(part) for part in parts)


def _with_kept(part: Part) -> Part:
    kept: dict[str, Any] = {name: Kept(member) for name, member in _deflated(part).items()}
    return replace(part, **kept) if kept else part  # type: ignore[type-var]


def inflated_bytes(parts: Sequence[object]) -> int:
    """Return the bytes of the deflated arrays of some parts when they are inflated."""
    members = (member for part in parts for member in _deflated(part).values())
    return sum(int(np.prod(m.shape, dtype=object)) * m.dtype.itemsize for m in members)


def _deflated(part: object) -> dict[str, InArchive]:
    """Return the deflated arrays of a part, by the name of their field."""
    if not isinstance(part, DensePart | SparsePart | VectorPart):
        return {}
    members = {field.name: getattr(part, field.name) for field in fields(part)}
    return {
        name: member
        for name, member in members.items()
        if isinstance(member, InArchive) and member.offset is None
    }
