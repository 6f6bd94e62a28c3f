"""Arrays of a trace that hold something for every layer, beside the signals: a common base."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.trace.npz import Array
from dipsim.trace.parts import VectorPart
from dipsim.views import shortened

BLOCK_BYTES = 32 * 2**20  # held at a time


@dataclass(frozen=True, kw_only=True)
class LayerArray(ABC):
    """An array [rows, layers, ...] in one file or several; a row is a token, or a step."""

    name: str
    trace: str
    """Name of the trace, for error messages."""
    parts: tuple[VectorPart, ...] = field(repr=False)
    """Arrays of all files, in order."""
    first: int = 0
    """Row of the file that is row 0 here."""
    count: int
    """Number of rows here."""
    layers: tuple[int, int]
    """Layers (first, end) of the file that are read."""
    recorded_layers: int

    __repr__ = shortened

    @property
    def what(self) -> str:
        """The trace and the array, for error messages."""
        return what_of(self.trace, self.name)

    @property
    def recorded_rows(self) -> int:
        """Number of rows of all files."""
        return sum(part.rows_held for part in self.parts)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Properties that all shards share."""
        return ()

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Bytes of a row in all layers of the files, as `read` returns it."""

    @abstractmethod
    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return rows start..stop-1, decoded and checked; default: all.

        Raises:
            TraceError: values that no such array may hold, or rows outside it.
        """

    @abstractmethod
    def check(self) -> None:
        """Read all values once, in blocks.

        Raises:
            TraceError: as `read`.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the properties that it has as plain values."""

    def window(self, first: int, tokens: int, layers: tuple[int, int]) -> Self:
        """Return a part of the array.

        Args:
            first: token of the files that is token 0 of the part.
            tokens: number of tokens of the part.
            layers: layers (first, end) of the files.
        """
        return replace(self, first=first, count=tokens, layers=layers)

    def rows(self, start: int, stop: int | None) -> tuple[int, int]:
        """Return rows start..stop-1 as rows of the files.

        Raises:
            TraceError: rows outside the array.
        """
        end = self.count if stop is None else stop
        if not 0 <= start <= end <= self.count:
            raise TraceError(f"{self.what}: rows {start}:{end} of {self.count}")
        return self.first + start, self.first + end

    def raw(self, first: int, last: int, block: int) -> Iterator[tuple[Array, Array | None, int]]:
        """Yield rows first..last-1 of the files, at most ``block`` at a time.

        Yields:
            the array's rows of the layers read, those of its scales (None without), and the
            number of the first.
        """
        begin, end = self.layers
        start = 0
        for part in self.parts:
            span = max(first - start, 0), min(last - start, part.rows_held)
            row = start + span[0]
            start += part.rows_held
            for rows, scale in part.rows(*span, block) if span[0] < span[1] else ():
                yield rows[:, begin:end], None if scale is None else scale[:, begin:end], row
                row += len(rows)


def what_of(trace: str, key: str) -> str:
    """Return the trace and the array, for error messages."""
    return f"{trace}: {key}"
