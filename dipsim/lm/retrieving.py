"""Retrieval of keys and values inside a running model: tokens attend to their best blocks only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray
from torch import nn

from dipsim.errors import BudgetError
from dipsim.kv.attention import Heads, Loss, Losses, by_layer
from dipsim.kv.blocks import attend, choose_blocks
from dipsim.kv.retrieval import Retrieval, parse_fetch
from dipsim.lm.restricted import Restricted


class Retrieving(Restricted):
    """A model whose tokens attend to blocks, and what it has lost so far.

    Args:
        model: as `retrieving` takes it.
        retrieval: which blocks.
        prompt: as `retrieving` takes it.

    Raises:
        ModelError: as `Restricted`.
    """

    def __init__(self, model: nn.Module, retrieval: Retrieval, prompt: int) -> None:
        super().__init__(model, "retrieval")
        self.retrieval, self.prompt = retrieval, prompt
        self._replays: list[Losses] = []
        self._layers: list[list[Loss]] = []

    @property
    def replays(self) -> Sequence[Losses]:
        """One per sequence that ran, in order, complete after each call of the model."""
        return self._replays

    def begin(self, sequences: int, tokens: int) -> None:
        """Get ready for sequences, of any number of tokens."""
        self._layers = [[] for _ in range(sequences)]

    def see(self, sequence: int, layer: int, heads: Heads, module: nn.Module) -> NDArray[Any]:
        """Return the outputs of a layer over chosen blocks, float32[tokens, heads, dim]."""
        chosen = choose_blocks(self.retrieval, heads.queries, heads.keys, self.prompt)
        outputs, loss = attend(heads, chosen, self.retrieval.block, self.prompt)
        self._layers[sequence].append(loss)
        return outputs

    def end(self) -> None:
        """Keep what the sequences of the call lost."""
        for losses in self._layers:
            self._replays.append(Losses(prompt=self.prompt, **vars(by_layer(losses))))


@contextmanager
def retrieving(
    model: nn.Module, fetch: str | Retrieval, *, prompt: int = 0
) -> Iterator[Retrieving]:
    """Let the tokens of a model attend to their best blocks while the with-block runs, in closed
    loop.

    ``with retrieving(model, "top=8:block=16"): perplexity(model, windows)``. The model must be
    called with whole sequences and without a cache, as `perplexity` does.

    Args:
        model: a causal language model of transformers that takes attention functions.
        fetch: which blocks, as `dipsim.kv.retrieval.parse_fetch` reads it.
        prompt: tokens of each sequence that attend to all positions.

    Raises:
        BudgetError: a text that says nothing of blocks.
        ModelError: the model takes no attention functions, or its layers use windows of their own;
            in the with-block: a cache of earlier keys.
    """
    retrieval = parse_fetch(fetch) if isinstance(fetch, str) else fetch
    if retrieval is None:
        raise BudgetError("--kv-fetch all reads all positions: nothing is chosen; drop it")
    with Retrieving(model, retrieval, prompt).acting() as state:
        yield state
