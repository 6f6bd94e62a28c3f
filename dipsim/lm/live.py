"""The closed loop: the rules of a replay, fed by a model that runs (DESIGN sections 5 and 6).

Scores come layer by layer, a whole call of the model at a time; masks go back, and what the caches
did is booked as `Traffic`. Which units a token needs is chosen by the code that replays traces:
`active.Chooser`, or for methods that look at the cache the replay's own loops.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import DipsimError, PolicyError
from dipsim.kernels.draws import seed_of
from dipsim.methods import Method
from dipsim.replay.active_sets import NO_CODES, NO_SCORES, Chooser, Sets, no_shares, rows_of
from dipsim.replay.cache import Loop, ReplayedCache
from dipsim.replay.replay import check_plan, form_of, loop_for, measured_rows
from dipsim.replay.traffic import Traffic, joined, no_traffic
from dipsim.resolve import profile_uses
from dipsim.result import Result, mean_share
from dipsim.simulate import Job, result_of
from dipsim.trace import Trace
from dipsim.trace.encoding import unpack_sets, words_for


class Live:
    """The masks and caches of a running model.

    Args:
        job: a run prepared from a short recording of the same model; its method, capacities and
            flash hold here too.
    """

    def __init__(self, job: Job) -> None:
        _refuse(job)
        self.job, self.method = job, job.work.method
        self.probe = job.work.trace
        self._admission = check_plan(self.method, job.policy, job.plan)
        self._loop = loop_for(self.method, job.policy, job.plan)
        self._layers = [_Layer(job, layer) for layer in range(self.probe.layers)]
        pinned = profile_uses(job.work, job.policy, job.settings)
        for at in self._layers:
            at.fill(job, pinned)
        self._sequence: int | None = None  # of the last row, booked or not
        self._parts: list[Traffic] = []
        self._plain: list[NDArray[np.float32]] = []
        self._marks: list[tuple[NDArray[np.uint8], NDArray[np.int32]]] = []
        self._rows = 0

    def begin(self, phase: NDArray[np.uint8], sequence: NDArray[np.int32], book: bool) -> None:
        """Start a call of the model.

        Args:
            phase, sequence: [n] as in a trace; sequences never fall from call to call.
            book: whether its tokens count.
        """
        call = _rows(self.probe, phase, sequence)
        actions, resets = rows_of(call, self.job.plan.prefill, self.job.plan.reset)
        if self.job.plan.reset == "sequence" and self._sequence is not None:
            resets[0] = sequence[0] != self._sequence
        self._sequence = int(sequence[-1])
        shares = no_shares(call, self.method)
        capacity = np.asarray(self.job.capacity)
        traffic = no_traffic(call, self.method, capacity, np.ones(len(phase), np.bool_), shares)
        plain = shares.copy()
        for at in self._layers:
            at.begin(self._rows, actions, resets, traffic, shares, plain)
        self._rows += len(phase)
        if book:
            self._parts.append(traffic)
            self._plain.append(plain)
            self._marks.append((phase, sequence))

    def mask(self, layer: int, group: int, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """bool[n, units]: what the tokens of this call use.

        Args:
            scores: [n, units] >= 0; of experts logits.
        """
        return self._layers[layer].mask(group, scores, self._loop, self._admission)

    @property
    def trace(self) -> Trace:
        """What ran, as far as timing asks: phases, sequences and positions.

        Raises:
            DipsimError: nothing ran.
        """
        if not self._marks:
            raise DipsimError("nothing was booked: call the model while it is sparse")
        phase, sequence = (np.concatenate(each) for each in zip(*self._marks, strict=True))
        return _rows(self.probe, phase, sequence)

    @property
    def traffic(self) -> Traffic:
        """What the caches did, token by token.

        Raises:
            DipsimError: nothing ran.
        """
        return joined(self._parts, measured_rows(self.trace, self.job.plan.warmup))

    def result(self) -> Result:
        """The figures of a run, of what really ran: closed loop.

        Raises:
            DipsimError: nothing ran.
        """
        traffic, trace = self.traffic, self.trace
        method = replace(self.method, as_recorded=True)  # the sets are those the model used
        work = replace(self.job.work, trace=trace, method=method)
        plan = replace(self.job.plan, unmeasured=())
        plain = mean_share(np.concatenate(self._plain)[traffic.measured])
        return result_of(replace(self.job, work=work, plan=plan), traffic, plain)

    @property
    def density(self) -> float | None:
        """Share of the weights it prunes, and computes densely beside them, that measured tokens
        used; None for experts."""
        model, traffic = self.job.work.model, self.traffic
        if model is None or any(group.of_experts for group in self.method.groups):
            return None
        active = traffic.active[traffic.measured].mean(axis=(0, 1))
        dense = model.matrix_parameters * len(self.method.dense)
        used = total = float(dense)
        for group, mean in zip(self.method.groups, active, strict=True):
            weights = sum(model.slice_weights(at) for at in group.slices)
            used += float(mean) * weights
            total += group.units * weights
        return (used + self.method.predictor_weights) / total


class _Layer:
    """One layer: its part of the method, and a cache for every group."""

    def __init__(self, job: Job, layer: int) -> None:
        self.layer, self.requests = layer, [job.requests[layer]]
        groups = tuple(
            replace(
                group,
                thresholds=group.thresholds[layer : layer + 1],
                noise=group.noise[layer : layer + 1],
            )
            for group in job.work.method.groups
        )
        self.method: Method = replace(job.work.method, groups=groups)
        self.chooser = Chooser(self.method, 1, 0, layer)
        self.caches: list[ReplayedCache] = []

    def fill(self, job: Job, pinned: list[NDArray[np.int64]] | None) -> None:
        """Make the caches."""
        capacity, plan = np.asarray(job.capacity), job.plan
        own = None if pinned is None else [at[self.layer : self.layer + 1] for at in pinned]
        for i in range(len(self.method.groups)):
            self.caches.append(
                ReplayedCache(
                    self.method,
                    form_of(job.policy, plan),
                    [(0, i)],
                    [float(capacity[self.layer, i])],
                    [],
                    seed_of(plan.seed, self.layer, i),
                    uses=own,
                    draws=plan.fill == "random",
                )
            )

    def begin(
        self,
        first: int,
        actions: NDArray[np.uint8],
        resets: NDArray[np.bool_],
        traffic: Traffic,
        shares: NDArray[np.float32],
        plain: NDArray[np.float32],
    ) -> None:
        """Book the next call to ``traffic``, and what its masks keep to ``shares``."""
        self.first, self.actions, self.resets = first, actions, resets
        self.shares = shares[:, self.layer : self.layer + 1]
        self.plain = plain[:, self.layer : self.layer + 1]
        own = traffic.of_layer(self.layer)
        for cache in self.caches:
            cache.traffics, cache.booked_from = [own], first

    def mask(
        self, i: int, scores: NDArray[np.float32], loop: Loop, admission: int
    ) -> NDArray[np.bool_]:
        """bool[n, units] of group ``i``."""
        group, n = self.method.groups[i], len(self.actions)
        rows = slice(self.first, self.first + n)
        data = np.ascontiguousarray(scores[:, None], np.float32)
        count = len(self.method.groups)
        sets, given = [_NO_SETS] * count, [NO_SCORES] * count
        if group.aware:
            self.chooser.choose(i, rows, data, self.plain[:, :, i])
            sets[i], given[i] = np.zeros((n, 1, words_for(group.units)), np.uint64), data
        else:
            sets[i] = self.chooser.choose(i, rows, data, self.shares[:, :, i])
            self.plain[:, :, i] = self.shares[:, :, i]
        fed = Sets(
            start=rows.start,
            stop=rows.stop,
            actions=self.actions,
            resets=self.resets,
            sets=sets,
            scores=given,
            codes=[NO_CODES] * count,
            follows=np.ones(n, np.bool_),
            norms=[None] * count,
        )
        self.caches[i].feed([fed], loop, admission, self.requests)
        found: NDArray[np.bool_] = unpack_sets(sets[i][:, 0], group.units)
        streamed = self.actions == kernels.SKIP  # a prompt that reads whole matrices
        found[streamed] = True
        return found


_NO_SETS = np.empty((0, 0, 0), np.uint64)


def _rows(probe: Trace, phase: NDArray[np.uint8], sequence: NDArray[np.int32]) -> Trace:
    """A trace of the probe's model with other rows; its scores are not to be read."""
    starts = np.flatnonzero(np.diff(sequence, prepend=sequence[0] - 1))
    lengths = np.diff([*starts, len(sequence)])
    position = np.arange(len(sequence)) - np.repeat(starts, lengths)
    return replace(
        probe,
        name="closed loop",
        tokens=len(phase),
        phase=phase,
        sequence=sequence,
        position=position.astype(np.int64),
        token_id=None,
        first=0,
    )


def _refuse(job: Job) -> None:
    """What needs more than one call of one layer at a time.

    Raises:
        DipsimError: in one line.
    """
    if job.policy.future:
        raise PolicyError(
            f"policy {job.policy.name} must know the future, which a running model does not: use "
            "an online policy, or record a trace and replay it"
        )
    if job.policy.preload and job.settings.static_from is None:
        raise PolicyError(
            f"policy {job.policy.name} pins what a trace used most: use another, or in Python give "
            "a recording of this model (static_from=FILE)"
        )
    asked = {
        "--scope global": job.plan.scope == "global",
        "--kv grow": job.growth is not None,
        "--overlap prefetch": job.plan.guesses is not None,
        "--io buffered or mmap": job.paging is not None,
        "--layout permuted": job.places is not None,
        "--cluster": job.settings.cluster > 1,
    }
    for option, given in asked.items():
        if given:
            raise DipsimError(
                f"{option} works on traces only: a running model is pruned layer after layer, with "
                "a cache for each; drop it, or record a trace and replay it"
            )
