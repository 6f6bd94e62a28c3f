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
from dipsim.errors import MethodError, TraceError
from dipsim.methods import Method
from dipsim.methods.contract import COLUMN_OF_DOWN, Group
from dipsim.methods.masking import takes_codes
from dipsim.methods.predictor import noise_of, predicted
from dipsim.methods.routing import route_plainly
from dipsim.settings import Prefill, Reset, Settings
from dipsim.trace import DECODE, PREFILL, Tokens, Trace
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
    """Norms of the columns that a group's scores weigh; None where the trace has none."""

    @property
    def accesses(self) -> int:
        """Units that the rows use, where the sets are known."""
        return sum(int(np.bitwise_count(sets).sum(dtype=np.int64)) for sets in self.sets)


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


class ActiveSets:
    """The active sets of a trace under a method, block by block; each pass reads the trace once.

    Where a set is known beforehand, a prefill batch that is cached is united in its last row.

    Args:
        settings: ``prefill`` and ``reset`` are looked at.
    """

    def __init__(self, trace: Trace, method: Method, settings: Settings) -> None:
        self.trace, self.method = trace, method
        prefill = prefill_of(settings, method)
        self.actions, self.resets = rows_of(trace.rows, prefill, settings.reset)
        self.shares = no_shares(trace, method)
        """float32[tokens, layers, groups, 3] of `no_shares`, of the sets chosen so far."""
        self.plain_shares = self.shares
        """The same as if no group preferred what is resident; of `blocks` with ``plain``."""
        self._held: list[Sets] | None = None
        self._chooser = Chooser(method, trace.layers, trace.first, trace.first_layer)
        self._follows = np.roll(trace.rows.decode, 1) & ~trace.rows.begins_sequence()

    def check_known(self) -> None:
        """Refuse sets that depend on the cache.

        Raises:
            MethodError: they do.
        """
        if self.method.cache_aware:
            raise MethodError(f"the sets of method {self.method.name} depend on the cache")

    def hold(self) -> "ActiveSets":
        """Keep all sets in memory, as bits, for several passes; return the same object.

        Raises:
            MethodError: they depend on the cache.
        """
        self.check_known()
        self._held = list(self.blocks())
        return self

    def blocks(self, plain: bool = False) -> Iterator[Sets]:
        """Yield sets where they are known beforehand, scores where they depend on the cache.

        Args:
            plain: fill in ``plain_shares`` of cache-aware groups too.
        """
        if self._held is not None:
            yield from self._held
            return
        if plain and self.method.cache_aware:
            self.plain_shares = no_shares(self.trace, self.method)
        pending = self._nothing_pending()
        for rows, signals in self._data():
            block = self._block(rows)
            for i, group in enumerate(self.method.groups):
                data = self._input(group, signals)
                if not group.aware:
                    block.sets[i] = self._choose(i, rows, data, self.shares)
                    self._unite_prefill(block, i, pending)
                    continue
                if self.plain_shares is not self.shares:
                    self._choose(i, rows, data, self.plain_shares)
                shape = (rows.stop - rows.start, self.trace.layers, words_for(group.units))
                block.sets[i] = np.empty(shape, np.uint64)
                if data.dtype == np.uint8:
                    block.codes[i] = data
                else:
                    block.scores[i] = data
            if self.plain_shares is not self.shares:
                self._share_plainly(rows)
            yield block

    def plainly(self) -> Iterator[Sets]:
        """Yield all sets, cache-aware groups without their preference for what is resident."""
        pending = self._nothing_pending()
        for rows, signals in self._data():
            block = self._block(rows)
            for i, group in enumerate(self.method.groups):
                block.sets[i] = self._choose(i, rows, self._input(group, signals), self.shares)
                self._unite_prefill(block, i, pending)
            yield block

    def _nothing_pending(self) -> list[Any]:
        return [np.uint64(0) for _ in self.method.groups]

    def _unite_prefill(self, block: Sets, i: int, pending: list[Any]) -> None:
        """Unite the sets of group ``i`` in the last row of each prefill batch that is cached."""
        sets, actions = block.sets[i], block.actions
        cached = (self.trace.phase[block.start : block.stop] == PREFILL) & (actions != kernels.SKIP)
        for r in np.flatnonzero(cached):
            sets[r] |= pending[i]
            pending[i] = sets[r].copy() if actions[r] == kernels.JOIN else np.uint64(0)

    def _share_plainly(self, rows: slice) -> None:
        """Copy the shares of groups that prefer nothing: they are the plain ones."""
        for i, group in enumerate(self.method.groups):
            if not group.aware:
                self.plain_shares[rows, :, i] = self.shares[rows, :, i]

    def _block(self, rows: slice) -> Sets:
        """Return a block without sets."""
        count = len(self.method.groups)
        return Sets(
            start=rows.start,
            stop=rows.stop,
            actions=self.actions[rows],
            resets=self.resets[rows],
            sets=[np.empty((0, 0, 0), np.uint64)] * count,
            scores=[NO_SCORES] * count,
            codes=[NO_CODES] * count,
            follows=self._follows[rows],
            norms=[self._norms(group) for group in self.method.groups],
        )

    def _data(self) -> Iterator[tuple[slice, dict[str, Any]]]:
        """Yield the rows of each block, and what the trace holds of the signals needed."""
        groups = [group for group in self.method.groups if group.choice != "all"]
        wanted = {group.signal: self._reading(group) for group in groups}
        if wanted:
            for start, stop, data in self.trace.blocks(wanted):
                yield slice(start, stop), data
            return
        for start in range(0, self.trace.tokens, _ROWS_WITHOUT_SIGNAL):
            yield slice(start, min(start + _ROWS_WITHOUT_SIGNAL, self.trace.tokens)), {}

    def _reading(self, group: Group) -> Reading:
        """Return how a group's signal is read: as codes of log8 only where their order decides."""
        signal = self.trace.signals[group.signal]
        if group.choice == "sets" or (group.choice == "predicted" and not signal.scored):
            return "sets"
        if group.choice == "threshold":
            return "values"
        ordered = group.choice == "top-k" and (group.rule is None or takes_codes(group.rule))
        return "codes" if signal.coded and ordered else "scores"

    def _input(self, group: Group, signals: dict[str, Any]) -> Any:
        """Return what a group chooses by; None where every unit is active."""
        if group.of_experts and group.choice == "top-k":
            return self._logits(signals[group.signal])
        return signals.get(group.signal)

    def _logits(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Router scores as logits; minus infinity for experts that are no candidates."""
        signal = self.trace.signals["expert"]
        if signal.encoding != "sparse" and signal.declared.get("encoding") != "prob":
            return scores
        if scores.size and scores.min() < 0:
            raise TraceError(f"{self.trace.name}: probabilities of expert are never negative")
        with np.errstate(divide="ignore"):
            return np.log(scores)

    def _choose(
        self, i: int, rows: slice, data: Any, shares: NDArray[np.float32]
    ) -> NDArray[np.uint64]:
        norms = self._norms(self.method.groups[i])
        return self._chooser.choose(i, rows, data, shares[rows, :, i], norms)

    def _norms(self, group: Group) -> NDArray[np.float32] | None:
        """Norms of the columns whose sum, weighed by the scores, is what the layer puts out."""
        weighed = group.signal == "glu" and COLUMN_OF_DOWN[0] in group.slices
        return self.trace.signals["glu"].norms if weighed and group.choice != "all" else None


def plain_scores(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Scores, decoded if they are codes of log8."""
    return LOG8_TABLE[rows] if rows.dtype == np.uint8 else rows


def no_shares(trace: Trace, method: Method) -> NDArray[np.float32]:
    """float32[tokens, layers, groups, 3]: shares of the score mass and of the energy that are kept,
    1 until something is dropped, and the relative error of the layer's output, nan if not known."""
    shares = np.ones((trace.tokens, trace.layers, len(method.groups), 3), np.float32)
    shares[..., 2] = np.nan
    return shares


def prefill_of(settings: Settings, method: Method) -> Prefill:
    """Return how prompts are replayed: columns and neurons stream through, experts are admitted,
    unless told otherwise."""
    of_experts = any(group.of_experts for group in method.groups)
    return settings.prefill or ("cache" if of_experts else "stream")


def rows_of(
    tokens: Tokens, prefill: Prefill = "stream", reset: Reset = "never"
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return what every row does (kernels.SKIP, JOIN, COMMIT or DECODE), and where the cache is
    emptied before it."""
    decode, new_sequence = tokens.decode, tokens.begins_sequence()
    new_sequence[0] = False
    ends_batch = np.ones(len(tokens), np.bool_)  # of prefill rows
    ends_batch[:-1] = decode[1:] | new_sequence[1:]
    ends = np.where(ends_batch, kernels.COMMIT, kernels.JOIN)
    otherwise = ends if prefill == "cache" else kernels.SKIP
    actions = np.where(decode, kernels.DECODE, otherwise).astype(np.uint8)
    resets = new_sequence if reset == "sequence" else np.zeros(len(tokens), np.bool_)
    return actions, resets


def uses(trace: Trace, method: Method) -> list[NDArray[np.int64]]:
    """Per group int64[layers, units]: how often each unit is active in the decode tokens.

    A cache-aware method is counted without its preference for resident units.
    """
    blocks = ActiveSets(trace, method, Settings(prefill="stream")).plainly()
    return count_uses(blocks, method, trace.layers, trace.phase, trace.tokens)


def active_sets(
    trace: Trace, method: Method
) -> Iterator[tuple[int, int, list[NDArray[np.uint64]]]]:
    """Yield blocks (first token, end, per group uint64[n, layers, words]) of every token's own
    sets, prefill included; cache-aware groups without their preference for resident units."""
    for block in ActiveSets(trace, method, Settings(prefill="stream")).plainly():
        yield block.start, block.stop, block.sets


def every_set(trace: Trace, method: Method) -> list[NDArray[np.uint64]]:
    """Per group uint64[tokens, layers, words]: every token's own set, all of them held."""
    blocks = [sets for _, _, sets in active_sets(trace, method)]
    return [np.concatenate([sets[i] for sets in blocks]) for i in range(len(method.groups))]


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
