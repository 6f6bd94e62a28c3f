"""Small mixtures of experts of every family of transformers, never trained, and what they use.

The experts that a model uses are seen by hooks on the modules that multiply them, by their names;
nothing here is shared with `dipsim.lm`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

torch.set_num_threads(1)
EXPERTS, PER_TOKEN = 16, 4
_KEYS: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "ffn_hidden_size": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 256,
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), EXPERTS),
    **dict.fromkeys(("moe_num_experts", "num_routed_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k"), PER_TOKEN),
    **dict.fromkeys(("top_k_experts", "moe_topk", "num_selected_experts"), PER_TOKEN),
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "expert_ffn_hidden_size": 24,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "mlp_only_layers": [],
    "decoder_sparse_step": 1,
    "moe_layer_start_index": 1,
    "moe_layer_interval": 1,
    "moe_layer_end_index": -1,
    "norm_topk_prob": True,
    "n_group": 4,
    "num_expert_group": 4,
    "topk_group": 2,
    "sliding_window": 16,
    "kv_lora_rank": 8,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_heads": 4,
    "linear_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
    "vocab_size_per_layer_input": 128,
    "hidden_size_per_layer_input": 8,
}
"""Values of the keys that a family's config has."""
_LATENT = {"num_key_value_heads": 4, "head_dim": None}
_LINEAR = {"num_hidden_layers": 4, "layer_types": ["linear_attention"] * 3 + ["full_attention"]}
_OWN_LINEAR = {**_LATENT, "num_hidden_layers": 3}
_OWN_LINEAR |= {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_DBRX_EXPERTS = {"ffn_hidden_size": 24, "moe_num_experts": EXPERTS, "moe_top_k": PER_TOKEN}
FAMILIES: dict[str, dict[str, Any]] = {
    "AXK1Config": _LATENT,
    "AXK2Config": _LATENT,
    "AfmoeConfig": {},
    "AriaTextConfig": {},
    "BailingHybridConfig": _OWN_LINEAR,
    "BeamConfig": {"mlp_layer_types": ["dense", "sparse", "sparse"]},
    "Cohere2MoeConfig": {},
    "DbrxConfig": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64,
                   "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
                   "ffn_config": _DBRX_EXPERTS},
    "DeepseekV2Config": {**_LATENT, "topk_method": "group_limited_greedy"},
    "DeepseekV32Config": _LATENT,
    "DeepseekV3Config": _LATENT,
    "DeepseekV4Config": {"num_hidden_layers": 2, "mlp_layer_types": ["moe", "moe"]},
    "DogeConfig": {"is_moe": True},
    "Dots1Config": {},
    "Dots3NoteTextConfig": {"num_key_value_heads": 4, "head_dim": 12, "use_sliding_window": False,
                            "index_head_dim": 8, "index_n_heads": 2},
    "Ernie4_5_MoeConfig": {},
    "ExaoneMoeConfig": {},
    "FlexOlmoConfig": {},
    "FlintConfig": {},
    "Gemma4TextConfig": {"enable_moe_block": True, "global_head_dim": 8},
    "Glm4MoeConfig": {},
    "Glm4MoeLiteConfig": _LATENT,
    "GlmMoeDsaConfig": _LATENT,
    "GptOssConfig": {},
    "GraniteMoeConfig": {},
    "GraniteMoeHybridConfig": {"layer_types": ["mamba", "attention", "attention"]},
    "GraniteMoeSWAConfig": {},
    "GraniteMoeSharedConfig": {},
    "HYV3Config": {},
    "HYV4Config": {},
    "HunYuanMoEV1Config": {},
    "Inkling2LoopTextConfig": {},
    "Inkling2TextConfig": {},
    "InklingTextConfig": {},
    "JambaConfig": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
                    "expert_layer_offset": 0},
    "JetMoeConfig": {},
    "KimiLinearConfig": _OWN_LINEAR,
    "Kolibri1Config": {},
    "LagunaConfig": {},
    "LaraMiniConfig": {},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention", "full_attention"]},
    "Llama4TextConfig": {},
    "LongcatFlashConfig": {**_LATENT, "head_dim": 4, "num_layers": 2, "zero_expert_num": 4},
    "MellumConfig": {},
    "MiMoV2FlashConfig": {},
    "MiniMaxConfig": {},
    "MiniMaxM2Config": {},
    "MiniMaxM3VLTextConfig": {},
    "MixtralConfig": {},
    "NemotronHConfig": {},
    "OlmoeConfig": {},
    "PhimoeConfig": {"num_experts_per_tok": 2},
    "Qwen2MoeConfig": {},
    "Qwen3MoeConfig": {},
    "Qwen3NextConfig": _LINEAR,
    "Qwen3_5MoeTextConfig": _LINEAR,
    "Qwen4ExpTextConfig": {"num_hidden_layers": 4, "indexer_n_heads": 2, "indexer_kv_heads": 1,
                           "indexer_head_dim": 8, "indexer_budget": 8,
                           "indexer_compress_ratio": 4},
    "SolarOpenConfig": {},
    "ZayaConfig": {"num_experts_per_tok": 1},
}  # fmt: skip
"""Every family of causal language models that has experts, with the keys of its own."""


def discovered() -> set[str]:
    """Return the classes of all causal language models with experts in this transformers."""
    root = Path(transformers.__file__).parent / "models"
    mixed = re.compile(r"^class \w*(Experts|MoE|Moe|MoA)\w*\(nn\.Module", re.MULTILINE)
    modules = {p.parent.name for p in root.glob("*/modeling_*.py") if mixed.search(p.read_text())}
    classes = [each for each in MODEL_FOR_CAUSAL_LM_MAPPING.values() if not isinstance(each, tuple)]
    return {
        each.__name__
        for each in classes
        if each.__name__.endswith("ForCausalLM") and each.__module__.split(".")[-2] in modules
    }


def class_of(config: str) -> str:
    """Return the class of a family's models."""
    made: Any = MODEL_FOR_CAUSAL_LM_MAPPING[getattr(transformers, config)]
    return str(made.__name__)


def mixture(config: str, **more: Any) -> Any:
    """Return a small model of a family, whose routers choose by more than their logits: biases
    that are added for the choice are large, and logits are far apart."""
    kind = getattr(transformers, config)
    known = kind()
    takes = {*known.to_dict(), *getattr(known, "attribute_map", {})}
    keys = {key: value for key, value in _KEYS.items() if key in takes}
    keys = {**keys, **FAMILIES[config], **more}
    torch.manual_seed(0)
    made = kind(**{key: value for key, value in keys.items() if value is not None})
    model = transformers.AutoModelForCausalLM.from_config(made).eval()
    with torch.no_grad():
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if re.search(r"(correction_bias|expert_bias|balancing_biases)$", name):
                values.copy_(torch.randn_like(values.float()) * 0.3)
            elif values.ndim == 2 and values.shape[0] in (EXPERTS, EXPERTS + 1, EXPERTS + 4):
                scores = re.search(r"(gate|router|layer|wg|classifier|proj)\.weight$", name)
                values.copy_(torch.randn_like(values) * 0.5 if scores else values)
    return model


@contextmanager
def seen_by_experts(model: Any) -> Iterator[dict[str, list[list[dict[int, float]]]]]:
    """Yield, by the names of the modules of experts, the experts that they multiply for each token
    of each call, with their weights; an expert whose weight is 0 is none."""
    seen: dict[str, list[list[dict[int, float]]]] = {}

    def hook(name: str) -> Any:
        def note(module: Any, args: Any, given: Any) -> None:
            values = [x for x in (*args, *given.values()) if torch.is_tensor(x) and x.ndim == 2]
            ids = [x for x in values if not x.is_floating_point()]
            if ids:
                weights = next(x for x in values if x.shape == ids[0].shape and x is not ids[0])
                rows = zip(ids[0].tolist(), weights.tolist(), strict=True)
                seen.setdefault(name, []).append(
                    [{i: w for i, w in zip(*row, strict=True) if w and i < EXPERTS} for row in rows]
                )
            elif "Llama4" in type(module).__name__:  # inputs of all experts, scaled by the weights
                of_experts = values[0].view(EXPERTS, -1, values[0].shape[-1])
                used = (of_experts != 0).any(-1).T
                seen.setdefault(name, []).append(
                    [{int(i): 0.0 for i in row.nonzero().flatten()} for row in used]
                )

        return note

    hooks = [
        module.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Experts")
    ]
    try:
        yield seen
    finally:
        for each in hooks:
            each.remove()
