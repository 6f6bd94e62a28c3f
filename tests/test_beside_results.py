"""The page of what stands beside the weights, and the scripts that make it."""

import html
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import beside
import beside_frontier
import beside_headlines
import beside_rows
import independent
import layer_skipping
from accuracy import filled

import dipsim
from dipsim.kv.split import Recompute
from tools.paths import DOCS, NEEDS_TORCH

PAGE = DOCS / "beside-results.md"
ROWS = beside_rows.load()
NOT_REPRODUCED = {("unified:layers=6", True)}
"""Layers that an independent program chose otherwise."""


# What was measured


@pytest.mark.parametrize("text", beside_rows.TEXTS)
def test_every_row_was_measured_once(text: str) -> None:
    wanted = beside_rows.wanted()[text]
    assert len(ROWS[text]) == len(wanted)
    assert all(beside_rows.find(ROWS[text], choice) for choice in wanted)


@pytest.mark.parametrize("text", beside_rows.TEXTS)
def test_at_least_8192_tokens_went_through_the_model(text: str) -> None:
    of = beside_rows.TEXTS[text]
    assert of.windows * of.window >= 8192
    judged = of.windows * (of.window - max(of.prompt, 1))
    assert {row["judged"] for row in ROWS[text]} == {judged}


def test_the_dense_model_is_that_of_the_other_pages() -> None:
    import accuracy

    dense = accuracy.load()["rows"][0].value("perplexity")
    (row,) = [row for row in ROWS["short"] if not row["settings"]]
    assert row["perplexity"] == pytest.approx(dense, rel=1e-4)


@pytest.mark.parametrize(("rule", "factors"), sorted(set(independent.LAYERS) - NOT_REPRODUCED))
def test_layers_cost_what_an_independent_program_measured(rule: str, factors: bool) -> None:
    known = {(row["rule"], row["factors"]): row["perplexity"] for row in layer_skipping.load()}
    expected = independent.LAYERS[rule, factors]
    assert known[rule, factors] == pytest.approx(expected, rel=independent.NEAR)


def test_rates_in_the_loop_are_those_of_a_run_without_a_model() -> None:
    """Tokens at 512 to 1023 take as long as one at the mean, 768, but for the first one's reads."""
    for rule in beside_rows.EVERY_TOKEN:
        row = beside_rows.find(ROWS["long"], beside_rows.evicted(rule, beside_rows.AT))
        assert row is not None
        for phone in beside_rows.PHONES:
            alone = dipsim.simulate(
                None,
                phone,
                model="smollm2-135m",
                method="dense",
                dram=beside_rows.DRAM,
                depth=768,
                context=1024,
                kv_policy=rule,
                kv_budget=beside_rows.AT,
            )
            timed = row["devices"][phone]
            assert timed["rate"] == pytest.approx(alone.tokens_per_second, rel=2e-3)
            assert timed["kv_held"] == alone.budget.kv == 128 * 30 * 2 * 192 * 2


# The page


def test_the_tables_of_the_page_are_those_of_the_rows_and_of_runs_of_today() -> None:
    page = PAGE.read_text()
    assert page == filled(page, beside.tables())


@pytest.mark.parametrize("theme", beside_frontier.COLOURS)
def test_the_picture_draws_the_rows(theme: str) -> None:
    picture = (DOCS / f"pictures/{beside_frontier.NAME}-{theme}.svg").read_text()
    (text,) = re.findall(r"<dc:description>(.*?)</dc:description>", picture)
    assert json.loads(html.unescape(text)) == beside_frontier.points()


def test_a_row_is_best_where_none_is_faster_and_loses_less() -> None:
    def row(perplexity: float, rate: float) -> dict[str, Any]:
        return {"method": "dense", "perplexity": perplexity, "devices": {"d": {"rate": rate}}}

    rows = [row(10, 5), row(11, 5), row(11, 7), row(12, 6), row(13, 9)]
    assert beside_frontier.best(rows, "d") == [rows[4], rows[2], rows[0]]


def gains(choice: beside_rows.Choice) -> tuple[float, list[float]]:
    """By how much perplexity grows over the dense model's, and the rate on every device, in %."""
    dense, row = (beside_rows.find(ROWS["long"], each) for each in (beside_rows.DENSE, choice))
    assert dense is not None
    assert row is not None
    rates = [
        100 * (row["devices"][name]["rate"] / dense["devices"][name]["rate"] - 1)
        for name in beside_rows.DEVICES
    ]
    return 100 * (row["perplexity"] / dense["perplexity"] - 1), rates


@pytest.mark.parametrize(
    ("choice", "cost", "faster"),
    [
        (("dense", {"kv_quant": "q8_0"}), 0, (12, 20, 80)),
        (("dense", {"kv_quant": "kivi:bits=4"}), 0.2, (16, 27)),
        (beside_rows.evicted("tova", 256), 3.5, (21, 35)),
        (beside_rows.TOGETHER[0], 10, (27, 42)),
        (beside_rows.skipped("drop:layers=1"), 11, (3, 3)),
    ],
)
def test_what_the_page_says_follows_from_its_rows(
    choice: beside_rows.Choice, cost: float, faster: tuple[int, ...]
) -> None:
    lost, gained = gains(choice)
    assert lost == pytest.approx(cost, abs=0.2)
    assert [round(each) for each in gained[: len(faster)]] == list(faster)


def test_masks_of_weights_gain_on_the_paper_s_device_alone() -> None:
    best = [
        max(rates) for rates in zip(*(gains(each)[1] for each in beside_rows.masked()), strict=True)
    ]
    assert max(best[:2]) < 1
    assert round(best[2]) == 62


def test_kv_of_small_models_weighs_more() -> None:
    """1 024 tokens of SmolLM2 are a third of its weights, as are 5 000 of Llama-3.2-3B."""
    for name, tokens in (("smollm2-135m", 1024), ("llama-3.2-3b", 5000)):
        model = dipsim.load_model(name)
        assert model.kv_bytes(tokens, 16) / model.total_bytes == pytest.approx(1 / 3, rel=0.1)


def test_one_figure_of_43_is_not_reproduced() -> None:
    lines = beside.against_others().splitlines()[2:]
    assert len(lines) == 43
    (apart,) = [line for line in lines if "**" in line]
    assert apart.startswith("| `unified:layers=6` |")


# Headlines


def test_few_positions_computed_again_gain_little_on_a_phone() -> None:
    place = "snapdragon8", "opt-6.7b", 1023
    read, again = (
        beside_headlines.dense(*place, kv_dram="0%", kv_recompute=how) for how in ("none", "l=16")
    )
    assert again.tokens_per_second / read.tokens_per_second == pytest.approx(1.008, abs=5e-4)


def test_what_is_computed_again_on_phones_by_hand() -> None:
    """phi-3-mini at 8192 positions, flash of 2.2 GB/s, where kv heads are as wide as the state."""
    shares = [
        beside_headlines.split(dipsim.load_model("phi-3-mini"), 8192, 2.2e9, compute)
        for compute in (0.5e12, 2e12, 10e12)
    ]
    assert [share for share, _ in shares] == pytest.approx([0.069, 0.228, 0.597], abs=5e-4)
    assert [gain for _, gain in shares] == pytest.approx([-0.034, -0.114, -0.298], abs=5e-4)


def test_grouped_heads_have_nothing_to_compute_again() -> None:
    share, gain = beside_headlines.split(dipsim.load_model("llama-3.2-3b"), 8192, 2.2e9, 1e13)
    assert (share, gain) == (0, 0)


def test_the_paper_s_machine_gives_the_headline_of_kvpr_but_for_half_a_point() -> None:
    machine = beside_headlines.PAPER_LINK, beside_headlines.PAPER_COMPUTE
    _, gain = beside_headlines.split(dipsim.load_model("opt-6.7b"), 1024, *machine, batch=32)
    assert gain == pytest.approx(-0.358, abs=0.007)
    assert Recompute.of(dipsim.load_model("opt-6.7b"), *machine).why_none is None


def test_a_made_trace_uses_every_neuron() -> None:
    trace = beside_headlines.every_unit("smollm2-135m", 3)
    (block,) = [rows["glu"] for _, _, rows in trace.blocks({"glu": "sets"})]
    assert trace.tokens == 3
    assert np.bitwise_count(block).sum() == 3 * 30 * 1536


# Several devices in one model


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dense", {"kv_policy": "tova", "kv_budget": "8"}),
        ("dense", {"skip_layers": "drop:layers=1,full=0"}),
        ("dip-ca", {"density": 0.6, "gamma": 0.5}),
        ("cats", {"density": 0.6}),
    ],
)
def test_a_device_among_others_is_timed_as_alone(method: str, settings: dict[str, Any]) -> None:
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    pytest.importorskip("transformers", reason=NEEDS_TORCH)
    from dipsim import lm
    from dipsim.hardware import load_profile
    from dipsim.lm.geometry import geometry_of
    from tools.tiny_models import tiny

    model = tiny()
    loaded = lm.Loaded(model, geometry_of(model), "tiny", Path("tiny"))
    ids = np.random.default_rng(0).integers(3, 64, 3 * 24)
    text = beside_rows.Text(3, 24, 12)
    judge = beside_rows.Judge(loaded, ids, text)
    judge.others = np.random.default_rng(1).integers(3, 64, 4 * 24)
    row = judge.row(method, settings)
    for device in beside_rows.DEVICES:
        _, alone = lm.evaluate(
            loaded,
            ids.reshape(3, 24),
            [(method, {**settings, "dram": beside_rows.DRAM})],
            profile=load_profile(device),
            calibrate=judge.others,
            prompt=text.prompt,
        ).rows
        assert row["perplexity"] == pytest.approx(alone.value("perplexity"), rel=1e-6)
        timed = row["devices"][device]
        assert timed["rate"] == pytest.approx(alone.value("tokens_per_second"))
        assert timed["flash"] == pytest.approx(alone.value("flash_bytes_per_token"))
        assert timed["hits"] == pytest.approx(alone.value("hit_rate"))
