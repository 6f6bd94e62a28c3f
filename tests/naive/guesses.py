"""The naive twin of guesses that enter a cache: one cache of several parts, batch by batch.

A part is a layer and group. Each row uses a set of every part, in order, and has guesses for each.
Ids are unique over all parts. Guesses for layer l go out behind the first part of layer l - depth,
those for the first layers between two rows.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from naive.policies import QUEUES, Queue
from naive.replay import (
    History,
    RankedQueue,
    check_policy,
    expel_all,
    known_parameters,
    make_room,
    order_of,
    touch_all,
)


class Row(NamedTuple):
    """What one row did in one part; ``issued`` counts the guesses that entered for it."""

    hits: int
    kept: int
    missed: list[int]
    issued: list[int]
    used: int
    evicted: int


class Cache:
    """A cache of ``capacity`` bytes, or of units where ``sizes`` are all 1."""

    def __init__(
        self,
        layers: Sequence[int],
        sizes: Mapping[int, float],
        capacity: float,
        policy: str,
        *,
        guard: float,
        depth: int = 1,
        admission: str | None = None,
        parameters: Mapping[str, float] = {},
        stream: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        self.layers, self.sizes, self.capacity, self.stream = layers, sizes, capacity, stream
        self.limit, self.depth = guard * capacity + 1e-9, depth
        self.admission = check_policy(policy, admission, "atomic", parameters)
        self.queue: Queue
        if policy in QUEUES:
            typical = self.total(sizes) / len(sizes)
            made = QUEUES[policy](int(capacity / typical), **parameters)
            self.queue = made.drawing_from(stream)
        else:
            self.queue = RankedQueue(policy, known_parameters(policy, parameters), [])
            self.queue.history = History(
                last_use=defaultdict(lambda: -1),
                uses=defaultdict(int),
                arrival=defaultdict(lambda: (-1, -1)),
                uses_since_miss=defaultdict(int),
                stamps=defaultdict(list),
                heat=defaultdict(float),
                half_life=parameters.get("half_life", 32.0),
            )
        self.ticks = (
            1 if isinstance(self.queue, RankedQueue) else 2
        )  # of a batch, with what it sends
        self.resident: set[int] = set()
        self.awaited: set[int] = set()
        self.unseen: set[int] = set()  # guesses that a policy that ranks has not been told of

    def total(self, units: Collection[int]) -> float:
        return math.fsum(self.sizes[unit] for unit in units)

    def lowest(self, units: AbstractSet[int], t: int) -> int:
        """Return the unit that a policy that ranks gives up first."""
        assert isinstance(self.queue, RankedQueue)
        order = order_of(self.queue, units, t, self.stream)
        return min(units, key=lambda unit: order[unit])

    def send(
        self,
        parts: Sequence[int],
        guesses: Sequence[AbstractSet[int]],
        in_use: AbstractSet[int],
        t: int,
        issued: dict[int, list[int]],
        evicted: dict[int, int],
    ) -> None:
        """Let the guesses for some parts enter, one by one."""
        for part in parts:
            self.awaited |= guesses[part]
        for part in parts:
            for unit in sorted(guesses[part] - self.resident):
                size = self.sizes[unit]
                held = {u for each in issued.values() for u in each} & self.awaited
                stays = self.resident & (self.awaited | in_use)
                fits = self.total(stays) + size <= self.capacity
                if not fits or self.total(held) + size > self.limit:
                    break
                before = len(self.resident)
                if isinstance(self.queue, RankedQueue):
                    while self.total(self.resident) + size > self.capacity:
                        self.resident.remove(self.lowest(self.resident - stays, t))
                    self.unseen.add(unit)
                else:
                    self.queue.touch(unit, t, hit=False)
                    expel_all(self.queue, self.resident, stays, t)
                    before = len(self.resident)
                    while self.total(self.resident) + size > self.capacity:
                        make_room(self.queue, self.resident, unit, stays, t)
                    self.queue.insert(unit, t)
                evicted[part] += before - len(self.resident)
                self.resident.add(unit)
                issued[part].append(unit)

    def take(
        self,
        row: int,
        active: Sequence[AbstractSet[int]],
        guesses: Sequence[AbstractSet[int]],
    ) -> list[Row]:
        """Let a row use its sets, part by part."""
        count, ranks = len(self.layers), sorted(set(self.layers))
        number = [ranks.index(layer) for layer in self.layers]
        issued: dict[int, list[int]] = {part: [] for part in range(count)}
        evicted = dict.fromkeys(range(count), 0)
        first = [q for q in range(count) if number[q] < self.depth or count == 1]
        self.send(first, guesses, set(), self.ticks * row * count, issued, evicted)
        rows = []
        for p in range(count):
            t = self.ticks * (row * count + p) + self.ticks - 1
            self.awaited -= guesses[p]
            rows.append(self.use(active[p], t))
            opens = p == 0 or number[p - 1] != number[p]
            later = [q for q in range(count) if number[q] == number[p] + self.depth and opens]
            self.send(later, guesses, active[p], t + self.ticks - 1, issued, evicted)
        return [
            done._replace(
                issued=issued[p], used=len(active[p] & set(issued[p])), evicted=evicted[p]
            )
            for p, done in enumerate(rows)
        ]

    def use(self, active: AbstractSet[int], t: int) -> Row:
        """Let a batch use its set: hits first, then what is admitted enters."""
        queue, resident = self.queue, self.resident
        hits, missed = active & resident, sorted(active - resident)
        stays = active & resident | self.awaited & resident
        touch_all(queue, resident - self.unseen, active, t)
        fitting: list[int] = []
        for unit in missed:
            if self.total([*stays, *fitting, unit]) > self.capacity:
                break
            fitting.append(unit)
        if isinstance(queue, RankedQueue):
            if self.admission == "forced":
                resident |= set(fitting)
                may_leave = resident - active - self.awaited
            else:
                resident |= active
                may_leave = resident - self.awaited
            while self.total(resident) > self.capacity:
                victim = self.lowest(may_leave, t)
                may_leave.remove(victim)
                resident.remove(victim)
        else:
            expel_all(queue, resident, active | self.awaited, t)
            for unit in fitting:
                while self.total(resident) + self.sizes[unit] > self.capacity:
                    make_room(queue, resident, unit, active | self.awaited, t)
                queue.insert(unit, t)
                resident.add(unit)
        self.unseen = (self.unseen - active) & resident
        assert self.total(resident) <= self.capacity
        return Row(len(hits), len(resident & set(missed)), missed, [], 0, 0)
