"""Baselines of a run: what else the same memory could do, on the same tokens and device.

* ``dense``: the model as it is. As many of its weights as fit stay in DRAM and the rest is read in
  order for every token; which of them stay makes no difference.
* ``no_cache``: of experts, of which no token needs all, the same sets with every miss read anew.
* ``optimum``: the sets of the run with the policy that misses least.

`replay_held` replays a run and all of these in one pass over its trace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.analysis.verdict import MOST, Verdict, contenders, judge, rivals_of
from dipsim.budget.plan import plan_budget, plan_page_cache
from dipsim.errors import DipsimError
from dipsim.flash.cost import Placement
from dipsim.methods import build_method
from dipsim.replay.active_sets import HELD_BYTES, ActiveSets
from dipsim.replay.contender import Contender
from dipsim.replay.replay import Progress
from dipsim.replay.traffic import Traffic
from dipsim.result import Result, finite
from dipsim.run import Run, behind_page_cache, count_dense, replay_beside
from dipsim.settings import Settings, concerning
from dipsim.timeline.closed import RESOURCES, Times
from dipsim.timeline.timing import (
    static_flash_bytes,
    static_flash_reads,
    time_tokens,
    time_traffic,
)
from dipsim.units import BYTES

NAMES = ("dense", "no_cache", "optimum")
"""Names of the baselines."""
DENSE = "--method dense"
"""Option of the trial that is a baseline too."""


@dataclass(frozen=True)
class Baseline:
    """Figures of one way to use the memory; all are means over the measured tokens."""

    rate: float
    """Tokens per second."""
    flash_bytes: float
    """Bytes per token that the flash moves: streamed static weights, embedding rows and page faults
    included."""
    flash_reads: float
    """Reads per token."""
    flash_seconds: float
    """Seconds per token that the flash is busy, with embedding rows and page faults apart."""
    exposed: Mapping[str, float]
    """Exposed seconds per token and resource."""

    @classmethod
    def of(cls, run: Run, traffic: Traffic, times: Times, rate: float) -> "Baseline":
        """Return the figures of a run that was counted and timed."""
        rows, given = traffic.measured, run.tokens_per_step(traffic.measured)

        def per_token(counts: NDArray[Any]) -> float:
            return float(counts[rows].sum(dtype=np.float64)) / int(rows.sum()) / given

        exposed = (times.exposed.mean(axis=0) / given).tolist()
        return cls(
            rate=rate,
            flash_bytes=per_token(traffic.all_moved) + static_flash_bytes(run, traffic) / given,
            flash_reads=per_token(traffic.all_reads) + static_flash_reads(run, traffic) / given,
            flash_seconds=per_token(traffic.all_flash_seconds)
            + run.budget.streamed / run.flash.sequential_bandwidth / given,
            exposed=dict(zip(RESOURCES, exposed, strict=True)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "rate": finite(self.rate),
            "flash_bytes": self.flash_bytes,
            "reads": self.flash_reads,
        }


class Trial(NamedTuple):
    """A change of one option that was tried."""

    option: str
    """Option that makes the change, as the command line takes it."""
    rate: float
    """Tokens per second with it."""


@dataclass(frozen=True)
class Standing:
    """A run, what it is held against, and what was tried in its place."""

    own: Baseline
    verdict: Verdict | None
    """None where there is no optimum, or where working it out would take long."""
    dense: Baseline | None = None
    """None for dense itself, for experts, and where no model says what dense would read."""
    no_cache: Baseline | None = None
    """None but for experts."""
    optimum: Baseline | None = None
    """None where there is none, for the optimum itself, and for a policy that starts full."""
    trials: tuple[Trial, ...] = ()

    def times(self, baseline: Baseline) -> float:
        """Return the run's rate as a multiple of a baseline's; infinite where it takes no time."""
        if np.isinf(baseline.rate):
            return 1.0 if np.isinf(self.own.rate) else 0.0
        return self.own.rate / baseline.rate

    @property
    def best_trial(self) -> Trial | None:
        """The fastest of what was tried beside `dense`, if it is faster than the run."""
        others = (trial for trial in self.trials if trial.option != DENSE)
        best = max(others, key=lambda trial: trial.rate, default=None)
        return None if best is None or best.rate <= self.own.rate else best

    def to_dict(self) -> dict[str, Any]:
        """Return ``baselines`` and ``tried`` as plain values."""
        baselines: dict[str, Any] = {}
        for name in NAMES:
            one: Baseline | None = getattr(self, name)
            baselines[name] = one and {**one.to_dict(), "times": finite(self.times(one))}
        tried = [{"option": trial.option, "rate": finite(trial.rate)} for trial in self.trials]
        return {"baselines": baselines, "tried": tried}


def replay_held(run: Run, progress: Progress | None = None) -> tuple[Result, Standing]:
    """Return the result of a run and its standing among its baselines, by one pass over the trace.

    There is no verdict and no optimum with more than `MOST` accesses, or where the sets take more
    than `HELD_BYTES`.

    Args:
        progress: called with (tokens done, tokens).

    Raises:
        DipsimError: as `replay` and `time_traffic`.
    """
    short = run.sets.packed_bytes <= HELD_BYTES and not run.without_trace
    rivals = contenders(run, optional=True) if short else []
    uncached = _without_cache(run)
    beside = [*rivals, *([] if uncached is None else [uncached])]
    traffic, counts = replay_beside(run, beside, progress, most=MOST)
    result = Result(run, traffic, time_traffic(run, traffic))
    judged = [each for one in counts[: len(rivals)] for each in one or ()]
    empty = counts[-1] if uncached is not None else None
    return result, _stand(result, judged, None if empty is None else empty[0])


def hold(result: Result) -> Standing:
    """Hold a result against its baselines, in one more pass over its trace.

    Raises:
        DipsimError: as `replay`.
    """
    return replay_held(result.run)[1]


def _stand(result: Result, judged: Sequence[Traffic], empty: Traffic | None) -> Standing:
    """Return the standing of a run.

    Args:
        judged: of each capacity of its `contenders`; empty where they were left out.
        empty: of the run without a cache, where that is a baseline.
    """
    run = result.run
    own = Baseline.of(run, result.traffic, result.timing.times, result.timing.rate)
    rivals = [_timed(run, traffic) for traffic in rivals_of(judged)]
    verdict = judge(result, judged, [rival.rate for rival in rivals])
    dense, trials = dense_beside(run), []
    if verdict is not None and verdict.admission_rate is not None:
        trials.append(Trial(f"--admission {verdict.admission}", verdict.admission_rate))
    if dense is not None:
        trials.append(Trial(DENSE, dense.rate))
    bound = not run.loads and run.policy.name != "opt"
    return Standing(
        own=own,
        verdict=verdict,
        dense=dense,
        no_cache=None if empty is None else _timed(run, empty),
        optimum=rivals[0] if rivals and bound else None,
        trials=tuple(trials),
    )


def _timed(run: Run, traffic: Traffic) -> Baseline:
    """Return the figures of what was replayed beside a run."""
    return Baseline.of(run, traffic, *time_tokens(run, traffic))


# Without a cache ----------------------------------------------------------------------------------


def _without_cache(run: Run) -> Contender | None:
    """Return the run with caches that hold nothing; None unless it is one of experts with some."""
    experts = any(group.of_experts for group in run.method.groups) and not run.without_trace
    if not experts or run.settings.io == "mmap" or run.policy.admit == "never":
        return None
    nothing = 0.0 if run.settings.scope == "global" else np.zeros_like(run.budget.capacity)
    return replace(run.contender(), capacities=[nothing], guesses=None)


# Dense --------------------------------------------------------------------------------------------


def dense_beside(run: Run) -> Baseline | None:
    """Return the dense model in the DRAM of a run; None for dense itself, for experts, and where
    no model says what dense would read, or the device or the DRAM does not hold it."""
    groups = run.method.groups
    if run.model is None or run.model.experts is not None or run.method.name == "dense":
        return None
    if any(group.of_experts for group in groups):
        return None
    try:
        beside = _dense_run(run)
        traffic = behind_page_cache(beside, count_dense(beside, run.measured))
        return Baseline.of(beside, traffic, *time_tokens(beside, traffic))
    except DipsimError:
        return None


def _dense_run(run: Run) -> Run:
    """Return the run of all weights, in as much DRAM, with the options that dense has.

    It reads nothing ahead, and its caches are one per layer: which of its weights are resident
    makes no difference.

    Raises:
        DipsimError: it cannot be worked out.
    """
    own, usual = run.settings, Settings()
    kept = (
        *("dram", "context", "kv", "kv_bits", "bits", "io", "overlap", "engine", "thermal"),
        *("backend", "warmup", "reset", "prefill", "compat"),
        *concerning("beside", "steps"),
    )
    changes: dict[str, Any] = {name: getattr(own, name) for name in kept}
    changes |= {"method": "dense", "policy": own.policy}
    if own.overlap == "prefetch":
        changes["overlap"] = usual.overlap
    if own.cache is not None or own.cache_fraction is not None:
        changes["dram"] = BYTES.exact(run.budget.total)
    settings = usual.model_copy(update=changes)
    assert run.model is not None, "a run with a model"
    method = build_method(run.trace, settings, run.model)
    size = run.model.slice_bytes(method.groups[0].slices)
    placement = Placement(method, run.model, np.full((run.trace.layers, 1), size), None)
    sets = ActiveSets(run.trace, method, settings, run.sets.runs, run.steps)
    costs = placement.costs(run.flash)
    budget = plan_budget(sets, run.device, placement, run.policy, costs, None, None, run.beside)
    return replace(
        run,
        sets=sets,
        placement=placement,
        costs=costs,
        guesses=None,
        profile_uses=None,
        budget=budget,
        page_cache=plan_page_cache(run.device, placement, budget, settings.io),
    )
