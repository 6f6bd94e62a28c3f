"""Blocks of positions that tokens choose, and attention over those alone.

The replay is *layer-closed*, as that of eviction: later layers see what the dense model did.
`dipsim.lm` runs the same functions inside a model.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.kernels.attention import attend_to_blocks
from dipsim.kv.attention import Heads, Loss, Losses, by_layer, check_vectors, rows_of_layer
from dipsim.kv.retrieval import Retrieval
from dipsim.threads import most_threads

_LOGITS = 2**22
"""Most logits that are held at a time."""


def choose_blocks(
    retrieval: Retrieval, queries: NDArray[Any], keys: NDArray[Any], first: int = 0
) -> NDArray[np.bool_]:
    """Return the complete blocks of a layer that each token reads beside the newest one.

    Of equal scores the newer block is read. No scale or softcap of logits changes their order.

    Args:
        queries: float[tokens, heads, dim] of one sequence, after RoPE.
        keys: float[tokens, kv heads, dim].
        first: token to begin with; none before it chooses.

    Returns:
        bool[tokens, sets, blocks], of the blocks that are complete in the end; sets is 1, or with
        ``per=head`` the kv heads.
    """
    (tokens, heads, dim), kv_heads, size = queries.shape, keys.shape[1], retrieval.block
    blocks = tokens // size
    chosen = np.zeros((tokens, retrieval.sets(kv_heads), blocks), np.bool_)
    if not blocks:
        return chosen
    looked_at = keys[: blocks * size].reshape(blocks, size, kv_heads, dim)
    if retrieval.by == "centroid":
        looked_at = looked_at.mean(axis=1, keepdims=True, dtype=np.float64).astype(keys.dtype)
    for start, stop in _pieces(first, tokens, heads * blocks * looked_at.shape[1]):
        scores = _scores(queries[start:stop], looked_at)
        if retrieval.per == "layer":
            scores = scores.max(axis=1, keepdims=True)
        complete = np.arange(blocks) < (np.arange(start, stop) // size)[:, None, None]
        ranked = np.argsort(np.where(complete, scores, -np.inf), axis=-1, kind="stable")
        best = ranked[..., max(0, blocks - retrieval.top) :]
        np.put_along_axis(chosen[start:stop], best, True, axis=-1)
        chosen[start:stop] &= complete
    return chosen


def attend(
    heads: Heads, chosen: NDArray[np.bool_], size: int, first: int = 0
) -> tuple[NDArray[Any], Loss]:
    """Return the outputs of attention over chosen blocks and the newest one, and the loss.

    Args:
        heads: of one layer, contiguous, all of one dtype, float32 or float64.
        chosen: bool[tokens, sets, blocks], of `choose_blocks`.
        size: positions of a block.
        first: token to begin with; those before it attend to all.

    Returns:
        float[tokens, heads, dim], renormalised over what each token sees.
    """
    tokens, _, dim = heads.queries.shape
    outputs = np.empty_like(heads.queries)
    mass, change, energy = np.zeros((3, tokens))
    mass[:first] = 1
    attend_to_blocks(
        heads.queries,
        np.ascontiguousarray(heads.keys.transpose(1, 0, 2)),
        np.ascontiguousarray(heads.values.transpose(1, 0, 2)),
        *heads.factors,
        first,
        chosen,
        size,
        np.empty(tokens, np.int64),
        np.empty((2, tokens + dim), heads.queries.dtype),
        outputs,
        mass,
        change,
        energy,
    )
    return outputs, Loss(mass, change, energy)


def replay_blocks(
    retrieval: Retrieval,
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    *,
    head_dim: int,
    prompt: int = 0,
    softcap: float = 0.0,
    scale: float | None = None,
    threads: int | None = None,
) -> Losses:
    """Replay retrieval on one sequence, layer by layer, layer-closed.

    Args:
        query: float[tokens, layers, heads * head_dim], after RoPE and norms, not scaled.
        key: float[tokens, layers, kv heads * head_dim].
        value: float[tokens, layers, kv heads * head_dim].
        prompt: first tokens, which attend to all.
        softcap: bound of the logits; 0 for none.
        scale: of the logits; default 1 / sqrt(head_dim).
        threads: layers at a time; changes nothing. Default: one per core.

    Raises:
        DipsimError: arrays that do not fit together, or are not finite.
    """
    check_vectors(query, key, value, head_dim)

    def run(layer: int) -> Loss:
        q, k, v = (rows_of_layer(each, layer, head_dim) for each in (query, key, value))
        heads = Heads(q, k, v, head_dim**-0.5 if scale is None else scale, softcap)
        chosen = choose_blocks(retrieval, heads.queries, heads.keys, prompt)
        return attend(heads, chosen, retrieval.block, prompt)[1]

    with ThreadPoolExecutor(threads or most_threads()) as pool:
        losses = by_layer(list(pool.map(run, range(query.shape[1]))))
    return Losses(prompt=prompt, **vars(losses))


def _pieces(first: int, tokens: int, logits: int) -> list[tuple[int, int]]:
    """Return the rows (A, B) of pieces of a sequence, each row of which has so many logits."""
    rows = max(1, _LOGITS // logits)
    return [(start, min(start + rows, tokens)) for start in range(first, tokens, rows)]


def _scores(queries: NDArray[Any], keys: NDArray[Any]) -> NDArray[Any]:
    """Return the largest product of each kv head's queries with the keys of each block.

    Args:
        queries: float[tokens, heads, dim]; keys: float[blocks, keys of one, kv heads, dim].

    Returns:
        float[tokens, kv heads, blocks].
    """
    (tokens, heads, dim), (blocks, each, kv_heads, _) = queries.shape, keys.shape
    rows = queries.reshape(tokens, kv_heads, heads // kv_heads, dim).transpose(1, 2, 0, 3)
    columns = keys.transpose(2, 3, 1, 0).reshape(kv_heads, dim, each * blocks)
    with np.errstate(over="ignore", invalid="ignore"):  # vectors of any size
        products = rows.reshape(kv_heads, -1, dim) @ columns
    best: NDArray[Any] = products.reshape(kv_heads, -1, tokens, each, blocks).max(axis=(1, 3))
    return best.transpose(1, 0, 2)
