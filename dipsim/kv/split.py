"""KVPR (arXiv 2411.17089): part of the keys and values is computed again instead of being read.

The inputs of attention of the first l positions are sent, and their keys and values computed from
them while those of the other positions are sent. What this takes is

    T(l) = b [ l h a / v + max(4 l h k / c, 2 (s - l) k p / v) ]

with b sequences, s positions, h hidden, k kv width, p and a bytes per element of KV and of the
inputs, v the link in bytes/s, c in FLOP/s. T falls until both terms of the maximum are equal, if an
input is smaller than the keys and values made of it.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dipsim.model import Model


@dataclass(frozen=True)
class Recompute:
    """A layer's keys and values behind a link, and the compute that could make them again."""

    hidden: int
    width: int
    """Keys of one position: kv heads times head dim."""
    link: float
    """Bytes/s of what they are read through."""
    compute: float
    """FLOP/s."""
    element: float = 2.0
    """Bytes per key or value."""
    input_element: float = 2.0
    """Bytes per element of the inputs of attention."""
    batch: int = 1
    pipelined: bool = False
    """True if the inputs of a layer are sent while the layer before computes."""

    @classmethod
    def of(cls, model: Model, link: float, compute: float, **how: Any) -> Self:
        """Return that of a model's layers; ``how`` are further fields."""
        return cls(model.hidden, model.kv_heads * model.head_dim, link, compute, **how)

    @property
    def input_bytes(self) -> float:
        """Bytes of the input of one position."""
        return self.hidden * self.input_element

    @property
    def kv_bytes(self) -> float:
        """Bytes of the keys and values of one position."""
        return 2 * self.width * self.element

    @property
    def why_none(self) -> str | None:
        """Sentence on why nothing is computed again; None where it can pay."""
        if self.input_bytes < self.kv_bytes:
            return None
        return (
            f"no keys and values are computed again: the input of a position takes "
            f"{self.input_bytes:g} B a layer, its keys and values {self.kv_bytes:g} B, so sending "
            "the input saves nothing; it can pay where kv heads are more than half as wide as the "
            "hidden state"
        )

    def flops(self, recomputed: NDArray[Any] | int) -> NDArray[np.float64]:
        """Return the FLOP of making keys and values of positions, float64 of their shape."""
        return 4.0 * self.batch * self.hidden * self.width * np.asarray(recomputed, np.float64)

    def seconds(
        self, stored: NDArray[Any] | int, recomputed: NDArray[Any] | int | float
    ) -> NDArray[np.float64]:
        """Return the seconds until the keys and values of a layer are there.

        Args:
            stored: positions behind the link.
            recomputed: those computed again, l.
        """
        again = np.asarray(recomputed, np.float64)
        inputs = again * self.input_bytes / self.link
        rest = (np.asarray(stored, np.float64) - again) * self.kv_bytes / self.link
        compute = 4.0 * self.hidden * self.width * again / self.compute
        if self.pipelined:
            return self.batch * np.maximum(inputs + rest, compute)
        return self.batch * (inputs + np.maximum(compute, rest))

    def balance(self, stored: NDArray[Any] | int) -> NDArray[np.float64]:
        """Return the l, not rounded, at which computing takes as long as sending, within 0 to
        ``stored``; 0 where sending inputs saves nothing."""
        positions = np.asarray(stored, np.float64)
        if self.why_none is not None:
            return 0.0 * positions
        saved = self.kv_bytes - self.input_bytes if self.pipelined else self.kv_bytes
        per_position = 4.0 * self.hidden * self.width * self.link / self.compute
        return np.minimum(positions * self.kv_bytes / (saved + per_position), positions)

    def positions(self, stored: NDArray[Any] | int) -> NDArray[np.int64]:
        """Return the whole l that takes least time, int64 of the shape of ``stored``: the better
        neighbour of `balance`, of two as good the smaller."""
        exact = self.balance(stored)
        low = np.floor(exact + 1e-9)
        high = np.minimum(low + 1, np.asarray(stored, np.float64))
        better = self.seconds(stored, high) < self.seconds(stored, low)
        return np.where(better, high, low).astype(np.int64)
