"""Baselines of a run: each is held against the run of its own that it stands for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import load_trace, simulate
from dipsim.analysis.baseline import Baseline, Standing, hold, replay_held
from dipsim.result import Result
from dipsim.simulate import prepare
from dipsim.trace import Trace

CHAT = "smollm2-chat"
PHONE = "oneplus15r"


def held(trace: Any, profile: str, **options: Any) -> tuple[Result, Standing]:
    return replay_held(prepare(trace, profile, **options))


def check(baseline: Baseline | None, run: Result) -> None:
    """The figures of a baseline are those of a run."""
    assert baseline is not None
    assert baseline.rate == pytest.approx(run.tokens_per_second, rel=1e-12)
    assert baseline.flash_bytes == pytest.approx(run.flash_bytes_per_token, rel=1e-12)
    assert baseline.flash_reads == pytest.approx(run.flash_reads_per_token, rel=1e-12)
    exposed = run.timing.times.exposed.mean(axis=0)
    assert list(baseline.exposed.values()) == pytest.approx(exposed.tolist(), rel=1e-12)


@pytest.fixture(scope="module")
def neurons() -> Trace:
    """Two sequences with prompts, of an untied model."""
    rng, row = np.random.default_rng(0), np.arange(24)
    model = {"layers": 3, "hidden": 16, "intermediate": 96, "heads": 2, "kv_heads": 2, "vocab": 99}
    return load_trace(
        {
            "mlp_input": rng.random((24, 3, 16)).astype(np.float32),
            "glu": rng.random((24, 3, 96)).astype(np.float32),
            "phase": (row % 12 >= 4).astype(np.uint8),
            "sequence": (row // 12).astype(np.int32),
            "meta": {"model": {**model, "tied_embeddings": False}},
        }
    )


@pytest.mark.parametrize(
    "options",
    [
        {"dram": "50%"},
        {"dram": "25%"},  # static weights are streamed
        {},  # everything fits, in what the device leaves
        {"dram": "80%", "reset": "sequence"},
        {"dram": "80%", "prefill": "cache"},
        {"dram": "80%", "kv": "grow"},
        {"dram": "80%", "kv": "grow", "reset": "sequence"},
        {"dram": "80%", "io": "buffered"},
        {"dram": "80%", "io": "mmap"},
        {"dram": "60%", "overlap": "paper-concurrent"},
        {"dram": "60%", "warmup": 3},
        {"dram": "60%", "engine": "events"},
        {"dram": "60%", "layers": "1:3", "sequence": "0:1"},
        {"dram": "60%", "bits": 8.0, "kv_bits": 8.0, "context": 64},
    ],
)
def test_dense_is_the_run_of_the_dense_method(neurons: Trace, options: dict[str, Any]) -> None:
    result, standing = held(neurons, PHONE, density=0.7, **options)
    dense = simulate(neurons, PHONE, method="dense", **options)
    check(standing.dense, dense)
    assert standing.times(standing.dense or standing.own) == pytest.approx(
        result.tokens_per_second / dense.tokens_per_second
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"method": "glu", "policy": "lru"},
        {"method": "glu", "policy": "none"},
        {"method": "predictor", "recall": 0.8, "policy": "lru"},
        {"method": "dip-ca", "gamma": 0.2},
        {"method": "dip", "scope": "global"},
        {"method": "dip", "access": "sequential"},
        {"method": "dip", "allocate": "equal", "cluster": 4},
    ],
)
def test_dense_does_not_depend_on_what_the_run_does(
    neurons: Trace, options: dict[str, Any]
) -> None:
    _, standing = held(neurons, PHONE, dram="60%", **options)
    check(standing.dense, simulate(neurons, PHONE, method="dense", policy="lru", dram="60%"))


def test_reading_ahead_is_left_out_of_dense(neurons: Trace) -> None:
    _, standing = held(neurons, PHONE, prefetch="previous", dram="90%")
    check(standing.dense, simulate(neurons, PHONE, method="dense", dram="90%"))


@pytest.mark.parametrize("options", [{"cache_fraction": 0.6}, {"cache": "30kB"}])
def test_caches_given_alone_count_with_what_stands_beside_them(
    neurons: Trace, options: dict[str, Any]
) -> None:
    result, standing = held(neurons, PHONE, method="glu", **options)
    budget = result.budget
    taken = budget.static.total + budget.kv + budget.cache
    check(standing.dense, simulate(neurons, PHONE, method="dense", dram=f"{taken!r} B"))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dip", {"dram": "60%"}),
        ("dip", {"dram": "60%", "io": "buffered"}),
        ("dip", {"dram": "70%", "kv": "grow"}),
        ("dip", {"dram": "60%", "admission": "ranked"}),
        ("glu", {"cache_fraction": 0.3, "warmup": 4}),
    ],
)
def test_optimum_and_other_admission_are_runs_of_their_own(
    neurons: Trace, method: str, options: dict[str, Any]
) -> None:
    result, standing = held(neurons, PHONE, method=method, policy="lfu", **options)
    given = {"method": method, **options}
    usual = given.pop("admission", "forced")
    check(standing.optimum, simulate(neurons, PHONE, policy="opt", **given))
    other = "ranked" if usual == "forced" else "forced"
    changed = simulate(neurons, PHONE, policy="lfu", admission=other, **given)
    trial = next(trial for trial in standing.trials if "admission" in trial.option)
    assert trial.option == f"--admission {other}"
    assert trial.rate == pytest.approx(changed.tokens_per_second, rel=1e-12)
    verdict = standing.verdict
    assert verdict is not None
    assert standing.optimum is not None
    assert verdict.rate == result.tokens_per_second
    best = max(standing.optimum.rate, trial.rate)
    assert verdict.policys_time == pytest.approx(1 - result.tokens_per_second / best)


def experts(model: Any = None) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    sets = np.zeros((30, 2, 16), np.bool_)
    for token, layer in np.ndindex(30, 2):
        sets[token, layer, rng.choice(16, 3, replace=False)] = True
    meta = {"signals": {"expert": {"unit_bytes": 1_000_000}}}
    return {"expert": sets, "meta": meta if model is None else {**meta, "model": model}}


@pytest.mark.parametrize("options", [{}, {"scope": "global"}, {"policy": "arc"}, {"warmup": 7}])
def test_experts_are_held_against_no_cache(options: dict[str, Any]) -> None:
    given = {"cache": "10MB", **options}
    _, standing = held(experts(), PHONE, **given)
    assert standing.dense is None
    check(standing.no_cache, simulate(experts(), PHONE, **{**given, "policy": "none"}))


def test_there_is_no_baseline_that_would_be_the_run_itself_or_cannot_be(neurons: Trace) -> None:
    assert held(neurons, PHONE, method="dense", dram="60%")[1].dense is None
    assert held(neurons, PHONE, policy="opt", dram="60%")[1].optimum is None
    assert held(neurons, PHONE, method="dip-ca", dram="60%")[1].optimum is None
    assert held(experts(), PHONE, policy="none", cache="9MB")[1].no_cache is None
    glu = np.random.default_rng(0).random((6, 1, 8)) < 0.5
    unknown = {"glu": glu, "meta": {"signals": {"glu": {"unit_bytes": 100}}}}
    _, standing = held(unknown, PHONE, cache="300B")
    assert (standing.dense, standing.no_cache) == (None, None)
    assert standing.optimum is not None


def test_a_unit_that_the_trace_declares_does_not_change_dense(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = {"layers": 1, "hidden": 16, "intermediate": 64, "heads": 2, "kv_heads": 2, "vocab": 9}
    scores = rng.random((9, 1, 64)).astype(np.float32)
    path = tmp_path / "t.npz"
    meta = {"model": model, "signals": {"glu": {"unit_bytes": 9999}}}
    np.savez(path, glu=scores, meta=json.dumps(meta))
    declared = held(path, PHONE, method="glu", dram="8kB")[1].dense
    plain = {"glu": scores, "meta": {"model": model}}
    check(declared, simulate(plain, PHONE, method="dense", dram="8kB"))


def test_a_result_can_be_held_against_its_baselines_later(neurons: Trace) -> None:
    result, standing = held(neurons, PHONE, dram="60%")
    assert hold(simulate(neurons, PHONE, dram="60%")) == standing
    assert hold(result).own.rate == result.tokens_per_second
