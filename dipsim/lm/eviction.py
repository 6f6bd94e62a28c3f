"""KV eviction inside a running model: later layers see what it did to earlier ones.

The model's attention is replaced by the engine that replays traces. A whole sequence goes through
each layer in one call; eviction at token t touches later tokens only, so that is exactly what token
by token with a real cache would give.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from dipsim.lm.attention import Attend, attention_through


@dataclass
class Evicting:
    """A model whose attention evicts, and what it has lost so far.

    Args:
        rule: as `evicting` takes it.
        budget: as `evicting` takes it.
        when: as `evicting` takes it.
        prompt: as `evicting` takes it.
        measures: each layer is compared with its own dense attention.
        replays: one per sequence that ran, in order, complete after each call of the model.
    """

    rule: Rule
    budget: float | str
    when: When
    prompt: int | None
    measures: bool
    replays: list[KvReplay] = field(default_factory=list)
    _eviction: Eviction | None = field(default=None, repr=False)
    _layers: list[list[tuple[NDArray[np.int32], Loss]]] = field(default_factory=list, repr=False)

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

    def attend(
        self,
        module: nn.Module,
        layers: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        softcap: float,
    ) -> Tensor:
        """Return the outputs of a layer, float[sequences, tokens, heads, dim].

        Args:
            module: the layer's attention, which knows its number; of ``layers``.
            query: float[sequences, heads, tokens, dim]; key, value alike with kv heads.
            scale: of the logits.
            softcap: bound of the logits; 0 for none.

        Raises:
            ModelError: a cache of earlier keys, from which nothing was evicted, or no output
                projection where the rule needs one.
            BudgetError: a budget that does not fit the rule or the length.
        """
        if query.shape[2] != key.shape[2]:
            raise ModelError(
                "eviction in closed loop takes whole sequences: call the model with use_cache=False"
            )
        number: Any = module.layer_idx
        layer = int(number)
        if layer == 0:
            self._eviction = plan_eviction(
                self.rule,
                self.budget,
                query.shape[2],
                layers,
                when=self.when,
                prompt=self.prompt,
            )
            self._layers = [[] for _ in range(query.shape[0])]
        assert self._eviction is not None
        outputs = []
        for sequence, parts in enumerate(zip(query, key, value, strict=True)):
            q, k, v = (part.detach().cpu().float().transpose(0, 1).contiguous() for part in parts)
            sizes = projected_sizes(module, q.shape[1], v) if self.rule.needs_projection else None
            heads = Heads(q.numpy(), k.numpy(), v.numpy(), scale, softcap, sizes)
            evicted = evict_layer(self._eviction, layer, heads)
            outputs.append(torch.from_numpy(evicted.outputs))
            if self.measures:
                loss = compare(heads, evicted.outputs, evicted.left, self._eviction.prompt)
                self._layers[sequence].append((evicted.left, loss))
        if self.measures and layer == layers - 1:
            self.replays += [_replay_of(self._eviction, each) for each in self._layers]
        return torch.stack(outputs).to(query)


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
        ModelError: the model takes no attention functions, or its layers use windows of their own.
        DipsimError: in the with-block, as `Evicting.attend`.
    """
    rule = load_rule(rule)
    config: Any = getattr(model, "config", None)
    layers = _layers_of(model, config)
    state = Evicting(rule, budget, when or rule.when, prompt, measures)

    def attention(
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
        factor = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        return state.attend(module, layers, query, key, value, factor, softcap or 0.0), None

    with attention_through(model, attention):
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


def _layers_of(model: nn.Module, config: Any) -> int:
    """Return the number of layers.

    Raises:
        ModelError: attention cannot be replaced, or is not over all positions.
    """
    layers = getattr(config, "num_hidden_layers", None)
    if not hasattr(model, "set_attn_implementation") or not isinstance(layers, int):
        raise ModelError(
            f"{type(model).__name__}: its attention cannot be replaced; give a causal language "
            "model of transformers"
        )
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds or (getattr(config, "use_sliding_window", True) and _window(config)):
        raise ModelError(
            f"{type(model).__name__}: layers that see a window of their own; eviction takes models "
            "whose layers all see every position"
        )
    return layers


def _window(config: Any) -> Any:
    return getattr(config, "sliding_window", None)


def _replay_of(eviction: Eviction, layers: list[tuple[NDArray[np.int32], Loss]]) -> KvReplay:
    return KvReplay(
        eviction,
        np.stack([left for left, _ in layers]),
        *(
            np.stack([getattr(loss, name) for _, loss in layers], axis=1)
            for name in ("mass", "change", "energy")
        ),
    )
