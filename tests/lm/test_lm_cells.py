"""Cells of sweeps that judge a model in closed loop: figures of `dipsim eval`, adapters, bits."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tools.paths import NEEDS_TORCH

pytest.importorskip("torch", reason=NEEDS_TORCH)
pytest.importorskip("transformers", reason=NEEDS_TORCH)
pytest.importorskip("peft", reason=NEEDS_TORCH)

import dipsim
from dipsim.errors import DipsimError
from dipsim.hardware import load_profile
from dipsim.lm.evaluate import evaluate
from dipsim.lm.load import load
from dipsim.lm.text import judged_apart, read_ids
from tools.cli import Dipsim
from tools.tiny_models import saved, tiny

WINDOW, TOKENS, CALIBRATE = 16, 64, "64:96"
SWEEP: dict[str, Any] = {
    "name": "judged",
    "profile": "paper-a18",
    "window": WINDOW,
    "text_tokens": TOKENS,
    "calibrate_tokens": CALIBRATE,
    "cache_fraction": 0.5,
    "method": ["dense", "dip", "dip-ca", "cats", "gate"],
    "density": [0.5, 0.8],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    saved(tiny(initializer_range=0.3), path)
    words = np.random.default_rng(0).integers(3, 64, 400)
    (path.parent / "text.txt").write_text(" ".join(f"w{at}" for at in words))
    return path


def sweep(folder: Path, store: Path, **changes: Any) -> dipsim.SweepResult:
    given = {"model": str(folder), "text": str(folder.parent / "text.txt"), **SWEEP, **changes}
    return dipsim.sweep({key: value for key, value in given.items() if value is not None}, store)


def test_a_cell_is_a_row_of_eval(folder: Path, tmp_path: Path) -> None:
    found = sweep(folder, tmp_path / "s.db")
    loaded = load(folder)
    ids = read_ids(folder.parent / "text.txt", loaded.tokenizer)
    windows, calibrate = judged_apart(ids, WINDOW, TOKENS, CALIBRATE)
    names = ("density", "cache_fraction")
    asked = [
        (
            cell.options["method"],
            {name: cell.options[name] for name in names if name in cell.options},
        )
        for cell in found.cells
    ]
    rows = evaluate(
        loaded, windows, asked, profile=load_profile("paper-a18"), calibrate=calibrate
    ).rows[1:]
    assert len(rows) == len(found.cells) == 9
    for row, cell in zip(rows, found.cells, strict=True):
        assert (cell.why, row.why) == (None, None)
        assert cell.figures is not None
        for name in ("perplexity", "loss", "hit_rate", "tokens_per_second"):
            assert cell.figures[name] == row.value(name)
        assert "open-loop" not in cell.marks
    assert sweep(folder, tmp_path / "s.db").known == 9


def test_another_text_or_model_is_another_cell(folder: Path, tmp_path: Path) -> None:
    few = {"method": "dip", "density": 0.5, "calibrate_tokens": None}
    store = tmp_path / "s.db"
    sweep(folder, store, **few)
    other = tmp_path / "other.txt"
    other.write_text((folder.parent / "text.txt").read_text() + " w5")
    assert sweep(folder, store, **few, text=str(other)).known == 0
    same = tmp_path / "same.txt"
    same.write_text((folder.parent / "text.txt").read_text())
    assert sweep(folder, store, **few, text=str(same)).known == 1
    moved = tmp_path / "moved"
    saved(tiny(seed=1, initializer_range=0.3), moved)
    assert sweep(moved, store, **few, text=str(same)).known == 0


def test_adapters_are_trained_and_bits_rounded(folder: Path, tmp_path: Path) -> None:
    few = {"method": ["dense", "dip"], "density": 0.5, "calibrate_tokens": None}
    found = sweep(folder, tmp_path / "s.db", **few, lora_steps=[None, 2])
    assert [cell.place.get("lora_steps") for cell in found.cells] == [None, None, 2]
    plain, trained = (cell.figures["perplexity"] for cell in found.cells[1:] if cell.figures)
    assert plain != trained
    again = sweep(folder, tmp_path / "again.db", **few, lora_steps=[None, 2])
    assert [cell.figures for cell in again.cells] == [cell.figures for cell in found.cells]
    rounded = sweep(folder, tmp_path / "s.db", **few, requantise=["8:8", "2:8"])
    eight, two = (
        cell.figures["perplexity"]
        for cell in rounded.cells
        if cell.figures and cell.place["method"] == "dense"
    )
    dense = found.cells[0].figures
    assert dense is not None
    assert abs(eight - dense["perplexity"]) < abs(two - dense["perplexity"])


def test_what_one_cell_cannot_do_is_its_reason(folder: Path, tmp_path: Path) -> None:
    given = {"method": ["glu", "dip"], "density": [0.5, 0.8], "calibrate_tokens": None}
    found = sweep(folder, tmp_path / "s.db", **given)
    why = [cell.why for cell in found.cells]
    assert why[1:] == [None, None, None]
    assert "cannot reach density 0.5" in str(why[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trace": "t.npz"}, "a cell has one of them"),
        ({"model": None}, "text without a model"),
        ({"tokens": "0:8"}, "tokens is for a replay"),
        ({"window": 0}, "window 0"),
        ({"text_tokens": 2.5}, "text_tokens 2.5"),
        ({"text": None}, "add text"),
        ({"text": "missing.txt"}, "missing.txt: cannot be read"),
    ],
)
def test_bad_keys_are_one_line(
    folder: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DipsimError, match=said) as raised:
        sweep(folder, tmp_path / "s.db", **changes)
    assert "\n" not in str(raised.value)


def test_eval_takes_the_text_that_every_machine_has(folder: Path, dipsim: Dipsim) -> None:
    line = f"eval {folder} --text python-reference --tokens 32 --window 16 --method dense"
    outcome = dipsim(f"{line} --json")
    assert (outcome.code, outcome.json["tokens"]) == (0, 32)
