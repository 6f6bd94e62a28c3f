"""Work and bytes of pruned prompts and steps: what token pruning saves, and what it holds.

A prompt's time is compute: 2 FLOP per weight and token of each layer, and attention, which grows
with the square of the tokens that a layer sees. Weights are read once however many tokens there
are.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.model import Model
from dipsim.tokens.lazy import Pruned
from dipsim.tokens.schedule import Pruning


def prefill_flops(model: Model, counts: NDArray[Any]) -> float:
    """Return the FLOP of a prompt's layers, without the head.

    Args:
        counts: tokens that each layer computes, int64[layers] of `Pruning.prompt_tokens`, or
            float64[layers], a length times `Pruning.shares`.
    """
    weights = 2.0 * model.layer_parameters * counts
    return float((weights + model.layer_attention_flops(counts)).sum())


def aux_bytes(model: Model, tokens: float, element: float = 2.0) -> float:
    """Return the bytes of the hidden states of tokens that wait, one each."""
    return tokens * model.hidden * element


class TokenBytes(NamedTuple):
    """Keys, values and hidden states of a pruned sequence, float64[steps] of all layers."""

    kv_read: NDArray[np.float64]
    """Bytes of keys and values that a step reads: of active tokens that it does not compute."""
    kv_written: NDArray[np.float64]
    """Bytes of keys and values of the tokens that it computes."""
    kv_held: NDArray[np.float64]
    """Bytes of all keys and values after it."""
    aux_held: NDArray[np.float64]
    """Bytes of the hidden states that wait after it."""


def token_bytes(model: Model, pruning: Pruning, work: Pruned, kv_bits: float = 16.0) -> TokenBytes:
    """Return the bytes of a pruned sequence.

    Tokens that may come back keep the keys and values they have and wait with a hidden state; what
    leaves for good is freed once the prompt is done.

    Args:
        work: counts of its steps (`dipsim.tokens.account`).
    """
    position = 2 * model.kv_heads * model.head_dim * kv_bits / 8
    layers = work.active.shape[1]
    if pruning.for_good:
        held, waiting = layers * work.active[:, -1], np.zeros_like(work.waiting)
    else:
        held, waiting = work.computed.sum(1).cumsum(), work.waiting
    return TokenBytes(
        kv_read=position * (work.active - work.computed).sum(1).astype(np.float64),
        kv_written=position * work.computed.sum(1).astype(np.float64),
        kv_held=position * held.astype(np.float64),
        aux_held=aux_bytes(model, 1) * waiting.astype(np.float64),
    )
