"""A straightforward twin of the events engine, in SimPy: everything that happens is an event.

Flash and token are processes, work that draws on DRAM a flow with a timer. Whenever a flow begins
or ends, or the device gets hot, all flows go on to that moment and get new speeds and timers.
Nothing is worked out ahead of the clock. Only the records are dipsim's, and how much use hides
behind a read (`hidden_seconds`), which `naive.time` works out by itself.
"""

from collections.abc import Generator
from typing import Any

import numpy as np
from simpy import Environment, Event, Store

from dipsim.timeline.closed import Machine, Step, hidden_seconds, is_paper, used_weights
from dipsim.timeline.dram import COPY, DMA, USE, Draw
from dipsim.timeline.events import Span, Timeline, Times

FLASH, DRAM, COMPUTE, SYNC, MANAGEMENT = range(5)
Happening = Generator[Event, Any, None]


class Flow:
    """Work that draws on DRAM: ``left`` seconds at full speed, when it moves ``rate`` bytes/s."""

    def __init__(self, done: Event, seconds: float, rate: float, hot: float, reader: int) -> None:
        self.done, self.left, self.rate, self.hot, self.reader = done, seconds, rate, hot, reader
        self.speed = self.since = 0.0
        self.timers = 0


class Phone:
    """DRAM, and whether the device is hot."""

    def __init__(self, env: Environment, machine: Machine) -> None:
        self.env, self.machine = env, machine
        self.flows: list[Flow] = []
        self.goal = 0.0
        """Bytes the flash should have moved, since the start, when the token stops to wait."""
        self.moved, self.draws = [0.0, 0.0, 0.0], []
        self.is_hot = machine.heat is not None and machine.heat.after <= 0
        if machine.heat is not None and not self.is_hot:
            env.process(self.heat_up(machine.heat.after))

    def heat_up(self, after: float) -> Happening:
        yield self.env.timeout(after)
        self.go_on()
        self.is_hot = True
        self.set_speeds()

    def draw(self, seconds: float, rate: float, hot: float, reader: int) -> Event:
        """Let a flow begin; the event of its end."""
        flow = Flow(self.env.event(), seconds, rate, hot, reader)
        self.go_on()
        flow.since = self.env.now
        self.flows.append(flow)
        self.set_speeds()
        return flow.done

    def go_on(self) -> None:
        """Let all flows go on to this moment."""
        for flow in self.flows:
            done = (self.env.now - flow.since) * flow.speed
            self.note(flow, done)
            flow.left = max(flow.left - done, 0.0)
            flow.since = self.env.now

    def note(self, flow: Flow, done: float) -> None:
        self.moved[flow.reader] += done * flow.rate
        if flow.since < self.env.now:
            self.draws.append(Draw(flow.reader, flow.since, self.env.now, flow.rate * flow.speed))

    def set_speeds(self) -> None:
        """Work out how fast everybody goes, and when each is done if that stays so."""
        for flow, speed in zip(self.flows, self.speeds(), strict=True):
            flow.speed = speed
            flow.timers += 1
            self.env.process(self.end(flow, flow.timers))

    def end(self, flow: Flow, timer: int) -> Happening:
        yield self.env.timeout(flow.left / flow.speed)
        if flow.timers != timer:
            return
        self.note(flow, flow.left)
        self.flows.remove(flow)
        flow.timers += 1
        self.go_on()
        self.set_speeds()
        flow.done.succeed()

    def speeds(self) -> list[float]:
        """Return the share of its full speed at which each flow goes."""
        room = self.machine.dram - self.machine.background
        limits = [flow.hot if self.is_hot else 1.0 for flow in self.flows]
        wants = [flow.rate * limit for flow, limit in zip(self.flows, limits, strict=True)]
        if sum(wants) <= room:
            return limits
        grants = [room]
        if len(wants) == 2:
            flash = 0 if self.flows[0].reader == DMA else 1
            use, owed = self.flows[1 - flash], self.goal - self.moved[DMA]
            least = room * owed / (owed + use.left * use.rate) if owed > 0 else room / 2
            grant = min(wants[flash], max(room - wants[1 - flash], least))
            grants = [grant, room - grant] if flash == 0 else [room - grant, grant]
        given = zip(self.flows, limits, grants, strict=True)
        return [min(grant / f.rate, limit) if f.rate else limit for f, limit, grant in given]


class Twin:
    """The tokens of a run on a machine."""

    def __init__(
        self, chain: list[Step], tokens: int, overlap: Any, a: float, machine: Machine
    ) -> None:
        self.env = Environment()
        self.phone = Phone(self.env, machine)
        self.chain, self.tokens, self.machine = chain, tokens, machine
        self.overlap, self.a = overlap, a
        self.queue, self.asked = Store(self.env), 0.0
        self.early: dict[tuple[int, int], Event] = {}
        self.opens = [i for i, step in enumerate(chain) if step.opens_layer]
        self.spent, self.spans = np.zeros((tokens, 5)), []
        self.env.process(self.serve())

    def serve(self) -> Happening:
        """Let the flash read, one job at a time."""
        hot = 1.0 if self.machine.heat is None else self.machine.heat.flash
        while True:
            seconds, size, token, step, early, done = yield self.queue.get()
            start = self.env.now
            yield self.phone.draw(seconds, size / seconds, hot, DMA)
            self.note("flash", token, step, start, size, early)
            if not early:
                self.phone.goal = 0.0
            done.succeed()

    def read(self, seconds: float, size: float, token: int, step: int, early: bool) -> Event:
        done = self.env.event()
        self.asked += size
        self.queue.put((seconds, size, token, step, early, done))
        return done

    def note(
        self, lane: str, token: int, step: int, start: float, size: float, early: bool = False
    ) -> None:
        place = self.chain[step].place
        self.spans.append(Span(lane, place, token, start, self.env.now, size, early))

    def read_ahead(self, token: int, opener: int) -> None:
        if token == self.tokens:
            return
        stops = [*self.opens[1:], len(self.chain)]
        for step in range(self.opens[opener], stops[opener]):
            ahead, size = self.of(self.chain[step], token).ahead, self.chain[step].ahead_moved
            if ahead:
                one = float(np.broadcast_to(size, self.tokens)[token])
                self.early[token, step] = self.read(ahead, one, token, step, True)

    def of(self, step: Step, token: int) -> Any:
        """Return a step of one token in plain numbers."""
        plain = {
            name: float(values[token])
            for name, values in step._asdict().items()
            if isinstance(values, np.ndarray)
        }
        return step._replace(**plain)

    def all_tokens(self) -> Happening:
        if self.opens:
            self.read_ahead(0, 0)
        for token in range(self.tokens):
            for number, step in enumerate(self.chain):
                yield from self.step(self.of(step, token), token, number)

    def hidden(self, step: Any, slower: float, flash: float) -> float:
        """Return the share of the use that runs while the flash reads.

        Args:
            slower: how many times as long the use of weights takes.
            flash: seconds of the read.
        """
        weights = used_weights(step, self.overlap)
        use = weights * slower + step.kv
        if not use:
            return 0.0
        size = weights * self.machine.weights + step.kv * self.machine.kv
        left = self.machine.dram - self.machine.background - size / use
        if step.flash and step.moved:
            flash = max(flash, step.moved / left if left > 0 else float("inf"))
        slow = step._replace(flash=flash, hit=step.hit * slower, miss=step.miss * slower)
        return float(hidden_seconds(slow, self.overlap, self.a)) / use

    def step(self, step: Any, token: int, number: int) -> Happening:
        phone, spent = self.phone, self.spent[token]
        waits = [self.early[token, number]] if (token, number) in self.early else []
        heat, share = self.machine.heat, 0.0
        if step.flash:
            phone.goal = self.asked + self.a * step.moved
            waits.append(self.read(step.flash, step.moved, token, number, False))
        if number in self.opens:
            opener = self.opens.index(number) + 1
            last = opener == len(self.opens)
            self.read_ahead(token + last, 0 if last else opener)
        if step.flash and phone.is_hot:
            share = self.hidden(step, self.slower(), step.flash / heat.flash)
        elif step.flash:
            share = self.hidden(step, 1.0, step.flash)
        yield from self.use(step, share, token, number)
        start = self.env.now
        yield self.env.all_of(waits)
        spent[FLASH] += self.env.now - start
        phone.goal = 0.0
        yield from self.use(step, 1 - share, token, number)
        if is_paper(self.overlap):
            return
        start = self.env.now
        if step.sync:
            yield self.env.timeout(step.sync)
            spent[SYNC] += self.env.now - start
            self.note("sync", token, number, start, 0.0)
        start = self.env.now
        if step.management:
            size = 2 * step.copied  # read once, written once
            yield phone.draw(step.management, size / step.management, 1.0, COPY)
            spent[MANAGEMENT] += self.env.now - start
            self.note("management", token, number, start, size)

    def slower(self) -> float:
        """Return how many times as long the use of weights takes on a hot device."""
        machine = self.machine
        return 1 / machine.heat.compute if machine.heat and machine.throttled else 1.0

    def use(self, step: Any, share: float, token: int, number: int) -> Happening:
        """Use a share of a step's weights and KV."""
        weights = used_weights(step, self.overlap)
        use = weights + step.kv
        if share * use <= 1e-15:
            return
        hot = use / (weights * self.slower() + step.kv)
        rate = (self.machine.weights * weights + self.machine.kv * step.kv) / use
        start, after = self.env.now, getattr(self.machine.heat, "after", float("inf"))
        yield self.phone.draw(share * use, rate, hot, USE)
        cold = min(max(after - start, 0.0), self.env.now - start)
        kv = step.kv / use * (cold + (self.env.now - start - cold) * hot)
        kernel = self.machine.compute_bound and not is_paper(self.overlap)
        self.spent[token][DRAM] += kv
        self.spent[token][COMPUTE if kernel else DRAM] += self.env.now - start - kv
        self.note("compute", token, number, start, share * use * rate)


def simulate(chain: list[Step], tokens: int, overlap: Any, a: float, machine: Machine) -> Timeline:
    """Let the steps of every token happen, all of them recorded."""
    if is_paper(overlap):
        machine = machine._replace(dram=float("inf"), background=0.0, heat=None)
    twin = Twin(chain, tokens, overlap, a, machine)
    twin.env.run(twin.env.process(twin.all_tokens()))
    return Timeline(
        times=Times(twin.spent.sum(axis=1), twin.spent),
        spans=twin.spans,
        draws=twin.phone.draws,
        moved=tuple(twin.phone.moved),
        end=float(twin.env.now),
    )
