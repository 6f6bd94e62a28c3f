"""Mixers that keep a state of fixed size: their weights, and the values of their states.

A convolution over the last positions is kept in 16 bits, most recurrent states in 32, as
transformers does. Sources: its modelling files, of the families named with each function.
"""

from collections.abc import Callable
from typing import NamedTuple

from dipsim.model.families.config import HEADS, HIDDEN, Config


class State(NamedTuple):
    """Weights of a mixer, and the values that it keeps in 16 and in 32 bits."""

    parameters: int
    in_16_bits: int
    in_32_bits: int

    @property
    def values(self) -> int:
        """All values of the state."""
        return self.in_16_bits + self.in_32_bits

    @property
    def bits(self) -> float:
        """Mean bits of a value."""
        return (16 * self.in_16_bits + 32 * self.in_32_bits) / max(self.values, 1)


def _rank(config: Config) -> int:
    """Return the rank of the projection of time steps, a sixteenth of the width unless given."""
    if config.value("time_step_rank", "mamba_dt_rank") in (None, "auto"):
        return -(-config.need(*HIDDEN) // 16)
    return config.need("time_step_rank", "mamba_dt_rank")


def mamba(config: Config) -> State:
    """Mamba: selective state-space of every channel (mamba, falcon_mamba, jamba, zamba)."""
    hidden = config.need(*HIDDEN)
    width = (config.count("expand", "mamba_expand") or 2) * hidden
    size = config.need("state_size", "mamba_d_state")
    kernel = config.need("conv_kernel", "mamba_d_conv")
    rank = _rank(config)
    weights = 3 * hidden * width + width * (rank + 2 * size) + (rank + 1) * width
    weights += width * (kernel + size + 1)
    if config.flag("use_conv_bias", "mamba_conv_bias"):
        weights += width
    if config.flag("use_bias", "mamba_proj_bias"):
        weights += 2 * width + hidden
    return State(weights, width * kernel, width * size)


def jamba(config: Config) -> State:
    """Mamba with norms of its three inputs."""
    state, norms = mamba(config), _rank(config) + 2 * config.need("mamba_d_state")
    return state._replace(parameters=state.parameters + norms)


def mamba2(config: Config) -> State:
    """Mamba-2: one decay per head (mamba2, bamba, granite, falcon_h1, nemotron_h, zamba2)."""
    hidden = config.need(*HIDDEN)
    heads = config.need("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
    inner = (config.count("mamba_expand", "expand") or 2) * hidden
    size = config.value("mamba_d_head", "mamba_head_dim", "mamba_headdim", "head_dim")
    if size in (None, "auto"):
        size = inner // max(heads, 1)
    width = config.count("mamba_d_ssm") or heads * config.over({"size": size}).need("size")
    groups = config.count("mamba_n_groups", "mamba_ngroups", "n_groups") or 1
    state = config.need("mamba_d_state", "ssm_state_size", "state_size")
    kernel = config.need("mamba_d_conv", "conv_kernel")
    channels = width + 2 * groups * state
    projected = width + channels + heads
    weights = hidden * (projected + width) + channels * kernel + 3 * heads
    if config.value("mamba_rms_norm") is not False:
        weights += width
    if config.flag("use_conv_bias", "mamba_conv_bias"):
        weights += channels
    if config.flag("mamba_proj_bias", "use_bias", "add_bias_linear"):
        weights += projected + hidden
    return State(weights, channels * kernel, width * state)


def delta(config: Config) -> State:
    """Gated delta rule (qwen3_next, qwen3_5, olmo_hybrid)."""
    hidden = config.need(*HIDDEN)
    heads, size = config.need("linear_num_value_heads"), config.need("linear_value_head_dim")
    key = config.need("linear_key_head_dim")
    keys, values = config.need("linear_num_key_heads") * key, heads * size
    kernel, channels = config.need("linear_conv_kernel_dim"), 2 * keys + values
    projections = hidden * (2 * keys + 3 * values + 2 * heads)
    weights = projections + channels * kernel + 2 * heads + size
    return State(weights, channels * kernel, heads * key * size)


def _kimi(config: Config, rank: bool) -> State:
    inner = config.nested("linear_attn_config")
    hidden = config.need(*HIDDEN)
    heads = inner.need("num_heads", "linear_num_heads", *HEADS)
    size = inner.need("linear_head_dim", "head_dim")
    kernel = inner.need("short_conv_kernel_size", "linear_conv_kernel_dim")
    width = heads * size
    gate = size * (hidden + width) if rank else hidden * width
    weights = 4 * hidden * width + 3 * width * kernel + hidden * heads
    weights += 2 * gate + width + heads + size
    return State(weights, 3 * width * kernel, width * size)


def kimi(config: Config) -> State:
    """Kimi delta attention: a decay per channel, gates of low rank (kimi_linear)."""
    return _kimi(config, rank=True)


def bailing(config: Config) -> State:
    """Kimi delta attention with whole gates (bailing_hybrid)."""
    return _kimi(config, rank=False)


def convolution(config: Config) -> State:
    """Gated short convolution (lfm2)."""
    hidden, kernel = config.need(*HIDDEN), config.need("conv_L_cache")
    bias = 5 * hidden if config.flag("conv_bias") else 0
    return State(4 * hidden**2 + hidden * kernel + bias, hidden * kernel, 0)


def rglru(config: Config) -> State:
    """Real-gated linear recurrent unit behind a convolution (recurrent_gemma)."""
    hidden, kernel = config.need(*HIDDEN), config.need("conv1d_width")
    width, heads = config.count("lru_width") or hidden, config.need(*HEADS)
    gates = 2 * (width * (width // max(heads, 1)) + width) + width
    weights = 3 * hidden * width + 2 * width + hidden + width * (kernel + 1) + gates
    return State(weights, width * (kernel - 1), width)


def lightning(config: Config) -> State:
    """Linear attention with a fixed decay and an output gate (minimax)."""
    hidden, heads = config.need(*HIDDEN), config.need(*HEADS)
    size = config.count("head_dim") or hidden // max(heads, 1)
    width = heads * size
    return State(5 * hidden * width + width, width * size, 0)


STATES: dict[str, Callable[[Config], State]] = {
    "mamba": mamba,
    "jamba": jamba,
    "mamba2": mamba2,
    "delta": delta,
    "kimi": kimi,
    "bailing": bailing,
    "convolution": convolution,
    "rglru": rglru,
    "lightning": lightning,
}
"""Mixers with a state, by the names that the table of families gives them."""
