"""What a mask costs: error of the output, routing weight, marks; by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import dipsim
from dipsim.errors import DipsimError

MODEL = {"layers": 1, "hidden": 4, "intermediate": 4, "heads": 1, "kv_heads": 1, "vocab": 10}


def scores(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)[:, None]


def run(arrays: dict[str, Any], **options: Any) -> dipsim.Result:
    arrays = {"meta": {"model": MODEL}, **arrays}
    return dipsim.simulate(arrays, "paper-a18", **{"cache_fraction": 0.5, **options})


def test_error_of_the_output_by_hand() -> None:
    arrays = {"glu": scores([4, 3, 2, 1]), "glu.norms": np.array([[1, 2, 4, 1]], np.float32)}
    found = run(arrays, method="glu-oracle", density=0.5)
    # of 4, 6, 8, 1 the last two are dropped
    assert found.output_error[0] == pytest.approx(np.sqrt((64 + 1) / (16 + 36 + 64 + 1)))
    assert found.groups()[0]["output_error"] == found.output_error[0]
    assert found.energy_kept[0] == pytest.approx((16 + 9) / 30)


@pytest.mark.parametrize("method", ["dip", "dip-ca"])
def test_error_of_the_output_with_equal_norms_is_the_energy_lost(method: str) -> None:
    rng = np.random.default_rng(5)
    arrays = {
        "mlp_input": rng.random((9, 1, 4)).astype(np.float32),
        "glu": rng.random((9, 1, 4)).astype(np.float32),
        "glu.norms": np.full((1, 4), 3, np.float32),
    }
    found = run(arrays, method=method, density=0.6)
    lost = np.sqrt(1 - found.traffic.energy[:, 0, 1])
    np.testing.assert_allclose(found.traffic.error[:, 0, 1], lost, atol=1e-6)
    assert found.output_error[0] is None  # the input does not weigh what the layer puts out
    assert lost.max() > 0


def test_no_norms_no_error() -> None:
    found = run({"glu": scores([4, 3, 2, 1])}, method="glu-oracle", density=0.5)
    assert found.output_error == (None,)
    assert "error of the output" not in str(found.summary())


@pytest.mark.parametrize(
    ("norms", "told"),
    [
        (np.full((1, 4), 1e300), "glu.norms must be finite and >= 0"),
        (np.ones((1, 3), np.float32), r"glu.norms is float32\[1, 3\]: .* here \[1, 4\]"),
        (np.ones((1, 4), np.int64), "must be floats"),
        (np.full((1, 4), -1, np.float32), "finite and >= 0"),
        (np.full((1, 4), np.nan, np.float32), "finite and >= 0"),
    ],
)
def test_norms_that_are_none(norms: NDArray[Any], told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        run({"glu": scores([4, 3, 2, 1]), "glu.norms": norms}, method="glu-oracle")


# Experts ---------------------------------------------------------------------------------------

ROUTED = {
    "expert": np.log([[[0.4, 0.3, 0.2, 0.1]], [[0.1, 0.2, 0.4, 0.3]]]).astype(np.float32),
    "meta": {"experts_per_token": 2, "signals": {"expert": {"unit_bytes": 1000}}},
}


def test_routing_weight_lost_by_hand() -> None:
    # The cache of one holds expert 0 after the first token. The second has .4 / .7 and .3 / .7 of
    # the weight of its two best, of which neither is there: with F = 1 the one below 1 / 2 is cold.
    found = run(
        ROUTED, method="moe", routing="drop-cold:factor=1", policy="lru", cache_fraction=0.3
    )
    assert found.traffic.active[:, 0, 0].tolist() == [1, 1]  # the first token's .3 is cold as well
    assert found.routing_weight_lost == pytest.approx(0.3 / 0.7)
    assert dict(found.summary())["routing weight lost"] == "42.86%"
    plain = run(ROUTED, policy="lru", cache_fraction=0.3)
    assert (plain.method, plain.routing_weight_lost) == ("moe", None)
    assert "open-loop" not in plain.marks
    assert "open-loop" in found.marks


def routes() -> dict[str, Any]:
    """The two best of four experts, with their weights."""
    return {
        "expert.indptr": np.array([0, 2, 4]),
        "expert.indices": np.array([0, 1, 2, 3], np.uint16),
        "expert.scores": np.array([0.4, 0.3, 0.4, 0.3], np.float32),
        "expert.shape": np.array([2, 1, 4]),
        "meta": {"experts_per_token": 2, "signals": {"expert": {"unit_bytes": 1000}}},
    }


@pytest.mark.parametrize("routing", ["cache-prior", "max-rank", "reuse-distance"])
def test_weights_of_the_best_alone_cannot_serve(routing: str) -> None:
    with pytest.raises(
        DipsimError, match=f"holds the weights of 2 experts .* {routing} with k = 2"
    ):
        run(routes(), method="moe", routing=routing)
    found = run(routes(), method="moe", routing=routing, top_k=1)
    assert "recorded-experts" in found.marks


def test_more_experts_than_were_recorded() -> None:
    with pytest.raises(DipsimError, match="2 experts a token only: method moe with k = 3"):
        run(routes(), method="moe", top_k=3)
    assert run(routes(), method="moe", routing="drop-cold").tokens == 2


# Weights pruned beforehand -----------------------------------------------------------------------


def test_two_of_four_weights_by_hand() -> None:
    # 4.5 bits: 2.25 for the kept half, 1 for its indices; a neuron is 3 x 4 weights.
    found = run({"glu": scores([1, 1, 1, 1])}, method="dense", weights="2:4")
    assert found.unit_bytes.tolist() == [[12 * (2.25 + 1) / 8]]
    assert "lossy-weights" in found.marks
    assert found.budget.static.attention == 64 * 4.5 / 8


@pytest.mark.parametrize("method", [None, "glu-oracle"])
def test_pruned_weights_are_for_dense(method: str | None) -> None:
    with pytest.raises(DipsimError, match="give it with --method dense"):
        run({"glu": scores([1, 1, 1, 1])}, method=method, weights="2:4")


def test_clusters_join_what_is_chosen() -> None:
    found = run({"glu": scores([3, 4, 1, 2])}, method="glu-oracle", density=0.5, cluster=2)
    assert found.groups()[0]["units"] == 2
    assert found.unit_bytes[0, 0] == 2 * 12 * 4.5 / 8
    assert found.energy_kept[0] == pytest.approx(25 / 30)
    for options, told in (
        ({"cluster": 3}, "--cluster 3 does not divide the 4 units of glu"),
        ({"cluster": 2, "method": "dense"}, "dense has none"),
        ({"cluster": 2, "layout": "bundle"}, "drop --layout"),
    ):
        with pytest.raises(DipsimError, match=told):
            run({"glu": scores([3, 4, 1, 2])}, **{"method": "glu-oracle", **options})


def test_calibration_tokens_are_not_measured() -> None:
    rows = np.random.default_rng(2).random((10, 1, 4)).astype(np.float32)
    found = run({"gate": rows}, method="cats", density=0.6, calibrate_tokens="2:5", warmup=1)
    assert np.flatnonzero(found.traffic.measured).tolist() == [1, 5, 6, 7, 8, 9]
    assert "calibrated" in found.marks


# What a reviewer found ----------------------------------------------------------------------------


def test_rows_without_experts_do_not_count_in_what_is_lost() -> None:
    whole, half = routes(), routes()
    for found in (whole, half):  # two layers; of `half` the second routes nothing
        found["expert.shape"] = np.array([2, 2, 4])
        found["meta"] = {"experts_per_token": 2, "signals": {"expert": {"unit_bytes": 1000}}}
    whole["expert.indptr"] = np.array([0, 2, 4, 6, 8])
    whole["expert.indices"] = np.array([0, 1, 0, 1, 2, 3, 2, 3], np.uint16)
    whole["expert.scores"] = np.array([0.4, 0.3] * 4, np.float32)
    half["expert.indptr"] = np.array([0, 2, 2, 4, 4])
    options = {"method": "moe", "routing": "drop-cold:factor=1", "policy": "none"}
    lost = [run(found, **options).routing_weight_lost for found in (whole, half)]
    assert lost == pytest.approx([0.3 / 0.7] * 2)


def test_log8_holds_no_logits() -> None:
    arrays = {
        "expert": np.full((1, 1, 4), 9, np.uint8),
        "expert.max": np.ones((1, 1), np.float32),
        "meta": {"signals": {"expert": {"encoding": "log8", "unit_bytes": 1000}}},
    }
    with pytest.raises(DipsimError, match="log8, which holds no logits"):
        run(arrays, method="moe", top_k=1)


def test_a_predictor_of_recorded_sets_says_what_it_misses() -> None:
    sets = np.random.default_rng(3).random((12, 1, 64)) < 0.25
    geometry = {**MODEL, "intermediate": 64}
    found = run({"glu": sets, "meta": {"model": geometry}}, method="predictor", recall=0.6)
    assert found.energy_kept[0] == pytest.approx(0.6, abs=0.02)


def test_static_from_a_clustered_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = {"glu": scores([3, 4, 1, 2], [1, 2, 3, 4]), "meta": {"model": MODEL}}
    dipsim.save_trace("t.npz", arrays)
    options = {"method": "glu-oracle", "cluster": 2, "policy": "static", "static_from": "t.npz"}
    assert run(arrays, **options).tokens == 2


def test_the_error_of_the_output_in_one_global_cache() -> None:
    rng = np.random.default_rng(5)
    arrays = {
        "mlp_input": rng.random((9, 2, 4)).astype(np.float32),
        "glu": rng.random((9, 2, 4)).astype(np.float32),
        "glu.norms": np.full((2, 4), 3, np.float32),
        "meta": {"model": {**MODEL, "layers": 2}},
    }
    found = run(arrays, method="dip-ca", density=0.6, scope="global")
    lost = np.sqrt(1 - found.traffic.energy[..., 1])
    np.testing.assert_allclose(found.traffic.error[..., 1], lost, atol=1e-6)
    assert lost.max() > 0


def test_routing_a_trace_of_routes_needs_no_method() -> None:
    assert run(routes(), routing="drop-cold").method == "moe"
    assert run(routes()).method == "recorded"
    assert "recorded-experts" not in run(routes(), routing="drop-cold").marks


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "moe", "routing": "max-rank:max_rank=1", "top_k": 2}, "below the 2 experts"),
        (
            {"method": "moe", "routing": "drop-cold:factor=.1,factor=.2"},
            "factor stands there twice",
        ),
        ({"method": "moe", "gamma": 0.5}, "--gamma is for dip-ca, not for moe"),
    ],
)
def test_routing_that_is_none(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        run(ROUTED, **options)
