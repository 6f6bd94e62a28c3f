"""All systems at once beside dip-ca: the bytes that the timeline books are those that are demanded,
summed here from the counts of the replay, naive token pruning and the sizes of SmolLM2."""

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import dipsim
from dipsim.timeline.dram import COPY, DMA, USE
from dipsim.timeline.engine import clock_for
from dipsim.timeline.excerpt import excerpt
from dipsim.timeline.steps import rates, steps
from dipsim.trace import save_trace
from naive import tokens as naive
from tools import three_layers
from tools.cli import Dipsim, done

PROMPT, TOKENS = 128, 140
LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, DIM, VOCAB = 30, 576, 1536, 9, 3, 64, 49152
BYTES = 4.5 / 8  # of a weight, scales included
ATTENTION = 2 * HIDDEN * HEADS * DIM + 2 * HIDDEN * KV_HEADS * DIM
"""Weights of a layer's attention."""
BUDGET, RESIDENT = 96, 70
"""Positions of a layer, and those of them that lie in DRAM."""
POSITION = 2 * (KV_HEADS * DIM // 32) * (32 * 4 // 8 + 2)
"""Bytes of keys and values of a position of a layer in q4_0: blocks of 32 numbers and a scale."""
ROOMY = ("dram.bandwidth=400GB/s", "backends.cpu.dram_efficiency=.1")
"""Overrides with which nobody is in anybody's way."""
Table = NDArray[np.float64]


@cache
def trace() -> dict[str, Any]:
    """Return queries, keys and values of one shipped trace, and as scores those of the other."""
    vectors, chat = dipsim.load_trace("smollm2-kv"), dipsim.load_trace("smollm2-chat")
    arrays = {name: vectors.vectors(name).read()[:TOKENS] for name in ("query", "key", "value")}
    for name in ("mlp_input", "glu"):
        rows = np.concatenate([block[name] for *_, block in chat.blocks({name: "scores"})])
        arrays[name] = np.concatenate([rows, rows])[:TOKENS]
    phase = (np.arange(TOKENS) >= PROMPT).astype(np.uint8)
    meta = {"model": "smollm2-135m", "attention": vectors.meta["attention"]}
    return {**arrays, "phase": phase, "meta": meta}


ALL: dict[str, Any] = {
    "method": "dip-ca",
    "policy": "lfu",
    "dram": "50%",
    "kv_policy": "tova",
    "kv_budget": BUDGET,
    "kv_quant": "q4_0",
    "kv_dram": f"{RESIDENT * LAYERS * POSITION} B",
    "prune_tokens": "lazy:at=.3/.6/.9,rate=.3",
}


def run(**options: Any) -> Any:
    return dipsim.simulate(trace(), "snapdragon8", **{**ALL, "overrides": ROOMY, **options})


# What is demanded --------------------------------------------------------------------------------


class Demand(NamedTuple):
    """Bytes that decoded tokens need, float64[tokens]."""

    flash: Table
    weights: Table
    kv: Table
    copies: Table
    flash_written: Table


@cache
def pruned() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the tokens that each layer sees and computes at each decoded token, by the twin."""
    query, key = trace()["query"].tolist(), trace()["key"].tolist()

    def score(last: int, layer: int, active: Any) -> dict[int, float]:
        return naive.attention(query[last][layer], {t: key[t][layer] for t in active}, DIM)

    cuts = dict.fromkeys((9, 18, 27), 0.3)
    active, computed, _ = naive.prune([PROMPT] + [1] * (TOKENS - PROMPT), LAYERS, cuts, score)
    seen, new = ([[len(own) for own in step] for step in sets[1:]] for sets in (active, computed))
    return np.array(seen), np.array(new)


def demanded(result: Any, whole: bool = False) -> Demand:
    """Return what the replay's counts, the pruned tokens and the model's sizes add up to.

    Args:
        whole: no tokens are pruned.
    """
    counts, rows = result.traffic, slice(PROMPT, TOKENS)
    unit = np.array([2 * INTERMEDIATE * BYTES, HIDDEN * BYTES])
    active, kept = ((each[rows] * unit).sum(axis=(1, 2)) for each in (counts.active, counts.kept))
    missed = counts.all_moved[rows].sum(axis=(1, 2))
    static = LAYERS * ATTENTION * BYTES + (2 * LAYERS + 1) * HIDDEN * 2 + VOCAB * HIDDEN * BYTES
    seen, computed = pruned()
    if whole:
        computed = np.ones_like(seen)
        seen = np.arange(PROMPT, TOKENS)[:, None] + computed
    held = np.minimum(seen - computed, BUDGET)
    tail = np.maximum(held - RESIDENT, 0)
    return Demand(
        flash=missed + POSITION * tail.sum(axis=1),
        weights=static + active,
        kv=POSITION * held.sum(axis=1).astype(float),
        copies=2 * kept,
        flash_written=POSITION * computed.sum(axis=1).astype(float),
    )


# What is booked ----------------------------------------------------------------------------------


def by_steps(result: Any) -> dict[str, Table]:
    """Return what the steps that both engines take move, by token."""
    ran, rate = result.run, rates(result.run)
    rows = np.flatnonzero(result.traffic.measured)
    chain = list(steps(ran, result.traffic, rows, rate))
    return {
        "flash": sum(step.moved + step.tail_moved + step.ahead_moved for step in chain),
        "weights": sum((step.hit + step.miss - step.arithmetic) * rate.weights for step in chain),
        "kv": sum(step.kv * rate.dram for step in chain),
        "copies": sum(2 * step.copied for step in chain),
    }


def by_events(result: Any) -> tuple[Any, dict[str, Table]]:
    """Return what happened, and what went over each lane, by token."""
    ran, rate = result.run, rates(result.run)
    rows = np.flatnonzero(result.traffic.measured)
    clock = clock_for(ran, result.traffic, rate)
    chain = steps(ran, result.traffic, rows, rate)
    timeline = clock.timeline(chain, len(rows), ran.backend.overlap_factor, len(rows))
    lanes: dict[str, Table] = {}
    for span in timeline.spans:
        lanes.setdefault(span.lane, np.zeros(len(rows)))[span.token] += span.bytes
    return timeline, lanes


@pytest.mark.parametrize("overlap", ["serial", "pipelined"])
def test_what_is_booked_is_what_is_demanded(overlap: str) -> None:
    closed, events = (run(overlap=overlap, engine=engine) for engine in ("closed", "events"))
    need = demanded(closed)
    booked = by_steps(closed)
    for name in ("flash", "weights", "kv", "copies"):
        np.testing.assert_allclose(booked[name], getattr(need, name), rtol=1e-9)
    timeline, lanes = by_events(events)
    np.testing.assert_allclose(lanes["flash"], need.flash, rtol=1e-9)
    np.testing.assert_allclose(lanes["compute"], need.weights + need.kv, rtol=1e-9)
    np.testing.assert_allclose(lanes["management"], need.copies, rtol=1e-9)
    assert timeline.moved[DMA] == pytest.approx(need.flash.sum())
    assert timeline.moved[USE] == pytest.approx((need.weights + need.kv).sum())
    assert timeline.moved[COPY] == pytest.approx(need.copies.sum())
    for result in (closed, events):
        kv = result.to_dict()["kv"]
        assert result.flash_bytes_per_token == pytest.approx(need.flash.mean())
        assert result.dram_bytes_per_token == pytest.approx((need.weights + need.kv).mean())
        assert kv["read_bytes_per_token"] == pytest.approx(need.kv.mean())
        assert kv["flash_write_bytes_per_token"] == pytest.approx(need.flash_written.mean())
    np.testing.assert_allclose(
        events.timing.times.exposed, closed.timing.times.exposed, rtol=1e-9, atol=1e-15
    )


def test_layers_that_are_left_out_take_nothing_of_it() -> None:
    """Every fifth layer, which holds no keys and values of decoded tokens either."""
    result = run(prune_tokens=None, skip_layers="unified:layers=6", skip_kv="hole")
    whole, left = demanded(result, whole=True), 24 / 30
    booked = by_steps(result)
    layer = LAYERS * (ATTENTION * BYTES + 2 * HIDDEN * 2)
    np.testing.assert_allclose(booked["weights"], whole.weights - (1 - left) * layer, rtol=1e-9)
    np.testing.assert_allclose(booked["kv"], whole.kv * left, rtol=1e-9)
    tail = POSITION * LAYERS * (BUDGET - RESIDENT)
    np.testing.assert_allclose(booked["flash"], whole.flash - (1 - left) * tail, rtol=1e-9)
    written = result.to_dict()["kv"]["flash_write_bytes_per_token"]
    assert written == pytest.approx(left * whole.flash_written.mean())
    _, lanes = by_events(result)
    np.testing.assert_allclose(lanes["compute"], booked["weights"] + booked["kv"], rtol=1e-9)
    np.testing.assert_allclose(lanes["flash"], booked["flash"], rtol=1e-9)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_experts_and_keys_and_values_share_flash_and_dram(scope: str) -> None:
    """A weight is a byte: attention 576, an expert 720, a router 72, norms 168, head 192; in q4_0 a
    position takes 2 x (6 + 2) B a layer, and of 6 that are held 3 lie in flash."""
    tokens, prompt, layers = 20, 8, 3
    arrays: dict[str, Any] = {
        "expert": np.random.default_rng(0).random((tokens, layers, 6)).astype(np.float32),
        "phase": (np.arange(tokens) >= prompt).astype(np.uint8),
        "meta": {"model": {**three_layers.MODEL, "experts": 6, "experts_per_token": 2}},
    }
    options: dict[str, Any] = {"kv_policy": "tova", "kv_budget": 6, "kv_quant": "q4_0"}
    options |= {"kv_dram": "50%", "routing": "cache-prior", "cache_fraction": 0.5}
    free = ["dram.bandwidth=1MB/s", "backends.cpu.dram_efficiency=.001"]
    for overlap in ("serial", "pipelined"):
        result = dipsim.simulate(
            arrays, three_layers.DEVICE, policy="lru", scope=scope, overlap=overlap,
            overrides=free, engine="events", **options,
        )  # fmt: skip
        missed = result.traffic.all_moved[prompt:].sum(axis=(1, 2))
        used = layers * (576 + 72 + 2 * 720) + 168 + 192
        kv, tail = (layers * 2 * (12 * 4 // 8 + 2) * positions for positions in (6, 3))
        timeline, lanes = by_events(result)
        np.testing.assert_allclose(lanes["flash"], missed + tail, rtol=1e-9)
        np.testing.assert_allclose(lanes["compute"], used + kv, rtol=1e-9)
        assert timeline.moved[DMA] == pytest.approx(lanes["flash"].sum())
        assert result.dram_bytes_per_token == pytest.approx(used + kv)


def test_where_dram_is_short_bytes_stay_and_time_grows() -> None:
    free, short = (
        run(engine="events", overrides=(*ROOMY, f"dram.background={other} GB/s"))
        for other in (0, 397)
    )
    (_, one), (_, other) = by_events(free), by_events(short)
    for lane, moved in one.items():
        np.testing.assert_allclose(other[lane], moved, rtol=1e-9)
    assert short.tokens_per_second < 0.99 * free.tokens_per_second


def test_the_authors_modes_book_the_same_reads() -> None:
    for overlap in ("paper-serial", "paper-concurrent"):
        closed, events = (run(overlap=overlap, engine=engine) for engine in ("closed", "events"))
        need = demanded(closed)
        np.testing.assert_allclose(by_steps(closed)["flash"], need.flash, rtol=1e-9)
        np.testing.assert_allclose(by_events(events)[1]["flash"], need.flash, rtol=1e-9)
        np.testing.assert_allclose(
            events.timing.times.latency, closed.timing.times.latency, rtol=1e-9
        )


def test_reads_ahead_and_keys_and_values_share_one_flash() -> None:
    result = run(method="dip", overlap="prefetch", prefetch="right=.5")
    need = demanded(result)
    ahead = result.traffic.ahead.moved[PROMPT:].sum(axis=(1, 2))
    _, lanes = by_events(result)
    np.testing.assert_allclose(by_steps(result)["flash"], need.flash, rtol=1e-9)
    assert lanes["flash"].sum() == pytest.approx(need.flash.sum())
    assert ahead.sum() > 0


def test_what_hides_is_on_the_timeline() -> None:
    result = run()
    shown = excerpt(result.run, result.traffic, 3)
    tails = [span for span in shown.spans if "KV from flash" in span.place]
    hidden = sum(span.bytes for span in tails if span.early)
    seen, computed = pruned()
    tail = np.maximum(np.minimum(seen - computed, BUDGET) - RESIDENT, 0)[:3].sum() * POSITION
    assert sum(span.bytes for span in tails) == pytest.approx(tail)
    assert 0 < hidden <= tail * (1 + 1e-12)
    assert {span.lane for span in tails} == {"flash"}


# One DRAM ----------------------------------------------------------------------------------------


def test_every_line_of_the_budget_is_there_and_they_add_up() -> None:
    result = run()
    budget = result.to_dict()["budget"]
    lines = ("attention", "norms", "head", "kv", "kv_buffer", "aux", "cache")
    assert min(budget[line] for line in lines) > 0
    assert sum(budget[line] for line in lines) == pytest.approx(budget["dram"])
    assert budget["kv"] == RESIDENT * LAYERS * POSITION
    assert budget["kv_buffer"] == 2 * (BUDGET - RESIDENT) * POSITION
    waits = result.run.beside.tokens.aux_bytes
    assert budget["aux"] == waits > 0


def test_the_report_shows_them(dipsim: Dipsim, tmp_path: Path) -> None:
    path = tmp_path / "both.npz"
    save_trace(path, trace())
    options = " ".join(f"--{key.replace('_', '-')} '{value}'" for key, value in ALL.items())
    out = done(dipsim(f"run {path} -p snapdragon8 {options} --details")).out
    for line in ("attention", "norms", "lm_head", "KV read buffer", "states that wait", "cache"):
        assert f"\n{line} " in out
    text = " ".join(out.split())
    assert re.search(r"KV tova, [\d.]+ positions a layer in q4_0", text)
    assert "lazy:at=0.3/0.6/0.9,rate=0.3/0.3/0.3: 69.7% of the prompts'" in text


def test_kv_that_grows_leaves_the_caches_what_it_does_not_take() -> None:
    """The largest KV is that of a budget for all; before, the caches have more."""
    fixed, grows = (run(kv=kv, prune_tokens=None) for kv in ("fixed", "grow"))
    assert grows.budget.kv == fixed.budget.kv
    assert grows.budget.capacity.tolist() == fixed.budget.capacity.tolist()
    assert grows.hits >= fixed.hits
