"""Are MLPs, attention and routers of any architecture found, and unknown ones refused?"""

from typing import Any

import pytest

from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
transformers = pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim.errors import DipsimError  # noqa: E402
from dipsim.lm.structure import Layer, find_structure  # noqa: E402
from tools.tiny_models import tiny  # noqa: E402

OPT = {"vocab_size": 64, "hidden_size": 16, "ffn_dim": 24, "word_embed_proj_dim": 16}
OPT |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
GPT2 = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
QKV = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
FUSED = ["mlp.gate_up_proj"]
GATED = {
    "LlamaConfig": {},
    "MistralConfig": {},
    "Qwen2Config": {},
    "Qwen3Config": {"head_dim": 8},
    "Gemma2Config": {"head_dim": 8},
    "Gemma3TextConfig": {"head_dim": 8},
}
MOE = {
    "MixtralConfig": {"num_local_experts": 4},
    "Qwen2MoeConfig": {"num_experts": 4, "moe_intermediate_size": 8},
    "Qwen3MoeConfig": {"num_experts": 4, "moe_intermediate_size": 8, "head_dim": 8},
    "OlmoeConfig": {"num_experts": 4},
}


def names(model: Any, layer: int, *modules: Any) -> list[str]:
    """The modules' names inside a layer."""
    found = {module: name for name, module in model.named_modules()}
    return [found[module].split(f".{layer}.", 1)[1] for module in modules]


def mlp(model: Any, layer: Layer) -> list[str]:
    return names(model, 1, *layer.mlp_input, layer.down)


@pytest.mark.parametrize("config", GATED)
def test_gated(config: str) -> None:
    model = tiny(config, **GATED[config])
    structure = find_structure(model)
    layer = structure.layers[1]
    assert structure.gated
    assert len(structure.layers) == 2
    assert mlp(model, layer) == ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert names(model, 1, layer.gate.module, layer.up.module) == ["mlp.gate_proj", "mlp.up_proj"]
    assert names(model, 1, layer.act) == ["mlp.act_fn"]
    assert names(model, 1, *layer.attn_input) == QKV
    assert names(model, 1, layer.attn_output) == ["self_attn.o_proj"]
    assert layer.router is None


def test_fused() -> None:
    model = tiny("Phi3Config")
    layer = find_structure(model).layers[1]
    assert mlp(model, layer) == ["mlp.gate_up_proj", "mlp.down_proj"]
    assert (layer.gate.part, layer.up.part) == (slice(0, 24), slice(24, 48))
    assert names(model, 1, *layer.attn_input) == ["self_attn.qkv_proj"]


@pytest.mark.parametrize(
    ("config", "more", "expected"),
    [
        ("OPTConfig", OPT, ["fc1", "fc2", *QKV, "self_attn.out_proj"]),
        ("GPT2Config", GPT2, ["mlp.c_fc", "mlp.c_proj", "attn.c_attn", "attn.c_proj"]),
    ],
)
def test_plain(config: str, more: dict[str, Any], expected: list[str]) -> None:
    torch.manual_seed(0)
    made = getattr(transformers, config)(**more)
    model = transformers.AutoModelForCausalLM.from_config(made)
    structure = find_structure(model)
    layer = structure.layers[1]
    assert structure.plain
    assert (layer.gate, layer.up) == (None, None)
    found = [*mlp(model, layer), *names(model, 1, *layer.attn_input, layer.attn_output)]
    assert found == expected


@pytest.mark.parametrize("config", MOE)
@pytest.mark.parametrize("normalised", [False, True])
def test_experts(config: str, normalised: bool) -> None:
    model = tiny(config, num_experts_per_tok=2, norm_topk_prob=normalised, **MOE[config])
    structure = find_structure(model)
    layer = structure.layers[1]
    assert structure.moe
    assert layer.down is None
    assert names(model, 1, layer.router.module) == ["mlp.gate"]
    assert (layer.router.experts, layer.router.k) == (4, 2)
    assert (layer.router.chooser, layer.router.output) == (layer.router.module, 0)
    assert (layer.router.form, layer.router.function) == ("logits", "softmax")
    assert layer.router.normalised == (normalised or config == "MixtralConfig")
    assert names(model, 1, *layer.attn_input, layer.attn_output) == [*QKV, "self_attn.o_proj"]


def test_dense_layers_among_experts() -> None:
    model = tiny(
        "Qwen3MoeConfig", mlp_only_layers=[0], num_experts_per_tok=2, **MOE["Qwen3MoeConfig"]
    )
    first, second = find_structure(model).layers
    assert first.down is not None
    assert second.router is not None


def test_a_list_of_experts_and_a_router_of_its_own_kind() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = torch.nn.Linear(16, 3)
            self.experts = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(3))

        def forward(self, x: Any) -> Any:
            best = self.router(x).topk(2).indices
            every = torch.stack([expert(x) for expert in self.experts], dim=-1)
            return every.gather(-1, best[..., None, :].expand(*x.shape, 2)).sum(-1)

    model = tiny("LlamaConfig")
    model.config.num_experts_per_tok = 2
    for layer in model.model.layers:
        layer.mlp = Block()
    router = find_structure(model).layers[1].router
    assert router.module is model.model.layers[1].mlp.router
    assert (router.experts, router.k, router.output) == (3, 2, None)
    assert router.chooser is model.model.layers[1].mlp


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft
def test_with_adapters_the_wrapper_is_found() -> None:
    peft = pytest.importorskip("peft", reason=NEEDS_TORCH)
    model = peft.get_peft_model(
        tiny("LlamaConfig"),
        peft.LoraConfig(target_modules=["gate_proj", "down_proj"], init_lora_weights=False),
    )
    layer = find_structure(model).layers[1]
    assert layer.down is model.base_model.model.model.layers[1].mlp.down_proj
    assert layer.gate.module is model.base_model.model.model.layers[1].mlp.gate_proj
    assert type(layer.down).__module__.startswith("peft")


def test_half_precision_and_training_mode() -> None:
    model = tiny("LlamaConfig", attention_dropout=0.5).bfloat16().train()
    assert find_structure(model).gated
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_an_unknown_mlp_is_told_what_was_seen() -> None:
    model = tiny("BitNetConfig")  # norms the product before the down projection
    with pytest.raises(DipsimError, match=r"no MLP and no router found in layer 0: .*mlp.up_proj"):
        find_structure(model)


def test_a_model_without_layers() -> None:
    model = tiny("LlamaConfig")
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(DipsimError, match=r"LlamaForCausalLM: no decoder layers.* model, lm_head"):
        find_structure(model)
