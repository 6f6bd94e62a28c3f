"""Inspection of a trace: its active sets, its hit rates, and whether it is long enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dipsim.analysis.activity import Activity, activity
from dipsim.errors import brief
from dipsim.methods.contract import Group, Method
from dipsim.policies import BUILTIN
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.contender import Contender, measured_rows
from dipsim.replay.replay import replay_policies
from dipsim.replay.traffic import Traffic
from dipsim.resolve import Input
from dipsim.settings import Settings
from dipsim.trace import Trace, load_trace
from dipsim.views import Viewed, shortened

CAPACITIES = (0.4, 0.6, 0.8, 0.9)
"""Shares of the units that a cache holds."""
FEW_ACTIVE, SMALL_CAPACITIES = 0.2, (0.1, 0.2, 0.4, 0.8)
"""With a smaller share of active units than that, as with experts, smaller caches matter."""
_JUDGED = 1  # index of the capacity whose hit rate must have settled
_FEW_SEQUENCES = 8  # fewer sequences are too few to resample: stretches of tokens are drawn
PREFIXES = (0.125, 0.25, 0.5, 1.0)
_RESAMPLES, _LEVEL = 1000, 0.90
_STRETCHES = 16
_SETTLED = 0.01
"""A trace is long enough when its second half moves the hit rate by no more than this, and the
interval is no wider to either side."""


@dataclass(frozen=True)
class Convergence:
    """Convergence of the hit rate of lru, at the second of the capacities."""

    prefixes: dict[int, float]
    """Hit rate of the first decode tokens, by their number."""
    interval: tuple[float, float]
    """90 % bootstrap interval of the hit rate."""
    resampled: str
    """Parts drawn with replacement: sequences or, where these are few, stretches of tokens."""

    __repr__ = shortened

    @property
    def moved(self) -> float:
        """Change of the hit rate by the second half of the tokens."""
        rates = list(self.prefixes.values())
        return abs(rates[-1] - rates[-2]) if len(rates) > 1 else 1.0

    @property
    def settled(self) -> bool:
        """True if the trace is long enough."""
        return self.moved <= _SETTLED and (self.interval[1] - self.interval[0]) / 2 <= _SETTLED

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        half = (self.interval[1] - self.interval[0]) / 2
        reason = f"the second half moves it by {self.moved:.2%}, 90 % interval +-{half:.2%}"
        return f"{'long enough' if self.settled else 'too short to settle'}: {reason}"


@dataclass(frozen=True)
class SignalReport:
    """Findings on one signal."""

    activity: Activity
    lru: dict[float, float]
    """Hits / accesses of the decode tokens of `Activity.sets`, by share of the units held."""
    opt: dict[float, float]
    """The same for the optimum, policy `opt`."""
    convergence: Convergence | None
    """None without accesses: no decode tokens, or empty sets."""

    __repr__ = shortened

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        activity = self.activity
        settled = self.convergence
        return {
            "overlap": {f"{density:g}": share for density, share in activity.overlap.items()},
            "active": activity.active,
            "top_share": activity.top_share,
            "gini": activity.gini,
            "replayed_tokens": activity.sets.tokens,
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


@dataclass(frozen=True)
class Inspection(Viewed):
    """Contents of a trace, how it caches, and whether it is long enough."""

    report: ClassVar[str] = "inspect"
    trace: Trace
    """The part that was inspected."""
    signals: dict[str, SignalReport]
    """Findings by signal."""

    def __repr__(self) -> str:
        settled = [
            f"{name} {'long enough' if each.convergence.settled else 'too short'}"
            for name, each in self.signals.items()
            if each.convergence is not None
        ]
        about = f"{brief(self.trace.name, 60)}, {self.trace.tokens} tokens"
        return f"Inspection of {about}\n{brief(', '.join(settled) or 'nothing active', 160)}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        findings = {name: each.to_dict() for name, each in self.signals.items()}
        return {**self.trace.describe(), "inspection": findings}


def inspect(
    trace: Input | Trace,
    *,
    tokens: str | None = None,
    layers: str | None = None,
    sequence: str | None = None,
) -> Inspection:
    """Inspect a trace: its active sets, its hit rates, and whether it is long enough.

    Args:
        trace: path, name of a shipped trace, arrays, or a `Trace`.
        tokens: a part of the tokens, A:B.
        layers: a part of the layers, A:B.
        sequence: a part of the sequences, A:B.

    Raises:
        TraceError: no trace, invalid values in it, or no such part.
    """
    part = load_trace(trace).part(tokens, layers, sequence)
    return Inspection(part, {name: _inspect(activity(part, name), name) for name in part.signals})


def _inspect(statistics: Activity, name: str) -> SignalReport:
    shares = SMALL_CAPACITIES if statistics.active < FEW_ACTIVE else CAPACITIES
    traffics = _replayed(statistics.sets, name, shares)
    rates = {
        policy: {
            share: float(traffic.hits.sum() / traffic.active.sum())
            for share, traffic in zip(shares, of_shares, strict=False)
        }
        for policy, of_shares in traffics.items()
    }
    judged = traffics["lru"][_JUDGED:]
    settled = converge(statistics.sets, judged[0]) if judged else None
    return SignalReport(statistics, rates["lru"], rates["opt"], settled)


def _replayed(sets: Trace, name: str, shares: Sequence[float]) -> dict[str, list[Traffic]]:
    """Per policy the counts at each share of the units; none when nothing is accessed."""
    nothing: dict[str, list[Traffic]] = {"lru": [], "opt": []}
    if not sets.rows.decode.any():
        return nothing
    own = sets.layer_units(name)
    group = Group(name, sets.signals[name].units, (), "sets", layer_units=tuple(own.tolist()))
    method = Method("inspect", (group,))
    capacities = [np.floor(share * own[:, None] + 1e-9).astype(np.int64) for share in shares]
    settings = Settings(prefill="stream")
    measured = measured_rows(sets.name, sets.rows, 0)
    results = replay_policies(
        ActiveSets(sets, method, settings),
        [Contender(BUILTIN[policy], capacities, settings, measured) for policy in nothing],
    )
    traffics = dict(zip(nothing, (result or [] for result in results), strict=True))
    return traffics if traffics["lru"][0].active.any() else nothing


def converge(sets: Trace, traffic: Traffic) -> Convergence:
    """Return the hit rate of growing parts of the trace, and its bootstrap interval."""
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
    """Return the bootstrap interval of the hit rate.

    Every draw takes as many parts as there are, with replacement.
    """
    of_part = np.stack([np.bincount(part, hits), np.bincount(part, accesses)])
    draws = np.random.default_rng(0).integers(0, of_part.shape[1], (_RESAMPLES, of_part.shape[1]))
    sums = of_part[:, draws].sum(axis=2)
    rates = sums[0][sums[1] > 0] / sums[1][sums[1] > 0]
    low, high = np.quantile(rates, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)
