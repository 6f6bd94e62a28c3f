"""The replay: active sets x policies x capacities -> exact counts (docs/replay.md).

Sets stream through in blocks, each read and chosen once for all policies, and the caches keep their
contents between blocks. Only policies that must know the future or a profile of the whole trace
make the sets be held, as bits.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.compiling import compiled_for
from dipsim.errors import DipsimError, check_type
from dipsim.kernels.draws import seed_of
from dipsim.methods import Method, choosers_of
from dipsim.policies import Policy
from dipsim.replay.active_sets import ActiveSets, count_uses
from dipsim.replay.cache import Counts, ReplayedCache, is_builtin
from dipsim.replay.contender import (
    Capacity,
    CapacityByRow,
    Contender,
    check_contender,
    measured_rows,
)
from dipsim.replay.full import FullCache, nothing_leaves
from dipsim.replay.sets import Sets
from dipsim.replay.traffic import Traffic, empty_traffic
from dipsim.settings import Access, Settings
from dipsim.threads import most_threads
from dipsim.trace import Trace

Progress = Callable[[int, int], None]
"""Called with (tokens done, tokens)."""


@dataclass
class _Feed:
    """A cache of a contender, what feeds it, and where its counts go."""

    make: Callable[[], ReplayedCache]
    """Called by the first thread that feeds the cache, since that takes time too."""
    loop: kernels.Loop
    admission: int
    purpose: str
    """Purpose that progress names when the loop is compiled, where no code of it is stored."""
    traffics: Sequence[Traffic]
    """One for each capacity of the cache."""

    @functools.cached_property
    def cache(self) -> ReplayedCache:
        """The cache, made when it is first fed."""
        return self.make()

    def take(self, blocks: Sequence[Sets]) -> None:
        """Replay blocks and book what the cache did."""
        keeps_missed = self.traffics[0].missed is not None
        if self.cache.guesses is None:  # guesses read what the caches of other layers chose
            blocks = [block.with_own_masks(self.cache.method) for block in blocks]
        with compiled_for(self.purpose):
            results = self.cache.feed(blocks, self.loop, self.admission, keeps_missed)
        for block, of_capacities in zip(blocks, results, strict=True):
            rows = slice(block.start, block.stop)
            for traffic, of_parts in zip(self.traffics, of_capacities, strict=True):
                for counts in of_parts:
                    book(traffic, rows, counts)


def replay_policies(
    sets: ActiveSets,
    contenders: Sequence[Contender],
    *,
    plain: bool = False,
    most: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[list[Traffic] | None]:
    """Replay several policies with several capacities each, in one pass over the trace.

    Args:
        plain: fill in `Traffic.plain` where the method is cache-aware.
        most: accesses beyond which optional contenders are left out; None is no limit.
        threads: caches replayed at a time; changes no count.

    Returns:
        Per contender a `Traffic` for each capacity; None for one that was left out.

    Raises:
        TraceError: bad scores met on the way.
        MethodError: a clairvoyant policy with a method whose sets depend on the cache.
        PolicyError: admission, access, scope or changes of capacity the policy cannot do, or hooks
            that break the contract.
    """
    check_type("threads", threads, Integral, "how many, 1 or more")
    if threads is not None and threads < 1:
        raise DipsimError(f"threads {threads}: at least 1")
    aware, tokens = sets.method.cache_aware, len(sets.tokens)
    for contender in contenders:
        check_contender(sets, contender)
    shares, plain_shares = sets.no_shares(), sets.no_shares() if plain and aware else None
    counts = [_nothing_counted(sets, contender, shares) for contender in contenders]
    if aware:  # such sets cannot be held, so a profile takes a pass of its own
        contenders = [_profiled(sets, each, sets.plainly) for each in contenders]
    now = [i for i, contender in enumerate(contenders) if not contender.waits]
    later = [i for i, contender in enumerate(contenders) if contender.waits]
    some_are_optional = any(contender.optional for contender in contenders)
    held: list[Sets] = []
    accesses = 0

    def feeds(i: int) -> list[_Feed]:
        known = _profiled(sets, contenders[i], lambda: held)
        return _feeds(sets, known, counts[i])

    guesses = any(contender.guesses is not None for contender in contenders)
    with _Workers(1 if guesses else threads) as workers:  # a layer is guessed from the one before
        streamed = {i: feeds(i) for i in now}
        for block in sets.blocks(shares, plain_shares):
            workers.feed([feed for each in streamed.values() for feed in each], [block])
            if later:
                held.append(block)
            if some_are_optional and most is not None:
                accesses += block.accesses
                if accesses > most:
                    some_are_optional = False
                    later = [i for i in later if not contenders[i].optional]
                    held = held if later else []
                    streamed = {i: f for i, f in streamed.items() if not contenders[i].optional}
            if progress is not None and now:
                progress(block.stop, tokens)
        workers.feed([feed for i in later for feed in feeds(i)], held)
        if progress is not None and not now:
            progress(tokens, tokens)
    replayed = {i: _finished(counts[i], sets, shares, plain_shares) for i in (*streamed, *later)}
    return [replayed.get(i) for i in range(len(contenders))]


def replay_policy(
    trace: Trace,
    method: Method,
    policy: Policy,
    capacities: Sequence[Capacity],
    settings: Settings | None = None,
    *,
    warmup: int | None = None,
    threads: int | None = None,
    **more: Any,
) -> list[Traffic]:
    """Replay one policy with several capacities in one pass; one `Traffic` for each.

    Args:
        warmup: decode tokens that are not measured, in place of those of the settings.
        more: fields of `Contender`, e.g. ``costs``.

    Raises:
        DipsimError: as `measured_rows` and `replay_policies`.
    """
    settings = settings or Settings()
    sets = ActiveSets(trace, method, settings)
    skipped = settings.warmup if warmup is None else warmup
    contender = Contender(
        policy,
        capacities,
        settings,
        measured_rows(trace.name, trace.rows, skipped),
        warmup=skipped,
        **more,
    )
    traffics = replay_policies(sets, [contender], threads=threads)[0]
    assert traffics is not None, "the contender is not optional"
    return traffics


class _Workers:
    """Threads over which the caches of a replay are spread."""

    def __init__(self, threads: int | None) -> None:
        self._most = threads or most_threads()
        self._pool = ThreadPoolExecutor(self._most)  # starts its threads when it is first used

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def feed(self, feeds: Sequence[_Feed], blocks: Sequence[Sets]) -> None:
        """Let every cache replay blocks."""
        each = map if min(self._most, len(feeds)) <= 1 else self._pool.map
        list(each(functools.partial(_Feed.take, blocks=blocks), feeds))


def book(traffic: Traffic, rows: slice, counts: Counts) -> None:
    """Write what a cache did with some rows into a traffic that is being filled."""
    layer, group = counts.layer, counts.group
    place = rows, layer, group
    traffic.active[place] = counts.active
    traffic.hits[place] = counts.hits
    traffic.kept[place] = counts.kept
    if traffic.missed is not None:
        assert counts.missed is not None, "a cache that hands on what was missed"
        words = traffic.words_of(layer, group)
        words = slice(words.start, words.start + counts.missed.shape[1])
        traffic.missed[rows, words] = counts.missed
    if counts.kept_shares is not None:
        traffic.mass[place], traffic.energy[place] = counts.kept_shares.T
    if counts.error is not None:
        traffic.error[place] = counts.error
    if counts.own is not None:
        assert traffic.own is not None, "a traffic of steps of several tokens"
        traffic.own[place] = counts.own
    if counts.reads is not None:
        traffic.reads[place] = counts.reads.requests
        traffic.outside[place] |= counts.reads.outside
        traffic.moved[place] = counts.reads.moved
        traffic.flash_seconds[place] = counts.reads.seconds
    if counts.ahead is not None:
        assert traffic.ahead is not None, "a traffic of a run that reads ahead"
        traffic.ahead.issued[place] = counts.ahead.issued
        traffic.ahead.used[place] = counts.ahead.used
        if counts.ahead.evicted is not None:
            assert traffic.ahead.evicted is not None, "a traffic of guesses that enter"
            traffic.ahead.evicted[place] = counts.ahead.evicted
        early = counts.ahead.reads
        if early is not None:
            traffic.ahead.reads[place] = early.requests
            traffic.ahead.moved[place] = early.moved
            traffic.ahead.flash_seconds[place] = early.seconds
            traffic.outside[place] |= early.outside


def _nothing_counted(
    sets: ActiveSets, contender: Contender, shares: NDArray[np.float32]
) -> list[Traffic]:
    """Return an empty traffic for each capacity.

    Budgets share the shares of what is chosen beforehand; cache-aware groups fill in their own.
    """
    return [
        empty_traffic(
            len(sets.tokens),
            sets.method.groups,
            None if contender.settings.scope == "global" else _least(capacity),
            contender.measured,
            shares.copy() if sets.method.cache_aware else shares,
            reads_ahead=contender.guesses is not None,
            guesses_enter=contender.guesses_enter,
            keeps_missed=contender.keep_missed,
            in_steps=sets.steps is not None,
        )
        for capacity in contender.capacities
    ]


def _least(capacity: Capacity) -> NDArray[np.int64]:
    return capacity.least if isinstance(capacity, CapacityByRow) else np.asarray(capacity)


def _profiled(
    sets: ActiveSets, contender: Contender, blocks: Callable[[], Iterable[Sets]]
) -> Contender:
    """Return the contender with the uses that a preloaded policy ranks its units by."""
    if not contender.needs_profile:
        return contender
    until = len(sets.tokens)
    if contender.warmup:
        until = sets.row_behind(contender.warmup)
    uses = count_uses(blocks(), sets, until)
    return replace(contender, profile_uses=uses)


def _finished(
    traffics: Sequence[Traffic],
    sets: ActiveSets,
    shares: NDArray[np.float32],
    plain: NDArray[np.float32] | None,
) -> list[Traffic]:
    """Return the traffics with the shares of groups that were chosen once for all budgets."""
    if not sets.method.cache_aware:
        return list(traffics)
    for traffic in traffics:
        for i, group in enumerate(sets.method.groups):
            if not group.aware:
                traffic.mass[:, :, i] = shares[:, :, i, 0]
                traffic.energy[:, :, i] = shares[:, :, i, 1]
                traffic.error[:, :, i] = shares[:, :, i, 2]
    return [replace(traffic, plain=plain) for traffic in traffics]


def _feeds(sets: ActiveSets, contender: Contender, traffics: Sequence[Traffic]) -> list[_Feed]:
    """Make one cache per (layer, group), or one for all; for every budget unless they can share."""
    method, layers = sets.method, sets.trace.layers
    policy, settings = contender.policy, contender.settings
    form, capacities = form_of(policy, settings.access), contender.capacities
    changing = contender.changing
    together = policy.blind and settings.access == "atomic" and not method.cache_aware
    together = together and contender.loaded is None
    budgets = list(range(len(capacities)))
    shared = [budgets] if together and not changing else [[budget] for budget in budgets]
    units_in = method.units_in(layers)
    everywhere = [place for place in np.ndindex(units_in.shape) if units_in[place]]
    in_bytes = settings.scope == "global"
    loop = loop_for(method, policy, settings.access)
    purpose = f"the replay of {method.name} with {policy.name}"
    plain = contender.loaded is None and not contender.guesses_enter
    simple = not in_bytes and not changing and plain
    simple = simple and nothing_leaves(form, method, settings.access)
    feeds, guesses = [], contender.guesses
    if guesses is not None and contender.admission == kernels.NEVER and contender.guesses_enter:
        guesses = guesses._replace(guard=0.0)  # a policy that lets nothing enter lets no guess

    def feed(kind: type[ReplayedCache], some: Sequence[int], places: list[tuple[int, int]]) -> None:
        place = None if in_bytes else places[0]
        capacity_of_row = None
        if changing:
            capacity_of_row = _by_row(capacities[some[0]], place, len(sets.tokens))
        make = functools.partial(
            kind,
            method,
            form,
            places,
            [_most(capacities[budget], place) for budget in some],
            seed_of(settings.seed, *(place or (0, 0))),
            unit_bytes=contender.unit_bytes if in_bytes else None,
            uses=contender.loaded,
            draws=settings.compat == "authors",
            capacity_of_row=capacity_of_row,
            costs=contender.costs,
            guesses=guesses,
        )
        to = [traffics[budget] for budget in some]
        feeds.append(_Feed(make, loop, contender.admission, purpose, to))

    for some in shared if everywhere else ():
        if in_bytes:
            feed(ReplayedCache, some, everywhere)
            continue
        for place in everywhere:
            units = units_in[place] if simple else math.inf
            full = [budget for budget in some if _most(capacities[budget], place) >= units]
            for budget in full:
                feed(FullCache, [budget], [place])
            if len(full) < len(some):
                feed(ReplayedCache, [each for each in some if each not in full], [place])
    return feeds


def _by_row(capacity: Capacity, place: tuple[int, int] | None, tokens: int) -> NDArray[np.float64]:
    """[tokens] what one cache holds."""
    if isinstance(capacity, CapacityByRow):
        return capacity.of(place)
    return np.full(tokens, _most(capacity, place))


def _most(capacity: Capacity, place: tuple[int, int] | None) -> float:
    """Return what one cache holds; the most, where that changes. ``place``: see `CapacityByRow`."""
    if isinstance(capacity, CapacityByRow):
        return float(capacity.of(place).max())
    return float(np.asarray(capacity)[() if place is None else place])


def form_of(policy: Policy, access: Access) -> Policy:
    """Return the policy in the form that suits the access."""
    return (policy.sequential or policy) if access == "sequential" else policy


def loop_for(method: Method, policy: Policy, access: Access) -> kernels.Loop:
    """Return the loop that feeds a cache."""
    form, choosers = form_of(policy, access), choosers_of(method)
    checked = not is_builtin(form)
    return _loop_of(tuple(form.hooks.items()), access == "sequential", checked, choosers)


@functools.lru_cache(maxsize=64)
def _loop_of(
    hooks: tuple[tuple[str, Callable[..., Any]], ...],
    sequential: bool,
    checked: bool,
    choosers: tuple[Any, Any] | None,
) -> kernels.Loop:
    return kernels.Loop(
        dict(hooks), sequential=sequential, checked=checked, keep=not checked, choosers=choosers
    )
