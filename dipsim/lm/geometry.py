"""Geometry of a model that runs: by its config, as transformers builds it, or off its modules."""

from contextlib import suppress
from typing import Any

import numpy as np
from torch import Tensor, nn

from dipsim.errors import ModelError
from dipsim.lm.built import TOWERS, geometry_of_config, number_in
from dipsim.lm.structure import Structure, find_structure
from dipsim.model import load_model
from dipsim.model.families import geometry_of as read_geometry

_CLOSE = 0.01
"""Share of the weights that a geometry may miss before it is called approximate."""


def geometry_of(
    model: nn.Module, name: str = "model", structure: Structure | None = None
) -> dict[str, Any] | None:
    """Return the geometry of a transformers model, in the form `load_model` takes.

    It is the config's, where dipsim knows the architecture and the weights agree; else that of the
    same model built anew without weights; else that of the modules which ran. What it cannot
    express, its entry ``approximate`` says.

    Args:
        structure: the result of `find_structure`, if it is known already.

    Returns:
        None for a model without a config, or whose layers are not understood.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return None
    values = config.to_dict()
    values.pop("_name_or_path", None)  # a path of the user's machine
    weights = _weights(model)
    named, off = None, np.inf
    for read in (read_geometry, geometry_of_config):
        with suppress(ModelError):
            found = read(values, name, name)
            if (missed := _missed(found, weights)) <= _CLOSE:
                return found
            if missed < off:
                named, off = found, missed
    try:
        ran = structure or find_structure(model)
        measured = min(_measured(model, ran, name), key=lambda read: _missed(read, weights))
        remarks = _remarks(config, measured, weights)
    except ModelError:
        return named
    if named is not None and off <= _missed(measured, weights):
        measured, remarks = named, [_counted(named, weights)]
    return {**measured, "approximate": "; ".join(remarks)} if remarks else measured


def _weights(module: nn.Module) -> int:
    """Return the weights of a text model without adapters; one that is shared counts once."""
    return sum(
        weight.numel()
        for name, weight in module.named_parameters()
        if "lora_" not in name and not any(mark in name for mark in TOWERS)
    )


def _missed(geometry: dict[str, Any], weights: int) -> float:
    """Return the share of ``weights`` by which a geometry's differ.

    Raises:
        ModelError: it is no geometry.
    """
    return abs(load_model(geometry).parameters / max(weights, 1) - 1)


def _counted(geometry: dict[str, Any], weights: int) -> str:
    return f"counts {load_model(geometry).parameters} weights, the model has {weights}"


def _remarks(config: Any, geometry: dict[str, Any], weights: int) -> list[str]:
    """Return what a geometry read off the modules leaves out of the model.

    Raises:
        ModelError: it is no geometry.
    """
    remarks = []
    if _missed(geometry, weights) > _CLOSE:
        remarks.append(_counted(geometry, weights))
    kinds = getattr(config, "layer_types", None) or ()
    if getattr(config, "sliding_window", None) or set(kinds) - {"full_attention"}:
        remarks.append("KV is that of all positions in every layer, where some keep fewer")
    if getattr(config, "kv_lora_rank", None):
        remarks.append("KV is that of unfolded keys and values, not of their latent vectors")
    return remarks


def _measured(model: nn.Module, structure: Structure, name: str) -> list[dict[str, Any]]:
    """Return the geometries that the modules which ran may have: the heads of keys are a guess."""
    config: Any = model.config
    routed = [i for i, layer in enumerate(structure.layers) if layer.router is not None]
    number = routed[-1] if routed else -1
    last, block = structure.layers[number], structure.blocks[number]
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    widths = last.units
    hidden = widths.get("attn_input") or widths.get("mlp_input") or embedding.weight.shape[1]
    heads = number_in(config, "num_attention_heads") or 1
    attention = last.units.get("attn_output", hidden)
    head_dim = attention // heads if attention % heads == 0 else attention
    heads = attention // head_dim
    named = number_in(config, "num_key_value_heads", "num_kv_heads") or heads
    geometry = {
        "name": name[:80],
        "layers": len(structure.layers),
        "hidden": hidden,
        "heads": heads,
        "head_dim": head_dim,
        "vocab": embedding.weight.shape[0],
        "tied_embeddings": head is None or head.weight is embedding.weight,
        "context": number_in(config, "max_position_embeddings"),
    }
    activation = getattr(config, "hidden_act", None)
    if isinstance(activation, str):
        geometry["activation"] = activation
    if last.router is None:
        geometry |= {"intermediate": last.units["glu"], "gated": last.gate is not None}
    else:
        geometry |= _mixture(block, hidden, last.router.experts, last.router.k)
    stated = {key: value for key, value in geometry.items() if value is not None}
    return [{**stated, "kv_heads": count} for count in dict.fromkeys((min(named, heads), heads, 1))]


def _mixture(block: nn.Module, hidden: int, experts: int, k: int) -> dict[str, Any]:
    """Return the geometry of the experts of a layer, and of an MLP that every token uses.

    Raises:
        ModelError: the weights of the experts are not found.
    """
    shapes = _expert_shapes(block, experts)
    if not shapes:
        raise ModelError("the weights of the experts are not found")
    width = min(shape[1] if shape[0] == hidden else shape[0] for shape in shapes)
    per_expert = sum(rows * columns for rows, columns in shapes)
    gated = round(per_expert / (hidden * width)) >= 3
    shared = sum(
        weight.numel()
        for name, weight in block.named_parameters()
        if weight.ndim == 2 and "shared" in name and min(weight.shape) > 1
    )
    return {
        "intermediate": width,
        "gated": gated,
        "experts": experts,
        "experts_per_token": k,
        "shared_intermediate": shared // ((3 if gated else 2) * hidden),
    }


def _expert_shapes(block: nn.Module, experts: int) -> list[tuple[int, int]]:
    """Return the shapes of the matrices of one expert, stacked or in a list of modules."""
    listed = [
        module
        for module in block.modules()
        if isinstance(module, nn.ModuleList) and len(module) == experts
    ]
    weights: list[Tensor] = []
    if listed:
        weights = [weight for weight in listed[0][0].parameters() if weight.ndim == 2]
    else:
        weights = [w[0] for w in block.parameters() if w.ndim == 3 and len(w) == experts]
    return [(weight.shape[0], weight.shape[1]) for weight in weights]
