"""Discrete events: equal to the closed form where nothing meets, to a naive twin where things do,
and to what is worked out by hand."""

import ast
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dipsim
from dipsim.timeline.closed import RESOURCES, Heat, Machine, Step
from dipsim.timeline.dram import COPY, DMA, USE
from dipsim.timeline.engine import Clock
from dipsim.timeline.events import Timeline, simulate_events
from naive import time as naive_time
from naive.time import Phone, Piece
from tools import one_layer, three_layers

MODES = [
    ("paper-serial", 0.0),
    ("paper-concurrent", 0.0),
    ("serial", 0.0),
    ("pipelined", 0.0),
    ("pipelined", 0.45),
    ("pipelined", 1.0),
]
FREE = Machine(math.inf, 0.0, 1.0, 1.0, False)
"""Nobody is in anybody's way; a second of use moves a byte."""


def random_tokens(seed: int, ahead: bool = False, tails: bool = False) -> list[list[Piece]]:
    """One to four tokens of a few layers: static weights and KV, then one or two groups.

    With ``tails`` all groups read KV for the first step, which the next token takes.
    """
    rng = np.random.default_rng(seed)
    layers, groups = rng.integers(1, 4), rng.integers(1, 3)

    def some(share: float, most: float) -> float:
        return float(rng.random() < share) * float(rng.uniform(0.05, most))

    def piece(static: bool, opens: bool = False) -> Piece:
        flash = some(0.7, 3)
        misses = float(rng.integers(1, 5)) if flash else 0.0
        early = 0.0 if static or not ahead else some(0.6, 3)
        tail = some(0.6, 2) if tails and not static else 0.0
        resident = some(0.8, 2)
        return Piece(
            flash=flash,
            moved=flash * float(rng.uniform(0, 2)),
            hit=resident,
            miss=some(0.9, 1) if flash else 0.0,
            kv=some(0.7, 1) if static else 0.0,
            reads=misses,
            sync=0.25 if static else 0.125,
            copy=0.0 if static else some(0.5, 1),
            copied=float(rng.uniform(0, 1)),
            ahead=early,
            ahead_moved=early * float(rng.uniform(0, 2)),
            arithmetic=resident * some(0.3, 1) if tails else 0.0,
            tail=tail,
            tail_moved=tail * float(rng.uniform(0, 2)) if tails else 0.0,
            static=static,
            opens=opens,
        )

    layer = [True, *[False] * groups]
    return [
        [
            piece(static, opens=place == 1)
            for _ in range(layers)
            for place, static in enumerate(layer)
        ]
        + [piece(True)]
        for _ in range(rng.integers(1, 5))
    ]


def chain(tokens: list[list[Piece]]) -> list[Step]:
    """The same as `Step`s, with arrays over tokens."""
    found = []
    for number, pieces in enumerate(zip(*tokens, strict=True)):
        first = pieces[0]
        columns = {
            name: np.array([getattr(piece, name) for piece in pieces], np.float64)
            for name in Piece._fields
        }
        static, opens = columns.pop("static"), columns.pop("opens")
        columns.pop("tail_for")
        assert len(set(static)) == len(set(opens)) == 1
        found.append(
            Step(
                management=columns.pop("copy"),
                sync=columns.pop("sync")[0],
                static=first.static,
                opens_layer=first.opens,
                tail_place=str(first.tail_for),
                place=str(number),
                **columns,
            )
        )
    return found


def machine_of(phone: Phone) -> Machine:
    heat = Heat(phone.after, phone.hot_flash, phone.hot_kernel)
    return Machine(
        phone.dram,
        phone.background,
        phone.weights,
        phone.kv,
        phone.kernel,
        heat if phone.after < math.inf else None,
        phone.cpu,
    )


def events(
    tokens: list[list[Piece]],
    overlap: Any,
    a: float,
    phone: Phone,
    spans_of: int = 0,
    depth: int = 1,
) -> Timeline:
    machine = machine_of(phone)
    return simulate_events(chain(tokens), len(tokens), overlap, a, machine, spans_of, depth)


# Against the closed form ------------------------------------------------------------------------


@pytest.mark.parametrize(("overlap", "a"), MODES)
@given(seed=st.integers(0, 2**32), hot=st.booleans(), kernel=st.booleans())
@settings(max_examples=25)
def test_closed_form_and_events_agree_where_nothing_meets(
    overlap: Any, a: float, seed: int, hot: bool, kernel: bool
) -> None:
    tokens = random_tokens(seed)
    # The flash moves at most 2 B/s, weights and KV 1 and 3, copies 2 B in .05 s.
    machine = Machine(2 + 3 + 40 + 7, 7, 1.0, 3.0, kernel, Heat(0, 0.5, 0.25) if hot else None)
    closed, happened = (
        Clock(engine, overlap, machine).times(chain(tokens), len(tokens), a)
        for engine in ("closed", "events")
    )
    np.testing.assert_allclose(happened.exposed, closed.exposed, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(happened.latency, closed.latency, rtol=1e-9)


def test_heat_changes_the_closed_form_too() -> None:
    tokens = [[Piece(flash=2, moved=2, hit=1, kv=1, reads=1)]]
    clock = Clock("closed", "serial", FREE._replace(compute_bound=True))
    hot = clock.at(Heat(0, 0.5, 0.25)).times(chain(tokens), 1, 0.0)
    assert clock.times(chain(tokens), 1, 0.0).latency == pytest.approx([4])
    assert hot.exposed[0] == pytest.approx([4, 1, 4, 0, 0])


@pytest.mark.parametrize(("backend", "slower"), [("cpu", 2.0), ("cpu-litert", 2.0), ("gpu", 1.0)])
@pytest.mark.parametrize("engine", ["closed", "events"])
def test_heat_slows_a_cpu_that_dram_limits(backend: str, slower: float, engine: Any) -> None:
    # A token uses 152 B of static weights, 24 B of neurons and, on average, 16 B of KV; DRAM has
    # 100 B/s and nothing limits the kernel. KV stays as it is.
    slow = {**one_layer.BANDWIDTHS, "backends": {backend: {}}}
    slow["thermal"] = {"after": "60 s", "compute": 0.5}
    sets = one_layer.trace([{0, 1}] * 3)
    found = dipsim.simulate(sets, slow, cache_fraction=1.0, warmup=0, policy="static",
                            overlap="serial", engine=engine)  # fmt: skip
    cold, hot = (3 / rate for rate in found.timing.thermal)
    assert cold == pytest.approx((3 * 176 + 48) / 100)
    assert hot == pytest.approx((slower * 3 * 176 + 48) / 100)


# Against the twin -------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    mode=st.sampled_from([*MODES, ("prefetch", 0.45), ("prefetch", 0.0), ("prefetch", 1.0)]),
    dram=st.floats(0.6, 4),
    busy=st.sampled_from([0.0, 0.3, 0.8]),
    kernel=st.booleans(),
    cpu=st.booleans(),
    after=st.sampled_from([math.inf, 0.0, 0.7, 4.0, 9.0]),
    tails=st.booleans(),
    block=st.sampled_from([1, 2, 256]),
    depth=st.integers(1, 4),
)
@settings(max_examples=150)
def test_the_twin_finds_the_same(
    seed: int,
    mode: Any,
    dram: float,
    busy: float,
    kernel: bool,
    cpu: bool,
    after: float,
    tails: bool,
    block: int,
    depth: int,
) -> None:
    overlap, a = mode
    tokens = random_tokens(seed, ahead=overlap == "prefetch", tails=tails)
    phone = Phone(dram, busy * dram, 1.0, 1.5, kernel, after, 0.5, 0.25, cpu)
    twin = naive_time.simulate(tokens, overlap, a, phone, depth)
    with patch("dipsim.timeline.blocks.SIZE", block):
        found = events(tokens, overlap, a, phone, spans_of=len(tokens), depth=depth)
    np.testing.assert_allclose(found.times.exposed, twin.spent, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.moved, twin.moved, rtol=1e-9, atol=1e-9)
    assert found.end == pytest.approx(twin.end, rel=1e-9)
    _same_bars(found, twin)
    _laws(found, tokens, overlap, phone)


def _same_bars(found: Timeline, twin: naive_time.Found) -> None:
    ours = sorted(
        (at.lane, int(at.place), at.token, at.early, at.start, at.end, at.bytes)
        for at in found.spans
        if at.end > at.start + 1e-12
    )
    theirs = sorted(
        (at.lane, at.step, at.token, at.early, at.start, at.end, at.size)
        for at in twin.bars
        if at.end > at.start + 1e-12
    )
    assert [at[:4] for at in ours] == [at[:4] for at in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one[4:] == pytest.approx(other[4:], rel=1e-9, abs=1e-9)


def _laws(found: Timeline, tokens: list[list[Piece]], overlap: str, phone: Phone) -> None:
    """Bytes that flowed are those demanded, and exposed times sum up to the time it took."""
    paper = overlap.startswith("paper")
    pieces = [piece for token in tokens for piece in token]
    used = [at.hit + (0.0 if paper else at.miss) for at in pieces]
    demanded = [
        sum(at.moved * (at.flash > 0) + at.ahead_moved + at.tail_moved for at in pieces),
        sum(
            (weights - at.arithmetic) * phone.weights + at.kv * phone.kv
            for weights, at in zip(used, pieces, strict=True)
        ),
        0.0 if paper else sum(2 * at.copied for at in pieces if at.copy),
    ]
    assert found.moved == pytest.approx(demanded, rel=1e-9, abs=1e-9)
    assert found.times.exposed.sum() == pytest.approx(found.end, rel=1e-9)
    assert found.times.latency == pytest.approx(found.times.exposed.sum(axis=1))
    busy = [at for at in found.spans if at.lane == "flash"]
    assert sum(at.bytes for at in busy) == pytest.approx(demanded[DMA], rel=1e-9, abs=1e-9)
    for one, after in pairwise(busy):  # one job at a time
        assert after.start >= one.end - 1e-9


# By hand ----------------------------------------------------------------------------------------


def spans(found: Timeline) -> list[tuple[str, str, float, float, bool]]:
    return [(at.lane, at.place, at.start, at.end, at.early) for at in found.spans]


def approx(bars: list[tuple[str, str, float, float, bool]]) -> Any:
    return [
        (lane, place, pytest.approx(start), pytest.approx(end), early)
        for lane, place, start, end, early in bars
    ]


def test_dma_and_use_are_done_at_the_same_time() -> None:
    # The flash delivers 200 B at 100 B/s, weights are used at 100 B/s, 300 B in all. DRAM has 150
    # B/s, so beside a use the flash gets 50 B/s or more, and would take 4 s: all 3 s of use may run
    # meanwhile. 500 B at 150 B/s take 10/3 s, in which the flash goes at 60 B/s.
    tokens = [[Piece(flash=2, moved=200, hit=3, reads=2)]]
    found = events(tokens, "pipelined", 1.0, Phone(150, 0, 100, 100, False), spans_of=1)
    both = 10 / 3
    assert sorted(spans(found)) == approx(
        [("compute", "0", 0, both, False), ("flash", "0", 0, both, False)]
    )
    assert found.times.exposed[0] == pytest.approx([0, both, 0, 0, 0])
    assert found.moved == pytest.approx((200, 300, 0))


def test_half_of_what_could_hide_hides() -> None:
    # As before with a = .5: 150 B are used while 100 B come, in 5/3 s. The other 100 B take 1 s
    # alone, the other 150 B 1.5 s.
    tokens = [[Piece(flash=2, moved=200, hit=3, reads=2)]]
    found = events(tokens, "pipelined", 0.5, Phone(150, 0, 100, 100, False), spans_of=1)
    assert found.times.exposed[0] == pytest.approx([1, 5 / 3 + 1.5, 0, 0, 0])


def test_a_flash_that_is_late_anyway_goes_at_full_speed() -> None:
    # 200 B at 50 B/s take 4 s, 100 B of weights at 100 B/s less: DRAM has 120 B/s, so they get 70
    # and take 10/7 s, and nothing is left to do when the flash is done.
    tokens = [[Piece(flash=4, moved=200, hit=1, reads=2)]]
    found = events(tokens, "pipelined", 1.0, Phone(120, 0, 100, 100, False), spans_of=1)
    assert found.times.exposed[0] == pytest.approx([4 - 10 / 7, 10 / 7, 0, 0, 0])


def test_a_read_ahead_gets_up_to_half_of_dram() -> None:
    # 20 B at 10 B/s ahead of the second group, while 300 B of weights are used at 100 B/s: DRAM has
    # 90 B/s, so the flash takes its 2 s; meanwhile 160 B are used, the others at 90 B/s.
    pieces = [Piece(hit=3, opens=True), Piece(ahead=2, ahead_moved=20, opens=True)]
    found = events([pieces], "prefetch", 0.0, Phone(90, 0, 100, 100, False), spans_of=1)
    assert spans(found) == approx(
        [("flash", "1", 0, 2, True), ("compute", "0", 0, 2 + 140 / 90, False)]
    )


def test_a_demanded_read_waits_behind_one_that_went_out_early() -> None:
    # Layer 0: a group of 1 s of use, which sends out 3 s of reads for layer 1; then a group that
    # needs 2 s of flash and 1 s of use. Its read begins at 3 s; layer 1 finds all it needs at 6 s.
    pieces = [
        Piece(hit=1, opens=True),
        Piece(flash=2, moved=2, hit=1, reads=1),
        Piece(hit=1, ahead=3, ahead_moved=30, opens=True),
    ]
    found = events([pieces], "prefetch", 0.0, Phone(), spans_of=1)
    assert spans(found) == approx(
        [
            ("compute", "0", 0, 1, False),
            ("flash", "2", 0, 3, True),
            ("flash", "1", 3, 5, False),
            ("compute", "1", 5, 6, False),
            ("compute", "2", 6, 7, False),
        ]
    )
    assert found.times.exposed[0] == pytest.approx([4, 3, 0, 0, 0])
    assert found.moved == pytest.approx((32, 3, 0))


def test_reads_ahead_reach_into_the_next_token() -> None:
    # One layer, two tokens, 2 s of reads ahead each: the first token waits for its own, sent out
    # at 0 s; those of the second go out when the first one's group begins, behind its 1 s read.
    first = Piece(flash=1, moved=1, hit=4, reads=1, ahead=2, ahead_moved=1, opens=True)
    found = events([[first], [first]], "prefetch", 0.0, Phone(), spans_of=2)
    assert [(at.token, at.start, at.end, at.early) for at in found.spans if at.lane == "flash"] == [
        (0, 0, 2, True),
        (0, 2, 3, False),
        (1, 3, 5, True),
        (1, 7, 8, False),
    ]
    assert found.times.latency == pytest.approx([7, 5])


def test_two_layers_ahead_a_read_begins_earlier() -> None:
    # Three layers of 1 s of use; the last one's 4 s of reads go out as the second begins, at 1 s,
    # or two layers ahead as the first does.
    pieces = [Piece(hit=1, opens=True)] * 2
    pieces.append(Piece(hit=1, ahead=4, ahead_moved=4, opens=True))
    for depth, waits in ((1, 3), (2, 2), (3, 2), (4, 2)):
        found = events([pieces], "prefetch", 0.0, Phone(), depth=depth)
        assert found.times.exposed[0] == pytest.approx([waits, 3, 0, 0, 0])


def test_it_gets_hot_in_the_middle_of_a_read() -> None:
    # After 1 s the flash has half of its speed: the 3 s that are left take 6. Kernels then have a
    # quarter, so 2 s of weights take 8; DRAM stays as it is, so 1 s of KV takes 1.
    tokens = [[Piece(flash=4, moved=8, hit=2, kv=1, reads=1)]]
    phone = Phone(1e9, 0, 5, 7, True, after=1, hot_flash=0.5, hot_kernel=0.25)
    found = events(tokens, "serial", 0.0, phone, spans_of=1)
    assert spans(found) == approx([("flash", "0", 0, 7, False), ("compute", "0", 7, 16, False)])
    assert found.times.exposed[0] == pytest.approx([7, 1, 8, 0, 0])
    assert found.moved == pytest.approx((8, 2 * 5 + 7, 0))


def test_it_gets_hot_in_the_middle_of_the_use_of_weights() -> None:
    # 3 s of use, a third of it KV. After 1.5 s half of it is left: 1 s of weights and .5 s of KV,
    # which take 4.5 s.
    tokens = [[Piece(hit=2, kv=1)]]
    phone = Phone(1e9, 0, 5, 7, True, after=1.5, hot_kernel=0.25)
    found = events(tokens, "serial", 0.0, phone)
    assert found.times.exposed[0] == pytest.approx([0, 1, 5, 0, 0])


def test_others_take_their_part_of_dram_first() -> None:
    # DRAM has 100 B/s and others take 60. Of weights at 80 B/s, 160 B take 4 s at the 40 that are
    # left. The flash at 40 B/s is not slowed down. A copy of 50 B reads and writes them: 100 B at
    # 40 B/s instead of 100.
    pieces = [Piece(hit=2), Piece(flash=1, moved=40, reads=1, sync=0.5, copy=1, copied=50)]
    found = events([pieces], "serial", 0.0, Phone(100, 60, 80, 80, True), spans_of=1)
    assert spans(found) == approx(
        [
            ("compute", "0", 0, 4, False),
            ("flash", "1", 4, 5, False),
            ("sync", "1", 5, 5.5, False),
            ("management", "1", 5.5, 8, False),
        ]
    )
    assert found.times.exposed[0] == pytest.approx([1, 0, 4, 0.5, 2.5])
    assert found.moved[COPY] == pytest.approx(100)


def test_flash_and_use_share_what_others_leave() -> None:
    # 120 B/s, of which others take 60; a flash of 80 B at 20 B/s, weights of 400 B at 100 B/s: 480
    # B at 60 B/s, in 8 s.
    tokens = [[Piece(flash=4, moved=80, hit=4, reads=1)]]
    found = events(tokens, "pipelined", 1.0, Phone(120, 60, 100, 100, False), spans_of=1)
    assert found.times.exposed[0] == pytest.approx([0, 8, 0, 0, 0])
    assert found.moved[USE] == pytest.approx(400)


# What is faster, and what is slower ---------------------------------------------------------------


WAYS = [("serial", 0.0), *(("pipelined", a) for a in (0.0, 0.45, 1.0))]


def flash_times(tokens: list[list[Piece]], factor: float) -> list[list[Piece]]:
    """The same tokens on a flash ``factor`` times as fast."""
    return [
        [at._replace(flash=at.flash / factor, ahead=at.ahead / factor) for at in pieces]
        for pieces in tokens
    ]


@given(
    seed=st.integers(0, 2**32),
    mode=st.sampled_from([*WAYS, ("prefetch", 0.0), ("prefetch", 0.45), ("prefetch", 1.0)]),
    dram=st.floats(0.6, 4),
    busy=st.sampled_from([0.0, 0.3, 0.8]),
    factor=st.floats(1, 20),
)
@settings(max_examples=250)
def test_a_faster_flash_never_makes_a_run_slower(
    seed: int, mode: Any, dram: float, busy: float, factor: float
) -> None:
    ahead = mode[0] == "prefetch"  # reads that nobody waits for yet may come too early
    tokens, phone = random_tokens(seed, ahead), Phone(dram, busy * dram, 1.0, 1.5)
    slow, fast = (events(flash_times(tokens, f), *mode, phone).end for f in (1.0, factor))
    assert fast <= slow * (1.01 if ahead else 1 + 1e-9)


@given(
    seed=st.integers(0, 2**32),
    mode=st.sampled_from(WAYS),
    dram=st.floats(0.6, 6),
    shares=st.tuples(st.floats(0, 0.95), st.floats(0, 0.95)),
)
@settings(max_examples=200)
def test_more_background_is_never_faster(
    seed: int, mode: Any, dram: float, shares: tuple[float, float]
) -> None:
    tokens = random_tokens(seed)
    less, more = (
        events(tokens, *mode, Phone(dram, share * dram, 1.0, 1.5)).end for share in sorted(shares)
    )
    assert more >= less * (1 - 1e-9)


@pytest.mark.parametrize("mode", [("serial", 0.0), ("pipelined", 0.45), ("pipelined", 1.0)])
def test_more_background_is_slower_while_dram_binds(mode: Any) -> None:
    tokens = [[Piece(flash=1, moved=10, hit=1, reads=2), Piece(hit=3)]] * 2
    ends = [events(tokens, *mode, Phone(76.8, busy, 45, 45)).end for busy in range(32, 76, 4)]
    assert ends == sorted(ends)
    assert len(set(ends)) == len(ends)


def test_papers_modes_know_neither_contention_nor_heat() -> None:
    tokens = [[Piece(flash=2, moved=200, hit=3, miss=9, reads=2, sync=1, copy=1, copied=1)]]
    phone = Phone(1, 0.9, 100, 100, True, after=0, hot_flash=0.1, hot_kernel=0.1)
    assert events(tokens, "paper-serial", 0, phone).times.exposed[0].tolist() == [2, 3, 0, 0, 0]
    found = events(tokens, "paper-concurrent", 0, phone)
    assert found.times.exposed[0].tolist() == [0, 3, 0, 0, 0]


# Reads ahead ------------------------------------------------------------------------------------


def layered(flash: list[float], use: list[float], right: float) -> list[Piece]:
    """Layers of one group each; of what is read ahead a share is right, the rest is read again."""
    return [
        Piece(flash=f * (1 - right), moved=f, hit=c, reads=4, ahead=f, ahead_moved=f, opens=True)
        for f, c in zip(flash, use, strict=True)
    ]


@given(
    st.lists(st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_a_perfect_prefetcher_reaches_the_slower_of_flash_and_compute(
    layers: list[tuple[float, float]], count: int
) -> None:
    """While a layer is used the next one is read: neither waits longer than for the other."""
    flash, use = ([pair[i] for pair in layers] for i in (0, 1))
    found = events([layered(flash, use, 1.0)] * count, "prefetch", 0.0, Phone())
    reads, uses = flash * count, use * count
    one_ahead = [max(c, f) for c, f in zip(uses[:-1], reads[1:], strict=True)]
    assert found.end == pytest.approx(reads[0] + sum(one_ahead) + uses[-1])
    assert max(sum(reads), sum(uses)) <= found.end * (1 + 1e-12)


def test_layers_alike_take_as_long_as_the_slower_resource() -> None:
    for flash, use in ((2.0, 1.0), (1.0, 2.0)):
        tokens = [layered([flash] * 10, [use] * 10, 1.0)] * 20
        end = events(tokens, "prefetch", 0.0, Phone()).end
        assert end == pytest.approx(200 * max(flash, use) + min(flash, use))


def test_wrong_guesses_slow_a_saturated_flash_down() -> None:
    flash, use = [2.0] * 6, [0.5] * 6
    without = [[at._replace(ahead=0.0, flash=2.0) for at in layered(flash, use, 0.0)]] * 4
    none = events(without, "prefetch", 0.0, Phone()).end
    ends = [
        events([layered(flash, use, right)] * 4, "prefetch", 0.0, Phone()).end
        for right in (1.0, 0.8, 0.5, 0.18, 0.0)
    ]
    assert ends == sorted(ends)
    assert len(set(ends)) == len(ends)
    assert ends[0] < none < ends[3]


# The shipped trace -------------------------------------------------------------------------------


def chat(**options: Any) -> dipsim.Result:
    return dipsim.simulate(
        "smollm2-chat",
        "snapdragon8",
        dram="80%",
        overrides=["backends.cpu.per_layer=10us", "backends.cpu.per_mask=0us"],
        **{"tokens": "0:24", **options},
    )


def test_guesses_on_the_chat_trace() -> None:
    """Perfect guesses help; those that are right 18 % of the time are worse than none."""
    none = chat().tokens_per_second
    rates = [chat(prefetch=f"right={right}").tokens_per_second for right in (1, 0.5, 0.18)]
    assert rates[0] > 1.15 * none
    assert rates[1] < none
    assert rates[2] < rates[1]


@pytest.mark.slow
def test_guesses_on_the_whole_chat_trace() -> None:
    rates = [chat(tokens=None).tokens_per_second]
    for right in (1, 0.9, 0.7, 0.5, 0.18):
        rates.append(chat(tokens=None, prefetch=f"right={right}").tokens_per_second)
    none, perfect, *others = rates
    assert (none, perfect) == (pytest.approx(62.64, abs=0.01), pytest.approx(72.94, abs=0.01))
    assert others == sorted(others, reverse=True)
    assert others[-2:] == [pytest.approx(36.49, abs=0.01), pytest.approx(36.24, abs=0.01)]


def test_engines_agree_on_the_chat_trace() -> None:
    closed, happened = (chat(tokens="0:8", engine=engine) for engine in ("closed", "events"))
    assert (closed.timing.engine, happened.timing.engine) == ("closed", "events")
    np.testing.assert_allclose(
        happened.timing.times.exposed, closed.timing.times.exposed, rtol=1e-9, atol=1e-15
    )
    assert happened.timing.rate_range == pytest.approx(closed.timing.rate_range, rel=1e-9)


@given(
    seed=st.integers(0, 2**16),
    overlap=st.sampled_from(["serial", "pipelined", "paper-concurrent"]),
    untied=st.booleans(),
    small=st.booleans(),
    kernel=st.booleans(),
)
@settings(max_examples=60)
def test_auto_leaves_out_no_contention(
    seed: int, overlap: Any, untied: bool, small: bool, kernel: bool
) -> None:
    """Whichever engine is chosen, the times are those of discrete events."""
    rng = np.random.default_rng(seed)
    dram = rng.uniform(100, 2000)
    points = [(size, rng.uniform(10, 1000)) for size in (8, 64, 256)]
    reads = [{"size": f"{s} B", "lanes": 1, "bandwidth": f"{rate} B/s"} for s, rate in points]
    backend = {
        "overlap_factor": float(rng.choice([0, 0.5, 1])),
        "dram_efficiency": float(rng.uniform(0.2, 1)),
        "cache_copy": f"{rng.uniform(50, 1000)} B/s",
        "compute": f"{rng.uniform(50, 2000)} FLOP/s" if kernel else "unlimited",
    }
    profile = {
        "name": "any",
        "dram": {
            "capacity": "1 MB",
            "bandwidth": f"{dram} B/s",
            "background": f"{dram * rng.choice([0, 0.3, 0.6])} B/s",
        },
        "flash": {"align": "8 B", "reads": reads},
        "backends": {"cpu": backend},
    }
    arrays = three_layers.scores(seed, 8)
    arrays["meta"] = {"model": {**three_layers.MODEL, "tied_embeddings": not untied}}
    room = {"dram": "1800 B", "context": 1} if small else {"cache": "900 B"}
    closed_or_not, happened = (
        dipsim.simulate(arrays, profile, overlap=overlap, engine=engine, policy="lru", **room)
        for engine in ("auto", "events")
    )
    one, other = (result.timing.times.exposed for result in (closed_or_not, happened))
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    assert closed_or_not.timing.ttft == pytest.approx(happened.timing.ttft, rel=1e-9)


# The clock --------------------------------------------------------------------------------------


def test_the_hosts_clock_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = random_tokens(7, ahead=True)
    phone = Phone(2, 0.5, 1, 1, True, 3, 0.5, 0.5)
    before = events(tokens, "prefetch", 0.45, phone, spans_of=4)

    def refuse(*_: object) -> float:
        raise AssertionError("the host's clock was read")

    clocks = [name for name in dir(time) if name.removesuffix("_ns") in _CLOCKS]
    assert len(clocks) >= 8
    for name in [*clocks, "sleep"]:
        monkeypatch.setattr(time, name, refuse)
    again = events(tokens, "prefetch", 0.45, phone, spans_of=4)
    assert again.spans == before.spans
    assert again.times.latency.tolist() == before.times.latency.tolist()


_CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime")


def test_no_module_of_the_timeline_imports_a_clock() -> None:
    files = sorted(Path(dipsim.__file__).parent.glob("timeline/*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [at.name for at in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"time", "datetime"}, file


def test_resources_are_in_the_twins_order() -> None:
    assert RESOURCES == ("flash", "dram", "compute", "sync", "management")
    assert (DMA, USE, COPY) == (naive_time.DMA, naive_time.USE, naive_time.COPY)
