"""Storage of weights by the ``quantization_config`` of a config.

Sources: the quantization configs of transformers, and the formats of GPTQ, AWQ, bitsandbytes (4-bit
blocks of 64 with a scale in 32 bits, itself in 8 where quantised again), OCP MXFP4 (32 weights with
a scale of 8 bits) and the block scales of DeepSeek-V3 (one in 32 bits for 128 x 128 weights).
"""

from collections.abc import Callable, Mapping
from typing import Any

WHOLE = 16.0
"""Bits per weight of what stays as it was trained."""
_ALWAYS = ("embedding", "head", "router", "other")
"""Parts that no method quantises unless it says so."""
_MARKS = {
    "self_attn": "attention",
    "attention": "attention",
    "linear_attn": "attention",
    "mamba": "attention",
    "shared_expert": "shared",
}
"""Part of a model by what stands in the name of a module that is left whole."""
Storage = float | dict[str, Any]


def storage_of(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a model's storage; none where the config says nothing of it.

    Args:
        outer: values of the config.
        inner: values of the text model in it, which may be the same.
    """
    found = next((each["quantization_config"] for each in (outer, inner) if _named(each)), None)
    if found is None:
        return {}
    method = str(found.get("quant_method") or _bitsandbytes(found))
    read = _METHODS.get(method)
    stored = None if read is None else read(found)
    if stored is None:
        return {"approximate": f"how {method[:40]} stores weights is not known: give --bits"}
    parts: dict[str, Storage] = dict.fromkeys(_ALWAYS, WHOLE)
    if found.get("lm_head") is True:
        parts["head"] = stored
    if method == "mxfp4":
        parts |= {"attention": WHOLE, "shared": WHOLE}
    for part in _whole(found):
        parts[part] = WHOLE
    if isinstance(stored, dict):
        return {"quant": stored, "parts": parts}
    return {"bits": stored, "weight_format": method[:40], "parts": parts}


def _named(values: Mapping[str, Any]) -> bool:
    return isinstance(values.get("quantization_config"), Mapping)


def _bitsandbytes(found: Mapping[str, Any]) -> str:
    return "bitsandbytes" if "load_in_4bit" in found or "load_in_8bit" in found else "it"


def _whole(found: Mapping[str, Any]) -> list[str]:
    """Return the parts whose modules are listed as left whole."""
    names: list[Any] = []
    for key in ("modules_to_not_convert", "ignore", "ignored_layers", "llm_int8_skip_modules"):
        if isinstance(found.get(key), list):
            names += found[key]
    texts = [name for name in names if isinstance(name, str)]
    return [part for mark, part in _MARKS.items() if any(mark in text for text in texts)]


def _number(found: Mapping[str, Any], *names: str, usual: int | None = None) -> int | None:
    """Return a whole number of reasonable size; None where it is no such number."""
    given = next((found[name] for name in names if found.get(name) is not None), usual)
    fits = isinstance(given, int) and not isinstance(given, bool) and -1 <= given <= 2**16
    return given if fits else None


def _grouped(name: str, bits: int | None, group: int | None, zeros: bool) -> Storage | None:
    """Return the storage of weights in groups along a row, each with a scale in 16 bits."""
    if bits is None or not 1 <= bits <= 16 or group is None:
        return None
    stored = {"format": name, "bits": float(bits)}
    if group <= 0:
        return {**stored, "axis": "channel"}
    return {**stored, "group": group, "axis": "in", "zero_bytes": bits / 8 if zeros else 0.0}


def _gptq(found: Mapping[str, Any]) -> Storage | None:
    bits, group = _number(found, "bits"), _number(found, "group_size", usual=128)
    return _grouped("gptq", bits, group, zeros=True)


def _awq(found: Mapping[str, Any]) -> Storage | None:
    bits = _number(found, "bits", "w_bit", usual=4)
    group = _number(found, "group_size", "q_group_size", usual=128)
    return _grouped("awq", bits, group, zeros=found.get("zero_point") is not False)


def _fp8(found: Mapping[str, Any]) -> Storage | None:
    block = found.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2:
        return {"format": "fp8", "bits": 8.0, "axis": "channel"}
    rows, columns = (each if isinstance(each, int) and 1 <= each <= 2**16 else 0 for each in block)
    return 8.0 + 32.0 / (rows * columns) if rows * columns else None


def _four_bits(found: Mapping[str, Any]) -> Storage | None:
    if found.get("load_in_8bit") or found.get("_load_in_8bit"):
        return {"format": "int8", "bits": 8.0, "axis": "channel"}
    twice = found.get("bnb_4bit_use_double_quant") is True
    return 4.0 + (8 / 64 + 32 / (64 * 256) if twice else 32 / 64)


def _compressed(found: Mapping[str, Any]) -> Storage | None:
    """Read the weights of the first group of compressed-tensors."""
    groups = found.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        return None
    group = _number(weights, "group_size") if weights.get("strategy") == "group" else -1
    zeros = weights.get("symmetric") is False
    return _grouped("compressed-tensors", _number(weights, "num_bits"), group, zeros)


_METHODS: dict[str, Callable[[Mapping[str, Any]], Storage | None]] = {
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": lambda found: {
        "format": "mxfp4",
        "bits": 4.0,
        "group": 32,
        "axis": "in",
        "scale_bytes": 1.0,
    },
    "bitsandbytes": _four_bits,
    "compressed-tensors": _compressed,
}
"""Storage by ``quant_method``; None where its numbers are missing or make no sense."""
