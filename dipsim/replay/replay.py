"""The replay: trace x method x policy x capacity -> `Traffic`, exact counts (docs/replay.md).

Tokens stream through in blocks, and the caches keep their contents between blocks. Only policies
that must know the future or a profile of the whole trace make the active sets be held, as bits.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import DipsimError, MethodError, PolicyError, TraceError
from dipsim.kernels.draws import seed_of
from dipsim.methods import Method, chooser_of
from dipsim.policies import Admission, Policy
from dipsim.replay.active_sets import Blocks, Sets, count_uses, no_shares, rows_of
from dipsim.replay.cache import Loop, ReplayedCache, Sizes, is_builtin
from dipsim.replay.prefetch import Guesses
from dipsim.replay.traffic import Traffic, no_traffic
from dipsim.settings import Access, Prefill, Reset, Scope
from dipsim.trace import DECODE, Trace
from dipsim.trace.encoding import words_for

Progress = Callable[[int, int], None]


Fill = Literal["ascending", "random"]
Capacity = NDArray[np.int64] | float | Sizes
"""int64[layers, groups] in units; in global scope bytes; or such `Sizes` of every row."""
_OF_THE_AUTHORS = ("lru", "lfu", "belady", "none")
_ADMISSION = {"forced": kernels.FORCED, "ranked": kernels.RANKED, "never": kernels.NEVER}


@dataclass(frozen=True)
class Plan:
    """How a replay runs, beside what is replayed."""

    admission: Admission | None = None
    warmup: int = 0
    reset: Reset = "never"
    prefill: Prefill = "stream"
    seed: int = 0
    threads: int | None = None
    access: Access = "atomic"
    scope: Scope = "layer"
    fill: Fill = "ascending"
    """Which misses stay when not all fit beside the hits, of policies that rank."""
    unmeasured: tuple[tuple[int, int], ...] = ()
    """Rows (A, B) that are replayed but not measured, since something was learned from them."""
    guesses: Guesses | None = None
    """What is read ahead; None for nothing."""

    @classmethod
    def of(
        cls,
        settings: Any,
        method: Method,
        threads: int | None,
        unmeasured: tuple[tuple[int, int], ...] = (),
    ) -> "Plan":
        """The part of a run's settings that concerns the replay.

        Prefill streams columns and neurons through, but admits experts, unless told otherwise.
        """
        names = ("admission", "warmup", "reset", "seed", "access", "scope")
        usual: Prefill = "cache" if any(group.of_experts for group in method.groups) else "stream"
        prefill = settings.prefill or usual
        return cls(
            **{n: getattr(settings, n) for n in names},
            prefill=prefill,
            threads=threads,
            fill="random" if settings.compat == "authors" else "ascending",
            unmeasured=unmeasured,
        )


USUAL = Plan()
"""As a run replays unless told otherwise."""


def replay(
    trace: Trace,
    method: Method,
    policy: Policy,
    capacity: Capacity,
    plan: Plan = USUAL,
    **more: Any,
) -> Traffic:
    """Replay a trace with one budget: `replay_all` of one capacity."""
    return replay_all(trace, method, policy, [capacity], plan, **more)[0]


def replay_all(
    trace: Trace,
    method: Method,
    policy: Policy,
    capacities: Sequence[Capacity],
    plan: Plan = USUAL,
    *,
    unit_bytes: NDArray[np.float64] | None = None,
    requests: Sequence[Sequence[kernels.Requests]] | None = None,
    profile_uses: Sequence[NDArray[np.int64]] | None = None,
    held: Sequence[Sets] | None = None,
    keep_missed: bool = False,
    progress: Progress | None = None,
) -> list[Traffic]:
    """Replay a trace with several budgets in one pass; one `Traffic` for each.

    Args:
        capacities: for each budget int64[layers, groups], the units each cache holds, >= 0; in
            global scope its bytes; or `Sizes` that change from row to row.
        unit_bytes: float64[layers, groups], needed in global scope.
        requests: per layer and group, what reads cost; left out, no costs are booked.
        profile_uses: per group int64[layers, units], uses a preloaded policy ranks units by; left
            out, the warm-up tokens, or without warm-up the whole trace.
        held: the trace's active sets, from `hold`, when they were chosen before.
        keep_missed: hand on which units were missed, `Traffic.missed`; needs ``requests``.
        progress: called with (tokens done, tokens).

    Raises:
        TraceError: bad scores met on the way, or no token left to measure.
        MethodError: a clairvoyant policy with a method whose sets depend on the cache.
        PolicyError: admission, access, scope or changes of capacity the policy cannot do, or hooks
            that break the contract.
    """
    changing = any(isinstance(at, Sizes) for at in capacities)
    admission = check_plan(method, policy, plan, changing)
    actions, resets = rows_of(trace, plan.prefill, plan.reset)
    measured = measured_rows(trace, plan.warmup, plan.unmeasured)
    shares = no_shares(trace, method)
    # Budgets share the shares of what is chosen beforehand; cache-aware groups fill in their own.
    sizes = [None if plan.scope == "global" else _least(at) for at in capacities]
    ahead = plan.guesses is not None
    traffics = [
        no_traffic(
            trace, method, size, measured, shares.copy() if method.cache_aware else shares, ahead
        )
        for size in sizes
    ]
    if keep_missed:
        words = trace.layers * sum(words_for(group.units) for group in method.groups)
        kept = [np.zeros((trace.tokens, words), np.uint64) for _ in traffics]
        traffics = [replace(at, missed=bits) for at, bits in zip(traffics, kept, strict=True)]
    needs_profile = policy.preload and profile_uses is None
    source = Blocks(trace, method, actions, resets, shares, decoded=plan.scope == "global")
    if held is None and (policy.future or needs_profile):
        held = list(source.plain())
    for at in held or ():
        if at.shares is not None:
            shares[at.start : at.stop] = at.shares
    if needs_profile and held is not None:
        until = _warmup_end(trace, plan.warmup) if plan.warmup else trace.tokens
        profile_uses = count_uses(held, method, trace.layers, trace.phase, until)
    caches = _caches(trace, method, policy, capacities, traffics, plan, unit_bytes, profile_uses)
    several = any(len(cache.traffics) > 1 for cache in caches)
    loop = loop_for(method, policy, plan, several, changing)
    whole = held is not None and not method.cache_aware
    chunks = [list(held)] if whole and held is not None else ([block] for block in source.all())
    threads = min(plan.threads or os.cpu_count() or 1, len(caches))
    if plan.guesses is not None:  # a layer is guessed from the one below: in their order
        threads = 1
    with ThreadPoolExecutor(threads) as pool:  # starts its threads when it is first used
        each = map if threads == 1 else pool.map
        for blocks in chunks:
            feed = functools.partial(_feed, blocks, loop, admission, requests)
            list(each(feed, caches))
            if progress is not None:
                progress(blocks[-1].stop, trace.tokens)
    if method.cache_aware:
        _share_shares(traffics, method, shares)
    return traffics


def _least(capacity: Capacity) -> NDArray[np.int64]:
    return capacity.least if isinstance(capacity, Sizes) else np.asarray(capacity)


def _share_shares(traffics: Sequence[Traffic], method: Method, shares: NDArray[np.float32]) -> None:
    """Groups that are not cache-aware were chosen for all budgets at once."""
    for traffic in traffics:
        for i, group in enumerate(method.groups):
            if not group.aware:
                traffic.mass[:, :, i] = shares[:, :, i, 0]
                traffic.energy[:, :, i] = shares[:, :, i, 1]
                traffic.error[:, :, i] = shares[:, :, i, 2]


def hold(trace: Trace, method: Method, plan: Plan = USUAL) -> list[Sets]:
    """A trace's active sets as bits, to be replayed several times.

    Raises:
        MethodError: they depend on the cache.
    """
    if method.cache_aware:
        raise MethodError(f"the sets of method {method.name} depend on the cache")
    shares = no_shares(trace, method)
    blocks = Blocks(trace, method, *rows_of(trace, plan.prefill, plan.reset), shares)
    return list(blocks.plain())


def _feed(
    blocks: Sequence[Sets],
    loop: Loop,
    admission: int,
    requests: Sequence[Sequence[kernels.Requests]] | None,
    cache: ReplayedCache,
) -> None:
    cache.feed(blocks, loop, admission, requests)


def _caches(
    trace: Trace,
    method: Method,
    policy: Policy,
    capacities: Sequence[Capacity],
    traffics: Sequence[Traffic],
    plan: Plan,
    unit_bytes: NDArray[np.float64] | None,
    uses: Sequence[NDArray[np.int64]] | None,
) -> list[ReplayedCache]:
    """One cache per (layer, group), or one for all; for every budget unless they can share."""
    places = [(layer, i) for layer in range(trace.layers) for i in range(len(method.groups))]
    form, draws = form_of(policy, plan), plan.fill == "random"
    together = policy.blind and plan.access == "atomic" and not method.cache_aware
    changing = any(isinstance(at, Sizes) for at in capacities)
    budgets = list(range(len(capacities)))
    shared = [budgets] if together and not changing else [[budget] for budget in budgets]

    def of_rows(budget: int, place: tuple[int, int] | None) -> NDArray[np.float64] | None:
        """[tokens] the capacities of a cache, where some change."""
        at = capacities[budget]
        if isinstance(at, Sizes):
            return at.of(place)
        return np.full(trace.tokens, _most(at, place)) if changing else None

    found = []
    for these in shared:
        to = [traffics[budget] for budget in these]
        if plan.scope == "global":
            assert unit_bytes is not None, "unit_bytes in global scope"
            sizes = [_most(capacities[budget], None) for budget in these]
            seed = seed_of(plan.seed, 0, 0)
            rows = of_rows(these[0], None)
            found.append(
                ReplayedCache(method, form, places, sizes, to, seed, unit_bytes, uses, draws, rows)
            )
            continue
        for place in places:
            sizes = [_most(capacities[budget], place) for budget in these]
            seed, rows = seed_of(plan.seed, *place), of_rows(these[0], place)
            found.append(
                ReplayedCache(
                    method, form, [place], sizes, to, seed, None, uses, draws, rows, plan.guesses
                )
            )
    return found


def _most(capacity: Capacity, place: tuple[int, int] | None) -> float:
    """What one cache holds; the most, where that changes. ``place``: as of `Sizes.of`."""
    if isinstance(capacity, Sizes):
        return float(capacity.of(place).max())
    return float(np.asarray(capacity)[() if place is None else place])


def form_of(policy: Policy, plan: Plan) -> Policy:
    """The policy in the form that suits the access."""
    return (policy.sequential or policy) if plan.access == "sequential" else policy


@functools.lru_cache(maxsize=64)
def _loop_of(
    hooks: tuple[tuple[str, Callable[..., Any]], ...],
    sequential: bool,
    several: bool,
    choose: Callable[..., None] | None,
    keep: bool,
    changing: bool,
) -> Loop:
    return kernels.bind(
        dict(hooks),
        sequential=sequential,
        several=several,
        choose=choose,
        keep=keep,
        changing=changing,
    )


def loop_for(
    method: Method, policy: Policy, plan: Plan, several: bool = False, changing: bool = False
) -> Loop:
    """The compiled loop that feeds a cache.

    Args:
        several: a cache has several capacities; changing: its capacity changes from row to row.
    """
    form, sequential = form_of(policy, plan), plan.access == "sequential"
    hooks = tuple(form.hooks.items())
    return _loop_of(hooks, sequential, several, chooser_of(method), is_builtin(form), changing)


def check_plan(method: Method, policy: Policy, plan: Plan, changing: bool = False) -> int:
    """How misses are admitted (kernels.FORCED, ...), once all fits together.

    Raises:
        MethodError: a clairvoyant policy with a method whose sets depend on the cache.
        PolicyError: admission, access, scope or changes of capacity the policy cannot do.
    """
    _check(method, policy, plan, changing)
    return _ADMISSION[_admission(policy, plan)]


def _check(method: Method, policy: Policy, plan: Plan, changing: bool) -> None:
    if changing and plan.access == "sequential":
        raise PolicyError(
            "--kv grow with --access sequential: caches shrink before the batch of a token, and "
            "sequential access has none; use --access atomic, or --kv fixed"
        )
    if changing and not policy.ranks:
        raise PolicyError(
            f"--kv grow with policy {policy.name}: it keeps queues made for one capacity; use a "
            "policy that ranks, e.g. lru, lfu or lfu-decay, or --kv fixed"
        )
    if changing and policy.preload:
        raise PolicyError(
            f"--kv grow with policy {policy.name}: what it pins could leave but never come back; "
            "use a policy that loads what is missed, e.g. lfu, or --kv fixed"
        )
    if plan.threads is not None and plan.threads < 1:
        raise DipsimError(f"threads {plan.threads}: at least 1")
    if plan.access == "sequential" and policy.atomic_only:
        raise PolicyError(
            f"policy {policy.name} is about the sets of whole tokens: --access sequential has no "
            "meaning for it"
        )
    if plan.scope == "global" and policy.future and policy.admit == "ranked":
        raise PolicyError(
            f"policy {policy.name} is the optimum of one cache per layer and group: with --scope "
            "global use belady"
        )
    masked = any(group.aware and not group.of_experts for group in method.groups)
    if plan.scope == "global" and plan.prefill == "cache" and masked:
        raise MethodError(
            f"method {method.name} chooses a batch of prefill on one state, which a global cache "
            "does not have: use --prefill stream, or --scope layer"
        )
    if plan.guesses is not None and (plan.access, plan.scope) != ("atomic", "layer"):
        raise MethodError(
            "--overlap prefetch guesses the set of a layer's group: use --access atomic and "
            "--scope layer"
        )
    if plan.fill == "random" and policy.name not in _OF_THE_AUTHORS:
        raise PolicyError(
            f"policy {policy.name}: the authors' simulator (--compat authors) does not have it; "
            f"use one of {', '.join(_OF_THE_AUTHORS)}"
        )
    if policy.future and method.cache_aware:
        raise MethodError(
            f"policy {policy.name} must know future sets, but those of {method.name} depend on the "
            "cache: there is no policy-independent optimum; use dip, or an online policy"
        )


def _admission(policy: Policy, plan: Plan) -> Admission:
    wanted = plan.admission or policy.admit
    if plan.access == "sequential" and wanted == "ranked":
        raise PolicyError(
            f"policy {policy.name} with ranked admission: with --access sequential every miss "
            "enters; use --admission forced"
        )
    if wanted == policy.admit:
        return policy.admit
    if policy.admit == "never" or policy.rank is None or wanted == "never":
        raise PolicyError(
            f"policy {policy.name} admits {policy.admit}: --admission {wanted} is for policies "
            "that rank"
        )
    return wanted


def _warmup_end(trace: Trace, warmup: int) -> int:
    """The row behind the last warm-up token."""
    return int(np.flatnonzero(trace.phase == DECODE)[warmup - 1]) + 1


def measured_rows(
    trace: Trace, warmup: int, unmeasured: tuple[tuple[int, int], ...] = ()
) -> NDArray[np.bool_]:
    """[tokens] decode tokens behind the warm-up, less the ``unmeasured`` rows.

    Raises:
        TraceError: there are none.
    """
    decode = trace.phase == DECODE
    total = int(decode.sum())
    if total == 0:
        raise TraceError(f"{trace.name} holds no decode tokens (phase 1): there is nothing to time")
    if warmup < 0 or warmup >= total:
        raise TraceError(
            f"warm-up of {warmup} tokens out of {total} decode tokens: at least one must remain "
            f"to be measured; use --warmup 0 to {total - 1}"
        )
    measured: NDArray[np.bool_] = decode & (np.cumsum(decode) > warmup)
    for rows in unmeasured:
        measured[slice(*rows)] = False
    if not measured.any():
        raise TraceError(
            f"{trace.name}: thresholds or an order are learned from all tokens that would be "
            "measured; give fewer --calibrate-tokens or --order-from"
        )
    return measured
