"""Hit rate against cache size (miss-ratio curves), per layer and group too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import BudgetError, DipsimError
from dipsim.methods import Method
from dipsim.option import flag
from dipsim.policies import BUILTIN, Policy, load_policies
from dipsim.replay.curves import Curve, LruStack, curve, lru_stack
from dipsim.replay.replay import Plan, hold
from dipsim.resolve import Source, method_for
from dipsim.settings import CURVE_CONCERNS, concerning, make_settings
from dipsim.trace import Trace, load_trace

GRID = tuple(i / 20 for i in range(1, 21))
"""Shares of the units that a cache holds."""


@dataclass(frozen=True)
class Curves:
    """Curves of several policies over the same capacities."""

    trace: str
    method: Method
    shares: tuple[float, ...]
    """[n] of the units of every layer and group."""
    curves: dict[str, Curve]
    """By policy."""
    stack: LruStack | None
    """Hits of lru at every capacity; None where the sets depend on the cache."""

    def rates(self, policy: str) -> NDArray[np.float64]:
        """[n] hits / accesses over all layers and groups."""
        found = self.curves[policy]
        return _ratio(found.hits.sum(axis=(1, 2)), found.accesses.sum(axis=(1, 2)))

    def by_group(self, policy: str) -> NDArray[np.float64]:
        """[n, groups] hits / accesses over all layers."""
        found = self.curves[policy]
        return _ratio(found.hits.sum(axis=1), found.accesses.sum(axis=1))

    def by_layer(self, policy: str) -> NDArray[np.float64]:
        """[n, layers] hits / accesses over all groups."""
        found = self.curves[policy]
        return _ratio(found.hits.sum(axis=2), found.accesses.sum(axis=2))

    def lru_exact(self) -> dict[str, tuple[int, NDArray[np.float64]]]:
        """Per group (smallest capacity, hit rate at it and at each larger one), all layers with
        the same capacity."""
        if self.stack is None:
            return {}
        found = {}
        accesses = next(iter(self.curves.values())).accesses[0].sum(axis=0)
        for i, group in enumerate(self.method.groups):
            least = int(self.stack.least[:, i].max())
            hits = sum(depths[i][least:] for depths in self.stack.depths)
            found[group.signal] = least, _ratio(np.asarray(hits), accesses[i])
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values; rates are hits / accesses."""
        return {
            "trace": self.trace,
            "method": self.method.name,
            "shares": list(self.shares),
            "policies": {
                name: {
                    "hit_rate": self.rates(name).tolist(),
                    "groups": {
                        group.signal: self.by_group(name)[:, i].tolist()
                        for i, group in enumerate(self.method.groups)
                    },
                    "layers": self.by_layer(name).T.tolist(),
                }
                for name in self.curves
            },
            "lru_exact": {
                signal: {"least_capacity": least, "hit_rate": rates.tolist()}
                for signal, (least, rates) in self.lru_exact().items()
            },
        }


def miss_ratio_curves(
    source: Source | Trace,
    policies: Sequence[str | Policy] = ("lru", "opt"),
    shares: Sequence[float] = GRID,
    *,
    threads: int | None = None,
    **options: Any,
) -> Curves:
    """Hit rates of policies over cache sizes; no device and no model needed.

    lru comes from one pass wherever the cache holds every batch; all else is replayed.

    Args:
        shares: of the units of every layer and group, 0 to 1.
        options: fields of `Settings` that concern trace, method and replay.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    for share in shares:
        if not 0 <= share <= 1:
            raise BudgetError(f"cache fraction {share:g}: a share of the units, from 0 to 1")
    foreign = sorted(set(options) - set(concerning(*CURVE_CONCERNS)))
    if foreign:
        option = foreign[0]
        raise DipsimError(f"option {option} does not concern a curve: drop {flag(option)}")
    settings = make_settings(options)
    whole = load_trace(source).clustered(settings.cluster)
    trace = whole.part(settings.tokens, settings.layers, settings.sequence)
    method = method_for(trace, None, settings)
    learned = trace.calibration_rows(settings.calibrate_tokens)
    plan = Plan.of(settings, method, threads, (learned,))
    units = np.array([group.units for group in method.groups])
    each = np.floor(np.asarray(shares)[:, None] * units + 1e-9).astype(np.int64)
    capacity = np.repeat(each[:, None, :], trace.layers, axis=1)
    held = None if method.cache_aware else hold(trace, method, plan)
    chosen = load_policies(policies)
    stack, curves = None, {}
    usual = plan.access == "atomic" and plan.admission != "ranked"
    if held is not None and usual and BUILTIN["lru"] in chosen:
        stack = lru_stack(trace, method, plan, held)
    for policy in chosen:
        own = None if policy.preload else held
        if stack is None or policy != BUILTIN["lru"]:
            curves[policy.label] = curve(trace, method, policy, capacity, plan, held=own)
            continue
        fits = np.array([bool((at >= stack.least).all()) for at in capacity])
        small = curve(trace, method, policy, _or_one(capacity, ~fits), plan, held=held)
        hits = np.stack(
            [stack.hits(at) if fit else 0 * at for at, fit in zip(capacity, fits, strict=True)]
        )
        if not fits.all():
            hits[~fits] = small.hits
        accesses = np.repeat(small.accesses[:1], len(capacity), axis=0)
        curves[policy.label] = Curve(capacity, hits, accesses, np.zeros(hits.shape))
    return Curves(trace.name, method, tuple(shares), curves, stack)


def _or_one(capacity: NDArray[np.int64], these: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Some of the capacities, or the first when there are none: its replay counts accesses."""
    return capacity[these] if these.any() else capacity[:1]


def _ratio(hits: NDArray[np.int64], accesses: NDArray[np.int64]) -> NDArray[np.float64]:
    return hits / np.maximum(accesses, 1)
