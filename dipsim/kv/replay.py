"""Replaying a rule of eviction on recorded queries, keys and values.

The replay is *layer-closed*: attention sees held positions only, renormalised, so that what was
evicted is missing from the scores of later tokens of that layer, but later layers still see what
the dense model did. `dipsim.lm` runs the same engine inside a model.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError
from dipsim.kv.attention import (
    Heads,
    Loss,
    Losses,
    by_layer,
    check_vectors,
    compare,
    rows_of_layer,
)
from dipsim.kv.eviction import Eviction, evict_layer, plan_eviction
from dipsim.kv.rules import Rule, When
from dipsim.threads import most_threads


@dataclass(frozen=True, kw_only=True)
class KvReplay(Losses):
    """Positions of a sequence that a rule kept, and the loss with the rest.

    Args:
        eviction: the rule and its budgets.
        left: int32[layers, kv heads, tokens], the first token that misses a position; `NEVER` if
            it stays.
    """

    eviction: Eviction
    left: NDArray[np.int32]

    @classmethod
    def of(cls, eviction: Eviction, left: NDArray[np.int32], losses: Sequence[Loss]) -> Self:
        """Return the replay of layers whose losses are known, one for each."""
        return cls(eviction=eviction, left=left, prompt=eviction.prompt, **vars(by_layer(losses)))

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
    frequencies: NDArray[np.float64] | None = None,
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
        frequencies: float64[head_dim / 2], radians per position by which RoPE turned numbers d and
            d + head_dim / 2; ``streaming:rerotate=yes`` needs them.
        softcap: bound of the logits; 0 for none.
        scale: of the logits; default 1 / sqrt(head_dim).
        threads: layers at a time; changes nothing. Default: one per core.
        progress: called with (layers done, layers).

    Raises:
        BudgetError: as `plan_eviction`.
        DipsimError: arrays that do not fit together, or are not finite.
    """
    check_vectors(query, key, value, head_dim)
    tokens, layers, _ = query.shape
    kv_heads = key.shape[2] // head_dim
    eviction = plan_eviction(rule, budget, tokens, layers, when=when, prompt=prompt)
    shape = None if projected is None else projected.shape
    if eviction.rule.needs_projection and shape != (*key.shape[:2], kv_heads):
        raise DipsimError(
            f"KV policy {eviction.rule.label} needs projected, |W_o v|_1 as [tokens, layers, kv "
            "heads]: give it, or run the rule in a model (dipsim.lm.evicting)"
        )
    shape = None if frequencies is None else frequencies.shape
    if eviction.rule.rerotates and (shape != (head_dim // 2,) or head_dim % 2):
        raise DipsimError(
            f"KV policy {eviction.rule.label} needs frequencies, those of RoPE as [head_dim / 2]: "
            "give them, or run the rule in a model (dipsim.lm.evicting)"
        )
    factor = head_dim**-0.5 if scale is None else scale
    left = np.empty((layers, kv_heads, tokens), np.int32)
    losses: list[Loss] = []

    def run(layer: int) -> Loss:
        queries, keys, values = (rows_of_layer(a, layer, head_dim) for a in (query, key, value))
        sizes = None if projected is None else projected[:, layer]
        heads = Heads(queries, keys, values, factor, softcap, sizes, frequencies)
        evicted = evict_layer(eviction, layer, heads)
        left[layer] = evicted.left
        return compare(heads, evicted.outputs, evicted.left, eviction.prompt)

    with ThreadPoolExecutor(threads or most_threads()) as pool:
        for loss in pool.map(run, range(layers)):
            losses.append(loss)
            if progress is not None:
                progress(len(losses), layers)
    return KvReplay.of(eviction, left, losses)
