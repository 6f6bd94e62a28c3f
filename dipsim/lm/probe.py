"""One run of a model on a few tokens, of which all modules' inputs and outputs are kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dipsim.lm.quiet import quiet
from dipsim.lm.routers import TopkCalls

PROBES = 8
"""Tokens of the run; with a single one, attention would pass its values through."""


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module of a layer: its inputs and outputs, flattened to [tokens, units]."""

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    outputs: tuple[Any, ...]
    tensor: bool
    """True if it put out one tensor, not a tuple."""

    @property
    def linear(self) -> bool:
        """True if it maps vectors by a matrix, whatever its class (peft's layers, Conv1D ...)."""
        vectors = self.tensor and self.outputs[0] is not None
        return _linear_like(self.module) and vectors and bool(self.inputs)

    @property
    def input(self) -> Tensor:
        """First input, [tokens, units]."""
        return self.inputs[0]

    @property
    def output(self) -> Tensor:
        """First output, [tokens, units]."""
        output: Tensor = self.outputs[0]
        return output


class TopkCall(NamedTuple):
    """One call of topk in a layer."""

    within: nn.Module
    """Innermost module that ran."""
    number: int
    """Number of the call within that module's forward."""
    scores: Tensor
    """float[rows, width]."""
    ids: Tensor
    """int64[rows, k]."""


@dataclass(frozen=True)
class LayerProbe:
    """Calls of one layer in the run: of its modules, and of topk."""

    block: nn.Module
    calls: list[ModuleCall] = field(default_factory=list)
    """Calls of all its modules, in the order in which they ended."""
    topk: list[TopkCall] = field(default_factory=list)


def _linear_like(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def run_probe(model: nn.Module) -> tuple[list[LayerProbe], set[nn.Module]]:
    """Run the model on a few tokens and keep the calls of its decoder layers.

    Args:
        model: called as ``model(input_ids=int64[1, 8])``, without dropout or gradients.

    Returns:
        The layers, in order: the longest list of blocks that run; empty where none does. And the
        modules around them that were called by token ids.

    Raises:
        Exception: whatever the model raises; all hooks are removed first.
    """
    lists: list[nn.ModuleList] = []
    inner: set[nn.Module] = set()
    for module in model.modules():  # a list inside a block holds experts, not layers
        if isinstance(module, nn.ModuleList) and module not in inner:
            lists.append(module)
            inner.update(module.modules())
    seen = {block: LayerProbe(block) for blocks in lists for block in blocks}
    running = _Running(seen)
    handles = [handle for block in seen for handle in running.hooks(block)]
    called: set[nn.Module] = set()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = kwargs.get("input_ids", args[0] if args else None)
        if isinstance(given, Tensor) and not given.is_floating_point():
            called.add(module)

    handles += [
        module.register_forward_pre_hook(note, with_kwargs=True)
        for module in model.modules()
        if module not in inner and any(isinstance(part, nn.ModuleList) for part in module.modules())
    ]
    try:
        with quiet(), evaluating(model), torch.no_grad(), TopkCalls(running.topk):
            model(input_ids=probe_ids(model))
    finally:
        for handle in handles:
            handle.remove()
    ran = [[seen[block] for block in blocks if seen[block].calls] for blocks in lists]
    return max(ran, key=len, default=[]), called


class _Running:
    """Modules that run, the outermost first, each with the calls of topk in it so far."""

    def __init__(self, seen: dict[nn.Module, LayerProbe]) -> None:
        self._seen = seen
        self._stack: list[tuple[nn.Module, list[TopkCall]]] = []

    def hooks(self, block: nn.Module) -> Iterator[Any]:
        """Put hooks into a block and its modules, and yield their handles."""
        for name, module in (("", block), *_outermost(block)):
            yield module.register_forward_pre_hook(self._begin)
            if module is not block:
                noting = _noting(name, self._seen[block].calls)
                yield module.register_forward_hook(noting, with_kwargs=True)
            yield module.register_forward_hook(self._end, always_call=True)

    def topk(self, scores: Tensor, result: Any) -> Any:
        """Note a call of topk in a block; return its result."""
        if self._stack and scores.ndim > 1 and scores.is_floating_point():
            block, within = self._stack[0][0], self._stack[-1]
            ids = result[1]
            call = TopkCall(within[0], len(within[1]), _flat(scores), _flat(ids))
            self._seen[block].topk.append(call)
            for _, calls in self._stack:
                calls.append(call)
        return result

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._stack.append((module, []))

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._stack.pop()


def _outermost(block: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules of a block by name, but none inside a linear: peft wraps the plain one."""
    for name, child in block.named_children():
        yield prefix + name, child
        if not _linear_like(child):
            yield from _outermost(child, f"{prefix}{name}.")


def _noting(name: str, calls: list[ModuleCall]) -> Callable[..., None]:
    """Return a hook that adds every call of the module to ``calls``."""

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = tuple(_flat(value) for value in (*args, *kwargs.values()) if _tensor(value))
        outputs = output if isinstance(output, tuple) else (output,)
        # attention's weights [batch, heads, tokens, tokens] are no vectors of tokens
        kept = tuple(_flat(out) if _tensor(out) and out.ndim <= 3 else None for out in outputs)
        calls.append(ModuleCall(name, module, given, kept, isinstance(output, Tensor)))

    return hook


def _tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _flat(value: Tensor) -> Tensor:
    return value.detach().reshape(-1, value.shape[-1])


def probe_ids(model: nn.Module) -> Tensor:
    """Return a few different tokens of a model's vocabulary, int64[1, tokens]."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    rows, device = embedding.weight.shape[0], embedding.weight.device
    ids: Tensor = torch.arange(1, PROBES + 1, device=device) * rows // (PROBES + 1)
    return ids[None]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, which would spoil the comparisons, while the with-block lasts."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
