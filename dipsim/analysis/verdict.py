"""Is the policy to blame, or the working set? What the optimum misses nobody can avoid.

All counts are over all tokens, warm-up and cached prefill included: only then no policy that starts
empty hits more than the optimum (DESIGN section 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dipsim.policies import BUILTIN
from dipsim.replay.active_sets import Sets
from dipsim.replay.replay import Capacity, hold, replay_all
from dipsim.replay.traffic import Traffic
from dipsim.simulate import Job

MOST = 2 * 10**8
"""Accesses that a verdict replays without being asked: some seconds' worth."""


@dataclass(frozen=True)
class Verdict:
    """Where the misses of a run come from, in units."""

    accesses: int
    misses: int
    first_uses: int
    """Misses of a cache that holds everything."""
    unavoidable: int
    """Misses of the optimum with the same capacity; the first uses are among them."""
    admission: str | None
    """The other way to admit misses, where the policy has one."""
    admission_misses: int | None
    """What the policy misses with it."""
    starts_full: bool = False
    """Whether the first content was no traffic (`static`): the optimum starts empty."""

    @property
    def lost(self) -> int:
        """Misses beyond the optimum's. (`static` starts full, so it may miss fewer.)"""
        return self.misses - self.unavoidable

    @property
    def gained(self) -> int:
        """Misses that the other admission avoids; negative if it makes it worse."""
        return 0 if self.admission_misses is None else self.misses - self.admission_misses

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if not self.misses:
            return "no misses"
        if self.starts_full:
            return (
                f"{self.misses} misses; it starts full, so the optimum, which starts empty and "
                f"misses {self.unavoidable}, is no bound"
            )
        share = self.unavoidable / self.misses
        text = (
            f"of 100 misses {100 * share:.0f} are unavoidable in this much DRAM "
            f"({100 * self.first_uses / self.misses:.0f} are first uses)"
        )
        if self.lost <= 0:
            return f"{text}. The working set is to blame, not the policy"
        text += f", {100 * self.lost / self.misses:.0f} are the policy's"
        change = round(100 * self.gained / self.misses)
        if change:
            does = "avoid" if change > 0 else "add"
            text += f"; {self.admission} admission would {does} {abs(change)}"
        blame = "the working set" if share >= 0.5 else "the policy"
        return f"{text}. Mostly {blame} is to blame"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "accesses": self.accesses,
            "misses": self.misses,
            "first_uses": self.first_uses,
            "unavoidable": self.unavoidable,
            "lost": self.lost,
            "admission": self.admission,
            "admission_misses": self.admission_misses,
        }


def no_optimum(job: Job) -> str | None:
    """Why there is no optimum to compare a run with, or None when there is one."""
    if job.work.method.cache_aware:
        return f"the sets of {job.work.method.name} depend on the cache"
    if job.settings.io == "mmap":
        return "the system's page cache holds the weights"
    if job.plan.scope == "global":
        return "it is defined for one cache per layer and group"
    if job.plan.access == "sequential":
        return "it is defined for atomic access"
    if job.settings.compat == "authors":
        return "the authors' simulator does not have it"
    return None


def optimum(jobs: Sequence[Job], held: Sequence[Sets] | None = None) -> list[Traffic]:
    """The traffic of the optimum with the capacity of each job, and at last with all of the units.

    Args:
        jobs: that differ in their budgets only, and for which `no_optimum` is None.
        held: their active sets.
    """
    work, plan = jobs[0].work, replace(jobs[0].plan, admission=None)
    units = np.array([group.units for group in work.method.groups])
    capacities: list[Capacity] = [job.capacity for job in jobs]
    capacities.append(np.tile(units, (work.trace.layers, 1)))
    return replay_all(work.trace, work.method, BUILTIN["opt"], capacities, plan, held=held)


def judge(
    jobs: Sequence[Job],
    traffics: Sequence[Traffic],
    best: Sequence[Traffic],
    held: Sequence[Sets] | None = None,
) -> list[Verdict]:
    """A verdict on each run of one policy.

    Args:
        traffics: what the jobs counted.
        best: of `optimum` for the same jobs.
        held: their active sets.
    """
    first = jobs[0]
    policy = first.policy
    other = None if policy.future else first.other_admission
    others: Sequence[Traffic | None] = [None] * len(jobs)
    if other is not None:
        plan = replace(first.plan, admission=other)
        others = replay_all(
            first.work.trace,
            first.work.method,
            policy,
            [job.capacity for job in jobs],
            plan,
            held=held,
        )
    return [
        Verdict(
            accesses=int(traffic.active.sum(dtype=np.int64)),
            misses=_misses(traffic),
            first_uses=_misses(best[-1]),
            unavoidable=_misses(least),
            admission=other,
            admission_misses=None if changed is None else _misses(changed),
            starts_full=policy.preload,
        )
        for traffic, least, changed in zip(traffics, best[:-1], others, strict=True)
    ]


def _misses(traffic: Traffic) -> int:
    return int(traffic.misses.sum(dtype=np.int64))


def verdict_of(job: Job, traffic: Traffic) -> Verdict | None:
    """A verdict on one run; None where there is no optimum, or the trace is too long for that."""
    if no_optimum(job) is not None or int(traffic.active.sum(dtype=np.int64)) > MOST:
        return None
    held = hold(job.work.trace, job.work.method, job.plan)
    return judge([job], [traffic], optimum([job], held), held)[0]
