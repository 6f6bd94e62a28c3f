"""Traits in which families of models differ, beside the numbers in their configs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dipsim.model.families.config import Config

Layers = list[dict[str, Any]]
"""The keys of every layer, in the form of a kind of layer."""
Special = Callable[[Config, Layers, dict[str, Any]], None]
"""Changes the keys of layers and those of the model."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Traits of a ``model_type``; the usual ones are those of Llama.

    Attributes:
        order: rule that lays out mixers where the config does not list them (`order.ORDERS`).
        state: mixer with a state of fixed size (`states.STATES`).
        biases: parts that have a bias, of ``q k v o``, ``m`` the MLP, ``h`` lm_head, ``r`` the
            router and ``f`` the last norm.
        bias_keys: keys of the config that give parts a bias when true.
        qk_norm: norms of queries and keys: ``head`` one weight per channel of a head, ``head
            with bias`` a bias beside it, ``heads`` one weight per channel of every head, ``width``
            the same under another name, ``""`` none.
        qk_norm_key: key of the config that turns them on.
        norms: norms of a layer with a mixer and an MLP.
        norm_weights: weights of a norm per channel: 2 with a bias, 0 without weights.
        last_norm: whether there is a norm behind the last layer.
        gated: whether MLPs have a gate.
        gate: gate of the attention's output: ``width`` per channel, ``head`` per head.
        sinks: which layers have a sink per head: ``all`` or those with a ``window``.
        shared_gate: whether a gate of one output weighs the shared expert.
        expert_biases: whether the matrices of experts have biases.
        positions: keys of the number of learned positions, and how many rows there are more.
        parallel: key of the config that makes attention and MLP read one norm.
        single: whether a layer has either a mixer or an MLP.
        latent: whether keys and values are cached as a latent vector (MLA).
        indexer: whether an indexer chooses positions, and caches a key of its own.
        prepare: returns values that replace those of the config before it is read.
        special: what none of these says.
        usual: values of keys that neither the config nor its class gives.
    """

    order: str = "full"
    state: str = ""
    biases: str = ""
    bias_keys: Mapping[str, str] = field(
        default_factory=lambda: {"attention_bias": "qkvo", "mlp_bias": "m"}
    )
    qk_norm: str = ""
    qk_norm_key: str = ""
    norms: int = 2
    norm_weights: int = 1
    last_norm: bool = True
    gated: bool = True
    gate: str = ""
    sinks: str = ""
    shared_gate: bool = False
    expert_biases: bool = False
    positions: tuple[str, int] | None = None
    parallel: str = ""
    single: bool = False
    latent: bool = False
    indexer: bool = False
    prepare: Callable[[Config], dict[str, Any]] | None = None
    special: Special | None = None
    usual: Mapping[str, Any] = field(default_factory=dict)
