"""Tensors of a GGUF file as parts of a model, and the weights of each part in every layer."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dipsim.model.gguf.header import Tensor, TensorType
from dipsim.model.storage import Part

_IN_LAYER = re.compile(r"blk\.(\d{1,6})\.(.+)", re.ASCII)
_ONE_EXPERT = re.compile(r"(ffn_(?:gate|up|down))\.(\d{1,5})", re.ASCII)
_MLP: dict[str, tuple[Part, ...]] = {
    "ffn_gate": ("gate",),
    "ffn_up": ("up",),
    "ffn_down": ("down",),
    "ffn_gate_exps": ("gate",),
    "ffn_up_exps": ("up",),
    "ffn_down_exps": ("down",),
    "ffn_gate_up_exps": ("gate", "up"),
}
_SHARED = ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
_DENSE = ("ffn_gate", "ffn_up", "ffn_down")
_MIXER = re.compile(
    r"attn_(q|k|v|output|qkv|gate|q_a|q_b|kv_a_mqa|kv_b|k_b|v_b)|indexer\..+|shortconv\..+",
    re.ASCII,
)


@dataclass
class Stored:
    """Weights of one part: their number, bytes, and types."""

    weights: int = 0
    bytes: float = 0.0
    types: set[TensorType] = field(default_factory=set)

    def add(self, weights: int, size: float, types: Iterable[TensorType]) -> None:
        """Count weights in."""
        self.weights += weights
        self.bytes += size
        self.types |= set(types)


class Parts(defaultdict[Part, Stored]):
    """Weights stored of each part."""

    def __init__(self) -> None:
        super().__init__(Stored)

    def count(self, tensor: Tensor, *parts: Part) -> None:
        """Count a tensor in, in equal shares."""
        for part in parts:
            share = tensor.weights // len(parts)
            self[part].add(share, tensor.bytes / len(parts), [tensor.kind])

    def join(self, others: Iterable["Parts"]) -> "Parts":
        """Return these and others together."""
        joined = Parts()
        for each in (self, *others):
            for part, stored in each.items():
                joined[part].add(stored.weights, stored.bytes, stored.types)
        return joined


@dataclass
class LayerTensors:
    """The tensors of one layer."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes by name, without ``.weight``."""
    parts: Parts = field(default_factory=Parts)
    norms: int = 0
    """Norms of as many weights as the model is wide."""
    numbered: int = 0
    """Experts that are tensors of their own."""

    def has(self, *names: str) -> bool:
        """Return True if any of the tensors is there."""
        return any(name in self.shapes for name in names)

    def begins(self, start: str) -> bool:
        """Return True if any tensor's name begins so."""
        return any(name.startswith(start) for name in self.shapes)

    def axis(self, name: str, axis: int) -> int | None:
        """Return the length of an axis of a tensor; None where there is none."""
        shape = self.shapes.get(name, ())
        return shape[axis] if axis < len(shape) else None

    @property
    def experts(self) -> int | None:
        """Number of experts; None in a dense layer."""
        return self.axis("ffn_down_exps", 2) or self.numbered or None

    @property
    def gated(self) -> bool:
        """True if the MLP has a gate, which may be one matrix with up, as in Phi-3."""
        width, up = self.axis("ffn_down", 0), self.axis("ffn_up", 1)
        fused = width is not None and up == 2 * width
        return fused or any(
            name.startswith("ffn_gate") and "inp" not in name for name in self.shapes
        )

    @property
    def width(self) -> int:
        """Width of the MLP, or of an expert; 0 without one."""
        return self.axis("ffn_down_exps", 0) or self.axis("ffn_down", 0) or 0

    @property
    def shared(self) -> int:
        """Width of the MLPs that every token uses beside experts."""
        beside = self.axis("ffn_down", 0) if self.has("ffn_down_exps") else None
        return (self.axis("ffn_down_shexp", 0) or 0) + (beside or 0)


def sort_tensors(
    tensors: Iterable[Tensor], hidden: int, layers: int
) -> tuple[list[LayerTensors], dict[str, Tensor]]:
    """Return what each layer holds, and the tensors outside layers by their names."""
    found = [LayerTensors() for _ in range(layers)]
    outside: dict[str, Tensor] = {}
    listed: list[tuple[LayerTensors, str, Tensor]] = []
    for tensor in tensors:
        match = _IN_LAYER.fullmatch(tensor.name)
        if match is None or int(match[1]) >= layers:
            outside[tensor.name] = tensor
            continue
        layer = found[int(match[1])]
        name = match[2].removesuffix(".weight")
        numbered = _ONE_EXPERT.fullmatch(name)
        if numbered is not None:
            layer.numbered = max(layer.numbered, int(numbered[2]) + 1)
            name = numbered[1]
        layer.shapes[name] = tensor.shape
        listed.append((layer, name, tensor))
    for layer, name, tensor in listed:
        _count(layer, name, tensor, hidden)
    return found, outside


def _count(layer: LayerTensors, name: str, tensor: Tensor, hidden: int) -> None:
    """Count a tensor of a layer as the part it is."""
    matrix = len(tensor.shape) > 1 and not name.endswith((".bias", ".scale"))
    if name in _SHARED or (name in _DENSE and layer.has("ffn_down_exps")):
        layer.parts.count(tensor, "shared" if matrix else "other")
    elif name in _MLP and matrix:
        fused = name == "ffn_up" and tensor.shape[1] == 2 * layer.width
        layer.parts.count(tensor, *(("gate", "up") if fused else _MLP[name]))
    elif name == "ffn_gate_inp":
        layer.parts.count(tensor, "router")
    elif name.startswith("ssm_") or (matrix and _MIXER.fullmatch(name)):
        layer.parts.count(tensor, "attention")
    elif "norm" in name and tensor.shape == (hidden,) and not name.endswith(".bias"):
        layer.norms += 1
        layer.parts.count(tensor, "norm")
    else:
        layer.parts.count(tensor, "other")


def storage_of(stored: Stored) -> Any:
    """Return how a part is stored, in the form `load_model` takes: a ``quant`` where all of it has
    one type, bits where that has no scales, else the mean bits."""
    if len(stored.types) != 1:
        return 8 * stored.bytes / stored.weights
    (kind,) = stored.types
    return quant_of(kind) if kind.weights > 1 else float(kind.bits)


def quant_of(kind: TensorType) -> dict[str, Any]:
    """Return a type of tensors as the ``quant`` of a model."""
    scales = kind.size - kind.weights * kind.bits / 8
    return {
        "format": kind.name,
        "bits": float(kind.bits),
        "group": kind.weights,
        "scale_bytes": scales,
    }
