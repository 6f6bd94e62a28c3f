"""The replay: trace x method x policy x capacity -> `Traffic`, exact counts (docs/replay.md).

Tokens stream through in blocks; each (layer, group) has a cache of its own, kept between blocks and
fed by `kernels`. Only policies that must know the future or a profile of the whole trace make the
active sets be held, as bits.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.active import Blocks, Prefill, Reset, Sets, count_uses, rows_of, scratch
from dipsim.encoding import pack_sets
from dipsim.errors import DipsimError, MethodError, PolicyError, TraceError
from dipsim.methods import Method
from dipsim.policies import Admission, Policy
from dipsim.policies.hashing import seed_of
from dipsim.trace import DECODE, Trace

Progress = Callable[[int, int], None]
_ADMISSION = {"forced": kernels.FORCED, "ranked": kernels.RANKED, "never": kernels.NEVER}
_NO_USES = np.empty(0, np.int64)
_NUMBA_NOISE: tuple[str, ...]
_NUMBA_NOISE = ("File", "^", "During", "Failed in nopython", "There are", "Of which", "Overload")
_NUMBA_NOISE += ("With argument", "Rejected", "raised from", "This error", ">>>", "<source", "def ")


@dataclass(frozen=True)
class Traffic:
    """What a replay counted. All arrays are [tokens, layers, groups] unless said otherwise.

    A streamed prefill row counts nothing; a cached prefill batch counts in its last row.
    """

    groups: tuple[str, ...]
    units: tuple[int, ...]
    capacity: NDArray[np.int64]
    """[layers, groups] in units."""
    active: NDArray[np.int32]
    hits: NDArray[np.int32]
    kept: NDArray[np.int32]
    """Misses that entered the cache."""
    reads: NDArray[np.int32]
    moved: NDArray[np.float64]
    """Bytes the flash device moves: whole pages, gaps, whole matrices."""
    flash_seconds: NDArray[np.float64]
    mass: NDArray[np.float32]
    """Share of the score mass that was kept; 1 where nothing was chosen from scores."""
    energy: NDArray[np.float32]
    """Share of the sum of squared scores that was kept."""
    measured: NDArray[np.bool_]
    """[tokens] decode tokens behind the warm-up."""
    outside: NDArray[np.bool_]
    """Whether a read was smaller or larger than every measured point of the flash curve."""

    @property
    def misses(self) -> NDArray[np.int32]:
        """Units that had to be read from flash."""
        return self.active - self.hits


@dataclass(frozen=True)
class Plan:
    """How a replay runs, beside what is replayed."""

    admission: Admission | None = None
    warmup: int = 0
    reset: Reset = "never"
    prefill: Prefill = "stream"
    seed: int = 0
    threads: int | None = None

    @classmethod
    def of(cls, settings: Any, method: Method, threads: int | None) -> "Plan":
        """The part of a run's settings that concerns the replay.

        Prefill streams columns and neurons through, but admits experts, unless told otherwise.
        """
        names = ("admission", "warmup", "reset", "seed")
        usual: Prefill = "cache" if any(group.of_experts for group in method.groups) else "stream"
        prefill = settings.prefill or usual
        return cls(**{n: getattr(settings, n) for n in names}, prefill=prefill, threads=threads)


def replay(
    trace: Trace,
    method: Method,
    policy: Policy,
    capacity: NDArray[np.int64],
    plan: Plan = Plan(),
    *,
    requests: Sequence[Sequence[kernels.Requests]] | None = None,
    profile_uses: Sequence[NDArray[np.int64]] | None = None,
    progress: Progress | None = None,
) -> Traffic:
    """Replay a trace, atomic access, one cache per (layer, group).

    Args:
        capacity: int64[layers, groups], units each cache holds, >= 0.
        requests: per layer and group, what reads cost; left out, no costs are booked.
        profile_uses: per group int64[layers, units], uses a preloaded policy ranks units by; left
            out, the warm-up tokens, or without warm-up the whole trace.
        progress: called with (tokens done, tokens).

    Raises:
        TraceError: bad scores met on the way, or no token left to measure.
        MethodError: a clairvoyant policy with a method whose sets depend on the cache.
        PolicyError: admission the policy cannot do, or hooks that break the contract.
    """
    _check(method, policy, plan)
    admission = _admission(policy, plan.admission)
    actions, resets = rows_of(trace, plan.prefill, plan.reset)
    measured = _measured(trace, plan.warmup)
    shares = np.ones((trace.tokens, trace.layers, len(method.groups), 2), np.float32)
    traffic = _empty(trace, method, capacity, measured, shares)
    needs_profile = policy.preload and profile_uses is None
    source = Blocks(trace, method, actions, resets, shares)
    held = list(source.plain()) if policy.future or needs_profile else None
    if needs_profile and held is not None:
        until = _warmup_end(trace, plan.warmup) if plan.warmup else trace.tokens
        profile_uses = count_uses(held, method, trace.layers, trace.phase, until)
    caches = [
        _Cache(method, policy, capacity, plan.seed, layer, group, profile_uses)
        for layer in range(trace.layers)
        for group in range(len(method.groups))
    ]
    loop = _bound(policy)

    def feed(cache: "_Cache", blocks: list[Sets]) -> None:
        table = kernels.NO_REQUESTS if requests is None else requests[cache.layer][cache.group]
        cache.feed(blocks, loop, _ADMISSION[admission], table, traffic)

    chunks = [held] if held is not None and not method.cache_aware else ([b] for b in source.all())
    threads = min(plan.threads or os.cpu_count() or 1, len(caches))
    with ThreadPoolExecutor(threads) as pool:  # starts its threads when it is first used
        each = map if threads == 1 else pool.map
        for blocks in chunks:
            list(each(lambda cache: feed(cache, blocks), caches))  # noqa: B023 - used at once
            if progress is not None:
                progress(blocks[-1].stop, trace.tokens)
    return traffic


class _Cache:
    """One (layer, group): its state between blocks, and for clairvoyant policies the future."""

    def __init__(
        self,
        method: Method,
        policy: Policy,
        capacity: NDArray[np.int64],
        seed: int,
        layer: int,
        group: int,
        profile_uses: Sequence[NDArray[np.int64]] | None,
    ) -> None:
        chosen = method.groups[group]
        self.layer, self.group, self.policy, self.kept = layer, group, policy, chosen.kept
        self.capacity = min(int(capacity[layer, group]), chosen.units)
        self.gamma = 1.0 if chosen.gamma is None else float(chosen.gamma)
        pinned = np.zeros(chosen.units, np.bool_)
        if policy.preload and profile_uses is not None:
            order = np.argsort(-profile_uses[group][layer], kind="stable")
            pinned[order[: self.capacity]] = True
        preload = pack_sets(pinned)
        fresh = policy.new_state(chosen.units, self.capacity, seed_of(seed, layer, group))
        self.cache = scratch(chosen.units)._replace(
            resident=preload.copy(), preload=preload, state=fresh.copy(), fresh=fresh
        )
        self.cache.factor[:] = np.where(pinned, 1.0, self.gamma)
        self.cache.numbers[kernels.SIZE] = pinned.sum()

    def feed(
        self,
        blocks: Sequence[Sets],
        loop: Callable[..., None],
        admission: int,
        requests: kernels.Requests,
        traffic: Traffic,
    ) -> None:
        """Replay blocks, in order; a clairvoyant policy must be given all there are."""
        ahead = self._look_ahead(blocks) if self.policy.future else []
        for i, at in enumerate(blocks):
            n = at.stop - at.start
            uses = self._next_uses(at, ahead[i]) if ahead else _NO_USES
            counts, costs = np.zeros((n, 5), np.int32), np.zeros((n, 2))
            shares = np.ones((n, 2), np.float32)
            sets, scores = at.sets[self.group], at.scores[self.group]
            block = kernels.Block(sets, scores, at.actions, at.resets, uses, counts, costs, shares)
            self._run(loop, block, at.start, admission, requests)
            here = slice(at.start, at.stop), self.layer, self.group
            traffic.active[here] = counts[:, kernels.ACTIVE]
            traffic.hits[here] = counts[:, kernels.HITS]
            traffic.kept[here] = counts[:, kernels.KEPT]
            traffic.reads[here] = counts[:, kernels.READS]
            traffic.outside[here] = counts[:, kernels.OUTSIDE]
            traffic.moved[here] = costs[:, kernels.MOVED]
            traffic.flash_seconds[here] = costs[:, kernels.SECONDS]
            if len(scores):
                traffic.mass[here], traffic.energy[here] = shares[:, 0], shares[:, 1]

    def _look_ahead(self, blocks: Sequence[Sets]) -> list[NDArray[np.int64]]:
        """For every block, the next use of each unit behind that block."""
        units = len(self.cache.last)
        after = np.full(units, kernels.NO_NEXT, np.int64)
        ahead = []
        for at in reversed(blocks):
            ahead.append(after.copy())
            self._next_uses(at, after)
        return ahead[::-1]

    def _next_uses(self, at: Sets, after: NDArray[np.int64]) -> NDArray[np.int64]:
        sets = at.sets[self.group]
        sizes = kernels.count_members(sets, self.layer)
        uses: NDArray[np.int64] = kernels.next_uses(
            sets, self.layer, at.actions, at.resets, at.start, after, sizes
        )
        return uses

    def _run(
        self,
        loop: Callable[..., None],
        block: kernels.Block,
        first: int,
        admission: int,
        requests: kernels.Requests,
    ) -> None:
        name = self.policy.name
        try:
            loop(
                block,
                self.layer,
                first,
                self.capacity,
                admission,
                self.kept,
                self.gamma,
                self.cache,
                requests,
            )
        except Exception as problem:
            if _is_builtin(self.policy):
                raise
            what = f"{type(problem).__name__}: {_cause(problem)}"
            raise PolicyError(f"policy {name}: its functions fail with {what}") from problem
        if self.cache.numbers[kernels.FAULT]:
            victim = int(self.cache.numbers[kernels.VICTIM])
            raise PolicyError(
                f"policy {name}: evict returned unit {victim} in layer {self.layer}, which is not "
                "resident or is in use; return a unit v with evictable[v] true"
            )


def _cause(problem: Exception) -> str:
    """The line of numba's long report that says what it stumbled over."""
    lines = [line.strip(" -") for line in str(problem).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NUMBA_NOISE)]
    inner = [line for line in telling if not line.startswith("No implementation of function")]
    return (inner or telling or [""])[0][:200]


def _is_builtin(policy: Policy) -> bool:
    return all(hook.__module__.startswith("dipsim.policies.") for hook in policy.hooks.values())


@functools.lru_cache(maxsize=64)
def _bound(policy: Policy) -> Callable[..., None]:
    return kernels.bind(policy.hooks, keep=_is_builtin(policy))


def _check(method: Method, policy: Policy, plan: Plan) -> None:
    if plan.threads is not None and plan.threads < 1:
        raise DipsimError(f"threads {plan.threads}: at least 1")
    if policy.future and method.cache_aware:
        raise MethodError(
            f"policy {policy.name} must know future sets, but those of {method.name} depend on the "
            "cache: there is no policy-independent optimum; use dip, or an online policy"
        )


def _admission(policy: Policy, wanted: Admission | None) -> Admission:
    if wanted is None or wanted == policy.admit:
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


def _measured(trace: Trace, warmup: int) -> NDArray[np.bool_]:
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
    return measured


def _empty(
    trace: Trace,
    method: Method,
    capacity: NDArray[np.int64],
    measured: NDArray[np.bool_],
    shares: NDArray[np.float32],
) -> Traffic:
    shape = (trace.tokens, trace.layers, len(method.groups))
    return Traffic(
        groups=tuple(group.signal for group in method.groups),
        units=tuple(group.units for group in method.groups),
        capacity=capacity,
        active=np.zeros(shape, np.int32),
        hits=np.zeros(shape, np.int32),
        kept=np.zeros(shape, np.int32),
        reads=np.zeros(shape, np.int32),
        moved=np.zeros(shape),
        flash_seconds=np.zeros(shape),
        mass=shares[..., 0],
        energy=shares[..., 1],
        measured=measured,
        outside=np.zeros(shape, np.bool_),
    )
