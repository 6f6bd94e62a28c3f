"""Layers and tokens that are left out of a run: by hand, and by the laws that follow."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import dipsim
from dipsim.errors import DipsimError
from dipsim.tokens import parse_pruning
from tools.three_layers import DEVICE, LAYERS, MODEL, UNIT_BYTES, scores

TOKENS = 12
FULL, ATTENTION_ONLY, SKIPPED, PARTIAL = 10, 2, 0, 5
"""Modes of a layer: attention + 4 x MLP, each 0 skip, 1 partial, 2 full."""


def run(arrays: dict[str, Any], **options: Any) -> Any:
    usual = {"policy": "lru", "cache_fraction": 0.5, "method": "dip"}
    return dipsim.simulate(arrays, DEVICE, **{**usual, **options})


def with_modes(modes: NDArray[np.uint8]) -> dict[str, Any]:
    return {**scores(1, TOKENS), "layer_mode": modes}


def all_modes(mode: int = FULL) -> NDArray[np.uint8]:
    return np.full((TOKENS, LAYERS), mode, np.uint8)


def plain(result: Any) -> dict[str, Any]:
    figures = result.to_dict()
    for name in ("config", "kv", "skipped_layers", "pruned_tokens"):
        figures.pop(name)
    return figures


# Layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dip", "dip-ca", "dense", "glu"])
def test_layers_that_all_run_are_those_of_the_dense_run(method: str) -> None:
    whole = run(scores(1, TOKENS), method=method)
    result = run(with_modes(all_modes()), method=method, skip_layers="recorded")
    np.testing.assert_array_equal(result.traffic.hits, whole.traffic.hits)
    assert result.tokens_per_second == pytest.approx(whole.tokens_per_second, rel=1e-12)
    assert result.dram_bytes_per_token == pytest.approx(whole.dram_bytes_per_token, rel=1e-12)
    assert result.to_dict()["skipped_layers"]["skipped"] == 0


@pytest.mark.parametrize("method", ["dip", "dip-ca", "dense"])
def test_a_layer_that_is_skipped_uses_no_unit_and_changes_no_cache(method: str) -> None:
    """Its caches do what they would if the token were not there; those of other layers as ever."""
    modes = all_modes()
    late = np.arange(TOKENS) >= 9
    modes[late, 1] = SKIPPED
    whole = run(scores(1, TOKENS), method=method)
    result = run(with_modes(modes), method=method, skip_layers="recorded")
    others, before = [0, 2], ~late
    np.testing.assert_array_equal(result.traffic.hits[:, others], whole.traffic.hits[:, others])
    np.testing.assert_array_equal(result.traffic.hits[before], whole.traffic.hits[before])
    assert result.traffic.active[late, 1].sum() == 0
    assert result.traffic.misses[late, 1].sum() == 0
    assert result.to_dict()["skipped_layers"]["skipped"] == pytest.approx(3 / 8)


def test_a_token_behind_those_that_skip_finds_what_was_left() -> None:
    arrays = with_modes(all_modes())
    for name in UNIT_BYTES:  # the last three tokens need what token 8 needed
        arrays[name][9:] = arrays[name][8]
    arrays["layer_mode"][9:11, 1] = SKIPPED
    result = run(arrays, skip_layers="recorded", cache_fraction=1.0)
    np.testing.assert_array_equal(result.traffic.hits[11], result.traffic.active[11])


@pytest.mark.parametrize("skip_kv", ["project", "hole", "copy"])
def test_bytes_of_weights_that_are_left(skip_kv: str) -> None:
    """A weight is a byte: attention 4 * 12 * 12 a layer, of which keys and values are half."""
    modes = all_modes()
    modes[:, 2] = SKIPPED
    whole = run(scores(1, TOKENS), context=0)
    result = run(with_modes(modes), skip_layers="recorded", skip_kv=skip_kv, context=0)
    attention, norms = 4 * 12 * 12, 2 * 2 * 12
    projected = 2 * 12 * 12 if skip_kv == "project" else 0
    static = whole.timing.dram_bytes - result.timing.dram_bytes
    kv = 2 * 12 * 2 * whole.run.tokens.position[whole.traffic.measured]
    present = kv  # keys and values of the layer are read by no token that skips it
    np.testing.assert_allclose(static, attention + norms - projected + present)


@pytest.mark.parametrize(("skip_kv", "kept"), [("project", 18), ("copy", 18), ("hole", 15)])
def test_dram_holds_no_keys_and_values_of_holes(skip_kv: str, kept: int) -> None:
    """Of six positions in three layers one and two are missing in the sequence that lacks less."""
    modes = all_modes()
    modes[2:6, 1], modes[9:11, 1], modes[9, 2] = SKIPPED, SKIPPED, SKIPPED
    options: dict[str, Any] = {"skip_layers": "recorded", "skip_kv": skip_kv}
    position = 2 * 12 * 2
    result = run(with_modes(modes), **options)
    assert result.budget.kv == result.to_dict()["kv"]["held_bytes"] == kept * position
    longer = run(with_modes(modes), **options, context=10)
    assert longer.budget.kv == (kept + 3 * 4) * position  # those to come run all layers
    cut = run(with_modes(modes), **options, kv_policy="window", kv_budget=5)
    assert cut.budget.kv == (15 if skip_kv != "hole" else 5 + 4 + 5) * position


def test_holes_leave_dram_to_the_caches_as_kv_grows() -> None:
    modes = all_modes()
    modes[2:6, 1], modes[9:11, 1], modes[9, 2] = SKIPPED, SKIPPED, SKIPPED
    result = run(
        with_modes(modes), skip_layers="recorded", skip_kv="hole", cache_fraction=None,
        dram="3 kB", kv="grow",
    )  # fmt: skip
    held = result.run.kv.held_bytes(result.run.sets.source, result.run.tokens.position + 1) / (
        2 * 12 * 2
    )
    np.testing.assert_array_equal(held, [3, 6, 8, 10, 12, 14, 3, 6, 9, 10, 12, 15])
    assert result.budget.kv == 15 * 2 * 12 * 2


def test_prompts_run_all_layers() -> None:
    result = run(with_modes(all_modes(SKIPPED)), skip_layers="recorded")
    prompt = ~result.run.tokens.decode
    assert (result.run.beside.layers.modes[prompt] == FULL).all()
    assert result.accesses == 0


def test_layers_in_part_read_a_part_of_their_bytes() -> None:
    half = run(with_modes(all_modes(PARTIAL)), skip_layers="recorded", partial_bits=4)
    whole = run(scores(1, TOKENS))
    assert half.hits == whole.hits
    for figure in ("flash_useful_bytes_per_token", "flash_bytes_per_token"):
        assert getattr(half, figure) == pytest.approx(getattr(whole, figure) / 2)
    kv = half.to_dict()["kv"]["read_bytes_per_token"]
    head = 16 * 12 + 2 * 12  # and the last norm
    used = (whole.dram_bytes_per_token - kv - head) / 2
    assert half.dram_bytes_per_token == pytest.approx(used + kv + head)


def test_engines_agree_on_what_is_left() -> None:
    modes = np.random.default_rng(5).choice([SKIPPED, ATTENTION_ONLY, PARTIAL, FULL], (TOKENS, 3))
    arrays = with_modes(modes.astype(np.uint8))
    closed, events = (
        run(arrays, skip_layers="recorded", engine=engine) for engine in ("closed", "events")
    )
    np.testing.assert_allclose(events.timing.times.latency, closed.timing.times.latency, rtol=1e-9)


# Tokens ------------------------------------------------------------------------------------------


def long_prompt(tokens: int = 24, prompt: int = 16) -> dict[str, Any]:
    """Scores of one sequence with a prompt, and random queries and keys."""
    arrays = scores(3, tokens)
    arrays["phase"] = (np.arange(tokens) >= prompt).astype(np.uint8)
    arrays["sequence"] = np.zeros(tokens, np.int32)
    rng = np.random.default_rng(7)
    shape = tokens, LAYERS, 12
    for name in ("query", "key"):
        arrays[name] = rng.standard_normal(shape).astype(np.float16)
    return arrays


def test_a_rate_of_nothing_is_the_dense_run() -> None:
    whole, result = (
        run(long_prompt(), **options) for options in ({}, {"prune_tokens": "lazy:at=1,rate=0"})
    )
    assert result.timing.ttft == pytest.approx(whole.timing.ttft, rel=1e-12)
    np.testing.assert_allclose(result.timing.times.latency, whole.timing.times.latency, rtol=1e-12)
    counts = result.to_dict()["pruned_tokens"]
    assert (counts["computed"], counts["revived"]) == (1, 0)


@pytest.mark.parametrize("rule", ["lazy", "static"])
def test_a_prompt_computes_fewer_tokens_behind_a_cut(rule: str) -> None:
    # Of 16 tokens int(.5 * 15) = 7 leave behind layer 1: 9 are left for layers 1 and 2.
    slow = {**DEVICE, "backends": {"cpu": {"compute": "100 FLOP/s"}}}
    text, arrays = f"{rule}:at=1,rate=.5", long_prompt()
    whole, result = (
        dipsim.simulate(arrays, slow, method="dip", cache_fraction=0.5, **options)
        for options in ({}, {"prune_tokens": text})
    )
    parameters = 4 * 12 * 12 + 3 * 12 * 20
    pairs = 16 * 17 / 2 - 9 * 10 / 2
    saved = 2 * (2 * parameters * 7 + 4 * 12 * pairs)
    before, after = (each.timing.prefill.seconds for each in (whole, result))
    assert before - after == pytest.approx(saved / 100)
    assert result.to_dict()["pruned_tokens"]["computed"] == pytest.approx((16 + 9 + 9) / 48)


def test_what_left_for_good_is_read_no_more() -> None:
    result = run(long_prompt(), prune_tokens="static:at=1,rate=.5")
    read = result.run.kv.step(np.arange(16, 24), np.arange(16, 24)).held
    np.testing.assert_array_equal(read[:, 0], np.arange(16, 24))
    np.testing.assert_array_equal(read[:, 1], np.arange(9, 17))


def test_tokens_that_come_back_are_computed_once() -> None:
    result = run(long_prompt(), prune_tokens="lazy:at=1,rate=.5")
    pruned = result.run.beside.tokens
    first = parse_pruning("lazy:at=1,rate=.5").prompt_tokens(16, LAYERS)
    decode = pruned.computed[16:].sum(axis=0)
    assert (first + decode <= 24).all(), "no token and layer twice"
    assert result.to_dict()["pruned_tokens"]["revived"] > 0
    assert result.to_dict()["budget"]["aux"] == pruned.aux_bytes > 0


def test_all_at_once_divide_one_dram() -> None:
    arrays = {**long_prompt(), "layer_mode": np.full((24, LAYERS), FULL, np.uint8)}
    arrays["layer_mode"][20:, 1] = SKIPPED
    options: dict[str, Any] = {
        "method": "dip-ca", "cache_fraction": None, "dram": "3 kB", "kv_policy": "tova",
        "kv_budget": 6, "kv_quant": "q4_0", "kv_dram": "50%", "skip_layers": "recorded",
        "prune_tokens": "lazy:at=1,rate=.5", "policy": "lfu",
    }  # fmt: skip
    result = run(arrays, **options)
    budget = result.to_dict()["budget"]
    parts = ("attention", "norms", "head", "kv", "kv_buffer", "aux", "cache")
    assert sum(budget[part] for part in parts) <= 3000
    assert min(budget[part] for part in ("kv", "kv_buffer", "aux")) > 0
    kv = result.to_dict()["kv"]
    assert kv["positions"] <= 6
    assert result.flash_bytes_per_token >= kv["flash_bytes_per_token"] > 0


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"skip_layers": "similarity"}, "layer_io"),
        ({"skip_layers": "recorded"}, "layer_mode"),
        ({"skip_layers": "most"}, "no layer rule"),
        ({"skip_layers": "unified", "scope": "global"}, "--scope global"),
        ({"skip_layers": "unified:share=.3", "partial_bits": 9}, "--partial-bits 9"),
        ({"skip_kv": "hole"}, "is for a --skip-layers"),
        ({"prune_tokens": "lazy"}, "--signals query,key"),
        ({"prune_tokens": "lazy:rate=2"}, "from 0 to below 1"),
        ({"prune_tokens": "eager"}, "no token pruning 'eager'"),
        ({"prune_tokens": "static", "depth": 4}, "--depth"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(options: dict[str, Any], text: str) -> None:
    with pytest.raises(DipsimError, match=text) as problem:
        run(scores(1, TOKENS), **options)
    assert "\n" not in str(problem.value)


def test_a_trace_without_a_prompt_has_no_tokens_to_prune() -> None:
    arrays = scores(1, TOKENS)
    del arrays["phase"]
    with pytest.raises(DipsimError, match="has none"):
        run(arrays, prune_tokens="static")


assert MODEL["layers"] == LAYERS
