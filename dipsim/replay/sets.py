"""Blocks of tokens as a replay takes them, and the same put together to decode steps."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.methods import Method
from dipsim.trace.steps import DecodeSteps

NO_SCORES = np.empty((0, 0, 0), np.float32)
NO_CODES = np.empty((0, 0, 0), np.uint8)
_ROWS = ("sets", "scores", "codes")
"""Fields of a block that hold an array of rows for each group."""


@dataclass(frozen=True)
class Sets:
    """A block of tokens: per group the sets, or for cache-aware groups the scores or codes."""

    start: int
    stop: int
    actions: NDArray[np.uint8]
    resets: NDArray[np.bool_]
    sets: list[NDArray[np.uint64]]
    scores: list[NDArray[np.float32]]
    codes: list[NDArray[np.uint8]]
    follows: NDArray[np.bool_]
    """True where the row before is a decode row of the same sequence."""
    norms: list[NDArray[np.float32] | None]
    """Norms of the columns that a group's scores weigh; None where the trace has none."""
    runs: NDArray[np.bool_] | None = None
    """[n, layers] whether a token uses a layer's units; None where all do."""
    own: list[NDArray[np.int32] | None] | None = None
    """Per group [n, layers] units that each token of a decode step needs itself, None where that
    depends on the cache; None where every decode token is a step of its own."""

    def actions_in(self, layer: int) -> NDArray[np.uint8]:
        """Return what the rows do in a layer, uint8[n]: nothing where a token skips it."""
        if self.runs is None:
            return self.actions
        return np.where(self.runs[:, layer], self.actions, kernels.SKIP).astype(np.uint8)

    def with_own_masks(self, method: Method) -> "Sets":
        """Return the block with room of its own for the sets of cache-aware groups.

        Every cache writes the masks it chooses into its block, several caches at a time.
        """
        if not method.cache_aware:
            return self
        pairs = zip(method.groups, self.sets, strict=True)
        own = [np.zeros(sets.shape, np.uint64) if group.aware else sets for group, sets in pairs]
        return replace(self, sets=own)

    @property
    def accesses(self) -> int:
        """Units that a replay of the rows books as used, where the sets are known."""
        booked = self.actions >= kernels.COMMIT
        return sum(int(np.bitwise_count(sets[booked]).sum(dtype=np.int64)) for sets in self.sets)


def in_steps(
    blocks: Iterable[Sets],
    steps: DecodeSteps,
    actions: NDArray[np.uint8],
    resets: NDArray[np.bool_],
) -> Iterator[Sets]:
    """Yield the rows of decode steps, in blocks no larger than those of the trace.

    Known sets are united in the last row of a step. Of cache-aware groups scores are handed on, row
    by row: the loop unites what it chooses.

    Args:
        blocks: of all rows of the trace, in order.
        actions: uint8[rows] of the rows of the steps, see `rows_of`.
        resets: bool[rows] of the same.
    """
    begins = steps.tokens.begins_decode_step()
    pending: dict[int, NDArray[np.uint64]] = {}
    for block in _rows_of_steps(blocks, steps):
        rows = slice(block.start, block.stop)
        own: list[NDArray[np.int32] | None] = []
        for i, sets in enumerate(block.sets):
            if len(block.scores[i]) or len(block.codes[i]):
                own.append(None)
                continue
            own.append(np.bitwise_count(sets).sum(axis=-1, dtype=np.int32))
            pending[i] = _unite(sets, begins[rows] - block.start, pending.get(i))
        yield replace(block, actions=actions[rows], resets=resets[rows], own=own)


def _rows_of_steps(blocks: Iterable[Sets], steps: DecodeSteps) -> Iterator[Sets]:
    """Yield blocks of the rows of steps, out of those of the trace.

    As a step may begin before the end of an earlier one, the last rows of a block stay at hand.
    """
    back, done = int((steps.reach - steps.source).max()), 0
    before: Sets | None = None
    for block in blocks:
        at_hand = block if before is None else _joined(before, block)
        ready, size = int(np.searchsorted(steps.reach, block.stop)), block.stop - block.start
        for start in range(done, ready, size):
            stop = min(start + size, ready)
            taken = _picked(at_hand, steps.source[start:stop] - at_hand.start)
            yield replace(taken, start=start, stop=stop)
        done = ready
        count = min(back, block.stop - at_hand.start)
        last = _picked(at_hand, np.arange(block.stop - count, block.stop) - at_hand.start)
        before = replace(last, start=block.stop - count) if count else None


def _joined(before: Sets, block: Sets) -> Sets:
    """Return two blocks, of which the second follows the first, as one, less what rows do."""
    joined: dict[str, Any] = {
        name: list(map(_one_after_another, getattr(before, name), getattr(block, name)))
        for name in _ROWS
    }
    return replace(block, start=before.start, **joined)


def _one_after_another(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([first, second])


def _picked(block: Sets, rows: NDArray[np.int64]) -> Sets:
    """Return some rows of a block, counted from its first, less what they do."""
    picked: dict[str, Any] = {
        name: [each[rows] if len(each) else each for each in getattr(block, name)] for name in _ROWS
    }
    return replace(block, **picked)


def _unite(
    sets: NDArray[np.uint64], begins: NDArray[np.int64], pending: NDArray[np.uint64] | None
) -> NDArray[np.uint64]:
    """Unite the sets of each step in its last row; return those of the last step so far.

    Args:
        sets: uint64[n, layers, words], changed.
        begins: int64[n] row in which the step of each begins; below 0 in an earlier block.
        pending: what an earlier block returned.
    """
    starts = np.flatnonzero(np.append(True, begins[1:] != begins[:-1]))
    unions = np.bitwise_or.reduceat(sets, starts, axis=0)
    if begins[0] < 0 and pending is not None:
        unions[0] |= pending
    sets[np.append(starts[1:], len(sets)) - 1] = unions
    last: NDArray[np.uint64] = unions[-1]
    return last
