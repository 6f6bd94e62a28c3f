"""Decode steps that take several tokens at once: the rows of a trace that each of them takes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.trace.tokens import Tokens
from dipsim.views import shortened


@dataclass(frozen=True, eq=False)
class DecodeSteps:
    """The rows that are replayed, step by step; a row that several steps take comes several times.

    A token of a prompt is a row as ever. Steps begin in the order of their first rows.
    """

    source: NDArray[np.int64]
    """[rows] row of the trace that each is."""
    tokens: Tokens
    """[rows] phases, sequences and positions, and the step of each."""
    given: NDArray[np.int64]
    """[rows] tokens that a step gives, at its last row; 0 at all others."""
    width: int
    """Tokens of a whole step. One at the end of a sequence may be shorter."""
    side_by_side: bool
    """True if the tokens of a step are of sequences of their own, with keys and values of their
    own; False if they follow one another."""

    __repr__ = shortened

    @classmethod
    def of(
        cls,
        tokens: Tokens,
        begins: NDArray[np.int64],
        sizes: NDArray[np.int64],
        given: NDArray[np.int64],
        *,
        width: int,
        side_by_side: bool,
    ) -> "DecodeSteps":
        """Return steps of a trace.

        Args:
            tokens: of the trace.
            begins: int64[steps] first row of each, ascending; a token of a prompt is a step of its
                own.
            sizes: int64[steps] rows of each.
            given: int64[steps] tokens that each gives.
            width: see the field.
            side_by_side: see the field.
        """
        ends = np.cumsum(sizes)
        first = np.repeat(ends - sizes, sizes)
        source = np.repeat(begins, sizes) + np.arange(len(first)) - first
        given_at = np.zeros(len(source), np.int64)
        given_at[ends - 1] = given
        rows = Tokens(tokens.phase[source], tokens.sequence[source], tokens.position[source], first)
        return cls(source, rows, given_at, width, side_by_side)

    @cached_property
    def reach(self) -> NDArray[np.int64]:
        """[rows] last row of the trace that is needed up to each."""
        return np.maximum.accumulate(self.source)

    @property
    def sequences(self) -> int:
        """Sequences whose keys and values are held at once."""
        return self.width if self.side_by_side else 1

    def sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tokens of the steps that end at some rows, int64[rows]."""
        size: NDArray[np.int64] = rows - self.tokens.begins_decode_step()[rows] + 1
        return size

    def taken(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all rows of the steps that end at some rows, and where among them each begins."""
        sizes = self.sizes(rows)
        starts = np.cumsum(sizes) - sizes
        within = np.arange(sizes.sum()) - np.repeat(starts, sizes)
        return np.repeat(rows - sizes + 1, sizes) + within, starts

    def measured(self, name: str, measured: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return whether a row ends a whole step of measured tokens, bool[rows].

        Args:
            name: of the trace, for messages.
            measured: bool[tokens] of the trace.

        Raises:
            TraceError: there is none.
        """
        rows = np.flatnonzero(self.given)
        rows = rows[self.sizes(rows) == self.width]
        taken, starts = self.taken(rows)
        counts = np.zeros(len(self.source), np.bool_)
        if len(rows):
            counts[rows] = np.logical_and.reduceat(measured[self.source[taken]], starts)
        if not counts.any():
            raise TraceError(
                f"{name}: no step of {self.width} tokens is left to be measured; give smaller "
                "steps, or less --warmup"
            )
        return counts

    def all_tokens(self, measured: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return whether a row is taken by a measured step, bool[rows]."""
        taken: NDArray[np.bool_] = measured[self.tokens.last_of_step(np.arange(len(measured)))]
        return taken
