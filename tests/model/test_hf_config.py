"""Hugging Face's `config.json`: what every architecture calls its geometry."""

import json
from pathlib import Path
from typing import Any

import pytest

from dipsim.errors import ModelError
from dipsim.model import hf_config, load_model
from tools.hostile import read_or_refused

PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


@pytest.fixture(autouse=True)
def _nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take transformers for not installed, so that no test waits for it."""
    monkeypatch.setattr(hf_config, "find_spec", lambda name: None)


def saved(tmp_path: Path, **change: Any) -> Path:
    config = {key: value for key, value in {**PLAIN, **change}.items() if value != "-"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return path


def test_a_config_is_a_model(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path))
    assert model.model_dump(exclude={"name"}, exclude_defaults=True) == {
        "layers": 4,
        "hidden": 64,
        "intermediate": 128,
        "heads": 8,
        "kv_heads": 2,
        "head_dim": 8,
        "vocab": 500,
        "tied_embeddings": True,
        "context": 2048,
    }
    assert load_model(tmp_path) == model  # the folder it lies in


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_key_value_heads": "-"}, {"kv_heads": 8}),
        ({"head_dim": 32}, {"head_dim": 32}),
        ({"head_dim": None}, {"head_dim": 8}),
        ({"model_type": "mistral", "sliding_window": 16}, {"window": 16, "window_every": 1}),
        ({"model_type": "mistral", "sliding_window": None}, {"window": None}),
        ({"sliding_window": 16}, {"window": None}),
        ({"model_type": "qwen2", "sliding_window": 16}, {"window": None}),
        (
            {
                "model_type": "qwen2",
                "sliding_window": 16,
                "use_sliding_window": True,
                "max_window_layers": 0,
            },
            {"window": 16},
        ),
        ({"model_type": "phi3", "sliding_window": 2047}, {"window": 2047}),
        (
            {
                "model_type": "gemma2",
                "sliding_window": 16,
                "hidden_activation": "gelu",
                "tie_word_embeddings": "-",
            },
            {
                "window": 16,
                "pattern": ("main", "full"),
                "tied_embeddings": True,
                "activation": "gelu",
            },
        ),
        (
            {"model_type": "opt", "ffn_dim": 99, "activation_function": "relu"},
            {"intermediate": 99, "gated": False, "activation": "relu"},
        ),
        (
            {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2},
            {"experts": 8, "experts_per_token": 2, "intermediate": 128},
        ),
        (
            {
                "model_type": "qwen2_moe",
                "num_experts": 8,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "shared_expert_intermediate_size": 48,
            },
            {"experts": 8, "intermediate": 32, "shared_intermediate": 48},
        ),
        (
            {
                "model_type": "qwen3_moe",
                "num_experts": 8,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
            },
            {"experts": 8, "intermediate": 32},
        ),
        (
            {"model_type": "olmoe", "num_experts": 8, "num_experts_per_tok": 2},
            {"experts": 8, "intermediate": 128},
        ),
    ],
)
def test_what_architectures_differ_in(
    change: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    model = load_model(saved(tmp_path, **change))
    assert {key: getattr(model, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "martian"}, "'martian' is not known: pip install 'dipsim[torch]'"),
        ({"model_type": "-"}, "is not known: pip install"),
        ({"model_type": ["llama"]}, "is not known: pip install"),
        ({"num_hidden_layers": 10**30}, "layers"),
        ({"num_hidden_layers": "4"}, "layers"),
        ({"hidden_size": -1}, "hidden"),
        ({"intermediate_size": "-"}, "intermediate_size is missing"),
        ({"num_attention_heads": [8]}, "heads"),
        ({"vocab_size": 1e400}, "vocab"),
        ({"model_type": "deepseek_v2", "n_routed_experts": 8}, "num_experts_per_tok is missing"),
    ],
)
def test_other_configs_are_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as problem:
        load_model(saved(tmp_path, **change))
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)


def test_damaged_configs_are_refused_or_read(tmp_path: Path) -> None:
    data = saved(tmp_path).read_bytes()
    assert 0 < read_or_refused(load_model, tmp_path / "config.json", data, 1000) < 1000
