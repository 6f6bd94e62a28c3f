"""A naive twin of the discrete-event engine: fluid flows, moved on from one change to the next.

Everything here is made of plain lists, dicts and floats and shares no code with dipsim. Tokens take
their steps one after the other; whenever somebody is waited for, all who draw on DRAM go on
together until the next of them is done or the device gets hot, and then speeds are worked out anew.

* `Piece`: what one token does in one step. `Phone`: what its pieces share.
* `simulate`: seconds per token and cause, bytes moved, and who was busy when.
* `draw_guesses`: the guesses of a predictor that is right to a given share.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from naive.draws import MASK64, splitmix64

FLASH, DRAM, COMPUTE, SYNC, MANAGEMENT = range(5)
DMA, USE, COPY = range(3)


class Piece(NamedTuple):
    """One step of one token: seconds when nothing is in the way, and bytes."""

    flash: float = 0.0
    moved: float = 0.0
    hit: float = 0.0
    miss: float = 0.0
    kv: float = 0.0
    reads: float = 0.0
    arithmetic: float = 0.0
    """Part of hit and miss in which nothing comes from DRAM."""
    sync: float = 0.0
    copy: float = 0.0
    copied: float = 0.0
    ahead: float = 0.0
    ahead_moved: float = 0.0
    tail: float = 0.0
    tail_moved: float = 0.0
    """Reads for the step ``tail_for``, asked for when the own ones of this step are done."""
    tail_for: int = 0
    static: bool = False
    opens: bool = False


class Phone(NamedTuple):
    """DRAM and what others take of it, rates of use (bytes per second), and how it throttles."""

    dram: float = math.inf
    background: float = 0.0
    weights: float = 1.0
    kv: float = 1.0
    kernel: bool = False
    after: float = math.inf
    """Seconds until it gets hot; then flash and kernels have these shares of their speed."""
    hot_flash: float = 1.0
    hot_kernel: float = 1.0
    cpu: bool = False
    """Its clocks bring weights from DRAM, so heat slows their use even where DRAM limits it."""


class Bar(NamedTuple):
    """Something busy from start to end."""

    lane: str
    step: int
    token: int
    start: float
    end: float
    size: float
    early: bool


@dataclass
class Found:
    """What a simulation came to."""

    spent: list[list[float]] = field(default_factory=list)
    """Per token, seconds by cause."""
    moved: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    bars: list[Bar] = field(default_factory=list)
    end: float = 0.0


class Flow:
    """Bytes that go through DRAM; alone it takes ``cold`` seconds, or ``hot`` on a hot device."""

    def __init__(self, size: float, cold: float, hot: float, who: int) -> None:
        self.size, self.cold, self.hot, self.who = size, cold, hot, who
        self.left = 1.0
        """Of the work, not of its bytes: it may have none."""


class World:
    """The device as time goes by."""

    def __init__(self, phone: Phone) -> None:
        self.phone, self.now, self.found = phone, 0.0, Found()
        self.flows: list[Flow] = []
        self.queue: list[tuple[Flow, int, int, bool]] = []
        """Reads of the flash: the first one is being served."""
        self.served_since = 0.0
        self.asked = 0.0
        """Bytes that the flash was ever asked for."""
        self.goal = 0.0
        """As many of them are to have come when the token is done with what it does now."""

    @property
    def is_hot(self) -> bool:
        return self.now >= self.phone.after

    def speeds(self) -> list[float]:
        """Return which share of its work each flow does in a second."""
        alone = [1 / (flow.hot if self.is_hot else flow.cold) for flow in self.flows]
        wants = [flow.size * speed for flow, speed in zip(self.flows, alone, strict=True)]
        room = self.phone.dram - self.phone.background
        if sum(wants) <= room:
            return alone
        gets = {flow.who: min(want, room) for flow, want in zip(self.flows, wants, strict=True)}
        if len(gets) == 2:
            [token] = [flow for flow in self.flows if flow.who != DMA]
            missing = self.goal - self.found.moved[DMA]
            half = missing / (missing + token.size * token.left) if missing > 0 else 0.5
            gets[DMA] = min(gets[DMA], max(room - gets[token.who], room * half))
            gets[token.who] = room - gets[DMA]
        return [
            speed * (gets[flow.who] / want if want else 1.0)
            for flow, speed, want in zip(self.flows, alone, wants, strict=True)
        ]

    def step_on(self, until: float = math.inf) -> float:
        """Move on to the next change, at most to ``until``; return the seconds that took."""
        speeds = self.speeds()
        ends = [
            self.now + (flow.left / v if v else math.inf)
            for flow, v in zip(self.flows, speeds, strict=True)
        ]
        heat = self.phone.after if self.now < self.phone.after else math.inf
        then = min([until, heat, *ends])
        took = then - self.now
        for flow, speed, end in zip(list(self.flows), speeds, ends, strict=True):
            done = flow.left if end == then else speed * took
            flow.left -= done
            self.found.moved[flow.who] += done * flow.size
            if end == then:
                self.flows.remove(flow)
        self.now = then
        if self.queue and self.queue[0][0] not in self.flows:
            flow, token, step, early = self.queue.pop(0)
            bar = Bar("flash", step, token, self.served_since, then, flow.size, early)
            self.found.bars.append(bar)
            if not early:
                self.goal = 0.0
            self.serve()
        return took

    def serve(self) -> None:
        """Let the flash begin with the first of its reads."""
        if self.queue:
            self.flows.append(self.queue[0][0])
            self.served_since = self.now

    def read(self, seconds: float, size: float, token: int, step: int, early: bool) -> Flow:
        """Ask the flash for something."""
        flow = Flow(size, seconds, seconds / self.phone.hot_flash, DMA)
        self.asked += size
        self.queue.append((flow, token, step, early))
        if len(self.queue) == 1:
            self.serve()
        return flow

    def waits(self, flow: Flow) -> bool:
        return flow in self.flows or any(flow is waiting for waiting, *_ in self.queue)


def hidden_seconds(piece: Piece, mode: str, a: float) -> float:
    """Return how much of the use of weights runs while the flash reads."""
    if mode in ("serial", "paper-serial"):
        return 0.0
    if mode == "paper-concurrent":
        return 0.0 if piece.static else min(piece.flash, piece.hit + piece.kv)
    if piece.reads == 0:
        return 0.0
    loaded_before_the_last_read = piece.miss * (piece.reads - 1) / piece.reads
    return a * min(piece.flash, piece.hit + piece.kv + loaded_before_the_last_read)


def simulate(tokens: list[list[Piece]], mode: str, a: float, phone: Phone, depth: int = 1) -> Found:
    """Return what happens when every token takes its steps, one after the other; guesses go out
    ``depth`` layers ahead."""
    if mode.startswith("paper"):
        phone = phone._replace(dram=math.inf, background=0.0, after=math.inf)
    world = World(phone)
    steps = len(tokens[0])
    opens = [step for step in range(steps) if tokens[0][step].opens]
    early: dict[tuple[int, int], Flow] = {}
    tails: dict[int, Flow] = {}

    def send_out(token: int, place: int) -> None:
        """Read ahead for the layer that begins at ``opens[place]``."""
        if token == len(tokens):
            return
        stop = opens[place + 1] if place + 1 < len(opens) else steps
        for step in range(opens[place], stop):
            piece = tokens[token][step]
            if piece.ahead:
                flow = world.read(piece.ahead, piece.ahead_moved, token, step, True)
                early[token, step] = flow

    for place in range(min(depth, len(opens))):
        send_out(0, place)
    for token, pieces in enumerate(tokens):
        spent = [0.0] * 5
        world.found.spent.append(spent)
        for step, piece in enumerate(pieces):
            reading = []
            if step in tails:
                flow = tails.pop(step)
                while world.waits(flow):
                    spent[FLASH] += world.step_on()
            if piece.flash:
                world.goal = world.asked + a * piece.moved
                reading.append(world.read(piece.flash, piece.moved, token, step, False))
            if piece.opens:
                place = opens.index(step)
                if place + depth < len(opens):
                    send_out(token, place + depth)
                if place + 1 == len(opens):
                    for first in range(min(depth, len(opens))):
                        send_out(token + 1, first)
            if (token, step) in early:
                reading.append(early.pop((token, step)))
            _take(world, piece, mode, a, token, step, reading, spent, tails)
    world.found.end = world.now
    while world.flows:
        world.step_on()
    return world.found


def _take(
    world: World,
    piece: Piece,
    mode: str,
    a: float,
    token: int,
    step: int,
    reading: list[Flow],
    spent: list[float],
    tails: dict[int, Flow],
) -> None:
    """Let a token take one step whose reads were asked for."""
    phone, paper = world.phone, mode.startswith("paper")
    slower = phone.hot_kernel if phone.kernel or phone.cpu else 1.0
    weights = piece.hit + (0.0 if paper else piece.miss)
    cold, hot = weights + piece.kv, weights / slower + piece.kv
    size = (weights - piece.arithmetic) * phone.weights + piece.kv * phone.kv
    room = phone.dram - phone.background

    def beside(flash: float, total: float) -> float:
        """Return the seconds of a read beside a use that takes ``total``."""
        left = room - (size / total if total else 0.0)
        if not piece.flash or not piece.moved:
            return flash
        return max(flash, piece.moved / left) if left > 0 else math.inf

    if world.is_hot:
        hot_piece = piece._replace(
            flash=beside(piece.flash / phone.hot_flash, hot),
            hit=piece.hit / slower,
            miss=piece.miss / slower,
        )
        share = hidden_seconds(hot_piece, mode, a) / hot if hot else 0.0
    else:
        cold_piece = piece._replace(flash=beside(piece.flash, cold))
        share = hidden_seconds(cold_piece, mode, a) / cold if cold else 0.0

    def use(part: float) -> None:
        if part * cold <= 1e-15:
            return
        start = world.now
        flow = Flow(size * part, cold * part, hot * part, USE)
        world.flows.append(flow)
        while flow in world.flows:
            kv = piece.kv / (hot if world.is_hot else cold)
            took = world.step_on()
            spent[DRAM] += took * kv
            computed = piece.arithmetic / weights if weights else 0.0
            spent[COMPUTE] += took * (1 - kv) * computed
            brings = COMPUTE if phone.kernel and not paper else DRAM
            spent[brings] += took * (1 - kv) * (1 - computed)
        note("compute", start, size * part)

    def note(lane: str, start: float, size: float) -> None:
        world.found.bars.append(Bar(lane, step, token, start, world.now, size, False))

    use(share)
    for flow in reading:
        while world.waits(flow):
            spent[FLASH] += world.step_on()
    world.goal = 0.0
    if piece.tail:
        needed = piece.tail_for
        tails[needed] = world.read(piece.tail, piece.tail_moved, token, needed, True)
    use(1 - share)
    if paper:
        return
    if piece.sync:
        start = world.now
        while world.now < start + piece.sync:
            spent[SYNC] += world.step_on(start + piece.sync)
        note("sync", start, 0.0)
    if piece.copy:
        start = world.now
        flow = Flow(2 * piece.copied, piece.copy, piece.copy, COPY)
        world.flows.append(flow)
        while flow in world.flows:
            spent[MANAGEMENT] += world.step_on()
        note("management", start, 2 * piece.copied)


def draw_guesses(needed: set[int], units: int, right: float, seed: int, row: int) -> set[int]:
    """Return as many units as are needed, ``right`` of them needed ones, the others not.

    Unit by unit, one is taken with the probability that what is still wanted has among what is
    still to come; the numbers are splitmix64 of seed, row and unit.
    """
    good = math.floor(right * len(needed) + 0.5)
    bad = min(len(needed) - good, units - len(needed))
    wanted = {True: good, False: bad}
    coming = {True: len(needed), False: units - len(needed)}
    guesses = set()
    stream = splitmix64((seed & MASK64) ^ splitmix64(row))
    for unit in range(units):
        kind = unit in needed
        number = (splitmix64(stream ^ unit) >> 11) / 2**53
        if number * coming[kind] < wanted[kind]:
            guesses.add(unit)
            wanted[kind] -= 1
        coming[kind] -= 1
    return guesses
