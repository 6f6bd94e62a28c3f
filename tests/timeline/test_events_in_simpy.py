"""The events engine against its straightforward twin, in which all that happens is an event."""

import math
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.timeline.closed import Heat, Machine, Step
from dipsim.timeline.dram import COPY, DMA, USE, Draw
from dipsim.timeline.events import Timeline, simulate_events
from naive import events as naive_events

READERS = (DMA, USE, COPY)
MODES = [
    *(("paper-serial", 0.0), ("paper-concurrent", 0.0), ("serial", 0.0)),
    *((overlap, a) for overlap in ("pipelined", "prefetch") for a in (0.0, 0.45, 1.0)),
]


def random_chain(rng: np.random.Generator, tokens: int, ahead: bool) -> list[Step]:
    """Page faults, layers of static weights with KV and one to three groups, and a head."""

    def some(share: float, most: float) -> np.ndarray:
        return rng.choice([0, 1], tokens, p=[1 - share, share]) * rng.uniform(0.05, most, tokens)

    def step(static: bool, opens: bool = False) -> Step:
        flash, copied = some(rng.choice([0, 0.7, 1]), 3), some(0.5, 1)
        early = some(0.6, 2) if ahead and not static else np.zeros(tokens)
        return Step(
            flash=flash,
            hit=some(0.8, 2),
            miss=some(0.9, 1) * (flash > 0),
            kv=some(0.7, 1) if static else np.zeros(tokens),
            reads=rng.integers(1, 5, tokens) * (flash > 0.0),
            sync=float(rng.choice([0, 0.23])),
            management=0.0 if static else copied * rng.uniform(0.2, 2),
            static=static,
            moved=flash * rng.uniform(0, 2, tokens),
            copied=copied,
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
    return [step._replace(place=str(number)) for number, step in enumerate(chain)]


@given(
    seed=st.integers(0, 2**32),
    mode=st.sampled_from(MODES),
    dram=st.floats(0.6, 6),
    busy=st.sampled_from([0.0, 0.3, 0.8]),
    kernel=st.booleans(),
    cpu=st.booleans(),
    hot=st.sampled_from([None, 0.0, 0.03, 0.2, 0.5, 0.9]),
    size=st.sampled_from([1, 2, 256]),
)
@settings(max_examples=200)
def test_the_twin_in_simpy_finds_the_same(
    seed: int, mode: Any, dram: float, busy: float, kernel: bool, cpu: bool, hot: Any, size: int
) -> None:
    overlap, a = mode
    rng = np.random.default_rng(seed)
    tokens = int(rng.integers(1, 6))
    chain = random_chain(rng, tokens, ahead=overlap == "prefetch")
    machine = Machine(dram, busy * dram, 1.0, 1.5, kernel, None, cpu)
    if hot is not None:
        after = hot * naive_events.simulate(chain, tokens, overlap, a, machine).end
        shares = rng.uniform(0.2, 1, 2)
        machine = machine._replace(heat=Heat(after, *shares.tolist()))
    twin = naive_events.simulate(chain, tokens, overlap, a, machine)
    with patch("dipsim.timeline.blocks.SIZE", size):
        recorded, quick = (
            simulate_events(chain, tokens, overlap, a, machine, spans) for spans in (tokens, 0)
        )
    for found in (recorded, quick):
        np.testing.assert_allclose(found.times.exposed, twin.times.exposed, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.times.latency, twin.times.latency, rtol=1e-9)
        assert found.moved == pytest.approx(twin.moved, rel=1e-9, abs=1e-9)
        assert found.end == pytest.approx(twin.end, rel=1e-9)
    assert quick.spans == quick.draws == []
    same_spans(recorded, twin)
    same_draws(recorded.draws, twin.draws)


def same_spans(found: Timeline, twin: Timeline) -> None:
    ours, theirs = (
        sorted(
            (span.lane, int(span.place), span.token, span.early, span.start, span.end, span.bytes)
            for span in timeline.spans
            if span.end > span.start + 1e-12
        )
        for timeline in (found, twin)
    )
    assert [span[:4] for span in ours] == [span[:4] for span in theirs]
    np.testing.assert_allclose([s[4:] for s in ours], [s[4:] for s in theirs], rtol=1e-9, atol=1e-9)
    ends = [span.end for span in found.spans]
    assert ends == sorted(ends)


def same_draws(found: list[Draw], twin: list[Draw]) -> None:
    """Check that everybody drew as many bytes until every moment at which anything changed."""
    moments = np.array(sorted({at for draw in found + twin for at in (draw.start, draw.end)}))
    for reader in READERS:
        one, other = (drawn_until(moments, draws, reader) for draws in (found, twin))
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
        mine = sorted((draw.start, draw.end) for draw in found if draw.reader == reader)
        assert all(after[0] >= before[1] - 1e-9 for before, after in pairwise(mine))


def drawn_until(moments: np.ndarray, draws: list[Draw], reader: int) -> np.ndarray:
    return sum(
        (
            draw.rate * np.clip(moments - draw.start, 0, draw.end - draw.start)
            for draw in draws
            if draw.reader == reader
        ),
        np.zeros(len(moments)),
    )


def test_a_long_run_stays_as_exact() -> None:
    """What is owed is counted anew for each read, so that errors do not add up."""
    rng, tokens = np.random.default_rng(1), 400
    chain = random_chain(rng, tokens, ahead=True)
    machine = Machine(2.5e9, 0.5e9, 1e9, 1.5e9, True)
    chain = [
        step._replace(moved=step.moved * 1e9, ahead_moved=step.ahead_moved * 1e9) for step in chain
    ]
    twin = naive_events.simulate(chain, tokens, "prefetch", 0.45, machine)
    found = simulate_events(chain, tokens, "prefetch", 0.45, machine)
    np.testing.assert_allclose(found.times.latency, twin.times.latency, rtol=1e-9)
    assert not math.isclose(found.end, sum(step.hit.sum() for step in chain))
