"""Parts of a signal, one per file: arrays, or lists of active units, read block by block.

A part knows its raw rows; `dipsim.trace.signal` checks and decodes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.trace.npz import Array, Member, evenly
from dipsim.views import shortened

Reading = Literal["scores", "sets", "codes", "values"]
"""Forms in which a signal can be read; see `Signal.blocks`."""
_PIECE = 2**18  # rows of indptr held at a time


class SignalPart(Protocol):
    """The tokens of a signal that lie in one file."""

    @property
    def tokens(self) -> int:
        """Number of tokens."""

    def rows(self, first: int, last: int, block: int, reading: Reading) -> Iterator[Array]:
        """Yield tokens first..last-1 as raw arrays [n <= block, layers, units or bytes]."""


@dataclass(frozen=True)
class DensePart:
    """A part stored as one array [tokens, layers, units]."""

    member: Member
    largest: Member | None = None
    """float32[tokens, layers], the scores that log8 codes are relative to; None otherwise."""

    __repr__ = shortened

    @property
    def tokens(self) -> int:
        """Number of rows of the array."""
        return self.member.shape[0]

    def rows(self, first: int, last: int, block: int, reading: Reading) -> Iterator[Array]:
        """Yield the array's own rows, still encoded."""
        return self.member.rows(first, evenly(last - first, block))


@dataclass(frozen=True)
class VectorPart:
    """An array [rows, layers, ...] of one file that is no signal, with the scales of its codes."""

    member: Member
    scale: Member | None = None
    """float[rows, layers, heads], what codes are multiplied by; None otherwise."""

    __repr__ = shortened

    @property
    def rows_held(self) -> int:
        """Number of rows of the array."""
        return self.member.shape[0]

    def rows(self, first: int, last: int, block: int) -> Iterator[tuple[Array, Array | None]]:
        """Yield rows first..last-1 in pieces of at most ``block``, with their scales."""
        counts = list(evenly(last - first, block))
        pieces = self.member.rows(first, counts)
        if self.scale is None:
            yield from ((rows, None) for rows in pieces)
        else:
            yield from zip(pieces, self.scale.rows(first, counts), strict=True)


@dataclass(frozen=True)
class SparsePart:
    """A part stored as lists of active units, row after row (a row: one token, one layer)."""

    what: str
    """The trace and the signal, for error messages."""
    shape: tuple[int, int, int]
    """Tokens, layers, units."""
    indptr: Member
    indices: Member
    scores: Member | None

    @property
    def tokens(self) -> int:
        """Number of tokens of the declared shape."""
        return self.shape[0]

    def rows(self, first: int, last: int, block: int, reading: Reading) -> Iterator[Array]:
        """Yield dense bool, or float32 scores that are 0 where a unit is not listed."""
        _, layers, units = self.shape
        counts = [count * layers for count in evenly(last - first, block)]
        begin = int(next(self.indptr.rows(first * layers, [1]))[0])
        lists = self.indices.rows(begin, self._lengths(first * layers, counts))
        values: Iterator[Array] | None = None
        if reading == "scores" and self.scores is not None:
            values = self.scores.rows(begin, self._lengths(first * layers, counts))
        for sizes, listed in zip(self._sizes(first * layers, counts), lists, strict=True):
            row = np.repeat(np.arange(len(sizes)), sizes)
            self._check(listed, row)
            dense: Array = np.zeros((len(sizes), units), np.bool_ if values is None else np.float32)
            with np.errstate(over="ignore"):
                dense[row, listed] = True if values is None else next(values)
            yield dense.reshape(-1, layers, units)

    def check(self) -> None:
        """Read `indptr` once and check that it rises from 0 to the number of indices.

        Raises:
            TraceError: it does not, or a row lists more than ``units`` units.
        """
        tokens, layers, units = self.shape
        rows = tokens * layers
        previous = np.zeros(1, np.int64)
        for start, piece in zip(
            range(0, rows + 1, _PIECE), self.indptr.rows(0, evenly(rows + 1, _PIECE)), strict=True
        ):
            steps = np.diff(piece.astype(np.int64, copy=False), prepend=previous)
            wrong = (start == 0 and piece[0] != 0) or steps.min() < 0 or steps.max() > units
            if wrong:
                raise TraceError(
                    f"{self.what}.indptr must rise from 0, by at most {units} units a row"
                )
            previous = piece[-1:].astype(np.int64)
        if previous[0] != self.indices.shape[0]:
            raise TraceError(
                f"{self.what}.indptr ends at {previous[0]}, but there are "
                f"{self.indices.shape[0]} indices"
            )

    def fewest(self) -> int:
        """Return the least number of units that a row lists, empty rows apart."""
        rows = self.shape[0] * self.shape[1]
        least = self.shape[2]
        for sizes in self._sizes(0, list(evenly(rows, _PIECE))):
            least = min(least, int(sizes[sizes > 0].min(initial=least)))
        return least

    def _sizes(self, row: int, counts: list[int]) -> Iterator[NDArray[np.int64]]:
        """Yield the units per row, int64[count] for each of ``counts`` from ``row`` on."""
        pieces = self.indptr.rows(row, [1, *counts])
        last = next(pieces)
        for piece in pieces:
            ends = np.concatenate([last, piece]).astype(np.int64)
            yield ends[1:] - ends[:-1]
            last = piece[-1:]

    def _lengths(self, row: int, counts: list[int]) -> Iterator[int]:
        """Yield the number of units that the next ``counts`` rows list in all."""
        for sizes in self._sizes(row, counts):
            yield int(sizes.sum())

    def _check(self, listed: Array, row: NDArray[np.int64]) -> None:
        """Refuse lists whose units lie outside 0..units-1 or do not ascend within a row."""
        if listed.size == 0:
            return
        if int(listed.max()) >= self.shape[2] or int(listed.min()) < 0:
            raise TraceError(f"{self.what}.indices holds a unit outside 0..{self.shape[2] - 1}")
        rising = np.diff(listed.astype(np.int64)) > 0
        if not (rising | (np.diff(row) > 0)).all():
            raise TraceError(f"{self.what}.indices must ascend within each token and layer")
