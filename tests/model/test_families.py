"""Geometry of families, held against the models that transformers builds without weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.errors import ModelError
from dipsim.model import Model, load_model
from dipsim.model.families import FAMILIES, geometry_of
from tools.configs import PUBLISHED, VARIANTS, config
from tools.meta_models import build
from tools.paths import ROOT

POSITIONS = 32_768
CONFIGS = {**PUBLISHED, **VARIANTS}
QUICK = ("gpt-oss-20b", "qwen3-next-80b", "gemma4 shared")
NOT_CACHED = {
    # A state that modules keep beside the cache: 18 layers of 3 x 2560 in 16 and 2560 in 32 bits
    "recurrentgemma-2b": 18 * (3 * 2560 * 2 + 2560 * 4),
    # Keys of 8 heads are repeated for 128 queries before they are cached
    "falcon-40b": -60 * 2 * (128 - 8) * 64 * 2 * POSITIONS,
}
"""Bytes that a model keeps and its cache does not show."""
OWN_CACHE = ("minimax-text-01",)
"""Models that take no cache but their own."""


def read(values: Mapping[str, Any], name: str = "it") -> Model:
    return load_model(geometry_of(values, name, name))


def check(name: str) -> None:
    """Hold the geometry of a config against the model of transformers."""
    pytest.importorskip("transformers")
    model, built = read(CONFIGS[name], name), build(CONFIGS[name], POSITIONS)
    assert model.parameters == built.parameters
    if name in OWN_CACHE:
        assert built.cached is None
        return
    assert built.cached is not None
    kept = built.cached + NOT_CACHED.get(name, 0)
    assert round(float(model.kv_bytes(POSITIONS, 16))) == kept


@pytest.mark.parametrize("name", QUICK)
def test_some_have_the_weights_and_the_cache_of_transformers(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in QUICK])
def test_all_have_the_weights_and_the_cache_of_transformers(name: str) -> None:
    check(name)


def test_many_configs_of_many_families_are_held_against_them() -> None:
    kinds = {each["model_type"] for each in CONFIGS.values()}
    assert len(CONFIGS) >= 60
    assert len(kinds) >= 50


LEFT_OUT = {
    "apertus": 64,  # two numbers of an activation per layer
    "bitnet": 284_160,  # norms inside attention and MLP
    "diffllama": 4096,  # four vectors of a head per layer
    "doge": 327_936,  # a projection of 8 outputs, vectors beside the residual
    "nanochat": -768,  # it has no last norm
    "olmo": -4096,
    "longcat_flash": 180_388_626_432,  # gates of experts that do nothing
}
"""Weights of a class's own model that its geometry does not have; below .1 % but for the last,
whose published weights do not have them either."""
NO_MODEL = ("deepseek_v2", "dbrx", "hunyuan_v1_dense", "hunyuan_v1_moe", "nemotron", "ministral")
NO_MODEL += ("dots1", "lfm2_moe", "qwen2_vl", "qwen2_5_vl")
"""Families whose config classes do not make a model by themselves."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_the_models_of_config_classes(kind: str) -> None:
    """Every key that a config leaves out is what its class makes of it."""
    transformers = pytest.importorskip("transformers")
    if kind not in transformers.CONFIG_MAPPING or kind in NO_MODEL:
        pytest.skip("transformers builds no model of nothing but its type")
    known = transformers.CONFIG_MAPPING[kind]
    try:
        built = build({"model_type": kind}, POSITIONS)
    except ValueError as problem:
        pytest.skip(str(problem)[:80])
    names = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "hidden_size", "d_model")
    names += ("n_embd", "intermediate_size", "ffn_dim", "ffn_hidden_size", "layers_block_type")
    sizes = {key: getattr(known, key, None) for key in names}
    if kind == "nemotron_h":
        sizes["layers_block_type"] = ["mamba", "moe", "attention", "mlp"]
    given = {key: value for key, value in sizes.items() if isinstance(value, int | list)}
    model = read({"model_type": kind, **given})
    assert model.parameters + LEFT_OUT.get(kind, 0) == built.parameters
    assert kind == "longcat_flash" or abs(LEFT_OUT.get(kind, 0)) < 1e-3 * built.parameters
    if built.cached is not None and kind != "recurrent_gemma":
        assert round(float(model.kv_bytes(POSITIONS, 16))) == built.cached


def saved(folder: Path, values: Mapping[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


CASES = ROOT.parent / "shared/cases/cfg"


@pytest.mark.parametrize(
    ("case", "parameters"),
    [
        ("qwen2moe-step2", 8_085_743_616),
        ("opt-350m", 331_196_416),
        ("qwen3-no-head-dim", 596_049_920),
    ],
)
def test_configs_that_leave_much_to_their_class(case: str, parameters: int) -> None:
    if not (CASES / case).is_dir():
        pytest.skip("the cases are not here")
    assert load_model(CASES / case).parameters == parameters


def test_layers_without_experts_are_dense() -> None:
    """Of 24 layers the 12 even ones are dense (as wide as the config says), and those listed."""
    step = read(VARIANTS["sparse step"])
    assert step.parameters == 8_085_743_616
    assert list(step.layer_units("expert")) == [0, 60] * 12
    assert list(step.layer_units("glu")) == [5632, 0] * 12
    listed = read({**VARIANTS["sparse step"], "mlp_only_layers": [3]})
    assert list(listed.layer_units("expert")[:6]) == [0, 60, 0, 0, 0, 60]
    dense, sparse = (sum(layer.mlp_parameters for layer in each.stack) for each in (listed, step))
    one = 3 * 2048 * 1408 * 60 + 60 * 2048 + 3 * 2048 * 5632 - 3 * 2048 * 5632
    assert sparse - dense == one


def test_an_embedding_may_be_narrower_than_the_layers() -> None:
    model = read(PUBLISHED["opt-350m"])
    assert model.embedding_dim == 512
    assert model.parameters == 331_196_416
    wide = read({**PUBLISHED["opt-350m"], "word_embed_proj_dim": 1024})
    projections, rows = 2 * 512 * 1024, 50272 * (1024 - 512)
    assert wide.parameters == model.parameters - projections + rows


def test_a_key_that_is_left_out_is_that_of_the_class() -> None:
    model = read(VARIANTS["no head_dim"])
    assert (model.head_dim, model.parameters) == (128, 596_049_920)
    assert read({**VARIANTS["no head_dim"], "head_dim": None}).head_dim == 64  # null is given
    small = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240}
    inner = {**small, "num_hidden_layers": 34, "sliding_window": 1024}
    vision = {"model_type": "gemma3", "text_config": inner, "vision_config": {"hidden_size": 1}}
    model = read(vision)
    assert (model.heads, model.kv_heads, model.head_dim, model.vocab) == (8, 4, 256, 262208)
    assert model.sources["left out"] == "vision_config"


def test_the_page_lists_every_family() -> None:
    page = (ROOT / "docs/models.md").read_text().partition("### Families")[2]
    rows = [line for line in page.partition("Parameters are")[0].splitlines() if line[:1] == "|"]
    listed = [name for row in rows[2:] for name in row.split("|")[2].strip().split(", ")]
    assert sorted(listed) == sorted(FAMILIES)
    assert f"[{len(FAMILIES)} families](#families)" in (ROOT / "docs/models.md").read_text()


# What layers keep --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "windows"),
    [
        ({"model_type": "gemma2"}, [4, 0, 4, 0, 4, 0]),
        ({"model_type": "gemma3_text"}, [4, 4, 4, 4, 4, 0]),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 3}, [4, 4, 0, 4, 4, 0]),
        ({"model_type": "exaone4", "sliding_window_pattern": "LLG"}, [4, 4, 0, 4, 4, 0]),
        ({"model_type": "cwm"}, [0, 4, 4, 4, 0, 4]),
        ({"model_type": "mistral"}, [4] * 6),
        ({"model_type": "mistral", "sliding_window": None}, [0] * 6),
        ({"model_type": "llama"}, [0] * 6),
        ({"model_type": "qwen2"}, [0] * 6),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 4},
            [0] * 4 + [4] * 2,
        ),
        ({"model_type": "olmo3", "layer_types": ["sliding_attention"] * 6}, [4] * 6),
        ({"model_type": "mimo_v2_flash", "hybrid_layer_pattern": [0, 1, 1, 0, 1, 1]},
         [0, 4, 4, 0, 4, 4]),
        ({"model_type": "afmoe", "global_attn_every_n_layers": 2}, [4, 0] * 3),
    ],
)  # fmt: skip
def test_windows(values: dict[str, Any], windows: list[int]) -> None:
    sizes = config("", 6, 64, 128, 4, num_key_value_heads=2, head_dim=16, vocab_size=100)
    model = read({**sizes, "sliding_window": 4, **values})
    expected = [each or np.inf for each in windows]
    assert list(model.layer_windows) == expected


def test_a_linear_layer_keeps_a_state_and_no_positions() -> None:
    """MiniMax-Text-01: 70 layers of 64 states of 128 x 128, 10 of 8 heads of 128."""
    model = read(PUBLISHED["minimax-text-01"])
    state, keys = 70 * 64 * 128 * 128 * 2, 10 * 2 * 8 * 128 * 2
    for positions in (1, POSITIONS):
        assert float(model.kv_bytes(positions, 16)) == state + keys * positions
    assert float(model.kv_bytes(POSITIONS, 8)) == state + keys * POSITIONS / 2


def test_blocks_of_one_thing_each() -> None:
    """Nemotron-H: ``M`` a state, ``*`` attention, ``-`` an MLP, ``E`` experts."""
    model = read(config("nemotron_h", 4, 64, 128, 4, num_key_value_heads=2, head_dim=16,
                        hybrid_override_pattern="M-*E", mamba_num_heads=4, mamba_head_dim=16,
                        n_groups=1, ssm_state_size=8, vocab_size=100))  # fmt: skip
    assert [layer.mixer for layer in model.stack] == ["state", "none", "full", "none"]
    assert [layer.intermediate for layer in model.stack] == [0, 128, 0, 7688]
    assert list(model.layer_units("expert")) == [0, 0, 0, 8]
    width, channels = 4 * 16, 4 * 16 + 2 * 8
    assert model.stack[0].mixer_parameters == (
        64 * (width + channels + 4) + channels * 4 + channels + 3 * 4 + width + width * 64
    )
    assert float(model.kv_bytes(10, 16)) == (channels * 4 * 2 + width * 8 * 4 + 10 * 2 * 2 * 16 * 2)


def test_layers_of_one_kind_are_one_kind() -> None:
    model = read(PUBLISHED["deepseek-v3"])
    assert set(model.kinds) == {"dense"}
    assert model.pattern == ("dense",) * 3 + ("main",) * 58
    assert model.sources["left out"] == "blocks that predict further tokens"
    assert read(PUBLISHED["gpt-oss-20b"]).pattern == ("main", "full")


# Storage -----------------------------------------------------------------------------------------

SMALL = config("llama", 2, 256, 512, 4, vocab_size=1000)


@pytest.mark.parametrize(
    ("stored", "mlp", "head"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 128**2, 16),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4 + (16 + 4) / 128, 16),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True},
         4 + 20 / 128, 4 + 20 / 128),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": False},
         4 + 16 / 64, 16),
        ({"load_in_4bit": True}, 4.5, 16),
        ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
         4 + 8 / 64 + 32 / (64 * 256), 16),
        ({"quant_method": "mxfp4"}, 4.25, 16),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {
            "num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": True}}}},
         4.5, 16),
    ],
)  # fmt: skip
def test_stored_weights(stored: dict[str, Any], mlp: float, head: float) -> None:
    model = read({**SMALL, "quantization_config": stored})
    assert 8 * model.mlp_bytes / (3 * 256 * 512) == pytest.approx(mlp)
    assert 8 * model.head_bytes / (256 * 1000) == pytest.approx(head)
    assert model.approximate is None


def test_modules_that_are_left_whole_are() -> None:
    whole = ["model.layers.*.self_attn", "lm_head"]
    stored = {"quant_method": "mxfp4", "modules_to_not_convert": whole}
    model = read({**PUBLISHED["gpt-oss-20b"], "quantization_config": stored})
    assert 8 * model.attention_bytes / model.mixer_parameters == 16
    assert 8 * model.mlp_bytes / (3 * 2880 * 2880) == 4.25


@pytest.mark.parametrize(
    "stored",
    [
        {"quant_method": "of the day"},
        {"quant_method": "gptq", "bits": "4"},
        {"quant_method": "gptq", "bits": 10**9},
        {"quant_method": "fp8", "weight_block_size": [0, 10**30]},
        {"quant_method": "compressed-tensors", "config_groups": [1]},
    ],
)
def test_storage_that_is_not_understood_is_said(stored: dict[str, Any]) -> None:
    model = read({**SMALL, "quantization_config": stored})
    assert "stores weights is not known" in str(model.approximate)


# Hostile configs ---------------------------------------------------------------------------------


def refusal(values: Mapping[str, Any]) -> str | None:
    """Return what is said where a config is refused; None where it is read."""
    try:
        read(values)
    except ModelError as problem:
        return str(problem)
    return None


LISTS = ("layer_types", "mlp_layer_types", "mlp_only_layers", "moe_layer_freq", "moe_layers")


@pytest.mark.parametrize("kind", ["qwen3_moe", "gemma3n_text", "nemotron_h", "deepseek_v3"])
@pytest.mark.parametrize("given", [10**6 * ["full_attention"], [[]] * 3, "M" * 10**6, {}, -1])
@pytest.mark.parametrize("key", LISTS)
def test_lists_of_layers_are_refused_or_read(kind: str, key: str, given: object) -> None:
    values = {**config(kind, 4, 64, 128, 4, num_key_value_heads=2, head_dim=16), key: given}
    said = refusal(values) or ""
    assert len(said) < 400
    assert "\n" not in said


@pytest.mark.parametrize("name", ["deepseek-v3", "zamba2-2.7b", "gemma-3n-e2b", "jamba-mini"])
def test_numbers_that_are_none_are_refused_or_read(name: str) -> None:
    """Whatever stands in place of each number, there is a model or one line."""
    refused = 0
    for key in PUBLISHED[name]:
        for wrong in (-1, 0, 10**30, 2**26, 1.5, "4", True, [], [10**9], {"a": 1}):
            said = refusal({**PUBLISHED[name], key: wrong})
            refused += said is not None
            assert len(said or "") < 400
            assert "\n" not in (said or "")
    assert refused > 50


def test_layers_that_all_differ_are_believed_to_a_number() -> None:
    sizes = config("qwen3", 65_536, 64, list(range(1, 65_537)), 4, num_key_value_heads=2)
    assert refusal(sizes) == "it: more than 512 kinds of layers"
    some = config("qwen3", 300, 64, list(range(1, 301)), 4, num_key_value_heads=2)
    widths = [layer.intermediate for layer in read(some).stack]
    assert widths == list(range(1, 301))


def test_configs_inside_configs_end() -> None:
    deep: dict[str, Any] = {}
    for _ in range(1000):
        deep = {"text_config": deep}
    with pytest.raises(ModelError, match="is not known"):
        read(deep)
