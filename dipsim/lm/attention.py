"""Attention of a running model: its calls pass through functions that read or change them.

transformers looks attention up by a name (`AttentionInterface`). A model is given a name of
dipsim's, behind which the functions stand and, last, the implementation that it had.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dipsim.errors import ModelError
from dipsim.lm.probe import evaluating
from dipsim.lm.quiet import quiet
from dipsim.lm.structure import Structure

Attend = Callable[..., tuple[Tensor, Any]]
"""``attend(module, query, key, value, mask, **options)``: query float[sequences, heads, tokens,
head_dim], key and value float[sequences, kv_heads, positions, head_dim], all after the position
embedding; returns float[sequences, tokens, heads, head_dim] and the weights, or None."""
Wrapper = Callable[..., tuple[Tensor, Any]]
"""``wrapper(attend, module, query, key, value, mask, **options)``, which calls ``attend``."""
_PREFIX = "dipsim_"
_WRAPPERS: WeakKeyDictionary[nn.Module, list[Wrapper]] = WeakKeyDictionary()


@contextmanager
def attention_through(model: Any, wrapper: Wrapper) -> Iterator[None]:
    """Send all attention of a model through a function while the with-block lasts.

    With-blocks may be nested; the function of the innermost is called first.

    Args:
        model: a model of transformers.
        wrapper: see `Wrapper`.

    Raises:
        ModelError: the model does not look its attention up by name.
    """
    own = getattr(model.config, "_attn_implementation", None)
    base = str(own).removeprefix(_PREFIX)
    name = _PREFIX + base
    AttentionInterface.register(name, partial(_attend, base))
    if base in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    modules = list(model.modules())
    with quiet():
        model.set_attn_implementation(name)
    if getattr(model.config, "_attn_implementation", None) != name:
        raise ModelError(f"{type(model).__name__}: its attention cannot be replaced, nor recorded")
    for module in modules:
        _WRAPPERS.setdefault(module, []).append(wrapper)
    try:
        yield
    finally:
        for module in modules:
            _WRAPPERS[module].remove(wrapper)
        with quiet():
            model.set_attn_implementation(own)


def _attend(
    base: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **given: Any
) -> tuple[Tensor, Any]:
    attend = _implementation(base, module)
    for wrapper in _WRAPPERS.get(module, ()):
        attend = partial(wrapper, attend)
    return attend(module, query, key, value, mask, **given)


def _implementation(base: str, module: nn.Module) -> Attend:
    """Return the function that a module would have called: that of its file, or everyone's."""
    home = sys.modules[type(module).__module__]
    if base == "eager":
        eager: Attend = home.eager_attention_forward
        return eager
    known: Mapping[str, Attend] = getattr(home, "ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)
    return known[base]


def layer_of_modules(blocks: Sequence[nn.Module]) -> dict[nn.Module, int]:
    """Return the number of the layer of every module in the blocks."""
    return {module: i for i, block in enumerate(blocks) for module in block.modules()}


def new_rows(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of the tokens of a call, float[rows, heads x head_dim].

    With a KV cache key and value have earlier positions too, which come first.
    """
    tokens = query.shape[2]
    q, k, v = (
        x[:, :, -tokens:].transpose(1, 2).reshape(x.shape[0] * tokens, -1)
        for x in (query, key, value)
    )
    return q, k, v


def attention_of(model: Any, structure: Structure, ids: Tensor) -> dict[str, Any]:
    """Run a model on a few tokens and return how its attention is computed.

    Args:
        model: a model of transformers.
        structure: the result of `find_structure`.
        ids: int64[1, tokens].

    Returns:
        ``heads``, ``kv_heads``, ``scaling`` of q.k, ``softcap`` of the scaled product, ``window``
        in positions (None: no such bound), and ``sinks``: whether heads have a logit of their own
        beside the positions; a list with a value per layer where layers differ.

    Raises:
        ModelError: a layer whose attention is not looked up by name.
    """
    layer_of = layer_of_modules(structure.blocks)
    known: dict[int, dict[str, Any]] = {}

    def note(attend: Attend, module: nn.Module, *args: Any, **given: Any) -> tuple[Tensor, Any]:
        query, key = args[0], args[1]
        scaling = given.get("scaling")
        if module in layer_of:
            known.setdefault(
                layer_of[module],
                {
                    "heads": query.shape[1],
                    "kv_heads": key.shape[1],
                    "scaling": query.shape[3] ** -0.5 if scaling is None else float(scaling),
                    "softcap": given.get("softcap"),
                    "window": given.get("sliding_window"),
                    "sinks": given.get("s_aux") is not None,
                },
            )
        return attend(module, *args, **given)

    with attention_through(model, note), quiet(), evaluating(model), torch.no_grad():
        model(input_ids=ids)
    for layer in range(len(structure.blocks)):
        if layer not in known:
            raise ModelError(
                f"{type(model).__name__}: layer {layer} has no attention with queries, keys and "
                "values: record other signals"
            )
    columns = {key: [known[i][key] for i in range(len(known))] for key in known[0]}
    return {key: column[0] if len(set(column)) == 1 else column for key, column in columns.items()}
