"""Verdicts: is the policy to blame for a run's misses, or the working set?

No policy avoids what the optimum misses.

All counts are over all tokens, warm-up and cached prefill included: only then no policy that starts
empty hits more than the optimum (docs/replay.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dipsim.policies import BUILTIN
from dipsim.replay.active_sets import HELD_BYTES
from dipsim.replay.contender import Contender
from dipsim.replay.replay import Progress
from dipsim.replay.traffic import Traffic
from dipsim.run import Run, replay, replay_beside

MOST = 2 * 10**8
"""Accesses that a verdict is worked out for without being asked: some seconds' worth."""


@dataclass(frozen=True)
class Verdict:
    """Causes of the misses of a run, in units."""

    accesses: int
    misses: int
    first_uses: int
    """Misses of a cache that holds everything."""
    unavoidable: int
    """Misses of the optimum with the same capacity; the first uses are among them."""
    admission: str | None
    """The other way to admit misses, where the policy has one."""
    admission_misses: int | None
    """Misses of the policy with it."""
    starts_full: bool = False
    """True where the first content was no traffic (`static`): the optimum starts empty."""

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
        """Return plain values."""
        return {
            "accesses": self.accesses,
            "misses": self.misses,
            "first_uses": self.first_uses,
            "unavoidable": self.unavoidable,
            "lost": self.lost,
            "admission": self.admission,
            "admission_misses": self.admission_misses,
        }


def no_optimum(run: Run) -> str | None:
    """Return why there is no optimum to compare a run with; None when there is one."""
    settings = run.settings
    if run.method.cache_aware:
        return f"the sets of {run.method.name} depend on the cache"
    if settings.io == "mmap":
        return "the system's page cache holds the weights"
    if settings.scope == "global":
        return "it is defined for one cache per layer and group"
    if settings.access == "sequential":
        return "it is defined for atomic access"
    if settings.compat == "authors":
        return "the authors' simulator does not have it"
    return None


def contenders(run: Run, optional: bool = False) -> list[Contender]:
    """Return what is replayed beside a run to judge it: the optimum with the same capacity and with
    all of the units, and the policy with its other admission; none where there is no optimum.

    Args:
        optional: leave them out where there are too many accesses, see `replay_policies`.
    """
    if no_optimum(run) is not None:
        return []
    counted = replace(
        run.contender(),
        costs=None,
        guesses=None,
        profile_uses=None,
        keep_missed=False,
        optional=optional,
    )
    units = np.array([group.units for group in run.method.groups])
    everything = np.tile(units, (run.trace.layers, 1))
    best = replace(
        counted,
        policy=BUILTIN["opt"],
        capacities=[run.capacity, everything],
        settings=run.settings.model_copy(update={"admission": None}),
    )
    admission = _other_admission(run)
    if admission is None:
        return [best]
    settings = run.settings.model_copy(update={"admission": admission})
    return [best, replace(counted, settings=settings)]


def judge(run: Run, traffic: Traffic, beside: Sequence[Traffic]) -> Verdict | None:
    """Return the verdict on a run.

    Args:
        traffic: what the run counted.
        beside: of each capacity of its `contenders`; empty where they were left out.
    """
    if not beside:
        return None
    best, everything, *others = (_misses(each) for each in beside)
    return Verdict(
        accesses=int(traffic.active.sum(dtype=np.int64)),
        misses=_misses(traffic),
        first_uses=everything,
        unavoidable=best,
        admission=_other_admission(run),
        admission_misses=others[0] if others else None,
        starts_full=run.policy.preload,
    )


def replay_judged(run: Run, progress: Progress | None = None) -> tuple[Traffic, Verdict | None]:
    """Count what a run does and judge it, in one pass over the trace.

    Returns:
        No verdict where there is no optimum, with more than `MOST` accesses, or where the sets take
        more than `HELD_BYTES`.

    Raises:
        DipsimError: as `replay`.
    """
    rivals = contenders(run, optional=True)
    if not rivals or run.sets.packed_bytes > HELD_BYTES:
        return replay(run, progress), None
    traffic, counts = replay_beside(run, rivals, progress, most=MOST)
    return traffic, judge(run, traffic, [each for one in counts for each in one or ()])


def _other_admission(run: Run) -> str | None:
    """Return the other admission that is tried; None for clairvoyant policies too."""
    return None if run.policy.future else run.other_admission


def _misses(traffic: Traffic) -> int:
    return int(traffic.misses.sum(dtype=np.int64))
