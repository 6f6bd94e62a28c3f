"""What one call of a running model is: its tokens, and whether they are a prompt."""

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
    tokens: int
    """Of each sequence."""
    follows: bool
    """Whether it goes on with the sequence of the call before."""
    prompt: bool
    """Whether its tokens are a prompt: several at once, with a KV cache that ``generate`` gave."""
    ids: Tensor | None
    """int64[sequences, tokens], where the model was called by ids."""


def call_of(args: Sequence[Any], given: Mapping[str, Any]) -> Call:
    """Read the arguments of a decoder of transformers.

    Raises:
        DipsimError: several sequences that grow at a time, or padding: rows would be no tokens.
    """
    ids = given.get("input_ids", args[0] if args else None)
    found = given.get("inputs_embeds") if ids is None else ids
    if found is None or found.dim() < 2:
        raise DipsimError("the model was called without input_ids or inputs_embeds")
    sequences, tokens = int(found.shape[0]), int(found.shape[1])
    caches = (value for value in (*args, *given.values()) if hasattr(value, "get_seq_length"))
    past = next(caches, None)  # its name differs between versions
    follows = past is not None and int(past.get_seq_length()) > 0
    if past is not None and sequences > 1:
        raise DipsimError(
            f"{sequences} sequences generate at a time: give generate one at a time, so that every "
            "token has its place"
        )
    padding = given.get("attention_mask")
    if padding is not None and padding.dim() == 2 and not bool(padding.bool().all()):
        raise DipsimError("padded sequences: give sequences of one length, or one at a time")
    return Call(sequences, tokens, follows, past is not None and tokens > 1, ids)


class Marks:
    """Marks the rows of calls, one after another, as a trace does: phases and sequences."""

    def __init__(self) -> None:
        self._last = -1

    def of(self, call: Call) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """phase uint8[rows] and sequence int32[rows] of the next call."""
        first = max(self._last, 0) if call.follows else self._last + 1
        sequence = np.repeat(np.arange(call.sequences, dtype=np.int32) + first, call.tokens)
        self._last = int(sequence[-1])
        return np.full(len(sequence), PREFILL if call.prompt else DECODE, np.uint8), sequence
