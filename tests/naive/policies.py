"""Naive twins of the policies that keep their units in queues: plain lists, sets and dicts.

Nothing here comes from dipsim. Every queue is a list, its oldest unit first; to push is to append.
The engine (naive/replay.py) calls `touch` for every unit of a batch, then `expel` until it returns
None, and for each miss it keeps `evict` and `leave` while there is no room, then `insert`.
"""

from collections.abc import Callable, Collection
from typing import Self

from naive.draws import hash64


def oldest(queue: list[int], evictable: Collection[int]) -> int | None:
    """Return the oldest evictable unit; those passed over go to the newest end."""
    for _ in range(len(queue)):
        if queue[0] in evictable:
            return queue[0]
        queue.append(queue.pop(0))
    return None


def found(*victims: int | None) -> int:
    """Return the first of these that is a unit."""
    return next(victim for victim in victims if victim is not None)


def renew(queue: list[int], unit: int) -> None:
    """Move a unit to the newest end of its queue."""
    queue.remove(unit)
    queue.append(unit)


def push_ghost(ghosts: list[int], unit: int, size: int) -> None:
    """Remember a unit that left; at most `size` are remembered."""
    if size > 0:
        if len(ghosts) == size:
            ghosts.pop(0)
        ghosts.append(unit)


class Queue:
    """What the engine asks of a policy."""

    stream: tuple[int, ...] = ()
    """(seed, layer, group), of what a policy draws."""

    def drawing_from(self, stream: tuple[int, ...]) -> Self:
        """Return the policy, which draws from this stream."""
        self.stream = stream
        return self

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        """Note one use of a unit in batch t, also of a miss that is not kept."""
        raise NotImplementedError

    def expel(self, evictable: Collection[int], t: int) -> int | None:
        """Return a unit that leaves although nobody needs its place, or None."""
        return None

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        """Return which of `evictable` leaves to make room for the unit."""
        raise NotImplementedError

    def leave(self, unit: int) -> None:
        """Forget a resident unit, or make it a ghost."""
        raise NotImplementedError

    def insert(self, unit: int, t: int) -> None:
        """Take in a unit that was missed."""
        raise NotImplementedError


class Slru(Queue):
    """Segments of LRU queues: a hit moves a unit one segment up."""

    def __init__(self, capacity: int, *, segments: float = 4) -> None:
        count = int(segments)
        share, rest = divmod(capacity, count)
        self.sizes = [share + 1 if i < rest else share for i in range(count)]
        self.segments: list[list[int]] = [[] for _ in range(count)]

    def segment_of(self, unit: int) -> int:
        """Return the number of the segment that holds a unit."""
        return next(i for i, segment in enumerate(self.segments) if unit in segment)

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        if not hit:
            return
        i = self.segment_of(unit)
        self.segments[i].remove(unit)
        if i + 1 == len(self.segments):
            self.segments[i].append(unit)
            return
        above = self.segments[i + 1]
        above.append(unit)
        if len(above) > self.sizes[i + 1]:
            self.segments[i].append(above.pop(0))

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        for segment in self.segments:
            victim = oldest(segment, evictable)
            if victim is not None:
                return victim
        raise AssertionError("nothing is evictable")

    def leave(self, unit: int) -> None:
        self.segments[self.segment_of(unit)].remove(unit)

    def insert(self, unit: int, t: int) -> None:
        for segment, size in zip(self.segments, self.sizes, strict=True):
            if len(segment) < size:
                segment.append(unit)
                return
        self.segments[0].append(unit)  # in global scope only: more units fit than C says


class TwoQ(Queue):
    """2Q: a FIFO for first uses, an LRU for units that came back soon after they left it."""

    def __init__(self, capacity: int, *, inner: float = 0.25, ghost: float = 0.5) -> None:
        self.inner_size = int(capacity * inner)
        self.ghost_size = int(capacity * ghost)
        self.inner: list[int] = []  # Ain
        self.main: list[int] = []  # Am
        self.ghosts: list[int] = []  # Aout
        self.returning: set[int] = set()

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        if hit:
            if unit in self.main:
                renew(self.main, unit)
            return
        self.returning.discard(unit)
        if unit in self.ghosts:
            self.ghosts.remove(unit)
            self.returning.add(unit)

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        if self.main and len(self.inner) <= self.inner_size:
            preferred, other = self.main, self.inner
        else:
            preferred, other = self.inner, self.main
        victim = oldest(preferred, evictable)
        return victim if victim is not None else found(oldest(other, evictable))

    def leave(self, unit: int) -> None:
        if unit in self.inner:
            self.inner.remove(unit)
            push_ghost(self.ghosts, unit, self.ghost_size)
        else:
            self.main.remove(unit)

    def insert(self, unit: int, t: int) -> None:
        if unit in self.returning:
            self.returning.remove(unit)
            self.main.append(unit)
        else:
            self.inner.append(unit)


class Arc(Queue):
    """ARC: units used once and units used again share the cache; ghosts move the border."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.once: list[int] = []  # T1
        self.again: list[int] = []  # T2
        self.once_ghosts: list[int] = []  # B1
        self.again_ghosts: list[int] = []  # B2
        self.target = 0.0  # p, the size aimed at for T1
        self.came_from: dict[int, int] = {}  # 1: from B1, 2: from B2, 0: from neither
        self.without_ghost: int | None = None

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        if hit:
            (self.once if unit in self.once else self.again).remove(unit)
            self.again.append(unit)
            return
        self.came_from[unit] = 0
        first, second = len(self.once_ghosts), len(self.again_ghosts)
        if unit in self.once_ghosts:
            self.target = min(self.target + max(second / first, 1), self.capacity)
            self.once_ghosts.remove(unit)
            self.came_from[unit] = 1
        elif unit in self.again_ghosts:
            self.target = max(self.target - max(first / second, 1), 0)
            self.again_ghosts.remove(unit)
            self.came_from[unit] = 2

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        if self.came_from[unit] == 0:
            first = len(self.once) + len(self.once_ghosts)
            second = len(self.again) + len(self.again_ghosts)
            if first + 1 > self.capacity:
                if not self.once_ghosts:
                    victim = oldest(self.once, evictable)
                    if victim is None:
                        return found(oldest(self.again, evictable))
                    self.without_ghost = victim
                    return victim
                self.once_ghosts.pop(0)
            elif first + second >= 2 * self.capacity and self.again_ghosts:
                self.again_ghosts.pop(0)
        return self.replace(unit, evictable)

    def replace(self, unit: int, evictable: Collection[int]) -> int:
        """Return the victim from the side that is above its target."""
        size = len(self.once)
        above = size > self.target or (size == self.target and self.came_from[unit] == 2)
        if (size > 0 and above) or not self.again:
            preferred, other = self.once, self.again
        else:
            preferred, other = self.again, self.once
        victim = oldest(preferred, evictable)
        return victim if victim is not None else found(oldest(other, evictable))

    def leave(self, unit: int) -> None:
        if unit in self.once:
            self.once.remove(unit)
            if unit != self.without_ghost:
                self.once_ghosts.append(unit)
        else:
            self.again.remove(unit)
            self.again_ghosts.append(unit)
        self.without_ghost = None

    def insert(self, unit: int, t: int) -> None:
        (self.again if self.came_from[unit] else self.once).append(unit)
        self.came_from[unit] = 0


class Clock(Queue):
    """FIFO with second chances: a counter of hits, one chance for each."""

    def __init__(self, capacity: int, *, bits: float = 1) -> None:
        self.highest = 2 ** int(bits) - 1
        self.queue: list[int] = []
        self.counter: dict[int, int] = {}

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        if hit:
            self.counter[unit] = min(self.counter[unit] + 1, self.highest)

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        while True:
            candidate = self.queue[0]
            if self.counter[candidate] > 0:
                self.counter[candidate] -= 1
            elif candidate in evictable:
                return candidate
            renew(self.queue, candidate)

    def leave(self, unit: int) -> None:
        self.queue.remove(unit)

    def insert(self, unit: int, t: int) -> None:
        self.queue.append(unit)
        self.counter[unit] = 0


class Sieve(Queue):
    """SIEVE: a hand goes from old to new over a list in which hits move nothing."""

    def __init__(self, capacity: int) -> None:
        self.queue: list[int] = []
        self.visited: set[int] = set()
        self.hand: int | None = None

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        if hit:
            self.visited.add(unit)

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        place = 0 if self.hand is None else self.queue.index(self.hand)
        while self.queue[place] in self.visited or self.queue[place] not in evictable:
            self.visited.discard(self.queue[place])
            place = (place + 1) % len(self.queue)
        last = place + 1 == len(self.queue)
        self.hand = None if last else self.queue[place + 1]
        return self.queue[place]

    def leave(self, unit: int) -> None:
        self.queue.remove(unit)

    def insert(self, unit: int, t: int) -> None:
        self.queue.append(unit)
        self.visited.discard(unit)


class S3Fifo(Queue):
    """S3-FIFO: a small FIFO in front of a main one, and ghosts of what the small one dropped."""

    def __init__(
        self, capacity: int, *, small: float = 0.1, ghost: float = 0.9, threshold: float = 2
    ) -> None:
        self.small_size = max(1, int(capacity * small))
        self.main_size = capacity - self.small_size
        self.ghost_size = int(capacity * ghost)
        self.threshold = threshold
        self.small: list[int] = []
        self.main: list[int] = []
        self.ghosts: list[int] = []
        self.uses: dict[int, int] = {}  # hits since it came, at most 3
        self.returning: set[int] = set()
        self.evicted_once = False

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        if hit:
            self.uses[unit] = min(self.uses[unit] + 1, 3)
            return
        self.returning.discard(unit)
        if unit in self.ghosts:
            self.ghosts.remove(unit)
            self.returning.add(unit)

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        self.evicted_once = True
        crowded = len(self.main) > self.main_size
        if crowded and any(other in evictable for other in self.main):
            return self.evict_from_main(evictable)
        while True:
            candidate = oldest(self.small, evictable)
            if candidate is None:
                return self.evict_from_main(evictable)
            if self.uses[candidate] < self.threshold:
                return candidate
            self.small.remove(candidate)
            self.main.append(candidate)
            self.uses[candidate] = 0

    def evict_from_main(self, evictable: Collection[int]) -> int:
        """Return the oldest evictable unit without uses; every other passed loses one use."""
        while True:
            candidate = self.main[0]
            if self.uses[candidate] >= 1:
                self.uses[candidate] -= 1
            elif candidate in evictable:
                return candidate
            renew(self.main, candidate)

    def leave(self, unit: int) -> None:
        if unit in self.small:
            self.small.remove(unit)
            push_ghost(self.ghosts, unit, self.ghost_size)
        else:
            self.main.remove(unit)

    def insert(self, unit: int, t: int) -> None:
        self.uses[unit] = 0
        filling = not self.evicted_once and len(self.small) >= self.small_size
        if unit in self.returning or filling:
            self.main.append(unit)
        else:
            self.small.append(unit)
        self.returning.discard(unit)


class WTinyLfu(Queue):
    """W-TinyLFU: a window queue in front of a segmented main one; counts decide who goes on."""

    def __init__(
        self, capacity: int, *, window: float = 0.01, protected: float = 0.8, sample: float = 10
    ) -> None:
        window_size = max(1, int(capacity * window)) if capacity > 0 else 0
        self.main_size = capacity - window_size
        self.protected_size = int(self.main_size * protected)
        self.window: list[int] = []
        self.probation: list[int] = []
        self.protected: list[int] = []
        self.count: dict[int, int] = {}  # uses, at most 15, halved from time to time
        self.touches = 0
        self.period = sample * capacity

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        self.count[unit] = min(self.count.get(unit, 0) + 1, 15)
        self.touches += 1
        if self.touches == self.period:
            self.count = {other: count // 2 for other, count in self.count.items()}
            self.touches = 0
        if not hit:
            return
        if unit in self.window:
            renew(self.window, unit)
        elif unit in self.protected:
            renew(self.protected, unit)
        else:
            self.probation.remove(unit)
            self.protected.append(unit)
            if len(self.protected) > self.protected_size:
                self.probation.append(self.protected.pop(0))

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        newcomer = oldest(self.window, evictable)
        while newcomer is not None and len(self.probation) + len(self.protected) < self.main_size:
            self.go_on(newcomer)
            newcomer = oldest(self.window, evictable)
        candidate = oldest(self.probation, evictable)
        if candidate is None:
            candidate = oldest(self.protected, evictable)
        if newcomer is None or candidate is None:
            return found(newcomer, candidate)
        if self.count[newcomer] > self.count[candidate]:
            self.go_on(newcomer)
            return candidate
        return newcomer

    def go_on(self, unit: int) -> None:
        """Move a unit from the window to probation."""
        self.window.remove(unit)
        self.probation.append(unit)

    def leave(self, unit: int) -> None:
        for queue in (self.window, self.probation, self.protected):
            if unit in queue:
                queue.remove(unit)

    def insert(self, unit: int, t: int) -> None:
        self.window.append(unit)


class Lirs(Queue):
    """LIRS: units with a short time between their last two uses (LIR) keep most of the cache."""

    def __init__(self, capacity: int, *, hir: float = 0.01, stack: float = 0) -> None:
        self.most = int(stack * capacity) if stack > 0 else None  # units in S
        self.lir_limit = capacity - max(1, int(hir * capacity))
        self.stack: list[int] = []  # S, its bottom first
        self.queue: list[int] = []  # Q, the resident units that are not LIR
        self.ghosts: list[int] = []  # NH, the units of the stack that are not resident
        self.lir: set[int] = set()

    def prune(self) -> None:
        """Take units off the bottom of the stack until that is LIR."""
        while self.stack and self.stack[0] not in self.lir:
            unit = self.stack.pop(0)
            if unit in self.ghosts:
                self.ghosts.remove(unit)

    def limit(self) -> None:
        """Forget the oldest ghosts while the stack is too high."""
        while self.most is not None and len(self.stack) > self.most and self.ghosts:
            self.stack.remove(self.ghosts.pop(0))

    def make_lir_room(self) -> None:
        """Move LIR units from the bottom of the stack to the queue until one more is allowed."""
        while self.lir and len(self.lir) + 1 > self.lir_limit:
            unit = next(unit for unit in self.stack if unit in self.lir)
            self.lir.remove(unit)
            self.stack.remove(unit)
            self.queue.append(unit)
            self.prune()

    def become_lir(self, unit: int) -> None:
        """Make a unit of the stack LIR; if pruning has just taken it off, it goes on top."""
        self.make_lir_room()
        if unit not in self.stack:
            self.stack.append(unit)
        self.lir.add(unit)

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        if unit in self.stack:
            renew(self.stack, unit)
        elif hit:
            self.stack.append(unit)
            renew(self.queue, unit)
            self.limit()
            return
        if unit in self.lir:
            self.prune()
        elif hit:
            self.queue.remove(unit)
            self.become_lir(unit)

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        if unit in self.stack:
            self.make_lir_room()
        victim = oldest(self.queue, evictable)
        if victim is not None:
            return victim
        return next(low for low in self.stack if low in self.lir and low in evictable)

    def leave(self, unit: int) -> None:
        if unit in self.lir:
            self.lir.remove(unit)
            self.stack.remove(unit)
            self.prune()
            return
        self.queue.remove(unit)
        if unit in self.stack:
            self.ghosts.append(unit)

    def insert(self, unit: int, t: int) -> None:
        if unit in self.stack:
            self.ghosts.remove(unit)
            self.become_lir(unit)
        else:
            self.stack.append(unit)
            if len(self.lir) + 1 <= self.lir_limit:
                self.lir.add(unit)
            else:
                self.queue.append(unit)
        self.limit()


class Window(Queue):
    """LRU in which a unit also leaves when the last `window` batches did not use it."""

    def __init__(self, capacity: int, *, window: float = 5) -> None:
        self.window = window
        self.queue: list[int] = []
        self.last_use: dict[int, int] = {}

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        self.last_use[unit] = t
        if hit:
            renew(self.queue, unit)

    def expel(self, evictable: Collection[int], t: int) -> int | None:
        if not self.queue or self.queue[0] not in evictable:
            return None
        return self.queue[0] if self.last_use[self.queue[0]] <= t - self.window else None

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        return found(oldest(self.queue, evictable))

    def leave(self, unit: int) -> None:
        self.queue.remove(unit)

    def insert(self, unit: int, t: int) -> None:
        self.queue.append(unit)


class LfruSampled(Queue):
    """Evicts the lowest count / age of some residents that are drawn."""

    def __init__(
        self, capacity: int, *, sample: float = 32, power: float = 1.0, ticks: float = 1
    ) -> None:
        self.sample, self.power, self.ticks = sample, power, ticks
        self.uses: dict[int, int] = {}
        self.last_use: dict[int, int] = {}
        self.slots: list[int] = []
        self.draws = 0

    def touch(self, unit: int, t: int, *, hit: bool) -> None:
        self.uses[unit] = self.uses.get(unit, 0) + 1
        self.last_use[unit] = t

    def evict(self, unit: int, evictable: Collection[int], t: int) -> int:
        drawn: list[int] = []
        while len(drawn) < self.sample:
            self.draws += 1
            other = self.slots[hash64(*self.stream, self.draws) % len(self.slots)]
            if other in evictable:
                drawn.append(other)

        def order(other: int) -> tuple[float, int, int]:
            age = (t - self.last_use[other]) / self.ticks
            score = self.uses[other] / (1.0 + age) ** self.power
            return score, self.last_use[other], other

        return min(drawn, key=order)

    def leave(self, unit: int) -> None:
        place = self.slots.index(unit)
        self.slots[place] = self.slots[-1]
        self.slots.pop()

    def insert(self, unit: int, t: int) -> None:
        self.slots.append(unit)


QUEUES: dict[str, Callable[..., Queue]] = {
    "slru": Slru,
    "2q": TwoQ,
    "arc": Arc,
    "clock": Clock,
    "sieve": Sieve,
    "s3fifo": S3Fifo,
    "w-tinylfu": WTinyLfu,
    "lirs": Lirs,
    "window": Window,
    "lfru-sampled": LfruSampled,
}
"""Every policy with queues: called with the capacity and its parameters by name."""
