"""Tokens: which rows of a trace are a prompt, where sequences begin, and what came before each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dipsim.views import shortened

PREFILL, DECODE = 0, 1


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a trace, or of a model that ran, in their order."""

    phase: NDArray[np.uint8]
    """[tokens] PREFILL or DECODE."""
    sequence: NDArray[np.int32]
    """[tokens], non-decreasing."""
    position: NDArray[np.int64]
    """[tokens] how many tokens of the same sequence came before."""
    first: NDArray[np.int64] | None = None
    """[tokens] the first token of the decode step that each belongs to, which takes it and those up
    to the token; None where every decode token is a step of its own."""

    __repr__ = shortened

    @classmethod
    def of(cls, phase: NDArray[np.uint8], sequence: NDArray[np.int32]) -> "Tokens":
        """Return tokens whose sequences begin here."""
        return cls(phase, sequence, positions(sequence))

    def __len__(self) -> int:
        return len(self.phase)

    @property
    def decode(self) -> NDArray[np.bool_]:
        """[tokens] whether a token is a decode token."""
        decode: NDArray[np.bool_] = self.phase == DECODE
        return decode

    def begins_sequence(self) -> NDArray[np.bool_]:
        """[tokens] whether a token is the first of its sequence here."""
        begins: NDArray[np.bool_] = np.diff(self.sequence, prepend=self.sequence[0] - 1) != 0
        return begins

    def begins_step(self) -> NDArray[np.bool_]:
        """[tokens] whether a token begins a step: every decode token does, and of a run of
        prefill tokens of one sequence the first."""
        begins: NDArray[np.bool_] = self.decode | self.begins_sequence()
        begins[1:] |= self.decode[:-1]
        return begins

    def begins_decode_step(self) -> NDArray[np.int64]:
        """[tokens] the first token of the decode step of each; of a prompt's token, itself."""
        return np.arange(len(self)) if self.first is None else self.first

    def ends_decode_step(self) -> NDArray[np.bool_]:
        """[tokens] whether a token is the last of its decode step; true of a prompt's tokens."""
        first = self.begins_decode_step()
        return np.append(first[1:] != first[:-1], True)

    def last_of_step(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the last token of the decode step of each of some tokens, int64[rows]."""
        first = self.begins_decode_step()
        last: NDArray[np.int64] = np.searchsorted(first, first[rows], side="right") - 1
        return last

    def window(self, start: int, stop: int) -> "Tokens":
        """Return the tokens start..stop-1; their positions stay."""
        return Tokens(self.phase[start:stop], self.sequence[start:stop], self.position[start:stop])


def positions(sequence: NDArray[np.int32]) -> NDArray[np.int64]:
    """[tokens] how many tokens of the same sequence come before each."""
    starts = np.flatnonzero(np.diff(sequence, prepend=sequence[0] - 1))
    lengths = np.diff([*starts, len(sequence)])
    return np.arange(len(sequence)) - np.repeat(starts, lengths)
