"""Time as discrete events: what happens when flash, DRAM and compute get into each other's way.

A token takes its steps one after the other, as in closed.py. But here flash reads and the use of
weights draw on one DRAM bandwidth (dram.py), reads for the next layer may be under way, other
programs take their part, and the device may get hot. Where none of that matters both give the same
times.

SimPy keeps the events: a token is done, the device gets hot. Between two of them the token goes on
by arithmetic, as nobody else acts. The only module that imports simpy; the clock is SimPy's, never
the host's.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from simpy import Environment, Event

from dipsim.settings import Overlap
from dipsim.timeline.blocks import Blocks
from dipsim.timeline.closed import (
    COMPUTE,
    DRAM,
    FLASH,
    MANAGEMENT,
    RESOURCES,
    SYNC,
    Chain,
    Machine,
    Step,
    Times,
    is_paper,
)
from dipsim.timeline.dram import COPY, USE, Dram, Draw, Read
from dipsim.timeline.passing import tails_meet
from dipsim.timeline.work import Work

Happening = Generator[Event, Any, None]


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


class _Simulation:
    """The tokens of a run on a machine."""

    def __init__(
        self,
        chain: Chain,
        tokens: int,
        how: tuple[Overlap, float, Machine],
        spans_of: int,
        depth: int,
    ) -> None:
        machine = how[-1]
        self.env, self.dram = Environment(), Dram(machine)
        if spans_of:
            self.dram.draws, self.dram.served = [], []
        self.hot_from = float("inf") if machine.heat is None else machine.heat.after
        if self.hot_from <= 0:
            self.dram.heat_up(0.0)
        elif machine.heat is not None:
            self.env.timeout(self.hot_from).callbacks.append(self._heat_up)
        self.chain, self.tokens = chain, tokens
        self.blocks = Blocks(chain, tokens, *how)
        self.weights_are = COMPUTE if machine.compute_bound else DRAM
        self.exposed = np.zeros((tokens, len(RESOURCES)))
        self.spans: list[Span] = []
        self.spans_of = spans_of
        self.reads_ahead = any(
            isinstance(step.ahead, np.ndarray) and step.ahead.any() for step in chain
        )
        self.step_by_step = spans_of > 0 or self.reads_ahead or tails_meet(chain, machine)
        self.opens = [i for i, step in enumerate(chain) if step.opens_layer]
        self.depth = depth
        self.opener_of = {step: i for i, step in enumerate(self.opens) if self.reads_ahead}
        self.early: dict[tuple[int, int], int] = {}
        """Reads that went out early, by token and step: their numbers in DRAM."""
        self.tails: dict[str, int] = {}
        """Keys and values on their way, by the place that needs them: likewise."""

    def run(self) -> None:
        """Simulate all tokens."""
        self.env.run(self.env.process(self._all_tokens()))
        self.dram.finish()

    def _heat_up(self, _: Event) -> None:
        self.dram.heat_up(self.env.now)

    def _all_tokens(self) -> Happening:
        self.dram.horizon = self.env.peek()
        if self.reads_ahead:
            self._read_first_layers(0)
        for token in range(self.tokens):
            if self.step_by_step or not self._passes(token):
                yield from self._take_steps(token)
            if self.dram.horizon < float("inf"):
                yield from self._let_happen()
        yield from self._let_happen()

    def _let_happen(self) -> Happening:
        """Let everything happen that is to happen until the token's clock."""
        yield self.env.timeout(max(self.dram.now - self.env.now, 0.0))  # they may round apart
        self.dram.horizon = self.env.peek()

    def _passes(self, token: int) -> bool:
        """Let a token pass at once; return False if something will happen meanwhile."""
        exposed, moved = self.blocks.passing(token, self.dram.is_hot)
        if self.dram.now + sum(exposed) > self.dram.horizon:
            return False
        self.dram.pass_by(sum(exposed), moved)
        self.exposed[token] = exposed
        return True

    def _take_steps(self, token: int) -> Happening:
        dram, spent = self.dram, [0.0] * len(RESOURCES)
        for step, work in enumerate(self.blocks.works(token)):
            hidden = 0.0
            if self.tails:
                late = self.tails.pop(self.chain[step].place, 0)
                yield from self._wait(late, spent)
            if work.flash or work.ahead or step in self.opener_of:
                hidden = yield from self._read(work, token, step, spent)
            if work.tail:
                needed = self.chain[step].tail_place
                read = Read(work.tail, work.tail_moved, token, needed, True)
                self.tails[needed] = dram.read(read)
            if work.use > hidden:
                yield from self._use(work, work.use - hidden, token, step, spent)
            if work.sync:
                start = dram.now
                dram.now += work.sync
                spent[SYNC] += work.sync
                self._note("sync", token, step, start, 0.0)
                if dram.now > dram.horizon:
                    yield from self._let_happen()
            if work.copy:
                start, left = dram.now, work.copy
                while left := dram.draw(left, work.copy_rate, 1.0, COPY):
                    yield from self._let_happen()
                spent[MANAGEMENT] += dram.now - start
                self._note("management", token, step, start, work.copy * work.copy_rate)
        self.exposed[token] = spent

    def _read(
        self, work: Work[float], token: int, step: int, spent: list[float]
    ) -> Generator[Event, Any, float]:
        """Let the flash read for a step while the token uses what it can, then wait for it.

        Returns:
            The seconds of using weights and KV that are done.
        """
        dram, hidden = self.dram, 0.0
        number = self.early.pop((token, step), 0) if work.ahead else 0
        if work.flash:
            read = Read(work.flash, work.moved, token, self.chain[step].place, False)
            number = dram.demand(read, work.beside)
        if step in self.opener_of:
            opener = self.opener_of[step]
            if opener + self.depth < len(self.opens):
                self._read_ahead(token, opener + self.depth)
            if opener + 1 == len(self.opens):
                self._read_first_layers(token + 1)
        if work.flash:
            hidden = work.hidden_hot if dram.is_hot else work.hidden
            if hidden:
                yield from self._use(work, hidden, token, step, spent)
        yield from self._wait(number, spent)
        dram.owed = 0.0
        return hidden

    def _wait(self, number: int, spent: list[float]) -> Happening:
        """Wait until so many reads are done."""
        start = self.dram.now
        while not self.dram.wait(number):
            yield from self._let_happen()
        spent[FLASH] += self.dram.now - start

    def _read_first_layers(self, token: int) -> None:
        """Send out the guesses for the layers of a token that no layer of its own is so long
        before."""
        for opener in range(min(self.depth, len(self.opens)) if token < self.tokens else 0):
            self._read_ahead(token, opener)

    def _read_ahead(self, token: int, opener: int) -> None:
        """Send out the guesses for the layer whose first group is step ``opens[opener]``."""
        works = self.blocks.works(token)
        after = self.opens[opener + 1] if opener + 1 < len(self.opens) else len(works)
        for step in range(self.opens[opener], after):
            work = works[step]
            if work.ahead:
                place = self.chain[step].place
                read = Read(work.ahead, work.ahead_moved, token, place, True)
                self.early[token, step] = self.dram.read(read)

    def _use(
        self, work: Work[float], seconds: float, token: int, step: int, spent: list[float]
    ) -> Happening:
        """Use weights and KV."""
        dram = self.dram
        start, left = dram.now, seconds
        while left := dram.draw(left, work.rate, work.hot, USE):
            yield from self._let_happen()
        took = dram.now - start
        kv = took * work.kv_share
        if work.hot < 1 and dram.now > self.hot_from:  # then only weights take longer
            cold = max(0.0, self.hot_from - start)
            kv = work.kv_share * (cold + (took - cold) * work.hot)
        spent[DRAM] += kv
        arithmetic = (took - kv) * work.arithmetic
        spent[COMPUTE] += arithmetic
        spent[self.weights_are] += took - kv - arithmetic
        self._note("compute", token, step, start, seconds * work.rate)

    def _note(self, lane: str, token: int, step: int, start: float, size: float) -> None:
        """Keep the span of what the token did until now, if it was asked for."""
        if token < self.spans_of:
            place = self.chain[step].place
            self.spans.append(Span(lane, place, token, start, self.dram.now, size))

    def all_spans(self) -> list[Span]:
        """Return the spans of tokens and flash, in the order in which they ended."""
        reads = [
            Span("flash", read.place, read.token, start, end, read.bytes, read.early)
            for read, start, end in self.dram.served or ()
            if read.token < self.spans_of
        ]
        return sorted(self.spans + reads, key=lambda span: span.end)


def simulate_events(
    chain: Iterable[Step],
    tokens: int,
    overlap: Overlap,
    a: float,
    machine: Machine,
    spans_of: int = 0,
    depth: int = 1,
) -> Timeline:
    """Let the steps of every token happen.

    Args:
        chain: the steps of a token, arrays [tokens].
        a: overlap factor of ``pipelined`` and ``prefetch``: which share of the use of weights that
            could run while the flash reads for the same step does so, 0 to 1.
        spans_of: of how many tokens, from the first, spans are wanted.
        depth: guesses go out as the layer so many before begins, those for the first layers of a
            token as the last layer of the one before does.
    """
    if is_paper(overlap):  # the authors' simulator: nobody shares, nothing gets hot
        machine = machine._replace(
            dram=float("inf"), background=0.0, heat=None, compute_bound=False
        )
    steps = chain if isinstance(chain, Chain) else Chain(chain)
    simulation = _Simulation(steps, tokens, (overlap, a, machine), spans_of, depth)
    simulation.run()
    exposed: NDArray[np.float64] = simulation.exposed
    return Timeline(
        times=Times(exposed.sum(axis=1), exposed),
        spans=simulation.all_spans(),
        draws=simulation.dram.draws or [],
        moved=tuple(simulation.dram.moved),
        end=float(simulation.env.now),
    )
