"""Cosine and gain of attention, of the MLP and of the layer: how far each moves its input.

The state between attention and MLP has no module of its own. It is found by one run: the input of
some module that differs from the layer's input by a multiple of another module's output. Where
attention and MLP stand side by side there is none, and each is judged from the layer's input.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dipsim.errors import ModelError
from dipsim.lm.probe import evaluating
from dipsim.lm.quiet import quiet
from dipsim.lm.structure import Structure


class Middle(NamedTuple):
    """The place where a layer shows what its attention did."""

    module: nn.Module
    parallel: bool
    """False: the module's input is the state between attention and MLP; True: its output is what
    the MLP adds beside attention."""


class _Seen(NamedTuple):
    module: nn.Module
    given: Tensor
    output: Tensor


def find_middles(model: nn.Module, structure: Structure, ids: Tensor) -> tuple[Middle, ...]:
    """Run a model on a few tokens and find where every layer shows what its attention did.

    Args:
        model: a model of transformers.
        structure: the result of `find_structure`.
        ids: int64[1, tokens].

    Raises:
        ModelError: a layer that shows it nowhere.
    """
    seen: list[list[_Seen]] = [[] for _ in structure.blocks]
    hooks = [
        module.register_forward_hook(_noting(calls), with_kwargs=True)
        for block, calls in zip(structure.blocks, seen, strict=True)
        for module in block.modules()
    ]
    try:
        with quiet(), evaluating(model), torch.no_grad():
            model(input_ids=ids)
    finally:
        for hook in hooks:
            hook.remove()
    middles = []
    for i, calls in enumerate(seen):
        middle = _middle(calls)
        if middle is None:
            raise ModelError(
                f"{type(model).__name__}: what attention and the MLP add in layer {i} is not found"
                ": record other signals than layer_io"
            )
        middles.append(middle)
    return tuple(middles)


def input_of(args: Sequence[Any], given: dict[str, Any]) -> Any:
    """Return the first argument that a module was called with."""
    return next(iter((*args, *given.values())), None)


def output_of(output: Any) -> Any:
    """Return what a module put out, or the first of several."""
    return output[0] if isinstance(output, tuple) else output


def _noting(calls: list[_Seen]) -> Any:
    def hook(module: nn.Module, args: Any, given: dict[str, Any], output: Any) -> None:
        x, y = input_of(args, given), output_of(output)
        if isinstance(x, Tensor) and isinstance(y, Tensor) and x.is_floating_point():
            calls.append(_Seen(module, _rows(x.detach()), _rows(y.detach())))

    return hook


def _rows(values: Tensor) -> Tensor:
    return values.reshape(-1, values.shape[-1])


def _middle(calls: list[_Seen]) -> Middle | None:
    """Return the middle of a layer, whose own call is the last."""
    if not calls:
        return None
    *inner, (_, x, out) = calls
    outputs = [call.output for call in inner if call.output.shape == x.shape]
    for call in inner:
        if call.given.shape == x.shape and any(_adds(x, y, call.given) for y in outputs):
            return Middle(call.module, parallel=False)
    for call in reversed(inner):
        y = call.output
        if y.shape == x.shape and any(_adds(x + y, z, out) for z in outputs if z is not y):
            return Middle(call.module, parallel=True)
    return None


def _adds(x: Tensor, y: Tensor, total: Tensor) -> bool:
    """Return whether the total is x plus a multiple of y, and y is not nothing."""
    change, part = (total - x).double().flatten(), y.double().flatten()
    size = change.norm()
    if size <= 1e-6 * x.double().norm() or part.norm() == 0:
        return False
    factor = change @ part / (part @ part)
    exact = 1e-3 if x.dtype == torch.float32 else 3e-2
    return bool((change - factor * part).norm() < exact * size)


def figures(x: Tensor, middle: Tensor, out: Tensor, parallel: bool) -> Tensor:
    """Return cosine and gain of attention, MLP and layer, float32[rows, 6].

    The cosine is that of input and output; the gain <input, output> / <input, input> is the factor
    by which the input alone comes nearest to the output.

    Args:
        x: input of the layer, float[..., width].
        middle: what its `Middle` shows, float[..., width].
        out: output of the layer, float[..., width].
        parallel: as in `Middle`.
    """
    x, middle, out = (_rows(values).float() for values in (x, middle, out))
    pairs = ((x, middle), (middle, out), (x, out))
    if parallel:
        pairs = ((x, out - middle), (x, x + middle), (x, out))
    return torch.stack([figure for pair in pairs for figure in cosine_and_gain(*pair)], dim=-1)


def cosine_and_gain(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos(x, y) and <x, y> / <x, x>, float[...], of float[..., width]; 0 where x is 0."""
    inner, size = (x * y).sum(-1), (x * x).sum(-1)
    norms = (size * (y * y).sum(-1)).sqrt()
    return inner / norms.clamp_min(1e-30), inner / size.clamp_min(1e-30)
