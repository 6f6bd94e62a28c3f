"""Time, bytes and budgets of decode steps of several tokens: by hand, and by laws."""

from typing import Any

import numpy as np
import pytest

import dipsim
from dipsim.analysis.baseline import hold
from dipsim.hardware import load_profile
from dipsim.sweep.many import many
from dipsim.sweep.point import Point
from tools import three_layers
from tools.one_layer import KV, SETS, TINY, device, trace

SLOW = device(compute="400 FLOP/s")
"""It uses 100 B/s and computes what 200 B of weights of a byte take."""


def by_hand(profile: dict[str, Any] = SLOW, **options: Any) -> dipsim.Result:
    """Run six tokens: in steps of three, {0, 1, 2} miss and then hit."""
    usual: dict[str, Any] = {"policy": "lru", "cache_fraction": 0.5, "overlap": "serial"}
    return dipsim.simulate(trace([*SETS, *SETS]), profile, **{**usual, **options})


def latencies(result: dipsim.Result) -> list[float]:
    return result.timing.times.latency.tolist()


# Time ---------------------------------------------------------------------------------------------


def test_sequences_side_by_side() -> None:
    """Attention has 80 B, the head 72 B; 36 B of neurons, used by two tokens each.

    Arithmetic of three tokens takes .015 s a byte, bringing one .01 s.
    """
    result = by_hand(batch=3)
    attention, head, neurons = 3 * 80 / 200, 3 * 72 / 200, max(36 / 100, 72 / 200)
    kv = [KV * (0 + 1 + 2), KV * (3 + 4 + 5)]
    flops = [2 * read / 2 for read in kv]  # an element of two bytes meets a query
    first = max(0.8 + kv[0] / 100, attention + flops[0] / 400) + head + neurons + 36 / 10
    later = max(0.8 + kv[1] / 100, attention + flops[1] / 400) + head + neurons
    assert latencies(result) == pytest.approx([first, later])
    assert result.tokens_per_second == pytest.approx(6 / (first + later))
    assert result.timing.dram_bytes.tolist() == pytest.approx([152 + read for read in kv])
    assert result.dram_bytes_per_token == pytest.approx((2 * 152 + sum(kv) + 2 * 36) / 6)
    assert result.flash_bytes_per_token == pytest.approx(36 / 6)
    assert result.latency_ms["mean"] == pytest.approx(500 * (first + later))


def test_drafts_that_are_verified() -> None:
    """They read the keys and values before the first of them once; all three meet them."""
    result = by_hand(speculate="draft=2,accept=1")
    attention, head, neurons = 3 * 80 / 200, 3 * 72 / 200, max(36 / 100, 72 / 200)
    kv = [0, KV * 3]
    flops = [3 * 2 * read / 2 for read in kv]
    first = max(0.8 + kv[0] / 100, attention + flops[0] / 400) + head + neurons + 36 / 10
    later = max(0.8 + kv[1] / 100, attention + flops[1] / 400) + head + neurons
    assert latencies(result) == pytest.approx([first, later])
    assert result.tokens_per_second == pytest.approx(6 / (first + later))


def test_rejected_drafts_give_one_token_a_step() -> None:
    result = by_hand(speculate="draft=2,accept=0")
    steps = latencies(result)
    assert (len(steps), result.tokens) == (4, 4)
    assert result.tokens_per_second == pytest.approx(4 / sum(steps))


def test_without_a_limit_of_compute_a_step_takes_what_it_brings() -> None:
    result = by_hand(device(compute="unlimited"), batch=3)
    kv = [KV * (0 + 1 + 2), KV * (3 + 4 + 5)]
    bringing = [(152 + read + 36) / 100 for read in kv]
    assert latencies(result) == pytest.approx([bringing[0] + 3.6, bringing[1]])
    assert result.time_share["compute"] == 0


def test_every_token_reads_its_row_of_the_embedding() -> None:
    arrays = trace([*SETS, *SETS])
    arrays["meta"] = {"model": {**TINY, "tied_embeddings": False}}
    options: dict[str, Any] = {"policy": "lru", "cache_fraction": 0.5, "overlap": "serial"}
    timing = dipsim.simulate(arrays, SLOW, batch=3, **options).timing
    assert (timing.static_flash_bytes, timing.static_flash_reads) == (3 * 4, 3)
    tied = by_hand(batch=3).timing.times.latency
    assert timing.times.latency.tolist() == pytest.approx((tied + 3 * 4 / 10).tolist())


def test_arithmetic_beyond_bringing_is_of_compute() -> None:
    times = by_hand(batch=3).timing.times
    beyond = [1.2 + 48 / 400 - 1.28, 0]  # attention; the second step waits for its keys and values
    beyond = [each + 3 * 72 / 200 - 0.72 for each in beyond]
    assert times.exposed[:, 2].tolist() == pytest.approx(beyond)


def test_every_token_of_a_step_has_a_mask_of_its_own() -> None:
    slow = three_layers.DEVICE
    free = {**slow, "backends": {"cpu": {**slow["backends"]["cpu"], "per_mask": "0 s"}}}
    arrays = three_layers.scores(1, 20)
    options: dict[str, Any] = {"method": "dip", "policy": "lru", "cache_fraction": 0.5}
    for many_tokens in (2, 4):
        paid, unpaid = (
            dipsim.simulate(arrays, profile, batch=many_tokens, **options)
            for profile in (slow, free)
        )
        masks = 0.1 * 3 * 2 * many_tokens
        np.testing.assert_allclose(
            paid.timing.times.latency - unpaid.timing.times.latency, masks, rtol=1e-9
        )


def test_drafting_takes_shares_of_a_token_decoded_alone() -> None:
    free, counted = (
        by_hand(speculate="draft=2,accept=1"),
        by_hand(speculate="draft=2,accept=1,cost=.25"),
    )
    alone = by_hand().tokens_per_second
    drafting = 2 * 0.25 / alone
    assert counted.run.draft_seconds == pytest.approx(drafting)
    assert counted.step["draft_ms"] == pytest.approx(1e3 * drafting)
    np.testing.assert_allclose(counted.timing.times.latency, free.timing.times.latency + drafting)
    assert "free-drafts" in free.marks
    assert "free-drafts" not in counted.marks
    for result in (free, counted, by_hand(batch=2)):
        assert "stand-ins" in result.marks


@pytest.mark.parametrize("plan", [{"batch": 3}, {"speculate": "draft=3,accept=.6,cost=.2"}])
@pytest.mark.parametrize("method", ["dip", "dip-ca", "dense"])
@pytest.mark.parametrize("overlap", ["serial", "pipelined"])
def test_engines_agree(plan: dict[str, Any], method: str, overlap: Any) -> None:
    backend = {**three_layers.DEVICE["backends"]["cpu"], "compute": "1500 FLOP/s"}
    profile = {**three_layers.DEVICE, "backends": {"npu": backend}}
    profile["dram"] = {"capacity": "1 MB", "bandwidth": "1 MB/s"}
    backend["dram_efficiency"] = 0.001
    options: dict[str, Any] = {"policy": "lru", "cache_fraction": 0.5, "overlap": overlap}
    closed, events = (
        dipsim.simulate(
            three_layers.scores(2, 24), profile, method=method, engine=engine, **options, **plan
        ).timing
        for engine in ("closed", "events")
    )
    assert closed.times.exposed[:, 2].min() > 0
    np.testing.assert_allclose(events.times.latency, closed.times.latency, rtol=1e-9)
    np.testing.assert_allclose(events.times.exposed, closed.times.exposed, rtol=1e-9, atol=1e-12)


def test_the_first_token_comes_with_the_first_step() -> None:
    arrays = three_layers.scores(1, 20)
    options: dict[str, Any] = {"method": "dip", "policy": "lru", "cache_fraction": 0.5}
    drafts = {"speculate": "draft=3,accept=1"}
    timing = dipsim.simulate(arrays, three_layers.DEVICE, **drafts, **options).timing
    first = timing.times.latency[[0, 2]].mean()  # of two sequences with two steps each
    assert timing.ttft == pytest.approx(timing.prefill.seconds / 2 + first)


def test_of_a_batch_nothing_is_said_about_the_first_token() -> None:
    arrays = three_layers.scores(1, 20)
    options: dict[str, Any] = {"method": "dip", "policy": "lru", "cache_fraction": 0.5}
    timing = dipsim.simulate(arrays, three_layers.DEVICE, batch=4, **options).timing
    assert timing.prefill is None
    assert timing.ttft is None


# Budgets, keys and values -------------------------------------------------------------------------


def test_dram_holds_the_keys_and_values_of_every_sequence() -> None:
    plain, batch, drafts = (
        by_hand(**options, dram="480 B", cache_fraction=None)
        for options in ({}, {"batch": 3}, {"speculate": "draft=2,accept=.5"})
    )
    assert batch.budget.kv == 3 * plain.budget.kv == 3 * drafts.budget.kv
    assert batch.budget.cache < drafts.budget.cache
    growing = by_hand(batch=3, dram="700 B", cache_fraction=None, kv="grow")
    assert growing.budget.kv == 3 * 6 * KV


@pytest.mark.parametrize("accept", [0, 1])
def test_keys_and_values_in_flash(accept: int) -> None:
    """A position is 16 B. Two of each sequence stay in DRAM; what leaves it is written."""
    options: dict[str, Any] = {"kv_dram": "50%", "context": 4}
    plain = by_hand(**options).kv
    batch, drafts = (
        by_hand(**options, **more).kv
        for more in ({"batch": 3}, {"speculate": f"draft=2,accept={accept}"})
    )
    assert batch["held_bytes"] == 3 * plain["held_bytes"]
    for name in ("read", "flash", "write", "flash_write"):  # of a token, as alone
        assert batch[f"{name}_bytes_per_token"] == plain[f"{name}_bytes_per_token"]
    assert batch["positions"] == plain["positions"] == 2.5
    given = 3 if accept else 1
    first = np.array([0, 3]) if accept else np.arange(4)
    assert drafts["held_bytes"] == plain["held_bytes"]
    assert drafts["read_bytes_per_token"] == pytest.approx(KV * first.mean() / given)
    beyond = np.maximum(first - 2, 0).mean()
    assert drafts["flash_bytes_per_token"] == pytest.approx(KV * beyond / given)
    assert drafts["write_bytes_per_token"] == KV * 3 / given


# Beside a run -------------------------------------------------------------------------------------

PLANS = ({"batch": 4}, {"speculate": "draft=3,accept=.7,seed=2"})


@pytest.mark.parametrize("plan", PLANS)
def test_dense_beside_a_run_is_the_dense_run(plan: dict[str, Any]) -> None:
    options: dict[str, Any] = {"dram": "50 MB", "tokens": "0:40", **plan}
    result = dipsim.simulate("smollm2-chat", "snapdragon8", density=0.6, **options)
    dense = dipsim.simulate("smollm2-chat", "snapdragon8", method="dense", **options)
    beside = hold(result).dense
    assert beside.rate == pytest.approx(dense.tokens_per_second)
    assert beside.flash_bytes == pytest.approx(dense.flash_bytes_per_token)
    assert sum(beside.exposed.values()) == pytest.approx(1 / dense.tokens_per_second)


def test_runs_of_other_steps_share_no_replay() -> None:
    arrays = dipsim.load_trace("smollm2-chat")
    profile = load_profile("snapdragon8")
    usual: dict[str, Any] = {"dram": "60%", "tokens": "0:24", "density": 0.6}
    points = [Point({}, arrays, profile, {**usual, **plan}) for plan in ({}, *PLANS)]
    alone = [
        dipsim.simulate("smollm2-chat", "snapdragon8", **usual, **plan).tokens_per_second
        for plan in ({}, *PLANS)
    ]
    assert [cell.rate for cell in many(points)] == alone
    assert len(set(alone)) == 3


@pytest.mark.parametrize("plan", PLANS)
def test_a_rate_lies_in_its_interval_and_energy_is_a_tokens(plan: dict[str, Any]) -> None:
    options: dict[str, Any] = {"dram": "60%", "tokens": "0:40", "density": 0.6}
    plain, steps = (
        dipsim.simulate("smollm2-chat", "snapdragon8", **options, **more) for more in ({}, plan)
    )
    interval = steps.interval
    assert interval.low < steps.tokens_per_second < interval.high
    assert "several tokens a step" in interval.unmeasured
    assert steps.timing.energy[1] < plain.timing.energy[1]
    rate = steps.tokens / steps.timing.times.latency.sum()
    assert steps.tokens_per_second == pytest.approx(rate)
    figures = steps.per_token
    assert figures["given"].sum() == steps.tokens
    assert len(figures["latency_ms"]) == steps.step["steps"]
    assert sum(steps.time_share.values()) == pytest.approx(1)
