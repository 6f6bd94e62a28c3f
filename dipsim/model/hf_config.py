"""Geometry out of a Hugging Face `config.json`: one table of the keys of each architecture."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dipsim import files
from dipsim.errors import ModelError

FILE = "config.json"
_COMMON = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab": "vocab_size",
    "tied_embeddings": "tie_word_embeddings",
    "activation": "hidden_act",
    "context": "max_position_embeddings",
    "window": "sliding_window",
}
_MIXTRAL = {"experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"}
_QWEN_MOE = {
    "experts": "num_experts",
    "experts_per_token": "num_experts_per_tok",
    "intermediate": "moe_intermediate_size",
}
_OPT = {"intermediate": "ffn_dim", "activation": "activation_function"}
_KEYS: dict[str, dict[str, str]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "gemma2": {"activation": "hidden_activation"},
    "opt": _OPT,
    "mixtral": _MIXTRAL,
    "qwen2_moe": {**_QWEN_MOE, "shared_intermediate": "shared_expert_intermediate_size"},
    "qwen3_moe": _QWEN_MOE,
    "olmoe": {"experts": "num_experts", "experts_per_token": "num_experts_per_tok"},
}
"""Keys per ``model_type`` that differ from `_COMMON`."""
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma2": {"tied_embeddings": True, "window_every": 2, "head_dim": 256},
    "opt": {"tied_embeddings": True, "gated": False},
}


def is_hf_config(path: Path) -> bool:
    """Return True for a `.json` file or a folder that holds `config.json`."""
    return path.suffix == ".json" or os.path.isfile(path / FILE)


def read_hf_config(path: Path) -> dict[str, Any]:
    """Read the geometry in a `config.json` or a folder with one, in the form `load_model` takes.

    Raises:
        ModelError: an unreadable file, or an unknown architecture.
    """
    file = path / FILE if os.path.isdir(path) else path
    config = files.read_json(file, ModelError)
    return geometry_of(config, str(file), file.absolute().parent.name)


def geometry_of(config: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """Return the geometry in the values of a config, in the form `load_model` takes.

    Args:
        config: the contents of `config.json`, or a transformers config's ``to_dict()``.
        where: name of the config in error messages.
        name: name of the model if the config gives none.

    Raises:
        ModelError: an unknown architecture.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ModelError(
            f"{where}: model_type {str(kind)[:40]!r} is not known (known: {', '.join(_KEYS)}): "
            "write its geometry as YAML, see dipsim models NAME"
        )
    geometry = {"name": str(config.get("_name_or_path") or name)[:80], **_DEFAULTS.get(kind, {})}
    geometry |= _renamed(config, {**_COMMON, **_KEYS[kind]})
    if "experts_per_token" in geometry and "experts" not in geometry:
        # transformers 5 writes qwen3_moe with mixtral's keys
        geometry |= _renamed(config, _MIXTRAL)
    used = config.get("use_sliding_window", not kind.startswith("qwen"))
    if not used or kind not in _WINDOWED:
        geometry.pop("window", None)
    if "window" not in geometry:
        geometry.pop("window_every", None)
    geometry.setdefault("kv_heads", geometry.get("heads"))
    return geometry


_WINDOWED = ("mistral", "phi3", "gemma2", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe")


def _renamed(config: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the config's values under dipsim's names; absent ones are left out."""
    return {ours: config[theirs] for ours, theirs in keys.items() if config.get(theirs) is not None}
