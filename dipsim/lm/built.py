"""Geometry of a model that transformers builds without weights: for families with no row.

MLPs, norms and towers are told by the names of their weights; the rest of a layer is its mixer.
Keys, values and states are those that a static cache of transformers keeps after two tokens.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dipsim.errors import ModelError, brief
from dipsim.lm.quiet import quiet
from dipsim.model.families.mlps import EXPERTS, USED
from dipsim.model.stacked import in_kinds

MOST_LAYERS, MOST_EXPERTS = 256, 4096
"""Most that is built: modules cost memory without weights too."""
_MLP: tuple[str, ...] = (
    "mlp",
    "feed_forward",
    "feedforward",
    "ffn",
    "moe",
    "expert",
    "fc1",
    "fc2",
    "fc_in",
)
_MLP += (".up_proj", ".down_proj")
"""Parts of names of weights that are of an MLP."""
TOWERS = ("vision", "visual", "audio", "multi_modal")
"""Parts of names of weights that are not of the text model."""
Named = list[tuple[str, Tensor]]
"""Weights with their names."""
_POSITIONS = 2**30  # windows are shorter


class _Kept(NamedTuple):
    """Contents of one layer of a cache."""

    per_position: int
    window: int | None
    state_values: int
    state_bits: float


def geometry_of_config(values: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """Return the geometry of a config, in the form `load_model` takes.

    No code that a config names is run, and nothing is downloaded.

    Raises:
        ModelError: transformers does not know the family, or cannot build the model.
    """
    from transformers import (
        CONFIG_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ModelError(
            f"{where}: model_type {brief(str(kind), 40)!r}: neither dipsim nor the installed "
            "transformers knows it: write its geometry as YAML, see dipsim models NAME"
        )
    own = {key: value for key, value in values.items() if not key.startswith("_")}
    for key in ("model_type", "quantization_config", "auto_map", "attn_implementation"):
        own.pop(key, None)
    try:
        with quiet():
            config = AutoConfig.for_model(kind, **own)
            _check_size(config.get_text_config(decoder=True), where)
            texts = type(config) in AutoModelForCausalLM._model_mapping
            auto: Any = AutoModelForCausalLM if texts else AutoModelForImageTextToText
            with torch.device("meta"):
                model = auto.from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
    except ModelError:
        raise
    except Exception as problem:  # whatever a config makes of the code of a family
        raise ModelError(
            f"{where}: transformers builds no {kind} of it ({brief(str(problem), 120)}): write "
            "its geometry as YAML, see dipsim models NAME"
        ) from None
    return geometry_of_modules(model.eval(), where, name)


def _check_size(config: Any, where: str) -> None:
    """Refuse what would take long to build.

    Raises:
        ModelError: more layers or experts than any model has.
    """
    counts = [("num_hidden_layers", MOST_LAYERS), *((key, MOST_EXPERTS) for key in EXPERTS)]
    for key, most in counts:
        given = getattr(config, key, None)
        if isinstance(given, int) and given > most:
            raise ModelError(f"{where}: {key} {given}: at most {most} are built")


def geometry_of_modules(model: Any, where: str, name: str) -> dict[str, Any]:
    """Return the geometry of a model on the meta device, in the form `load_model` takes.

    Raises:
        ModelError: its layers are not found.
    """
    config = model.config.get_text_config(decoder=True)
    many = getattr(config, "num_hidden_layers", 0)
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == many > 0
    ]
    if not found:
        raise ModelError(f"{where}: the layers of {type(model).__name__} are not found: write YAML")
    blocks = max(found, key=_weights)
    table = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    tied = head is None or head.weight is table
    hidden = number_in(config, "hidden_size") or int(table.shape[1])
    kept = _kept(model, many)
    configs = list(getattr(config, "per_layer_config", None) or ())
    configs = configs if len(configs) == many else [config] * many
    layers: list[dict[str, Any]] = []
    counted: set[Tensor] = set()
    for i, block in enumerate(blocks):
        own: Named = [(n, w) for n, w in block.named_parameters() if w not in counted]
        counted.update(weight for _, weight in own)  # layers may share modules
        layers.append(_layer(own, configs[i], hidden, kept[i] if kept else None))
    beside = _weights(model) - _weights(blocks) - _vision(model) - hidden
    beside -= table.numel() * (1 if tied else 2)
    geometry = {
        "name": name[:80],
        "hidden": hidden,
        "vocab": int(table.shape[0]),
        "tied_embeddings": tied,
        "other_parameters": max(beside, 0),
        **in_kinds(layers),
    }
    if table.shape[1] != hidden:
        geometry["embedding_dim"] = int(table.shape[1])
    if kept is None:
        geometry["approximate"] = "KV is that of all positions and heads in every layer"
    return geometry


def _weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _vision(model: nn.Module) -> int:
    """Return the weights of towers that decoding does not use."""
    named = model.named_parameters()
    return sum(w.numel() for name, w in named if any(mark in name for mark in TOWERS))


def _layer(own: Named, config: Any, hidden: int, kept: _Kept | None) -> dict[str, Any]:
    """Return the keys of the layer that has these weights."""
    mlp = _mlp(own, config, hidden)
    norms = sum(w.numel() == hidden for name, w in own if w.ndim == 1 and "norm" in name)
    matrices = (3 if mlp["gated"] else 2) * hidden
    each = mlp["intermediate"] * matrices + (hidden if "experts" in mlp else 0)
    fed = each * mlp.get("experts", 1) + matrices * mlp.get("shared_intermediate", 0)
    total = sum(weight.numel() for _, weight in own)
    mixer = max(total - fed - min(norms, 16) * hidden, 0)
    heads = number_in(config, "num_attention_heads") or 1
    size = number_in(config, "head_dim") or max(hidden // heads, 1)
    keys = min(number_in(config, "num_key_value_heads") or heads, heads)
    found = {
        **mlp,
        "norms": min(norms, 16),
        "heads": heads,
        "kv_heads": keys,
        "head_dim": size,
        "attention_parameters": mixer,
    }
    if kept is None:
        return found
    found |= {"kv_values": kept.per_position}
    if kept.window:
        found |= {"attention": "window", "window": kept.window}
    elif not kept.per_position:
        found |= {"attention": "state" if kept.state_values else "none", "kv_values": None}
    if kept.state_values:
        found |= {"state_values": kept.state_values, "state_bits": kept.state_bits}
    if found.get("attention") == "none":
        found |= {"extra_parameters": mixer, "attention_parameters": None}
    return found


def number_in(config: Any, *names: str) -> int | None:
    """Return the first whole number that a config has under one of the names."""
    given = (getattr(config, name, None) for name in names)
    return next((each for each in given if type(each) is int and each > 0), None)


def _mlp(own: Named, config: Any, hidden: int) -> dict[str, Any]:
    """Return the keys of a layer's MLP: the width is what all its matrices share beside hidden."""
    fed = [(name, weight) for name, weight in own if any(mark in name for mark in _MLP)]
    experts, used = number_in(config, *EXPERTS), number_in(config, *USED)
    stacks = [w[0] for _, w in fed if w.ndim == 3 and w.shape[0] == experts]
    stacks = stacks or [w for n, w in fed if w.ndim == 2 and "experts.0." in n]
    if stacks and experts and used:
        shared = [w for n, w in fed if w.ndim == 2 and "shared" in n]
        found = _matrices(stacks, hidden)
        matrices = (3 if found["gated"] else 2) * hidden
        total = sum(weight.numel() for weight in shared)
        return {
            **found,
            "experts": experts,
            "experts_per_token": min(used, experts),
            "shared_intermediate": total // matrices,
        }
    return _matrices([w for _, w in fed if w.ndim == 2], hidden)


def _matrices(weights: list[Tensor], hidden: int) -> dict[str, Any]:
    fitting = [w for w in weights if hidden in w.shape]
    if not fitting:
        return {"intermediate": 0, "gated": True}
    widths = [w.numel() // hidden for w in fitting]
    width = min(widths)
    if width < 8 < max(widths):  # a router, or the gate of a shared expert
        width = min(each for each in widths if each >= 8)
    total = sum(each for each in widths if each >= width)
    return {"intermediate": width, "gated": total >= 3 * width}


def _kept(model: Any, layers: int) -> list[_Kept] | None:
    """Return what every layer keeps of a sequence; None if the model does not run on nothing."""
    from transformers import StaticCache

    takes = inspect.signature(model.forward).parameters
    given = "past_key_values" if "past_key_values" in takes else "cache"
    if given not in takes:
        return None
    with suppress(Exception):  # most experts need values, batched_mm none
        model.set_experts_implementation("batched_mm")
    ids = torch.zeros((1, 2), dtype=torch.long, device="meta")
    try:
        with quiet(), torch.no_grad():
            text = model.config.get_text_config(decoder=True)
            cache = StaticCache(config=text, max_cache_len=_POSITIONS)
            model(input_ids=ids, use_cache=True, **{given: cache})
    except Exception:  # whatever a family does with values that are not there
        return None
    if len(cache.layers) != layers:
        return None
    return [_of_layer(layer) for layer in cache.layers]


def _of_layer(layer: Any) -> _Kept:
    """Return what a layer of a cache keeps."""
    per_position, window, state, bits = 0, None, 0, 0
    for tensor, positions in _tensors(vars(layer)):
        if positions is None:
            state += tensor.numel()
            bits += tensor.numel() * tensor.element_size() * 8
        else:
            sixteens = tensor.element_size() / 2  # some indexers keep their keys in 32 bits
            per_position += int(tensor.numel() * sixteens) // positions
            window = positions if positions < _POSITIONS else None
    return _Kept(per_position, window, state, bits / max(state, 1))


def _tensors(held: Mapping[str, Any]) -> Iterator[tuple[Tensor, int | None]]:
    """Yield the tensors of a layer of a cache, and the positions that they have, if any."""
    for value in held.values():
        if isinstance(value, dict):
            yield from ((each, None) for each in value.values() if isinstance(each, Tensor))
        elif isinstance(value, Tensor) and value.ndim > 1:
            yield value, int(value.shape[-2])
