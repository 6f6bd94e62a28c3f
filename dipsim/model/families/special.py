"""Peculiarities of families that no trait states.

A ``prepare`` function returns values that replace those of the config; a ``special`` one changes
the keys of layers and those of the model. Sources: the modelling files of transformers.
"""

from typing import Any

from dipsim.model.families.config import HEADS, HIDDEN, LAYERS, MOST_LAYERS, WIDTH, Config
from dipsim.model.families.family import Layers
from dipsim.model.families.mlps import EXPERTS

Values = dict[str, Any]


def falcon_heads(config: Config) -> Values:
    """Falcon: one head of keys unless the newer architecture gives several."""
    many = config.count("num_kv_heads") or config.need(*HEADS)
    if not config.flag("new_decoder_architecture"):
        many = 1 if config.flag("multi_query") else config.need(*HEADS)
    return {"num_key_value_heads": many}


def falcon_norms(config: Config, layers: Layers, model: Values) -> None:
    """Falcon: one norm for attention and MLP, unless there are two side by side."""
    many = config.count("num_ln_in_parallel_attn")
    if many is None:
        many = 2 if config.flag("new_decoder_architecture") else 1
    if config.flag("parallel_attn") and many < 2:
        for layer in layers:
            layer["norms"] = 2


def ungrouped(config: Config) -> Values:
    """GPT-2 and its like: every head has keys of its own."""
    return {"num_key_value_heads": config.need(*HEADS)}


def opt_width(config: Config) -> Values:
    """OPT: a width under a name of its own."""
    return {**ungrouped(config), "intermediate_size": config.need("ffn_dim")}


def multi_query(config: Config) -> Values:
    """GPT-BigCode: one head of keys."""
    return {"num_key_value_heads": 1 if config.flag("multi_query") else config.need(*HEADS)}


def dbrx(config: Config) -> Values:
    """DBRX: attention and MLP have configs of their own."""
    attention, mlp = config.nested("attn_config"), config.nested("ffn_config")
    return {
        "num_key_value_heads": attention.count("kv_n_heads"),
        "num_experts": mlp.count("moe_num_experts"),
        "num_experts_per_tok": mlp.count("moe_top_k"),
        "intermediate_size": mlp.count("ffn_hidden_size"),
    }


def lfm2_width(config: Config) -> Values:
    """LFM2: two thirds of the width, rounded up, where the config asks for it."""
    width = config.need("intermediate_size", "block_ff_dim")
    if config.flag("block_auto_adjust_ff_dim"):
        scale, step = config.value("block_ffn_dim_multiplier"), config.count("block_multiple_of")
        width = 2 * width // 3
        if isinstance(scale, int | float) and 0 < scale < 100:
            width = int(scale * width)
            width = -(-width // max(step or 1, 1)) * max(step or 1, 1)
    return {"intermediate_size": width}


def half_width(config: Config) -> Values:
    """RecurrentGemma: gate and up share the width that the config gives."""
    return {"intermediate_size": config.need(*WIDTH) // 2}


def shared_alone(config: Config) -> Values:
    """Granite: without experts the shared MLP is the layer's MLP."""
    if config.count(*EXPERTS):
        return {}
    return {"intermediate_size": config.need("shared_intermediate_size"), "num_local_experts": 0}


def llama4(config: Config) -> Values:
    """Llama 4: a shared expert as wide as the others."""
    return {"shared_expert_intermediate_size": config.need("intermediate_size")}


def no_mlp(config: Config) -> Values:
    """Mamba: layers without an MLP; the width that the config gives is that of the mixer."""
    return {"intermediate_size": 0}


def opt(config: Config, layers: Layers, model: Values) -> None:
    """OPT: an embedding of its own width, and a last norm only where norms come first."""
    hidden, width = config.need(*HIDDEN), config.count("word_embed_proj_dim")
    if width is not None and width != hidden:
        model["embedding_dim"] = width
        model["other_parameters"] += 2 * width * hidden
    if not config.flag("do_layer_norm_before") or config.flag("_remove_final_layer_norm"):
        model["other_parameters"] -= 2 * hidden


def bloom(config: Config, layers: Layers, model: Values) -> None:
    """BLOOM: a norm behind the embedding."""
    model["other_parameters"] += 2 * config.need(*HIDDEN)


def per_layer_embedding(config: Config, layers: Layers, model: Values) -> None:
    """Gemma 3n and 4: every layer reads a row of a table of its own."""
    width, hidden = config.count("hidden_size_per_layer_input") or 0, config.need(*HIDDEN)
    if not width:
        return
    model["per_layer_embedding"] = width
    model["per_layer_vocab"] = config.count("vocab_size_per_layer_input") or model["vocab"]
    model["other_parameters"] += len(layers) * width * hidden + width
    for layer in layers:
        layer["extra_parameters"] += 2 * width * hidden
        layer["norms"] = layer.get("norms", 2) + 1


def _share(config: Config, layers: Layers, norm: int) -> None:
    """Let the last layers use keys and values of earlier ones: they have no matrices for them.

    Args:
        norm: weights of the norm of keys, per channel of a head.
    """
    shared = config.count("num_kv_shared_layers") or 0
    for layer in layers[max(len(layers) - shared, 0) :] if shared else ():
        layer["attention_parameters"] = (
            2 * config.need(*HIDDEN) * layer["heads"] * layer["head_dim"]
        )
        layer["kv_values"] = 0
        layer["extra_parameters"] -= norm * layer["head_dim"]


def gemma3n(config: Config, layers: Layers, model: Values) -> None:
    """Gemma 3n: alternating updates of several streams, a low-rank path beside attention."""
    hidden, streams = config.need(*HIDDEN), config.need("altup_num_inputs")
    rank = config.need("laurel_rank")
    for layer in layers:
        layer["extra_parameters"] += streams**2 + streams**3 + streams * hidden + 2 * rank * hidden
        layer["norms"] = layer.get("norms", 2) + 3
    model["other_parameters"] += 2 * (streams - 1) * hidden**2
    per_layer_embedding(config, layers, model)
    _share(config, layers, norm=1)


def gemma4(config: Config, layers: Layers, model: Values) -> None:
    """Gemma 4: other heads in layers that attend to all, experts beside a dense MLP."""
    hidden, same = config.need(*HIDDEN), config.flag("attention_k_eq_v")
    kv_heads = config.count("num_global_key_value_heads") if same else None
    shared = config.count("num_kv_shared_layers") or 0
    for i, layer in enumerate(layers):
        if "window" not in layer:
            size = config.count("global_head_dim") or layer["head_dim"]
            layer["extra_parameters"] += 2 * (size - layer["head_dim"])
            layer["head_dim"] = size
            layer["kv_heads"] = kv_heads or layer["kv_heads"]
            if same:
                heads = 2 * layer["heads"] + layer["kv_heads"]
                layer["attention_parameters"] = hidden * size * heads
        if config.flag("use_double_wide_mlp") and i >= len(layers) - shared:
            layer["intermediate"] *= 2
        if layer.get("experts"):
            layer["shared_intermediate"] = config.need("intermediate_size")
            layer["norms"] = layer.get("norms", 2) + 4
            layer["extra_parameters"] += layer["experts"]
    per_layer_embedding(config, layers, model)
    _share(config, layers, norm=1)


def gemma4_experts(config: Config) -> Values:
    """Gemma 4: experts only where the config turns them on."""
    used = config.flag("enable_moe_block")
    return {
        "num_experts": config.count("num_experts") if used else None,
        "num_experts_per_tok": config.count("top_k_experts"),
    }


def mimo(config: Config, layers: Layers, model: Values) -> None:
    """MiMo-V2: twice the heads of keys in layers with a window."""
    many = config.count("swa_num_key_value_heads")
    for layer in layers:
        if "window" in layer:
            layer["kv_heads"] = many or 2 * layer["kv_heads"]


def longcat(config: Config, layers: Layers, model: Values) -> None:
    """LongCat-Flash: two attentions and two dense MLPs beside the experts of a layer."""
    hidden, nothing = config.need(*HIDDEN), config.count("zero_expert_num") or 0
    for layer in layers:
        layer["attention_parameters"] *= 2
        layer["kv_values"] *= 2
        layer["shared_intermediate"] = 2 * config.need("ffn_hidden_size")
        layer["norms"] = 4
        layer["extra_parameters"] += nothing * hidden
    if nothing:
        model["approximate"] = (
            f"{nothing} experts of a layer do nothing: tokens that choose them use fewer weights"
        )


def jetmoe(config: Config, layers: Layers, model: Values) -> None:
    """JetMoE: q and o are experts too; they are counted, and read, as one."""
    hidden, size = config.need(*HIDDEN), config.need("kv_channels")
    keys = config.need("num_key_value_heads") * size
    experts = config.need(*EXPERTS)
    for layer in layers:
        layer["attention_parameters"] = hidden * (2 * experts * keys + 2 * keys + experts)
        layer["extra_parameters"] += 2 * hidden
    model["approximate"] = "experts of attention are read whole"


def zamba(config: Config, layers: Layers, model: Values) -> None:
    """Zamba: Mamba layers, some behind a transformer that they share, which reads twice the width.

    Its weights count once, in the first layers that use them.
    """
    hidden, blocks = config.need(*HIDDEN), config.count("num_mem_blocks") or 1
    width, rank = config.count(*WIDTH) or 4 * hidden, config.count("adapter_rank")
    for layer in layers:
        layer |= {"intermediate": 0, "norms": 1}
    hybrid = [layer for layer in layers if "heads" in layer]
    for i, layer in enumerate(hybrid):
        size, keys = layer["heads"] * layer["head_dim"], layer["kv_heads"] * layer["head_dim"]
        plain = 2 * hidden * (size + keys)
        layer["attention_parameters"] += hidden**2 - plain
        if rank is not None:
            layer["extra_parameters"] += rank * (hidden + 2 * width)
            if config.flag("use_shared_attention_adapter"):
                layer["extra_parameters"] += 3 * rank * (2 * hidden + size)
        if i < blocks:
            layer["attention_parameters"] += 2 * hidden * (size + 2 * keys) + size * hidden
            layer |= {"intermediate": width, "norms": 4}
    if len(hybrid) > blocks:
        model["approximate"] = "weights that layers share are read once a token"


def zamba_order(config: Config) -> Values:
    """Zamba: a transformer in every n-th layer, counted from the fourth, and in the third."""
    every, offset = max(config.need("attn_layer_period"), 1), config.need("attn_layer_offset")
    many = min(config.need(*LAYERS), MOST_LAYERS)
    types = ["hybrid" if i % every == offset else "mamba" for i in range(max(many - 3, 0))]
    return _zamba(config, ["mamba", "mamba", "hybrid", *types][:many])


def zamba2_order(config: Config) -> Values:
    """Zamba 2: the layers of its class, unless the config lists its own."""
    many = min(config.need(*LAYERS), MOST_LAYERS)
    hybrid = {6, 12, 18, 24, 30, 36, 42, 47, 51}
    return _zamba(config, ["hybrid" if i in hybrid else "mamba" for i in range(many)])


def _zamba(config: Config, types: list[str]) -> Values:
    size = 2 * config.need(*HIDDEN) // max(config.need(*HEADS), 1)
    listed = config.value("layers_block_type", "layer_types")
    return {
        "attention_head_dim": config.count("attention_head_dim") or size,
        "layers_block_type": types if listed is None else listed,
    }


def delta_sizes(config: Config) -> Values:
    """OLMo Hybrid: sizes of the delta rule that follow from those of attention."""
    heads = config.need(*HEADS)
    many = config.count("linear_num_key_heads") or heads
    key = config.count("linear_key_head_dim") or 3 * config.need(*HIDDEN) // (4 * max(many, 1))
    return {
        "linear_num_key_heads": many,
        "linear_num_value_heads": config.count("linear_num_value_heads") or heads,
        "linear_key_head_dim": key,
        "linear_value_head_dim": config.count("linear_value_head_dim") or 2 * key,
    }


def value_size(config: Config) -> Values:
    """MiniCPM 3: values of the usual size unless it is given."""
    size = config.need(*HIDDEN) // max(config.need(*HEADS), 1)
    return {"v_head_dim": config.count("v_head_dim") or size}


def topk_heads(config: Config) -> Values:
    """JetMoE: as many heads as the experts that a token uses have."""
    keys = config.need("num_key_value_heads")
    return {"num_attention_heads": keys * config.need("num_experts_per_tok")}


def gpt_neo(config: Config) -> Values:
    """GPT-Neo: heads under a name of their own."""
    heads = config.need("num_heads", *HEADS)
    return {"num_attention_heads": heads, "num_key_value_heads": heads}


def dense(config: Config) -> Values:
    """Doge: a dense MLP.

    Raises:
        ModelError: its experts of single neurons are used.
    """
    if config.flag("is_moe"):
        raise config.refused("is_moe", True, "a model without: experts of one neuron are not known")
    return {"num_experts": 0}
