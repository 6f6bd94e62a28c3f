"""Families without a row: geometry of what transformers builds without weights."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dipsim.errors import ModelError  # noqa: E402
from dipsim.lm.built import geometry_of_config  # noqa: E402
from dipsim.model import Model, hf_config, load_model  # noqa: E402
from dipsim.model.families import FAMILIES, geometry_of  # noqa: E402
from tools.cli import invoke  # noqa: E402
from tools.configs import PUBLISHED, VARIANTS  # noqa: E402
from tools.meta_models import build  # noqa: E402

CONFIGS = {**PUBLISHED, **VARIANTS}
POSITIONS = 4096
UNKNOWN: dict[str, Any] = {
    "model_type": "biogpt",
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": POSITIONS,
}
"""A family of transformers that the table of families does not have."""


def built(values: dict[str, Any]) -> Model:
    return load_model(geometry_of_config(values, "it", "it"))


def written(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


SAME = ("llama-3.2-1b", "gpt-oss-20b", "deepseek-v2-lite", "qwen3-next-80b", "lfm2-1.2b")
SAME += ("jamba-mini", "llama-4-scout", "nemotron-nano-9b-v2", "mamba2-2.7b", "gemma-3-1b")
SAME += ("glm-4.5-air", "kimi-linear", "falcon-h1-0.5b", "sparse step", "mimo", "opt-350m")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if i > 2 else []) for i, name in enumerate(SAME)],
)
def test_what_is_built_is_what_the_table_says(name: str) -> None:
    values = CONFIGS[name]
    model, known = built(values), load_model(geometry_of(values, "it", "it"))
    assert model.parameters == known.parameters
    assert model.active_parameters == pytest.approx(known.active_parameters, rel=1e-3)
    assert model.kv_bytes(POSITIONS, 16) == pytest.approx(known.kv_bytes(POSITIONS, 16))
    assert list(model.layer_windows) == list(known.layer_windows)
    for signal in ("expert", "glu"):
        assert list(model.layer_units(signal)) == list(known.layer_units(signal))


def test_a_family_without_a_row_is_built(tmp_path: Path) -> None:
    assert UNKNOWN["model_type"] not in FAMILIES
    path = written(tmp_path, UNKNOWN)
    assert load_model(path).parameters == build(UNKNOWN, POSITIONS).parameters
    assert load_model(tmp_path).intermediate == 128
    done = invoke("models", path)
    assert done.exit_code == 0, done


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "martian"}, "neither dipsim nor the installed transformers knows it"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000: at most 256 are built"),
        ({"num_hidden_layers": "three"}, "transformers builds no biogpt of it"),
        ({"hidden_size": 65}, "transformers builds no biogpt of it"),
        ({"hidden_size": 2**40, "intermediate_size": 2**40}, "transformers builds no biogpt"),
        ({"num_hidden_layers": 0}, "are not found"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as problem:
        load_model(written(tmp_path, {**UNKNOWN, **change}))
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)


def test_no_code_of_a_config_runs(tmp_path: Path) -> None:
    (tmp_path / "modeling.py").write_text("raise SystemExit('it ran')")
    code = {"AutoConfig": "modeling.C", "AutoModelForCausalLM": "modeling.M"}
    load_model(written(tmp_path, {**UNKNOWN, "auto_map": code}))
    path = written(tmp_path, {**UNKNOWN, "model_type": "martian", "auto_map": code})
    with pytest.raises(ModelError, match="neither dipsim nor"):
        load_model(path)


def test_without_transformers_there_is_a_way(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(hf_config, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"'biogpt' is not known: pip install 'dipsim\[torch\]'"):
        load_model(written(tmp_path, UNKNOWN))
    assert load_model(written(tmp_path, PUBLISHED["llama-3.2-1b"])).layers == 16
