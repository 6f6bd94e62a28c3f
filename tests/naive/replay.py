"""Naive twins of dipsim's kernels: the slow, obvious versions the fast ones are compared with.

Everything here is made of plain dicts, lists and sets and shares no code with dipsim. numpy serves
only to round scores to float32. A unit is an int id, a token or row is an int index from 0.

* `top_k`, `kept_units`, `capacity`: which units a token needs, and how many fit.
* `replay`: one cache of one (layer, group), row by row.
* `replay_global`: one cache in bytes of all layers and groups, batch by batch.
* `brute_force_opt`: the most hits any demand policy can reach, by trying everything.
* `requests`: what one group's misses cost in flash reads.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from naive.draws import hash64
from naive.policies import QUEUES, Queue

NEVER = 2**62
"""The next use of a unit that is not used again."""

ADMISSION = {
    "none": "never",
    "static": "never",
    "random": "forced",
    "lru": "forced",
    "fifo": "forced",
    "lfu": "forced",
    "belady": "forced",
    "opt": "ranked",
    "mru": "forced",
    "lfu-resident": "forced",
    "lfu-decay": "ranked",
    "lru-k": "forced",
    "lfru": "forced",
    "least-stale": "forced",
    "lru-heat": "forced",
    "lru-throttled": "ranked",
    "pinned": "ranked",
    **dict.fromkeys(QUEUES, "forced"),
}
"""Every policy known here, with its own admission."""

NEEDS_FUTURE = ("belady", "opt")

ATOMIC_ONLY = ("random", "opt", "window")
"""Policies that do not know sequential access."""

RANK_PARAMETERS: Mapping[str, Mapping[str, float]] = {
    "lfu-decay": {"half_life": 32.0},
    "lru-k": {"k": 2},
    "lfru": {"power": 1.0, "ticks": 1},
    "least-stale": {"ticks": 1},
    "lru-heat": {"uses": 2, "window": 32},
    "lru-throttled": {"misses": 2, "window": 32},
    "pinned": {"share": 0.5},
}
"""Parameters of the policies that rank, with their defaults; those of queues are in QUEUES."""


# ------------------------------------------------------------------------------------- selection


def kept_units(density: float, units: int) -> int:
    """Return k, how many of `units` a token keeps at this density: at least one."""
    return max(1, math.floor(density * units + 1e-9))


def capacity(fraction: float, units: int) -> int:
    """Return how many of `units` fit into this fraction of the group: may be 0."""
    return math.floor(fraction * units + 1e-9)


def top_k(
    scores: Sequence[float],
    k: int,
    resident: Collection[int] = frozenset(),
    gamma: float = 1.0,
) -> list[int]:
    """Return the ids of the k best units, ascending; scores of absent units count gamma times.

    The product is taken in float32. Ties go to the larger raw score, then to the lower id.
    """
    weight = np.float32(gamma)

    def best_first(unit: int) -> tuple[float, float, int]:
        raw = np.float32(scores[unit])
        weighted = raw if unit in resident else weight * raw
        return -float(weighted), -float(raw), unit

    return sorted(sorted(range(len(scores)), key=best_first)[:k])


# ---------------------------------------------------------------------------------------- policies


@dataclass
class History:
    """What the policies remember of each unit since the last reset."""

    last_use: dict[int, int] = field(default_factory=dict)  # stamp of the latest use
    uses: dict[int, int] = field(default_factory=dict)  # how many uses so far
    arrival: dict[int, tuple[int, int]] = field(default_factory=dict)  # (stamp, unit) of a miss
    before: dict[int, int] = field(default_factory=dict)  # order of what the cache starts with
    stamps: dict[int, list[int]] = field(default_factory=dict)  # of all uses
    uses_since_miss: dict[int, int] = field(default_factory=dict)  # the miss counts too
    heat: dict[int, float] = field(default_factory=dict)  # uses, fading, as of the last use
    half_life: float = 32.0  # of the heat, in stamps
    given: Mapping[str, float] = field(default_factory=dict)  # parameters of the policy
    missed: dict[int, list[int]] = field(default_factory=dict)  # stamps of all misses
    hit: dict[int, bool] = field(default_factory=dict)  # whether the latest use was one

    def heat_at(self, unit: int, t: int) -> float:
        """Return what is left at batch t of a used unit's heat."""
        left: float = 0.5 ** ((t - self.last_use[unit]) / self.half_life)
        return self.heat[unit] * left

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        """Note one use of a unit in batch t; called in ascending order, streamed misses too."""
        self.heat[unit] = self.heat_at(unit, t) + 1.0 if unit in self.heat else 1.0
        self.uses_since_miss[unit] = self.uses_since_miss[unit] + 1 if hit else 1
        self.stamps.setdefault(unit, []).append(t)
        self.last_use[unit] = t
        self.uses[unit] = self.uses.get(unit, 0) + 1
        self.hit[unit] = hit
        if not hit:
            self.missed.setdefault(unit, []).append(t)
            self.arrival[unit] = t, unit

    def latest(self, unit: int) -> int:
        """Return the last use, by which ties are broken: of what is only loaded, its order."""
        last = self.last_use[unit]
        return last if last >= 0 else self.before.get(unit, -1)


def next_use(unit: int, coming: Iterable[tuple[int, AbstractSet[int]]]) -> int:
    """Return the stamp of the first of the coming (stamp, active set) with the unit, else NEVER."""
    for stamp, active in coming:
        if unit in active:
            return stamp
    return NEVER


Rank = float | tuple[int, int]
"""What a policy orders units by; one policy gives ranks of one kind only."""


def rank(
    policy: str,
    unit: int,
    t: int,
    history: History,
    coming: Iterable[tuple[int, AbstractSet[int]]],
    stream: tuple[int, int, int],
    k: int = 2,
) -> Rank:
    """Return a resident or active unit's rank after batch t was noted; the lowest leaves first.

    coming : the later batches up to the next reset
    stream : (seed, layer, group), of `random`
    k : which of the latest uses counts, of `lru-k`
    """
    if policy == "lru":
        return history.last_use[unit]
    if policy == "fifo":
        return history.arrival[unit]  # no ties, and hits move none
    if policy == "lfu":
        return history.uses[unit]
    if policy == "mru":
        return -history.last_use[unit], -unit
    if policy == "lfu-resident":
        return history.uses_since_miss[unit]
    if policy == "lfu-decay":
        return history.heat_at(unit, t)
    if policy == "lru-k":
        stamps = history.stamps[unit]
        return stamps[-k] if len(stamps) >= k else -1
    if policy == "random":
        return hash64(*stream, t, unit) >> 1
    if policy == "lfru":
        return lfru_score(history.uses[unit], t - history.last_use[unit], **history.given)
    if policy == "least-stale":
        ahead, cycle = 1, int(history.given["ticks"])
        while (t + ahead) % cycle != history.last_use[unit] % cycle:
            ahead += 1
        return -ahead, history.last_use[unit]
    if policy == "lru-heat":
        lately = [at for at in history.stamps[unit] if at > t - history.given["window"]]
        return int(len(lately) >= history.given["uses"]), history.last_use[unit]
    if policy == "pinned":
        held = history.stamps[unit][0] < 0
        return int(held), 2 * history.last_use[unit] + history.hit[unit]
    if policy == "lru-throttled":
        return throttled_rank(unit, history)
    if policy in NEEDS_FUTURE:
        return -next_use(unit, coming)
    raise ValueError(f"{policy!r} has no rank")


def lfru_score(uses: float, age: float, power: float, ticks: float) -> float:
    """Return count over age in tokens, of an age in stamps."""
    score: float = uses / (1.0 + age / ticks) ** power
    return score


def throttled_rank(unit: int, history: History) -> tuple[int, int]:
    """Return the rank of a unit that enters at its n-th miss within a window."""
    last = history.last_use[unit]
    if history.hit[unit]:
        return 1, 2 * last + 1
    window = last - history.given["window"]
    enough = len([at for at in history.missed[unit] if at > window]) >= history.given["misses"]
    return (1, 2 * last) if enough else (0, last)


# Of each unit that is resident or active: (rank, last use, unit). The smallest leaves first.
Order = Mapping[int, tuple[Any, int, int]]


def forced(
    capacity: int,
    resident: AbstractSet[int],
    active: AbstractSet[int],
    order: Order,
    misses: Sequence[int] | None = None,
) -> set[int]:
    """Return the new residents: hits, the misses that fit beside them, the best of the rest.

    misses : in the order in which they are let in; ascending when left out
    """
    misses = sorted(active - resident) if misses is None else misses
    fitting = misses[: capacity - len(active & resident)]
    too_many = max(0, len(resident) + len(fitting) - capacity)
    victims = sorted(resident - active, key=lambda unit: order[unit])[:too_many]
    return set(resident) - set(victims) | set(fitting)


def ranked(
    capacity: int, resident: AbstractSet[int], active: AbstractSet[int], order: Order
) -> set[int]:
    """Return the new residents: the best of all."""
    best_first = sorted(resident | active, key=lambda unit: order[unit], reverse=True)
    return set(best_first[:capacity])


# ------------------------------------------------------------------------------------------ replay


class RankedQueue(Queue):
    """A policy that ranks, asked for one victim at a time."""

    def __init__(
        self,
        policy: str,
        parameters: Mapping[str, float],
        batches: Sequence[tuple[int, AbstractSet[int]]],
    ) -> None:
        self.policy = policy
        self.history = new_history(parameters)
        self.k = int(parameters.get("k", 2))
        self.batches = batches  # (stamp, active set) of all up to the next reset, for `belady`

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        self.history.touch(unit, t, hit=hit)

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        coming = [
            (stamp, {other for other in active if stamp > t or other > unit})
            for stamp, active in self.batches
            if stamp >= t
        ]
        history = self.history

        def order(other: int) -> tuple[Any, int, int]:
            own = rank(self.policy, other, t, self.history, coming, (0, 0, 0), self.k)
            if self.policy in NEEDS_FUTURE:  # of one batch's units the higher is requested later
                return own, -other, other
            return own, history.latest(other), other

        return min(evictable, key=order)

    def leave(self, unit: int) -> None:
        pass  # histories are kept

    def insert(self, unit: int, t: int) -> None:
        pass


def new_history(parameters: Mapping[str, float]) -> History:
    """Return the empty history of a policy that ranks."""
    return History(half_life=parameters.get("half_life", 32.0), given=parameters)


def drop(queue: Queue, resident: set[int], victim: int) -> None:
    """Take a unit out of the cache."""
    resident.remove(victim)
    queue.leave(victim)


def expel_all(queue: Queue, resident: set[int], kept: Collection[int], t: int) -> None:
    """Take out all that the policy holds no longer, except the `kept`."""
    while (victim := queue.expel(resident - set(kept), t)) is not None:
        drop(queue, resident, victim)


def make_room(queue: Queue, resident: set[int], unit: int, kept: Collection[int], t: int) -> None:
    """Take out one unit, none of the `kept`, that the policy gives up for the missed unit."""
    evictable = resident - set(kept)
    victim = queue.evict(unit, evictable, t)
    assert victim in evictable
    drop(queue, resident, victim)


def touch_all(queue: Queue, resident: AbstractSet[int], active: AbstractSet[int], t: int) -> None:
    """Note the uses of one batch, ascending; a hit is a unit that was resident before it."""
    for unit in sorted(active):
        queue.touch(unit, t, hit=unit in resident)


def serve_atomic(
    queue: Queue, capacity: int, resident: AbstractSet[int], active: AbstractSet[int], t: int
) -> set[int]:
    """Return the residents after a batch that was requested at once; forced admission."""
    fitting = sorted(active - resident)[: capacity - len(active & resident)]
    after = set(resident)
    touch_all(queue, resident, active, t)
    expel_all(queue, after, active, t)
    for unit in fitting:
        if len(after) == capacity:
            make_room(queue, after, unit, active, t)
        queue.insert(unit, t)
        after.add(unit)
    return after


def serve_sequential(
    queue: Queue, capacity: int, resident: AbstractSet[int], active: AbstractSet[int], t: int
) -> tuple[set[int], list[int]]:
    """Return the residents after a batch that was requested unit by unit, and the misses."""
    after = set(resident)
    missed = []
    for unit in sorted(active):
        hit = unit in after
        queue.touch(unit, t, hit=hit)
        expel_all(queue, after, {unit}, t)
        if hit:
            continue
        missed.append(unit)
        if capacity > 0:
            if len(after) == capacity:
                make_room(queue, after, unit, (), t)
            queue.insert(unit, t)
            after.add(unit)
    return after, missed


def known_parameters(policy: str, parameters: Mapping[str, float]) -> dict[str, float]:
    """Return the parameters of a policy that ranks, with defaults; unknown ones are refused."""
    defaults = RANK_PARAMETERS.get(policy, {})
    unknown = set(parameters) - set(defaults)
    if unknown:
        raise ValueError(f"{policy} has no parameter {sorted(unknown)}")
    return {**defaults, **parameters}


def check_policy(
    policy: str, admission: str | None, access: str, parameters: Mapping[str, float]
) -> str:
    """Return the admission that holds, or raise ValueError."""
    if policy not in ADMISSION:
        raise ValueError(f"unknown policy {policy!r}")
    if access not in ("atomic", "sequential"):
        raise ValueError(f"unknown access {access!r}")
    if access == "sequential" and policy in ATOMIC_ONLY:
        raise ValueError(f"{policy} does not know sequential access")
    if policy not in QUEUES:
        known_parameters(policy, parameters)
    if ADMISSION[policy] == "never":
        return "never"
    if admission is None:
        admission = "forced" if access == "sequential" else ADMISSION[policy]
    if admission == "ranked" and (access == "sequential" or policy in QUEUES):
        raise ValueError(f"{policy}, {access} access: admission cannot be ranked")
    return admission


@dataclass
class Memory:
    """What a cache knows of its batches since it was emptied; a `Choose` reads it."""

    batches: int = 0  # how many are done
    uses: dict[int, int] = field(default_factory=dict)  # batches whose set held the unit
    row: int = 0  # the present one
    last_use: dict[int, int] = field(default_factory=dict)  # the row that ended the latest of them
    mean: float | None = None  # what a rule wants to keep from row to row

    def note(self, active: Collection[int]) -> None:
        """Note the set of a batch that is done."""
        for unit in active:
            self.uses[unit] = self.uses.get(unit, 0) + 1
            self.last_use[unit] = self.row
        self.batches += 1


Choose = Callable[[Any, AbstractSet[int], Memory], list[int]]
"""Returns the units a row needs, ascending, given the residents before the row's batch."""


class Row(NamedTuple):
    """What one row did to the cache; a join or skip row did nothing."""

    active: int  # units of the batch that this row ends
    hits: int  # of these, resident before the batch (sequential: when requested)
    kept: int  # misses that are resident after the batch (sequential: that were inserted)
    missed: list[int]  # all misses, kept or streamed, ascending
    chosen: list[int]  # the row's own mask, ascending


def replay(
    rows: Sequence[Any],
    units: int,
    capacity: int,
    policy: str,
    *,
    admission: str | None = None,
    actions: Sequence[str] | None = None,
    resets: Collection[int] = (),
    k: int = 0,
    gamma: float | None = None,
    seed: int = 0,
    layer: int = 0,
    group: int = 0,
    pinned: Sequence[int] = (),
    warm: Sequence[int] = (),
    access: str = "atomic",
    parameters: Mapping[str, float] = {},
    choose: Choose | None = None,
    fill: str = "ascending",
) -> list[Row]:
    """Replay one (layer, group) with a cache of `capacity` units and say what each row did.

    rows : the active set of each row, or with `gamma` its scores [units], from which the k units
        are chosen against the resident set at the beginning of the row's batch, or with `choose`
        whatever that takes
    actions : per row "commit" (the row ends its batch; the default, a decode token), "join" (the
        batch goes on) or "skip" (not replayed). A batch's stamp t is the index of its commit row
    resets : row indices before which contents and history are emptied; they bound the next use
    pinned : what `static` holds, always; `pinned` the first of these that its share has room for
    warm : what the cache starts with, most used first
    access : "atomic", a batch is requested at once, or "sequential", unit by unit, ascending
    parameters : of the policy, by name; the others keep their defaults
    fill : which misses are let in first, "ascending" or "random"; of forced policies that rank
    """
    admission = check_policy(policy, admission, access, parameters)
    if not (gamma is None and choose is None) and policy in NEEDS_FUTURE:
        raise ValueError(f"{policy} needs the future, which here depends on the cache")
    if fill not in ("ascending", "random"):
        raise ValueError(f"unknown fill {fill!r}")
    actions = ["commit"] * len(rows) if actions is None else actions
    batches = planned_batches(rows, actions) if policy in NEEDS_FUTURE else []
    first_load = list(pinned) if policy == "static" else list(warm)
    if policy == "pinned":
        share = known_parameters(policy, parameters)["share"]
        first_load = list(pinned)[: int(share * capacity + 1e-9)]
    stream = (seed, layer, group)

    def fresh_policy(start: int) -> Queue:
        """Return the policy as from row `start` on: it knows what the cache starts with."""
        return told(empty_policy(start), first_load)

    def empty_policy(start: int) -> Queue:
        """Return the policy without a history, as from row `start` on."""
        if policy in QUEUES:
            return QUEUES[policy](capacity, **parameters).drawing_from(stream)
        end = min((r for r in resets if r > start), default=len(rows))
        ahead = [(stamp, later) for stamp, later in batches if start <= stamp < end]
        return RankedQueue(policy, known_parameters(policy, parameters), ahead)

    resident = set(first_load)
    queue = fresh_policy(0)
    memory = Memory()
    batch: set[int] = set()
    result = []
    for t, (row, action) in enumerate(zip(rows, actions, strict=True)):
        if t in resets:
            if batch:
                raise ValueError(f"row {t}: a reset inside a batch")
            resident = set(first_load)
            queue = fresh_policy(t)
            memory = Memory()
        memory.row = t
        if action == "skip":
            result.append(Row(0, 0, 0, [], []))
            continue

        if choose is not None:
            chosen = choose(row, resident, memory)
        else:
            chosen = own_mask(row, units, resident, k, gamma)
        batch |= set(chosen)
        if action == "join":
            result.append(Row(0, 0, 0, [], chosen))
            continue

        active, batch = batch, set()
        missed = sorted(active - resident)
        kept = 0
        if admission != "never":
            if access == "sequential":
                resident, missed = serve_sequential(queue, capacity, resident, active, t)
                kept = len(missed) if capacity > 0 else 0
            else:
                if isinstance(queue, RankedQueue):
                    touch_all(queue, resident, active, t)
                    order = order_of(queue, resident | active, t, stream)
                    if admission == "forced":
                        let_in = missed if fill == "ascending" else shuffled(missed, t, stream)
                        resident = forced(capacity, resident, active, order, let_in)
                    else:
                        resident = ranked(capacity, resident, active, order)
                else:
                    resident = serve_atomic(queue, capacity, resident, active, t)
                kept = len(resident & set(missed))
            assert len(resident) <= capacity
        memory.note(active)
        result.append(Row(len(active), len(active) - len(missed), kept, missed, chosen))
    if batch:
        raise ValueError("the last batch has no commit row")
    return result


def told(queue: Queue, loaded: Sequence[int], stamps: Mapping[int, int] = {}) -> Queue:
    """Return a policy that takes these units, most used first, for misses before the first row.

    stamps : of the batch of each; -1 where it has none
    """
    for unit in reversed(loaded):
        queue.touch(unit, stamps.get(unit, -1), hit=False)
        queue.insert(unit, stamps.get(unit, -1))
    if isinstance(queue, RankedQueue):
        queue.history.before = {unit: -1 - i for i, unit in enumerate(loaded)}
    return queue


def shuffled(units: Sequence[int], t: int, stream: tuple[int, int, int]) -> list[int]:
    """Return units in an order that depends on nothing but the batch and the cache."""
    return sorted(units, key=lambda unit: (hash64(*stream, t, unit) >> 1, unit))


def order_of(
    queue: RankedQueue, units: AbstractSet[int], t: int, stream: tuple[int, int, int]
) -> Order:
    """Return the order in which units would leave after batch t was noted."""
    coming = [(stamp, later) for stamp, later in queue.batches if stamp > t]
    order = {}
    for unit in units:
        own = rank(queue.policy, unit, t, queue.history, coming, stream, queue.k)
        order[unit] = (own, queue.history.latest(unit), unit)
    return order


def replay_global(
    batches: Sequence[AbstractSet[int]],
    sizes: Mapping[int, float],
    capacity: float,
    policy: str,
    *,
    admission: str | None = None,
    parameters: Mapping[str, float] = {},
    seed: int = 0,
    warm: Mapping[int, int] = {},
) -> list[Row]:
    """Replay one cache of `capacity` bytes over all layers and groups and say what each batch did.

    batches : the active set of each, in order; unit ids are unique over all layers and groups
    sizes : bytes of every unit
    warm : what the cache starts with, most used first, and the stamp, below 0, of its batch
    """
    admission = check_policy(policy, admission, "atomic", parameters)
    if policy in ("static", "pinned"):
        raise ValueError(f"{policy} has no global scope here")

    def total(units: Collection[int]) -> float:
        """Return the bytes of some units."""
        return math.fsum(sizes[unit] for unit in units)

    queue: Queue
    if policy in QUEUES:
        typical = total(sizes) / len(sizes)
        made = QUEUES[policy](int(capacity / typical), **parameters)
        queue = made.drawing_from((seed, 0, 0))
    else:
        stamped = list(enumerate(batches))
        queue = RankedQueue(policy, known_parameters(policy, parameters), stamped)

    queue = told(queue, list(warm), warm)
    resident = set(warm)
    result = []
    for t, active in enumerate(batches):
        hits, missed = active & resident, sorted(active - resident)
        fitting: list[int] = []
        for unit in missed:
            if total([*hits, *fitting, unit]) > capacity:
                break
            fitting.append(unit)

        if admission != "never":
            touch_all(queue, resident, active, t)
            if not isinstance(queue, RankedQueue):
                expel_all(queue, resident, active, t)
                for unit in fitting:
                    while total([*resident, unit]) > capacity:
                        make_room(queue, resident, unit, active, t)
                    queue.insert(unit, t)
                    resident.add(unit)
            else:
                order = order_of(queue, resident | active, t, (seed, 0, 0))
                if admission == "forced":
                    resident |= set(fitting)
                    for victim in sorted(resident - active, key=lambda unit: order[unit]):
                        if total(resident) <= capacity:
                            break
                        resident.remove(victim)
                else:
                    pool = sorted(resident | active, key=lambda unit: order[unit], reverse=True)
                    resident = set()
                    for unit in pool:
                        if total([*resident, unit]) > capacity:
                            break
                        resident.add(unit)
            assert total(resident) <= capacity
        kept = len(resident & set(missed))
        result.append(Row(len(active), len(hits), kept, missed, sorted(active)))
    return result


def own_mask(
    row: Collection[float],
    units: int,
    resident: AbstractSet[int],
    k: int,
    gamma: float | None,
) -> list[int]:
    """Return the units one row needs, ascending: given as a set, or with gamma by scores."""
    if gamma is not None:
        return top_k(cast("Sequence[float]", row), k, resident, gamma)
    chosen = sorted(cast("AbstractSet[int]", row))
    if chosen and not 0 <= chosen[0] <= chosen[-1] < units:
        raise ValueError(f"units {chosen[0]}..{chosen[-1]} are not all in 0..{units - 1}")
    return chosen


def planned_batches(
    rows: Sequence[AbstractSet[int]] | Sequence[Sequence[float]], actions: Sequence[str]
) -> list[tuple[int, set[int]]]:
    """Return (stamp, active set) of every batch; the rows are sets."""
    batches = []
    batch: set[int] = set()
    for t, (row, action) in enumerate(zip(rows, actions, strict=True)):
        if action != "skip":
            batch |= cast("AbstractSet[int]", row)
        if action == "commit":
            batches.append((t, batch))
            batch = set()
    return batches


def brute_force_opt(sets: Sequence[Collection[int]], capacity: int) -> int:
    """Return the most hits any demand policy can reach from an empty cache; for tiny cases only.

    After each token it may hold any `capacity` units of those it held and those just used; holding
    fewer never helps, so only full caches are tried.
    """

    @cache
    def most(token: int, resident: frozenset[int]) -> int:
        if token == len(sets):
            return 0
        active = frozenset(sets[token])
        pool = sorted(resident | active)
        holdings = combinations(pool, min(capacity, len(pool)))
        return len(active & resident) + max(most(token + 1, frozenset(held)) for held in holdings)

    return most(0, frozenset())


# ------------------------------------------------------------------------------------------- flash

Curve = Sequence[tuple[float, float]]
"""(bytes, seconds) points by size, or [(0, seconds per byte)]: the same rate at every size."""


class Cost(NamedTuple):
    """What one group's misses cost."""

    reads: int
    device_bytes: float  # whole pages, gaps included
    seconds: float
    sequential: bool  # whether the group's matrices are read whole instead


def ceil_slack(x: float) -> int:
    """Return x rounded up, unless it is above an integer by float noise only."""
    return math.ceil(x - 1e-9)


def curve_for(curves: Mapping[int, Curve], lanes: int, n: int) -> Curve:
    """Return the curve for n reads: most measured lanes <= min(lanes, n), else the fewest."""
    usable = [measured for measured in curves if measured <= min(lanes, n)]
    return curves[max(usable) if usable else min(curves)]


def read_seconds(size: float, curve: Curve) -> float:
    """Return t(size): the seconds that one read of `size` bytes adds."""
    if curve[0][0] == 0:
        return size * curve[0][1]
    if size <= curve[0][0]:
        return curve[0][1]
    for (left, t_left), (right, t_right) in pairwise(curve):
        if size <= right:
            return t_left + (t_right - t_left) * (size - left) / (right - left)
    last, t_last = curve[-1]
    return t_last * size / last


def requests(
    missed: Collection[int],
    *,
    units: int,
    size: float,
    stride: float,
    align: float,
    curves: Mapping[int, Curve],
    lanes: int,
    sequential_bandwidth: float,
    sequential_read: float,
) -> Cost:
    """Return the flash cost of one group's misses in one batch.

    size, stride : bytes of a unit, and from the start of one unit to the next
    align : bytes of a page; only whole pages are read
    curves : read times by lanes measured; at most `lanes` are in flight
    sequential_bandwidth, sequential_read : bytes/s and bytes per read when all is read in order
    """
    if not missed:
        return Cost(0, 0.0, 0.0, sequential=False)

    def span_bytes(first: int, last: int) -> float:
        return ceil_slack(((last - first) * stride + size) / align) * align

    curve = curve_for(curves, lanes, n=len(missed))
    runs: list[tuple[int, int]] = []  # (first unit, last unit)
    for unit in sorted(missed):
        if runs:
            first, last = runs[-1]
            joined = read_seconds(span_bytes(first, unit), curve)
            t_run = read_seconds(span_bytes(first, last), curve)
            t_next = read_seconds(span_bytes(unit, unit), curve)
            if joined < (t_run + t_next) * (1 - 1e-12):
                runs[-1] = (first, unit)
                continue
        runs.append((unit, unit))

    curve = curve_for(curves, lanes, n=len(runs))
    sizes = [span_bytes(first, last) for first, last in runs]
    seconds = sum(read_seconds(s, curve) for s in sizes)

    whole = units * stride
    if whole / sequential_bandwidth < seconds * (1 - 1e-12):
        reads = ceil_slack(whole / sequential_read)
        return Cost(reads, whole, whole / sequential_bandwidth, sequential=True)
    return Cost(len(runs), sum(sizes), seconds, sequential=False)
