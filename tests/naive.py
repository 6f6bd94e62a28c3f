"""Naive twins of dipsim's kernels: the slow, obvious versions the fast ones are compared with.

Everything here is made of plain dicts, lists and sets and shares no code with dipsim. numpy serves
only to round scores to float32. A unit is an int id, a token or row is an int index from 0.

* `top_k`, `kept_units`, `capacity`: which units a token needs, and how many fit.
* `replay`: one cache of one (layer, group), atomic access, row by row.
* `brute_force_opt`: the most hits any demand policy can reach, by trying everything.
* `requests`: what one group's misses cost in flash reads.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, pairwise
from typing import NamedTuple, cast

import numpy as np

NEVER = 2**62
"""The next use of a unit that is not used again."""

MASK64 = 2**64 - 1

ADMISSION = {
    "none": "never",
    "static": "never",
    "random": "forced",
    "lru": "forced",
    "fifo": "forced",
    "lfu": "forced",
    "belady": "forced",
    "opt": "ranked",
}
"""Every policy known here, with its own admission."""

NEEDS_FUTURE = ("belady", "opt")


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


def splitmix64(x: int) -> int:
    """Return the standard splitmix64 hash of x, both in 0..2**64-1."""
    z = (x + 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def hash64(*values: int) -> int:
    """Return one 64-bit hash of several integers >= 0: splitmix64 chained over them."""
    h = 0
    for value in values:
        h = splitmix64(h ^ value)
    return h


@dataclass
class History:
    """What the policies remember of each unit since the last reset."""

    last_use: dict[int, int] = field(default_factory=dict)  # stamp of the latest use
    uses: dict[int, int] = field(default_factory=dict)  # how many uses so far
    arrival: dict[int, int] = field(default_factory=dict)  # place in the queue of all misses
    arrivals: int = 0  # how many misses so far

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        """Note one use of a unit in batch t; called in ascending order, streamed misses too."""
        self.last_use[unit] = t
        self.uses[unit] = self.uses.get(unit, 0) + 1
        if not hit:
            self.arrival[unit] = self.arrivals
            self.arrivals += 1


def next_use(unit: int, coming: Iterable[tuple[int, AbstractSet[int]]]) -> int:
    """Return the stamp of the first of the coming (stamp, active set) with the unit, else NEVER."""
    for stamp, active in coming:
        if unit in active:
            return stamp
    return NEVER


def rank(
    policy: str,
    unit: int,
    t: int,
    history: History,
    coming: Iterable[tuple[int, AbstractSet[int]]],
    stream: tuple[int, int, int],
) -> int:
    """Return a resident or active unit's rank after batch t was noted; the lowest leaves first.

    coming : the later batches up to the next reset
    stream : (seed, layer, group), of `random`
    """
    if policy == "lru":
        return history.last_use[unit]
    if policy == "fifo":
        return history.arrival[unit]  # as (stamp, unit) of the last miss: no ties, hits move none
    if policy == "lfu":
        return history.uses[unit]
    if policy == "random":
        return hash64(*stream, t, unit) >> 1
    if policy in NEEDS_FUTURE:
        return -next_use(unit, coming)
    raise ValueError(f"{policy!r} has no rank")


# Of each unit that is resident or active: (rank, last use, unit). The smallest leaves first.
Order = Mapping[int, tuple[int, int, int]]


def forced(
    capacity: int, resident: AbstractSet[int], active: AbstractSet[int], order: Order
) -> set[int]:
    """Return the new residents: hits, the misses that fit beside them, the best of the rest."""
    misses = sorted(active - resident)
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


class Row(NamedTuple):
    """What one row did to the cache; a join or skip row did nothing."""

    active: int  # units of the batch that this row ends
    hits: int  # of these, resident before the batch
    kept: int  # misses that are resident after the batch
    missed: list[int]  # all misses, kept or streamed, ascending
    chosen: list[int]  # the row's own mask, ascending


def replay(
    rows: Sequence[AbstractSet[int]] | Sequence[Sequence[float]],
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
    pinned: Collection[int] = (),
) -> list[Row]:
    """Replay one (layer, group) with a cache of `capacity` units and say what each row did.

    rows : the active set of each row, or with `gamma` its scores [units], from which the k units
        are chosen against the resident set at the beginning of the row's batch
    actions : per row "commit" (the row ends its batch; the default, a decode token), "join" (the
        batch goes on) or "skip" (not replayed). A batch's stamp t is the index of its commit row
    resets : row indices before which contents and history are emptied; they bound the next use
    pinned : what `static` holds, always
    """
    if policy not in ADMISSION:
        raise ValueError(f"unknown policy {policy!r}")
    if gamma is not None and policy in NEEDS_FUTURE:
        raise ValueError(f"{policy} needs the future, which gamma makes depend on the cache")
    if admission is None or ADMISSION[policy] == "never":
        admission = ADMISSION[policy]
    actions = ["commit"] * len(rows) if actions is None else actions
    batches = planned_batches(rows, actions) if policy in NEEDS_FUTURE else []
    first_load = set(pinned) if policy == "static" else set()

    resident = set(first_load)
    history = History()
    batch: set[int] = set()
    result = []
    for t, (row, action) in enumerate(zip(rows, actions, strict=True)):
        if t in resets:
            if batch:
                raise ValueError(f"row {t}: a reset inside a batch")
            resident = set(first_load)
            history = History()
        if action == "skip":
            result.append(Row(0, 0, 0, [], []))
            continue

        chosen = own_mask(row, units, resident, k, gamma)
        batch |= set(chosen)
        if action == "join":
            result.append(Row(0, 0, 0, [], chosen))
            continue

        active, batch = batch, set()
        hits, misses = active & resident, active - resident
        if admission != "never":
            for unit in sorted(active):
                history.touch(unit, t, hit=unit in hits)
            end = min((r for r in resets if r > t), default=len(rows))
            coming = [(stamp, later) for stamp, later in batches if t < stamp < end]
            order = {}
            for unit in resident | active:
                own = rank(policy, unit, t, history, coming, (seed, layer, group))
                order[unit] = (own, history.last_use[unit], unit)
            admit = {"forced": forced, "ranked": ranked}[admission]
            resident = admit(capacity, resident, active, order)
        kept = resident & misses
        result.append(Row(len(active), len(hits), len(kept), sorted(misses), chosen))
    if batch:
        raise ValueError("the last batch has no commit row")
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
