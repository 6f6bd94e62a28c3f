"""The compute unit that ran a test of llama-bench, by its backends, devices and layers on them."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from dipsim.calibrate.benchmarks.reading import whole, words
from dipsim.errors import brief
from dipsim.validate.cases import Case
from dipsim.validate.devices import model_of

_UNITS: Mapping[str, tuple[str, str]] = {
    "cpu": ("llama.cpp", "cpu"),
    "opencl": ("llama.cpp OpenCL", "gpu"),
    "vulkan": ("llama.cpp Vulkan", "gpu"),
    "metal": ("llama.cpp Metal", "gpu"),
    "mtl": ("llama.cpp Metal", "gpu"),
    "cuda": ("llama.cpp CUDA", "gpu"),
    "rocm": ("llama.cpp ROCm", "gpu"),
    "sycl": ("llama.cpp SYCL", "gpu"),
    "htp": ("llama.cpp HTP", "npu"),
    "hexagon": ("llama.cpp HTP", "npu"),
}
"""Engine and compute unit by llama.cpp's name of a backend."""
_BESIDE = {"blas", "cpu", "kleidiai", "repack", "accelerate", "openblas"}
"""Backends that work beside another one on the CPU."""
_KEEP_PROMPTS = {"opencl", "htp", "hexagon"}
"""Backends that leave prompts of a model without layers on them to the CPU."""
ALL_LAYERS = 99
"""Number of layers that stands for all."""
_MOST_LAYERS = 64
"""Layers that no model for a phone or a laptop exceeds."""


class Ran(NamedTuple):
    """Engine and compute unit of a test."""

    engine: str
    unit: str


def ran_on(row: Mapping[str, Any], model: str, prompt: bool) -> Ran:
    """Return what ran a row.

    Args:
        row: with ``backends``, ``n_gpu_layers``, ``devices`` and more, as far as they are stated.
        model: name of the model.
        prompt: True for a test of a prompt.

    Raises:
        ValueError: several units shared the work, or it is not told which did it, in a sentence.
    """
    fast = _accelerator(row)
    if fast is None:
        return Ran(*_UNITS["cpu"])
    layers = row.get("n_gpu_layers")
    on_it = ALL_LAYERS if layers is None else whole(layers, "n_gpu_layers", -(2**31), 2**31)
    if on_it == 0:
        if prompt and fast not in _KEEP_PROMPTS and not row.get("no_op_offload"):
            raise ValueError(
                f"a prompt with -ngl 0 and {fast}: the GPU computes large batches all the same; "
                "give -nopo 1, or a build for the CPU"
            )
        return Ran(*_UNITS["cpu"])
    if _is_split(on_it, model):
        raise ValueError(f"-ngl {on_it} may split the model between CPU and {fast}: give -ngl 99")
    if row.get("n_cpu_moe") or row.get("no_kv_offload"):
        raise ValueError("experts, or keys and values, stay with the CPU: two units share the work")
    if words(row.get("tensor_buft_overrides")) not in ("", "none"):
        raise ValueError("some tensors are placed by -ot: two units may share the work")
    return Ran(*_UNITS[fast])


def _accelerator(row: Mapping[str, Any]) -> str | None:
    """Return the backend that took the layers; None for the CPU alone."""
    devices = words(row.get("devices")).lower()
    if devices == "none":
        return None
    told = devices if devices not in ("", "auto") else words(row.get("backends")).lower()
    names = [re.sub(r"^gpu|\d+$", "", part.strip()) for part in re.split(r"[,/+]", told)]
    fast = list(dict.fromkeys(name for name in names if name and name not in _BESIDE))
    if len(fast) > 1:
        raise ValueError(f"{brief(' and '.join(fast))}: not told which of them ran: give -dev")
    if fast and fast[0] not in _UNITS:
        raise ValueError(f"backend {brief(fast[0], 40)} is none that is known")
    if not fast and not told and row.get("n_gpu_layers") not in (None, 0):
        raise ValueError("no backend is stated")
    return fast[0] if fast else None


def _is_split(layers: int, model: str) -> bool:
    """Return True if so many layers on the GPU may leave others, or the last step, on the CPU."""
    if layers < 0 or layers >= ALL_LAYERS:
        return False
    known = model_of(Case(id="model", model=model), {})
    return layers <= (_MOST_LAYERS if known is None else known.layers)
