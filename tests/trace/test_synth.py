"""Synthetic traces: what was fitted on one half of a real trace is judged on the other."""

import sys
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.analysis.activity import DENSITIES, activity
from dipsim.errors import TraceError
from dipsim.methods import Method
from dipsim.methods.contract import Group
from dipsim.policies import BUILTIN
from dipsim.trace import Trace, load_trace
from dipsim.trace.synth import Geometry, TraceFit, draw, fit_trace, geometry_of, synth
from dipsim.trace.synth.draw import _repeat
from dipsim.trace.synth.fit import Repeats
from tools.paths import LONG_CHAT, of_the_long_chat
from tools.replays import replay_all

CAPACITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def joined(blocks: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    every = list(blocks)
    return {key: np.concatenate([block[key] for block in every]) for key in every[0]}


def curves(trace: Trace, key: str) -> dict[str, list[float]]:
    """Hit rates of lru and opt on the half of the units with the largest scores."""
    units = trace.signals[key].units
    method = Method("judge", (Group(key, units, (), "top-k", 0.5),))
    found: dict[str, list[float]] = {}
    for policy in ("lru", "opt"):
        capacities = [
            np.full((trace.layers, 1), int(share * units + 1e-9), np.int64) for share in CAPACITIES
        ]
        traffics = replay_all(trace, method, BUILTIN[policy], capacities)
        found[policy] = [float(each.hits.sum() / each.active.sum()) for each in traffics]
    return found


def judge(fit: TraceFit, geometry: Geometry, real: Trace, key: str, seed: int) -> None:
    one = replace(fit, signals={key: fit.signals[key]})
    units = {key: geometry.units[key]}
    drawn = joined(draw(one, Geometry(geometry.layers, units), real.tokens, seed))
    made = load_trace(drawn)
    assert made.sequence.tolist() == (real.sequence - real.sequence[0]).tolist()
    expected, found = curves(real, key), curves(made, key)
    for policy, rates in expected.items():
        assert found[policy] == pytest.approx(rates, abs=0.03), (key, policy)
    was, now = activity(real, key), activity(made, key)
    for density in DENSITIES:
        assert now.overlap[density] == pytest.approx(was.overlap[density], abs=0.02), key
    assert now.top_share == pytest.approx(was.top_share, abs=0.02), key


@pytest.mark.parametrize("key", ["mlp_input", "glu"])
def test_fitted_on_one_half_of_the_shipped_trace_judged_on_the_other(key: str) -> None:
    trace = load_trace("smollm2-chat")
    fit = fit_trace(trace.window(0, 64), (key,))
    judge(fit, geometry_of(fit, None), trace.window(64, 128), key, 0)


@pytest.mark.slow
@of_the_long_chat
@pytest.mark.parametrize("key", ["mlp_input", "glu"])
def test_fitted_on_one_half_of_the_shared_trace_judged_on_the_other(key: str) -> None:
    trace = load_trace(LONG_CHAT)
    fit = fit_trace(trace.window(0, 128))
    for seed in range(3):
        judge(fit, geometry_of(fit, None), trace.window(128, 256), key, seed)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["mlp_input", "glu"])
def test_another_geometry_has_the_normalised_figures_of_the_source(key: str) -> None:
    trace = load_trace(LONG_CHAT if LONG_CHAT.exists() else "smollm2-chat")
    half = trace.tokens // 2
    fit = fit_trace(trace.window(0, half))
    phi = Geometry(40, {"mlp_input": 5120, "glu": 17920})  # phi-3-medium
    judge(fit, phi, trace.window(half, trace.tokens), key, 0)


@pytest.fixture
def fit(fitted_once: None) -> TraceFit:
    return fit_trace(load_trace("smollm2-chat"))


SMALL = Geometry(3, {"mlp_input": 100, "glu": 300})


def test_the_same_seed_gives_the_same_trace_and_another_another(fit: TraceFit) -> None:
    one, two, other = (joined(draw(fit, SMALL, 50, seed)) for seed in (1, 1, 2))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
    assert (one["glu"] != other["glu"]).mean() > 0.99


def test_blocks_and_length_change_nothing(fit: TraceFit, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = joined(draw(fit, SMALL, 130, 1))
    module = sys.modules["dipsim.trace.synth.draw"]
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4 * 3 * 400 * 7)
    blocks = list(draw(fit, SMALL, 60, 1))
    assert len(blocks) == 9
    part = joined(blocks)
    for key in part:
        np.testing.assert_array_equal(part[key], whole[key][:60])


def test_iid_is_c_over_n_and_the_default_is_not(fit: TraceFit) -> None:
    geometry = geometry_of(fit, None)
    for iid in (True, False):
        one = replace(fit, signals={"glu": fit.signals["glu"]})
        trace = load_trace(
            joined(draw(one, Geometry(geometry.layers, {"glu": 1536}), 128, 0, iid=iid))
        )
        overlap = activity(trace, "glu").overlap
        if iid:
            assert overlap == pytest.approx({0.25: 0.25, 0.5: 0.5, 0.75: 0.75}, abs=0.005)
        else:
            assert overlap[0.5] > 0.55


def test_scores_have_the_marginals_of_the_source(fit: TraceFit) -> None:
    source = load_trace("smollm2-chat")
    drawn = joined(draw(fit, geometry_of(fit, None), 128, 0))
    for key in ("mlp_input", "glu"):
        real = np.concatenate(list(source.signals[key].values(0, 128, 64)))
        for layer in (0, 15, 29):
            at = [0.1, 0.5, 0.9]
            was, now = (np.quantile(x[:, layer], at) for x in (real, drawn[key]))
            np.testing.assert_allclose(now, was, rtol=0.15)
            loud = [np.quantile(x[:, layer], 0.99) for x in (real, drawn[key])]
            assert loud[1] == pytest.approx(loud[0], rel=0.5)  # rests on few loud tokens


def test_memory_stays_bounded(fit: TraceFit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["dipsim.trace.synth.draw"], "_BLOCK_BYTES", 2 * 2**20)
    geometry = Geometry(30, {"mlp_input": 576, "glu": 1536})
    tracemalloc.start()
    for _ in draw(fit, geometry, 100, 0):  # 25 MB of scores
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.usefixtures("fitted_once")
def test_tokens_repeat_as_they_did() -> None:
    ids = load_trace("smollm2-chat").token_id
    assert ids is not None
    repeats = fit_trace(load_trace("smollm2-chat"), ("glu",)).repeats
    assert repeats is not None
    kinds = [len(set(_repeat(len(ids), repeats, seed).tolist())) for seed in range(20)]
    assert np.mean(kinds) == pytest.approx(len(set(ids.tolist())), rel=0.2)
    never = Repeats(0.5, 5.0, (0.0, 0.0))
    drawn = _repeat(2000, never, 0)
    assert (drawn[1:] != drawn[:-1]).all()
    assert (drawn[2:] != drawn[:-2]).all()


def test_recorded_sets_are_drawn_as_sets() -> None:
    rng = np.random.default_rng(0)
    popular = 1 / (1 + np.exp(rng.normal(-1.5, 1, (2, 200))))
    sets = rng.random((400, 2, 200)) < popular
    source = load_trace({"glu": sets, "sequence": np.repeat(np.arange(4), 100)})
    fit = fit_trace(source)
    made = load_trace(joined(draw(fit, geometry_of(fit, None), 400, 0)))
    was, now = activity(source, "glu"), activity(made, "glu")
    assert now.active == pytest.approx(was.active, abs=0.01)
    assert now.overlap[1.0] == pytest.approx(was.overlap[1.0], abs=0.03)
    assert now.top_share == pytest.approx(was.top_share, abs=0.03)


def test_experts_stay_as_many_a_token() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (100, 2, 16)) + rng.normal(0, 1, (2, 16))
    sets = np.argsort(np.argsort(-logits, axis=2), axis=2) < 4
    fit = fit_trace(load_trace({"expert": sets}))
    drawn = joined(draw(fit, Geometry(2, {"expert": 64}), 50, 0))["expert"]
    assert (drawn.sum(axis=2) == 4).all()
    two = joined(draw(fit, Geometry(2, {"expert": 8}, 5), 50, 0))["expert"]
    assert (two.sum(axis=2) == 5).all()
    raw = joined(draw(fit_trace(load_trace({"expert": logits})), Geometry(2, {"expert": 64}), 50))
    assert (raw["expert"] < 0).any()


@pytest.mark.usefixtures("fitted_once")
def test_a_written_trace_says_where_it_is_from(tmp_path: Path) -> None:
    made = synth(tmp_path / "t.npz", tokens=20, signals=("glu",), model="llama-3.2-1b", seed=7)
    assert (made.tokens, made.layers, made.signals["glu"].units) == (20, 16, 8192)
    assert "fitted to smollm2-chat (hash 902937f7749a4aed), seed 7" in made.meta["source"]
    assert made.model["name"] == "llama-3.2-1b"
    assert made.signals["glu"].encoding == "log8"
    sets = synth(tmp_path / "i", tokens=20, signals=("glu",), iid=True)
    assert "independent random" in sets.meta["source"]


@pytest.mark.usefixtures("fitted_once")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokens": 0}, "0 tokens"),
        ({"tokens": 2**23}, "tokens: from 1"),
        ({"signals": ("gate",)}, "holds no gate"),
        ({"encodings": {"glu": "bits"}}, "cannot hold"),
        ({"like": {"glu": np.ones((8, 1, 4), np.float32)}}, "too few"),
        ({"like": {"expert": np.ones((30, 1, 4), bool)}, "model": "llama-3-8b"}, "no units"),
    ],
)
def test_what_cannot_be_drawn(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=said):
        synth(tmp_path / "t.npz", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arrays",
    [
        {"glu": np.zeros((20, 1, 4), np.float32)},
        {"glu": np.ones((20, 1, 4), np.float32)},
        {"glu": np.ones((20, 2, 1), np.float32), "token_id": np.zeros(20, np.int32)},
        {"glu": np.zeros((20, 1, 4), np.bool_)},
        {"glu": np.ones((20, 1, 4), np.bool_), "phase": np.zeros(20, np.uint8)},
    ],
)
def test_sources_without_variety_still_give_a_trace(arrays: dict[str, np.ndarray]) -> None:
    fit = fit_trace(load_trace(arrays))
    made = load_trace(joined(draw(fit, geometry_of(fit, None), 20)))
    assert (
        sum(stop - start for start, stop, _ in made.blocks({"glu": made.signals["glu"].holds}))
        == 20
    )


@pytest.mark.parametrize("signal", ["glu", "expert"])
@pytest.mark.parametrize("largest", [1e-43, 1e30, float(np.finfo(np.float32).max)])
def test_scores_as_large_or_small_as_they_can_be_are_drawn_finite(
    signal: str, largest: float
) -> None:
    rng = np.random.default_rng(0)
    if signal == "expert":
        scores = largest * rng.choice((-1.0, 1.0), (24, 2, 33))
    else:
        scores = largest * rng.random((24, 2, 33)) ** 60
    fit = fit_trace(load_trace({signal: scores.astype(np.float32)}))
    made = joined(draw(fit, geometry_of(fit, None), 60))
    assert np.isfinite(made[signal]).all()
