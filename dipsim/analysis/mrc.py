"""Hit rate against cache size (miss-ratio curves), per layer and group too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from dipsim.analysis.axes import is_share
from dipsim.analysis.default_policies import policies_that_apply
from dipsim.errors import BudgetError, DipsimError, brief
from dipsim.keywords import CurveOptions, lists_options
from dipsim.lists import several_names, several_numbers
from dipsim.methods import Method, build_method, name_of
from dipsim.option import flag
from dipsim.policies import BUILTIN, Policy, load_policies
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.contender import Contender, measured_rows
from dipsim.replay.curves import Curve, LruStack, curve, lru_stack
from dipsim.replay.replay import Progress
from dipsim.resolve import Input
from dipsim.settings import CURVE_CONCERNS, Settings, concerning, make_settings
from dipsim.trace import Trace, load_trace
from dipsim.views import Viewed

GRID = tuple(i / 20 for i in range(1, 21))
"""Shares of the units that a cache holds."""
_USUAL = ("lru", "lfu", "opt")


@dataclass(frozen=True)
class Curves(Viewed):
    """Curves of several policies over the same capacities."""

    report: ClassVar[str] = "mrc"

    trace: str
    method: Method
    shares: tuple[float, ...]
    """[n] of the units of every layer and group."""
    curves: dict[str, Curve]
    """Curve of each policy, by its name."""
    stack: LruStack | None
    """Hits of lru at every capacity; None where the sets depend on the cache."""

    def __repr__(self) -> str:
        policies = brief(", ".join(self.curves), 60)
        what = f"{brief(self.trace, 60)}, {self.method.name}"
        return f"Curves of {what}: {policies} at {len(self.shares)} cache sizes"

    def rates(self, policy: str) -> NDArray[np.float64]:
        """[n] hits / accesses over all layers and groups."""
        curve = self.curves[policy]
        return _ratio(curve.hits.sum(axis=(1, 2)), curve.accesses.sum(axis=(1, 2)))

    def by_group(self, policy: str) -> NDArray[np.float64]:
        """[n, groups] hits / accesses over all layers."""
        curve = self.curves[policy]
        return _ratio(curve.hits.sum(axis=1), curve.accesses.sum(axis=1))

    def by_layer(self, policy: str) -> NDArray[np.float64]:
        """[n, layers] hits / accesses over all groups."""
        curve = self.curves[policy]
        return _ratio(curve.hits.sum(axis=2), curve.accesses.sum(axis=2))

    def lru_exact(self) -> dict[str, tuple[int, NDArray[np.float64]]]:
        """Return per group (smallest capacity, hit rate at it and at each larger one), all layers
        with the same capacity."""
        if self.stack is None:
            return {}
        exact = {}
        accesses = next(iter(self.curves.values())).accesses[0].sum(axis=0)
        for i, group in enumerate(self.method.groups):
            least = int(self.stack.least[:, i].max())
            hits = sum(depths[i][least:] for depths in self.stack.depths)
            exact[group.signal] = least, _ratio(np.asarray(hits), accesses[i])
        return exact

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; rates are hits / accesses."""
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


@lists_options
def mrc(
    trace: Input | Trace,
    policies: str | Policy | Sequence[str | Policy] = (),
    cache_fraction: float | Sequence[float] = GRID,
    *,
    threads: int | None = None,
    progress: Progress = lambda done, total: None,
    **options: Unpack[CurveOptions],
) -> Curves:
    """Replay policies over cache sizes; no device and no model needed.

    lru comes from one pass wherever the cache holds every batch; all else is replayed.

    Args:
        trace: path, name of a shipped trace, arrays, or a `Trace`.
        policies: one or several: names, ``file.py:attribute`` or objects, a text also a comma list;
            default: lru, lfu and opt, or those of them that apply.
        cache_fraction: a share of the units of every layer and group, 0 to 1, or several.
        threads: caches replayed at a time; changes no count.
        progress: called with (policies done, policies).

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    shares = _shares(cache_fraction)
    _refuse_foreign(options)
    given = options.get("method")
    settings = make_settings({**options, "method": name_of(given)})
    whole = load_trace(trace)
    chosen = load_policies(several_names(policies) or policies_that_apply(_USUAL, whole, options))
    cut = settings.tokens, settings.layers, settings.sequence
    part = whole.clustered(settings.cluster).part(*cut)
    ready = build_method(part, settings, given=given)
    units = ready.units_in(part.layers)
    capacity = np.floor(np.asarray(shares)[:, None, None] * units + 1e-9).astype(np.int64)
    sets = ActiveSets(part, ready, settings)
    if not ready.cache_aware:
        sets.hold()
    contenders = [_contender(policy, part, settings) for policy in chosen]
    usual = settings.access == "atomic" and settings.admission != "ranked"
    stack = None
    if usual and not ready.cache_aware and BUILTIN["lru"] in chosen:
        stack = lru_stack(sets, contenders[0].measured)
    curves: dict[str, Curve] = {}
    for contender in contenders:
        known = stack if contender.policy == BUILTIN["lru"] else None
        curves[contender.policy.label] = (
            curve(sets, contender, capacity, threads)
            if known is None
            else _of_stack(known, sets, contender, capacity, threads)
        )
        progress(len(curves), len(contenders))
    return Curves(part.name, ready, shares, curves, stack)


def _shares(given: Any) -> tuple[float, ...]:
    """Return shares of the units as numbers.

    Raises:
        BudgetError: none is given, or one is no share.
    """
    shares = several_numbers(given, "--cache-fraction")
    if not shares:
        raise BudgetError("cache_fraction is empty: give shares of the units, e.g. [.5, .7]")
    for share in shares:
        if not is_share(share):
            raise BudgetError(f"cache fraction {share}: a share of the units, from 0 to 1")
    return tuple(map(float, shares))


def _refuse_foreign(options: Mapping[str, Any]) -> None:
    """Refuse options of a device or a budget."""
    foreign = sorted(set(options) - set(concerning(*CURVE_CONCERNS)))
    if foreign:
        option = foreign[0]
        raise DipsimError(f"option {option} does not concern a curve: drop {flag(option)}")


def _contender(policy: Policy, trace: Trace, settings: Settings) -> Contender:
    learned = trace.calibration_rows(settings.calibrate_tokens)
    measured = measured_rows(trace.name, trace.rows, settings.warmup, (learned,))
    return Contender(policy, (), settings, measured, warmup=settings.warmup)


def _of_stack(
    stack: LruStack,
    sets: ActiveSets,
    contender: Contender,
    capacity: NDArray[np.int64],
    threads: int | None,
) -> Curve:
    """Return the curve of lru: read off the stack, but for caches smaller than a batch."""
    fits = np.array([bool((each >= stack.least).all()) for each in capacity])
    # The replay of one counts accesses, so there is one even where all caches hold each batch.
    small = curve(sets, contender, capacity[~fits] if not fits.all() else capacity[:1], threads)
    hits = np.stack(
        [stack.hits(each) if fit else 0 * each for each, fit in zip(capacity, fits, strict=True)]
    )
    if not fits.all():
        hits[~fits] = small.hits
    accesses = np.repeat(small.accesses[:1], len(capacity), axis=0)
    return Curve(capacity, hits, accesses, np.zeros(hits.shape))


def _ratio(hits: NDArray[np.int64], accesses: NDArray[np.int64]) -> NDArray[np.float64]:
    return hits / np.maximum(accesses, 1)
