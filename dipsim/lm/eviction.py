"""KV eviction inside a running model: later layers see what it did to earlier ones.

The model's attention is replaced by the engine that replays traces.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dipsim.errors import ModelError
from dipsim.kv.attention import Heads, Loss, compare
from dipsim.kv.eviction import Eviction, evict_layer, plan_eviction
from dipsim.kv.replay import KvReplay
from dipsim.kv.rules import Rule, When, load_rule
from dipsim.lm.restricted import Restricted
from dipsim.lm.rotary import rotary_frequencies


class Evicting(Restricted):
    """A model whose attention evicts, and what it has lost so far.

    Args:
        model: as `evicting` takes it.
        rule: as `evicting` takes it.
        budget: as `evicting` takes it.
        when: as `evicting` takes it.
        prompt: as `evicting` takes it.
        measures: each layer is compared with its own dense attention.

    Raises:
        ModelError: as `Restricted`, or the rule turns keys and the model does not turn them as
            Llama does.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: Rule,
        budget: float | str,
        when: When,
        prompt: int | None,
        measures: bool,
    ) -> None:
        super().__init__(model, "eviction")
        self.rule, self.budget, self.when, self.prompt = rule, budget, when, prompt
        self.measures = measures
        self._frequencies = rotary_frequencies(model) if rule.rerotates else None
        self._replays: list[KvReplay] = []
        self._eviction: Eviction | None = None
        self._layers: list[list[tuple[NDArray[np.int32], Loss]]] = []

    @property
    def replays(self) -> Sequence[KvReplay]:
        """One per sequence that ran, in order, complete after each call of the model; none unless
        it is measured."""
        return self._replays

    def begin(self, sequences: int, tokens: int) -> None:
        """Work out the budgets of sequences of so many tokens.

        Raises:
            BudgetError: a budget that does not fit the rule or the length.
        """
        how: dict[str, Any] = {"when": self.when, "prompt": self.prompt}
        self._eviction = plan_eviction(self.rule, self.budget, tokens, self.layers, **how)
        self._layers = [[] for _ in range(sequences)]

    def see(self, sequence: int, layer: int, heads: Heads, module: nn.Module) -> NDArray[Any]:
        """Return the outputs of a layer over what it holds, float32[tokens, heads, dim].

        Raises:
            ModelError: no output projection where the rule needs one.
        """
        assert self._eviction is not None, "begun"
        if self.rule.needs_projection:
            values = torch.from_numpy(heads.values)
            sizes = projected_sizes(module, heads.queries.shape[1], values)
            heads = replace(heads, projected=sizes)
        heads = replace(heads, frequencies=self._frequencies)
        evicted = evict_layer(self._eviction, layer, heads)
        if self.measures:
            loss = compare(heads, evicted.outputs, evicted.left, self._eviction.prompt)
            self._layers[sequence].append((evicted.left, loss))
        return evicted.outputs

    def end(self) -> None:
        """Keep what the sequences of the call lost."""
        assert self._eviction is not None, "begun"
        for layers in self._layers if self.measures else ():
            left, losses = zip(*layers, strict=True)
            self._replays.append(KvReplay.of(self._eviction, np.stack(left), losses))


@contextmanager
def evicting(
    model: nn.Module,
    rule: str | Rule,
    budget: float | str,
    *,
    when: When | None = None,
    prompt: int | None = None,
    measures: bool = True,
) -> Iterator[Evicting]:
    """Let a model evict from its KV cache while the with-block runs, in closed loop.

    ``with evicting(model, "tova", 128): perplexity(model, windows)``. The model must be called
    with whole sequences and without a cache, as `perplexity` does.

    Args:
        model: a causal language model of transformers that takes attention functions.
        rule: a rule, or its name and parameters: ``obcache:score=key``.
        budget: positions per layer and kv head, or a share of the prompt, ``"25%"``.
        when: token, prompt or both; default: as the rule says.
        prompt: tokens of each sequence that are a prompt, cut in one go.
        measures: mass and output error are measured too, at the cost of dense attention.

    Raises:
        BudgetError: no such rule.
        ModelError: the model takes no attention functions, its layers use windows of their own, or
            the rule turns keys and the model does not turn them as Llama does.
        DipsimError: in the with-block: a cache of earlier keys, from which nothing was evicted, a
            budget that does not fit the length, or no output projection where one is needed.
    """
    rule = load_rule(rule)
    with Evicting(model, rule, budget, when or rule.when, prompt, measures).acting() as state:
        yield state


def projected_sizes(module: nn.Module, heads: int, values: Tensor) -> NDArray[np.float32]:
    """Return |W_o v|_1, mean over the query heads of a kv head, float32[tokens, kv heads].

    Args:
        module: attention whose output projection is ``o_proj``, as in Llama.
        heads: query heads.
        values: float32[tokens, kv heads, dim].

    Raises:
        ModelError: it has none.
    """
    projection: Any = getattr(module, "o_proj", None)
    if projection is None:
        raise ModelError(
            f"{type(module).__name__}: has no o_proj, by which criticalkv weighs values; give "
            "another rule"
        )
    kv_heads = values.shape[1]
    weight = projection.weight.detach().cpu().float()
    blocks = weight.reshape(len(weight), heads, -1)
    own = values.repeat_interleave(heads // kv_heads, dim=1)
    sizes = [(own[:, h] @ blocks[:, h].T).abs().sum(-1) for h in range(heads)]
    mean = torch.stack(sizes, 1).reshape(len(values), kv_heads, -1).mean(-1)
    return np.ascontiguousarray(mean.numpy())
