"""Verdicts: is the policy to blame for a run's time and misses, or the working set?

No policy avoids what the optimum misses.

All counts are over all tokens, warm-up and cached prefill included: only then no policy that starts
empty hits more than the optimum (docs/replay.md). Rates are of the measured tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dipsim.policies import BUILTIN
from dipsim.replay.contender import Contender
from dipsim.replay.traffic import Traffic
from dipsim.result import Result, finite
from dipsim.run import Run
from dipsim.units import show_number
from dipsim.views import shortened

MOST = 2 * 10**8
"""Accesses that a verdict is worked out for without being asked: some seconds' worth."""
LEAST_SHARE = 0.005
"""Share of the time from which a difference is told."""


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
    rate: float | None = None
    """Tokens per second of the run; None where the optimum was not timed."""
    optimum_rate: float | None = None
    """Tokens per second with the optimum."""
    admission_rate: float | None = None
    """Tokens per second with the other admission; None where it was not tried."""

    __repr__ = shortened

    @property
    def lost(self) -> int:
        """Misses beyond the optimum's. (`static` starts full, so it may miss fewer.)"""
        return self.misses - self.unavoidable

    @property
    def gained(self) -> int:
        """Misses that the other admission avoids; negative if it makes it worse."""
        return 0 if self.admission_misses is None else self.misses - self.admission_misses

    @property
    def policys_time(self) -> float | None:
        """Share of the run's time that the fastest of the optimum and the other admission saves;
        None where the optimum was not timed.

        The optimum has the fewest misses, not the shortest reads: the other admission may be
        faster, and so may the run itself, for which the share is negative.
        """
        if self.rate is None or self.optimum_rate is None:
            return None
        best = max(self.optimum_rate, self.admission_rate or 0.0)
        if math.isinf(best):
            return 0.0 if math.isinf(self.rate) else 1.0
        return 1 - self.rate / best if best else 0.0

    @property
    def sentence(self) -> str:
        """The verdict in words: by time where the optimum was timed, else by misses."""
        if not self.misses:
            return "no misses"
        if self.starts_full:
            return (
                f"{self.misses} misses; it starts full, so the optimum, which starts empty and "
                f"misses {self.unavoidable}, is no bound"
            )
        return self._by_misses if self.policys_time is None else self._by_time(self.policys_time)

    def _by_time(self, share: float) -> str:
        """Return the verdict by the ``share`` of the time that is the policy's."""
        if share < LEAST_SHARE:
            return (
                "with the optimum it would be no faster: the working set is to blame, not the "
                "policy"
            )
        optimum, other = self.optimum_rate or 0.0, self.admission_rate or 0.0
        better = f"{self.admission} admission" if other > optimum else "the optimum"
        return (
            f"with {better} {show_number(max(optimum, other), 3)} tok/s instead of "
            f"{show_number(self.rate or 0.0, 3)}: {share:.0%} of the time is the policy's"
        )

    @property
    def _by_misses(self) -> str:
        """The verdict by misses, of a run that has some."""
        if self.lost <= 0:
            return f"{self.counts}. The working set is to blame, not the policy"
        blame = "the working set" if self.unavoidable / self.misses >= 0.5 else "the policy"
        return f"{self.counts}. Mostly {blame} is to blame"

    @property
    def lines(self) -> list[str]:
        """The verdict in whole sentences, a line each: what it comes to, and by time also the
        causes of the misses."""
        lines = [f"{self.sentence}."]
        if self.misses and self.rate is not None and not self.starts_full:
            lines.append(f"{self.counts[0].upper()}{self.counts[1:]}.")
        return lines

    @property
    def counts(self) -> str:
        """The causes of the misses in words, of a run that has some."""
        text = (
            f"of 100 misses {100 * self.unavoidable / self.misses:.0f} are unavoidable in this "
            f"much DRAM ({100 * self.first_uses / self.misses:.0f} are first uses)"
        )
        if self.lost <= 0:
            return text
        text += f", {100 * self.lost / self.misses:.0f} are the policy's"
        change = round(100 * self.gained / self.misses)
        # Fewer misses may be slower, as larger units weigh more: of time and misses, time is told.
        faster = None if self.rate is None else (self.admission_rate or 0.0) > self.rate
        if change and faster in (None, change > 0):
            does = "avoid" if change > 0 else "add"
            text += f"; {self.admission} admission would {does} {abs(change)}"
        return text

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
            "optimum_rate": _plain(self.optimum_rate),
            "admission_rate": _plain(self.admission_rate),
            "policys_time": self.policys_time,
        }


def _plain(rate: float | None) -> float | None:
    return None if rate is None else finite(rate)


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
    if settings.prefetch_into == "cache":
        return "it is that of reads on demand, and guesses enter the caches"
    return None


def contenders(run: Run, *, optional: bool = False) -> list[Contender]:
    """Return what is replayed beside a run to judge it: the optimum with the same capacity and with
    all of the units, and the policy with its other admission; none where there is no optimum.

    Args:
        optional: leave them out where there are too many accesses, see `replay_policies`.
    """
    if no_optimum(run) is not None:
        return []
    counted = replace(run.contender(), profile_uses=None, optional=optional)
    everything = run.method.units_in(run.trace.layers)
    best = replace(
        counted,
        policy=BUILTIN["opt"],
        capacities=[run.capacity],
        settings=run.settings.model_copy(update={"admission": None}),
    )
    # Of first uses only the number is told.
    first_uses = replace(best, capacities=[everything], costs=None, guesses=None)
    admission = _other_admission(run)
    if admission is None:
        return [best, first_uses]
    settings = run.settings.model_copy(update={"admission": admission})
    other = replace(counted, settings=settings, profile_uses=run.profile_uses)
    return [best, first_uses, other]


def rivals_of(beside: Sequence[Traffic]) -> Sequence[Traffic]:
    """Return the traffics of what could have run in a run's place: of the optimum with the same
    capacity, and of the other admission where there is one.

    Args:
        beside: of each capacity of the run's `contenders`; empty where they were left out.
    """
    return *beside[:1], *beside[2:]


def judge(result: Result, beside: Sequence[Traffic], rates: Sequence[float]) -> Verdict | None:
    """Return the verdict on a run; None where its contenders were left out.

    Args:
        beside: of each capacity of the run's `contenders`; empty where they were left out.
        rates: tokens per second of each of its rivals, see `rivals_of`.
    """
    if not beside:
        return None
    run, traffic = result.run, result.traffic
    best, everything, *others = (_misses(each) for each in beside)
    optimum_rate, admission_rate = (*rates, None)[:2]
    return Verdict(
        accesses=int(traffic.active.sum(dtype=np.int64)),
        misses=_misses(traffic),
        first_uses=everything,
        unavoidable=best,
        admission=_other_admission(run),
        admission_misses=others[0] if others else None,
        starts_full=run.loads,
        rate=result.timing.rate,
        optimum_rate=optimum_rate,
        admission_rate=admission_rate,
    )


def _other_admission(run: Run) -> str | None:
    """Return the other admission that is tried; None for clairvoyant policies too."""
    return None if run.policy.future else run.other_admission


def _misses(traffic: Traffic) -> int:
    return int(traffic.misses.sum(dtype=np.int64))
