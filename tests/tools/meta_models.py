"""Models of transformers without weights: what they have, and what their caches keep."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

BESIDE = ("vision", "visual", "audio", "multi_modal", "embed_vision", "embed_audio")
"""What in a parameter's name says that it is not of the text model."""


class Built(NamedTuple):
    """What a model of transformers has, without vision and audio towers."""

    parameters: int
    cached: int | None
    """Bytes of keys, values and states in 16 bits at so many positions; None where it cannot run
    without weights."""


def build(config: Mapping[str, Any], positions: int) -> Built:
    """Build the model of a config on the meta device, and fill its static cache."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    values = {key: value for key, value in config.items() if key != "quantization_config"}
    kind = values.pop("model_type")
    own = AutoConfig.for_model(kind, **values)
    texts = type(own) in AutoModelForCausalLM._model_mapping
    with torch.device("meta"):
        model = (
            (AutoModelForCausalLM if texts else AutoModelForImageTextToText)
            .from_config(
                own,
                dtype=torch.bfloat16,
                attn_implementation="eager",
            )
            .eval()
        )
    weights = sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if not any(mark in name for mark in BESIDE)
    )
    return Built(weights, _cached(model, positions))


def _cached(model: Any, positions: int) -> int | None:
    import torch
    from transformers import StaticCache

    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("batched_mm")  # the others need values
    text = model.config.get_text_config(decoder=True)
    cache = StaticCache(config=text, max_cache_len=positions)
    takes = inspect.signature(model.forward).parameters
    given = "past_key_values" if "past_key_values" in takes else "cache"
    ids = torch.zeros((1, 2), dtype=torch.long, device="meta")
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=True, **{given: cache})
    except (NotImplementedError, RuntimeError, ValueError):
        return None
    tensors = [tensor for layer in cache.layers for tensor in _tensors(vars(layer))]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) or None


def _tensors(held: Mapping[str, Any]) -> list[Any]:
    """Return the tensors that a layer of a cache holds, those of its dictionaries too."""
    import torch

    found: list[Any] = []
    for value in held.values():
        if isinstance(value, dict):
            found += _tensors(value)
        elif isinstance(value, torch.Tensor) and value.ndim > 1:
            found.append(value)
    return found
