"""Runs of models with several kinds of layers: what every token uses is timed layer by layer."""

from typing import Any

import numpy as np
import pytest

import dipsim
from dipsim.errors import DipsimError
from dipsim.model import Model, load_model
from dipsim.result import Result

LAYERS, EXPERTS = 5, 16
MIXED: dict[str, Any] = {
    "name": "mixed",
    "layers": LAYERS,
    "hidden": 256,
    "intermediate": 512,
    "heads": 8,
    "kv_heads": 2,
    "vocab": 1000,
    "experts": EXPERTS,
    "experts_per_token": 2,
    "shared_intermediate": 128,
    "extra_parameters": 300,
    "other_parameters": 7000,
    "bits": 8,
    "kinds": {"dense": {"experts": None, "intermediate": 4096}},
    "pattern": ["dense", "main", "main", "dense", "main"],
}
HAVE = [1, 2, 4]
"""Layers with experts."""
SERIAL = {"overlap": "serial", "policy": "lru"}


def sets(layers: int, tokens: int = 60) -> np.ndarray[Any, Any]:
    """Two experts for each token and layer."""
    rng = np.random.default_rng(0)
    chosen = rng.random((tokens, layers, EXPERTS)).argsort(-1)[..., :2]
    return np.asarray((chosen[..., None] == np.arange(EXPERTS)).any(-2))


def spread() -> np.ndarray[Any, Any]:
    """The sets of the layers with experts, among layers that have none."""
    among = np.zeros((60, LAYERS, EXPERTS), np.bool_)
    among[:, HAVE] = sets(len(HAVE))
    return among


def run(trace: Any, model: Any = MIXED, **how: Any) -> Result:
    return dipsim.simulate({"expert": trace}, "snapdragon8", model=model, **{**SERIAL, **how})


def test_dense_layers_are_static_and_layers_with_experts_have_their_units() -> None:
    result = run(sets(len(HAVE)), cache_fraction=0.4)
    static, model = result.run.budget.static, load_model(MIXED)
    attention = 256 * 32 * (8 + 2 + 2 + 8)
    assert static.attention == LAYERS * attention
    router = EXPERTS * 256 + 3 * 256 * 128
    assert static.dense_parts == 3 * router + 2 * 3 * 256 * 4096 + LAYERS * 300 + 7000
    assert result.run.budget.units_bytes == 3 * EXPERTS * 3 * 256 * 512
    shares = result.run.budget.shares
    assert shares is not None
    dense, mixed = attention + 3 * 256 * 4096 + 300, attention + router + 300
    each = np.array([dense + mixed, mixed, dense + mixed], np.float64)
    np.testing.assert_allclose(shares, each / each.sum())
    assert result.run.model is not None
    assert result.run.model.whole == model
    assert result.config["model"]["layers"] == LAYERS


@pytest.mark.parametrize(
    "how",
    [
        {"cache_fraction": 0.4},
        {"cache_fraction": 0.4, "overlap": "prefetch"},
        {"cache_fraction": 0.4, "batch": 2},
        {"cache": "3MB", "scope": "global"},
        {"dram": "20MB", "kv": "grow"},
        {"cache": "3MB", "allocate": "equal"},
    ],
    ids=str,
)
def test_layers_without_units_may_be_left_out_of_a_trace(how: dict[str, Any]) -> None:
    fewer, all_layers = run(sets(len(HAVE)), **how), run(spread(), **how)
    assert fewer.tokens_per_second == pytest.approx(all_layers.tokens_per_second, rel=1e-9)
    assert fewer.run.budget.static == all_layers.run.budget.static
    assert fewer.traffic.hits.sum() == all_layers.traffic.hits.sum()


def test_time_is_that_of_all_weights_and_all_keys_and_values() -> None:
    """With everything in DRAM a token takes its weights, its KV and the fixed costs, by hand."""
    local = {**MIXED, "kinds": {"dense": {**MIXED["kinds"]["dense"], "window": 16}}}
    result = run(spread(), local, cache_fraction=1, depth=1000, policy="static")
    timed, model = result.timing, load_model(local)
    backend = result.run.backend
    from dipsim.timeline.steps import rates

    rate = rates(result.run)
    row = 50
    active = 3 * 2 * model.mlp_bytes
    kv = (3 * (1000 + row) + 2 * 16) * 2 * 2 * 32 * 2
    weights = result.run.budget.static.total + active
    fixed = (LAYERS + 1) * backend.per_layer
    chosen = 3 * backend.mask_seconds(EXPERTS) if result.run.method.groups[0].masked else 0.0
    embedding = result.run.flash.seconds(result.run.flash.pages(np.array([256.0])), 1)[0]
    whole = weights / rate.weights + kv / rate.dram + fixed + chosen + embedding
    assert timed.times.latency[row] == pytest.approx(whole, rel=1e-9)


def test_part_of_the_layers_of_a_trace_takes_the_layers_that_go_with_them() -> None:
    result = run(sets(len(HAVE)), cache_fraction=0.4, layers="1:3")
    assert result.run.model is not None
    assert result.run.model.kind_names == ("main", "dense", "main")
    assert result.run.model.layers_each.tolist() == [1, 2]
    again = dipsim.simulate(
        {"expert": sets(len(HAVE))},
        "snapdragon8",
        **{**SERIAL, "model": result.config["model"], "cache_fraction": 0.4, "layers": "1:3"},
    )
    assert again.tokens_per_second == result.tokens_per_second


@pytest.mark.parametrize("layers", [2, 4, 6])
def test_other_numbers_of_layers_are_refused(layers: int) -> None:
    with pytest.raises(DipsimError, match=r"5 layers \(3 with units of its signals\)"):
        run(sets(layers), cache_fraction=0.4)


def test_without_a_trace_every_layer_is_timed() -> None:
    def alone(model: Any) -> Result:
        return dipsim.simulate(None, "snapdragon8", model=model, method="dense", depth=100)

    mixed = alone(MIXED)
    assert len(mixed.run.unit_bytes) == len(HAVE)
    used = 3 * 2 * load_model(MIXED).mlp_bytes
    assert mixed.timing.dram_bytes[-1] == mixed.run.budget.static.total + 100 * LAYERS * 256
    assert float((mixed.traffic.active[-1] * mixed.run.unit_bytes).sum()) == used
    state = {"attention": "state", "attention_parameters": 10**5, "intermediate": 0}
    hybrid = {
        **{key: MIXED[key] for key in ("hidden", "heads", "kv_heads", "vocab", "bits")},
        "layers": 6,
        "intermediate": 512,
        "kinds": {"state": {**state, "state_values": 10**4, "state_bits": 32}},
        "pattern": ["state", "state", "main"],
    }
    timed = alone(hybrid)
    assert timed.run.budget.static.attention == 4 * 10**5 + 2 * 256 * 32 * 20
    assert timed.run.budget.units_bytes == 2 * 3 * 256 * 512
    assert timed.run.budget.kv == 4 * 4 * 10**4 + 101 * 2 * 2 * 2 * 32 * 2
    with pytest.raises(DipsimError, match="has no MLP in any layer"):
        alone({**hybrid, "kinds": {}, "pattern": None, **state})


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"kv_quant": "q8"}, "--kv-quant: model mixed has keys and values of its own kinds"),
        ({"skip_layers": "recorded"}, "--skip-layers: model mixed has layers of its own kinds"),
    ],
)
def test_systems_that_take_layers_for_alike_refuse_others(how: dict[str, Any], said: str) -> None:
    local = {**MIXED, "kinds": {"dense": {**MIXED["kinds"]["dense"], "kv_heads": 4}}}
    with pytest.raises(DipsimError, match=said):
        run(spread(), local, cache_fraction=0.4, **how)


def test_layers_that_differ_in_windows_and_mlps_have_keys_and_values_alike() -> None:
    def model(**kind: Any) -> Model:
        return load_model({**MIXED, "kinds": {"dense": {**MIXED["kinds"]["dense"], **kind}}})

    assert model().heads_alike
    assert not model().alike
    assert model(window=3).heads_alike
    assert not model(kv_heads=1).heads_alike
    assert not model(kv_values=0).heads_alike
    assert not model(state_values=5).heads_alike
    assert load_model("gemma-2-2b").alike
