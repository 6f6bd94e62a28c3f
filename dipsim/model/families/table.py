"""The families of models that dipsim reads: a row per ``model_type``, with what differs from Llama.

The numbers that a config leaves out are in `defaults.json`, by ``model_type``.
"""

from collections.abc import Mapping
from dataclasses import replace

from dipsim.model.families import special
from dipsim.model.families.family import Family

_GPT = Family(
    norm_weights=2,
    gated=False,
    biases="qkvomf",
    prepare=special.ungrouped,
    usual={"expansion_ratio": 4},
)
_USE_BIAS: Mapping[str, str] = {"use_bias": "qkvom"}
_QKV_BY_KEY: Mapping[str, str] = {"attention_bias": "qkv"}

_LLAMA = Family()
_MISTRAL = Family(order="window")
_QWEN2 = Family(order="late", biases="qkv")
_QWEN2_MOE = Family(order="late", bias_keys={"qkv_bias": "qkv"}, shared_gate=True)
_QWEN3 = Family(order="late", qk_norm="head")
_QWEN3_NEXT = Family(
    order="states",
    state="delta",
    qk_norm="head",
    gate="width",
    usual={"full_attention_interval": 4},
)
_QWEN3_NEXT_MOE = replace(_QWEN3_NEXT, shared_gate=True)
_GEMMA2 = Family(order="every", norms=4, usual={"sliding_window_pattern": 2})
_GEMMA3 = Family(order="every", norms=4, qk_norm="head", usual={"sliding_window_pattern": 6})
_GEMMA4 = Family(
    order="every",
    norms=4,
    qk_norm="head",
    prepare=special.gemma4_experts,
    special=special.gemma4,
    usual={"sliding_window_pattern": 6, "global_head_dim": 512},
)
_DEEPSEEK = Family(latent=True)
_DEEPSEEK_INDEXED = Family(latent=True, indexer=True)
_GLM4_MOE = Family(bias_keys=_QKV_BY_KEY, qk_norm="head", qk_norm_key="use_qk_norm")
_EXAONE4 = Family(order="every", qk_norm="head", usual={"sliding_window_pattern": 4})
_GRANITE_HYBRID = Family(state="mamba2", prepare=special.shared_alone, order="state")
_MAMBA = Family(order="state", state="mamba", prepare=special.no_mlp)
_LFM2 = Family(
    order="all or indices", state="convolution", qk_norm="head", prepare=special.lfm2_width
)
_HUNYUAN = Family(qk_norm="head")

FAMILIES: dict[str, Family] = {
    "afmoe": Family(order="every", norms=4, qk_norm="head", gate="width", biases="r"),
    "apertus": Family(gated=False, qk_norm="head"),
    "arcee": Family(gated=False),
    "aria_text": _LLAMA,
    "bailing_hybrid": Family(order="states", state="bailing", latent=True, gate="head"),
    "bamba": Family(order="indices", state="mamba2"),
    "bitnet": _LLAMA,
    "bloom": replace(_GPT, special=special.bloom),
    "codegen": replace(_GPT, biases="mfh", norms=1),
    "cohere": Family(norms=1, qk_norm="heads", qk_norm_key="use_qk_norm"),
    "cohere2": Family(order="every", norms=1, usual={"sliding_window_pattern": 4}),
    "cohere2_moe": Family(order="every", norms=1, usual={"sliding_window_pattern": 4}),
    "cwm": Family(order="every first", usual={"sliding_window_pattern": 4}),
    "dbrx": Family(prepare=special.dbrx),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": _DEEPSEEK_INDEXED,
    "diffllama": _LLAMA,
    "doge": Family(qk_norm="head", prepare=special.dense),
    "dots1": Family(order="late", qk_norm="head"),
    "ernie4_5": Family(bias_keys=_USE_BIAS),
    "ernie4_5_moe": Family(bias_keys={"use_bias": "qkvomh"}, biases="r"),
    "exaone": _LLAMA,
    "exaone4": _EXAONE4,
    "exaone_moe": _EXAONE4,
    "falcon": Family(
        norm_weights=2,
        gated=False,
        biases="f",
        bias_keys={"bias": "qkvom"},
        prepare=special.falcon_heads,
        special=special.falcon_norms,
        usual={"expansion_ratio": 4},
    ),
    "falcon_h1": Family(order="both", state="mamba2"),
    "falcon_mamba": _MAMBA,
    "flex_olmo": Family(qk_norm="width"),
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "gemma3n_text": Family(
        order="every",
        norms=4,
        qk_norm="head",
        special=special.gemma3n,
        usual={"sliding_window_pattern": 5},
    ),
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "glm": Family(bias_keys=_QKV_BY_KEY),
    "glm4": Family(norms=4, bias_keys=_QKV_BY_KEY),
    "glm4_moe": _GLM4_MOE,
    "glm4v_text": Family(norms=4, bias_keys=_QKV_BY_KEY),
    "glm4v_moe_text": Family(bias_keys=_QKV_BY_KEY),
    "glm4_moe_lite": Family(latent=True, usual={"first_k_dense_replace": 1}),
    "glm_moe_dsa": _DEEPSEEK_INDEXED,
    "gpt2": replace(_GPT, positions=("n_positions", 0)),
    "gpt_bigcode": replace(_GPT, positions=("n_positions", 0), prepare=special.multi_query),
    "gpt_neo": replace(
        _GPT,
        prepare=special.gpt_neo,
        biases="omf",
        positions=("max_position_embeddings", 0),
    ),
    "gpt_neox": replace(_GPT, biases="mf", bias_keys={"attention_bias": "qkvo"}),
    "gpt_oss": Family(
        order="every",
        sinks="all",
        biases="r",
        expert_biases=True,
        usual={"sliding_window_pattern": 2},
    ),
    "granite_swa": Family(order="every first", sinks="all", usual={"sliding_window_pattern": 4}),
    "gptj": replace(_GPT, biases="mfh", norms=1),
    "granite": _LLAMA,
    "granitemoe": _LLAMA,
    "granitemoehybrid": _GRANITE_HYBRID,
    "granitemoeshared": _LLAMA,
    "helium": _LLAMA,
    "hunyuan_v1_dense": _HUNYUAN,
    "hunyuan_v1_moe": Family(qk_norm="head", usual={"num_shared_experts": 1}),
    "hy_v3": Family(qk_norm="head", usual={"first_k_dense_replace": 1}),
    "internlm3": _LLAMA,
    "jais2": Family(norm_weights=2, gated=False, biases="f"),
    "jamba": Family(order="period", state="jamba"),
    "jetmoe": Family(prepare=special.topk_heads, special=special.jetmoe),
    "kimi_k2": _DEEPSEEK,
    "kimi_linear": Family(
        order="kimi", state="kimi", latent=True, usual={"first_k_dense_replace": 1}
    ),
    "laguna": Family(
        order="full", qk_norm="head", gate="head", biases="r", usual={"first_k_dense_replace": 1}
    ),
    "lfm2": _LFM2,
    "lfm2_moe": Family(order="all or indices", state="convolution", qk_norm="head"),
    "llama": _LLAMA,
    "llama4_text": Family(order="chunks", prepare=special.llama4),
    "longcat_flash": Family(latent=True, special=special.longcat),
    "mamba": _MAMBA,
    "mamba2": Family(order="state", state="mamba2", prepare=special.no_mlp),
    "mimo_v2_flash": Family(
        order="flagged", sinks="window", special=special.mimo, usual={"first_k_dense_replace": 1}
    ),
    "minicpm3": Family(latent=True, prepare=special.value_size),
    "minimax": Family(order="minimax", state="lightning"),
    "minimax_m2": Family(qk_norm="width"),
    "ministral": Family(order="window"),
    "ministral3": _MISTRAL,
    "mistral": _MISTRAL,
    "mixtral": _MISTRAL,
    "mpt": Family(gated=False, prepare=special.ungrouped),
    "nanochat": Family(gated=False, norm_weights=0, last_norm=False),
    "nemotron": Family(norm_weights=2, gated=False, biases="f"),
    "nemotron_h": Family(state="mamba2", single=True, gated=False),
    "olmo": Family(norm_weights=0, last_norm=False),
    "olmo2": Family(qk_norm="width"),
    "olmo3": Family(order="every", qk_norm="width", usual={"sliding_window_pattern": 4}),
    "olmo_hybrid": Family(
        order="states",
        state="delta",
        qk_norm="width",
        prepare=special.delta_sizes,
        usual={"full_attention_interval": 4},
    ),
    "olmoe": Family(qk_norm="width"),
    "opt": Family(
        norm_weights=2,
        gated=False,
        biases="f",
        bias_keys={"enable_bias": "qkvom"},
        positions=("max_position_embeddings", 2),
        prepare=special.opt_width,
        special=special.opt,
    ),
    "persimmon": replace(_GPT, qk_norm="head with bias", qk_norm_key="qk_layernorm"),
    "phi": replace(
        _GPT,
        prepare=None,
        biases="qkvomfh",
        norms=1,
        qk_norm="head with bias",
        qk_norm_key="qk_layernorm",
    ),
    "phi3": _MISTRAL,
    "phimoe": Family(
        order="window",
        norm_weights=2,
        biases="f",
        bias_keys={"attention_bias": "qkvo", "lm_head_bias": "h"},
    ),
    "qwen2": _QWEN2,
    "qwen2_moe": _QWEN2_MOE,
    "qwen2_vl": _QWEN2,
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_5_text": _QWEN3_NEXT,
    "qwen3_5_moe_text": _QWEN3_NEXT_MOE,
    "qwen3_moe": _QWEN3,
    "qwen3_next": _QWEN3_NEXT_MOE,
    "qwen3_vl_text": _QWEN3,
    "qwen3_vl_moe_text": _QWEN3,
    "recurrent_gemma": Family(
        order="repeated",
        state="rglru",
        biases="om",
        bias_keys=_QKV_BY_KEY,
        prepare=special.half_width,
        usual={"block_types": ["recurrent", "recurrent", "attention"]},
    ),
    "sarvam_mla": _DEEPSEEK,
    "sarvam_moe": _GLM4_MOE,
    "seed_oss": Family(
        bias_keys={"attention_bias": "qkv", "attention_out_bias": "o", "mlp_bias": "m"}
    ),
    "smollm3": _LLAMA,
    "solar_open": Family(bias_keys=_QKV_BY_KEY),
    "stablelm": Family(
        norm_weights=2,
        biases="f",
        bias_keys={"use_qkv_bias": "qkv"},
        qk_norm="heads",
        qk_norm_key="qk_layernorm",
        parallel="use_parallel_residual",
    ),
    "starcoder2": Family(
        order="window", norm_weights=2, gated=False, biases="f", bias_keys=_USE_BIAS
    ),
    "vaultgemma": Family(order="every", usual={"sliding_window_pattern": 2}),
    "youtu": _DEEPSEEK,
    "zamba": Family(state="mamba", prepare=special.zamba_order, special=special.zamba),
    "zamba2": Family(
        state="mamba2",
        prepare=special.zamba2_order,
        special=special.zamba,
        usual={"expansion_ratio": 4},
    ),
}
"""Traits by ``model_type``."""

WRAPPED = ("text_config", "llm_config", "language_config", "thinker_config", "llm")
"""Keys under which multimodal configs hold that of their text model."""
