"""Can what is recorded of any family be run, and does its geometry count the model's weights?"""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dipsim import lm  # noqa: E402
from dipsim.lm.geometry import geometry_of  # noqa: E402
from dipsim.lm.structure import find_structure  # noqa: E402
from dipsim.model import load_model  # noqa: E402
from dipsim.model.families import FAMILIES  # noqa: E402
from dipsim.simulate import simulate  # noqa: E402
from tools.cli import invoke  # noqa: E402
from tools.tiny_models import saved, tiny  # noqa: E402

IDS = torch.arange(3, 23)[None]
GPT2 = {"n_embd": 16, "n_inner": 24, "n_layer": 2, "n_head": 4, "n_positions": 64}
MLA = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
MLA |= {"v_head_dim": 4, "num_key_value_heads": 4}
ROUTED = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
ROUTED |= {"n_shared_experts": 1, "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1}
LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
SOME = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
SHARED = {"shared_expert_intermediate_size": 8}
DENSE: dict[str, dict[str, Any]] = {
    "LlamaConfig": {},
    "MistralConfig": {},
    "GemmaConfig": {"head_dim": 4},
    "Gemma2Config": {"head_dim": 8},
    "Gemma3TextConfig": {"head_dim": 8},
    "Qwen2Config": {},
    "Qwen3Config": {"head_dim": 8},
    "Phi3Config": {},
    "OlmoConfig": {},
    "Olmo2Config": {},
    "GraniteConfig": {},
    "CohereConfig": {},
    "Glm4Config": {"head_dim": 4},
    "SmolLM3Config": {},
    "StableLmConfig": {},
    "HeliumConfig": {"head_dim": 4},
    "ArceeConfig": {},
    "Ernie4_5Config": {"head_dim": 4},
    "FalconConfig": {"ffn_hidden_size": 24},
    "BloomConfig": {"n_layer": 2, "n_head": 4},
    "Starcoder2Config": {},
    "PhiConfig": {"num_key_value_heads": 4},
    "GPTNeoXConfig": {},
    "NemotronConfig": {},
}
POSITIONS: dict[str, dict[str, Any]] = {
    "GPT2Config": GPT2,
    "OPTConfig": {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "BioGptConfig": {},
    "BertConfig": {"is_decoder": True},
}
"""Families with embeddings of positions; two of them have no row in the table of families."""
EXPERTS: dict[str, dict[str, Any]] = {
    "MixtralConfig": LOCAL,
    "GptOssConfig": {**LOCAL, "head_dim": 4},
    "PhimoeConfig": LOCAL,
    "GraniteMoeConfig": LOCAL,
    "MiniMaxM2Config": {**LOCAL, "head_dim": 4},
    "Qwen2MoeConfig": {**SOME, **SHARED},
    "Qwen3MoeConfig": {**SOME, "head_dim": 4},
    "OlmoeConfig": {"num_experts": 8, "num_experts_per_tok": 2},
    "FlexOlmoConfig": {"num_experts": 8, "num_experts_per_tok": 2},
    "Glm4MoeConfig": {**ROUTED, "head_dim": 4},
    "Ernie4_5_MoeConfig": {"moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 8,
                           "moe_layer_start_index": 0, "moe_layer_interval": 1},
    "Qwen3NextConfig": {**SOME, **SHARED, "head_dim": 4, "num_hidden_layers": 4,
                        "linear_num_value_heads": 2, "linear_num_key_heads": 2,
                        "linear_key_head_dim": 4, "linear_value_head_dim": 4},
    "DeepseekV2Config": {**MLA, **ROUTED, "head_dim": 4},
    "DeepseekV3Config": {**MLA, **ROUTED},
}  # fmt: skip
"""Families with eight experts: as many as the probe has tokens."""
APPROXIMATE: set[str] = set()


def model_of(family: str, **more: Any) -> Any:
    known = {**DENSE, **POSITIONS, **EXPERTS}
    if not hasattr(transformers, family):
        pytest.skip(f"this transformers has no {family}")
    return tiny(family, **{**known[family], **more})


def weights(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())


def some(*families: str) -> list[Any]:
    """Return families to test; all but every fifth are slow tests."""
    return [
        pytest.param(family, marks=pytest.mark.slow if number % 5 else [])
        for number, family in enumerate(families)
    ]


@pytest.mark.parametrize("family", some(*DENSE, *POSITIONS, *EXPERTS))
def test_what_is_recorded_runs_and_its_model_has_the_weights(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    path = tmp_path / "t.npz"
    with torch.no_grad(), lm.record(model, path):
        model(IDS)
    result = simulate(path, "snapdragon8", cache_fraction=0.5)
    assert (result.tokens, result.config["model_given"]) == (20, False)
    geometry = load_model(result.config["model"])
    if geometry.approximate is None:
        assert geometry.parameters == pytest.approx(weights(model), rel=0.01)
    assert (geometry.approximate is not None) == (family in APPROXIMATE)
    assert ("approximate-model" in result.marks) == (family in APPROXIMATE)


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        *product(["MixtralConfig", "Qwen3MoeConfig"], ["eager", "sdpa"]),
        ("GptOssConfig", "eager"),  # the only one it has
    ],
)
def test_weights_of_attention_are_no_router(family: str, attention: str) -> None:
    """The probe has eight tokens, and [heads, 8, 8] would do as scores of eight experts."""
    model = model_of(family, attn_implementation=attention)
    arrays = lm.record_arrays(model, IDS)
    assert arrays["expert"].shape == (20, 2, 8)


@pytest.mark.parametrize("family", some(*EXPERTS))
def test_a_router_is_the_one_in_the_mixture(family: str) -> None:
    for layer in find_structure(model_of(family)).layers:
        assert layer.router is not None
        assert (layer.router.experts, layer.router.k) == (8, 2)
        assert "router" in type(layer.router.module).__name__.lower()


def test_a_config_that_disagrees_with_the_weights_is_not_believed() -> None:
    model = model_of("LlamaConfig")
    right = geometry_of(model)
    model.config.intermediate_size = 100
    assert load_model(geometry_of(model) or {}) == load_model(right or {})


@pytest.mark.parametrize("family", ["OPTConfig", "DeepseekV3Config", "Qwen3NextConfig"])
def test_weights_are_counted_one_by_one(family: str) -> None:
    model = model_of(family)
    geometry = load_model(geometry_of(model) or {})
    assert geometry.approximate is None
    assert geometry.parameters == weights(model)


def test_a_family_without_a_row_is_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers builds of the same config has the same weights and keeps the same."""
    model = model_of("DeepseekV3Config")
    known = load_model(geometry_of(model) or {})
    monkeypatch.delitem(FAMILIES, "deepseek_v3")
    built = load_model(geometry_of(model) or {})
    assert built.parameters == known.parameters == weights(model)
    assert built.active_parameters == known.active_parameters
    assert built.kv_bytes(100, 16) == known.kv_bytes(100, 16) == 2 * 100 * (8 + 4) * 2
    assert list(built.layer_units("expert")) == list(known.layer_units("expert")) == [8, 8]


def test_what_a_geometry_cannot_express_is_said() -> None:
    model = model_of("DeepseekV3Config")
    model.config.moe_intermediate_size = 100  # it disagrees with the weights
    latent = geometry_of(model)
    assert latent is not None
    assert "not of their latent vectors" in latent["approximate"]


def test_the_command_records_what_run_takes(tmp_path: Path) -> None:
    folder = saved(model_of("GemmaConfig"), tmp_path / "m")
    out = tmp_path / "t.npz"
    done = invoke("record", folder, out, "--prompt", "w5 w6 w7", "--generate", "8")
    assert done.exit_code == 0, done
    assert "names no model" not in done.stderr
    assert simulate(out, "snapdragon8", cache_fraction=0.5).tokens == 8
    folder = saved(model_of("OPTConfig"), tmp_path / "opt")
    done = invoke("record", folder, out, "--prompt", "w5 w6 w7", "--generate", "8")
    assert "approximate" not in done.stderr
    assert simulate(out, "snapdragon8", cache_fraction=0.5).config["resolved"] is not None


def test_a_model_of_the_hub_is_recorded_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dipsim.errors import ModelError

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "abc"
    saved(model_of("LlamaConfig"), snapshot)
    loaded = lm.load("org/tiny")
    assert loaded.name == "org/tiny"
    assert loaded.geometry is not None
    assert loaded.geometry["name"] == "org/tiny"
    assert loaded.tokenizer("w5").input_ids == [5]
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors in .*: run hf download org/tiny"):
        lm.load("org/tiny")
    with pytest.raises(ModelError, match=r"not in the Hugging Face cache .*hf download org/none"):
        lm.load("org/none")
    with pytest.raises(ModelError, match="a preset has sizes alone"):
        lm.load("llama-3-8b")
