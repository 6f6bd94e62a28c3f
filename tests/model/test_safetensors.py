"""Safetensors beside a config: bytes and weights are those of the headers; lies are refused."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from dipsim.errors import ModelError
from dipsim.model import load_model
from tools.hostile import read_or_refused

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
SIZES = {"F32": 32, "BF16": 16, "F16": 16, "I32": 32, "U8": 8, "F8_E4M3": 8, "I8": 8}
Tensors = dict[str, tuple[str, tuple[int, ...]]]


def weights(dtype: str = "BF16", *, tied: bool = False) -> Tensors:
    """The tensors of the model."""
    found: Tensors = {"model.embed_tokens.weight": (dtype, (100, 64))}
    for layer in range(2):
        at = f"model.layers.{layer}"
        shapes = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64)}
        found |= {f"{at}.self_attn.{k}_proj.weight": (dtype, s) for k, s in shapes.items()}
        shapes = {"gate": (160, 64), "up": (160, 64), "down": (64, 160)}
        found |= {f"{at}.mlp.{k}_proj.weight": (dtype, s) for k, s in shapes.items()}
        found |= {
            f"{at}.{name}_layernorm.weight": (dtype, (64,)) for name in ("input", "post_attention")
        }
    found["model.norm.weight"] = (dtype, (64,))
    return found if tied else {**found, "lm_head.weight": (dtype, (100, 64))}


def count(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def numbers_of(tensors: Tensors) -> int:
    return sum(count(shape) for _, shape in tensors.values())


def bytes_of(tensors: Tensors) -> int:
    return sum(count(shape) * SIZES[dtype] // 8 for dtype, shape in tensors.values())


def file_of(tensors: Tensors) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = count(shape) * SIZES[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(entries).encode()
    return struct.pack("<Q", len(head)) + head + bytes(at)


def folder(tmp_path: Path, tensors: Tensors, config: dict[str, Any] | None = None) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config or LLAMA))
    (tmp_path / "model.safetensors").write_bytes(file_of(tensors))
    return tmp_path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as problem:
        load_model(path)
    assert "\n" not in str(problem.value)
    return str(problem.value)


@pytest.mark.parametrize(("dtype", "name"), [("BF16", "bf16"), ("F16", "f16"), ("F32", "f32")])
def test_plain_weights(dtype: str, name: str, tmp_path: Path) -> None:
    tensors = weights(dtype)
    for given in (folder(tmp_path, tensors), tmp_path / "config.json"):
        model = load_model(given)
        assert model.parameters == numbers_of(tensors)
        assert model.total_bytes == bytes_of(tensors)
        assert (model.stored_as, model.bits) == (name, SIZES[dtype])
        assert model.approximate is None
    assert load_model(tmp_path / "model.safetensors") == load_model(tmp_path)
    assert load_model(tmp_path, 4).total_bytes < model.total_bytes


def test_a_file_without_a_head_ties_it(tmp_path: Path) -> None:
    tensors = weights(tied=True)
    model = load_model(folder(tmp_path, tensors))
    assert model.tied_embeddings
    assert (model.parameters, model.total_bytes) == (numbers_of(tensors), bytes_of(tensors))


def test_weights_that_the_config_does_not_tell_are_counted(tmp_path: Path) -> None:
    beside: Tensors = {
        "model.layers.0.self_attn.q_proj.bias": ("BF16", (64,)),
        "model.layers.1.self_attn.q_norm.weight": ("F32", (16,)),
        "model.positions.weight": ("F32", (30, 64)),
    }
    tensors = {**weights(), **beside}
    model = load_model(folder(tmp_path, tensors))
    assert model.other_parameters == numbers_of(beside)
    assert model.parameters == numbers_of(tensors)
    assert model.total_bytes == pytest.approx(bytes_of(tensors), rel=1e-12)
    assert model.mlp_bytes == 3 * 64 * 160 * 2


def test_what_decoding_does_not_use_is_left_out(tmp_path: Path) -> None:
    beside: Tensors = {
        "model.vision_tower.layers.0.attn.q_proj.weight": ("BF16", (64, 64)),
        "model.layers.2.eh_proj.weight": ("BF16", (64, 128)),
        "mtp.fc.weight": ("BF16", (64, 128)),
    }
    model = load_model(folder(tmp_path, {**weights(), **beside}))
    assert model.total_bytes == bytes_of(weights())
    assert "41 kB" in model.sources["bytes"]


def packed(bits: int = 4, group: int = 32) -> Tensors:
    """GPTQ: rows of packed words, with scales, zero points and an index of groups."""
    found: Tensors = {}
    for name, (dtype, shape) in weights().items():
        if "proj" not in name:
            found[name] = dtype, shape
            continue
        outputs, inputs = shape
        module = name.removesuffix(".weight")
        found |= {
            f"{module}.qweight": ("I32", (inputs * bits // 32, outputs)),
            f"{module}.qzeros": ("I32", (inputs // group, outputs * bits // 32)),
            f"{module}.scales": ("F16", (inputs // group, outputs)),
            f"{module}.g_idx": ("I32", (inputs,)),
        }
    return found


def test_packed_weights_take_their_scales_too(tmp_path: Path) -> None:
    model = load_model(folder(tmp_path, packed()))
    assert model.parameters == numbers_of(weights())
    assert model.total_bytes == pytest.approx(bytes_of(packed()), rel=1e-12)
    gate = 64 * 160 / 2 + 2 * 160 * 4 / 8 + 2 * 160 * 2 + 64 * 4
    assert model.matrix_bytes("gate") == pytest.approx(gate)
    assert model.head_bytes == 2 * 6400


def test_eight_bit_floats_with_scales_of_blocks(tmp_path: Path) -> None:
    tensors = weights()
    for name in [name for name in tensors if "proj" in name]:
        shape = tensors[name][1]
        tensors[name] = "F8_E4M3", shape
        tensors[f"{name}_scale_inv"] = "F32", (-(-shape[0] // 32), -(-shape[1] // 32))
    model = load_model(folder(tmp_path, tensors))
    assert model.total_bytes == pytest.approx(bytes_of(tensors), rel=1e-12)
    assert model.matrix_bytes("up") == pytest.approx(64 * 160 + 5 * 2 * 4)


def test_stacked_experts_in_mxfp4(tmp_path: Path) -> None:
    config = {
        **LLAMA,
        "model_type": "qwen3_moe",
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    }
    tensors = {name: tensor for name, tensor in weights().items() if ".mlp." not in name}
    for layer in range(2):
        at = f"model.layers.{layer}.mlp"
        tensors |= {
            f"model.layers.{layer}.self_attn.q_norm.weight": ("BF16", (16,)),
            f"model.layers.{layer}.self_attn.k_norm.weight": ("BF16", (16,)),
            f"{at}.gate.weight": ("BF16", (4, 64)),
            f"{at}.experts.gate_up_proj_blocks": ("U8", (4, 64, 2, 16)),
            f"{at}.experts.gate_up_proj_scales": ("U8", (4, 64, 2)),
            f"{at}.experts.down_proj_blocks": ("U8", (4, 64, 1, 16)),
            f"{at}.experts.down_proj_scales": ("U8", (4, 64, 1)),
        }
    model = load_model(folder(tmp_path, tensors, config))
    assert model.total_bytes == pytest.approx(bytes_of(tensors), rel=1e-12)
    assert model.mlp_bytes == pytest.approx(3 * 32 * 64 * 4.25 / 8)
    assert model.static_mlp_bytes == 4 * 64 * 2


def shards(tmp_path: Path) -> list[Path]:
    tensors = weights()
    names = [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    for i, name in enumerate(names):
        part = dict(list(tensors.items())[i::2])
        (tmp_path / name).write_bytes(file_of(part))
    index = {key: names[i % 2] for i, key in enumerate(tensors)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return [tmp_path / name for name in names]


def test_shards_are_one_model(tmp_path: Path) -> None:
    paths = shards(tmp_path)
    for given in (tmp_path, *paths):
        assert load_model(given).total_bytes == bytes_of(weights())
    paths[1].unlink()
    assert "model-00002-of-00002.safetensors is missing beside it" in refusal(tmp_path)
    assert "is missing beside it: download all" in refusal(paths[0])
    paths[0].unlink()  # the config alone was downloaded
    assert load_model(tmp_path).bits == 4.5


def test_an_index_names_files_beside_it_alone(tmp_path: Path) -> None:
    shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../model-00001-of-00002.safetensors"}}))
    assert "a file beside it" in refusal(tmp_path)
    index.write_text("{}")
    assert "has no weight_map" in refusal(tmp_path)


def test_weights_without_a_config(tmp_path: Path) -> None:
    folder(tmp_path, weights())
    (tmp_path / "config.json").unlink()
    assert "weights without a config.json" in refusal(tmp_path / "model.safetensors")


def test_weights_of_another_model(tmp_path: Path) -> None:
    few: Tensors = {"model.embed_tokens.weight": ("BF16", (2, 2))}
    assert "not the weights of this model" in refusal(folder(tmp_path, few))
    fewer = {name: tensor for name, tensor in weights().items() if "layers.1" not in name}
    told = load_model(folder(tmp_path, fewer)).approximate
    assert told is not None
    assert "weights more than its files hold" in told


def entry(**change: Any) -> bytes:
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **change}
    return json.dumps({"a": tensor}).encode()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"", "cut short"),
        (b"{x", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no JSON object"),
        (entry(dtype="F1"), "dtype F1 is not known"),
        (entry(dtype=None), "dtype None is not known"),
        (entry(shape=[-2]), "lists of whole numbers"),
        (entry(shape=[True]), "lists of whole numbers"),
        (entry(shape=[2.0]), "lists of whole numbers"),
        (entry(shape=[2**60]), "lists of whole numbers"),
        (entry(shape=[2**47] * 8), "are not 8 bytes"),
        (entry(shape="2"), "lists of whole numbers"),
        (entry(data_offsets=[0]), "lists of whole numbers"),
        (entry(data_offsets=[8, 0]), "are not -8 bytes"),
        (entry(data_offsets=[4, 12]), "overlap or leave gaps"),
        (entry(shape=[4], data_offsets=[0, 16]), "cut short: its weights end"),
        (json.dumps({"a": 5}).encode(), "dtype None"),
    ],
)
def test_a_lie_is_refused(head: bytes, said: str, tmp_path: Path) -> None:
    folder(tmp_path, weights())
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(8))
    assert said in refusal(tmp_path)


@pytest.mark.parametrize("length", [2**63, 10**9, 0, 1])
def test_a_header_that_claims_too_much(length: int, tmp_path: Path) -> None:
    folder(tmp_path, weights())
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" * 20)
    assert "cut short, or no safetensors" in refusal(tmp_path)


@pytest.mark.slow
def test_damaged_headers_are_refused_or_read(tmp_path: Path) -> None:
    folder(tmp_path, weights())
    head = file_of(weights())
    read_or_refused(load_model, tmp_path / "model.safetensors", head, 300)


@pytest.mark.slow
def test_files_that_transformers_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 50}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    moe = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
    configs = [
        transformers.LlamaConfig(**sizes, **heads),
        transformers.Qwen2Config(**sizes, **heads, tie_word_embeddings=True),
        transformers.Gemma2Config(**sizes, **heads, head_dim=16),
        transformers.Qwen3MoeConfig(**sizes, **heads, **moe),
        transformers.OPTConfig(
            **{**sizes, "ffn_dim": 96, "word_embed_proj_dim": 64, "num_attention_heads": 4},
            max_position_embeddings=16,
        ),
    ]
    for config in configs:
        path = tmp_path / config.model_type
        model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
        model.save_pretrained(path)
        loaded = load_model(path)
        assert loaded.parameters == model.num_parameters(), config.model_type
        assert loaded.total_bytes == pytest.approx(2 * model.num_parameters())
        assert loaded.approximate is None
