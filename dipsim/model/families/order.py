"""Mixer and MLP of every layer, in order."""

from collections.abc import Callable
from typing import Literal

from dipsim.model.families.config import Config

Mixer = Literal["full", "window", "chunk", "state", "both", "none"]
"""Attention to all positions, to the last ones, to those of a chunk; a state of fixed size, a state
beside attention, or nothing."""
Mlp = Literal["experts", "dense", "none"]

_MIXERS: dict[str, Mixer] = {
    **dict.fromkeys(("full_attention", "attention", "full", "global", "indexed_attention"), "full"),
    **dict.fromkeys(("sliding_attention", "local", "sliding"), "window"),
    "chunked_attention": "chunk",
    **dict.fromkeys(("linear_attention", "mamba", "mamba2", "recurrent", "conv", "kda"), "state"),
    "hybrid": "both",
    **dict.fromkeys(("mlp", "moe", "dense", "dummy"), "none"),
}
"""Mixers by their names in ``layer_types`` and its kin."""
_LETTERS: dict[str, Mixer] = {"M": "state", "*": "full", "-": "none", "E": "none"}
"""Mixers by their letters in a ``hybrid_override_pattern``."""
_LISTS = ("layer_types", "layers_block_type", "hybrid_override_pattern", "block_types")
_EVERY = ("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")


def mixers(config: Config, order: str, layers: int) -> list[Mixer]:
    """Return the mixer of every layer: as listed, else by the rule of the family.

    Args:
        order: a key of `ORDERS`.

    Raises:
        ModelError: a list that is too short or too long, or a name that is not known.
    """
    given = config.value(*_LISTS)
    if given is None:
        return ORDERS[order](config, layers)
    if isinstance(given, str):
        given = list(given.replace("|", ""))
    if isinstance(given, list | tuple) and given and order == "repeated":
        given = [given[i % len(given)] for i in range(layers)]
    listed = config.over({"layer_types": given}).listed("layer_types", layers=layers) or []
    found = [_named(config, each) for each in listed]
    return (
        ["window" if each == "full" else each for each in found] if order == "repeated" else found
    )


def _named(config: Config, given: object) -> Mixer:
    known = {**_MIXERS, **_LETTERS}
    if not isinstance(given, str) or given not in known:
        raise config.refused("layer_types", given, f"one of {', '.join(_MIXERS)}")
    return known[given]


def _every(config: Config, layers: int) -> list[Mixer]:
    """Let every n-th layer attend to all positions, the others to a window."""
    given = config.value(*_EVERY)
    if isinstance(given, str) and given and set(given) <= {"L", "G"}:
        return ["window" if given[i % len(given)] == "L" else "full" for i in range(layers)]
    every = config.need(*_EVERY)
    return ["window" if every == 0 or (i + 1) % every else "full" for i in range(layers)]


def _every_first(config: Config, layers: int) -> list[Mixer]:
    every = max(config.need(*_EVERY), 1)
    return ["window" if i % every else "full" for i in range(layers)]


def _late(config: Config, layers: int) -> list[Mixer]:
    """Let the layers behind the first ones attend to a window, if it is used at all."""
    first = config.count("max_window_layers") or 0
    used = config.flag("use_sliding_window")
    return ["window" if used and i >= first else "full" for i in range(layers)]


def _chunks(config: Config, layers: int) -> list[Mixer]:
    listed = config.value("no_rope_layers")
    if listed:
        rope = config.listed("no_rope_layers", layers=layers) or []
    else:
        every = max(config.need("no_rope_layer_interval"), 1)
        rope = [(i + 1) % every for i in range(layers)]
    return ["chunk" if each else "full" for each in rope]


def _period(config: Config, layers: int) -> list[Mixer]:
    every = max(config.need("attn_layer_period"), 1)
    offset = config.need("attn_layer_offset")
    return ["full" if i % every == offset else "state" for i in range(layers)]


def _indices(config: Config, layers: int) -> list[Mixer]:
    full = config.indices("attn_layer_indices") or frozenset()
    return ["full" if i in full else "state" for i in range(layers)]


def _all_or_indices(config: Config, layers: int) -> list[Mixer]:
    full = config.indices("full_attn_idxs")
    return ["full" if full is None or i in full else "state" for i in range(layers)]


def _states(config: Config, layers: int) -> list[Mixer]:
    """Let every n-th layer attend to all positions, the others keep a state."""
    every = max(config.need("full_attention_interval", "layer_group_size"), 1)
    return ["state" if (i + 1) % every else "full" for i in range(layers)]


def _kimi(config: Config, layers: int) -> list[Mixer]:
    """Count layers from 1, as Kimi-Linear does."""
    full = config.nested("linear_attn_config").indices("full_attn_layers")
    if full is None:
        return ["full" if i and i % 4 == 0 else "state" for i in range(layers)]
    return ["full" if i + 1 in full else "state" for i in range(layers)]


def _minimax(config: Config, layers: int) -> list[Mixer]:
    types = config.listed("attn_type_list", layers=layers)
    if types is None:
        return ["state" if i % 2 else "full" for i in range(layers)]
    return ["full" if each else "state" for each in types]


def _flagged(config: Config, layers: int) -> list[Mixer]:
    """Read a list that has a 1 for every layer with a window."""
    flags = config.listed("hybrid_layer_pattern", layers=layers)
    if flags is None:
        return ["window" if i and (i + 1) % 6 else "full" for i in range(layers)]
    return ["window" if each else "full" for each in flags]


ORDERS: dict[str, Callable[[Config, int], list[Mixer]]] = {
    "full": lambda config, layers: ["full"] * layers,
    "window": lambda config, layers: ["window"] * layers,
    "state": lambda config, layers: ["state"] * layers,
    "both": lambda config, layers: ["both"] * layers,
    "every": _every,
    "every first": _every_first,
    "late": _late,
    "chunks": _chunks,
    "period": _period,
    "indices": _indices,
    "all or indices": _all_or_indices,
    "states": _states,
    "kimi": _kimi,
    "minimax": _minimax,
    "flagged": _flagged,
    "repeated": lambda config, layers: ["window"] * layers,
}
"""Rules by which families lay out their mixers where a config does not list them."""


def mlps(config: Config, experts: list[int | None], layers: int) -> list[Mlp]:
    """Return whether every layer has experts or a dense MLP.

    Args:
        experts: how many every layer has, if it is a layer with experts.

    Raises:
        ModelError: a list that is too short or too long.
    """
    sparse = _listed(config, layers) or _counted(config, layers)
    return [
        "experts" if chosen and (many or 0) > 0 else "dense"
        for chosen, many in zip(sparse, experts, strict=True)
    ]


def _listed(config: Config, layers: int) -> list[bool] | None:
    """Return which layers a list in the config gives experts; None if it has no list."""
    types = config.listed("mlp_layer_types", layers=layers)
    if types is not None:
        return [each in ("sparse", "moe") for each in types]
    if isinstance(config.value("moe_layer_freq"), list):
        return [bool(each) for each in config.listed("moe_layer_freq", layers=layers) or []]
    chosen = config.indices("moe_layers")
    return None if chosen is None else [i in chosen for i in range(layers)]


def _counted(config: Config, layers: int) -> list[bool]:
    """Return which layers have experts by the keys that count them."""
    first = config.count("first_k_dense_replace", "num_dense_layers", "moe_layer_num_skipped") or 0
    first = max(first, config.count("moe_layer_start_index") or 0)
    end = config.value("moe_layer_end_index")
    last = layers - 1 if end in (None, -1) else config.need("moe_layer_end_index")
    dense = config.indices("mlp_only_layers") or frozenset()
    steps = [(step, shift) for step, shift in _steps(config) if step != 1]
    return [
        first <= i <= last
        and i not in dense
        and all(step and (i + shift) % step == 0 for step, shift in steps)
        for i in range(layers)
    ]


def _steps(config: Config) -> list[tuple[int, int]]:
    """Return (step, shift): layer i has experts where step divides i + shift."""
    found = [(name, 1) for name in ("decoder_sparse_step", "interleave_moe_layer_step")]
    found += [("moe_layer_interval", 1), ("moe_layer_freq", 0)]
    found += [("expert_layer_period", -(config.count("expert_layer_offset") or 0))]
    named = [(config.count(name), shift) for name, shift in found]
    return [(step, shift) for step, shift in named if step is not None]
