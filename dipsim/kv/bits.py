"""Formats of keys and values: how many bytes the positions of a sequence take.

``kivi:bits=2`` for both, ``q8_0/q4_0`` for keys, then values. Scales and zero points count, and so
do the newest positions, which some formats keep in fp16 until a block of them is full.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError, brief, check_text
from dipsim.plugins import (
    Kind,
    label,
    name_and_parameters,
    parse_parameters,
    unknown,
    with_values,
)

_FP16 = 2.0
"""Bytes of a number that is not quantised."""


@dataclass(frozen=True)
class Part:
    """Storage of the keys, or of the values."""

    bits: float = 16.0
    """Bits per number, without scales."""
    group: int = 1
    """Numbers that share a scale and a zero point."""
    shared_bytes: float = 0.0
    """Bytes of a scale and its zero point."""
    along: Literal["channels", "tokens"] = "channels"
    """Axis along which the numbers of a group lie: ``tokens`` is what KIVI calls per channel."""
    window: int = 0
    """Newest positions that stay in fp16."""
    block: int = 1
    """Positions that are quantised at once; until then they are in fp16."""
    code: Literal["float", "scale", "range"] = "float"
    """Meaning of the bits: a float, a multiple of a scale, or a step from the least to the largest
    number of the group (rounding.py)."""

    @property
    def newest(self) -> int:
        """Most positions that are in fp16 at a time; all before them are quantised."""
        return self.window + self.block - 1

    def quantised(self, positions: NDArray[Any] | int) -> NDArray[np.int64]:
        """Return how many of the first ``positions`` are quantised, int64 of their shape."""
        old = np.maximum(np.asarray(positions, np.int64) - self.window, 0)
        return old // self.block * self.block

    def before_quantised(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the last number of positions, up to ``positions``, of which one more would have a
        block quantised, int64 of their shape; all where none has been."""
        blocks = (positions + 1 - self.window) // self.block
        full: NDArray[np.int64] = self.window + blocks * self.block - 1
        return np.where(blocks > 0, full, positions)

    def position_bytes(self, width: int) -> float:
        """Return the bytes of one quantised position of ``width`` numbers, with its scales."""
        groups = -(-width // self.group) if self.along == "channels" else width / self.group
        return width * self.bits / 8 + groups * self.shared_bytes

    def bytes(self, positions: NDArray[Any] | int, width: int) -> NDArray[np.float64]:
        """Return the bytes of the first ``positions`` of a sequence, float64 of their shape."""
        held = np.asarray(positions, np.int64)
        quantised = self.quantised(held)
        fresh = (held - quantised).astype(np.float64)
        return quantised.astype(np.float64) * self.position_bytes(width) + fresh * width * _FP16

    def kept_bytes(self, kept: NDArray[np.bool_], width: int) -> NDArray[np.float64]:
        """Return the bytes of what eviction has left.

        A group along tokens is freed only when all its positions are gone.

        Args:
            kept: bool[..., positions], of all positions of the sequence those that are held.
        """
        quantised = int(self.quantised(kept.shape[-1]))
        old, new = kept[..., :quantised], kept[..., quantised:]
        if self.along == "tokens":
            starts = np.arange(0, quantised, self.group)
            groups = np.logical_or.reduceat(old, starts, axis=-1) if quantised else old
            many = np.asarray(groups.sum(-1) * self.group, np.float64)
        else:
            many = np.asarray(old.sum(-1), np.float64)
        fresh = np.asarray(new.sum(-1), np.float64)
        return many * self.position_bytes(width) + fresh * width * _FP16

    def written(self, positions: NDArray[Any] | int, width: int) -> NDArray[np.float64]:
        """Return the bytes written as position number ``positions`` (from 1) comes: it, and what
        becomes quantised by it."""
        many = np.asarray(positions, np.int64)
        quantised = (self.quantised(many) - self.quantised(many - 1)).astype(np.float64)
        first = width * _FP16 if self.newest else 0.0
        return quantised * self.position_bytes(width) + first


class KvFormat(NamedTuple):
    """Storage of keys and values; see `parse_format`."""

    name: str
    key: Part
    value: Part

    @property
    def newest(self) -> int:
        """Most positions that are in fp16 at a time."""
        return max(self.key.newest, self.value.newest)

    def position_bytes(self, width: int) -> float:
        """Return the bytes of one quantised position: ``width`` keys and as many values."""
        return self.key.position_bytes(width) + self.value.position_bytes(width)

    def bytes(
        self, positions: NDArray[Any] | int, width: int, value_reads: int = 1
    ) -> NDArray[np.float64]:
        """Return the bytes of the first ``positions`` of a layer, float64 of their shape.

        Args:
            positions: held by the layer.
            width: keys of one position, kv heads times head dim.
            value_reads: how often the values count: 2 where a rule of eviction reads them twice.
        """
        values = self.value.bytes(positions, width)
        return self.key.bytes(positions, width) + value_reads * values

    def fullest(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return numbers of positions, up to ``positions``, of which one takes the most bytes,
        int64[3, ...]: blocks that become full take less than before."""
        parts = self.key.before_quantised(positions), self.value.before_quantised(positions)
        return np.stack([positions, *parts])

    def written(self, positions: NDArray[Any] | int, width: int) -> NDArray[np.float64]:
        """Return the bytes that a layer writes as position number ``positions`` comes."""
        return self.key.written(positions, width) + self.value.written(positions, width)


def plain(bits: float, name: str | None = None) -> KvFormat:
    """Return the format of ``bits`` per number, without scales."""
    part = Part(bits)
    return KvFormat(name or f"{bits:g} bits", part, part)


def _kivi(bits: float, group: int, residual: int) -> tuple[Part, Part]:
    """KIVI (arXiv 2402.02750): keys in groups along tokens, values along channels, each group with
    a scale and a zero point in fp16; the newest positions of both stay in fp16."""
    key = Part(bits, group, 4.0, "tokens", residual, group, "range")
    return key, Part(bits, group, 4.0, "channels", residual, code="range")


def _kivi_code(bits: float, group: int, residual: int) -> tuple[Part, Part]:
    """KIVI as its authors' code runs it: keys are quantised ``residual`` positions at once
    (models/llama_kivi.py)."""
    key = Part(bits, group, 4.0, "tokens", 0, residual, "range")
    return key, Part(bits, group, 4.0, "channels", residual, code="range")


def _transformers(bits: float, group: int, residual: int) -> tuple[Part, Part]:
    """The quantised cache of transformers: all that came since are quantised once they are
    ``residual``; of a prompt, at once, which is left out here."""
    part = Part(bits, group, 4.0, "channels", 0, residual, "range")
    return part, part


def _ggml(bits: float) -> Callable[[], tuple[Part, Part]]:
    """Return the maker of a format of llama.cpp: blocks of 32 numbers with a scale in fp16."""
    part = Part(bits, 32, 2.0, code="scale")
    return lambda: (part, part)


def _float(bits: float) -> Callable[[], tuple[Part, Part]]:
    return lambda: (Part(bits), Part(bits))


BUILTIN: Mapping[str, tuple[Callable[..., tuple[Part, Part]], Mapping[str, float]]] = {
    "fp16": (_float(16.0), {}),
    "fp8": (_float(8.0), {}),
    "q8_0": (_ggml(8.0), {}),
    "q4_0": (_ggml(4.0), {}),
    "kivi": (_kivi, {"bits": 2.0, "group": 32, "residual": 128}),
    "kivi-code": (_kivi_code, {"bits": 2.0, "group": 32, "residual": 128}),
    "transformers": (_transformers, {"bits": 4.0, "group": 64, "residual": 128}),
}
"""Formats by name: what makes keys and values, and its parameters with their defaults."""
_KIND = Kind("KV format", KvFormat, DipsimError, BUILTIN, "kivi:bits=2")


def parse_format(text: str) -> KvFormat:
    """Read a format, ``NAME:key=value``, or two, ``KEYS/VALUES``.

    Raises:
        DipsimError: an unknown name or parameter, or numbers that make no format, in one line.
    """
    check_text("KV format", text, f"a text such as {_KIND.example}")
    keys, slash, values = text.partition("/")
    if not slash:
        return _one(keys)
    first, second = _one(keys), _one(values)
    return KvFormat(f"{first.name}/{second.name}", first.key, second.value)


FP16 = plain(16.0, "fp16")


def _one(text: str) -> KvFormat:
    name, _ = name_and_parameters(text)
    if name not in BUILTIN:
        raise unknown(_KIND, text, ", or two as KEYS/VALUES")
    make, known_values = BUILTIN[name]
    given = parse_parameters(_KIND, text)
    what = f"KV format {name}"
    changed = dict(with_values(what, known_values, (), given, DipsimError))
    values = {**known_values, **changed}
    bits, group, residual = (values.get(key, 1) for key in ("bits", "group", "residual"))
    if not (1 <= bits <= 16 and 1 <= group <= 4096 and 0 <= residual <= 2**20):
        raise DipsimError(
            f"{what}: bits are 1 to 16, a group 1 to 4096 numbers, a residual 0 to {2**20} "
            f"positions; given {brief(text)!r}"
        )
    if make is _kivi_code and (residual == 0 or residual % group):
        raise DipsimError(f"{what}: residual {residual:g} is no multiple of group {group:g}")
    if make is _transformers and residual == 0:
        raise DipsimError(f"{what}: residual is at least 1 position")
    return KvFormat(label(name, tuple(changed.items())), *make(**values))
