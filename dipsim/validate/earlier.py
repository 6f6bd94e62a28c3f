"""Cases in the form of earlier versions, ``dipsim-validation`` 1, read as those of today.

They state numbers of the device under ``hw``, of the model under ``model``, and measured times
under ``measured``; engine and model are words in texts.
"""

import re
from collections.abc import Mapping
from typing import Any

from dipsim.errors import DipsimError, brief
from dipsim.model import weight_format

FORMAT, VERSION = "dipsim-validation", 1
_KINDS = {"in-memory-decode": "decode", "e2e-streaming": "streaming", "e2e-mmap-thrash": "mapped"}
_MIB = 2**20
_MOST = 1e18
"""Largest number that is worked with: a larger one is handed on as it stands, and refused."""
_ENGINES = (
    ("BigMoeOnEdge", "BigMoeOnEdge"), ("executorch", "ExecuTorch XNNPACK"), ("T-MAC", "T-MAC"),
    ("ollama", "ollama"), ("OpenCL", "llama.cpp OpenCL"), ("Hexagon", "llama.cpp HTP"),
    ("HTP", "llama.cpp HTP"), ("CoreML", "Core ML"), ("CUDA", "llama.cpp CUDA"),
    ("Metal", "llama.cpp Metal"), ("llama.cpp", "llama.cpp"),
)  # fmt: skip
"""Words in the texts of a case, and the engines that they mean."""
_LANES = r"\b(\d{1,3}) read lanes"
_UNITS = (
    ("Hexagon", "npu"), ("HTP", "npu"), ("ANE", "ane"), ("Neural Engine", "ane"),
    ("Adreno", "gpu"), ("Metal", "gpu"), ("GPU", "gpu"), ("CUDA", "gpu"), ("CPU", "cpu"),
)  # fmt: skip
"""Words in the texts of a case, and the compute units that they mean."""


def modern(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the contents of such a file in the form of today.

    Raises:
        DipsimError: another version, or cases that are no objects.
    """
    if data.get("version") != VERSION:
        raise DipsimError(f"{where}: format {FORMAT} has version {VERSION}")
    listed = data.get("cases")
    if not isinstance(listed, list) or not all(isinstance(case, dict) for case in listed):
        raise DipsimError(f"{where}: cases must be a list of objects")
    return {"cases": [_modern_case(case, where) for case in listed]}


def _modern_case(case: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return one case in the form of today; one that no rule predicts says so.

    Raises:
        DipsimError: its measured figures are no object.
    """
    texts = {key: str(case.get(key, "")) for key in ("id", "device", "source", "policy", "note")}
    model, measured = case.get("model"), case.get("measured")
    if not isinstance(measured, dict):
        raise DipsimError(f"{where}: case {brief(texts['id'])}: measured must be an object")
    name = str(model.get("name", "")) if isinstance(model, dict) else ""
    result: dict[str, Any] = {
        "id": texts["id"],
        "kind": _KINDS.get(str(case.get("kind")), "curve"),
        "device": texts["device"][:400],
        "source": texts["source"][:400],
        "engine": _told(texts["device"] + texts["policy"], _ENGINES)
        or _told(texts["source"], _ENGINES),
        "backend": _told(texts["device"] + texts["policy"], _UNITS),
        "model": name[:400],
    }
    result["weight_format"] = _format_of(model if isinstance(model, dict) else {}, result["engine"])
    threads = re.search(r"\d{1,3} threads", texts["device"])
    if result["kind"] == "curve":
        result["not_predicted"] = "states no time of a run that a rule predicts"
    elif threads is not None:
        result["not_predicted"] = f"on {threads[0]}: profiles are of the usual number"
    elif isinstance(model, dict):
        result |= _work(case, model)
    value = _tokens_per_second(measured)
    return result if value is None else {**result, "value": value}


def _told(text: str, words: tuple[tuple[str, str], ...]) -> str:
    """Return the meaning of the first of ``words`` that stands in a text; "" for none."""
    return next((meaning for word, meaning in words if word.lower() in text.lower()), "")


def _format_of(model: Mapping[str, Any], engine: str) -> str | None:
    """Return the weight format that the texts of a model name, else ExecuTorch's own 4 bits for its
    engine; None for neither."""
    named = weight_format(f"{model.get('name', '')} {model.get('bits', '')}")
    return named or ("8da4w" if engine.startswith("ExecuTorch") else None)


def _tokens_per_second(measured: Mapping[str, Any]) -> Any:
    """Return the measured rate, as it stands in the file; None without one."""
    for key, scale in (("tok_s", 1.0), ("ms_per_token", 1e3), ("s_per_token", 1.0)):
        value = measured.get(key)
        if value is None:
            continue
        return value if key == "tok_s" or not _is_positive(value) else scale / value
    return None


def _is_positive(value: Any) -> bool:
    """Return True for a number above 0 that can be worked with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MOST


def _work(case: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the work that a case states, in bytes per token."""
    policy = str(case.get("policy", ""))
    used = model.get("topk_used", model.get("topk"))
    demand = model.get(f"token_demand_MiB_k{used}", model.get("token_demand_MiB"))
    layers = model.get("layers", model.get("moe_layers"))
    lanes = re.search(_LANES, policy)
    stated = {
        "layers": layers,
        "experts": model.get("experts"),
        "experts_per_token": used,
        "expert_bytes": _expert_bytes(model, demand, layers, used),
        "dense_MiB": model.get("dense_MiB_in_layers"),
        "flash_bytes": case.get("flash_bytes_per_token"),
        "weight_bytes": case.get("dram_bytes_per_token"),
        "cache_MiB": case.get("dram_cache_MiB"),
        "lanes": None if lanes is None else int(lanes[1]),
        "overlap": "pipelined" if re.search(r"overlap[= ]on", policy) else "serial",
    }
    return {key: value for key, value in stated.items() if value is not None}


def _expert_bytes(model: Mapping[str, Any], demand: Any, layers: Any, used: Any) -> Any:
    """Return the bytes of an expert: an equal part of all that a token uses, else as stated; None
    where neither is stated.

    Args:
        demand: MiB of experts that a token uses in all layers.
        used: experts that a token uses in a layer.
    """
    if all(map(_is_positive, (demand, layers, used))):
        return demand * _MIB / layers / used
    if "expert_bytes" in model:
        return model["expert_bytes"]
    size: Any = model.get("expert_MB")
    return size * 1e6 if _is_positive(size) else size
