"""Calls of a running model: the tokens of each, and their phases and sequences."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dipsim.errors import DipsimError
from dipsim.trace import DECODE, PREFILL


class Call(NamedTuple):
    """One forward call of a decoder; its tokens are rows, sequence after sequence."""

    sequences: int
    """Number of sequences."""
    tokens: int
    """Number of tokens of each sequence."""
    follows: bool
    """True if the call continues the sequence of the call before."""
    prompt: bool
    """True if its tokens are a prompt: several at once, with a KV cache, as ``generate`` does."""
    ids: Tensor | None
    """int64[sequences, tokens]; None if the model was called by embeddings."""


def call_of(args: Sequence[Any], given: Mapping[str, Any]) -> Call:
    """Read the arguments of a transformers decoder's call.

    Raises:
        DipsimError: neither ids nor embeddings, several sequences with one KV cache, or padding,
            whose rows would not be tokens.
    """
    first = given.get("input_ids", args[0] if args else given.get("hidden_states"))
    ids = first if first is not None and not first.is_floating_point() else None
    rows = given.get("inputs_embeds") if first is None else first
    if rows is None or rows.dim() < 2:
        raise DipsimError("the model was called without input_ids or inputs_embeds")
    sequences, tokens = int(rows.shape[0]), int(rows.shape[1])
    caches = (value for value in (*args, *given.values()) if hasattr(value, "get_seq_length"))
    past = next(caches, None)  # the argument's name differs between versions
    follows = past is not None and int(past.get_seq_length()) > 0
    if past is not None and sequences > 1:
        raise DipsimError(
            f"{sequences} sequences generate at a time: give generate one at a time, so that every "
            "token has its place"
        )
    if _pads(given.get("attention_mask"), 0 if follows else tokens):
        raise DipsimError("padded sequences: give sequences of one length, or one at a time")
    return Call(sequences, tokens, follows, past is not None and tokens > 1, ids)


def _pads(mask: Any, tokens: int) -> bool:
    """Return whether an attention mask, or one of a dictionary of them, leaves tokens out.

    ``generate`` makes a mask for each kind of attention, [sequences, 1, queries, keys], for caches
    of fixed size.

    Args:
        tokens: of sequences that begin with this call; 0 where one goes on.
    """
    if isinstance(mask, Mapping):
        return any(_pads(each, tokens) for each in mask.values())
    if not isinstance(mask, Tensor):
        return False
    allowed = mask.bool() if not mask.is_floating_point() or mask.dim() == 2 else mask > -1
    if mask.dim() == 2:
        return not bool(allowed.all())
    if mask.dim() != 4 or tokens < 2:
        return False
    seen = allowed[..., 1, 0].all() and allowed[..., tokens - 1, tokens - 1].all()
    return not bool(seen)  # the first token, to the second; the last, to itself


class Marks:
    """Phases and sequences of the rows of calls, one after another, as a trace has them.

    Args:
        prompt: first tokens of each sequence that are a prompt although they come with others, as a
            text does that is judged.
    """

    def __init__(self, prompt: int = 0) -> None:
        self._prompt, self._last = prompt, -1

    def of(self, call: Call) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Return phase, uint8[rows], and sequence, int32[rows], of the next call."""
        first = max(self._last, 0) if call.follows else self._last + 1
        sequence = np.repeat(np.arange(call.sequences, dtype=np.int32) + first, call.tokens)
        self._last = int(sequence[-1])
        phase = np.full((call.sequences, call.tokens), PREFILL if call.prompt else DECODE, np.uint8)
        if not call.follows:
            phase[:, : self._prompt] = PREFILL
        return phase.ravel(), sequence
