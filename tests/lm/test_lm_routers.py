"""Are the experts that are recorded those that a model uses, whatever its router's rule?

The oracle, `tools.mixtures.seen_by_experts`, looks at what the experts multiply.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.paths import NEEDS_TORCH, shared

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
transformers = pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim import lm, load_trace, simulate  # noqa: E402
from dipsim.errors import DipsimError  # noqa: E402
from dipsim.lm.sparse import sparsify  # noqa: E402
from dipsim.lm.structure import find_structure  # noqa: E402
from dipsim.replay.active_sets import every_set  # noqa: E402
from dipsim.run import replay  # noqa: E402
from dipsim.simulate import prepare  # noqa: E402
from dipsim.trace.encoding import unpack_sets  # noqa: E402
from tools.mixtures import (  # noqa: E402
    EXPERTS,
    FAMILIES,
    class_of,
    discovered,
    mixture,
    seen_by_experts,
)

IDS = (torch.arange(40) * 37 % 125 + 3)[None]
QUICK = ("MixtralConfig", "DeepseekV3Config")
REFUSED = {
    "DogeConfig": "DogeCDMoE: chooses by topk among experts that are no modules",
    "JetMoeConfig": "JetMoeDecoderLayer: 2 mixtures of experts in a layer",
}
"""Families that are refused, and why."""
NO_CHOICE = {"PhimoeConfig"}
"""Families whose choice cannot be another one: no topk makes it."""
UNKNOWN_WEIGHTS = {"Kolibri1Config", "PhimoeConfig"}
"""Families whose weights do not follow from what they select by."""


NOTHING_BETTER = {"Glm4MoeConfig", "ZayaConfig"}
"""Families whose small model has no expert in DRAM that a rule would rather take."""


def some(*quick: str) -> list[Any]:
    """Return all families that are recorded; all but the quick ones are slow tests."""
    return [
        pytest.param(family, marks=[] if family in quick else pytest.mark.slow)
        for family in FAMILIES
        if family not in REFUSED
    ]


def family(config: str, **more: Any) -> Any:
    if not hasattr(transformers, config):
        pytest.skip(f"this transformers has no {config}")
    return mixture(config, **more)


def sets_of(trace: Any, method: str) -> Any:
    """The sets that a run of a trace uses, bool[tokens, layers, experts]."""
    run = prepare(trace, "snapdragon8", cache_fraction=0.5, method=method, **geometry(trace))
    (words,) = every_set(run.trace, run.method)
    return unpack_sets(words, EXPERTS)


def geometry(trace: Any) -> dict[str, Any]:
    """Return sizes of a model of which `record` does not know any."""
    if trace.model is not None:
        return {}
    sizes = {"layers": trace.layers, "hidden": 32, "intermediate": 24, "heads": 4}
    sizes |= {"kv_heads": 4, "vocab": 128}
    return {"model": {**sizes, "name": "tiny", "experts": EXPERTS, "experts_per_token": 4}}


def as_sets(rows: list[dict[int, float]]) -> Any:
    sets = np.zeros((len(rows), EXPERTS), bool)
    for row, used in zip(sets, rows, strict=True):
        row[list(used)] = True
    return sets


@pytest.mark.parametrize("config", some(*QUICK))
def test_recorded_sets_are_the_experts_used(config: str, tmp_path: Path) -> None:
    model = family(config)
    path = tmp_path / "t.npz"
    recorder = lm.record(model, path, signals=["expert"])
    with seen_by_experts(model) as seen, recorder, torch.no_grad():
        expected = model(IDS).logits
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, expected)
    trace = load_trace(path)
    layers = [i for i, layer in enumerate(find_structure(model).layers) if layer.router]
    assert len(layers) == len(seen)
    assert all(len(calls) == 1 for calls in seen.values())
    true = np.zeros((40, trace.layers, EXPERTS), bool)
    true[:, layers] = np.stack([as_sets(calls[0]) for calls in seen.values()], axis=1)
    np.testing.assert_array_equal(sets_of(trace, "recorded"), true)
    np.testing.assert_array_equal(sets_of(trace, "moe"), true)
    units = trace.signals["expert"].declared.get("layer_units", [EXPERTS] * trace.layers)
    assert [i for i, count in enumerate(units) if count] == layers
    if "expert.weights" in trace.arrays:
        weights, used = trace.routes("expert.weights").read(), trace.routes().read()
        for layer, calls in zip(layers, seen.values(), strict=True):
            for token, known in enumerate(calls[0]):
                row = dict(zip(used[token, layer].tolist(), weights[token, layer], strict=True))
                row.pop(65535, None)
                assert row == pytest.approx(known, rel=2e-3, abs=1e-4)
    result = simulate(path, "snapdragon8", cache_fraction=0.5, method="moe", **geometry(trace))
    assert result.method == "moe"
    assert trace.meta["router"]["function"] != "unknown" or config in UNKNOWN_WEIGHTS


def loop(model: Any, config: str, capacity: float, **more: Any) -> Any:
    """A model with `moe` in it."""
    trace = load_trace(lm.record_arrays(model, IDS, ["expert"]))
    known = {"geometry": sizes["model"]} if (sizes := geometry(trace)) else {}
    return sparsify(model, "moe", "lru", capacity, **known, **more)


@pytest.mark.parametrize("config", some("DeepseekV3Config"))
def test_a_closed_loop_reroutes_nothing_unless_a_rule_does(config: str) -> None:
    model = family(config)
    with torch.no_grad():
        expected = model(IDS).logits
        with loop(model, config, 0.5) as plain:
            assert torch.equal(model(IDS).logits, expected)
        routes = load_trace(lm.record_arrays(model, IDS, ["expert"])).routes().read()
        active = plain.traffic.active[:, :, 0]
        np.testing.assert_array_equal(active, (routes != 65535).sum(-1))
        if config not in NO_CHOICE:
            with loop(model, config, 1.0, routing="cache-prior:lambda=0"):
                assert torch.equal(model(IDS).logits, expected)


@pytest.mark.parametrize("config", some("OlmoeConfig"))
@pytest.mark.parametrize("rule", ["max-rank:top_j=0,max_rank=16", "drop-cold:factor=1"])
def test_a_rule_gives_the_weights_that_the_model_would(config: str, rule: str) -> None:
    """Of a first layer, whose logits no other choice has changed yet."""
    model = family(config)
    plain = lm.record_arrays(model, IDS, ["expert"])
    router = find_structure(model).routers[0]
    drops = rule.startswith("drop")
    if (drops and not (router.fed and router.separate)) or config in NO_CHOICE:
        with pytest.raises(DipsimError, match=r"record a trace and replay it|weights of its expe"):
            loop(model, config, 0.5, routing=rule)
        return
    if drops and config in UNKNOWN_WEIGHTS:
        with pytest.raises(DipsimError, match="weights of its experts are not known"):
            loop(model, config, 0.5, routing=rule)
        return
    sparse = loop(model, config, router.k / EXPERTS, routing=rule)
    with torch.no_grad(), sparse, seen_by_experts(model) as seen:
        model(IDS)
    first = next(i for i, layer in enumerate(find_structure(model).layers) if layer.router)
    rows = next(iter(seen.values()))[0]
    np.testing.assert_array_equal(sparse.traffic.active[:, first, 0], [len(row) for row in rows])
    used = [set(row.tolist()) - {65535} for row in plain["expert.used"][:, first]]
    trace = load_trace(plain)  # open loop and closed loop choose alike in a first layer
    options: dict[str, Any] = {"policy": "lru", "method": "moe", "routing": rule}
    run = prepare(
        trace, "snapdragon8", cache_fraction=router.k / EXPERTS, **options, **geometry(trace)
    )
    np.testing.assert_array_equal(sparse.traffic.hits[:, first, 0], replay(run).hits[:, first, 0])
    whole = {len(before) for before in used} == {router.k}  # else others are no candidates
    assert (
        not whole
        or config in NOTHING_BETTER
        or any(set(row) != old for row, old in zip(rows, used, strict=True))
    )
    if "expert.weights" not in plain or config in UNKNOWN_WEIGHTS or not router.separate:
        return
    scores = plain["expert"][:, first].astype(np.float64)
    meta = plain["meta"]
    bias = np.array(meta["router"].get("bias", np.zeros((first + 1, EXPERTS))))[first]
    encoded = meta.get("signals", {}).get("expert", {}).get("encoding")
    raw = np.exp(scores) if encoded is None else np.where(np.isfinite(scores), scores - bias, 0)
    if encoded is None and not router.normalised:
        raw /= raw.sum(-1, keepdims=True)
    for token, row in enumerate(rows):
        mine = {i: raw[token, i] for i in row}
        total = sum(mine.values()) if router.normalised else 1.0
        scaling = 1.0 if router.scaling is None else router.scaling
        expected = {i: weight / total * scaling for i, weight in mine.items()}
        assert row == pytest.approx(expected, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("config", REFUSED)
def test_what_is_not_seen_is_refused(config: str) -> None:
    with pytest.raises(DipsimError, match=REFUSED[config]):
        lm.record_arrays(family(config), IDS)


@pytest.mark.slow
def test_every_family_is_tested() -> None:
    if not transformers.__version__.startswith("5.24."):
        pytest.skip("other families than those of transformers 5.24")
    assert discovered() == {class_of(config) for config in FAMILIES}


def test_choosing_by_a_table_is_recorded_and_replayed_as_recorded() -> None:
    """DeepSeek-V4's first layers look a token's experts up: no scores choose."""
    model = family("DeepseekV4Config", mlp_layer_types=["hash_moe", "moe"])
    for name, table in model.named_buffers():
        if name.endswith("tid2eid"):
            rows = [torch.randperm(EXPERTS)[: table.shape[1]] for _ in table]
            table.copy_(torch.stack(rows))
    with seen_by_experts(model) as seen:
        arrays = lm.record_arrays(model, IDS, ["expert"])
    trace = load_trace(arrays)
    true = np.stack([as_sets(calls[-1]) for calls in seen.values()], axis=1)
    np.testing.assert_array_equal(sets_of(trace, "recorded"), true)
    assert (
        simulate(trace, "snapdragon8", cache_fraction=0.5, **geometry(trace)).method == "recorded"
    )
    with pytest.raises(DipsimError, match="--method recorded"):
        sets_of(trace, "moe")


def test_half_precision_hides_no_expert() -> None:
    """In bfloat16 many logits tie, and which of them topk takes is its own affair."""
    model = family("OlmoeConfig").bfloat16()
    with seen_by_experts(model) as seen, torch.no_grad():
        arrays = lm.record_arrays(model, IDS, ["expert"])
    true = np.stack([as_sets(calls[-1]) for calls in seen.values()], axis=1)
    for kind in (np.float16, np.float32):
        trace = load_trace({**arrays, "expert": arrays["expert"].astype(kind)})
        np.testing.assert_array_equal(sets_of(trace, "moe"), true)


@pytest.mark.parametrize("case", ["f18", "f19"])
def test_the_cases(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    runpy.run_path(str(shared(f"cases/{case}.py")), run_name="__main__")
    told = capsys.readouterr().out
    if case == "f18":
        assert "100% of the recorded sets" in told
    else:
        assert "4 experts: recorded (48, 2, 4)" in told
        assert "8 experts: recorded (48, 2, 8)" in told
