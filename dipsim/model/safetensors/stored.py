"""The storage of a model out of the headers of its safetensors."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dipsim.errors import ModelError, first_problem
from dipsim.model.formats import weight_format
from dipsim.model.model import Model, without_parts
from dipsim.model.safetensors.files import Tensor, read_tensors
from dipsim.model.safetensors.parts import parts_of
from dipsim.model.storage import NORM_BITS, Part
from dipsim.units import BYTES

_PLAIN = {"F32": 32.0, "F16": 16.0, "BF16": 16.0}
_MATRICES: tuple[Part, ...] = ("gate", "up", "down", "attention", "router", "shared")
_BITS = 0.1, 32.0
"""Range of the mean bits per weight that are believed."""
_FEWER = 1e-4
"""Share of a model's weights that files may lack and nothing is said."""


def with_storage(geometry: Mapping[str, Any], paths: list[Path]) -> dict[str, Any]:
    """Return a geometry that takes the bytes of its files, and has the weights beside it that they
    hold and it does not know, as ``other_parameters``.

    A part has the mean bits of its tensors, scales and zero points included; what is left of the
    bytes is in ``other``. Where the geometry counts more weights than there are, ``approximate``
    tells.

    Args:
        geometry: in the form `load_model` takes.
        paths: the safetensors files of the model.

    Raises:
        ModelError: a bad header, or not the weights of this geometry.
    """
    try:
        model = Model.model_validate(without_parts(geometry))
    except ValidationError as problem:
        raise ModelError(f"{paths[0]}: {first_problem(problem)}") from None
    held = Held(model.layers, read_tensors(paths))
    if not held.bytes["head"]:  # one matrix is embedding and head
        geometry = {**geometry, "tied_embeddings": True}
        model = model.model_copy(update={"tied_embeddings": True})
    weights, whole = model.part_parameters, sum(held.bytes.values())
    mean = 8 * whole / max(model.parameters, 1)
    if not _BITS[0] <= mean <= _BITS[1]:
        raise ModelError(
            f"{paths[0]}: {BYTES.show(whole)} of weights, the config counts "
            f"{model.parameters:,}: not the weights of this model"
        )
    beyond = held.beyond(weights)
    beside = max(beyond, 0)
    weights["other"] += beside
    bits = held.bits(weights, mean)
    more: dict[str, Any] = {}
    if beside:
        more["other_parameters"] = geometry.get("other_parameters", 0) + beside
    if -beyond > _FEWER * model.parameters:
        said = [geometry["approximate"]] if geometry.get("approximate") else []
        counted = f"counts {-beyond:,} weights more than its files hold"
        more["approximate"] = "; ".join([*said, counted])
    if held.apart:
        left = f"without {BYTES.show(held.apart)} of the files, which decoding text does not use"
        more["sources"] = {**geometry.get("sources", {}), "bytes": left}
    return {**_stored(geometry, held, bits, weights), **more}


def _stored(
    geometry: Mapping[str, Any],
    held: "Held",
    bits: Mapping[Part, float],
    weights: Mapping[Part, int],
) -> dict[str, Any]:
    """Return the geometry, stored as the files are: its format is that of the matrices of layers,
    where they have one."""
    matrices = [part for part in _MATRICES if weights[part]]
    types = {dtype for part in matrices for dtype in held.types[part]}
    many = sum(weights[part] for part in matrices)
    usual = sum(bits[part] * weights[part] for part in matrices) / many if many else NORM_BITS
    stored = without_parts({key: value for key, value in geometry.items() if key != "bits"})
    if len(types) == 1 and types <= set(_PLAIN):
        usual = _PLAIN[next(iter(types))]
        stored["weight_format"] = weight_format(next(iter(types)))
    elif (quant := geometry.get("quant")) is not None:
        return {**stored, "quant": quant, "parts": dict(bits)}
    norm = {part: NORM_BITS if part == "norm" else usual for part in bits}
    parts = {part: each for part, each in bits.items() if each != norm[part]}
    return {**stored, "bits": usual, **({"parts": parts} if parts else {})}


class Held:
    """Contents of files by part of a model: bytes, numbers, and their types."""

    def __init__(self, layers: int, tensors: Mapping[str, Tensor]) -> None:
        self.bytes: Counter[Part] = Counter()
        self.numbers: Counter[Part] = Counter()
        self.types: dict[Part, set[str]] = {part: set() for part in _MATRICES}
        self.apart = 0
        """Bytes that decoding does not use."""
        for name, tensor in tensors.items():
            parts = parts_of(name, len(tensor.shape), layers)
            if not parts:
                self.apart += tensor.bytes
            for part in parts:
                self.bytes[part] += tensor.bytes // len(parts)
                self.numbers[part] += tensor.numbers // len(parts)
                self.types.setdefault(part, set()).add(tensor.dtype)
        if not self.bytes["head"] and self.bytes["embedding"]:
            self.types["head"] = self.types["embedding"]

    def plain(self, part: Part) -> bool:
        """Return True if no tensor of a part is packed, so that its numbers are weights."""
        return self.types.get(part, set()) <= set(_PLAIN)

    def beyond(self, weights: Mapping[Part, int]) -> int:
        """Return how many weights the files hold beyond those counted; negative: how many fewer.

        Of packed parts nobody knows: they are left out.
        """
        plain = [part for part in {*weights, *self.numbers} if self.plain(part)]
        return sum(self.numbers[part] for part in plain) - sum(weights[part] for part in plain)

    def bits(self, weights: Mapping[Part, int], mean: float) -> dict[Part, float]:
        """Return the bits per weight of each part, such that all of them take the files' bytes.

        Args:
            weights: of each part.
            mean: bits of parts of which the files have no tensor by that name.
        """
        whole = sum(self.bytes.values())
        tied = not self.bytes["head"]
        found: dict[Part, float] = {}
        for part, many in weights.items():
            source: Part = "embedding" if part == "head" and tied else part
            per = self.numbers[source] if self.plain(source) else many
            if many and part != "other":
                found[part] = 8 * self.bytes[source] / per if self.bytes[source] and per else mean
        left = 8 * whole - sum(found[part] * weights[part] for part in found)
        other = left / weights["other"] if weights["other"] else 0.0
        if _BITS[0] <= other <= _BITS[1]:
            return {**found, "other": other}
        usual = NORM_BITS if weights["other"] else 0.0
        counted = 8 * whole - left + usual * weights["other"]
        scaled = {part: each * 8 * whole / counted for part, each in found.items()}
        return {**scaled, **({"other": usual * 8 * whole / counted} if usual else {})}
