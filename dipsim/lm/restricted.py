"""Attention of a running model over some positions only: what eviction and retrieval share.

A whole text goes through each layer in one call. What a token sees depends on nothing behind it, so
that is exactly what token by token with a real cache would give.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dipsim.errors import ModelError
from dipsim.kv.attention import Heads, Losses
from dipsim.lm.attention import Attend, attention_through


class Restricted(ABC):
    """A model whose tokens attend to some positions only, and what it has lost so far.

    Args:
        model: a causal language model of transformers that takes attention functions.
        what: such as ``eviction``, for messages.

    Raises:
        ModelError: the model takes no attention functions, or its layers use windows of their own.
    """

    def __init__(self, model: nn.Module, what: str) -> None:
        self.model, self.what = model, what
        self.layers = _layers_of(model, what)

    @property
    @abstractmethod
    def replays(self) -> Sequence[Losses]:
        """One per sequence that ran, in order, complete after each call of the model."""

    def mass_kept(self, first: int | None = None) -> float:
        """Return the mean mass over sequences, layers and tokens from ``first`` of each sequence.

        Args:
            first: default: the first behind the prompt.
        """
        return float(np.mean([each.mass_kept(first) for each in self.replays]))

    def output_error(self, first: int | None = None) -> float:
        """Return the mean over sequences and layers of sum |o' - o|^2 / sum |o|^2.

        Args:
            first: token of each sequence to begin with; default: the first behind the prompt.
        """
        return float(np.mean([each.output_error(first) for each in self.replays]))

    @contextmanager
    def acting(self) -> Iterator[Self]:
        """Let the model attend so while the with-block lasts.

        Raises:
            DipsimError: in the with-block: a cache of earlier keys, or what a layer cannot do.
        """
        with attention_through(self.model, self._attention):
            yield self

    @abstractmethod
    def begin(self, sequences: int, tokens: int) -> None:
        """Get ready for a call of the model with sequences of so many tokens."""

    @abstractmethod
    def see(self, sequence: int, layer: int, heads: Heads, module: nn.Module) -> NDArray[Any]:
        """Return the outputs of a layer for one sequence, float32[tokens, heads, dim].

        Args:
            heads: float32, contiguous; module: the layer's attention.
        """

    @abstractmethod
    def end(self) -> None:
        """Take note that the last layer of a call is done."""

    def _attention(
        self,
        attend: Attend,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        scaling: float | None = None,
        softcap: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Return the outputs of a layer; see `dipsim.lm.attention.Wrapper`.

        Raises:
            ModelError: a cache of earlier keys, to which no choice was applied.
        """
        if query.shape[2] != key.shape[2]:
            raise ModelError(
                f"{self.what} in closed loop takes whole sequences: call the model with "
                "use_cache=False"
            )
        scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        number: Any = module.layer_idx
        layer = int(number)
        if layer == 0:
            self.begin(query.shape[0], query.shape[2])
        outputs = []
        for sequence, parts in enumerate(zip(query, key, value, strict=True)):
            q, k, v = (part.detach().cpu().float().transpose(0, 1).contiguous() for part in parts)
            heads = Heads(q.numpy(), k.numpy(), v.numpy(), scale, softcap or 0.0)
            outputs.append(torch.from_numpy(self.see(sequence, layer, heads, module)))
        if layer == self.layers - 1:
            self.end()
        return torch.stack(outputs).to(query), None


def _layers_of(model: nn.Module, what: str) -> int:
    """Return the number of layers.

    Raises:
        ModelError: attention cannot be replaced, or is not over all positions.
    """
    config: Any = getattr(model, "config", None)
    layers = getattr(config, "num_hidden_layers", None)
    if not hasattr(model, "set_attn_implementation") or not isinstance(layers, int):
        raise ModelError(
            f"{type(model).__name__}: its attention cannot be replaced; give a causal language "
            "model of transformers"
        )
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    windowed = getattr(config, "use_sliding_window", True) and getattr(
        config, "sliding_window", None
    )
    if kinds or windowed:
        raise ModelError(
            f"{type(model).__name__}: layers that see a window of their own; {what} takes models "
            "whose layers all see every position"
        )
    return layers
