"""The MLP of a layer: dense, or experts with their router and what every token uses beside them."""

from typing import Any

from dipsim.model.families.config import HIDDEN, WIDTH, Config
from dipsim.model.families.family import Family
from dipsim.model.families.order import Mlp

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
USED = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_k",
    "moe_topk",
    "moe_top_k",
    "top_k_experts",
)
_EXPERT_WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size")
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
_SHARED_WIDTH = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
)


def mlp_of(config: Config, family: Family, mlp: Mlp, biased: str) -> dict[str, Any]:
    """Return the keys of a layer's MLP, in the form of a kind of layer.

    Args:
        biased: parts that have a bias, as `Family.biases` names them.

    Raises:
        ModelError: a missing number, or no number.
    """
    if mlp == "none":
        return {"intermediate": 0, "gated": family.gated}
    hidden = config.need(*HIDDEN)
    matrices = 2 if family.gated else 1  # that have the width as outputs
    if mlp == "dense":
        width = config.count("intermediate_size_mlp") or dense_width(config, hidden)
        extra = matrices * width + hidden if "m" in biased else 0
        return {"intermediate": width, "gated": family.gated, "extra_parameters": extra}
    experts, used = config.need(*EXPERTS), config.need(*USED)
    width = config.count(*_EXPERT_WIDTH) or dense_width(config, hidden)
    shared = _shared(config, width)
    extra = hidden if family.shared_gate else 0
    if "r" in biased:
        extra += experts
    if family.expert_biases:
        extra += experts * (matrices * width + hidden)
    if "m" in biased and shared:
        extra += matrices * shared + hidden
    return {
        "intermediate": width,
        "gated": family.gated,
        "experts": experts,
        "experts_per_token": used,
        "shared_intermediate": shared,
        "extra_parameters": extra,
    }


def dense_width(config: Config, hidden: int) -> int:
    """Return the width of a dense MLP.

    Raises:
        ModelError: it is missing, or no number.
    """
    width = config.count(*WIDTH)
    if width is None and config.value("expansion_ratio") is not None:
        return config.need("expansion_ratio") * hidden
    return config.need(*WIDTH) if width is None else width


def _shared(config: Config, width: int) -> int:
    """Return the width of the MLP that every token uses."""
    given = config.count(*_SHARED_WIDTH)
    if given is not None:
        return given
    return (config.count(*_SHARED) or 0) * width
