"""Are runs without a trace timed as worked out by hand, and as those with one?"""

from typing import Any

import numpy as np
import pytest

import dipsim
from dipsim.errors import BudgetError, DipsimError, TraceError
from tools.one_layer import TINY, device

ROOM = {"capacity": "1 MB", "bandwidth": "100 B/s"}
COSTS = {"per_layer": "0.5 s", "per_mask": "0.3 s", "per_score": "25 ms"}


def run(profile: dict[str, Any], model: dict[str, Any] = TINY, **options: Any) -> dipsim.Result:
    options = {"method": "dense", "overlap": "serial", **options}
    if not {"dram", "cache", "cache_fraction"} & {*options}:
        options["cache_fraction"] = 1.0  # the device is small, its DRAM
        profile = {**profile, "dram": ROOM}  # is not
    return dipsim.simulate(None, profile, model=model, **options)


def seconds(result: dipsim.Result) -> list[float]:
    return list(result.timing.times.latency)


# By hand ------------------------------------------------------------------------------------------


def test_a_token_uses_all_weights_and_the_keys_and_values_before_it() -> None:
    # 248 B of weights and 16 B of KV a position at 100 B/s; the layer and the head pay 0.5 s each.
    for depth in (0, 5, 40):
        result = run(device(**COSTS), depth=depth)
        assert seconds(result) == pytest.approx([2.48 + 0.16 * depth + 1.0], rel=1e-12)
        assert result.dram_bytes_per_token == pytest.approx(248 + 16 * depth)
        assert (result.flash_bytes_per_token, result.fits) == (0, True)
        assert result.budget.kv == 16 * (depth + 1)
        assert result.timing.prefill is None
        assert result.timing.ttft is None


def test_what_is_not_in_dram_is_read_by_every_token() -> None:
    # Six of eight neurons are resident; 24 B at 10 B/s are read, nothing hides them.
    result = run(device(), cache_fraction=0.75)
    assert seconds(result) == pytest.approx([2.4 + 2.48], rel=1e-12)
    assert (result.hits, result.accesses) == (6, 8)
    nothing = run(device(), cache_fraction=0.75, policy="none")
    assert seconds(nothing) == pytest.approx([9.6 + 2.48], rel=1e-12)


def test_a_prompt_is_bound_by_dram_or_by_compute_that_grows_with_its_square() -> None:
    # Every weight is used with 2 FLOP, and a query of 4 elements meets each key, and weighs each
    # value, with 2 FLOP per element.
    parameters = dipsim.load_model(TINY).active_parameters
    for many, before in ((3, 0), (3, 7), (50, 0)):
        pairs = sum(before + i + 1 for i in range(many))
        flops = 2 * parameters * many + 16 * pairs
        result = run(device(**COSTS, compute="1 kFLOP/s"), prompt=many, depth=before)
        assert result.timing.prefill is not None
        assert result.timing.ttft is not None
        moved = (248 + 16 * before) / 100
        expected = max(moved, flops / 1000) + 1.0
        assert result.timing.prefill.seconds == pytest.approx(expected, rel=1e-12)
        own = max(248 / 100, 2 * 248 / 1000) + 0.16 * (many + before) + 1.0
        assert seconds(result) == pytest.approx([own], rel=1e-12)
        assert result.timing.ttft == pytest.approx(expected + own, rel=1e-12)
        assert (result.tokens, result.timing.prefill.tokens) == (1, many)


def test_a_prompt_reads_what_is_not_in_dram_once() -> None:
    result = run(device(), prompt=3, cache_fraction=0.75)
    assert result.timing.prefill is not None
    assert result.timing.prefill.seconds == pytest.approx(9.6 + 2.48)
    whole = run(device(), prompt=3)
    assert whole.timing.prefill is not None
    assert whole.timing.prefill.seconds == pytest.approx(2.48)


def test_the_paper_modes_pay_no_fixed_costs() -> None:
    for overlap in ("paper-serial", "paper-concurrent"):
        costly = run(device(**COSTS), overlap=overlap, prompt=2)
        free = run(device(), overlap=overlap, prompt=2)
        assert seconds(costly) == seconds(free)
        assert costly.timing.ttft == free.timing.ttft


@pytest.mark.parametrize(("window", "every"), [(1, 1), (4, 1), (4, 2), (100, 1)])
@pytest.mark.parametrize(("many", "before"), [(1, 0), (3, 0), (9, 0), (2, 3), (5, 10)])
def test_attention_with_a_window_against_a_count_of_pairs(
    window: int, every: int, many: int, before: int
) -> None:
    geometry = {**TINY, "layers": 3, "window": window, "window_every": every}
    pairs = 0
    for layer in range(3):
        for token in range(many):
            seen = before + token + 1
            pairs += min(seen, window) if layer % every == 0 else seen
    assert dipsim.load_model(geometry).attention_flops(many, before) == 16 * pairs
    # A token reads the KV that the windows keep.
    kept = sum(min(before, window) if layer % every == 0 else before for layer in range(3))
    near, far = (run(device(), geometry, depth=depth) for depth in (0, before))
    more = far.dram_bytes_per_token - near.dram_bytes_per_token
    assert more == pytest.approx(16 * kept)


# Beside runs with a trace -------------------------------------------------------------------------


def scored(tokens: int, **marks: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    arrays = {
        "mlp_input": rng.random((tokens, 1, 4)).astype(np.float32),
        "glu": rng.random((tokens, 1, 8)).astype(np.float32),
    }
    return {**arrays, "meta": {"model": TINY}, **marks}


@pytest.mark.parametrize("overlap", ["serial", "pipelined"])
def test_methods_that_keep_everything_differ_by_their_masks_alone(overlap: str) -> None:
    # Choosing among n units takes 0.3 + 0.025 n s. The first token fills the cache.
    options: dict[str, Any] = {"overlap": overlap, "warmup": 1, "policy": "lru"}
    given, phone = scored(3), device(**COSTS, overlap_factor=0.5)
    dense = dipsim.simulate(given, phone, method="dense", **options)
    for method, masks in (("glu", [8]), ("dip", [4, 8])):
        pruned = dipsim.simulate(given, phone, method=method, density=1.0, **options)
        assert pruned.fits
        more = np.array(seconds(pruned)) - np.array(seconds(dense))
        assert more == pytest.approx([sum(0.3 + 0.025 * units for units in masks)] * 2, rel=1e-12)
    depths = [seconds(run(phone, depth=depth, overlap=overlap))[0] for depth in (1, 2)]
    assert seconds(dense) == pytest.approx(depths, rel=1e-12)


def test_of_many_layers_each_pays_its_masks() -> None:
    model, rng = {**TINY, "layers": 5}, np.random.default_rng(0)
    given = {"glu": rng.random((2, 5, 8)).astype(np.float32), "meta": {"model": model}}
    options: dict[str, Any] = {"overlap": "serial", "warmup": 1, "cache_fraction": 1.0}
    roomy = {**device(**COSTS), "dram": ROOM}
    pruned = dipsim.simulate(given, roomy, method="glu", density=1.0, **options)
    dense = run(roomy, model, depth=1)
    assert seconds(pruned)[0] - seconds(dense)[0] == pytest.approx(5 * (0.3 + 8 * 0.025), rel=1e-9)
    assert dense.timing.times.exposed[0, 3] == pytest.approx(6 * 0.5)  # five layers and the head


def test_depth_stands_for_tokens_before_a_trace() -> None:
    whole, depth = scored(12), 7
    rest = {name: whole[name][depth:] for name in ("mlp_input", "glu")}
    later = {**rest, "meta": whole["meta"]}
    options: dict[str, Any] = {"cache_fraction": 0.0, "policy": "none", "method": "dip"}
    long = dipsim.simulate(whole, device(**COSTS), warmup=depth, **options)
    deep = dipsim.simulate(later, device(**COSTS), depth=depth, **options)
    assert deep.budget.kv == long.budget.kv == 16 * 12
    assert seconds(deep) == pytest.approx(seconds(long), rel=1e-12)
    assert deep.dram_bytes_per_token == pytest.approx(long.dram_bytes_per_token, rel=1e-12)


# Experts ------------------------------------------------------------------------------------------

EXPERTS = {**TINY, "experts": 6, "experts_per_token": 2}


def test_experts_without_a_trace_are_all_in_dram() -> None:
    # 152 B of static weights and a router of 6 x 4 B; 2 of 6 experts of 96 B are used.
    result = run(device(**COSTS), EXPERTS, dram="800 B")
    chosen = 0.3 + 6 * 0.025
    assert seconds(result) == pytest.approx([(152 + 24 + 2 * 96) / 100 + 1.0 + chosen], rel=1e-12)
    assert (result.accesses, result.hits, result.fits) == (2, 2, True)
    assert result.budget.units_bytes == 6 * 96
    for options in ({"dram": "700 B"}, {"cache_fraction": 0.9}, {"cache": "500 B"}):
        with pytest.raises(BudgetError, match="experts need a trace of their routes"):
            run(device(), EXPERTS, **options)


def test_experts_without_a_trace_take_what_they_take_with_one() -> None:
    logits = np.tile(np.arange(6, dtype=np.float32), (8, 1, 1))
    given = {"expert": logits, "meta": {"model": EXPERTS}}
    options: dict[str, Any] = {"cache_fraction": 1.0, "overlap": "serial", "warmup": 7}
    routed = dipsim.simulate(given, device(**COSTS), **options, policy="lru")
    assert routed.hits == routed.accesses == 2
    assert seconds(routed) == pytest.approx(seconds(run(device(**COSTS), EXPERTS, depth=7)))


def test_a_prompt_uses_every_expert() -> None:
    result = run(device(), EXPERTS, prompt=2)
    assert result.timing.prefill is not None
    assert result.timing.prefill.seconds == pytest.approx((152 + 24 + 6 * 96) / 100)


# Page cache ---------------------------------------------------------------------------------------


def test_mapped_weights_were_touched_before() -> None:
    fault = {"seconds": "1 s", "page": "512 B"}
    profile = {**device(), "flash": {"bandwidth": "10 B/s", "fault": fault}}
    profile["dram"] = {"capacity": "1 MB", "bandwidth": "100 B/s"}
    warm = run(profile, io="mmap", prompt=2)
    assert (warm.hits, warm.flash_bytes_per_token) == (8, 0)
    assert seconds(warm) == pytest.approx([2.48 + 0.32])
    # Without room for a page all ten are read again, of eight neurons and two static parts, in
    # order: 512 B each at 10 B/s, which is slower than the faults of their windows.
    short = run(profile, io="mmap", dram="500 B")
    assert short.hits == 0
    assert seconds(short) == pytest.approx([2.48 + 10 * 51.2])


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "glu"}, "no trace: give one"),
        ({"method": None}, "no trace: give one"),
        ({"prompt": 2**20 + 1}, "at most 1048576 tokens"),
        ({"prompt": -1}, "prompt: input should be greater than or equal to 0"),
        ({"depth": -1}, "depth: input should be greater than or equal to 0"),
        ({"depth": 10**30}, "depth"),
        ({"warmup": 1}, "at least one must remain"),
        ({"weight_format": "nonsense"}, "its bits are not known"),
        ({"layout": "permuted"}, "learns its order"),
        ({"allocate": "optimal"}, "record more"),
    ],
    ids=str,
)
def test_what_makes_no_sense_without_a_trace_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DipsimError) as refusal:
        run(device(), **options)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_run_of_nothing_is_refused() -> None:
    with pytest.raises(TraceError, match="no trace: give one"):
        dipsim.simulate(None, device(), method="dense")
