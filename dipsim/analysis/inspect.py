"""Is a trace any good for comparing caches, and is it long enough? (`dipsim inspect`)"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.analysis.activity import Activity, activity
from dipsim.methods.contract import Group, Method
from dipsim.policies import BUILTIN
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.contender import Contender, measured_rows
from dipsim.replay.replay import replay_policies
from dipsim.replay.traffic import Traffic
from dipsim.settings import Settings
from dipsim.trace import Trace

CAPACITIES = (0.4, 0.6, 0.8, 0.9)
"""Shares of the units that a cache holds."""
FEW_ACTIVE, SMALL_CAPACITIES = 0.2, (0.1, 0.2, 0.4, 0.8)
"""Where fewer units than that are active, as with experts, smaller caches are of interest."""
_JUDGED = 1  # which of the capacities must have a hit rate that has settled
_FEW_SEQUENCES = 8  # too few to resample: stretches of tokens are
PREFIXES = (0.125, 0.25, 0.5, 1.0)
_RESAMPLES, _LEVEL = 1000, 0.90
_STRETCHES = 16
_SETTLED = 0.01
"""A trace is long enough when its second half moves the hit rate by no more than this, and the
interval is no wider to either side."""


@dataclass(frozen=True)
class Convergence:
    """Whether the hit rate of lru, at the second of the capacities, has settled."""

    prefixes: dict[int, float]
    """Hit rate of the first so many decode tokens."""
    interval: tuple[float, float]
    """90 % bootstrap interval of the hit rate."""
    resampled: str
    """What was drawn with replacement: sequences, or where there are few, stretches of tokens."""

    @property
    def moved(self) -> float:
        """How much the second half of the tokens changed the hit rate."""
        rates = list(self.prefixes.values())
        return abs(rates[-1] - rates[-2]) if len(rates) > 1 else 1.0

    @property
    def settled(self) -> bool:
        """Whether the trace is long enough."""
        return self.moved <= _SETTLED and (self.interval[1] - self.interval[0]) / 2 <= _SETTLED

    @property
    def verdict(self) -> str:
        """In words."""
        half = (self.interval[1] - self.interval[0]) / 2
        said = f"the second half moves it by {self.moved:.2%}, 90 % interval +-{half:.2%}"
        return f"{'long enough' if self.settled else 'too short to settle'}: {said}"


@dataclass(frozen=True)
class SignalReport:
    """What `inspect` says of one signal."""

    activity: Activity
    lru: dict[float, float]
    """Per share of the units, hits / accesses of the decode tokens of `Activity.sets`."""
    opt: dict[float, float]
    convergence: Convergence | None
    """None when there is nothing to hit: no decode tokens, or empty sets."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        found = self.activity
        settled = self.convergence
        return {
            "overlap": {f"{density:g}": share for density, share in found.overlap.items()},
            "active": found.active,
            "top_share": found.top_share,
            "gini": found.gini,
            "replayed_tokens": found.sets.tokens,
            "lru": {f"{share:g}": rate for share, rate in self.lru.items()},
            "opt": {f"{share:g}": rate for share, rate in self.opt.items()},
            "convergence": settled
            and {
                "prefixes": settled.prefixes,
                "interval": settled.interval,
                "resampled": settled.resampled,
                "settled": settled.settled,
            },
        }


def inspect_trace(trace: Trace) -> dict[str, SignalReport]:
    """Look into every signal of a trace.

    Raises:
        TraceError: bad values met on the way.
    """
    return {name: _inspect(activity(trace, name), name) for name in trace.signals}


def _inspect(found: Activity, name: str) -> SignalReport:
    shares = SMALL_CAPACITIES if found.active < FEW_ACTIVE else CAPACITIES
    traffics = _replayed(found.sets, name, shares)
    rates = {
        policy: {
            share: float(traffic.hits.sum() / traffic.active.sum())
            for share, traffic in zip(shares, of_shares, strict=False)
        }
        for policy, of_shares in traffics.items()
    }
    judged = traffics["lru"][_JUDGED:]
    settled = converge(found.sets, judged[0]) if judged else None
    return SignalReport(found, rates["lru"], rates["opt"], settled)


def _replayed(sets: Trace, name: str, shares: Sequence[float]) -> dict[str, list[Traffic]]:
    """Per policy the counts at each share of the units; none when nothing is accessed."""
    nothing: dict[str, list[Traffic]] = {"lru": [], "opt": []}
    if not sets.rows.decode.any():
        return nothing
    units = sets.signals[name].units
    method = Method("inspect", (Group(name, units, (), "sets"),))
    capacities = [
        np.full((sets.layers, 1), int(share * units + 1e-9), np.int64) for share in shares
    ]
    settings = Settings(prefill="stream")
    measured = measured_rows(sets.name, sets.rows, 0)
    results = replay_policies(
        ActiveSets(sets, method, settings),
        [Contender(BUILTIN[policy], capacities, settings, measured) for policy in nothing],
    )
    traffics = dict(zip(nothing, (result or [] for result in results), strict=True))
    return traffics if traffics["lru"][0].active.any() else nothing


def converge(sets: Trace, traffic: Traffic) -> Convergence:
    """How the hit rate grew, and how sure it is."""
    decode = traffic.measured
    hits = traffic.hits.sum(axis=(1, 2))[decode].astype(np.float64)
    accesses = traffic.active.sum(axis=(1, 2))[decode].astype(np.float64)
    prefixes = {}
    for share in PREFIXES:
        tokens = int(share * len(hits))
        if tokens and accesses[:tokens].any():
            prefixes[tokens] = float(hits[:tokens].sum() / accesses[:tokens].sum())
    sequence = sets.sequence[decode]
    if len(np.unique(sequence)) >= _FEW_SEQUENCES:
        part, resampled = np.unique(sequence, return_inverse=True)[1], "sequences"
    else:
        part = np.arange(len(hits)) * min(_STRETCHES, len(hits)) // len(hits)
        resampled = "stretches of tokens"
    return Convergence(prefixes, _interval(hits, accesses, part), resampled)


def _interval(
    hits: NDArray[np.float64], accesses: NDArray[np.float64], part: NDArray[np.int64]
) -> tuple[float, float]:
    """Bootstrap over parts: draw as many as there are, with replacement; the rate of each draw."""
    of_part = np.stack([np.bincount(part, hits), np.bincount(part, accesses)])
    draws = np.random.default_rng(0).integers(0, of_part.shape[1], (_RESAMPLES, of_part.shape[1]))
    sums = of_part[:, draws].sum(axis=2)
    rates = sums[0][sums[1] > 0] / sums[1][sums[1] > 0]
    low, high = np.quantile(rates, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)
