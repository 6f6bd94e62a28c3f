"""The active sets of a trace under a method, block by block, as bits.

Sets that do not depend on the cache are chosen here; the scores of cache-aware groups
are handed on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import TraceError
from dipsim.methods import Method
from dipsim.methods.contract import COLUMN_OF_DOWN, Group
from dipsim.methods.masking import takes_codes
from dipsim.methods.predictor import noise_of, predicted
from dipsim.methods.routing import route_plainly
from dipsim.settings import Prefill, Reset
from dipsim.trace import DECODE, PREFILL, Trace
from dipsim.trace.encoding import LOG8_TABLE, pack_sets, unpack_sets, words_for
from dipsim.trace.signal import Reading

NO_SCORES = np.empty((0, 0, 0), np.float32)
NO_CODES = np.empty((0, 0, 0), np.uint8)
_ROWS_WITHOUT_SIGNAL = 1024


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
    """Whether the row before is a decode row of the same sequence."""
    norms: list[NDArray[np.float32] | None]
    """Of the columns that a group's scores weigh; None where the trace has none."""
    shares: NDArray[np.float32] | None = None
    """[n, layers, groups, 3] of what the sets keep and miss (`no_shares`), when they are held."""


class Chooser:
    """Chooses the active sets of a method from scores, whatever a cache holds.

    Args:
        layers: of the scores it is given.
        first, first_layer: the recording's row and layer that are row 0 and layer 0 here; a
            predictor's noise is drawn for each.
    """

    def __init__(self, method: Method, layers: int, first: int = 0, first_layer: int = 0) -> None:
        self.method, self.layers = method, layers
        self.first, self.first_layer = first, first_layer
        self._scratch = [kernels.new_choosing(words_for(group.units)) for group in method.groups]

    def choose(
        self,
        i: int,
        rows: slice,
        data: Any,
        shares: NDArray[np.float32] | None = None,
        norms: NDArray[np.float32] | None = None,
    ) -> NDArray[np.uint64]:
        """uint64[n, layers, words], the sets of group ``i``, without preference for what is there.

        Args:
            data: [n, layers, units] scores (of experts: logits), codes of log8, or [n, layers,
                words] recorded sets; not looked at where every unit is active.
            shares: float32[n, layers, 3] of `no_shares`; takes what the sets keep and miss.
            norms: float32[layers, units] of the columns that the scores weigh.
        """
        group = self.method.groups[i]
        if group.choice == "sets":
            sets: NDArray[np.uint64] = data
            return sets
        shape = (rows.stop - rows.start, self.layers, words_for(group.units))
        if group.choice == "all":
            every = pack_sets(np.ones(group.units, np.bool_))
            return np.broadcast_to(every, shape).copy()
        sets = np.empty(shape, np.uint64)
        kept = np.ones((*shape[:2], 2), np.float32)
        if group.choice == "threshold":
            sets[:] = pack_sets(data > np.array(group.thresholds, np.float32)[:, None])
            kernels.shares_of(data, sets, kept)
        elif group.choice == "predicted":
            self._choose_predicted(group, rows, data, sets)
            if data.dtype == np.uint64:  # of recorded sets all units count alike
                found = np.bitwise_count(sets & data).sum(axis=-1, dtype=np.int64)
                wanted = np.bitwise_count(data).sum(axis=-1, dtype=np.int64)
                kept[:] = np.where(wanted > 0, found / np.maximum(wanted, 1), 1.0)[..., None]
            else:
                kernels.shares_of(data, sets, kept)
        elif group.of_experts:
            route_plainly(data, group.kept, sets, kept)
        elif data.dtype == np.uint8:
            kernels.select_codes_of(data, LOG8_TABLE, group.kept, sets, kept)
        else:
            kernels.select_of(data, group.kept, sets, self._scratch[i], kept)
        if shares is not None:
            shares[..., :2] = kept
            if norms is not None and data.dtype != np.uint64:
                kernels.errors_of(plain_scores(data), sets, norms, shares[..., 2])
        return sets

    def _choose_predicted(
        self, group: Group, rows: slice, data: Any, sets: NDArray[np.uint64]
    ) -> None:
        """Units a predictor would choose."""
        for r, layer in np.ndindex(*sets.shape[:2]):
            row, at = self.first + rows.start + r, self.first_layer + layer
            noise = noise_of(group.seed, at, row, group.units)
            truth = data[r, layer]
            if truth.dtype == np.uint64:
                truth = unpack_sets(truth, group.units)
            sets[r, layer] = pack_sets(predicted(truth, group.noise[layer], noise, group.kept))


class Blocks:
    """A trace as blocks of active sets under a method.

    ``decoded``: cache-aware groups are handed on as scores, also where codes could be read.
    ``shares`` : of `no_shares`; takes what the sets chosen here keep and miss.
    """

    def __init__(
        self,
        trace: Trace,
        method: Method,
        actions: NDArray[np.uint8],
        resets: NDArray[np.bool_],
        shares: NDArray[np.float32] | None = None,
        decoded: bool = False,
    ) -> None:
        self.trace, self.method, self.shares, self.decoded = trace, method, shares, decoded
        self.actions, self.resets = actions, resets
        self.follows = np.roll(trace.phase == DECODE, 1) & ~trace.begins_sequence()
        self.chooser = Chooser(method, trace.layers, trace.first, trace.first_layer)

    def all(self) -> Iterator[Sets]:
        """Sets where they are known beforehand, scores where they depend on the cache."""
        for rows, data in self._data(self.decoded):
            made = self._sets(rows)
            for i, group in enumerate(self.method.groups):
                found = data.get(group.signal)
                if not group.aware:
                    made.sets[i] = self._choose(i, group, rows, found)
                    continue
                assert found is not None, "a cache-aware group has scores"
                shape = (rows.stop - rows.start, self.trace.layers, words_for(group.units))
                made.sets[i] = np.empty(shape, np.uint64)
                if found.dtype == np.uint8:
                    made.codes[i] = found
                else:
                    made.scores[i] = self._logits(found) if group.of_experts else found
            yield made

    def plain(self) -> Iterator[Sets]:
        """All sets, cache-aware groups without their preference; a prefill batch that is cached
        is united in its last row."""
        pending: list[Any] = [0 for _ in self.method.groups]
        for rows, data in self._data():
            actions = self.actions[rows]
            made = self._sets(rows)
            sets = made.sets
            for i, group in enumerate(self.method.groups):
                sets[i] = self._choose(i, group, rows, data.get(group.signal))
            for r in np.flatnonzero(
                (self.trace.phase[rows] == PREFILL) & (actions != kernels.SKIP)
            ):
                for i, chosen in enumerate(sets):
                    chosen[r] |= pending[i]
                    pending[i] = chosen[r].copy() if actions[r] == kernels.JOIN else 0
            yield made

    def _sets(self, rows: slice) -> Sets:
        """A block without sets."""
        count = len(self.method.groups)
        return Sets(
            start=rows.start,
            stop=rows.stop,
            actions=self.actions[rows],
            resets=self.resets[rows],
            sets=[np.empty((0, 0, 0), np.uint64)] * count,
            scores=[NO_SCORES] * count,
            codes=[NO_CODES] * count,
            follows=self.follows[rows],
            norms=[self._norms(group) for group in self.method.groups],
            shares=None if self.shares is None else self.shares[rows],
        )

    def _data(self, decoded: bool = False) -> Iterator[tuple[slice, dict[str, Any]]]:
        groups = [group for group in self.method.groups if group.choice != "all"]
        wanted = {group.signal: self._reading(group, decoded) for group in groups}
        if wanted:
            for start, stop, data in self.trace.blocks(wanted):
                yield slice(start, stop), data
            return
        for start in range(0, self.trace.tokens, _ROWS_WITHOUT_SIGNAL):
            yield slice(start, min(start + _ROWS_WITHOUT_SIGNAL, self.trace.tokens)), {}

    def _reading(self, group: Group, decoded: bool) -> Reading:
        """As what a group's signal is read: codes of log8 only where their order decides."""
        signal = self.trace.signals[group.signal]
        if group.choice == "sets" or (group.choice == "predicted" and not signal.scored):
            return "sets"
        if group.choice == "threshold":
            return "values"
        ordered = group.choice == "top-k" and (group.rule is None or takes_codes(group.rule))
        return "codes" if signal.coded and ordered and not decoded else "scores"

    def _logits(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Router scores as logits; minus infinity for experts that are no candidates."""
        signal = self.trace.signals["expert"]
        if signal.encoding != "sparse" and signal.declared.get("encoding") != "prob":
            return scores
        if scores.size and scores.min() < 0:
            raise TraceError(f"{self.trace.name}: probabilities of expert are never negative")
        with np.errstate(divide="ignore"):
            return np.log(scores)

    def _choose(self, i: int, group: Group, rows: slice, data: Any) -> NDArray[np.uint64]:
        if group.of_experts and group.choice == "top-k":
            data = self._logits(data)
        shares = None if self.shares is None else self.shares[rows, :, i]
        return self.chooser.choose(i, rows, data, shares, self._norms(group))

    def _norms(self, group: Group) -> NDArray[np.float32] | None:
        """Norms of the columns whose sum, weighed by the scores, is what the layer puts out."""
        there = group.signal == "glu" and COLUMN_OF_DOWN[0] in group.slices
        return self.trace.signals["glu"].norms if there and group.choice != "all" else None


def plain_scores(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Scores, decoded if they are codes of log8."""
    return LOG8_TABLE[rows] if rows.dtype == np.uint8 else rows


def no_shares(trace: Trace, method: Method) -> NDArray[np.float32]:
    """float32[tokens, layers, groups, 3]: shares of the score mass and of the energy that are kept,
    1 until something is dropped, and the relative error of the layer's output, nan if not known."""
    shares = np.ones((trace.tokens, trace.layers, len(method.groups), 3), np.float32)
    shares[..., 2] = np.nan
    return shares


def rows_of(
    trace: Trace, prefill: Prefill = "stream", reset: Reset = "never"
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """What every row does, and where the cache is emptied before it."""
    decode = trace.phase == DECODE
    new_sequence = trace.begins_sequence()
    new_sequence[0] = False
    last = np.ones(trace.tokens, np.bool_)  # a prefill row that ends its batch
    last[:-1] = decode[1:] | new_sequence[1:]
    ends = np.where(last, kernels.COMMIT, kernels.JOIN)
    otherwise = ends if prefill == "cache" else kernels.SKIP
    actions = np.where(decode, kernels.DECODE, otherwise).astype(np.uint8)
    resets = new_sequence if reset == "sequence" else np.zeros(trace.tokens, np.bool_)
    return actions, resets


def uses(trace: Trace, method: Method) -> list[NDArray[np.int64]]:
    """Per group int64[layers, units]: how often each unit is active in the decode tokens.

    A cache-aware method is counted without its preference for resident units.
    """
    blocks = Blocks(trace, method, *rows_of(trace))
    return count_uses(blocks.plain(), method, trace.layers, trace.phase, trace.tokens)


def plain_shares(trace: Trace, method: Method) -> NDArray[np.float32]:
    """`no_shares`, filled as if no group preferred what is resident."""
    shares = no_shares(trace, method)
    for _ in Blocks(trace, method, *rows_of(trace), shares).plain():
        pass
    return shares


def active_sets(
    trace: Trace, method: Method
) -> Iterator[tuple[int, int, list[NDArray[np.uint64]]]]:
    """Blocks (first token, end, per group uint64[n, layers, words]) of every token's own sets,
    prefill included; cache-aware groups without their preference for resident units."""
    blocks = Blocks(trace, method, *rows_of(trace))
    for at in blocks.plain():
        yield at.start, at.stop, at.sets


def largest_active(trace: Trace, method: Method) -> NDArray[np.int64]:
    """int64[layers, groups]: units of the largest active set of any one token."""
    largest = np.empty((trace.layers, len(method.groups)), np.int64)
    for i, group in enumerate(method.groups):
        largest[:, i] = 0 if group.varies else group.kept
    varying = [i for i, group in enumerate(method.groups) if group.varies]
    for _, _, sets in active_sets(trace, method) if varying else ():
        for i in varying:
            for layer in range(trace.layers):
                sizes = kernels.count_members(sets[i], layer)
                largest[layer, i] = max(largest[layer, i], sizes.max())
    return largest


def count_uses(
    blocks: Iterable[Sets], method: Method, layers: int, phase: NDArray[np.uint8], until: int
) -> list[NDArray[np.int64]]:
    """Per group int64[layers, units]: uses in the decode tokens before row ``until``."""
    totals = [np.zeros((layers, group.units), np.int64) for group in method.groups]
    for at in blocks:
        actions = np.where(phase[at.start : at.stop] == DECODE, at.actions, kernels.SKIP)
        actions[max(0, until - at.start) :] = kernels.SKIP
        for group, total in enumerate(totals):
            for layer in range(layers):
                kernels.count_uses(at.sets[group], layer, actions, total[layer])
    return totals
