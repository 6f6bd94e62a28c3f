"""Replaying a rule of eviction on recorded queries, keys and values.

The replay is *layer-closed*: attention sees held positions only, renormalised, so that what was
evicted is missing from the scores of later tokens of that layer, but later layers still see what
the dense model did. `dipsim.lm` runs the same engine inside a model.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError
from dipsim.kv.attention import Heads, Loss, compare
from dipsim.kv.eviction import Eviction, evict_layer, plan_eviction
from dipsim.kv.rules import Rule, When

_LEAST_ENERGY = 1e-300
"""Sum of squares of outputs below which an error has no meaning."""


@dataclass(frozen=True)
class KvReplay:
    """Positions of a sequence that a rule kept, and the loss with the rest.

    Args:
        eviction: the rule and its budgets.
        left: int32[layers, kv heads, tokens], the first token that misses a position; `NEVER` if
            it stays.
        mass: float64[tokens, layers], dense attention weight of what each token saw, mean of heads.
        change: float64[tokens, layers], sum over heads of |o' - o|^2, o' over what was held.
        energy: float64[tokens, layers], sum over heads of |o|^2; 0 in a prompt that was cut.
    """

    eviction: Eviction
    left: NDArray[np.int32]
    mass: NDArray[np.float64]
    change: NDArray[np.float64]
    energy: NDArray[np.float64]

    def seen(self, layer: int, kv_head: int, token: int) -> NDArray[np.int64]:
        """Return the positions that a token attended to, itself among them, int64[n]."""
        return np.flatnonzero(self.left[layer, kv_head, : token + 1] > token)

    def held(self, layer: int, kv_head: int, token: int) -> NDArray[np.int64]:
        """Return the positions that were held after a token, int64[n]."""
        return np.flatnonzero(self.left[layer, kv_head, : token + 1] > token + 1)

    def held_counts(self) -> NDArray[np.int64]:
        """Return the positions held after each token, int64[tokens, layers, kv heads]."""
        layers, kv_heads, tokens = self.left.shape
        counts = np.empty((tokens, layers, kv_heads), np.int64)
        for layer in range(layers):
            for kv_head in range(kv_heads):
                gone = np.minimum(self.left[layer, kv_head], tokens + 1)
                leaving = np.bincount(gone, minlength=tokens + 2)
                counts[:, layer, kv_head] = np.arange(1, tokens + 1) - leaving.cumsum()[1:-1]
        return counts

    def mass_kept(self, first: int | None = None) -> NDArray[np.float64]:
        """Return the mean mass per layer, float64[layers], of tokens from ``first``.

        Args:
            first: default: the first behind the prompt.

        Raises:
            DipsimError: no token is left to judge.
        """
        mass: NDArray[np.float64] = self.mass[self._first(first) :].mean(axis=0)
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
        first = self.eviction.prompt if first is None else first
        if not 0 <= first < len(self.mass):
            raise DipsimError(
                f"judged from token {first} of {len(self.mass)}: give an earlier one, or a shorter "
                "prompt"
            )
        return first


def replay(
    rule: str | Rule,
    budget: float | str,
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    *,
    head_dim: int,
    when: When | None = None,
    prompt: int | None = None,
    projected: NDArray[Any] | None = None,
    softcap: float = 0.0,
    scale: float | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> KvReplay:
    """Replay a rule on one sequence, layer by layer, layer-closed.

    Args:
        rule: as `plan_eviction` takes it.
        budget: as `plan_eviction` takes it.
        when: as `plan_eviction` takes it.
        prompt: as `plan_eviction` takes it.
        query: float[tokens, layers, heads * head_dim], after RoPE and norms, not scaled.
        key: float[tokens, layers, kv heads * head_dim].
        value: float[tokens, layers, kv heads * head_dim].
        projected: float[tokens, layers, kv heads], |W_o v|_1, mean over the query heads of a kv
            head; ``criticalkv`` needs it.
        softcap: bound of the logits; 0 for none.
        scale: of the logits; default 1 / sqrt(head_dim).
        threads: layers at a time; changes nothing. Default: one per core.
        progress: called with (layers done, layers).

    Raises:
        BudgetError: as `plan_eviction`.
        DipsimError: arrays that do not fit together, or are not finite.
    """
    _check_shapes(query, key, value, head_dim)
    tokens, layers, _ = query.shape
    kv_heads = key.shape[2] // head_dim
    eviction = plan_eviction(rule, budget, tokens, layers, when=when, prompt=prompt)
    shape = None if projected is None else projected.shape
    if eviction.rule.needs_projection and shape != (*key.shape[:2], kv_heads):
        raise DipsimError(
            f"KV policy {eviction.rule.label} needs projected, |W_o v|_1 as [tokens, layers, kv "
            "heads]: give it, or run the rule in a model (dipsim.lm.evicting)"
        )
    factor = head_dim**-0.5 if scale is None else scale
    left = np.empty((layers, kv_heads, tokens), np.int32)
    losses: list[Loss] = []

    def run(layer: int) -> Loss:
        queries, keys, values = (_heads_of(a, layer, head_dim) for a in (query, key, value))
        sizes = None if projected is None else projected[:, layer]
        heads = Heads(queries, keys, values, factor, softcap, sizes)
        evicted = evict_layer(eviction, layer, heads)
        left[layer] = evicted.left
        return compare(heads, evicted.outputs, evicted.left, eviction.prompt)

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for loss in pool.map(run, range(layers)):
            losses.append(loss)
            if progress is not None:
                progress(len(losses), layers)
    mass, change, energy = (
        np.stack([getattr(loss, name) for loss in losses], axis=1)
        for name in ("mass", "change", "energy")
    )
    return KvReplay(eviction, left, mass, change, energy)


def _heads_of(array: NDArray[Any], layer: int, head_dim: int) -> NDArray[Any]:
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


def _check_shapes(
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
