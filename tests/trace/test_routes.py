"""Experts used beside the scores of all: stored, cut, replayed, and refused where they disagree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import TraceWriter, inspect, load_trace, simulate, synth
from dipsim.errors import DipsimError, MethodError, TraceError
from dipsim.methods.routing import route_plainly
from dipsim.replay.active_sets import every_set
from dipsim.simulate import prepare
from dipsim.trace.convert.exporting import export
from dipsim.trace.encoding import unpack_sets
from dipsim.trace.routes import raised
from dipsim.trace.save import save_trace

TOKENS, LAYERS, EXPERTS, K = 12, 3, 9, 2
META = {"experts_per_token": K, "signals": {"expert": {"unit_bytes": 1000}}, "dense_bytes": 10}


def arrays(seed: int = 0, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (TOKENS, LAYERS, EXPERTS)).astype(np.float32)
    used = np.argsort(-scores, axis=-1)[..., :K].astype(np.uint16)
    weights = rng.random(used.shape).astype(np.float16)
    return {
        "expert": scores,
        "expert.used": used,
        "expert.weights": weights,
        "meta": META,
        **more,
    }


def sets_of(trace: Any, method: str, **more: Any) -> Any:
    run = prepare(trace, "snapdragon8", cache_fraction=0.5, method=method, **more)
    (words,) = every_set(run.trace, run.method)
    return unpack_sets(words, EXPERTS)


def as_sets(used: Any) -> Any:
    return (used[..., None] == np.arange(EXPERTS)).any(-2)


def test_routes_come_back_as_they_were_written(tmp_path: Path) -> None:
    given = arrays()
    rows = {key: value for key, value in given.items() if key != "meta"}
    for path in (tmp_path / "one.npz", tmp_path / "shards"):
        with TraceWriter(path, meta=META, shard_bytes=500) as out:
            for token in range(0, TOKENS, 4):
                out.append({key: value[token : token + 4] for key, value in rows.items()})
        trace = load_trace(path)
        np.testing.assert_array_equal(trace.routes().read(), given["expert.used"])
        weights = trace.routes("expert.weights").read()
        np.testing.assert_array_equal(weights, given["expert.weights"])
        part = trace.window(3, 9).layer_window(1, 3)
        np.testing.assert_array_equal(part.routes().read(), given["expert.used"][3:9, 1:])
        np.testing.assert_array_equal(sets_of(part, "moe"), as_sets(given["expert.used"][3:9, 1:]))
    written = export(trace, tmp_path / "e.npz", signals=["expert"], tokens="2:8", layers="0:2")
    np.testing.assert_array_equal(written.routes().read(), given["expert.used"][2:8, :2])


@pytest.mark.parametrize("method", ["recorded", "moe"])
def test_ties_and_rounding_change_no_set(method: str) -> None:
    """Scores that are all alike, and in float16 those that differ by less than it holds."""
    given = arrays()
    for scores in (np.zeros_like(given["expert"]), (1000 + given["expert"] / 1e4)):
        trace = load_trace({**given, "expert": scores.astype(np.float16)})
        np.testing.assert_array_equal(sets_of(trace, method), as_sets(given["expert.used"]))


def test_the_default_is_moe_with_the_same_figures_as_the_recorded_sets() -> None:
    given = arrays()
    options: dict[str, Any] = {"profile": "snapdragon8", "cache_fraction": 0.4}
    moe, recorded = simulate(given, **options), simulate(given, method="recorded", **options)
    assert (moe.method, recorded.method) == ("moe", "recorded")
    assert (moe.hits, moe.tokens_per_second) == (recorded.hits, recorded.tokens_per_second)
    alone = {key: value for key, value in given.items() if "." not in key}
    assert simulate(alone, **options).hits == moe.hits


def test_layers_that_use_fewer_or_none() -> None:
    given = arrays()
    used = given["expert.used"].copy()
    used[:, 0], used[::2, 2, 1] = 65535, 65535
    trace = load_trace({**given, "expert.used": used})
    for method in ("recorded", "moe"):
        np.testing.assert_array_equal(sets_of(trace, method), as_sets(used))
    rule = sets_of(trace, "moe", routing="drop-cold")
    assert not (rule & ~as_sets(used)).any()


def test_other_experts_than_the_best_are_refused_but_for_recorded() -> None:
    given = arrays()
    used = np.argsort(given["expert"], axis=-1)[..., :K].astype(np.uint16)
    trace = load_trace({**given, "expert.used": used})
    np.testing.assert_array_equal(sets_of(trace, "recorded"), as_sets(used))
    for options in ({}, {"routing": "cache-prior"}):
        with pytest.raises(MethodError, match="in layer 0 the experts used are not those with the"):
            simulate(trace, "snapdragon8", cache_fraction=0.5, method="moe", **options)
    said = {**META, "router": {"selection": "unknown"}}
    told = load_trace({**given, "expert.used": used, "meta": said})
    assert simulate(told, "snapdragon8", cache_fraction=0.5).method == "recorded"


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"expert.used": np.full((TOKENS, LAYERS, K), 9, np.uint16)}, "experts are 0..8, 65535"),
        ({"expert.used": np.full((TOKENS, LAYERS, K), 3, np.uint16)}, "lists an expert twice"),
        ({"expert.used": np.zeros((TOKENS, LAYERS), np.uint16)}, r"must be uint16 \[tokens, lay"),
        ({"expert.used": np.zeros((TOKENS, LAYERS, K))}, r"must be uint16 \[tokens, layers, k\]"),
        ({"expert.used": np.zeros((TOKENS, 2, 1), np.uint16)}, "must be that of expert.used"),
        ({"expert.weights": np.full((TOKENS, LAYERS, K), np.nan, np.float16)}, "must be finite"),
        ({"expert.weights": np.ones((TOKENS, LAYERS, 1), np.float16)}, "must be that of expert."),
        ({"expert": np.ones((TOKENS, LAYERS, EXPERTS), bool)}, "expert holds none"),
        ({"expert": np.full((TOKENS, LAYERS, EXPERTS), np.nan, "f4")}, "score nan"),
        ({"expert": np.full((TOKENS, LAYERS, EXPERTS), np.inf, "f4")}, "score inf"),
        ({"meta": {**META, "router": [1]}}, "meta.router is .*: it must be an object"),
        ({"meta": {**META, "router": {"bias": [[0.0] * 8] * 3}}}, "3 lists of 9"),
        ({"meta": {**META, "router": {"bias": [["a"] * 9] * 3}}}, "3 lists of 9"),
    ],
)
def test_what_are_no_routes_is_refused(changed: dict[str, Any], problem: str) -> None:
    def load() -> None:
        trace = load_trace(arrays(**changed))
        trace.check_values()
        simulate(trace, "snapdragon8", cache_fraction=0.5)

    with pytest.raises(DipsimError, match=problem):
        load()


def test_routes_without_their_scores_are_refused(tmp_path: Path) -> None:
    given = arrays()
    for missing in ("expert", "expert.used"):
        rest = {key: value for key, value in given.items() if key != missing}
        with pytest.raises(TraceError, match=f"belongs to {missing}, which is missing"):
            load_trace({**rest, "meta": {}, "glu": np.ones((TOKENS, LAYERS, 4), np.float32)})
    closed = {**given, "expert": np.where(as_sets(given["expert.used"]), given["expert"], -np.inf)}
    save_trace(tmp_path / "t.npz", closed)
    assert load_trace(tmp_path / "t.npz").signals["expert"].encoding == "float32"
    with (
        pytest.raises(TraceError, match=r"expert\.used is float64: append integers"),
        TraceWriter(tmp_path / "u.npz") as out,
    ):
        out.append({"expert": given["expert"], "expert.used": given["expert.used"] / 1.0})


def test_raised_scores_put_what_was_used_first() -> None:
    """Against a loop: the used ones are first, others keep their scores, and others' order."""
    rng = np.random.default_rng(3)
    scores = rng.integers(-2, 3, (200, 1, 6)).astype(np.float32)
    used = np.argsort(rng.random(scores.shape), axis=-1)[..., :2].astype(np.uint16)
    used[::3, :, 1] = 65535
    better, wrong = raised(scores, used, -np.inf, 0.0)
    for row, given, ids, bad in zip(
        better[:, 0], scores[:, 0], used[:, 0], wrong[:, 0], strict=True
    ):
        mine = set(ids.tolist()) - {65535}
        others = [unit for unit in range(6) if unit not in mine]
        if len(mine) < 2:
            assert all(row[unit] == -np.inf for unit in others)
            continue
        assert min(row[list(mine)]) > max(row[others])
        assert [row[unit] for unit in others] == [given[unit] for unit in others]
        assert bad == (min(given[list(mine)]) < max(given[others]))


def test_weights_of_biased_scores() -> None:
    """By hand: scores .9, .8, .3 with biases .5, .1, 0 weigh .4, .7, .3; a closed one nothing."""
    z = np.array([[[0.9, 0.8, 0.3, -np.inf]]], np.float32)
    sets, shares = np.zeros((1, 1, 1), np.uint64), np.zeros((1, 1, 2), np.float32)
    weighing = np.array([[1.0, 0.5, 0.1, 0.0, 0.0]])
    route_plainly(z, 2, sets, shares, weighing)
    assert sets[0, 0, 0] == 0b0011
    np.testing.assert_allclose(shares[0, 0], [1.1 / 1.4, (0.16 + 0.49) / 0.74], rtol=1e-5)
    route_plainly(z, 4, sets, shares, np.array([[2.0]]))  # unknown
    assert sets[0, 0, 0] == 0b0111
    assert np.isnan(shares).all()


def test_drop_cold_goes_by_weights_without_the_bias() -> None:
    """Experts 0 and 1 are chosen, .9 and .8; their weights are .1 and .8, so 0 is dropped."""
    scores = np.full((3, 1, 4), 0.1, np.float32)
    scores[:, 0, :2] = 0.9, 0.8
    meta = {**META, "router": {"bias": [[0.8, 0.0, 0.0, 0.0]]}}
    meta["signals"] = {"expert": {"unit_bytes": 1000, "encoding": "logits"}}
    given = {"expert": scores, "meta": meta}
    options: dict[str, Any] = {"cache": "4000B", "policy": "lru", "method": "moe"}
    plain = simulate(given, "snapdragon8", **options)
    assert plain.to_dict()["accesses"] == 6
    dropped = simulate(given, "snapdragon8", routing="drop-cold:factor=.5", **options)
    assert dropped.to_dict()["accesses"] == 3
    unknown = {**meta, "router": {"function": "unknown"}}
    with pytest.raises(MethodError, match="weights of its experts are not known"):
        simulate({**given, "meta": unknown}, "snapdragon8", routing="drop-cold", **options)


def test_inspection_and_synthesis_take_closed_experts(tmp_path: Path) -> None:
    scores = np.concatenate([arrays(seed)["expert"] for seed in range(3)])
    given = {"expert": np.where(scores < -2, -np.inf, scores).astype(np.float32), "meta": META}
    assert inspect(given).to_dict()["signals"]
    drawn = synth(tmp_path / "s.npz", like=given, tokens=8)
    assert drawn.tokens == 8


def test_weights_that_are_not_known_are_no_figures() -> None:
    given = arrays(meta={**META, "router": {"function": "unknown"}})
    options: dict[str, Any] = {"cache_fraction": 0.4, "routing": "cache-prior"}
    figures = json.dumps(simulate(given, "snapdragon8", **options).to_dict(), allow_nan=False)
    assert "NaN" not in figures
    known = simulate(arrays(), "snapdragon8", **options)
    assert known.to_dict()["hits"] == json.loads(figures)["hits"]
