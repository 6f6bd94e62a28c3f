"""A made-up device, benchmarked on paper, calibrated, and run: the rates come back."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import dipsim
from dipsim.calibrate.benchmarks import read_benchmarks
from dipsim.calibrate.device import calibrate_device
from dipsim.hardware import load_profile
from dipsim.model import load_model
from dipsim.report import calibrate as report
from tools.benchmarks import fio_json, llama_bench

TRUE: dict[str, Any] = {
    "extends": "snapdragon8",
    "name": "made-up",
    "flash": {
        "lanes": 8,
        "fit": {
            "t0": "150 us",
            "bandwidth": "1800 MB/s",
            "cap": "2900 MB/s",
            "p": 3.0,
            "sizes": ["4 KiB", "4 MiB"],
            "lanes": [1, 8],
        },
    },
    "backends": {
        "cpu-llamacpp": {
            "gemv": {"q4_0": "27 GB/s", "q8_0": "33 GB/s"},
            "per_layer": "350 us",
            "dram_efficiency": 0.3,
            "compute": "0.45 TFLOP/s",
        }
    },
}
GEMV, PER_LAYER, KV_RATE, FLOPS = {"q4_0": 27e9, "q8_0": 33e9}, 350e-6, 0.3 * 76.8e9, 0.45e12
BITS = {"q4_0": 4.5, "q8_0": 8.5}
BENCHED = ("smollm2-135m", "llama-3.2-1b", "llama-3.2-3b", "qwen2.5-7b")
NOISE = 0.05


def seconds_of_a_token(name: str, form: str, depth: int) -> float:
    """By hand: bytes over rates, and a cost for each layer and the head."""
    model = load_model(name)
    read = model.parameters - (0 if model.tied_embeddings else model.vocab * model.hidden)
    kv = 2 * model.layers * model.kv_heads * model.head_dim * 2 * depth
    fixed = PER_LAYER * (model.layers + 1)
    return read * BITS[form] / 8 / GEMV[form] + kv / KV_RATE + fixed


def benched(form: str) -> list[dict[str, Any]]:
    """Facts of the tests that llama-bench ran on the device."""
    rows = []
    for name in BENCHED:
        model = load_model(name)
        common = {
            "model_filename": f"/data/{name}-{form}.gguf",
            "model_type": f"{name} {form.upper()}",
            "model_size": int(model.parameters * BITS[form] / 8),
            "model_n_params": model.parameters,
        }
        for depth in (0, 4096):
            rate = 1 / seconds_of_a_token(name, form, depth + 64)
            rows.append({**common, "n_gen": 128, "n_depth": depth, "rate": rate})
        rows.append({**common, "n_prompt": 512, "rate": 512 / seconds_of_a_prompt(name, 512)})
    return rows


def seconds_of_a_prompt(name: str, tokens: int) -> float:
    """By hand: 2 FLOP a weight and token, 4 an element of each query and key that meet."""
    model = load_model(name)
    weights = model.parameters - (0 if model.tied_embeddings else model.vocab * model.hidden)
    meet = tokens * (tokens + 1) / 2
    attention = 4 * model.layers * model.heads * model.head_dim * meet
    return (2 * weights * tokens + attention) / FLOPS + PER_LAYER * (model.layers + 1)


def flash_points() -> list[dict[str, Any]]:
    """Facts of fio's jobs on the device, by the formula of its flash."""
    points = []
    for depth in (1, 2, 4, 8):
        for size in (4096 * 4**i for i in range(6)):
            flow = depth * size / (150e-6 + size / 1800e6)
            bandwidth = (flow**-3.0 + 2900e6**-3.0) ** (-1 / 3.0)
            points.append({"size": size, "depth": depth, "bandwidth": bandwidth})
    return points


def calibrated(folder: Path, seed: int) -> str:
    """Calibrate on two outputs of noisy programs; return the profile's path."""
    random = np.random.default_rng(seed)
    for form, how in (("q4_0", "json"), ("q8_0", "md")):
        text = llama_bench(benched(form), how, NOISE, random)
        (folder / f"bench-{form}.txt").write_text(text)
    (folder / "fio.json").write_text(fio_json(flash_points(), "json", NOISE, random))
    files = [str(folder / name) for name in ("bench-q4_0.txt", "bench-q8_0.txt", "fio.json")]
    found = calibrate_device(read_benchmarks(files), "snapdragon8", fit=True)
    assert found.refused == ()
    report.write(folder / "mine.yaml", found, "snapdragon8")
    return str(folder / "mine.yaml")


STREAMED = "half of it in flash"
RUNS: dict[str, dict[str, Any]] = {
    "another model": {"model": "llama-3-8b", "depth": 512},
    "a longer context": {"model": "llama-3.2-3b", "depth": 4096},
    STREAMED: {"model": "llama-3.2-3b", "depth": 512, "cache_fraction": 0.5},
}


def rate_of(profile: Any, form: str, **options: Any) -> dict[str, Any]:
    """The rate and its interval, of a dense model."""
    model = load_model(options.pop("model")).stored_at(BITS[form], form)
    usual = {"cache_fraction": 1.0, "overlap": "serial", "backend": "cpu-llamacpp"}
    options = {**usual, **options}
    device = load_profile(profile, ["dram.available=15GB"])
    figures = dipsim.simulate(None, device, model=model, method="dense", **options).to_dict()
    return {"rate": figures["tokens_per_second"], **figures["tokens_per_second_interval"]}


def test_the_hand_worked_seconds_are_those_of_a_run() -> None:
    for form in BITS:
        run = rate_of(TRUE, form, model="llama-3.2-1b", depth=64)
        assert 1 / run["rate"] == pytest.approx(seconds_of_a_token("llama-3.2-1b", form, 64), 1e-2)


def test_the_measured_engine_is_the_default(tmp_path: Path) -> None:
    mine = load_profile(calibrated(tmp_path, 0))
    assert next(iter(mine.backends)) == "cpu-llamacpp"
    section = mine.backends["cpu-llamacpp"]
    assert dict(section.gemv)["q4_0"] == pytest.approx(GEMV["q4_0"], rel=0.06)
    assert section.per_layer == pytest.approx(PER_LAYER, rel=0.1)
    assert section.compute == pytest.approx(FLOPS, rel=0.06)
    source = mine.source("backends.cpu-llamacpp.gemv.q4_0")
    assert source is not None
    assert source.kind == "measured"
    assert "bench-q4_0.txt" in source.origin
    assert "2026-03-14" in source.origin
    assert mine.backends["cpu"] == load_profile("snapdragon8").backends["cpu"]
    assert set(yaml.safe_load((tmp_path / "mine.yaml").read_text())) >= {"extends", "first"}


@pytest.mark.slow
def test_rates_come_back_and_intervals_halve_and_hold(tmp_path: Path) -> None:
    seeds, off, held, widths = range(20), [], 0, []
    before = {
        (name, form): rate_of("snapdragon8", form, **options)
        for name, options in RUNS.items()
        for form in BITS
    }
    true = {
        (name, form): rate_of(TRUE, form, **options)["rate"]
        for name, options in RUNS.items()
        for form in BITS
    }
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        mine = calibrated(folder, seed)
        holds = []
        for (name, form), rate in true.items():
            after = rate_of(mine, form, **RUNS[name])
            off.append(abs(after["rate"] / rate - 1))
            holds.append(after["low"] <= rate <= after["high"])
            if name != STREAMED:  # no benchmark tells how far off the rules of streaming are
                old = before[name, form]
                width = math.log(after["high"] / after["low"])
                widths.append(width / math.log(old["high"] / old["low"]))
        held += all(holds)
    assert max(off) <= 0.05
    assert held >= 18
    assert max(widths) <= 0.5
