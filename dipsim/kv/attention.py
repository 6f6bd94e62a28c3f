"""The attention of one layer, and what eviction takes from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.kernels.attention import compare_heads


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of one layer, after RoPE: contiguous, float32 or float64.

    Args:
        queries: float[tokens, heads, dim].
        keys: float[tokens, kv heads, dim].
        values: float[tokens, kv heads, dim].
        scale: factor of the logits.
        softcap: bound of the logits, softcap * tanh(logit / softcap); 0 for none.
        projected: float[tokens, kv heads], |W_o v|_1, mean over the query heads of a kv head, W_o
            the output projection; None where it is not known.
    """

    queries: NDArray[Any]
    keys: NDArray[Any]
    values: NDArray[Any]
    scale: float
    softcap: float = 0.0
    projected: NDArray[Any] | None = None

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return int(self.queries.shape[1] // self.keys.shape[1])

    @property
    def factors(self) -> tuple[Any, Any]:
        """Scale and softcap in the dtype of the queries, in which the kernels compute."""
        dtype = self.queries.dtype.type
        return dtype(self.scale), dtype(self.softcap)


@dataclass(frozen=True)
class Loss:
    """Losses of the queries behind a prompt, float64[tokens] each; 0 before it.

    Args:
        mass: dense attention weight of the positions that were held, mean over heads.
        change: sum over heads of |o' - o|^2, o' the output over what was held, o the dense one.
        energy: sum over heads of |o|^2.
    """

    mass: NDArray[np.float64]
    change: NDArray[np.float64]
    energy: NDArray[np.float64]


def compare(heads: Heads, outputs: NDArray[Any], left: NDArray[np.int32], prompt: int) -> Loss:
    """Compare outputs over held positions with dense attention.

    Args:
        outputs: float[tokens, heads, dim], over what was held.
        left: int32[kv heads, tokens], first token that misses a position.
        prompt: tokens before anything was evicted.
    """
    tokens, _, dim = heads.queries.shape
    mass, change, energy = np.zeros((3, tokens))
    mass[:prompt] = 1
    compare_heads(
        heads.queries,
        np.ascontiguousarray(heads.keys.transpose(1, 0, 2)),
        np.ascontiguousarray(heads.values.transpose(1, 0, 2)),
        *heads.factors,
        prompt,
        outputs,
        left,
        np.empty((2, tokens + dim), heads.queries.dtype),
        mass,
        change,
        energy,
    )
    return Loss(mass, change, energy)
