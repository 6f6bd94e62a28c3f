"""Naive twin of KV that grows, from the rule alone: lists, sets and dicts, no code of dipsim.

* `tokens_held`, `division`: how many tokens of KV every row holds, and what that leaves caches.
* `replay_growing`, `replay_growing_global`: a cache whose capacity changes from batch to batch.
* `most_hits`: the most any demand policy can hit in such a cache, by trying everything.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from itertools import combinations

from naive import replay as naive


def tokens_held(positions: Sequence[int], actions: Sequence[str], context: int) -> list[int]:
    """Return of every row the tokens of KV when its batch is served: those of its sequence up to
    the batch's last row, at most `context`.

    positions : from 0, of each row in its sequence
    """
    held = []
    for row in range(len(positions)):
        later = [r for r in range(row, len(positions)) if actions[r] == "commit"]
        end = later[0] if later else max(r for r, at in enumerate(actions) if at == "commit")
        held.append(min(positions[end] + 1, context))
    return held


def division(
    cache_bytes: float, units: Sequence[int], sizes: Sequence[float], *, equal: bool
) -> list[int]:
    """Return how many units each cache holds: the same share of its units, or of the bytes.

    units, sizes : of each cache, and the bytes of one of its units
    """
    whole = [n * size for n, size in zip(units, sizes, strict=True)]
    if not equal:
        share = min(1.0, cache_bytes / sum(whole))
        return [math.floor(share * n + 1e-9) for n in units]
    left, hungry = cache_bytes, list(range(len(units)))
    while hungry:  # what one cannot use goes to the others
        share = left / len(hungry)
        full = [i for i in hungry if whole[i] <= share]
        if not full:
            break
        left -= sum(whole[i] for i in full)
        hungry = [i for i in hungry if i not in full]
    return [
        math.floor(share / sizes[i] + 1e-9) if i in hungry else units[i] for i in range(len(units))
    ]


def leave_first(
    queue: naive.RankedQueue, units: AbstractSet[int], t: int, stream: tuple[int, int, int]
) -> list[int]:
    """Return units in the order in which they leave before batch t, whose uses are still ahead."""
    coming = [(stamp, active) for stamp, active in queue.batches if stamp >= t]
    history = queue.history

    def order(unit: int) -> tuple[naive.Rank, int, int]:
        own = naive.rank(queue.policy, unit, t, history, coming, stream, queue.k)
        return own, history.last_use[unit], unit

    return sorted(units, key=order)


def replay_growing(
    rows: Sequence[Collection[int]] | Sequence[Sequence[float]],
    units: int,
    capacities: Sequence[int],
    policy: str,
    *,
    actions: Sequence[str],
    resets: Collection[int] = (),
    admission: str | None = None,
    k: int = 0,
    gamma: float | None = None,
    stream: tuple[int, int, int] = (0, 0, 0),
) -> list[naive.Row]:
    """Replay one (layer, group) as `naive.replay`, with a capacity for each row.

    capacities : of each row; the rows of a batch have the same. Before the first row of a batch the
        lowest ranked units leave until the rest fits
    """
    admission = naive.check_policy(policy, admission, "atomic", {})
    sets = [set(row) for row in rows] if gamma is None else []
    batches = naive.planned_batches(sets, actions) if policy in naive.NEEDS_FUTURE else []

    def empty_policy(start: int) -> naive.RankedQueue:
        end = min((r for r in resets if r > start), default=len(rows))
        ahead = [(stamp, later) for stamp, later in batches if start <= stamp < end]
        return naive.RankedQueue(policy, naive.known_parameters(policy, {}), ahead)

    resident: set[int] = set()
    queue = empty_policy(0)
    batch: set[int] = set()
    begun = False
    result = []
    for t, (row, action) in enumerate(zip(rows, actions, strict=True)):
        if t in resets:
            resident, queue = set(), empty_policy(t)
        if action == "skip":
            result.append(naive.Row(0, 0, 0, [], []))
            continue
        if not begun:
            too_many = max(0, len(resident) - capacities[t])
            resident -= set(leave_first(queue, resident, t, stream)[:too_many])
            begun = True
        batch |= set(naive.own_mask(row, units, resident, k, gamma))
        if action == "join":
            result.append(naive.Row(0, 0, 0, [], []))
            continue
        active, batch, begun = batch, set(), False
        missed = sorted(active - resident)
        naive.touch_all(queue, resident, active, t)
        order = naive.order_of(queue, resident | active, t, stream)
        admit = naive.forced if admission == "forced" else naive.ranked
        resident = admit(capacities[t], resident, active, order)
        kept = len(resident & set(missed))
        result.append(naive.Row(len(active), len(active) - len(missed), kept, missed, []))
    return result


def replay_growing_global(
    batches: Sequence[AbstractSet[int]],
    sizes: Mapping[int, float],
    capacities: Sequence[float],
    first_of_token: Sequence[bool],
    policy: str,
) -> list[naive.Row]:
    """Replay one cache in bytes over all layers and groups, forced admission.

    capacities : bytes, of each batch; all batches of a token have the same
    first_of_token : whether a batch is its token's first: before it the cache is made to fit
    """
    queue = naive.RankedQueue(policy, naive.known_parameters(policy, {}), list(enumerate(batches)))

    def total(units: Collection[int]) -> float:
        return math.fsum(sizes[unit] for unit in units)

    def let_go(order: Sequence[int], capacity: float) -> None:
        for unit in order:
            if total(resident) <= capacity:
                break
            resident.remove(unit)

    resident: set[int] = set()
    result = []
    for t, (active, capacity) in enumerate(zip(batches, capacities, strict=True)):
        if first_of_token[t]:
            let_go(leave_first(queue, resident, t, (0, 0, 0)), capacity)
        hits, missed = active & resident, sorted(active - resident)
        fitting: list[int] = []
        for unit in missed:
            if total([*hits, *fitting, unit]) > capacity:
                break
            fitting.append(unit)
        naive.touch_all(queue, resident, active, t)
        order = naive.order_of(queue, resident | active, t, (0, 0, 0))
        resident |= set(fitting)
        let_go(sorted(resident - active, key=lambda unit: order[unit]), capacity)
        kept = len(resident & set(missed))
        result.append(naive.Row(len(active), len(hits), kept, missed, []))
    return result


def most_hits(sets: Sequence[Collection[int]], capacities: Sequence[int]) -> int:
    """Return the most hits any demand policy can reach from an empty cache; for tiny cases only.

    Before each token it drops what no longer fits, as it likes; after it, it may hold any
    `capacities[token]` of the units it held and those just used.
    """

    @cache
    def most(token: int, resident: frozenset[int]) -> int:
        if token == len(sets):
            return 0
        active, room = frozenset(sets[token]), capacities[token]
        best = 0
        for kept in combinations(sorted(resident), min(room, len(resident))):
            pool = sorted(active | set(kept))
            for held in combinations(pool, min(room, len(pool))):
                best = max(best, len(active & set(kept)) + most(token + 1, frozenset(held)))
        return best

    return most(0, frozenset())
