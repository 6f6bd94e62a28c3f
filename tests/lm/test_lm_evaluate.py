"""Does `dipsim eval` judge what it says, and what follows from rows follow?"""

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.paths import NEEDS_TORCH

pytest.importorskip("torch", reason=NEEDS_TORCH)
pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim import lm
from dipsim.analysis.calibration import load_calibration
from dipsim.analysis.evaluate import (
    Evaluation,
    best_rates,
    calibration_of,
    frontier,
    grid,
    judged,
)
from dipsim.errors import DipsimError
from dipsim.hardware import load_profile
from dipsim.lm.text import judged_apart
from dipsim.sweep.point import Cell
from tools.cli import Dipsim
from tools.paths import DOCS
from tools.tiny_models import saved, tiny


def row(method: str, perplexity: float | None, rate: float | None, **more: Any) -> Cell:
    return judged(method, more, perplexity=perplexity, tokens_per_second=rate)


# What follows from rows


def test_a_grid_takes_what_means_something_to_a_method() -> None:
    axes = {"density": [0.5, 0.7], "gamma": [{"*": 0.2}], "split": ["equal"], "policy": []}
    assert grid(["dense", "gate", "dip-ca"], axes) == [
        ("dense", {}),
        ("gate", {"density": 0.5}),
        ("gate", {"density": 0.7}),
        ("dip-ca", {"density": 0.5, "gamma": {"*": 0.2}, "split": "equal"}),
        ("dip-ca", {"density": 0.7, "gamma": {"*": 0.2}, "split": "equal"}),
    ]
    assert grid(["dip", "dip"], {"density": [0.5]}) == [("dip", {"density": 0.5})]


def test_an_axis_that_no_method_has_is_refused() -> None:
    with pytest.raises(DipsimError, match="--top-k is for moe, none of which is judged"):
        grid(["dip"], {"top_k": [2]})
    assert grid(["dip"], {"top_k": []}) == [("dip", {})]


def test_the_frontier_is_what_no_row_beats() -> None:
    rows = [
        row("dense", 10.0, None),
        row("a", 12.0, 50.0),
        row("b", 11.0, 40.0),
        row("c", 12.5, 45.0),  # a is faster and better
        row("d", 11.0, 40.0),  # as b: said once
        row("e", None, None),
        row("f", 14.0, 90.0),
    ]
    assert frontier(rows) == [6, 1, 2]


def test_rates_are_compared_in_the_same_memory() -> None:
    rows = [
        row("dense", 10.0, None),
        row("dip", 11.0, 40.0, dram="70%"),
        row("dip", 11.0, 90.0, dram="80%"),
        row("gate", 10.5, 30.0, dram="70%"),
        row("gate", 11.5, 80.0, dram="80%"),
    ]
    assert frontier(rows) == [1, 3, 2]
    best = best_rates(rows, 10.0, [1.0])
    rates = {
        memory: {method: at[1.0].rate for method, at in methods.items() if at[1.0]}
        for memory, methods in best.items()
    }
    assert rates == {"dram 70%": {"dip": 40.0, "gate": 30.0}, "dram 80%": {"dip": 90.0}}


def test_best_rates_at_a_loss() -> None:
    rows = [
        row("dense", 10.0, None),
        row("dip", 10.05, 20.0),
        row("dip", 10.2, 30.0),
        row("dip", 11.5, 90.0),
        row("gate", 12.0, 99.0),
    ]
    found = best_rates(rows, 10.0)[""]
    assert list(found) == ["dip"]
    rates = {loss: at and at.rate for loss, at in found["dip"].items()}
    assert rates == {0.1: 20.0, 0.2: 30.0, 0.5: 30.0, 1.0: 30.0}
    assert best_rates(rows, 10.0, [0.01]) == {}


def test_a_calibration_is_read_back(tmp_path: Path) -> None:
    kept = {"mlp_input": 0.99, "glu": 0.98}
    rows = (row("dense", 10.0, None), judged("dip", {}, perplexity=11.0, energy_kept=kept))
    found = Evaluation("m", 100, 10, None, rows)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(calibration_of(found)))
    read = load_calibration(str(path))
    assert read.bounds("dip", kept) == (11.0, 11.0)
    with pytest.raises(DipsimError, match="nothing was pruned"):
        calibration_of(replace(found, rows=rows[:1]))


# With a model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = saved(tiny(), tmp_path_factory.mktemp("model"))
    words = np.random.default_rng(0).integers(3, 64, 400)
    (where / "text.txt").write_text(" ".join(f"w{at}" for at in words))
    return where


def test_eval_judges_a_grid(folder: Path, tmp_path: Path, dipsim: Dipsim) -> None:
    out, calibration, sheet = (tmp_path / name for name in ("e.png", "c.json", "e.csv"))
    command = ["eval", folder, "--text", folder / "text.txt", "--window", 16, "--tokens", 64]
    command += ["--method", "dip-ca", "--method", "glu", "--density", 0.5, "--density", 0.8]
    command += ["--profile", "paper-a18", "--cache-fraction", 0.5, "--open-loop"]
    command += ["--plot", out, "--calibration", calibration, "--csv", sheet]
    code, shown, said = dipsim(*command, "--json")
    assert code == 0, said
    found = json.loads(shown)
    assert (found["tokens"], found["window"], found["device"]) == (64, 16, "paper-a18")
    methods = [(at["method"], at["settings"].get("density")) for at in found["rows"]]
    assert methods == [
        ("dense", None), ("dip-ca", 0.5), ("dip-ca", 0.8), ("glu", 0.5), ("glu", 0.8),
    ]  # fmt: skip
    dense, low, high, refused, glu = found["rows"]
    assert dense["perplexity"] == found["dense_perplexity"] > 1
    assert refused["perplexity"] is None
    assert "cannot reach density" in refused["reason"]
    assert low["density"] == pytest.approx(0.5, abs=0.03)
    assert high["flash_useful_bytes_per_token"] > low["flash_useful_bytes_per_token"] > 0
    for at in (low, high, glu):
        assert at["open_loop"]["hit_rate"] == pytest.approx(at["hit_rate"], abs=0.05)
        assert at["tokens_per_second"] > 0
    assert set(load_calibration(str(calibration)).methods) == {"dip-ca", "glu"}
    assert out.stat().st_size > 1000
    assert sheet.read_text().count("\n") == 6
    code, shown, said = dipsim(*command)
    assert code == 0
    assert re.search(r"^open loop +hits +closed", shown, re.MULTILINE)
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "cannot reach density 0.5" in " ".join(shown.split())


def test_a_device_says_all_that_its_flash_moves(folder: Path, dipsim: Dipsim) -> None:
    """gate reads all of W_gate; what does not fit in DRAM is streamed, and no unit's miss."""
    command = ["eval", folder, "--text", folder / "text.txt", "--window", 16, "--tokens", 32]
    command += ["--method", "dense", "--method", "gate", "--density", 0.8]
    command += ["--profile", "paper-a18", "--dram", "40%"]
    code, shown, said = dipsim(*command, "--json")
    assert code == 0, said
    _, dense, gate = json.loads(shown)["rows"]
    for at in (dense, gate):
        moved = at["flash_bytes_per_token"]
        assert moved > at["flash_useful_bytes_per_token"] > 0
        assert at["tokens_per_second"] <= 1e9 / moved  # 1 GB/s, and nothing hides behind it
    code, shown, _ = dipsim(*command)
    title, *rest = shown.splitlines()
    assert title.endswith("on paper-a18, dram 40%")
    assert [line.split()[0] for line in rest if line.startswith(("dense ", "gate "))][:2] == [
        "dense", "gate",
    ]  # fmt: skip
    assert "bytes moved a token" in " ".join(shown.split())


def test_a_calibration_serves_the_search(folder: Path, tmp_path: Path, dipsim: Dipsim) -> None:
    """Of the model that the trace names, whatever the model's folder is called."""
    loaded, made, trace = lm.load(folder), tmp_path / "c.json", tmp_path / "t.npz"
    sizes = {**(loaded.geometry or {}), "name": "tiny-7"}
    (tmp_path / "sizes.yaml").write_text(json.dumps(sizes))
    command = ["eval", folder, "--text", folder / "text.txt", "--window", 16, "--tokens", 64]
    command += ["--method", "dip-ca", "--density", 0.5, "--density", 0.8]
    command += ["--geometry", tmp_path / "sizes.yaml", "--calibration", made]
    code, _, said = dipsim(*command)
    assert code == 0, said
    windows = lm.windows_of(lm.read_ids(folder / "text.txt", loaded.tokenizer), 16, 64)
    with lm.record(loaded.model, trace, meta={"model": sizes}):
        lm.perplexity(loaded.model, windows)
    command = ["search", trace, "--profile", "paper-a18", "--cache-fraction", 0.5]
    command += ["--method", "dip-ca", "--max-loss", 1000, "--calibration", made, "--json"]
    code, shown, said = dipsim(*command)
    assert code == 0, said
    assert json.loads(shown)


def test_the_dense_model_is_judged_as_it_is(folder: Path) -> None:
    loaded = lm.load(folder)
    ids = lm.read_ids(folder / "text.txt", loaded.tokenizer)
    windows = lm.windows_of(ids, 16, 64)
    fits = lm.evaluate(loaded, windows, [("dense", {})], profile=load_profile("paper-a18"))
    assert [at.value("tokens_per_second") is None for at in fits.rows] == [True, False]
    found = lm.evaluate(loaded, windows, [("dip", {"density": 1.0}), ("dense", {"policy": "lru"})])
    assert [at.value("perplexity") for at in found.rows] == [
        lm.perplexity(loaded.model, windows).value
    ] * 3
    assert found.rows[1].value("tokens_per_second") is None
    assert "frontier" not in found.to_dict()


def test_thresholds_are_calibrated_on_tokens_that_are_not_judged(folder: Path) -> None:
    loaded = lm.load(folder)
    ids = lm.read_ids(folder / "text.txt", loaded.tokenizer)
    cells = [("cats", {"density": 0.7})]
    windows = ids[:64].reshape(-1, 16)
    with pytest.raises(DipsimError, match="calibrated on tokens that are not judged"):
        lm.evaluate(loaded, windows, cells)
    found = lm.evaluate(
        loaded, windows, cells, calibrate=ids[64:200], profile=load_profile("snapdragon8")
    )
    assert found.rows[1].value("density") == pytest.approx(0.7, abs=0.05)


def test_no_window_goes_across_the_tokens_that_calibrate(folder: Path) -> None:
    loaded = lm.load(folder)
    ids = lm.read_ids(folder / "text.txt", loaded.tokenizer)
    windows, apart = judged_apart(ids, 16, None, "40:100")
    assert apart is not None
    assert apart.tolist() == ids[40:100].tolist()
    parts = [ids[:32], ids[100 : 100 + 300 // 16 * 16]]
    assert windows.tolist() == np.concatenate(parts).reshape(-1, 16).tolist()


@pytest.mark.slow
def test_eval_judges_a_mixture_with_fewer_experts(tmp_path: Path, dipsim: Dipsim) -> None:
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 24}
    where = saved(tiny("MixtralConfig", **experts), tmp_path / "model")
    (where / "text.txt").write_text(" ".join(f"w{at % 61 + 3}" for at in range(64)))
    command = ["eval", where, "--text", where / "text.txt", "--window", 16, "--tokens", 32]
    code, shown, said = dipsim(*command, "--method", "moe", "--top-k", "1,2", "--json")
    assert code == 0, said
    dense, fewer, usual = json.loads(shown)["rows"]
    assert usual["perplexity"] == pytest.approx(dense["perplexity"], rel=1e-6)
    assert fewer["perplexity"] != pytest.approx(dense["perplexity"], rel=1e-6)
    code, _, said = dipsim(*command, "--method", "moe", "--top-k", "3", "--json")
    assert code == 2
    assert "--top-k 3: the model uses 2 experts a token" in " ".join(said)


def test_a_damaged_model_is_refused(folder: Path) -> None:
    loaded = lm.load(folder)
    next(loaded.model.parameters()).data.fill_(np.nan)
    with pytest.raises(DipsimError, match="its loss on this text is nan"):
        lm.evaluate(loaded, np.arange(32).reshape(2, 16), [])


def test_requantise_says_what_it_costs(folder: Path, dipsim: Dipsim) -> None:
    command = ["eval", folder, "--text", folder / "text.txt", "--window", 16, "--tokens", 32]
    code, _, said = dipsim(*command, "--requantise", "4:8")
    assert code == 0
    assert re.search(
        r"4 bits by column, groups of 8: .* goes from [\d.]+ to [\d.]+", " ".join(said)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", 100], "this model reads at most 64 tokens"),
        (["--window", 16, "--tokens", 5], "5 of its 400 tokens are asked for, fewer than a window"),
        (
            ["--window", 16, "--method", "cats", "--calibrate-tokens", "0:390"],
            "less the tokens that",
        ),
        (["--window", 16, "--method", "predictor"], "is calibrated on tokens that are not judged"),
        (["--window", 16, "--policy", "static"], "pins what a trace used most"),
        (["--window", 16, "--method", "moe"], "has no experts: use another"),
        (["--window", 16, "-s", "flash.bandwidth=2GB/s"], "add --profile"),
        (["--window", 16, "--method", "dense", "--calibration", "c.json"], "methods that prune"),
        (["--window", 16, "--requantise", "4"], "write BITS:GROUP"),
        (["--window", 16, "--requantise", "4:7"], "give a group that divides"),
        (["--window", 16, "--dram", "50%"], "add --profile"),
        (["--window", 16, "--dram", "50%", "--cache-fraction", 0.5], "not both"),
        (["--window", 16, "--method", "cats", "--calibrate-tokens", "9:5"], "write A:B within"),
        (["--window", 16, "--calibrate-tokens", "0:5"], "--calibrate-tokens is for cats"),
        (["--window", 16, "--method", "nonsense"], "no method 'nonsense'"),
        (["--window", 16, "--method", "dip", "--method", "moe"], "expert"),
        (["--window", 16, "--method", "glu", "--density", 0.5], "cannot reach density 0.5"),
        (["--window", 16, "--density", 2], "from 0 to 1"),
        (["--window", 16, "--policy", "nonsense"], "nonsense"),
        (["--window", 16, "--policy", "belady"], "must know the future"),
        (["--window", 16, "--split", "foo"], "foo"),
        (["--window", 16, "--gamma", 0.5], "--gamma is for dip-ca, none of which is judged"),
        (["--window", 16, "--gamma", "x"], "write name=number"),
        (["--window", 16, "--profile", "nokia"], "nokia"),
        (["--window", 16, "--calibration", "c.txt"], ".json"),
        (["--window", 16, "--adapter", "none"], "holds no dipsim.json"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path,
    tmp_path: Path,
    dipsim: Dipsim,
    monkeypatch: pytest.MonkeyPatch,
    options: list[object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, shown, said = dipsim("eval", folder, "--text", folder / "text.txt", *options)
    assert (code, shown) == (2, "")
    assert len(said) == 1
    assert message in said[0]


def test_without_the_extra_it_says_what_to_install(
    folder: Path, dipsim: Dipsim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipsim.extras.find_spec", lambda name: None)
    code, _, said = dipsim("eval", folder, "--text", folder / "text.txt")
    assert code == 2
    assert "pip install 'dipsim[torch]'" in said[0]


# The page


def accuracy() -> Any:
    spec = spec_from_file_location("accuracy", DOCS / "tables/accuracy.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_page_are_those_of_the_rows() -> None:
    page = (DOCS / "accuracy.md").read_text()
    module = accuracy()
    assert page == module.filled(page, module.tables(module.load()))


def test_the_text_is_on_this_machine(tmp_path: Path) -> None:
    out = tmp_path / "text.txt"
    subprocess.run([sys.executable, DOCS / "tables/text.py", out], check=True)
    paragraphs = out.read_text().strip().split("\n\n")
    assert len(out.read_text().split()) > 20_000
    assert len(set(paragraphs)) == len(paragraphs)
