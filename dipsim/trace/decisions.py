"""Recorded decisions of a trace: which layers each token ran, and which tokens each step kept."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.trace.checks import check_believable
from dipsim.trace.layer_array import BLOCK_BYTES, LayerArray, what_of
from dipsim.trace.npz import Member
from dipsim.trace.parts import VectorPart
from dipsim.trace.tokens import DECODE, Tokens
from dipsim.views import shortened

DECISIONS = ("layer_mode", "kept")
SKIP, PARTIAL, FULL = 0, 1, 2
"""Modes of attention and of the MLP; `layer_mode` holds attention + 4 x MLP."""
_MODES = [
    attention + 4 * mlp for mlp in (SKIP, PARTIAL, FULL) for attention in (SKIP, PARTIAL, FULL)
]


def _no_steps() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class LayerModes(LayerArray):
    """Modes in which tokens ran layers, attention + 4 x MLP, each 0 skip, 1 partial or 2 full."""

    __repr__ = shortened

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Return tokens start..stop-1, uint8[tokens, layers]; default: all.

        Raises:
            TraceError: a mode that does not exist, or tokens outside it.
        """
        first, last = self.rows(start, stop)
        modes = np.empty((last - first, self.layers[1] - self.layers[0]), np.uint8)
        for rows, _, row in self.raw(first, last, max(1, last - first)):
            check_modes(self.what, rows)
            modes[row - first : row - first + len(rows)] = rows
        return modes

    def blocks(self, block: int) -> Iterator[NDArray[np.uint8]]:
        """Yield all tokens in order, uint8[n <= block, layers]; raises as `read`."""
        for rows, _, _ in self.raw(self.first, self.first + self.count, block):
            check_modes(self.what, rows)
            yield rows

    def check(self) -> None:
        """Read all modes once.

        Raises:
            TraceError: as `read`.
        """
        self.read()

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in all layers of the files, as `read` returns it."""
        return self.recorded_layers

    def describe(self) -> dict[str, Any]:
        """Return the encoding as plain values."""
        return {"encoding": "uint8"}


@dataclass(frozen=True, kw_only=True)
class KeptPositions(LayerArray):
    """The positions of its sequence that take part in each step, layer by layer.

    A step is a prompt (a maximal run of prefill tokens of one sequence) or a decode token.
    """

    positions: int
    """Positions that a row has bits for."""
    step_of: NDArray[np.int64] = field(default_factory=_no_steps, repr=False, compare=False)
    """int64[tokens of the files] the step of each token."""
    ends: NDArray[np.int64] = field(default_factory=_no_steps, repr=False, compare=False)
    """int64[steps of the files] positions of its sequence that there are at the end of a step."""

    __repr__ = shortened

    def of_tokens(self, rows: Tokens) -> "KeptPositions":
        """Return the sets with the steps that the tokens of all files are.

        Raises:
            TraceError: another number of steps, or too few positions.
        """
        begins = rows.begins_step()
        ends = rows.position[np.append(np.flatnonzero(begins)[1:], len(rows)) - 1] + 1
        if len(ends) != self.recorded_rows:
            raise TraceError(
                f"{self.what} has {self.recorded_rows} steps, and the tokens are {len(ends)}: one "
                "for each prompt and for each decode token"
            )
        if ends.max() > self.positions:
            raise TraceError(
                f"{self.what} has {self.positions} positions, and a sequence {ends.max()}"
            )
        return replace(self, step_of=np.cumsum(begins) - 1, ends=ends, count=len(ends))

    def window(self, first: int, tokens: int, layers: tuple[int, int]) -> "KeptPositions":
        """Return the steps that some of the tokens belong to."""
        step, last = (int(self.step_of[token]) for token in (first, first + tokens - 1))
        return replace(self, first=step, count=last + 1 - step, layers=layers)

    def whole(self, rows: Tokens) -> bool:
        """Return whether these tokens begin with a sequence and end with a step.

        Args:
            rows: the tokens of this part.
        """
        ends = self.ends[self.first + self.count - 1]
        return bool(rows.position[0] == 0 and rows.position[-1] + 1 == ends)

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.bool_]:
        """Return steps start..stop-1, bool[steps, layers, positions]; default: all.

        Raises:
            TraceError: a position that a step does not have yet, or steps outside it.
        """
        first, last = self.rows(start, stop)
        layers = self.layers[1] - self.layers[0]
        kept = np.empty((last - first, layers, self.positions), np.bool_)
        for piece, row in self._pieces(first, last, max(1, last - first)):
            kept[row - first : row - first + len(piece)] = piece
        return kept

    def check(self) -> None:
        """Read all steps once.

        Raises:
            TraceError: as `read`.
        """
        block = max(1, BLOCK_BYTES // self.row_bytes)
        for _ in self._pieces(self.first, self.first + self.count, block):
            pass

    @property
    def kind(self) -> tuple[Any, ...]:
        """Properties that all shards share."""
        return (self.positions,)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in all layers of the files, as `read` returns it."""
        return self.recorded_layers * self.positions

    def describe(self) -> dict[str, Any]:
        """Return encoding, steps and positions as plain values."""
        return {"encoding": "bits", "steps": self.count, "positions": self.positions}

    def _pieces(self, first: int, last: int, block: int) -> Iterator[tuple[NDArray[np.bool_], int]]:
        for packed, _, row in self.raw(first, last, block):
            kept = np.unpackbits(packed, axis=-1, bitorder="little").view(np.bool_)
            ends = self.ends[row : row + len(kept), None, None]
            beyond = kept & (np.arange(kept.shape[-1]) >= np.minimum(ends, self.positions))
            if beyond.any():
                step, layer, position = (int(i) for i in np.argwhere(beyond)[0])
                raise TraceError(
                    f"{self.what}: step {row + step} keeps position {position} in layer "
                    f"{self.layers[0] + layer}, and has {int(ends[step, 0, 0])} positions"
                )
            yield kept[..., : self.positions], row


def open_layer_modes(trace: str, members: Mapping[str, Member]) -> LayerModes:
    """Open ``layer_mode`` of one file.

    Raises:
        TraceError: another shape or type than uint8[tokens, layers].
    """
    what, member = what_of(trace, "layer_mode"), members["layer_mode"]
    if len(member.shape) != 2 or member.dtype != np.uint8:
        raise TraceError(
            f"{what} is {member.dtype}{list(member.shape)}: it must be uint8 [tokens, layers]"
        )
    tokens, layers = member.shape
    check_believable(what, layers, 1)
    return LayerModes(
        name="layer_mode",
        trace=trace,
        parts=(VectorPart(member),),
        count=tokens,
        layers=(0, layers),
        recorded_layers=layers,
    )


def open_kept(trace: str, members: Mapping[str, Member]) -> KeptPositions:
    """Open ``kept`` and ``kept.shape`` of one file.

    Raises:
        TraceError: shapes or types that make no packed sets.
    """
    what, member, shape = what_of(trace, "kept"), members["kept"], members.get("kept.shape")
    if shape is None or shape.shape != (3,) or shape.dtype.kind not in "iu":
        raise TraceError(f"{what} needs kept.shape, three integers: steps, layers, positions")
    steps, layers, positions = (int(n) for n in shape.whole())
    packed = (steps, layers, -(-positions // 8))
    if member.dtype != np.uint8 or member.shape != packed or positions < 1:
        raise TraceError(
            f"{what} is {member.dtype}{list(member.shape)}: by kept.shape it must be uint8 "
            f"{list(packed)}, bits of positions"
        )
    check_believable(what, layers, positions)
    return KeptPositions(
        name="kept",
        trace=trace,
        parts=(VectorPart(member),),
        count=steps,
        layers=(0, layers),
        recorded_layers=layers,
        positions=positions,
    )


def check_modes(what: str, modes: NDArray[Any]) -> None:
    """Refuse modes that do not exist.

    Raises:
        TraceError: names the first.
    """
    wrong = ~np.isin(modes, _MODES)
    if wrong.any():
        raise TraceError(
            f"{what} holds {modes[wrong][0]}: attention + 4 x MLP, each 0 (skip), 1 (partial) or "
            "2 (full)"
        )


class StepsWritten:
    """The steps of tokens that come in blocks, to check `kept` against as it is written.

    A prompt may come in several blocks; its row of `kept` comes with the first.
    """

    def __init__(self) -> None:
        self._phase, self._sequence = DECODE, -1
        self._positions = 0  # of the last sequence
        self._highest = -1  # that the step which may go on keeps

    def check(
        self, phase: NDArray[np.uint8], sequence: NDArray[np.int32], kept: NDArray[np.bool_]
    ) -> None:
        """Take the next tokens.

        Args:
            phase: uint8[tokens].
            sequence: int32[tokens].
            kept: bool[steps that begin with these tokens, layers, positions].

        Raises:
            TraceError: another number of steps, too few positions, or a position kept that a step
                does not have.
        """
        same = sequence == np.append(self._sequence, sequence[:-1])
        begins = (phase == DECODE) | ~same | (np.append(self._phase, phase[:-1]) == DECODE)
        if begins.sum() != len(kept):
            raise TraceError(
                f"kept has {len(kept)} steps, and with these tokens {begins.sum()} begin: one for "
                "each prompt and for each decode token"
            )
        any_layer: NDArray[np.bool_] = np.any(kept, axis=1)
        highest = np.where(
            any_layer.any(axis=1), kept.shape[2] - 1 - any_layer[:, ::-1].argmax(axis=1), -1
        )
        step = -1
        for token in range(len(phase)):
            if begins[token]:
                self.check_end()
                step += 1
                self._highest = int(highest[step])
            self._positions = self._positions + 1 if same[token] else 1
            if self._positions > kept.shape[2]:
                raise TraceError(f"kept has {kept.shape[2]} positions, and a sequence more")
            self._phase, self._sequence = int(phase[token]), int(sequence[token])

    def check_end(self) -> None:
        """End the step that may go on.

        Raises:
            TraceError: it keeps a position that it does not have.
        """
        if self._highest >= self._positions:
            raise TraceError(
                f"kept: a step of {self._positions} positions keeps position {self._highest}"
            )
