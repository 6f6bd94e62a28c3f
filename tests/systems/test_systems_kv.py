"""KV that is evicted, quantised, in flash or computed again, in the budget and the time of a run:
worked out by hand on a model of one layer."""

from typing import Any

import numpy as np
import pytest

import dipsim
from dipsim.errors import DipsimError
from tools.one_layer import DEVICE, KV, TINY, device, trace

SETS = [{0, 1}, {0, 1}, {1, 2}, {2}]
DEPTH = 10


ROOMY = {**device(dram_efficiency=0.5), "dram": {"capacity": "1 kB", "bandwidth": "200 B/s"}}
"""A device on which weights and KV take half of the DRAM's bandwidth, as much as `DEVICE` has."""


def run(profile: dict[str, Any] = DEVICE, **options: Any) -> Any:
    usual = {"policy": "lru", "cache_fraction": 1.0, "depth": DEPTH, "overlap": "serial"}
    return dipsim.simulate(trace(SETS), profile, **{**usual, **options})


def latency(result: Any) -> Any:
    return np.array(result.timing.times.latency)


BEFORE = np.arange(DEPTH, DEPTH + len(SETS))
"""Positions before each token."""


def test_without_an_option_nothing_changes() -> None:
    assert run(kv_policy="full").to_dict()["kv"] is None
    assert run(kv_dram="100%").to_dict()["kv"] is None
    np.testing.assert_array_equal(latency(run(kv_policy="full")), latency(run()))


@pytest.mark.parametrize(
    "policy", ["window", "tova", "h2o", "obcache:score=value", "snapkv", "streaming"]
)
def test_a_budget_that_holds_all_is_no_budget(policy: str) -> None:
    when = "prompt" if policy == "snapkv" else "token"
    whole = run(kv_policy=policy, kv_budget="14" if when == "token" else "100%", kv_when=when)
    np.testing.assert_allclose(latency(whole), latency(run()), rtol=1e-12)
    assert whole.dram_bytes_per_token == pytest.approx(run().dram_bytes_per_token, rel=1e-12)


def test_evicted_positions_are_neither_read_nor_held() -> None:
    result, whole = run(kv_policy="tova", kv_budget=2), run()
    saved = (BEFORE - 2) * KV
    np.testing.assert_allclose(latency(whole) - latency(result), saved / 100)
    kv = result.to_dict()["kv"]
    assert (kv["policy"], kv["budget"], kv["when"], kv["loop"]) == ("tova", 2, "token", "counts")
    assert (kv["positions"], kv["read_bytes_per_token"]) == (2, 2 * KV)
    assert result.to_dict()["budget"]["kv"] == 2 * KV


def test_a_prompt_is_cut_in_one_go_and_grows_after() -> None:
    result, whole = run(kv_policy="observed", kv_budget="40%"), run()
    np.testing.assert_allclose(latency(whole) - latency(result), np.full(4, 6 * KV) / 100)
    assert result.to_dict()["budget"]["kv"] == DEPTH * KV  # while the prompt runs


def test_fewer_bits_are_read_and_held() -> None:
    # A block of 32 numbers: 8.5 bits each. A position has 4 keys and 4 values, a block each.
    position = 2 * (4 + 2)
    result, whole = run(kv_quant="q8_0"), run()
    np.testing.assert_allclose(latency(whole) - latency(result), BEFORE * (KV - position) / 100)
    assert result.to_dict()["budget"]["kv"] == (DEPTH + len(SETS)) * position


def test_the_oldest_come_from_flash() -> None:
    # Of 14 positions at last 7 stay in DRAM.
    result, whole = run(kv_dram="50%"), run()
    tail = (BEFORE - 7) * KV
    np.testing.assert_allclose(latency(result) - latency(whole), tail / 10)
    budget = result.to_dict()["budget"]
    assert (budget["kv"], budget["kv_buffer"]) == (7 * KV, 2 * 7 * KV)
    assert result.flash_bytes_per_token - whole.flash_bytes_per_token == tail.mean()
    assert result.to_dict()["kv"]["flash_write_bytes_per_token"] == KV


def test_flash_reads_ahead_while_the_layer_before_computes() -> None:
    # The head of the token before, 64 B and a norm of 8 B, takes 0.72 s.
    options: dict[str, Any] = {"overlap": "pipelined"}
    result, whole = (run(ROOMY, **options, **more) for more in ({"kv_dram": "50%"}, {}))
    waits = np.maximum((BEFORE - 7) * KV / 10 - 0.72, 0)
    np.testing.assert_allclose(latency(result) - latency(whole), waits)
    assert result.timing.engine == "closed"


def test_what_is_read_ahead_takes_its_part_of_a_narrow_dram() -> None:
    # In .72 s the flash brings 7.2 B, for which the head has 7.2 B of DRAM's 72 B less.
    options: dict[str, Any] = {"overlap": "pipelined"}
    result, whole = run(kv_dram="50%", **options), run(**options)
    waits = np.maximum((BEFORE - 7) * KV / 10 - 0.72, 0)
    np.testing.assert_allclose(latency(result) - latency(whole), waits + 7.2 / 100)
    assert result.timing.engine == "events"


def test_what_is_computed_again_is_not_read() -> None:
    # The input of a position is 8 B, its keys and values are 16 B: 4 * 4 * 4 FLOP of 64 FLOP/s.
    slow = device(compute="64 FLOP/s", dram_efficiency=1)
    usual: dict[str, Any] = {"policy": "lru", "cache_fraction": 1.0, "depth": DEPTH}
    usual |= {"overlap": "serial", "kv_dram": "50%"}
    rest = dipsim.simulate(trace(SETS), slow, **usual)
    some = dipsim.simulate(trace(SETS), slow, **usual, kv_recompute="l=2")
    tail = BEFORE - 7
    # 2 inputs, then the longer of reading the others and of 2 s of arithmetic.
    took = 2 * 8 / 10 + np.maximum((tail - 2) * KV / 10, 2.0)
    more_read = 2 * 8 / 100  # inputs are read from DRAM, too
    np.testing.assert_allclose(latency(some) - latency(rest), took - tail * KV / 10 + more_read)
    assert some.to_dict()["kv"]["recomputed"] == 2


def test_both_engines_agree() -> None:
    for options in (
        {"kv_dram": "50%"},
        {"kv_policy": "tova", "kv_budget": 3},
        {"kv_quant": "q4_0"},
    ):
        for overlap in ("serial", "pipelined"):
            given: dict[str, Any] = {**options, "overlap": overlap}
            closed, events = (run(ROOMY, **given, engine=e) for e in ("closed", "events"))
            np.testing.assert_allclose(latency(events), latency(closed), rtol=1e-9)


def test_kv_that_grows_is_evicted_too() -> None:
    options: dict[str, Any] = {"cache_fraction": None, "dram": "260 B", "kv": "grow", "depth": 0}
    whole, result = run(**options), run(**options, kv_policy="window", kv_budget=2)
    assert [each.to_dict()["budget"]["kv"] for each in (whole, result)] == [4 * KV, 2 * KV]
    assert result.hits >= whole.hits


def test_auto_is_the_fastest_share() -> None:
    options: dict[str, Any] = {"cache_fraction": None, "dram": "400 B", "depth": 6}
    shares = {
        share: run(**options, kv_dram=share).tokens_per_second
        for share in ("0%", "25%", "50%", "75%", "100%")
    }
    best = run(**options, kv_dram="auto")
    assert best.tokens_per_second == max(shares.values())
    assert shares[best.run.settings.kv_dram] == max(shares.values())
    assert len(set(shares.values())) > 1


def test_recorded_vectors_say_what_is_lost() -> None:
    options: dict[str, Any] = {"tokens": "0:160", "dram": "60%", "kv_budget": 16}
    lost = {
        policy: dipsim.simulate("smollm2-kv", "snapdragon8", kv_policy=policy, **options).kv_quality
        for policy in ("window", "streaming")
    }
    assert 0 < lost["window"].mass_kept < lost["streaming"].mass_kept < 1, "sinks take attention"
    assert lost["window"].output_error > lost["streaming"].output_error > 0
    whole = dipsim.simulate(
        "smollm2-kv", "snapdragon8", kv_policy="window", **{**options, "kv_budget": 160}
    )
    assert whole.kv_quality.mass_kept == pytest.approx(1)
    assert whole.to_dict()["kv"]["loop"] == "layer-closed"


def test_positions_that_count_anew_move_the_same_bytes_and_need_the_model() -> None:
    options: dict[str, Any] = {"tokens": "0:160", "dram": "60%", "kv_budget": 16}
    plain, anew = (
        dipsim.simulate("smollm2-kv", "snapdragon8", kv_policy=policy, **options)
        for policy in ("streaming", "streaming:rerotate=yes")
    )
    np.testing.assert_array_equal(latency(anew), latency(plain))
    assert (plain.to_dict()["kv"]["loop"], anew.to_dict()["kv"]["loop"]) == (
        "layer-closed",
        "counts",
    )
    (text,) = [text for label, text in anew.summary() if label == "KV"]
    assert "needs the model (dipsim eval): no trace holds RoPE's frequencies" in text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kv_policy": "h2o"}, "needs --kv-budget"),
        ({"kv_policy": "h2o", "kv_budget": 0}, "at least 1 position"),
        ({"kv_policy": "h2o", "kv_budget": "0%"}, "a share above 0%"),
        ({"kv_policy": "h2o", "kv_budget": 15}, "the context has 14 positions"),
        ({"kv_policy": "full", "kv_budget": 4}, "drop one of them"),
        ({"kv_policy": "h3o", "kv_budget": 4}, "no KV policy 'h3o'"),
        ({"kv_budget": 4}, "is for a --kv-policy"),
        ({"kv_policy": "snapkv", "kv_budget": 4, "depth": 0}, "cuts a prompt"),
        ({"kv_policy": "pyramidkv", "kv_budget": 4}, "no pyramid"),
        ({"kv_policy": "streaming", "kv_budget": 3}, "give at least"),
        ({"kv_quant": "q8_0", "kv_bits": 8}, "give one of them"),
        ({"kv_quant": "q9"}, "no KV format 'q9'"),
        ({"kv_dram": "lots"}, "--kv-dram"),
        ({"kv_recompute": "auto"}, "all KV lies in DRAM"),
        ({"kv_recompute": "most", "kv_dram": "50%"}, "write none, auto, or l=POSITIONS"),
        ({"kv_policy": "tova", "kv_budget": 2, "compat": "authors"}, "--compat authors"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(options: dict[str, Any], text: str) -> None:
    with pytest.raises(DipsimError, match=text) as problem:
        run(**options)
    assert "\n" not in str(problem.value)


def test_a_trace_without_a_model_has_no_kv() -> None:
    sets = np.zeros((2, 1, 8), np.bool_)
    sets[..., 0] = True
    unnamed = {"glu": sets, "meta": {"signals": {"glu": {"unit_bytes": 8}}}}
    with pytest.raises(DipsimError, match="pass --model NAME or FILE"):
        dipsim.simulate(unnamed, DEVICE, kv_policy="tova", kv_budget=2)


def test_grouped_heads_have_nothing_to_compute_again() -> None:
    grouped = {**TINY, "hidden": 8, "heads": 2, "head_dim": 4}  # the input is as large as the KV
    sets = {**trace(SETS), "meta": {"model": grouped}}
    result = dipsim.simulate(
        sets, DEVICE, cache_fraction=1.0, depth=DEPTH, kv_dram="50%", kv_recompute="auto"
    )
    assert result.to_dict()["kv"]["recomputed"] == 0
    assert "sending the input saves nothing" in str(result.run.kv.why_no_recompute)
