"""A straightforward twin of the events engine, in SimPy: everything that happens is an event.

Flash and token are processes, work that draws on DRAM a flow with a timer. Whenever a flow begins
or ends, or the device gets hot, all flows go on to that moment and get new speeds and timers.
Nothing is worked out ahead of the clock.

* `simulate`: the same as that of `naive.time`, whose records it takes, and who drew on DRAM.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from simpy import Environment, Event, Store

from naive.time import (
    COMPUTE,
    COPY,
    DMA,
    DRAM,
    FLASH,
    MANAGEMENT,
    SYNC,
    USE,
    Bar,
    Found,
    Phone,
    Piece,
    hidden_seconds,
)

Happening = Generator[Event, Any, None]


class Draw(NamedTuple):
    """Somebody who draws on DRAM at one rate for a while."""

    reader: int
    start: float
    end: float
    rate: float


@dataclass
class Recorded(Found):
    """What a simulation came to, with all draws."""

    draws: list[Draw] = field(default_factory=list)


class Flow:
    """Work that draws on DRAM: ``left`` seconds at full speed, when it moves ``rate`` bytes/s."""

    def __init__(self, done: Event, seconds: float, rate: float, hot: float, reader: int) -> None:
        self.done, self.left, self.rate, self.hot, self.reader = done, seconds, rate, hot, reader
        self.speed = self.since = 0.0
        self.timers = 0


class Device:
    """DRAM, and whether the device is hot."""

    def __init__(self, env: Environment, phone: Phone, found: Recorded) -> None:
        self.env, self.phone, self.found = env, phone, found
        self.flows: list[Flow] = []
        self.goal = 0.0
        """Bytes the flash should have moved, since the start, when the token stops to wait."""
        self.is_hot = phone.after <= 0
        if 0 < phone.after < inf:
            env.process(self.heat_up(phone.after))

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
        self.found.moved[flow.reader] += done * flow.rate
        if flow.since < self.env.now:
            self.found.draws.append(
                Draw(flow.reader, flow.since, self.env.now, flow.rate * flow.speed)
            )

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
        room = self.phone.dram - self.phone.background
        limits = [flow.hot if self.is_hot else 1.0 for flow in self.flows]
        wants = [flow.rate * limit for flow, limit in zip(self.flows, limits, strict=True)]
        if sum(wants) <= room:
            return limits
        grants = [room]
        if len(wants) == 2:
            flash = 0 if self.flows[0].reader == DMA else 1
            use, owed = self.flows[1 - flash], self.goal - self.found.moved[DMA]
            least = room * owed / (owed + use.left * use.rate) if owed > 0 else room / 2
            grant = min(wants[flash], max(room - wants[1 - flash], least))
            grants = [grant, room - grant] if flash == 0 else [room - grant, grant]
        given = zip(self.flows, limits, grants, strict=True)
        return [min(grant / f.rate, limit) if f.rate else limit for f, limit, grant in given]


class Twin:
    """The tokens of a run on a phone."""

    def __init__(
        self, tokens: list[list[Piece]], mode: str, a: float, phone: Phone, depth: int
    ) -> None:
        self.depth = depth
        self.env, self.found = Environment(), Recorded()
        self.device = Device(self.env, phone, self.found)
        self.tokens, self.mode, self.a, self.phone = tokens, mode, a, phone
        self.paper = mode.startswith("paper")
        self.slower = 1 / phone.hot_kernel if phone.kernel or phone.cpu else 1.0
        """How many times as long the use of weights takes on a hot device."""
        self.queue, self.asked = Store(self.env), 0.0
        self.early: dict[tuple[int, int], Event] = {}
        self.tails: dict[int, Event] = {}
        self.opens = [step for step, piece in enumerate(tokens[0]) if piece.opens]
        self.env.process(self.serve())

    def serve(self) -> Happening:
        """Let the flash read, one job at a time."""
        while True:
            seconds, size, token, step, early, done = yield self.queue.get()
            start = self.env.now
            yield self.device.draw(seconds, size / seconds, self.phone.hot_flash, DMA)
            self.note("flash", token, step, start, size, early)
            if not early:
                self.device.goal = 0.0
            done.succeed()

    def read(self, seconds: float, size: float, token: int, step: int, early: bool) -> Event:
        done = self.env.event()
        self.asked += size
        self.queue.put((seconds, size, token, step, early, done))
        return done

    def note(
        self, lane: str, token: int, step: int, start: float, size: float, early: bool = False
    ) -> None:
        self.found.bars.append(Bar(lane, step, token, start, self.env.now, size, early))

    def read_ahead(self, token: int, opener: int) -> None:
        """Read ahead for the layer that begins at ``opens[opener]``."""
        if token == len(self.tokens):
            return
        stops = [*self.opens[1:], len(self.tokens[token])]
        for step in range(self.opens[opener], stops[opener]):
            piece = self.tokens[token][step]
            if piece.ahead:
                read = self.read(piece.ahead, piece.ahead_moved, token, step, True)
                self.early[token, step] = read

    def all_tokens(self) -> Happening:
        for opener in range(min(self.depth, len(self.opens))):
            self.read_ahead(0, opener)
        for token, pieces in enumerate(self.tokens):
            self.found.spent.append([0.0] * 5)
            for step, piece in enumerate(pieces):
                yield from self.take(piece, token, step)
        self.found.end = self.env.now

    def hidden(self, piece: Piece, slower: float, flash: float) -> float:
        """Return the share of the use that runs while the flash reads.

        Args:
            slower: how many times as long the use of weights takes.
            flash: seconds of the read.
        """
        weights = piece.hit + (0.0 if self.paper else piece.miss)
        use = weights * slower + piece.kv
        if not use:
            return 0.0
        size = (weights - piece.arithmetic) * self.phone.weights + piece.kv * self.phone.kv
        left = self.phone.dram - self.phone.background - size / use
        if piece.moved:
            flash = max(flash, piece.moved / left if left > 0 else inf)
        slow = piece._replace(flash=flash, hit=piece.hit * slower, miss=piece.miss * slower)
        return hidden_seconds(slow, self.mode, self.a) / use

    def take(self, piece: Piece, token: int, step: int) -> Happening:
        """Let a token take one step."""
        device, spent, share = self.device, self.found.spent[token], 0.0
        if step in self.tails:
            start = self.env.now
            yield self.tails.pop(step)
            spent[FLASH] += self.env.now - start
        waits = [self.early[token, step]] if (token, step) in self.early else []
        if piece.flash:
            device.goal = self.asked + self.a * piece.moved
            waits.append(self.read(piece.flash, piece.moved, token, step, False))
        if piece.opens:
            place, layers = self.opens.index(step), len(self.opens)
            coming = [(token, place + self.depth)] if place + self.depth < layers else []
            if place == layers - 1:
                coming = [(token + 1, opener) for opener in range(min(self.depth, layers))]
            for other, opener in coming:
                self.read_ahead(other, opener)
        if piece.flash and device.is_hot:
            share = self.hidden(piece, self.slower, piece.flash / self.phone.hot_flash)
        elif piece.flash:
            share = self.hidden(piece, 1.0, piece.flash)
        yield from self.use(piece, share, token, step)
        start = self.env.now
        yield self.env.all_of(waits)
        spent[FLASH] += self.env.now - start
        device.goal = 0.0
        if piece.tail:
            read = self.read(piece.tail, piece.tail_moved, token, piece.tail_for, True)
            self.tails[piece.tail_for] = read
        yield from self.use(piece, 1 - share, token, step)
        if self.paper:
            return
        start = self.env.now
        if piece.sync:
            yield self.env.timeout(piece.sync)
            spent[SYNC] += self.env.now - start
            self.note("sync", token, step, start, 0.0)
        start = self.env.now
        if piece.copy:
            size = 2 * piece.copied  # read once, written once
            yield device.draw(piece.copy, size / piece.copy, 1.0, COPY)
            spent[MANAGEMENT] += self.env.now - start
            self.note("management", token, step, start, size)

    def use(self, piece: Piece, share: float, token: int, step: int) -> Happening:
        """Use a share of a step's weights and KV."""
        weights = piece.hit + (0.0 if self.paper else piece.miss)
        use = weights + piece.kv
        if share * use <= 1e-15:
            return
        hot = use / (weights * self.slower + piece.kv)
        brought = weights - piece.arithmetic
        rate = (self.phone.weights * brought + self.phone.kv * piece.kv) / use
        start = self.env.now
        yield self.device.draw(share * use, rate, hot, USE)
        took = self.env.now - start
        cold = min(max(self.phone.after - start, 0.0), took)
        kv = piece.kv / use * (cold + (took - cold) * hot)
        spent = self.found.spent[token]
        spent[DRAM] += kv
        computed = (took - kv) * piece.arithmetic / weights if weights else 0.0
        spent[COMPUTE] += computed
        brings = COMPUTE if self.phone.kernel and not self.paper else DRAM
        spent[brings] += took - kv - computed
        self.note("compute", token, step, start, share * use * rate)


def simulate(
    tokens: list[list[Piece]], mode: str, a: float, phone: Phone, depth: int = 1
) -> Recorded:
    """Return what happens when every token takes its steps, one after the other; guesses go out
    ``depth`` layers ahead."""
    if mode.startswith("paper"):
        phone = phone._replace(dram=inf, background=0.0, after=inf)
    twin = Twin(tokens, mode, a, phone, depth)
    twin.env.run(twin.env.process(twin.all_tokens()))
    twin.env.run()  # what is still read
    return twin.found
