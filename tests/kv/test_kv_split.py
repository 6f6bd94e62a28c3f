"""KVPR: the closed form against all l, the worked splits and milliseconds of kv.md."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipsim.kv.split import Recompute
from dipsim.model import load_model, model_names

OPT = {"6.7B": (4096, 32), "13B": (5120, 40), "30B": (7168, 48)}


def opt(size: str, link: float, compute: float) -> Recompute:
    hidden, _ = OPT[size]
    return Recompute(hidden, hidden, link, compute, batch=32)


@pytest.mark.parametrize(
    ("size", "link", "compute", "share", "all_read", "split", "percent"),
    [
        ("6.7B", 32e9, 312e12, 0.7042, 536.9, 347.8, 35.2),
        ("13B", 32e9, 312e12, 0.6557, 838.9, 563.8, 32.8),
        ("30B", 32e9, 312e12, 0.5763, 1409.3, 1003.2, 28.8),
        ("6.7B", 25e9, 150e12, 0.5943, 687.2, 483.0, 29.7),
        ("13B", 25e9, 150e12, 0.5396, 1073.7, 784.1, 27.0),
        ("30B", 25e9, 150e12, 0.4557, 1803.9, 1392.9, 22.8),
    ],
)
def test_splits_of_opt_at_1024_positions_and_a_batch_of_32(
    size: str,
    link: float,
    compute: float,
    share: float,
    all_read: float,
    split: float,
    percent: float,
) -> None:
    layer, layers = opt(size, link, compute), OPT[size][1]
    exact = float(layer.balance(1024))
    assert round(exact / 1024, 4) == share
    assert round(1e3 * layers * float(layer.seconds(1024, 0)), 1) == all_read
    assert round(1e3 * layers * float(layer.seconds(1024, exact)), 1) == split
    least = float(layer.seconds(1024, exact)) / float(layer.seconds(1024, 0))
    assert round(100 * (1 - least), 1) == percent
    whole = float(layer.seconds(1024, layer.positions(1024)))
    assert whole == pytest.approx(float(layer.seconds(1024, exact)), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "element", "compute", "gain"),
    [
        ("phi-3-mini", 2.0, 0.5e12, 3.4),
        ("phi-3-mini", 2.0, 2e12, 11.4),
        ("phi-3-mini", 2.0, 10e12, 29.8),
        ("olmoe-1b-7b", 2.0, 0.5e12, 5.0),
        ("olmoe-1b-7b", 2.0, 2e12, 15.4),
        ("olmoe-1b-7b", 2.0, 10e12, 34.5),
        ("llama-3.2-3b", 1.0, 0.5e12, 1.7),
        ("llama-3.2-3b", 1.0, 2e12, 5.7),
        ("llama-3.2-3b", 1.0, 10e12, 14.9),
        ("gemma-2-2b", 1.0, 0.5e12, 3.9),
        ("gemma-2-2b", 1.0, 2e12, 12.4),
        ("gemma-2-2b", 1.0, 10e12, 29.0),
        ("llama-3-8b", 1.0, 10e12, 0.0),
        ("llama-3-8b", 2.0, 10e12, 0.0),
        ("smollm2-135m", 2.0, 10e12, 0.0),
    ],
)
def test_gains_on_a_phone_at_8192_positions_through_2_2_gb_a_second(
    name: str, element: float, compute: float, gain: float
) -> None:
    layer = Recompute.of(load_model(name), 2.2e9, compute, input_element=element)
    again = layer.positions(8192)
    saved = 1 - float(layer.seconds(8192, again)) / float(layer.seconds(8192, 0))
    assert round(100 * saved, 1) == pytest.approx(gain, abs=0.06)


@pytest.mark.parametrize(("compute", "share"), [(0.5e12, 0.069), (2e12, 0.228), (10e12, 0.597)])
def test_shares_of_phi_3_mini_on_a_phone(compute: float, share: float) -> None:
    layer = Recompute.of(load_model("phi-3-mini"), 2.2e9, compute)
    assert round(float(layer.balance(8192)) / 8192, 3) == share


layers = st.builds(
    Recompute,
    hidden=st.sampled_from([64, 100, 576]),
    width=st.sampled_from([16, 50, 64, 192, 576]),
    link=st.sampled_from([1e9, 2.2e9, 32e9]),
    compute=st.sampled_from([1e10, 5e11, 1e13, math.inf]),
    element=st.sampled_from([0.5, 1.0, 2.0]),
    input_element=st.sampled_from([0.5, 1.0, 2.0]),
    batch=st.integers(1, 4),
    pipelined=st.booleans(),
)


@given(layers, st.integers(0, 300))
def test_no_other_whole_l_takes_less_time(layer: Recompute, stored: int) -> None:
    every = layer.seconds(stored, np.arange(stored + 1))
    again = int(layer.positions(stored))
    assert 0 <= again <= stored
    assert every[again] <= every.min() * (1 + 1e-12)
    assert not (every[:again] < every[again]).any()


@given(layers, st.integers(1, 300))
def test_the_closed_form_is_the_least_over_fractions(layer: Recompute, stored: int) -> None:
    every = layer.seconds(stored, np.linspace(0, stored, 2000))
    assert float(layer.seconds(stored, layer.balance(stored))) <= every.min() * (1 + 1e-12)


def test_positions_of_many_lengths_at_once() -> None:
    layer = opt("6.7B", 32e9, 312e12)
    stored = np.array([0, 1, 10, 1024])
    assert layer.positions(stored).tolist() == [int(layer.positions(s)) for s in stored]
    assert layer.positions(stored)[0] == 0


def test_why_a_grouped_model_computes_nothing_again() -> None:
    layer = Recompute.of(load_model("llama-3-8b"), 2.2e9, 10e12)
    assert (layer.positions(np.arange(100)) == 0).all()
    assert layer.why_none is not None
    assert "8192 B a layer, its keys and values 4096 B" in layer.why_none
    assert Recompute.of(load_model("opt-6.7b"), 2.2e9, 10e12).why_none is None


def test_the_presets_that_it_can_help() -> None:
    helped = {
        name for name in model_names() if Recompute.of(load_model(name), 2e9, 1e12).why_none is None
    }
    assert helped == {"opt-6.7b", "phi-3-mini", "olmoe-1b-7b"}


def test_keys_and_values_in_dram_are_not_worth_it() -> None:
    layer = Recompute.of(load_model("phi-3-mini"), 44.5e9, 0.5e12)
    assert round(100 * float(layer.balance(8192)) / 8192, 1) == 0.4


@given(st.sampled_from([1e11, 1e12, 1e14]), st.sampled_from([1e9, 3e10]), st.integers(1, 5000))
def test_the_gain_is_half_the_share_computed_again(
    compute: float, link: float, stored: int
) -> None:
    layer = Recompute(512, 512, link, compute)
    share = float(layer.balance(stored)) / stored
    least = float(layer.seconds(stored, share * stored)) / float(layer.seconds(stored, 0))
    assert 1 - least == pytest.approx(share / 2)


def test_a_tie_computes_nothing() -> None:
    layer = Recompute.of(load_model("llama-3-8b"), 2.2e9, 10e12, input_element=1.0)
    assert layer.input_bytes == layer.kv_bytes
    assert int(layer.positions(8192)) == 0


def test_flops_of_keys_and_values() -> None:
    layer = Recompute(100, 30, 1e9, 1e12, batch=2)
    assert layer.flops(7) == 2 * 7 * 2 * (2 * 100 * 30)
