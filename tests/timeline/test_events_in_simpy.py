"""The events engine against its straightforward twin, in which all that happens is an event."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dipsim.timeline.closed import Heat, Machine, Step, idle_seconds
from dipsim.timeline.dram import COPY, DMA, USE, Draw
from dipsim.timeline.events import Timeline, simulate_events
from naive import events as naive_events
from naive.time import Phone, Piece

MODES = [
    *(("paper-serial", 0.0), ("paper-concurrent", 0.0), ("serial", 0.0)),
    *((overlap, a) for overlap in ("pipelined", "prefetch") for a in (0.0, 0.45, 1.0)),
]


def random_chain(rng: np.random.Generator, tokens: int, overlap: Any) -> list[Step]:
    """Page faults, layers of static weights with KV and one to three groups, and a head; half of
    them read beside their steps what one step needs, of this token or of the next one."""
    ahead = overlap == "prefetch"

    def some(share: float, most: float) -> np.ndarray:
        return rng.choice([0, 1], tokens, p=[1 - share, share]) * rng.uniform(0.05, most, tokens)

    def step(static: bool, opens: bool = False) -> Step:
        flash, copied = some(rng.choice([0, 0.7, 1]), 3), some(0.5, 1)
        early = some(0.6, 2) if ahead and not static else np.zeros(tokens)
        resident = some(0.8, 2)
        return Step(
            flash=flash,
            hit=resident,
            miss=some(0.9, 1) * (flash > 0),
            kv=some(0.7, 1) if static else np.zeros(tokens),
            reads=rng.integers(1, 5, tokens) * (flash > 0.0),
            sync=float(rng.choice([0, 0.23])),
            management=0.0 if static else copied * rng.uniform(0.2, 2),
            static=static,
            moved=flash * rng.uniform(0, 2, tokens),
            copied=copied,
            arithmetic=resident * some(rng.choice([0, 0, 0.6]), 1),
            ahead=early,
            ahead_moved=early * rng.uniform(0, 2, tokens),
            opens_layer=opens,
        )

    nothing = np.zeros(tokens)
    faults = Step(some(1, 1), nothing, nothing, nothing, nothing + 1, static=True, moved=some(1, 1))
    chain = [faults] if rng.random() < 0.5 else []
    for _ in range(rng.integers(1, 4)):
        chain += [step(True), *(step(False, opens=i == 0) for i in range(rng.integers(1, 4)))]
    chain.append(step(True))
    chain = [step._replace(place=str(number)) for number, step in enumerate(chain)]
    if rng.random() < 0.5:
        return chain
    needed = int(rng.integers(0, len(chain)))

    def reading(number: int) -> Step:
        idle = idle_seconds(chain[number], overlap) * (number != needed)
        tail = np.minimum(some(0.7, 1.5), idle)
        moved = tail * rng.uniform(0, 2, tokens)
        return chain[number]._replace(tail=tail, tail_moved=moved, tail_place=str(needed))

    return [reading(number) for number in range(len(chain))]


def pieces_of(chain: list[Step]) -> list[list[Piece]]:
    """Return the steps of each token, as the twin takes them."""
    names = {"copy": "management", "opens": "opens_layer"}

    def piece(step: Step, token: int) -> Piece:
        fields = [name for name in Piece._fields if name != "tail_for"]
        values = {name: getattr(step, names.get(name, name)) for name in fields}
        values["tail_for"] = int(step.tail_place or 0)
        plain = {name: v[token] if isinstance(v, np.ndarray) else v for name, v in values.items()}
        return Piece(**{name: v if isinstance(v, int) else float(v) for name, v in plain.items()})

    return [[piece(step, token) for step in chain] for token in range(len(chain[0].flash))]


def steps_of(tokens: list[list[Piece]]) -> list[Step]:
    """Return the same the other way round, of the fields that the tests below give."""
    names = ("flash", "hit", "miss", "kv", "reads", "moved", "ahead", "ahead_moved")

    def step(pieces: tuple[Piece, ...]) -> Step:
        columns = {name: np.array([float(getattr(at, name)) for at in pieces]) for name in names}
        return Step(**columns, opens_layer=pieces[0].opens)

    return [step(pieces) for pieces in zip(*tokens, strict=True)]


def machine_of(phone: Phone) -> Machine:
    heat = Heat(phone.after, phone.hot_flash, phone.hot_kernel)
    rates = (phone.dram, phone.background, phone.weights, phone.kv)
    return Machine(*rates, phone.kernel, heat if phone.after < math.inf else None, phone.cpu)


@given(
    seed=st.integers(0, 2**32),
    mode=st.sampled_from(MODES),
    dram=st.floats(0.6, 6),
    busy=st.sampled_from([0.0, 0.3, 0.8]),
    kernel=st.booleans(),
    cpu=st.booleans(),
    hot=st.sampled_from([math.inf, 0.0, 0.03, 0.2, 0.5, 0.9]),
    size=st.sampled_from([1, 2, 256]),
    depth=st.integers(1, 4),
)
@example(0, ("prefetch", 1.0), 0.9375, 0.3, False, True, 0.03, 1, 1)
@settings(max_examples=150)
def test_the_twin_in_simpy_finds_the_same(
    seed: int,
    mode: Any,
    dram: float,
    busy: float,
    kernel: bool,
    cpu: bool,
    hot: float,
    size: int,
    depth: int,
) -> None:
    """Whether tokens pass at once or step by step, and whether or not anybody looks on."""
    rng = np.random.default_rng(seed)
    tokens = int(rng.integers(1, 6))
    chain = random_chain(rng, tokens, mode[0])
    pieces = pieces_of(chain)
    phone = Phone(dram, busy * dram, 1.0, 1.5, kernel, math.inf, 1.0, 1.0, cpu)
    if hot < math.inf:
        flash, compute = rng.uniform(0.2, 1, 2).tolist()
        after = hot * naive_events.simulate(pieces, *mode, phone, depth).end
        phone = phone._replace(after=after, hot_flash=flash, hot_kernel=compute)
    twin = naive_events.simulate(pieces, *mode, phone, depth)
    with patch("dipsim.timeline.blocks.SIZE", size):
        recorded, quick = (
            simulate_events(chain, tokens, *mode, machine_of(phone), spans, depth)
            for spans in (tokens, 0)
        )
    for found in (recorded, quick):
        np.testing.assert_allclose(found.times.exposed, twin.spent, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.times.latency, np.sum(twin.spent, axis=1), rtol=1e-9)
        assert found.moved == pytest.approx(twin.moved, rel=1e-9, abs=1e-9)
        assert found.end == pytest.approx(twin.end, rel=1e-9)
    assert quick.spans == quick.draws == []
    same_spans(recorded, twin)
    same_draws(recorded.draws, twin.draws)


def same_spans(found: Timeline, twin: naive_events.Recorded) -> None:
    ours = sorted(
        (span.lane, int(span.place), span.token, span.early, span.start, span.end, span.bytes)
        for span in found.spans
        if span.end > span.start + 1e-12
    )
    theirs = sorted(
        (bar.lane, bar.step, bar.token, bar.early, bar.start, bar.end, bar.size)
        for bar in twin.bars
        if bar.end > bar.start + 1e-12
    )
    assert [bar[:4] for bar in ours] == [bar[:4] for bar in theirs]
    one, other = (np.array([bar[4:] for bar in bars]) for bars in (ours, theirs))
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    ends = [span.end for span in found.spans]
    assert ends == sorted(ends)


def same_draws(found: list[Draw], twin: list[naive_events.Draw]) -> None:
    """Check that everybody drew as many bytes until every moment at which anything changed."""
    moments = np.array(sorted({at for draw in [*found, *twin] for at in (draw.start, draw.end)}))
    for reader in (DMA, USE, COPY):
        one, other = (drawn_until(moments, draws, reader) for draws in (found, twin))
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
        mine = sorted((draw.start, draw.end) for draw in found if draw.reader == reader)
        assert all(after[0] >= before[1] - 1e-9 for before, after in pairwise(mine))


def drawn_until(moments: np.ndarray, draws: Sequence[Any], reader: int) -> np.ndarray:
    drawn = np.zeros(len(moments))
    for draw in draws:
        if draw.reader == reader:
            drawn += draw.rate * np.clip(moments - draw.start, 0, draw.end - draw.start)
    return drawn


@pytest.mark.parametrize("mode", [("prefetch", 0.45), ("pipelined", 0.45)])
def test_errors_do_not_add_up_in_a_long_run(mode: Any) -> None:
    rng, tokens = np.random.default_rng(1), 300
    chain = random_chain(rng, tokens, mode[0])
    phone = Phone(2.5, 0.5, 1.0, 1.5, True)
    twin = naive_events.simulate(pieces_of(chain), *mode, phone)
    found = simulate_events(chain, tokens, *mode, machine_of(phone))
    np.testing.assert_allclose(found.times.exposed, twin.spent, rtol=1e-9, atol=1e-9)


def test_nothing_is_owed_once_a_read_is_done() -> None:
    """Not even what rounding leaves: reads ahead behind it get their half of DRAM.

    A read hides wholly behind 10 s of use at 1 B/s; DRAM has 1.1 B/s. The device gets hot meanwhile
    and use slower, at .7 B/s, so that it goes on when the read is done.
    """
    rng = np.random.default_rng(0)
    for after, flash, moved in rng.uniform([0.1, 2.7, 2.8], [2.9, 2.9, 3.2], (50, 3)).tolist():
        first = Piece(flash=flash, moved=moved, hit=10, reads=1e9, opens=True)
        pieces = [[first, Piece(ahead=2, ahead_moved=2, opens=True)]]
        phone = Phone(1.1, 0.0, 1.0, 1.0, True, after, 1.0, 0.7)
        twin = naive_events.simulate(pieces, "prefetch", 1.0, phone)
        found = simulate_events(steps_of(pieces), 1, "prefetch", 1.0, machine_of(phone))
        np.testing.assert_allclose(found.times.exposed, twin.spent, rtol=1e-9)
