"""Where the time goes: what binds a layer, elasticities, cold start, first tokens, energy."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dipsim as package
from dipsim.analysis.attribution import SPEEDS, Attribution, attribute, check_attribution
from dipsim.errors import DipsimError, ModelError
from dipsim.hardware import load_profile
from dipsim.simulate import prepare
from dipsim.timeline.closed import RESOURCES
from tools.cli import Dipsim, done, refused
from tools.one_layer import DEVICE, KV, NEURON, SETS, STATIC, TINY, device, trace

FIXED = {"per_layer": "0.25 s", "per_mask": "0.2 s", "per_score": "0.1 s"}
BACKEND = {"dram_efficiency": 0.5, **FIXED, "cache_copy": "30 B/s", "overlap_factor": 0.4}


def run(profile: dict[str, Any], sets: list[set[int]] = SETS, **options: Any) -> Any:
    options = {"policy": "lru", "cache_fraction": 0.25, "overlap": "serial", **options}
    marks = options.pop("marks", {})
    return package.simulate(trace(sets, **marks), profile, **options)


def attributed(
    given: Any, profile: Any, step: float = 0.05, **options: Any
) -> tuple[Attribution, Any]:
    result = package.simulate(given, profile, **options)
    return attribute(result, step), result


# Parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({"kv_dram": "50%"}, "head"),
        ({"batch": 2}, "head"),
        ({"speculate": "draft=2,accept=.8,cost=.1"}, "drafting"),
    ],
)
def test_every_step_of_a_layer_is_the_layers(options: dict[str, Any], last: str) -> None:
    """Waiting for keys and values too; together they are the time of a token."""
    given: dict[str, Any] = {"dram": "60%", "tokens": "0:24", "engine": "closed", **options}
    found, result = attributed("smollm2-chat", "snapdragon8", **given)
    names = [part.name for part in found.parts]
    assert names == [*range(30), *dict.fromkeys(("head", last))]
    total = sum(sum(part.exposed.values()) for part in found.parts)
    assert total == pytest.approx(1 / result.tokens_per_second)


# Elasticities ------------------------------------------------------------------------------------


def test_in_series_an_elasticity_is_the_share_of_time() -> None:
    options = {"policy": "lru", "cache_fraction": 0.25, "overlap": "serial"}
    found, result = attributed(trace(SETS), device(**BACKEND), 1e-4, **options)
    share, sizes = result.time_share, found.elasticity
    assert min(share[name] for name in ("flash", "dram", "sync", "management")) > 0
    expected = {
        "flash_bandwidth": share["flash"],
        "dram_bandwidth": share["dram"],
        "compute": 0.0,
        "sync": share["sync"],
        "cache_copy": share["management"],
    }
    assert {speed: sizes[speed] for speed in SPEEDS} == pytest.approx(expected, abs=1e-7)


def test_by_hand() -> None:
    # Nothing but flash and DRAM: 9.36 s, of which 3 misses of 12 B at 10 B/s take 3.6 s.
    options = {"policy": "lru", "cache_fraction": 0.25, "overlap": "serial"}
    found, _ = attributed(trace(SETS), device(), **options)
    span = math.log(1.05 / 0.95)
    flash = math.log((5.76 + 3.6 / 0.95) / (5.76 + 3.6 / 1.05)) / span
    dram = math.log((3.6 + 5.76 / 0.95) / (3.6 + 5.76 / 1.05)) / span
    assert found.elasticity["flash_bandwidth"] == pytest.approx(flash)
    assert found.elasticity["dram_bandwidth"] == pytest.approx(dram)
    assert found.elasticity["flash_requests"] is None
    # Two of eight neurons fit; 5 % less holds one, which hits twice less, 5 % more still two.
    one = run(device(), cache_fraction=0.25 * 0.95).tokens_per_second
    two = run(device(), cache_fraction=0.25 * 1.05).tokens_per_second
    assert found.elasticity["cache_size"] == pytest.approx(math.log(two / one) / span)


GEMV = {**BACKEND, "gemv": {"q4": "70 B/s"}}
KERNEL = {**BACKEND, "compute": "60 FLOP/s"}


@pytest.mark.parametrize("overlap", ["serial", "pipelined"])
@pytest.mark.parametrize("backend", [BACKEND, KERNEL, GEMV], ids=["dram", "flops", "gemv"])
@pytest.mark.parametrize("dram", ["100%", "130 B"])
def test_elasticities_of_all_that_takes_time_sum_to_one(
    overlap: str, backend: dict[str, Any], dram: str
) -> None:
    quant = {"format": "q4", "bits": 8, "group": 4, "axis": "out", "scale_bytes": 0}
    model = {key: value for key, value in TINY.items() if key != "bits"} | {"quant": quant}
    given = {**trace(SETS), "meta": {"model": model}}
    options = {"policy": "lru", "overlap": overlap, "dram": dram}
    exact, result = attributed(given, device(**backend), 1e-4, **options)
    assert sum(exact.elasticity[speed] or 0 for speed in SPEEDS) == pytest.approx(1, abs=1e-6)
    coarse, _ = attributed(given, device(**backend), **options)
    assert sum(coarse.elasticity[speed] or 0 for speed in SPEEDS) == pytest.approx(1, abs=3e-3)
    bound = "compute" if backend is not BACKEND else "dram_bandwidth"
    assert (exact.elasticity[bound] or 0) > 0.1
    assert result.time_share["sync"] > 0


def test_they_sum_to_one_also_where_flash_and_compute_share_dram() -> None:
    fast = {**device(**{**BACKEND, "dram_efficiency": 0.9}), "flash": {"bandwidth": "60 B/s"}}
    options = {"policy": "lru", "cache_fraction": 0.25}
    found, result = attributed(trace(SETS), fast, 1e-4, **options)
    alone, calm = attributed(trace(SETS), fast, 1e-4, engine="closed", **options)
    assert (found.contends, alone.contends) == (True, False)
    assert result.tokens_per_second < 0.999 * calm.tokens_per_second
    assert sum(found.elasticity[speed] or 0 for speed in SPEEDS) == pytest.approx(1, abs=1e-6)
    assert (found.elasticity["dram_bandwidth"] or 0) > (alone.elasticity["dram_bandwidth"] or 0)


def test_a_run_that_reads_ahead_has_elasticities_only() -> None:
    options = {"policy": "lru", "cache_fraction": 0.75, "overlap": "prefetch"}
    found, _ = attributed(trace(SETS), device(**BACKEND), 1e-4, **options)
    assert found.parts == []
    assert sum(found.elasticity[speed] or 0 for speed in SPEEDS) == pytest.approx(1, abs=1e-6)


def test_requests_are_what_reads_take_beyond_their_bytes() -> None:
    # A neuron alone takes 1.2 s, of which .4 are its bytes at the 30 B/s of long reads.
    points = [
        {"size": "12 B", "lanes": 1, "bandwidth": "10 B/s"},
        {"size": "1200 B", "lanes": 1, "bandwidth": "30 B/s"},
    ]
    phone = {**device(), "flash": {"reads": points, "lanes": 1}}
    options = {"policy": "lru", "cache_fraction": 0.25, "overlap": "serial"}
    apart = [{0, 4}, {0, 4}, {0, 7}]
    found, result = attributed(trace(apart), phone, 1e-3, **options)
    assert result.flash_reads_per_token == 1
    part = result.time_share["flash"] * 0.8 / 1.2
    assert found.elasticity["flash_requests"] == pytest.approx(part, rel=1e-5)
    points[0] |= {"bandwidth": "30 B/s"}
    cheap, _ = attributed(trace(apart), phone, **options)
    assert cheap.elasticity["flash_requests"] == pytest.approx(0, abs=1e-9)


def test_requests_in_another_order_stay_in_it() -> None:
    # By id the two neurons of a token lie apart; learned from the first eight tokens, together.
    points = [
        {"size": "12 B", "lanes": 1, "bandwidth": "10 B/s"},
        {"size": "1200 B", "lanes": 1, "bandwidth": "30 B/s"},
    ]
    phone = {**device(), "flash": {"reads": points, "lanes": 1}}
    options = {"policy": "none", "cache_fraction": 0.0, "overlap": "serial", "layout": "permuted"}
    found, result = attributed(trace([{0, 4}] * 12), phone, 1e-3, order_from="0:8", **options)
    assert result.flash_reads_per_token == 1
    took = float(np.interp(24, [12, 1200], [1.2, 40]))
    assert result.time_share["flash"] * result.latency_ms["mean"] == pytest.approx(1e3 * took)
    part = result.time_share["flash"] * (took - 24 / 30) / took
    assert found.elasticity["flash_requests"] == pytest.approx(part, rel=1e-4)


def test_where_everything_fits_more_dram_gives_nothing() -> None:
    found, _ = attributed(trace(SETS), device(), dram="600 B", policy="lru")
    assert found.elasticity["dram_size"] == 0
    assert "cache_size" not in found.elasticity


def test_dram_that_could_not_be_less_has_no_elasticity() -> None:
    found, _ = attributed(trace(SETS), device(), dram=f"{3 * KV + 1} B", policy="lru")
    assert found.elasticity["dram_size"] is None


@pytest.mark.parametrize(
    "told",
    [{}, {"kv": "grow"}, {"allocate": "equal"}, {"scope": "global"}, {"allocate": "optimal"}],
    ids=str,
)
def test_the_size_of_dram_is_replayed(told: dict[str, Any]) -> None:
    options = {"policy": "lru", **told}
    rng = np.random.default_rng(0)
    sets = [set(np.flatnonzero(rng.random(8) < 0.4).tolist()) for _ in range(16)]
    size = STATIC + 16 * KV + 4 * NEURON
    found, _ = attributed(trace(sets), DEVICE, dram=f"{size} B", **options)
    rates = [
        package.simulate(trace(sets), DEVICE, dram=f"{size * f:.3f} B", **options).tokens_per_second
        for f in (0.95, 1.05)
    ]
    expected = math.log(rates[1] / rates[0]) / math.log(1.05 / 0.95)
    assert found.elasticity["dram_size"] == pytest.approx(expected)
    assert expected != 0


# What binds ---------------------------------------------------------------------------------------


def test_parts_sum_to_the_whole_and_name_what_binds() -> None:
    model = {**TINY, "layers": 3, "tied_embeddings": False}
    glu = np.zeros((4, 3, 8), np.bool_)
    glu[:, 0, 0] = True  # always the same neuron: hits
    glu[np.arange(4), 1, np.arange(4)] = True  # another one each time: misses
    glu[:, 2, :6] = True
    given = {"glu": glu, "meta": {"model": model}}
    options = {"policy": "lru", "cache_fraction": 0.25, "overlap": "pipelined", "layers": "1:3"}
    found, result = attributed(given, device(**BACKEND), **options)
    assert [part.name for part in found.parts] == ["embedding", 1, 2, "head"]
    exposed = result.timing.times.exposed.mean(axis=0)
    for i, resource in enumerate(("flash", "dram", "compute", "sync", "management")):
        total = sum(part.exposed[resource] for part in found.parts)
        assert total == pytest.approx(exposed[i])
    assert [part.binding for part in found.parts] == ["flash", "dram", "flash", "dram"]
    whole, _ = attributed(given, device(**{**BACKEND, "per_layer": "9 s"}), **options)
    assert [part.binding for part in whole.layers] == ["sync", "sync"]


def test_a_layer_has_what_it_waits_for_of_its_keys_and_values() -> None:
    glu = np.zeros((4, 3, 8), np.bool_)
    glu[..., 0] = True
    given = {"glu": glu, "meta": {"model": {**TINY, "layers": 3}}}
    options: dict[str, Any] = {"policy": "lru", "cache_fraction": 1.0, "depth": 20}
    found, result = attributed(given, device(**BACKEND), **options, kv_dram="50%")
    whole, _ = attributed(given, device(**BACKEND), **options)
    assert [part.name for part in found.parts] == [part.name for part in whole.parts]
    assert all(
        one.exposed["flash"] > other.exposed["flash"]
        for one, other in zip(found.layers, whole.layers, strict=True)
    )
    exposed = result.timing.times.exposed.mean(axis=0)
    for i, resource in enumerate(RESOURCES):
        assert sum(part.exposed[resource] for part in found.parts) == pytest.approx(exposed[i])


def test_the_command_line_shows_it_on_request(dipsim: Dipsim, folder: Any) -> None:
    line = "run smollm2-chat --profile snapdragon8 --dram 60% --tokens 0:16"
    shown = done(dipsim(f"{line} --attribution")).out
    assert [row for row in shown.splitlines() if len(row) > 80] == []
    rates = [float(row.split()[-2]) for row in shown.splitlines() if row.endswith(" %")]
    assert len(rates) == 7
    assert all(abs(a) >= abs(b) for a, b in pairwise(rates))
    assert "layers 0-29" in shown
    found = done(dipsim(f"{line} --attribution --json")).json["attribution"]
    assert set(found["elasticity"]) == {*SPEEDS, "flash_requests", "dram_size"}
    assert found["parts"][0]["binding"] == "sync"
    assert "attribution" not in done(dipsim(f"{line} --json")).json


# Cold start and the first token ------------------------------------------------------------------


def test_a_cold_start_reads_static_weights_in_order() -> None:
    fits = run(device(), dram="400 B", cache_fraction=None)
    assert fits.cold_start == STATIC / 10
    assert fits.to_dict()["cold_start_ms"] == 1e3 * STATIC / 10
    streamed = run(device(), dram=f"{100 + 2 * KV + KV} B", cache_fraction=None)
    assert streamed.cold_start == 100 / 10  # the other 52 B are read for every token
    given = run(device(), cache_fraction=0.5)
    assert given.cold_start == STATIC / 10


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_cache_that_starts_full_is_read_too(scope: str) -> None:
    result = run(device(), policy="static", cache_fraction=0.5, scope=scope)
    assert result.cold_start == (STATIC + 4 * NEURON) / 10


def test_without_a_model_nothing_is_said_of_a_cold_start() -> None:
    given = {**trace(SETS), "meta": {"signals": {"glu": {"unit_bytes": 12}}}}
    result = package.simulate(given, device(), cache_fraction=0.5)
    assert result.cold_start is None
    assert "cold start" not in dict(result.summary())


def test_first_tokens_by_hand() -> None:
    # The prompt streams 8 neurons (96 B) at 10 B/s, then uses 152 + 96 B at 100 B/s: 12.08 s.
    # A token: 1.52 s of static weights, .16 a position of KV, .24 to use two neurons; 3 misses of
    # 1.2 s in 3 tokens are 1.2 s on average, and 2.4 s in the first one.
    options = {"policy": "lru", "cache_fraction": 0.25, "overlap": "serial"}
    for prompt in (16, 32, 40):
        result = package.simulate(trace(SETS), device(), prompt=prompt, **options)
        found, kv = result.first_token, 0.16 * prompt
        assert found is not None
        assert found["prompt"] == result.run.context == prompt
        assert found["prefill_ms"] == pytest.approx(1e3 * (9.6 + 2.48))
        assert found["token_ms"] == pytest.approx(1e3 * (1.52 + kv + 0.24 + 1.2))
        assert found["ttft_ms"] == pytest.approx(found["prefill_ms"] + found["token_ms"])
        cold = 15.2 + 12.08 + 1.52 + kv + 0.24 + 2.4
        assert found["cold_ttft_ms"] == pytest.approx(1e3 * cold)
        assert result.cold_start == pytest.approx(15.2)
    assert package.simulate(trace(SETS), device(), **options).first_token is None


def test_the_prompt_of_the_trace_takes_what_a_prompt_beside_it_does() -> None:
    marks = {"phase": np.array([0] * 16 + [1], np.uint8)}
    sets = [{0}] * 16 + [{0, 1}]
    options = {"policy": "lru", "cache_fraction": 0.25, "overlap": "serial"}
    profile = device(compute="50 FLOP/s")
    result = run(profile, sets, marks=marks)
    found = package.simulate(trace(sets, **marks), profile, prompt=16, **options).first_token
    assert found is not None
    assert found["prefill_ms"] == pytest.approx(1e3 * result.timing.prefill.seconds)
    assert found["ttft_ms"] == pytest.approx(1e3 * result.timing.ttft)


def test_pruned_tokens_of_a_prompt_save_their_compute() -> None:
    options = {"dram": "60%", "tokens": "0:4", "prompt": 1024}
    whole = package.simulate("smollm2-chat", "snapdragon8", **options).first_token
    rule = "static:at=.5,rate=.5"  # half of the tokens leave behind half of the layers
    halved = package.simulate("smollm2-chat", "snapdragon8", prune_tokens=rule, **options)
    assert whole is not None
    assert halved.first_token is not None
    assert whole["computed"] == 1.0
    assert halved.first_token["computed"] == pytest.approx(0.75, abs=1 / 1024)
    assert halved.first_token["prefill_ms"] < whole["prefill_ms"]


EXPERTS = {**TINY, "intermediate": 2, "experts": 4, "experts_per_token": 1}
"""Experts of 24 B."""


def test_a_prompt_uses_the_experts_that_the_trace_sends_it_to() -> None:
    # Prompt rows go to 0, 0 and, in a second sequence, 1; decode rows to 2, 2 and 3.
    expert = np.zeros((6, 1, 4), np.bool_)
    expert[range(6), 0, [0, 0, 2, 2, 1, 3]] = True
    sequence, phase = np.array([0, 0, 0, 0, 1, 1], np.int32), np.array([0, 0, 1, 1, 0, 1], np.uint8)
    given = {"expert": expert, "sequence": sequence, "phase": phase, "meta": {"model": EXPERTS}}
    prefill = {}

    def first(prompt: int, share: float) -> dict[str, Any]:
        found = package.simulate(given, device(), prompt=prompt, cache_fraction=share).first_token
        assert found is not None
        return found

    for prompt, used, rows in (
        *((1, 1, (1, 0)), (2, 1, (2, 0)), (3, 2, (3, 0)), (4, 3, (3, 1)), (5, 3, (3, 2))),
        *((6, 4, (3, 3)), (9, 4, (3, 3))),
    ):
        found = first(prompt, 0.5)
        assert found["experts_used"] == used / 4
        assert (found["prompt_rows"], found["decode_rows"]) == rows
        prefill[prompt] = found["prefill_ms"] / 1e3, used
    for took, used in prefill.values():  # an expert more: from flash at 10 B/s, used at 100 B/s
        assert took - prefill[1][0] == pytest.approx((used - 1) * (24 / 10 + 24 / 100))
    from_flash = 4 * 24 / 10
    assert first(9, 1.0)["prefill_ms"] / 1e3 == pytest.approx(prefill[9][0] - from_flash)
    other = package.simulate(trace(SETS), device(), prompt=4, cache_fraction=0.5).first_token
    assert other is not None
    assert other["experts_used"] is None


def test_a_prompt_whose_kv_does_not_fit_has_no_time(dipsim: Dipsim, tmp_path: Path) -> None:
    line = "study ttft smollm2-chat --dram 34MB --tokens 0:8 -p snapdragon8 --set prompt=[64,2048]"
    found = done(dipsim(f"{line} --store {tmp_path / 's.db'} --json")).json
    why = {cell["prompt"]: cell["why"] for cell in found["cells"]}
    assert why[64] is None
    assert "cannot hold KV" in why[2048]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--prompt 0", "at least 1 token"),
        ("--prompt 99999999", "at most"),
        ("--prompt 16 --io buffered", "direct reads only"),
    ],
)
def test_a_prompt_that_cannot_be(dipsim: Dipsim, options: str, said: str) -> None:
    refused(dipsim(f"run smollm2-chat -p snapdragon8 --tokens 0:8 {options}"), said)


def test_a_prompt_needs_a_model() -> None:
    given = {**trace(SETS), "meta": {"signals": {"glu": {"unit_bytes": 12}}}}
    with pytest.raises(ModelError, match="pass --model"):
        package.simulate(given, load_profile(device()), prompt=4, cache_fraction=0.5)


# Energy ------------------------------------------------------------------------------------------

ENERGY = {"dram": "1000 uJ/B", "flash": "10000 uJ/B", "idle": "100 mW"}


def test_energy_by_hand() -> None:
    # Per token 152 static, 16 of KV and 24 B of neurons at 1 mJ, 12 B of flash at 10 mJ; 3.12 s.
    watts = {**device(active_power="2 W"), "energy": ENERGY}
    result = run(watts)
    assert result.dram_bytes_per_token == 192
    assert result.flash_bytes_per_token == 12
    low, high = 0.192 + 0.12 + 0.312, 0.192 + 0.12 + 0.312 + 6.24
    found = result.to_dict()["energy_mj_per_token"]
    assert found == pytest.approx({"low": 1e3 * low, "high": 1e3 * high})


@pytest.mark.parametrize(
    ("power", "energy"), [({"active_power": "2 W"}, {}), ({}, {"energy": ENERGY}), ({}, {})]
)
def test_without_data_there_is_no_energy(power: dict[str, str], energy: dict[str, Any]) -> None:
    result = run({**device(**power), **energy})
    assert result.to_dict()["energy_mj_per_token"] is None
    assert json.loads(result.to_json())["energy_mj_per_token"] is None
    assert "energy per token" not in dict(result.summary())
    assert not [key for key in result.estimates if "energy" in key or "power" in key]


@pytest.mark.parametrize("io", ["buffered", "mmap"])
def test_reads_through_the_page_cache_are_refused_before_the_replay(io: str) -> None:
    run_ = prepare("smollm2-chat", "oneplus15r", tokens="0:4", dram="60%", io=io)
    with pytest.raises(DipsimError, match=f"--io {io}: .* drop --attribution"):
        check_attribution(run_)
