"""The active sets of a trace under a method, block by block, as bits.

Sets that do not depend on the cache are chosen here; the scores of cache-aware groups
are handed on.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import MethodError, TraceError
from dipsim.methods import Method
from dipsim.methods.contract import COLUMN_OF_DOWN, Group
from dipsim.methods.masking import takes_codes
from dipsim.replay.choose import Chooser
from dipsim.replay.sets import NO_CODES, NO_SCORES, Sets, in_steps
from dipsim.settings import Prefill, Reset, Settings
from dipsim.trace import PREFILL, Outline, Tokens, Trace, recording
from dipsim.trace.encoding import words_for
from dipsim.trace.parts import Reading
from dipsim.trace.read_ahead import read_ahead
from dipsim.trace.routes import USED, packed_sets, raised
from dipsim.trace.steps import DecodeSteps

_ROWS_WITHOUT_SIGNAL = 1024
HELD_BYTES = 2**28
"""Most that the packed sets of a run take to be held without being needed."""


class ActiveSets:
    """The active sets of a trace under a method, block by block; each pass reads the trace once.

    Those of a model that runs have no blocks: it chooses as it goes.

    Where a set is known beforehand, a prefill batch that is cached is united in its last row.

    Args:
        settings: ``prefill`` and ``reset`` are looked at.
        runs: bool[tokens, layers], whether a token uses a layer's units; None where all do.
        steps: of several tokens each, whose rows are replayed in place of the trace's; None where
            every decode token is a step of its own.
    """

    def __init__(
        self,
        trace: Outline,
        method: Method,
        settings: Settings,
        runs: NDArray[np.bool_] | None = None,
        steps: DecodeSteps | None = None,
    ) -> None:
        self.trace, self.method, self.settings, self.runs = trace, method, settings, runs
        self.steps = steps
        self._held: list[Sets] | None = None
        self._held_shares: NDArray[np.float32] | None = None

    @property
    def tokens(self) -> Tokens:
        """Phases, sequences and positions of the rows that are replayed."""
        return self.trace.rows if self.steps is None else self.steps.tokens

    @property
    def source(self) -> NDArray[np.int64]:
        """[tokens] row of the trace that each row is."""
        return np.arange(len(self.trace.rows)) if self.steps is None else self.steps.source

    @property
    def prefill(self) -> Prefill:
        """Treatment of prompts: columns and neurons stream through, experts that a trace names are
        admitted, unless the settings say otherwise."""
        groups = self.method.groups
        of_experts = any(group.of_experts and group.choice != "all" for group in groups)
        return self.settings.prefill or ("cache" if of_experts else "stream")

    @cached_property
    def rows(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Actions of the rows, and where the cache is emptied before one (`rows_of`)."""
        return rows_of(self.tokens, self.prefill, self.settings.reset)

    @property
    def packed_bytes(self) -> int:
        """Bytes of all sets as bits."""
        words = sum(words_for(group.units) for group in self.method.groups)
        return 8 * words * self.trace.layers * len(self.tokens)

    def row_behind(self, decoded: int) -> int:
        """Return the row behind the first ``decoded`` decode tokens of the trace."""
        last = np.flatnonzero(self.trace.rows.decode)[decoded - 1]
        if self.steps is None:
            return int(last) + 1
        return int(np.searchsorted(self.steps.reach, last, side="right"))

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
        shares = self.no_shares()
        self._held, self._held_shares = list(self.blocks(shares)), shares
        return self

    def hold_if_small(self) -> None:
        """Keep all sets in memory for several passes, unless they depend on the cache, or take more
        than `HELD_BYTES`."""
        if not self.method.cache_aware and self.packed_bytes <= HELD_BYTES:
            self.hold()

    def share(self, other: "ActiveSets") -> None:
        """Use the sets that another one holds, which are the same: of the same tokens, method and
        rules of reset and prefill."""
        self._held, self._held_shares = other._held, other._held_shares

    def no_shares(self) -> NDArray[np.float32]:
        """float32[tokens, layers, groups, 3]: shares of the score mass and of the energy that are
        kept, 1 until something is dropped, and the relative error of the layer's output, nan if it
        is not known."""
        shape = len(self.tokens), self.trace.layers, len(self.method.groups), 3
        shares = np.ones(shape, np.float32)
        shares[..., 2] = np.nan
        return shares

    def blocks(
        self,
        shares: NDArray[np.float32] | None = None,
        plain: NDArray[np.float32] | None = None,
    ) -> Iterator[Sets]:
        """Yield sets where they are known beforehand, scores where they depend on the cache.

        Args:
            shares: of `no_shares`; filled in for groups whose sets are known beforehand.
            plain: the same for all groups, as if none preferred what is resident.
        """
        if self._held is not None:
            for known in (shares, plain):
                if known is not None:
                    known[:] = self._held_shares
            yield from self._held
            return
        tokens = len(self.tokens)
        chosen = self._chosen if self.steps is None else self._chosen_in_steps
        yield from read_ahead(chosen(shares, plain), lambda block: block.stop == tokens)

    def _chosen_in_steps(
        self, shares: NDArray[np.float32] | None, plain: NDArray[np.float32] | None
    ) -> Iterator[Sets]:
        """Do as `_chosen`, for the rows of steps; each row of the trace is chosen once."""
        assert self.steps is not None
        whole = ActiveSets(self.trace, self.method, self.settings)
        of_trace = [None if each is None else whole.no_shares() for each in (shares, plain)]
        for block in in_steps(whole._chosen(*of_trace), self.steps, *self.rows):
            rows = slice(block.start, block.stop)
            for taken, chosen in zip((shares, plain), of_trace, strict=True):
                if taken is not None and chosen is not None:
                    taken[rows] = chosen[self.steps.source[rows]]
            yield block

    def _chosen(
        self, shares: NDArray[np.float32] | None, plain: NDArray[np.float32] | None
    ) -> Iterator[Sets]:
        """Yield blocks whose known sets are chosen now; the arguments are those of `blocks`."""
        choose, pending = self._chooser(), self._nothing_pending()
        for block, signals in self._blocks():
            for i, group in enumerate(self.method.groups):
                data = self._input(group, signals)
                if not group.aware:
                    block.sets[i] = choose(i, block, data, shares)
                    if plain is not None and shares is not None:
                        chosen_rows = slice(block.start, block.stop)
                        plain[chosen_rows, :, i] = shares[chosen_rows, :, i]
                    self._unite_prefill(block, i, pending)
                    continue
                if plain is not None:
                    choose(i, block, data, plain)
                shape = (block.stop - block.start, self.trace.layers, words_for(group.units))
                block.sets[i] = np.empty(shape, np.uint64)
                if data.dtype == np.uint8:
                    block.codes[i] = data
                else:
                    block.scores[i] = data
            yield block

    def plainly(self) -> Iterator[Sets]:
        """Yield all sets, cache-aware groups without their preference for what is resident."""
        if self.steps is None:
            yield from self._chosen_plainly()
            return
        whole = ActiveSets(self.trace, self.method, self.settings)
        yield from in_steps(whole._chosen_plainly(), self.steps, *self.rows)

    def _chosen_plainly(self) -> Iterator[Sets]:
        choose, pending = self._chooser(), self._nothing_pending()
        for block, signals in self._blocks():
            for i, group in enumerate(self.method.groups):
                block.sets[i] = choose(i, block, self._input(group, signals), None)
                self._unite_prefill(block, i, pending)
            yield block

    def _chooser(
        self,
    ) -> Callable[[int, Sets, Any, NDArray[np.float32] | None], NDArray[np.uint64]]:
        """Return what chooses the sets of a group, without preference, for one pass."""
        trace = self.trace
        chooser = Chooser(self.method, trace.layers, trace.first, trace.first_layer)

        def choose(
            i: int, block: Sets, data: Any, shares: NDArray[np.float32] | None
        ) -> NDArray[np.uint64]:
            rows = slice(block.start, block.stop)
            kept = None if shares is None else shares[rows, :, i]
            rules = block.actions, block.resets
            return chooser.choose(i, rows, data, kept, block.norms[i], *rules)

        return choose

    def _nothing_pending(self) -> list[Any]:
        return [np.uint64(0) for _ in self.method.groups]

    def _unite_prefill(self, block: Sets, i: int, pending: list[Any]) -> None:
        """Unite the sets of group ``i`` in the last row of each prefill batch that is cached."""
        sets, actions = block.sets[i], block.actions
        cached = (self.trace.phase[block.start : block.stop] == PREFILL) & (actions != kernels.SKIP)
        for r in np.flatnonzero(cached):
            sets[r] |= pending[i]
            pending[i] = sets[r].copy() if actions[r] == kernels.JOIN else np.uint64(0)

    def _blocks(self) -> Iterator[tuple[Sets, dict[str, Any]]]:
        """Yield blocks without sets, and what the trace holds of the signals needed."""
        actions, resets = self.rows
        follows = np.roll(self.tokens.decode, 1) & ~self.tokens.begins_sequence()
        count = len(self.method.groups)
        norms = [self._norms(group) for group in self.method.groups]
        for rows, signals in self._data():
            block = Sets(
                start=rows.start,
                stop=rows.stop,
                actions=actions[rows],
                resets=resets[rows],
                sets=[np.empty((0, 0, 0), np.uint64)] * count,
                scores=[NO_SCORES] * count,
                codes=[NO_CODES] * count,
                follows=follows[rows],
                norms=norms,
                runs=None if self.runs is None else self.runs[rows],
            )
            yield block, signals

    def _data(self) -> Iterator[tuple[slice, dict[str, Any]]]:
        """Yield the rows of each block, and what the trace holds of the signals needed."""
        groups = [group for group in self.method.groups if group.choice != "all"]
        wanted = {group.signal: self._reading(group) for group in groups}
        if self.trace.has_routes and any(map(_is_routed, groups)):
            wanted[USED] = "sets"
        if wanted:
            for start, stop, data in recording(self.trace).blocks(wanted):
                yield slice(start, stop), data
            return
        for start in range(0, self.trace.tokens, _ROWS_WITHOUT_SIGNAL):
            yield slice(start, min(start + _ROWS_WITHOUT_SIGNAL, self.trace.tokens)), {}

    def _reading(self, group: Group) -> Reading:
        """Return how a group's signal is read: as codes of log8 only where their order decides."""
        signal = recording(self.trace).signals[group.signal]
        if self.trace.has_routes and _is_routed(group):
            return "scores"
        if group.choice == "sets" or (group.choice == "predicted" and not signal.scored):
            return "sets"
        if group.choice == "threshold" or group.custom is not None:
            return "values"
        ordered = group.choice == "top-k" and (group.rule is None or takes_codes(group.rule))
        return "codes" if signal.coded and ordered else "scores"

    def _input(self, group: Group, signals: dict[str, Any]) -> Any:
        """Return what a group chooses by; None where every unit is active."""
        if not _is_routed(group):
            return signals.get(group.signal)
        scores, used = signals[group.signal], signals.get(USED)
        if group.choice == "sets":
            return scores if used is None else packed_sets(used, group.units)
        return self._logits(scores if used is None else self._raised(scores, used))

    def _raised(self, scores: NDArray[np.float32], used: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Return scores of experts of which those used are the best.

        Raises:
            MethodError: others are better by more than rounding.
        """
        stored = recording(self.trace).signals["expert"].encoding
        closed = 0.0 if self._probabilities else -np.inf
        raised_scores, wrong = raised(scores, used, closed, float(np.finfo(stored).eps))
        if wrong.any():
            raise MethodError(
                f"{self.trace.name}: in layer {int(np.argwhere(wrong)[0, 1])} the experts used are "
                "not those with the best scores, and by what rule they were chosen is not known: "
                "replay them with --method recorded"
            )
        return raised_scores

    @property
    def _probabilities(self) -> bool:
        """True where the scores of experts are, or stand for, probabilities."""
        signal = self.trace.signals["expert"]
        return signal.encoding == "sparse" or signal.declared.get("encoding") == "prob"

    def _logits(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Router scores as logits; minus infinity for experts that are no candidates."""
        if not self._probabilities:
            return scores
        if scores.size and scores.min() < 0:
            raise TraceError(f"{self.trace.name}: probabilities of expert are never negative")
        with np.errstate(divide="ignore"):
            return np.log(scores)

    def _norms(self, group: Group) -> NDArray[np.float32] | None:
        """Norms of the columns whose sum, weighed by the scores, is what the layer puts out."""
        weighed = group.signal == "glu" and COLUMN_OF_DOWN[0] in group.slices
        if not weighed or group.choice == "all":
            return None
        return recording(self.trace).signals["glu"].norms


def _is_routed(group: Group) -> bool:
    """Return whether a group's experts are those of a router, or recorded."""
    return group.of_experts and group.choice in ("top-k", "sets")


def rows_of(
    tokens: Tokens, prefill: Prefill = "stream", reset: Reset = "never"
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return what every row does (kernels.SKIP, JOIN, JOIN_DECODE, COMMIT or DECODE), and where the
    cache is emptied before it."""
    decode, new_sequence = tokens.decode, tokens.begins_sequence()
    new_sequence[0] = False
    ends_batch = np.ones(len(tokens), np.bool_)  # of prefill rows
    ends_batch[:-1] = decode[1:] | new_sequence[1:]
    ends = np.where(ends_batch, kernels.COMMIT, kernels.JOIN)
    otherwise = ends if prefill == "cache" else kernels.SKIP
    of_step = np.where(tokens.ends_decode_step(), kernels.DECODE, kernels.JOIN_DECODE)
    actions = np.where(decode, of_step, otherwise).astype(np.uint8)
    resets = new_sequence if reset == "sequence" else np.zeros(len(tokens), np.bool_)
    return actions, resets


def uses(trace: Trace, method: Method) -> list[NDArray[np.int64]]:
    """Per group int64[layers, units]: how often each unit is active in the decode tokens.

    A cache-aware method is counted without its preference for resident units.
    """
    sets = ActiveSets(trace, method, Settings(prefill="stream"))
    return count_uses(sets.plainly(), sets, trace.tokens)


def active_sets(
    trace: Outline, method: Method, steps: DecodeSteps | None = None
) -> Iterator[tuple[int, int, list[NDArray[np.uint64]]]]:
    """Yield blocks (first token, end, per group uint64[n, layers, words]) of every token's own
    sets, prefill included; cache-aware groups without their preference for resident units.

    Args:
        steps: of several tokens each, in whose last rows the sets are united.
    """
    for block in ActiveSets(trace, method, Settings(prefill="stream"), steps=steps).plainly():
        yield block.start, block.stop, block.sets


def every_set(trace: Trace, method: Method) -> list[NDArray[np.uint64]]:
    """Per group uint64[tokens, layers, words]: every token's own set, all of them held."""
    blocks = [sets for _, _, sets in active_sets(trace, method)]
    return [np.concatenate([sets[i] for sets in blocks]) for i in range(len(method.groups))]


def largest_active(sets: ActiveSets) -> NDArray[np.int64]:
    """int64[layers, groups]: units of the largest active set of any one token, or decode step.

    Of a step that chooses by the cache, the most that its tokens may need.
    """
    trace, method, steps = sets.trace, sets.method, sets.steps
    largest = np.zeros((trace.layers, len(method.groups)), np.int64)
    tokens = 1 if steps is None else steps.width
    counted = []
    for i, group in enumerate(method.groups):
        each = [group.at(layer) for layer in range(trace.layers)]
        most = [own.units if group.varies else min(own.units, tokens * own.kept) for own in each]
        if group.aware or group.choice == "all" or (tokens == 1 and not group.varies):
            largest[:, i] = most
        else:
            counted.append(i)
    for _, _, own in active_sets(trace, method, steps) if counted else ():
        for i in counted:
            sizes = np.bitwise_count(own[i]).sum(axis=-1, dtype=np.int64)
            largest[:, i] = np.maximum(largest[:, i], sizes.max(axis=0))
    return largest


def count_uses(blocks: Iterable[Sets], sets: ActiveSets, until: int) -> list[NDArray[np.int64]]:
    """Per group int64[layers, units]: uses in the decode tokens before row ``until``.

    Args:
        blocks: of ``sets``, in order.
    """
    layers, decode = sets.trace.layers, sets.tokens.decode
    totals = [np.zeros((layers, group.units), np.int64) for group in sets.method.groups]
    for block in blocks:
        actions = np.where(decode[block.start : block.stop], block.actions, kernels.SKIP)
        actions[max(0, until - block.start) :] = kernels.SKIP
        for group, total in enumerate(totals):
            for layer in range(layers):
                kernels.count_uses(block.sets[group], layer, actions, total[layer])
    return totals
