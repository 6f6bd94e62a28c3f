"""LazyLLM's rule (arXiv 2407.14057, section 3): which tokens each layer of a step sees.

A step is a prompt or one decoded token. It begins with all tokens so far; behind a pruning layer
the tokens that the last one pays least attention to leave the later layers of this step. A token
that comes back is computed from where it was left: its hidden state there waits in the *aux cache*.
So a token's computed layers are always its first ones, and `Depths` is all the state there is.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.tokens.schedule import Pruning, cut_size

Positions = NDArray[np.int64]


class Depths:
    """Number of layers computed so far of every token."""

    def __init__(self, tokens: int) -> None:
        self.layers = np.zeros(tokens, np.int64)

    def pending(self, active: Positions, layer: int) -> Positions:
        """Return the active tokens that a layer has yet to compute, ascending."""
        waiting: Positions = active[self.layers[active] == layer]
        return waiting

    def advance(self, rows: Positions, layer: int) -> None:
        """Note that a layer has computed tokens that waited before it."""
        self.layers[rows] = layer + 1


class Selection:
    """The active tokens of one sequence, step by step."""

    def __init__(self, pruning: Pruning, layers: int) -> None:
        self._pruning = pruning
        self.cuts = {} if pruning.rule == "random" else pruning.cuts(layers)
        self._lazy = pruning.rule == "lazy"
        self._present = np.empty(0, np.int64)
        self._prompt = False

    def begin(self, first: int, end: int) -> Positions:
        """Return the tokens that the first layer of a step sees, int64[active] ascending.

        Args:
            first: first new token of the step; 0 begins the prompt.
            end: one behind the last new token, which never leaves.
        """
        self._prompt = first == 0
        present = np.append(self._present, np.arange(first, end))
        if self._pruning.rule == "random" and self._prompt:
            scores = np.random.default_rng(self._pruning.seed).random(len(present))
            present = survivors(present, scores, self._pruning.rates[0])
        self._present = present
        return present

    def prune(self, layer: int, active: Positions, score: Callable[[], NDArray[Any]]) -> Positions:
        """Return the tokens that are still active before ``layer``.

        Args:
            layer: number of layers that this step has run.
            active: int64[active] ascending, the tokens that the last of them saw.
            score: returns the attention of the last token to each, float[active]; called where the
                schedule cuts.
        """
        if layer not in self.cuts or not (self._lazy or self._prompt):
            return active
        left = survivors(active, score(), self.cuts[layer])
        if not self._lazy:
            self._present = left
        return left


def survivors(active: Positions, scores: NDArray[Any], rate: float) -> Positions:
    """Return the tokens left once the lowest scores are cut; the last token stays.

    Of equal scores the older token leaves.

    Args:
        active: int64[n] ascending.
        scores: float[n].
        rate: share that leaves, see `cut_size`.
    """
    order = np.argsort(scores[:-1], kind="stable")
    leaving = order[: cut_size(len(active), rate)]
    return np.delete(active, leaving)


class Pruned(NamedTuple):
    """Work of a pruned sequence; a step is the prompt (the first) or a decoded token."""

    active: NDArray[np.int64]
    """Tokens that each layer sees, int64[steps, layers]."""
    computed: NDArray[np.int64]
    """Tokens that each layer computes, new ones and revived ones, int64[steps, layers]."""
    waiting: NDArray[np.int64]
    """Tokens whose hidden state is in the aux cache after each step, int64[steps]."""

    @property
    def revived(self) -> NDArray[np.int64]:
        """Tokens left by an earlier step that each layer computes, int64[steps - 1, layers]."""
        revived: NDArray[np.int64] = self.computed[1:] - 1
        return revived


def account(kept: NDArray[np.uint8], prompt: int) -> Pruned:
    """Count the work that active sets are.

    Args:
        kept: uint8[steps, layers, bytes], the sets as bits, little-endian, of the prompt and of
            every decoded token; see docs/trace-format.md.
        prompt: tokens of the prompt.

    Raises:
        TraceError: a set that holds a token before it is there, or lacks the last one, or one that
            grows from a layer to the next.
    """
    steps, layers, width = kept.shape
    tokens = prompt + steps - 1
    if prompt < 1 or tokens > 8 * width:
        raise TraceError(
            f"kept: {steps} steps after a prompt of {prompt} tokens do not fit {8 * width} bits: "
            "give a step for the prompt, then one for each token"
        )
    depths = Depths(8 * width)
    active = np.empty((steps, layers), np.int64)
    computed, waiting = np.empty_like(active), np.empty(steps, np.int64)
    for step in range(steps):
        sets = np.unpackbits(kept[step], axis=1, bitorder="little").astype(bool)
        _check_step(sets, step, prompt + step)
        for layer in range(layers):
            members = np.flatnonzero(sets[layer])
            rows = depths.pending(members, layer)
            depths.advance(rows, layer)
            active[step, layer], computed[step, layer] = len(members), len(rows)
        waiting[step] = ((depths.layers > 0) & (depths.layers < layers)).sum()
    return Pruned(active, computed, waiting)


def _check_step(sets: NDArray[np.bool_], step: int, tokens: int) -> None:
    if sets[:, tokens:].any() or not sets[:, tokens - 1].all():
        raise TraceError(
            f"kept: step {step} holds tokens behind its last, or lacks that one, token {tokens - 1}"
        )
    if (sets[1:] & ~sets[:-1]).any():
        raise TraceError(
            f"kept: in step {step} a layer sees a token that the one before it did not"
        )


def replay_pruning(
    pruning: Pruning,
    query: NDArray[Any],
    key: NDArray[Any],
    head_dim: int,
    prompt: int,
    softcap: float | None = None,
) -> NDArray[np.uint8]:
    """Apply a schedule to recorded queries and keys and return the active sets.

    The vectors are those of the dense model: pruning does not feed back (an open loop).

    Args:
        query: float[tokens, layers, heads * head_dim], after RoPE, not scaled.
        key: float[tokens, layers, kv_heads * head_dim], after RoPE.
        prompt: tokens of the prompt; each later token is a step.
        softcap: cap of the logits, cap * tanh(logit / cap); None for none.

    Returns:
        uint8[steps, layers, ceil(tokens / 8)], the active sets as `account` takes them.

    Raises:
        TraceError: shapes that do not match, or a prompt that is not within the tokens.
    """
    tokens, layers = query.shape[:2]
    if (
        key.shape[:2] != (tokens, layers)
        or key.shape[2] % head_dim
        or query.shape[2] % key.shape[2]
    ):
        raise TraceError(
            f"query {query.shape} and key {key.shape} with heads of {head_dim}: give both of the "
            "same tokens and layers, and whole heads"
        )
    if not 1 <= prompt <= tokens:
        raise TraceError(f"a prompt of {prompt} tokens: give 1 to {tokens}, the tokens recorded")
    heads = {
        layer: _Heads(query[:, layer - 1], key[:, layer - 1], head_dim, softcap)
        for layer in pruning.cuts(layers)
        if layer
    }
    selection = Selection(pruning, layers)
    kept = np.zeros((tokens - prompt + 1, layers, (tokens + 7) // 8), np.uint8)
    for step in range(len(kept)):
        end = prompt + step
        active = selection.begin(end - 1 if step else 0, end)
        for layer in range(layers):
            if layer in heads:
                attention = partial(heads[layer].attention, end - 1, active)
                active = selection.prune(layer, active, attention)
            kept[step, layer] = _packed(active, kept.shape[2])
    return kept


class _Heads:
    """Queries and keys of one layer, by kv head."""

    def __init__(
        self, query: NDArray[Any], key: NDArray[Any], head_dim: int, softcap: float | None
    ) -> None:
        tokens, groups = len(key), key.shape[1] // head_dim
        shape = (tokens, groups, -1, head_dim)
        self._query = np.asarray(query, np.float32).reshape(shape)
        by_token = np.asarray(key, np.float32).reshape(tokens, groups, head_dim)
        self._key = np.ascontiguousarray(by_token.transpose(1, 2, 0))
        self._scale = 1 / math.sqrt(head_dim)
        self._softcap = softcap

    def attention(self, token: int, active: Positions) -> NDArray[np.float32]:
        """Return the mean over heads of a token's attention to the active ones, float32[active]."""
        logits = (self._query[token] @ self._key[:, :, : token + 1])[..., active] * self._scale
        if self._softcap is not None:
            logits = self._softcap * np.tanh(logits / self._softcap)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mean: NDArray[np.float32] = weights.reshape(-1, len(active)).mean(0)
        return mean


def _packed(active: Positions, width: int) -> NDArray[np.uint8]:
    flags = np.zeros(8 * width, np.uint8)
    flags[active] = 1
    return np.packbits(flags, bitorder="little")
