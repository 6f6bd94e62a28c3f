"""Do imported routes keep the bytes and the weight format that their runtime states?"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import simulate
from dipsim.errors import DipsimError, ModelError
from dipsim.trace import load_trace
from tools.cli import Dipsim, done

EXPERT, DENSE, LAYERS, EXPERTS = 96, (700, 900), 2, 8
MODEL: dict[str, Any] = {
    "name": "small",
    "layers": LAYERS,
    "hidden": 4,
    "intermediate": 8,
    "heads": 1,
    "kv_heads": 1,
    "vocab": 16,
    "tied_embeddings": True,
    "experts": EXPERTS,
    "experts_per_token": 2,
    "bits": 8,
}
PHONE: dict[str, Any] = {
    "name": "slow",
    "dram": {"capacity": "1 MB", "bandwidth": "100 B/s"},
    "flash": {"bandwidth": "10 B/s"},
    "backends": {"cpu": {"gemv": {"q4_0": "7 B/s", "q4_k": "20 B/s"}, "per_layer": "0.25 s"}},
}


def write_routes(path: Path, name: str = "Tiny-Q4_K_M.gguf", tokens: int = 4) -> Path:
    """Write routes of decode tokens: expert t and t + 1 of every layer at token t."""
    lines = ["# route_trace v1"]
    lines.append(f"# model=/m/{name} arch=a n_layer={LAYERS} n_expert={EXPERTS} n_expert_used=2")
    lines += [f"# layer={i} expert_bytes={EXPERT} dense_bytes={DENSE[i]}" for i in range(LAYERS)]
    lines.append("turn,phase,step,layer,slot,expert,weight,residency,expert_bytes")
    for token in range(tokens):
        for layer in range(LAYERS):
            for slot in range(2):
                lines.append(f"0,1,{token},{layer},{slot},{token + slot},0.5,1,0")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def imported(dipsim: Dipsim, tmp_path: Path) -> Path:
    trace = tmp_path / "t.npz"
    done(dipsim(f"import {write_routes(tmp_path / 'r.csv')} {trace}"))
    return trace


def seconds(trace: Any, **options: Any) -> list[float]:
    options = {"cache_fraction": 1.0, "policy": "lru", "overlap": "serial", **options}
    return list(simulate(trace, PHONE, **options).timing.times.latency)


def test_the_bytes_of_other_weights_are_used_at_the_rate_of_the_format(imported: Path) -> None:
    trace = load_trace(imported)
    assert trace.meta["weight_format"] == trace.weight_format == "q4_k"
    assert trace.dense_bytes.tolist() == list(DENSE)
    assert trace.states_bytes
    result = simulate(imported, PHONE, cache_fraction=1.0, policy="lru", overlap="serial")
    used = sum(DENSE) + LAYERS * 2 * EXPERT
    assert result.dram_bytes_per_token == pytest.approx(used)
    # The first token misses both experts of a layer, the others one; two layers and the head.
    fixed = 3 * 0.25
    misses = [2, 1, 1, 1]
    expected = [used / 20 + n * LAYERS * EXPERT / 10 + fixed for n in misses]
    assert list(result.timing.times.latency) == pytest.approx(expected, rel=1e-12)


def test_the_command_line_reads_them_too(dipsim: Dipsim, imported: Path) -> None:
    found = done(dipsim(f"run {imported} -p snapdragon8 --cache-fraction 1 --json")).json
    assert found["dram_bytes_per_token"] == sum(DENSE) + LAYERS * 2 * EXPERT


def test_where_no_name_says_a_format_an_option_does(tmp_path: Path, dipsim: Dipsim) -> None:
    done(dipsim(f"import {write_routes(tmp_path / 'r.csv', 'Tiny.gguf')} {tmp_path / 't.npz'}"))
    trace = load_trace(tmp_path / "t.npz")
    assert "weight_format" not in trace.meta
    last = sum(DENSE) + LAYERS * 2 * EXPERT
    rest = LAYERS * EXPERT / 10 + 0.75
    for given, rate in (("q4_0", 7), ("Q4_K_M", 20), ("f16", 100)):
        took = seconds(tmp_path / "t.npz", weight_format=given)[-1]
        assert took == pytest.approx(last / rate + rest)


def test_a_model_of_other_experts_is_refused(imported: Path) -> None:
    assert seconds(imported, model=MODEL)[0] > 0  # 96 B too
    near = {**MODEL, "bits": 9}
    with pytest.raises(ModelError, match="has experts of 192 B") as refusal:
        seconds(imported, model={**MODEL, "bits": 16})
    assert "drop --model, or give the --bits" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    # Within a quarter the trace's bytes hold, and the head is the model's.
    head = 16 * 4 * 9 / 8
    norm = 4 * 5 * 2
    result = simulate(imported, PHONE, model=near, cache_fraction=1.0, overlap="serial")
    static = sum(DENSE) + head + norm
    kv = float(result.run.model.kv_bytes(1, 16)) * 1.5 if result.run.model else 0.0
    assert result.dram_bytes_per_token == pytest.approx(static + LAYERS * 2 * EXPERT + kv)
    # --bits takes those of the model.
    other = simulate(imported, PHONE, model=MODEL, bits=16, cache_fraction=1.0)
    assert other.groups()[0]["unit_bytes"] == 192


@pytest.mark.parametrize(
    "hostile",
    ["many", -1, float("nan"), float("inf"), 1e300, True, [1.0], [1, 2, 3], ["a", 1], {}, [[1], 2]],
    ids=str,
)
def test_dense_bytes_that_make_no_sense_are_refused(hostile: Any) -> None:
    logits = np.random.default_rng(0).normal(size=(4, LAYERS, EXPERTS)).astype(np.float32)
    meta = {"experts_per_token": 2, "signals": {"expert": {"unit_bytes": EXPERT}}}
    given = {"expert": logits, "meta": {**meta, "dense_bytes": hostile}}
    with pytest.raises(DipsimError) as refusal:
        simulate(given, PHONE, cache_fraction=1.0)
    assert "dense_bytes" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 300


def test_one_number_of_dense_bytes_is_of_every_layer() -> None:
    logits = np.random.default_rng(0).normal(size=(4, LAYERS, EXPERTS)).astype(np.float32)
    meta = {"experts_per_token": 2, "signals": {"expert": {"unit_bytes": EXPERT}}}
    given = {"expert": logits, "meta": {**meta, "dense_bytes": 50}}
    for part, layers in ((None, 2), ("1:2", 1)):
        result = simulate(given, PHONE, cache_fraction=1.0, layers=part)
        assert result.dram_bytes_per_token == pytest.approx(layers * (50 + 2 * EXPERT))
