"""Geometry out of a Hugging Face `config.json`: one table of what every architecture calls it."""

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
"""Per ``model_type``, what differs from `_COMMON`."""
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma2": {"tied_embeddings": True, "window_every": 2, "head_dim": 256},
    "opt": {"tied_embeddings": True, "gated": False},
}


def is_hf_config(path: Path) -> bool:
    """Whether a path looks like one: a `.json` file, or a folder that holds `config.json`."""
    return path.suffix == ".json" or (path / FILE).is_file()


def read_hf_config(path: Path) -> dict[str, Any]:
    """The geometry in a `config.json` (or in a folder that holds one), as `load_model` takes it.

    Raises:
        ModelError: unreadable, or an architecture that is not known.
    """
    file = path / FILE if path.is_dir() else path
    config = files.read_json(file, ModelError)
    return geometry_of(config, str(file), file.resolve().parent.name)


def geometry_of(config: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """The geometry in the values of a config, as `load_model` takes it.

    Args:
        config: what `config.json` holds, or a transformers config's ``to_dict()``.
        where: names the config in messages.
        name: of the model, where the config names none.

    Raises:
        ModelError: an architecture that is not known.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ModelError(
            f"{where}: model_type {str(kind)[:40]!r} is not known (known: {', '.join(_KEYS)}): "
            "write its geometry as YAML, see dipsim models NAME"
        )
    found = {"name": str(config.get("_name_or_path") or name)[:80], **_DEFAULTS.get(kind, {})}
    found |= _found(config, {**_COMMON, **_KEYS[kind]})
    if "experts_per_token" in found and "experts" not in found:  # qwen3_moe, since transformers 5
        found |= _found(config, _MIXTRAL)
    used = config.get("use_sliding_window", not kind.startswith("qwen"))
    if not used or kind not in _WINDOWED:
        found.pop("window", None)
    if "window" not in found:
        found.pop("window_every", None)
    found.setdefault("kv_heads", found.get("heads"))
    return found


_WINDOWED = ("mistral", "phi3", "gemma2", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe")


def _found(config: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    return {ours: config[theirs] for ours, theirs in keys.items() if config.get(theirs) is not None}
