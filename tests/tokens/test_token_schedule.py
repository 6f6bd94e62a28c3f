"""Schedules of token pruning, and what they save of a prompt: the worked numbers of kv.md."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipsim.errors import MethodError
from dipsim.model import load_model
from dipsim.tokens import NOTHING, aux_bytes, parse_pruning, prefill_flops

LLAMA_2_7B = load_model(
    {"layers": 32, "hidden": 4096, "intermediate": 11008, "heads": 32, "kv_heads": 32}
    | {"vocab": 32000}
)
LLAMA_3B = load_model("llama-3.2-3b")


def flops(model, schedule: str, tokens: int) -> float:
    return prefill_flops(model, tokens * parse_pruning(schedule).shares(model.layers))


def dense(model, tokens: int) -> float:
    return prefill_flops(model, NOTHING.prompt_tokens(tokens, model.layers))


def test_the_shares_of_the_papers_schedule() -> None:
    shares = parse_pruning("lazy").shares(32)
    values, layers = np.unique(shares.round(6), return_counts=True)
    assert dict(zip(values.tolist(), layers.tolist(), strict=True)) == {
        1.0: 9, 0.7: 10, 0.49: 9, 0.343: 4,
    }  # fmt: skip
    assert round(float(shares.mean()), 4) == 0.6807
    assert round(float(np.square(shares).mean()), 4) == 0.5166


def test_flop_of_a_prompt_of_llama_2_7b() -> None:
    assert LLAMA_2_7B.layer_parameters == 202_375_168
    whole, pruned = dense(LLAMA_2_7B, 4096), flops(LLAMA_2_7B, "lazy:at=.3/.6/.9,rate=.3", 4096)
    assert round(whole / 1e13, 3) == 5.745
    assert round(pruned / 1e13, 3) == 3.838
    assert round(whole / pruned, 3) == 1.497
    assert round(whole / flops(LLAMA_2_7B, "lazy:at=6,rate=.7", 4096), 2) == 2.39


@pytest.mark.parametrize(
    ("schedule", "seconds", "megabytes"),
    [
        ("lazy:at=8/16/24,rate=.3", 7.97, 79.2),
        ("lazy:at=.3/.6/.9,rate=.3", 8.04, 79.9),  # behind layers 8, 16 and 25 of 28
    ],
)
def test_a_prompt_of_1024_tokens_of_llama_3_2_3b(
    schedule: str, seconds: float, megabytes: float
) -> None:
    shares = parse_pruning(schedule).shares(28)
    assert round(dense(LLAMA_3B, 1024) / 0.5e12, 2) == 11.91
    assert round(flops(LLAMA_3B, schedule, 1024) / 0.5e12, 2) == seconds
    position = float(LLAMA_3B.kv_bytes(1, 16)) / LLAMA_3B.layers
    assert round(1024 * 28 * position / 1e6, 1) == 117.4
    assert round(1024 * float(shares.sum()) * position / 1e6, 1) == megabytes
    assert round(aux_bytes(LLAMA_3B, 1024 * (1 - shares[-1])) / 1e6, 1) == 4.1


@given(st.integers(1, 5000), st.sampled_from(["lazy", "lazy:at=6,rate=.7", "static:rate=.29"]))
def test_whole_tokens_are_the_shares_rounded_up(tokens: int, schedule: str) -> None:
    counts = parse_pruning(schedule).prompt_tokens(tokens, 28)
    exact = tokens * parse_pruning(schedule).shares(28)
    assert (counts >= exact - 1e-6).all()
    assert (counts <= exact + 6).all()


@pytest.mark.parametrize(
    ("name", "tokens", "percent"),
    [
        ("llama-3.2-3b", 1024, 3),
        ("llama-3.2-3b", 4096, 11),
        ("smollm2-135m", 1024, 14),
        ("smollm2-135m", 4096, 40),
    ],
)
def test_the_share_of_attention_in_a_prompt(name: str, tokens: int, percent: int) -> None:
    model = load_model(name)
    assert round(100 * float(model.attention_flops(tokens)) / dense(model, tokens)) == percent


def test_flop_without_pruning_is_what_a_prompt_of_a_run_takes() -> None:
    for name in ("smollm2-135m", "gemma-2-2b", "olmoe-1b-7b"):
        model = load_model(name)
        outside = model.embedding_parameters * (1 if model.tied_embeddings else 2)
        layers = model.active_parameters - outside - model.norm_parameters
        whole = 2.0 * layers * 5000 + float(model.attention_flops(5000))
        assert dense(model, 5000) == pytest.approx(whole, rel=1e-12)


def test_random_drops_before_the_first_layer() -> None:
    counts = parse_pruning("random:rate=.25").prompt_tokens(101, 3)
    assert counts.tolist() == [76, 76, 76]


def test_rates_may_differ_and_rounding_costs_no_token() -> None:
    counts = parse_pruning("lazy:at=1/2,rate=.29/.5").prompt_tokens(101, 3)
    assert counts.tolist() == [101, 72, 72 - 35]


@pytest.mark.parametrize("text", ["lazy:at=0.3/0.6,rate=0.3/0.3", "static:at=6,rate=0.7"])
def test_a_schedule_writes_itself(text: str) -> None:
    assert str(parse_pruning(text)) == text
    assert parse_pruning(str(parse_pruning(text))) == parse_pruning(text)
    random = parse_pruning("random:rate=.5,seed=7")
    assert parse_pruning(str(random)) == random


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lazzy", "no token pruning 'lazzy': use lazy, static, random, as in lazy:at="),
        ("lazy:rate=1", "a rate is a share from 0 to below 1"),
        ("lazy:rate=-.1", "a rate is a share"),
        ("lazy:at=.6/.3,rate=.3", "ascending shares"),
        ("lazy:at=.3/.6,rate=.3/.3/.3", "one for all or one for each"),
        ("lazy:at=2.5,rate=.3", "numbers of layers"),
        ("lazy:at=0,rate=.3", "ascending shares"),
        ("lazy:at=x", "'x' is no list of numbers"),
        ("lazy:at=nan", "'nan' is no list of numbers"),
        ("lazy:at", "lazy takes at, rate"),
        ("lazy:seed=1", "lazy takes at, rate"),
        ("random:at=.3", "random takes rate, seed"),
        ("random:seed=1.5", "a seed a whole number"),
        ("random:seed=-1", "a seed a whole number"),
    ],
)
def test_what_is_no_schedule_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(MethodError, match=message) as problem:
        parse_pruning(text)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("text", ["lazy:at=.1", "lazy:at=4", "lazy:at=.5/.6", "lazy:at=2/.5"])
def test_places_that_a_model_does_not_have(text: str) -> None:
    with pytest.raises(MethodError):
        parse_pruning(text).cuts(4)
