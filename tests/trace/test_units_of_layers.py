"""Traces whose layers have different numbers of units: the format, refusals, models, inspection."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import TraceWriter, inspect, load_trace, mrc, save_trace, simulate
from dipsim.errors import DipsimError, ModelError, TraceError
from dipsim.methods import build_method
from dipsim.model import load_model
from dipsim.report.hints import warnings
from dipsim.settings import Settings
from dipsim.trace.convert.exporting import export

WIDTHS = [5, 0, 3]
ENCODINGS = ("bool", "bits", "sparse", "float16", "float32", "log8")


def rows(widths: list[int] = WIDTHS, width: int = 5) -> np.ndarray:
    """Return float32[8, layers, width] scores, 0 beyond the units of each layer."""
    scores = np.random.default_rng(0).gamma(1.0, size=(8, len(widths), width)).astype(np.float32)
    for layer, count in enumerate(widths):
        scores[:, layer, count:] = 0
    return scores


def meta(**declared: Any) -> dict[str, Any]:
    return {"signals": {"glu": {"unit_bytes": 100, **declared}}}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_refuses_units_beyond_those_of_a_layer(
    tmp_path: Path, encoding: Any
) -> None:
    scores = rows()
    values = scores > 0.5 if encoding in ("bool", "bits", "sparse") else scores
    with TraceWriter(
        tmp_path / "t.npz", meta=meta(layer_units=WIDTHS), encodings={"glu": encoding}
    ) as out:
        out.append({"glu": values})
    trace = load_trace(tmp_path / "t.npz")
    assert trace.layer_units("glu").tolist() == WIDTHS
    trace.check_values()
    values[3, 2, 4] = 1
    with pytest.raises(TraceError, match="signal glu: token 3 uses units beyond the 3 that"):
        TraceWriter(tmp_path / "u.npz", meta=meta(layer_units=WIDTHS)).append({"glu": values})
    with TraceWriter(tmp_path / "v.npz", meta=meta(), encodings={"glu": encoding}) as out:
        out.append({"glu": values})
    arrays = dict(np.load(tmp_path / "v.npz"))
    text = json.loads(str(arrays["meta"]))
    text["signals"]["glu"]["layer_units"] = WIDTHS
    arrays["meta"] = np.array(json.dumps(text))
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(TraceError, match=r"token 3 uses units beyond the 3 .* layer 2") as refusal:
        load_trace(tmp_path / "w.npz").check_values()
    assert "\n" not in str(refusal.value)
    with pytest.raises(TraceError, match="units beyond"):
        simulate(str(tmp_path / "w.npz"), "paper-a18", cache_fraction=0.5)


def test_ids_beyond_those_of_a_layer_are_refused(tmp_path: Path) -> None:
    signals = {"signals": {"expert": {"unit_bytes": 100, "layer_units": [5, 3]}}}
    ids = np.array([[[0, 4], [0, 2]], [[1, 2], [2, 3]]])
    with TraceWriter(tmp_path / "t.npz", meta=signals, experts=5) as out:
        out.append({"expert": ids[:1]})
        with pytest.raises(TraceError, match=r"token 1 uses units beyond the 3 .* layer 1"):
            out.append({"expert": ids[1:]})
    load_trace(tmp_path / "t.npz").check_values()


@pytest.mark.parametrize(
    "given",
    [[5, 0], [5, 0, 3, 1], [6, 0, 3], [5, -1, 3], [5, 0.0, 3], [True, 0, 3], 5, "5", {}, []],
)
def test_other_layer_units_are_refused(given: Any) -> None:
    with pytest.raises(TraceError, match="layer_units must be a list of 3 whole") as refusal:
        load_trace({"glu": rows(), "meta": meta(layer_units=given)})
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 250


def test_a_misplaced_entry_is_told() -> None:
    trace = load_trace({"glu": rows(), "meta": {**meta(), "layer_units": WIDTHS}})
    assert any("meta.layer_units is ignored" in text for text in trace.warnings)


def test_a_part_of_the_layers_keeps_theirs(tmp_path: Path) -> None:
    save_trace(tmp_path / "t.npz", {"glu": rows(), "meta": meta(layer_units=WIDTHS)})
    export(tmp_path / "t.npz", tmp_path / "u.npz", layers="1:3")
    part = load_trace(tmp_path / "u.npz")
    assert part.layer_units("glu").tolist() == [0, 3]
    cut = load_trace(tmp_path / "t.npz").part(layers="1:3")
    assert cut.layer_units("glu").tolist() == [0, 3]
    one, other = (simulate(each, "paper-a18", cache_fraction=0.5) for each in (part, cut))
    assert one.hits == other.hits
    assert one.accesses == other.accesses > 0
    empty = simulate(cut, "paper-a18", cache_fraction=0.5, layers="0:1")
    assert (empty.accesses, empty.budget.units_bytes) == (0, 0)


def test_clusters_divide_the_units_of_every_layer() -> None:
    even = load_trace({"glu": rows([4, 2], 4), "meta": meta(layer_units=[4, 2])})
    assert even.clustered(2).layer_units("glu").tolist() == [2, 1]
    odd = load_trace({"glu": rows([4, 3], 4), "meta": meta(layer_units=[4, 3])})
    assert odd.clustered(2).layer_units("glu").tolist() == [4, 3]


def test_layers_without_units_may_take_no_bytes() -> None:
    given = {"glu": rows(), "meta": meta(layer_units=WIDTHS, unit_bytes=[100, 0, 50])}
    result = simulate(given, "paper-a18", cache_fraction=0.5)
    assert result.budget.units_bytes == 5 * 100 + 3 * 50
    assert result.unit_bytes[:, 0].tolist() == [100, 0, 50]
    (group,) = result.groups()
    assert (group["units"], group["layer_units"]) == (5, WIDTHS)
    assert group["capacity"] == [2, 0, 1]
    assert result.fits is False
    assert simulate(given, "paper-a18", cache_fraction=1.0).fits
    del given["meta"]["signals"]["glu"]["layer_units"]
    with pytest.raises(TraceError, match="unit_bytes of glu must be a number"):
        simulate(given, "paper-a18", cache_fraction=0.5)


def test_no_warning_of_caches_that_need_not_hold_anything() -> None:
    given = {"glu": rows(), "meta": meta(layer_units=WIDTHS)}
    some, none = (simulate(given, "paper-a18", cache_fraction=each) for each in (0.5, 0.2))
    assert not any("hold no unit" in text for text in warnings(some))
    assert any("hold no unit" in text for text in warnings(none))


# Models ------------------------------------------------------------------------------------------

MODEL: dict[str, Any] = {
    "name": "mixed", "layers": 3, "hidden": 4, "intermediate": 8, "heads": 1, "kv_heads": 1,
    "vocab": 16, "tied_embeddings": True, "experts": 5, "experts_per_token": 2, "bits": 8,
    "kinds": {"dense": {"experts": None, "intermediate": 32}}, "pattern": ["dense", "main", "main"],
}  # fmt: skip


def routed(**declared: Any) -> dict[str, Any]:
    """Return a trace of routes that holds the dense first layer of the model too, all zeros."""
    logits = np.random.default_rng(1).normal(0, 2, (8, 3, 5)).astype(np.float32)
    logits[:, 0] = 0
    return {"expert": logits, "meta": {"signals": {"expert": declared} if declared else {}}}


@pytest.mark.parametrize("layer_units", [None, [0, 5, 5]])
def test_a_model_says_which_layers_have_experts(layer_units: list[int] | None) -> None:
    declared = {} if layer_units is None else {"layer_units": layer_units}
    for options in ({}, {"routing": "cache-prior"}):
        whole = simulate(
            routed(**declared), "paper-a18", model=MODEL, cache_fraction=0.5, **options
        )
        later = {"expert": routed()["expert"][:, 1:]}
        alone = simulate(
            later, "paper-a18", model=MODEL, cache_fraction=0.5, policy="lfu", **options
        )
        assert whole.budget.capacity[:, 0].tolist() == [0, 2, 2]
        assert whole.hits == alone.hits
        assert whole.accesses == alone.accesses == 8 * 2 * 2
        assert whole.flash_bytes_per_token == alone.flash_bytes_per_token
        assert whole.budget.units_bytes == 2 * 5 * 3 * 4 * 8
        assert whole.budget.static.total == alone.budget.static.total


def test_a_trace_that_states_others_than_its_model_is_refused() -> None:
    with pytest.raises(ModelError, match="0 units of expert in layer 0, arrays states 5"):
        simulate(routed(layer_units=[5, 0, 5]), "paper-a18", model=MODEL, cache_fraction=0.5)
    used = routed()
    used["expert"][2, 0, 1] = 3
    with pytest.raises(TraceError, match="token 2 uses units beyond the 0"):
        simulate(used, "paper-a18", model=MODEL, cache_fraction=0.5)


def test_all_weights_of_layers_of_two_widths() -> None:
    kinds = {"wide": {"intermediate": 20}}
    dense = {k: v for k, v in MODEL.items() if not k.startswith("experts")}
    model = {**dense, "kinds": kinds, "pattern": ["wide", "main", "main"]}
    result = simulate(None, "paper-a18", model=model, method="dense", cache_fraction=1.0)
    assert result.budget.units_bytes == (20 + 8 + 8) * 3 * 4
    assert result.budget.capacity[:, 0].tolist() == [20, 8, 8]
    assert result.accesses == 36


def test_dense_counts_neurons_of_a_trace_whose_clusters_are_fewer() -> None:
    dense = {k: v for k, v in MODEL.items() if k not in ("kinds", "pattern")}
    dense = {k: v for k, v in dense.items() if not k.startswith("experts")}
    trace = load_trace({"glu": rows([8, 8, 8], 8), "meta": {"model": dense}}).clustered(4)
    (group,) = build_method(trace, Settings(method="dense"), load_model(dense)).groups
    assert (group.units, group.layer_units) == (8, ())


# Inspection and curves ---------------------------------------------------------------------------


@pytest.mark.parametrize("sets", [True, False])
def test_figures_count_the_units_that_layers_have(sets: bool) -> None:
    narrow, wide = rows([5, 5], 5), rows([5, 5], 200)
    wide[..., :5] = narrow
    if sets:
        narrow, wide = narrow > 0.5, wide > 0.5
    one = load_trace({"glu": narrow, "meta": meta()})
    other = load_trace({"glu": wide, "meta": meta(layer_units=[5, 5])})
    first, second = (inspect(each).signals["glu"].to_dict() for each in (one, other))
    assert first == second
    curves = [
        mrc(each, cache_fraction=[0.2, 0.6, 1.0], policies="lru,opt") for each in (one, other)
    ]
    for name in ("lru", "opt"):
        one_curve, other_curve = (each.curves[name] for each in curves)
        assert (one_curve.hits == other_curve.hits).all()
        assert (one_curve.capacity == other_curve.capacity).all()


def test_an_empty_layer_does_not_count() -> None:
    given = {"glu": rows([5, 5], 5), "meta": meta()}
    beside = {"glu": rows([5, 5, 0], 5), "meta": meta(layer_units=[5, 5, 0])}
    beside["glu"][:, :2] = given["glu"]
    first, second = (inspect(each).signals["glu"].to_dict() for each in (given, beside))
    assert first == second


def test_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DipsimError, match="layer_units"):
        save_trace(tmp_path / "t.npz", {"glu": rows(), "meta": meta(layer_units=[1])})
    assert not (tmp_path / "t.npz").exists()
