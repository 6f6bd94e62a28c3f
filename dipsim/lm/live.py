"""The closed loop: the rules of a replay, fed by a model that runs (docs/accuracy.md).

Scores come layer by layer, a whole call of the model at a time; masks go back, and what the caches
did is booked as `Traffic`. Which units a token needs is chosen by the code that replays traces:
`Chooser`, or for methods that look at the cache the replay's own loops.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import DipsimError, PolicyError
from dipsim.kernels import Loop
from dipsim.kernels.draws import seed_of
from dipsim.layers.contract import whole_modes
from dipsim.methods import Method
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.cache import Counts, ReplayedCache
from dipsim.replay.choose import Chooser
from dipsim.replay.contender import Contender, check_contender
from dipsim.replay.replay import book, form_of, loop_for
from dipsim.replay.sets import NO_CODES, NO_SCORES, Sets
from dipsim.replay.traffic import Traffic, empty_traffic, joined
from dipsim.result import Result
from dipsim.run import Run
from dipsim.systems import NOTHING, Beside, Decided, Speeds, plan_beside
from dipsim.timeline.timing import time_traffic
from dipsim.tokens import Pruned
from dipsim.trace import Outline, Tokens
from dipsim.trace.encoding import unpack_sets, words_for

RUNNING = "closed loop"
"""Name of what a model that runs does, where a trace has the name of its file."""


class Live:
    """The masks and caches of a running model.

    Args:
        run: prepared from the model's outline, or from a recording that something is calibrated on;
            its method, capacities and flash hold here.
        work: tokens that its layers see, sequence by sequence, where tokens are pruned.

    Raises:
        DipsimError: a run that needs more than one call of one layer at a time, or a policy that
            cannot do what is asked of it.
    """

    def __init__(self, run: Run, work: Sequence[Pruned] | None = None) -> None:
        _refuse(run)
        self.run, self.method, self._work = run, run.method, work
        contender = Contender(run.policy, [run.capacity], run.settings, run.tokens.decode)
        check_contender(run.sets, contender)
        loop = loop_for(self.method, run.policy, run.settings.access)
        layers = range(run.trace.layers)
        self._layers = [_Layer(run, layer, loop, contender.admission) for layer in layers]
        self._sequence: int | None = None  # of the last row, booked or not
        self._rows = 0
        self._call: _Call | None = None
        self._booked: list[_Call] = []

    def begin(self, phase: NDArray[np.uint8], sequence: NDArray[np.int32], book: bool) -> None:
        """Start a call of the model.

        Args:
            phase: [n] as in a trace.
            sequence: [n] as in a trace; never falls from call to call.
            book: whether its tokens count.
        """
        goes_on = self._sequence is None or sequence[0] == self._sequence
        self._call = _Call(self._sets(Tokens.of(phase, sequence)), self.run, self._rows, goes_on)
        self._sequence = int(sequence[-1])
        self._rows += len(phase)
        if book:
            self._booked.append(self._call)

    def skip(self, layer: int, skipped: NDArray[np.bool_]) -> None:
        """Tell a layer which tokens of this call, bool[n], skip it: its caches do not see them."""
        assert self._call is not None, "begun"
        self._call.runs[:, layer] = ~skipped

    def mask(self, layer: int, group: int, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """bool[n, units]: units that the tokens of this call use; all where one skips the layer.

        Args:
            scores: [n, units] >= 0; of experts logits.
        """
        assert self._call is not None, "begun"
        return self._layers[layer].mask(group, scores, self._call)

    def book_dense(self) -> None:
        """Book the tokens that the run was prepared for; each uses every unit of every layer."""
        tokens = self.run.tokens
        starts = np.flatnonzero(tokens.begins_sequence())
        for start, stop in pairwise([*starts.tolist(), len(tokens)]):
            self.begin(tokens.phase[start:stop], tokens.sequence[start:stop], book=True)
            for layer in range(self.run.trace.layers):
                for i, group in enumerate(self.method.groups):
                    self.mask(layer, i, np.zeros((stop - start, group.units), np.float32))

    @property
    def ran(self) -> Run:
        """The run, of the tokens that were booked; their sets are those the model used.

        Raises:
            DipsimError: nothing ran.
        """
        if not self._booked:
            raise DipsimError("nothing was booked: call the model while it is sparse")
        calls = [call.sets.tokens for call in self._booked]
        phase = np.concatenate([tokens.phase for tokens in calls])
        sequence = np.concatenate([tokens.sequence for tokens in calls])
        outline = self.run.trace.of_tokens(RUNNING, Tokens.of(phase, sequence))
        beside = self._beside(outline)
        method = replace(self.method, as_recorded=True)
        used = ActiveSets(outline, method, self.run.settings, beside.layer_runs)
        return replace(self.run, sets=used, unmeasured=(), beside=beside)

    @property
    def traffic(self) -> Traffic:
        """Counts of what the caches did, token by token.

        Raises:
            DipsimError: nothing ran.
        """
        measured = self.ran.measured
        return joined([call.traffic for call in self._booked], measured)

    def result(self) -> Result:
        """Return the figures of what really ran, in closed loop.

        Raises:
            DipsimError: nothing ran.
        """
        run, traffic = self.ran, self.traffic
        return Result(run, traffic, time_traffic(run, traffic))

    @property
    def density(self) -> float | None:
        """Share of the weights it prunes, and computes densely beside them, that measured tokens
        used; None for experts."""
        model, traffic = self.run.model, self.traffic
        if model is None or any(group.of_experts for group in self.method.groups):
            return None
        active = traffic.active[traffic.measured].mean(axis=(0, 1))
        dense = model.matrix_parameters * len(self.method.dense)
        used = total = float(dense)
        for group, mean in zip(self.method.groups, active, strict=True):
            weights = sum(model.slice_weights(slice_) for slice_ in group.slices)
            used += float(mean) * weights
            total += group.units * weights
        return (used + self.method.predictor_weights) / total

    def _beside(self, outline: Outline) -> Beside:
        """Return the systems beside the weights, of the tokens that were booked."""
        run = self.run
        if run.beside == NOTHING:
            return NOTHING
        runs = np.concatenate([call.runs for call in self._booked])
        speeds = Speeds(run.flash.sequential_bandwidth, run.backend.compute)
        decided = Decided(whole_modes(~runs), self._work)
        return plan_beside(outline, run.model, run.settings, run.context, speeds, decided)

    def _sets(self, tokens: Tokens) -> ActiveSets:
        """Return the sets that the method chooses for some tokens, as far as they are known."""
        outline = self.run.trace.of_tokens(RUNNING, tokens)
        return ActiveSets(outline, self.method, self.run.settings)


class _Call:
    """A call of the model: its tokens, and the counts and shares that its layers fill in.

    Args:
        first: rows before it since the model was made sparse.
        goes_on: its first row is of the sequence of the row before, or nothing came before.
    """

    def __init__(self, sets: ActiveSets, run: Run, first: int, goes_on: bool) -> None:
        self.sets, self.first = sets, first
        self.actions, self.resets = sets.rows
        if run.settings.reset == "sequence":
            self.resets[0] = not goes_on
        self.runs = np.ones((len(sets.tokens), run.trace.layers), np.bool_)
        self.shares, self.plain = sets.no_shares(), sets.no_shares()
        measured = np.ones(len(sets.tokens), np.bool_)  # settled when all calls are joined
        counts = empty_traffic(
            len(sets.tokens), sets.method.groups, run.budget.capacity, measured, self.shares
        )
        self.traffic = replace(counts, plain=self.plain)

    def book(self, layer: int, counts: Counts) -> None:
        """Take the counts of one layer's cache."""
        book(self.traffic, slice(0, len(self.sets.tokens)), replace(counts, layer=layer))


class _Layer:
    """One layer: its part of the method, and a cache for every group."""

    def __init__(self, run: Run, layer: int, loop: Loop, admission: int) -> None:
        self.layer, self.loop, self.admission = layer, loop, admission
        self.method = _of_layer(run.method, layer)
        self.chooser = Chooser(self.method, 1, 0, layer)
        uses = run.profile_uses
        self.caches = [
            None  # a layer without units of the group has no cache
            if not group.units
            else ReplayedCache(
                self.method,
                form_of(run.policy, run.settings.access),
                [(0, i)],
                [float(run.budget.capacity[layer, i])],
                seed_of(run.settings.seed, layer, i),
                uses=None if uses is None else [each[layer : layer + 1] for each in uses],
                draws=run.authors,
                costs=[run.costs[layer]],
            )
            for i, group in enumerate(self.method.groups)
        ]

    def mask(self, i: int, scores: NDArray[np.float32], call: _Call) -> NDArray[np.bool_]:
        """bool[n, units] of group ``i``; books what its cache does."""
        group, n = self.method.groups[i], len(call.actions)
        if (cache := self.caches[i]) is None:
            return np.zeros(scores.shape, np.bool_)
        rows = slice(call.first, call.first + n)
        data = np.ascontiguousarray(scores[:, None, : group.units], np.float32)
        count = len(self.method.groups)
        sets, given = [_NO_SETS] * count, [NO_SCORES] * count
        place = slice(None), slice(self.layer, self.layer + 1), i
        if group.aware:
            self.chooser.choose(i, rows, data, call.plain[place])
            sets[i], given[i] = np.zeros((n, 1, words_for(group.units)), np.uint64), data
        else:
            sets[i] = self.chooser.choose(
                i, rows, data, call.shares[place], actions=call.actions, resets=call.resets
            )
            call.plain[place] = call.shares[place]
        block = Sets(
            start=rows.start,
            stop=rows.stop,
            actions=call.actions,
            resets=call.resets,
            sets=sets,
            scores=given,
            codes=[NO_CODES] * count,
            follows=np.ones(n, np.bool_),
            norms=[None] * count,
            runs=call.runs[:, self.layer : self.layer + 1],
        )
        (((counts,),),) = cache.feed([block], self.loop, self.admission)
        call.book(self.layer, counts)
        mask = np.zeros(scores.shape, np.bool_)  # as wide as the widest layer
        mask[:, : group.units] = unpack_sets(sets[i][:, 0], group.units)
        streamed = call.actions == kernels.SKIP  # a prompt that reads whole matrices
        mask[streamed | ~call.runs[:, self.layer]] = True
        return mask


_NO_SETS = np.empty((0, 0, 0), np.uint64)


def _of_layer(method: Method, layer: int) -> Method:
    """Return the method with the thresholds, noise and biases of one layer."""
    own = slice(layer, layer + 1)
    groups = tuple(
        group.at(layer)
        if group.layer_units
        else replace(
            group,
            thresholds=group.thresholds[own],
            noise=group.noise[own],
            weighing=group.weighing.in_layers([layer]),
        )
        for group in method.groups
    )
    return replace(method, groups=groups)


def _refuse(run: Run) -> None:
    """Refuse what needs more than one call of one layer at a time.

    Raises:
        DipsimError: in one line.
    """
    policy, settings = run.policy, run.settings
    if policy.future:
        raise PolicyError(
            f"policy {policy.name} must know the future, which a running model does not: use "
            "an online policy, or record a trace and replay it"
        )
    if policy.preload and settings.static_from is None:
        raise PolicyError(
            f"policy {policy.name} pins what a trace used most: use another, or in Python give "
            "a recording of this model (static_from=FILE)"
        )
    asked = {
        "--scope global": settings.scope == "global",
        "--kv grow": run.budget.growth is not None,
        "--overlap prefetch": run.guesses is not None,
        "--io buffered or mmap": run.page_cache is not None,
        "--layout permuted": run.placement.places is not None,
        "--cluster": settings.cluster > 1,
    }
    for option, given in asked.items():
        if given:
            raise only_on_traces(option)


def only_on_traces(option: str) -> DipsimError:
    """Return the error of an option that a running model cannot have."""
    return DipsimError(
        f"{option} works on traces only: a running model is pruned layer after layer, with "
        "a cache for each; drop it, or record a trace and replay it"
    )
