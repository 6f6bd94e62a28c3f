"""Is it said when an option replaces bytes or a format that a trace states?"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import simulate
from dipsim.marks import kept, replaced
from dipsim.report.hints import warnings
from tools.cli import Dipsim, done
from tools.paths import shared

LAYERS, EXPERTS = 2, 8
MODEL: dict[str, Any] = {
    "name": "small", "layers": LAYERS, "hidden": 4, "intermediate": 8, "heads": 1, "kv_heads": 1,
    "vocab": 16, "tied_embeddings": True, "experts": EXPERTS, "experts_per_token": 2, "bits": 8,
}  # fmt: skip
EXPERT = 3 * 4 * 8
"""Bytes of an expert of the model, at 8 bits."""
DENSE = LAYERS * (4 * 4 * 4 + EXPERTS * 4)
"""Bytes of its attention and routers, at 8 bits."""


def routes(expert: dict[str, Any], **meta: Any) -> dict[str, Any]:
    """Return a trace of routes whose meta has an entry of `expert`."""
    logits = np.random.default_rng(0).normal(size=(6, LAYERS, EXPERTS)).astype(np.float32)
    signals = {"expert": {"encoding": "logits", **expert}}
    return {"expert": logits, "meta": {"experts_per_token": 2, "signals": signals, **meta}}


def said(trace: dict[str, Any], **options: Any) -> list[str]:
    """Return what a run says it replaced, and hold marks and warnings to it."""
    result = simulate(trace, "paper-a18", cache_fraction=0.5, **options)
    texts = list(replaced(result.run))
    assert ("replaced" in result.to_dict()["marks"]) == bool(texts)
    assert set(texts) <= set(warnings(result))
    assert all("\n" not in text for text in texts)
    return texts


def test_bytes_of_units_that_a_model_replaces() -> None:
    (text,) = said(routes({"unit_bytes": [100, 200]}), model=MODEL)
    assert text.startswith("--model replaces the bytes of a unit of expert that ")
    assert text.endswith(" states, 100 B to 200 B: here 96 B")


def test_bytes_that_are_asked_for() -> None:
    for model in ({}, {"model": MODEL}):
        (text,) = said(routes({"unit_bytes": [100, 200]}), unit_bytes="1kB", **model)
        assert text.startswith("--unit-bytes replaces the bytes of a unit of expert")


def test_bits_replace_what_a_runtime_recorded_and_a_model_alone_does_not() -> None:
    trace = routes({"unit_bytes": [100, 90]}, dense_bytes=50)
    assert said(trace, model=MODEL) == []
    result = simulate(trace, "paper-a18", cache_fraction=0.5, model=MODEL)
    (text,) = kept(result.run)
    assert "experts take 90 B to 100 B, as " in text
    assert text.endswith(" states, not the 96 B of --model: --bits takes the model's")
    assert text in warnings(result)
    units, dense = said(trace, model=MODEL, bits=16)
    assert units.startswith("--bits replaces the bytes of a unit of expert")
    assert units.endswith("90 B to 100 B: here 192 B")
    assert dense.startswith("--bits replaces the weights beside the units")
    assert dense.endswith(f"(dense_bytes), 100 B: here {2 * DENSE} B")
    of_model = simulate(routes({}), "paper-a18", cache_fraction=0.5, model=MODEL, bits=16)
    asked = simulate(trace, "paper-a18", cache_fraction=0.5, model=MODEL, bits=16)
    assert asked.budget.static == of_model.budget.static


def test_weights_beside_the_units_that_a_model_replaces() -> None:
    (text,) = said(routes({}, dense_bytes=50), model=MODEL)
    assert text.startswith("--model replaces the weights beside the units")
    assert said(routes({}, dense_bytes=DENSE / LAYERS), model=MODEL) == []
    (text,) = said(routes({}, dense_bytes=50, model=MODEL))
    assert text.startswith("meta.model replaces")


def test_a_format_that_an_option_replaces() -> None:
    sized = {"unit_bytes": EXPERT}
    trace = routes(sized, dense_bytes=DENSE / LAYERS, weight_format="q4_k")
    (text,) = said(trace, weight_format="q8_0", model=MODEL, bits=8)
    assert text.startswith("--weight-format replaces the weight format that ")
    assert text.endswith(" states, q4_k: here q8_0")
    assert said(trace, weight_format="q4_k", model=MODEL, bits=8) == []
    (text,) = said(trace, model={**MODEL, "weight_format": "q8_0"})
    assert text.startswith("--model replaces the weight format")


@pytest.mark.parametrize("options", [{}, {"model": MODEL}, {"model": MODEL, "bits": 8}])
def test_nothing_is_said_where_all_agree(options: dict[str, Any]) -> None:
    trace = routes({"unit_bytes": EXPERT}, dense_bytes=DENSE / LAYERS, weight_format="q4_k")
    assert said(trace, **options) == []


def test_recorded_experts_of_two_sizes(dipsim: Dipsim, tmp_path: Path) -> None:
    for name in ("f26.py", "f26.route.csv"):
        shutil.copy(shared(f"cases/{name}"), tmp_path)
    subprocess.run([sys.executable, "f26.py"], cwd=tmp_path, check=True)
    trace, model = tmp_path / "f26-out.npz", tmp_path / "f26-out.yaml"
    done(dipsim(f"import {tmp_path / 'f26-out.route.csv'} {trace}"))
    line = f"run {trace} -p paper-a18 --cache 8MB"
    alone, beside = done(dipsim(f"{line} --json")), done(dipsim(f"{line} --model {model} --json"))
    assert alone.json["hits"] == beside.json["hits"]
    (warning,) = [line for line in beside.err if "experts take 1 MB to 1.5 MB, as" in line]
    assert warning.endswith("states, not the 885 kB of --model: --bits takes the model's")
    other = done(dipsim(f"{line} --model {model} --bits 4.5 --json"))
    assert "replaced" in other.json["marks"]
    assert any("--bits replaces the bytes of a unit of expert" in line for line in other.err)
