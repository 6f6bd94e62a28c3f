"""Time as discrete events: what happens when flash, DRAM and compute get into each other's way.

A token takes its steps one after the other, as in closed.py. But here flash reads and the use of
weights draw on one DRAM bandwidth, reads for the next layer may be under way, other programs take
their part, and the device may get hot. Where none of that matters both give the same times.

The only module that imports simpy; the clock is SimPy's, never the host's.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from simpy import Environment, Event

from dipsim.settings import Overlap
from dipsim.timeline.closed import (
    COMPUTE,
    DRAM,
    FLASH,
    MANAGEMENT,
    RESOURCES,
    SYNC,
    Machine,
    Seconds,
    Step,
    Times,
    hidden_seconds,
    is_paper,
    used_weights,
)

Steps = Generator[Event, Any, None]
DMA, USE, COPY = range(3)
"""Readers and writers of DRAM."""
_BLOCK = 256
"""Tokens whose steps are at hand as plain numbers, which take ten times the room of arrays."""


class Span(NamedTuple):
    """Something busy: one bar of a timeline."""

    lane: str
    """``flash``, ``compute``, ``sync`` or ``management``."""
    place: str
    token: int
    start: float
    end: float
    bytes: float
    early: bool = False
    """A read that went out ahead of its step."""


class Draw(NamedTuple):
    """Somebody (`DMA`, `USE` or `COPY`) who draws on DRAM at one rate for a while."""

    reader: int
    start: float
    end: float
    rate: float
    """Bytes per second."""


@dataclass(frozen=True)
class Timeline:
    """Times, spans and draws of a simulation."""

    times: Times
    spans: list[Span]
    """Spans of the first tokens, as many as were asked for."""
    draws: list[Draw]
    """Draws of all tokens, if spans were asked for."""
    moved: tuple[float, ...]
    """Bytes that went through DRAM, and who moved them: `DMA` of the flash, `USE` of weights and
    KV, `COPY` into the cache (read and written). Summed up while they flowed."""
    end: float
    """When the last token was done, seconds."""


class _Flow:
    """Work that draws on DRAM: ``left`` seconds at full speed, when it moves ``rate`` bytes/s."""

    __slots__ = ("armed", "done", "hot", "left", "rate", "reader", "since", "speed")

    def __init__(self, done: Event, seconds: float, rate: float, hot: float, reader: int) -> None:
        self.done, self.left, self.rate, self.hot = done, seconds, rate, hot
        self.reader = reader
        self.speed = self.since = 0.0
        self.armed = 0


class _Dram:
    """Bandwidth that other programs leave, shared by the flash and by whatever the token does."""

    def __init__(self, env: Environment, machine: Machine) -> None:
        self.env, self.machine = env, machine
        self.room = machine.dram - machine.background
        self.flows: list[_Flow] = []
        """At most two: one of the flash, one of the token."""
        self.goal = 0.0
        """Bytes the flash should have moved, since the start, when the token stops to wait."""
        self.wanted = machine.background
        self.short = False
        self.moved = [0.0] * 3
        """Bytes, by reader, summed up while they flow."""
        self.draws: list[Draw] | None = None
        """Draws so far; None as long as nobody asks."""
        heat = machine.heat
        self.hot_from = float("inf") if heat is None else heat.after
        self.is_hot = self.hot_from <= 0
        if heat is not None and not self.is_hot:
            env.timeout(heat.after).callbacks.append(self._heat_up)

    def alone(
        self, seconds: float, rate: float, hot: float, reader: int, start: float
    ) -> float | None:
        """Return how long work takes that begins at ``start`` while nobody else draws.

        None if somebody does, or if the device gets hot meanwhile: then `draw` it.
        """
        if self.flows:
            return None
        speed = 1.0 if start < self.hot_from else hot
        if rate * speed + self.machine.background > self.machine.dram:
            speed = min(self.room / rate, speed)
        took = seconds / speed
        if start < self.hot_from < start + took:
            return None
        self.moved[reader] += seconds * rate
        if self.draws is not None:
            self.draws.append(Draw(reader, start, start + took, rate * speed))
        return took

    def draw(self, seconds: float, rate: float, hot: float, reader: int) -> Event:
        """Work of so many seconds at full speed, for one of the readers; the event of its end."""
        flow = _Flow(Event(self.env), seconds, rate, hot, reader)
        self.begin(flow)
        return flow.done

    def begin(self, flow: _Flow) -> None:
        """Let a flow run; its ``done`` happens when its work is done."""
        flow.since = self.env.now
        self.flows.append(flow)
        limit = flow.hot if self.is_hot else 1.0
        self.wanted += flow.rate * limit
        if self.short or self.wanted > self.machine.dram:
            self._share()
        else:
            self._run(flow, limit)

    def _run(self, flow: _Flow, speed: float) -> None:
        flow.speed = speed
        flow.armed += 1
        number = flow.armed
        timer = self.env.timeout(flow.left / speed if flow.left else 0.0)
        timer.callbacks.append(lambda _: self._end(flow) if flow.armed == number else None)

    def _note(self, flow: _Flow) -> None:
        if self.draws is not None and flow.since < self.env.now:
            rate = flow.rate * flow.speed
            self.draws.append(Draw(flow.reader, flow.since, self.env.now, rate))

    def _end(self, flow: _Flow) -> None:
        self.moved[flow.reader] += flow.left * flow.rate
        self._note(flow)
        self.flows.remove(flow)
        if self.flows:
            self.wanted -= flow.rate * (flow.hot if self.is_hot else 1.0)
        else:
            self.wanted = self.machine.background
        if self.short:
            self._share()
        flow.done.succeed()

    def _share(self) -> None:
        """Work out anew how fast everybody goes."""
        now = self.env.now
        self.short = self.wanted > self.machine.dram
        for flow in self.flows:
            done = (now - flow.since) * flow.speed
            flow.left = max(flow.left - done, 0.0)
            self.moved[flow.reader] += done * flow.rate
            self._note(flow)
            flow.since = now
        for flow, speed in zip(self.flows, self._speeds(), strict=True):
            if speed != flow.speed:
                self._run(flow, speed)

    def _speeds(self) -> list[float]:
        """Share of its full speed at which each flow goes."""
        limits = [flow.hot if self.is_hot else 1.0 for flow in self.flows]
        if not self.short:
            return limits
        wants = [flow.rate * limit for flow, limit in zip(self.flows, limits, strict=True)]
        given = zip(self.flows, limits, self._grants(wants), strict=True)
        return [min(grant / f.rate, limit) if f.rate else limit for f, limit, grant in given]

    def _grants(self, wants: list[float]) -> list[float]:
        """Bytes per second for each flow, of what all together want too much of.

        The flash gets what the token leaves, and more where the token will wait for it: then both
        are done at the same time. Nobody waits yet for reads ahead, so they get up to one half.
        """
        if len(wants) == 1:
            return [self.room]
        flash = 0 if self.flows[0].reader == DMA else 1
        use = self.flows[1 - flash]
        owed = self.goal - self.moved[DMA]
        least = self.room / 2
        if owed > 0:
            least = self.room * owed / (owed + use.left * use.rate)
        grant = min(wants[flash], max(self.room - wants[1 - flash], least))
        return [grant, self.room - grant] if flash == 0 else [self.room - grant, grant]

    def _heat_up(self, _: Event) -> None:
        self.is_hot = True
        self.wanted = self.machine.background + sum(f.rate * f.hot for f in self.flows)
        self._share()


class _Flash:
    """Reads in the order in which they were asked for, one job at a time."""

    def __init__(self, env: Environment, dram: _Dram, note: Callable[..., None]) -> None:
        self.env, self.dram, self.note = env, dram, note
        heat = dram.machine.heat
        self.hot = 1.0 if heat is None else heat.flash
        self.waiting: deque[_Flow] = deque()
        self.busy = False
        self.since = self.asked = 0.0

    def read(self, seconds: float, moved: float, what: tuple[int, int, bool]) -> Event:
        """A job of so many seconds and bytes; the event that it is done."""
        flow = _Flow(Event(self.env), seconds, moved / seconds, self.hot, DMA)
        self.asked += moved
        # Its first callback: the next job begins before whoever waited for this one goes on.
        flow.done.callbacks.append(lambda _: self._end(moved, what))
        if self.busy:
            self.waiting.append(flow)
        else:
            self._begin(flow)
        return flow.done

    def _begin(self, flow: _Flow) -> None:
        self.busy, self.since = True, self.env.now
        self.dram.begin(flow)

    def _end(self, moved: float, what: tuple[int, int, bool]) -> None:
        self.note("flash", what, self.since, self.env.now, moved)
        self.busy = False
        if self.waiting:
            self._begin(self.waiting.popleft())


class _Work(NamedTuple):
    """One step of one token, in plain numbers."""

    flash: float
    moved: float
    beside: float
    """Bytes of ``moved`` that come while ``hidden`` runs, if there is time for so many."""
    hidden: float
    """Seconds of ``use`` that run while the flash reads; ``hidden_hot``, on a hot device."""
    hidden_hot: float
    use: float
    """Seconds of using weights and KV, at ``rate`` bytes/s; ``hot``, their speed when hot."""
    rate: float
    hot: float
    kv_share: float
    sync: float
    copy: float
    copy_rate: float
    ahead: float
    ahead_moved: float


def _work(step: Step, tokens: int, overlap: Overlap, a: float, machine: Machine) -> list[_Work]:
    """A step in plain numbers, token by token."""
    weights, kv = used_weights(step, overlap), step.kv
    use = weights + kv
    rate = machine.weights * weights + machine.kv * kv
    hot_weights, hot_flash, slower = weights, step.flash, 1.0
    if machine.heat is not None:
        slower = machine.heat.compute if machine.throttled else 1.0
        hot_weights, hot_flash = weights / slower, step.flash / machine.heat.flash
    with np.errstate(divide="ignore", invalid="ignore"):
        hot = np.where(use > 0, use / (hot_weights + kv), 1.0)
        rate = np.where(use > 0, rate / use, 0.0)
        kv_share = np.where(use > 0, kv / use, 0.0)
        copy = np.zeros(tokens) + (0.0 if is_paper(overlap) else step.management)
        copy_rate = np.where(copy > 0, 2 * step.copied / copy, 0.0)  # read once, written once
    hidden = hidden_seconds(_slowed(step, machine, rate), overlap, a)
    hot_step = step._replace(hit=step.hit / slower, miss=step.miss / slower, flash=hot_flash)
    hidden_hot = hidden_seconds(_slowed(hot_step, machine, rate * hot), overlap, a)
    columns = (
        *(step.flash, step.moved, a * np.asarray(step.moved), hidden, hidden_hot * hot),
        *(use, rate, hot, kv_share),
        *(0.0 if is_paper(overlap) else step.sync, copy, copy_rate, step.ahead, step.ahead_moved),
    )
    plain = [np.broadcast_to(np.asarray(column, np.float64), tokens).tolist() for column in columns]
    return [_Work(*row) for row in zip(*plain, strict=True)]


def _slowed(step: Step, machine: Machine, rate: Seconds) -> Step:
    """Return the step with the flash as slow as it gets beside a use at ``rate`` bytes/s.

    Without it, a faster flash would have less time to hide its reads in.
    """
    left = np.maximum(machine.dram - machine.background - rate, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        beside = np.where((step.flash > 0) & (step.moved > 0), step.moved / left, 0.0)
    return step._replace(flash=np.maximum(step.flash, beside))


class _Simulation:
    """The tokens of a run on a machine."""

    def __init__(
        self, chain: Sequence[Step], tokens: int, overlap: Overlap, a: float, machine: Machine
    ) -> None:
        self.env = env = Environment()
        self.dram = _Dram(env, machine)
        self.flash = _Flash(env, self.dram, self._note)
        self.tokens = tokens
        self.places = [step.place for step in chain]
        self.chain, self.how = chain, (overlap, a, machine)
        self.blocks: dict[int, list[tuple[_Work, ...]]] = {}
        self.weights_are = COMPUTE if machine.compute_bound and not is_paper(overlap) else DRAM
        self.exposed = np.zeros((tokens, len(RESOURCES)))
        self.spans: list[Span] = []
        self.noted = 0
        """Tokens whose spans are kept."""
        self.early: dict[tuple[int, int], Event] = {}
        self.opens = [i for i, step in enumerate(chain) if step.opens_layer]
        self.reads_ahead = any(np.any(step.ahead) for step in chain)
        self.owed = 0.0
        """Seconds that the token is ahead of the clock: what it does alone need not happen in small
        steps. It catches up before it asks for anything while somebody else is at work."""

    def run(self) -> None:
        """Simulate all tokens."""
        self.env.run(self.env.process(self._all_tokens()))

    def _note(
        self, lane: str, what: tuple[int, int, bool], start: float, end: float, size: float
    ) -> None:
        token, step, early = what
        if token < self.noted:
            self.spans.append(Span(lane, self.places[step], token, start, end, size, early))

    def _work_of(self, token: int) -> tuple[_Work, ...]:
        """Return the work of a token, step by step."""
        number, place = divmod(token, _BLOCK)
        if number not in self.blocks:
            first, last = number * _BLOCK, min((number + 1) * _BLOCK, self.tokens)
            parts = (step.of_tokens(slice(first, last)) for step in self.chain)
            works = [_work(part, last - first, *self.how) for part in parts]
            before = {key: block for key, block in self.blocks.items() if key == number - 1}
            self.blocks = {**before, number: list(zip(*works, strict=True))}
        return self.blocks[number][place]

    def _layer_opened_by(self, opener: int) -> range:
        """Return the steps of the layer whose first group is step ``opens[opener]``."""
        first = self.opens[opener]
        after = self.opens[opener + 1] if opener + 1 < len(self.opens) else len(self.places)
        return range(first, after)

    def _read_ahead(self, token: int, opener: int) -> None:
        """Send out the guesses for a layer."""
        if token >= self.tokens:
            return
        works = self._work_of(token)
        for step in self._layer_opened_by(opener):
            work = works[step]
            if work.ahead:
                read = self.flash.read(work.ahead, work.ahead_moved, (token, step, True))
                self.early[token, step] = read

    def _all_tokens(self) -> Steps:
        if self.reads_ahead:
            self._read_ahead(0, 0)
        opener_of = {step: i for i, step in enumerate(self.opens)} if self.reads_ahead else {}
        for token in range(self.tokens):
            spent = [0.0] * len(RESOURCES)
            for step, work in enumerate(self._work_of(token)):
                yield from self._step(work, token, step, spent, opener_of.get(step))
            self.exposed[token] = spent
        yield from self._catch_up()

    def _catch_up(self) -> Steps:
        """Let the time pass that is owed."""
        if self.owed:
            owed, self.owed = self.owed, 0.0
            yield self.env.timeout(owed)

    def _draw(
        self, seconds: float, rate: float, hot: float, reader: int
    ) -> Generator[Event, Any, tuple[float, float]]:
        """Draw on DRAM; from when to when."""
        start = self.env.now + self.owed
        took = self.dram.alone(seconds, rate, hot, reader, start)
        if took is not None:
            self.owed += took
            return start, start + took
        yield from self._catch_up()
        start = self.env.now
        yield self.dram.draw(seconds, rate, hot, reader)
        return start, self.env.now

    def _step(
        self, work: _Work, token: int, step: int, spent: list[float], opener: int | None
    ) -> Steps:
        env, what = self.env, (token, step, False)
        early = self.early.pop((token, step), None) if self.reads_ahead else None
        hidden = 0.0
        if work.flash or opener is not None or early is not None:
            yield from self._catch_up()
            read = None
            if work.flash:
                self.dram.goal = self.flash.asked + work.beside
                read = self.flash.read(work.flash, work.moved, what)
            if opener is not None:
                last = opener + 1 == len(self.opens)
                self._read_ahead(token + last, 0 if last else opener + 1)
            hidden = work.hidden_hot if self.dram.is_hot else work.hidden
            if hidden:
                yield from self._use(work, hidden, what, spent)
                yield from self._catch_up()
            start = env.now
            if read is not None:
                yield read
            if early is not None:
                yield early
            self.dram.goal = 0.0
            spent[FLASH] += env.now - start
        if work.use > hidden:
            yield from self._use(work, work.use - hidden, what, spent)
        if work.sync:
            start = env.now + self.owed
            self.owed += work.sync
            spent[SYNC] += work.sync
            self._note("sync", what, start, start + work.sync, 0.0)
        if work.copy:
            start, end = yield from self._draw(work.copy, work.copy_rate, 1.0, COPY)
            spent[MANAGEMENT] += end - start
            self._note("management", what, start, end, work.copy * work.copy_rate)

    def _use(
        self, work: _Work, seconds: float, what: tuple[int, int, bool], spent: list[float]
    ) -> Steps:
        """Use weights and KV."""
        start, end = yield from self._draw(seconds, work.rate, work.hot, USE)
        took = end - start
        kv = took * work.kv_share
        if work.hot < 1 and end > self.dram.hot_from:  # then only weights take longer
            cold = max(0.0, self.dram.hot_from - start)
            kv = work.kv_share * (cold + (took - cold) * work.hot)
        spent[DRAM] += kv
        spent[self.weights_are] += took - kv
        self._note("compute", what, start, end, seconds * work.rate)


def simulate_events(
    chain: Iterable[Step],
    tokens: int,
    overlap: Overlap,
    a: float,
    machine: Machine,
    spans_of: int = 0,
) -> Timeline:
    """Let the steps of every token happen.

    Args:
        chain: the steps of a token, arrays [tokens].
        a: overlap factor of ``pipelined`` and ``prefetch``: which share of the use of weights that
            could run while the flash reads for the same step does so, 0 to 1.
        spans_of: of how many tokens, from the first, spans are wanted.
    """
    if is_paper(overlap):  # the authors' simulator: nobody shares, nothing gets hot
        machine = machine._replace(dram=float("inf"), background=0.0, heat=None)
    simulation = _Simulation(list(chain), tokens, overlap, a, machine)
    simulation.noted = spans_of
    if spans_of:
        simulation.dram.draws = []
    simulation.run()
    exposed: NDArray[np.float64] = simulation.exposed
    return Timeline(
        times=Times(exposed.sum(axis=1), exposed),
        spans=simulation.spans,
        draws=simulation.dram.draws or [],
        moved=tuple(simulation.dram.moved),
        end=float(simulation.env.now),
    )
