"""The mixer of a layer: heads, a latent of keys and values, a state."""

from typing import Any

from dipsim.model.families.config import HEADS, HIDDEN, Config
from dipsim.model.families.family import Family
from dipsim.model.families.order import Mixer
from dipsim.model.families.states import STATES

_WINDOWS = ("sliding_window", "attention_window_size", "sliding_window_size", "window_size")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "num_query_groups", "multi_query_group_num")


def mixer_of(config: Config, family: Family, mixer: Mixer) -> dict[str, Any]:
    """Return the keys of a layer's mixer, in the form of a kind of layer.

    Raises:
        ModelError: a missing number, or no number.
    """
    if mixer == "none":
        return {"attention": "none"}
    if mixer == "state":
        return {"attention": "state", **_state(config, family)}
    heads = _latent(config, family) if family.latent else _heads(config, family, mixer)
    heads |= _reach(config, mixer)
    if family.latent and heads.get("attention") == "window":
        heads["attention"] = "latent"  # of the window's positions
    if mixer != "both":
        return heads
    state = _state(config, family)
    own = heads.get("attention_parameters", _plain(heads, config.need(*HIDDEN)))
    return {**heads, **state, "attention_parameters": own + state["attention_parameters"]}


def _state(config: Config, family: Family) -> dict[str, Any]:
    state = STATES[family.state](config)
    return {
        "attention_parameters": state.parameters,
        "state_values": state.values,
        "state_bits": state.bits,
    }


def _reach(config: Config, mixer: Mixer) -> dict[str, Any]:
    window = None
    if mixer == "window":
        window = config.count(*_WINDOWS)
    elif mixer == "chunk":
        window = config.count("attention_chunk_size")
    return {"attention": "window", "window": window} if window else {}


def _plain(heads: dict[str, Any], hidden: int) -> int:
    """Return the weights of q, k, v and o."""
    size = heads["head_dim"] + heads.get("value_dim", heads["head_dim"])
    return int(hidden * (heads["heads"] + heads["kv_heads"]) * size)


def heads_of(config: Config) -> tuple[int, int, int]:
    """Return the heads, those of keys, and their size.

    Raises:
        ModelError: a missing number, or no number.
    """
    hidden = config.need(*HIDDEN)
    heads = config.need(*HEADS)
    size = config.count("head_dim", "attention_head_dim", "kv_channels") or hidden // max(heads, 1)
    return heads, config.count(*_KV_HEADS) or heads, size


def _heads(config: Config, family: Family, mixer: Mixer) -> dict[str, Any]:
    hidden = config.need(*HIDDEN)
    heads, kv_heads, size = heads_of(config)
    values = config.count("v_head_dim") or size
    found: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads, "head_dim": size}
    if values != size:
        found["value_dim"] = values
    gates = {"width": heads * values, "head": heads, "": 0}[family.gate]
    if gates:
        found["attention_parameters"] = _plain(found, hidden) + gates * hidden
    extra = _norms(config, family, heads, kv_heads, size)
    biased = biases_of(config, family)
    outputs = {"q": heads * size, "k": kv_heads * size, "v": kv_heads * values, "o": hidden}
    extra += sum(many for part, many in outputs.items() if part in biased)
    if family.sinks == "all" or family.sinks == mixer:
        extra += heads
    return {**found, "extra_parameters": extra}


def _norms(config: Config, family: Family, heads: int, kv_heads: int, size: int) -> int:
    """Return the weights of the norms of queries and keys."""
    if not family.qk_norm or (family.qk_norm_key and not config.flag(family.qk_norm_key)):
        return 0
    return {"head": 2 * size, "head with bias": 4 * size}.get(
        family.qk_norm, (heads + kv_heads) * size
    )


def biases_of(config: Config, family: Family) -> str:
    """Return the parts that have a bias, as `Family.biases` names them."""
    by_key = "".join(parts for key, parts in family.bias_keys.items() if config.flag(key))
    return family.biases + by_key


def _latent(config: Config, family: Family) -> dict[str, Any]:
    """Return the keys of multi-head latent attention, which caches a latent and a rotated key.

    Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1.
    """
    hidden, heads = config.need(*HIDDEN), config.need(*HEADS)
    latent, rotated = config.need("kv_lora_rank"), config.need("qk_rope_head_dim")
    plain, values = config.need("qk_nope_head_dim"), config.need("v_head_dim")
    query = heads * (plain + rotated)
    rank = config.count("q_lora_rank")
    weights = hidden * query if not rank else rank * (hidden + 1 + query)
    weights += hidden * (latent + rotated) + latent + latent * heads * (plain + values)
    weights += heads * values * hidden
    if family.gate:
        weights += hidden * heads
    biased = config.flag("attention_bias")
    extra = ((rank or 0) + latent + rotated + hidden) if biased else 0
    cached = latent + rotated
    if family.indexer:
        size, many = config.need("index_head_dim"), config.need("index_n_heads")
        weights += (rank or 0) * many * size + hidden * (size + many) + 2 * size
        cached += size
    return {
        "attention": "latent",
        "heads": heads,
        "kv_heads": heads,
        "head_dim": plain + rotated,
        "value_dim": values,
        "attention_parameters": weights,
        "kv_values": cached,
        "extra_parameters": extra,
    }
