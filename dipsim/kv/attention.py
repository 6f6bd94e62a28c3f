"""The attention of one layer, and the loss where it sees some positions only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError
from dipsim.kernels.attention import compare_heads

_LEAST_ENERGY = 1e-300
"""Sum of squares of outputs below which an error has no meaning."""


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
        frequencies: float64[dim / 2], radians per position by which RoPE turned numbers d and
            d + dim / 2 of queries and keys; None where they are not known.
    """

    queries: NDArray[Any]
    keys: NDArray[Any]
    values: NDArray[Any]
    scale: float
    softcap: float = 0.0
    projected: NDArray[Any] | None = None
    frequencies: NDArray[np.float64] | None = None

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
        mass: dense attention weight of the positions that were seen, mean over heads.
        change: sum over heads of |o' - o|^2, o' the output over what was seen, o the dense one.
        energy: sum over heads of |o|^2.
    """

    mass: NDArray[np.float64]
    change: NDArray[np.float64]
    energy: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses of all layers of a sequence.

    Args:
        mass: float64[tokens, layers], dense attention weight of what each token saw, mean of heads.
        change: float64[tokens, layers], sum over heads of |o' - o|^2, o' over what was seen.
        energy: float64[tokens, layers], sum over heads of |o|^2; 0 in a prompt that saw all.
        prompt: tokens of that prompt.
    """

    mass: NDArray[np.float64]
    change: NDArray[np.float64]
    energy: NDArray[np.float64]
    prompt: int

    def mass_kept(self, first: int | None = None) -> NDArray[np.float64]:
        """Return the mean mass per layer, float64[layers], of tokens from ``first``.

        Args:
            first: default: the first behind the prompt.

        Raises:
            DipsimError: no token is left to judge.
        """
        mean = self.mass[self._first(first) :].mean(axis=0)
        mass: NDArray[np.float64] = np.minimum(mean, 1.0)  # sums of weights round
        return mass

    def output_error(self, first: int | None = None) -> NDArray[np.float64]:
        """Return sum |o' - o|^2 / sum |o|^2 of tokens from ``first``, float64[layers].

        Args:
            first: default: the first behind the prompt.

        Raises:
            DipsimError: no token is left to judge.
        """
        rows = slice(self._first(first), None)
        change: NDArray[np.float64] = self.change[rows].sum(axis=0)
        energy: NDArray[np.float64] = self.energy[rows].sum(axis=0)
        error: NDArray[np.float64] = change / np.maximum(energy, _LEAST_ENERGY)
        return error

    def _first(self, first: int | None) -> int:
        """Return the first token that is judged.

        Raises:
            DipsimError: there is none behind it.
        """
        first = self.prompt if first is None else first
        if not 0 <= first < len(self.mass):
            raise DipsimError(
                f"judged from token {first} of {len(self.mass)}: give an earlier one, or a shorter "
                "prompt"
            )
        return first


def by_layer(losses: Sequence[Loss]) -> Loss:
    """Return the losses of layers side by side, float64[tokens, layers] each."""
    mass, change, energy = (
        np.stack([getattr(loss, name) for loss in losses], axis=1)
        for name in ("mass", "change", "energy")
    )
    return Loss(mass, change, energy)


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


def rows_of_layer(array: NDArray[Any], layer: int, head_dim: int) -> NDArray[Any]:
    """Return one layer, float32 or float64 [tokens, heads, head_dim], contiguous.

    Raises:
        DipsimError: not finite.
    """
    rows = array[:, layer]
    dtype = np.float64 if rows.dtype == np.float64 else np.float32
    rows = np.ascontiguousarray(rows, dtype).reshape(len(rows), -1, head_dim)
    if not np.isfinite(rows).all():
        raise DipsimError(f"layer {layer}: vectors that are not finite; record them anew")
    return rows


def check_vectors(
    query: NDArray[Any], key: NDArray[Any], value: NDArray[Any], head_dim: int
) -> None:
    """Check that the arrays are of one sequence of one model.

    Raises:
        DipsimError: they are not.
    """
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}, head_dim {head_dim}"
    fits = (
        query.ndim == key.ndim == value.ndim == 3
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and key.shape == value.shape
        and min(query.shape) > 0
        and head_dim >= 1
        and key.shape[2] % head_dim == 0
        and key.shape[2] > 0
        and query.shape[2] % key.shape[2] == 0
    )
    if not fits:
        raise DipsimError(
            f"{shapes}: give [tokens, layers, heads * head_dim], key and value of one shape, and "
            "heads a multiple of the kv heads"
        )
