"""Structure of a model: its MLPs, attention and routers, found by one run, not by names.

The tensors of the run are compared. In every decoder layer the linear whose input is
``act(a) * b``, where a and b are outputs of other linears of the layer, is the MLP's down
projection; in a plain MLP its input is ``act(a)`` alone. Of the other linears the first ones, which
share an input, are q, k, v, and the last one is o. A module that puts out a score per expert,
beside the experts themselves, is a router.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipsim.errors import ModelError, brief
from dipsim.lm.quiet import quiet

_PROBES = 8  # tokens of the run; with a single one, attention would pass its values through
_ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    functional.silu,
    functional.gelu,
    lambda x: functional.gelu(x, approximate="tanh"),
    functional.relu,
    lambda x: functional.relu(x).square(),
    lambda x: x * torch.sigmoid(1.702 * x),
    torch.sigmoid,
    torch.tanh,
    lambda x: x,
)
"""Activations tried when none of the layer's own modules is the activation."""


@dataclass(frozen=True)
class Output:
    """The place of W x: a module's output, or a part of its last axis (fused gate and up)."""

    module: nn.Module
    part: slice = field(default_factory=lambda: slice(None))

    def of(self, output: Tensor) -> Tensor:
        """Return this part of the module's output, [..., units]."""
        return output[..., self.part]


@dataclass(frozen=True)
class Router:
    """A module that scores experts, and the layout of its output.

    ``logits``, ``weights``, ``indices`` are positions in the tuple it puts out; None where it does
    not put them out. ``tensor`` is True if it puts out the logits alone, not in a tuple. ``k`` is
    the number of experts per token.
    """

    module: nn.Module
    experts: int
    k: int
    logits: int = 0
    weights: int | None = None
    indices: int | None = None
    tensor: bool = False
    softmax: bool = False
    """True if the weights are softmax(logits) of the chosen experts."""
    normalised: bool = False
    """True if the weights of the chosen experts sum to 1."""

    def of(self, output: Any) -> Tensor:
        """Return the logits in the module's output, float[tokens, experts]."""
        logits: Tensor = output if self.tensor else output[self.logits]
        return logits


@dataclass(frozen=True)
class Layer:
    """The modules of one decoder layer that signals are read from, or masks applied to."""

    mlp_input: tuple[nn.Module, ...] = ()
    """Linears fed by the input of the MLP: gate and up, a fused gate_up, or fc1."""
    down: nn.Module | None = None
    """Linear whose input is act(gate) * up, or act(fc1 x)."""
    gate: Output | None = None
    up: Output | None = None
    """Outputs of gate and up; None in a plain MLP."""
    act: Callable[[Tensor], Tensor] | None = None
    attn_input: tuple[nn.Module, ...] = ()
    """Linears fed by the input of attention: q, k, v, or a fused qkv."""
    attn_output: nn.Module | None = None
    router: Router | None = None
    """Router of a mixture of experts, whose layers have no ``mlp_input``, ``down`` and so on."""
    units: Mapping[str, int] = field(default_factory=dict)
    """Units of every signal it has."""


@dataclass(frozen=True)
class Structure:
    """The decoder layers of a model, in order."""

    layers: tuple[Layer, ...]
    blocks: tuple[nn.Module, ...]
    """Module of every layer."""
    decoder: nn.Module
    """Innermost module that holds the layers and is called by token ids, once for every call of
    the model; where none is, the one that holds the layers."""

    @property
    def gated(self) -> bool:
        """True if every layer has a gated MLP."""
        return all(layer.gate is not None for layer in self.layers)

    @property
    def plain(self) -> bool:
        """True if every layer has a plain MLP."""
        return all(layer.down is not None and layer.gate is None for layer in self.layers)

    @property
    def moe(self) -> bool:
        """True if every layer has a router."""
        return all(layer.router is not None for layer in self.layers)


def find_structure(model: nn.Module) -> Structure:
    """Run a model once on a few tokens and find its MLPs, attention and routers.

    Args:
        model: a causal language model; called as ``model(input_ids=int64[1, 8])``.

    Raises:
        ModelError: no decoder layers, or one without an MLP or router; the message lists the
            modules seen.
    """
    seen, called = _probe(model)
    if not seen:
        raise ModelError(
            f"{_kind(model)}: no decoder layers found (a ModuleList of blocks that run); "
            f"it has {brief(', '.join(name for name, _ in model.named_children()), 200)}"
        )
    k = getattr(getattr(model, "config", None), "num_experts_per_tok", None)
    layers = []
    for i, (block, calls) in enumerate(seen):
        layer = _layer(block, calls, k)
        if layer.down is None and layer.router is None:
            names = ", ".join(
                f"{call.name} ({_kind(call.module)})" for call in calls if call.linear
            )
            raise ModelError(
                f"{_kind(model)}: no MLP and no router found in layer {i}: of the linears seen "
                f"({brief(names or 'none', 300)}) none takes act(a) * b or act(a) of others"
            )
        layers.append(layer)
    first = seen[0][0]
    holder = next(m for m in model.modules() for child in m.children() if _holds(child, first))
    by_ids = [module for module in model.modules() if module in called]
    decoder = next((m for m in reversed(by_ids) if first in {*m.modules()}), holder)
    return Structure(tuple(layers), tuple(block for block, _ in seen), decoder)


def _holds(blocks: nn.Module, block: nn.Module) -> bool:
    return isinstance(blocks, nn.ModuleList) and any(item is block for item in blocks)


@dataclass(frozen=True)
class _ModuleCall:
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
    def x(self) -> Tensor:
        return self.inputs[0]

    @property
    def y(self) -> Tensor:
        output: Tensor = self.outputs[0]
        return output


def _linear_like(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def _probe(
    model: nn.Module,
) -> tuple[list[tuple[nn.Module, list[_ModuleCall]]], set[nn.Module]]:
    """Run the model and return its decoder layers, each with the calls of its modules.

    The layers are the longest list of blocks that run. The second is the modules around them that
    were called by token ids.
    """
    lists: list[nn.ModuleList] = []
    inner: set[nn.Module] = set()
    for module in model.modules():  # a list inside a block holds experts, not layers
        if isinstance(module, nn.ModuleList) and module not in inner:
            lists.append(module)
            inner.update(module.modules())
    calls: dict[nn.Module, list[_ModuleCall]] = {block: [] for blocks in lists for block in blocks}
    handles = [
        handle
        for blocks in lists
        for block in blocks
        for name, module in _outermost(block)
        for handle in [module.register_forward_hook(_noting(name, calls[block]), with_kwargs=True)]
    ]
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
        with quiet(), evaluating(model), torch.no_grad():
            model(input_ids=probe_ids(model))
    finally:
        for handle in handles:
            handle.remove()
    ran = [[(block, calls[block]) for block in blocks if calls[block]] for blocks in lists]
    return max(ran, key=len, default=[]), called


def _outermost(block: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules of a block by name, but none inside a linear: peft wraps the plain one."""
    for name, child in block.named_children():
        yield prefix + name, child
        if not _linear_like(child):
            yield from _outermost(child, f"{prefix}{name}.")


def _noting(name: str, calls: list[_ModuleCall]) -> Callable[..., None]:
    """Return a hook that adds every call of the module to ``calls``."""

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = tuple(_flat(value) for value in (*args, *kwargs.values()) if _tensor(value))
        outputs = output if isinstance(output, tuple) else (output,)
        # attention's weights [batch, heads, tokens, tokens] are no vectors of tokens
        kept = tuple(_flat(out) if _tensor(out) and out.ndim <= 3 else None for out in outputs)
        calls.append(_ModuleCall(name, module, given, kept, isinstance(output, Tensor)))

    return hook


def _tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _flat(value: Tensor) -> Tensor:
    return value.detach().reshape(-1, value.shape[-1])


def probe_ids(model: nn.Module) -> Tensor:
    """Return a few different tokens of a model's vocabulary, int64[1, tokens]."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    rows, device = embedding.weight.shape[0], embedding.weight.device
    ids: Tensor = torch.arange(1, _PROBES + 1, device=device) * rows // (_PROBES + 1)
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


def _layer(block: nn.Module, calls: list[_ModuleCall], k: int | None) -> Layer:
    """Find the MLP or router, and the attention, of one decoder layer."""
    router, beside = _find_router(block, calls, k)
    linears = [call for call in calls if call.linear and call.x.is_floating_point()]
    outside = [call for call in linears if call.module not in beside]
    mlp = _find_mlp(outside, [call for call in calls if _may_activate(call)])
    taken = {*mlp.mlp_input, mlp.down}
    rest = [call for call in outside if call.module not in taken]
    attn_input = tuple(call.module for call in rest if _same(call.x, rest[0].x))
    attn_output = rest[-1].module if rest and rest[-1].module not in attn_input else None
    if (
        router is not None
    ):  # an MLP beside the experts is shared: every token uses it, so it has no signal
        layer = Layer(attn_input=attn_input, attn_output=attn_output, router=router)
    else:
        layer = replace(mlp, attn_input=attn_input, attn_output=attn_output)
    return replace(layer, units=_units(layer, {call.module: call.x.shape[-1] for call in linears}))


def _units(layer: Layer, widths: Mapping[nn.Module, int]) -> dict[str, int]:
    """Return the units of every signal of a layer.

    Args:
        widths: of the input of each linear.
    """
    fed = {
        "mlp_input": layer.mlp_input[:1],
        "gate": () if layer.gate is None else (layer.down,),
        "up": () if layer.up is None else (layer.down,),
        "glu": (layer.down,),
        "attn_input": layer.attn_input[:1],
        "attn_output": (layer.attn_output,),
    }
    units = {
        signal: widths[linear]
        for signal, linears in fed.items()
        for linear in linears
        if linear is not None
    }
    return units if layer.router is None else {**units, "expert": layer.router.experts}


def _may_activate(call: _ModuleCall) -> bool:
    """Return True for a module without weights that maps a tensor to one of the same shape."""
    return (
        next(call.module.parameters(), None) is None
        and call.tensor
        and call.outputs[0] is not None
        and len(call.inputs) == 1
        and call.x.shape == call.y.shape
    )


def _find_mlp(linears: list[_ModuleCall], own: Sequence[_ModuleCall]) -> Layer:
    """Return the MLP of the last linear whose input is made of the outputs of earlier ones.

    Args:
        linears: calls of the layer's linears.
        own: calls of its modules that may be activations; a norm takes vectors of one width only.
    """
    for exact in (True, False):  # the model's own activations first: they are exact
        for i in range(len(linears) - 1, 0, -1):
            width = linears[i].x.shape[-1]
            modules = [call.module for call in own if call.x.shape[-1] == width]
            mlp = _made_of(linears[i], linears[:i], modules if exact else _ACTIVATIONS)
            if mlp is not None:
                return mlp
    return Layer()


def _made_of(
    down: _ModuleCall, earlier: list[_ModuleCall], activations: Sequence[Callable[[Tensor], Tensor]]
) -> Layer | None:
    """Return the MLP whose act(a) * b or act(a), of earlier outputs a and b, is nearest to h.

    h is the input of ``down``; None if nothing comes near enough.
    """
    h = down.x
    best, least = None, 1e-4 if h.dtype == torch.float32 else 2e-2
    parts = [(call, part) for call in earlier for part in _parts(call.y, h)]
    with torch.no_grad():
        for call, part in parts:
            a = call.y[..., part]
            for act in activations:
                active = act(a)
                if (off := _off(active, h)) < least and _off(active, a) > 0:
                    best, least = Layer((call.module,), down.module, act=act), off
                for other, its in parts:
                    same = other is call and its == part
                    if same or not _same(other.x, call.x):
                        continue
                    if (off := _off(active * other.y[..., its], h)) < least:
                        gate, up = Output(call.module, part), Output(other.module, its)
                        fed = tuple(dict.fromkeys((call.module, other.module)))
                        best, least = Layer(fed, down.module, gate, up, act), off
    return best


def _parts(y: Tensor, h: Tensor) -> list[slice]:
    """Return the parts of an output that are as wide as h: the whole, halves, or every other."""
    width = h.shape[-1]
    if len(y) != len(h) or y.shape[-1] not in (width, 2 * width):
        return []
    if y.shape[-1] == width:
        return [slice(None)]
    halves = [slice(0, width), slice(width, 2 * width)]
    return [*halves, slice(0, None, 2), slice(1, None, 2)]


def _off(guess: Tensor, h: Tensor) -> float:
    """Return the distance of a guess from h, relative to the norm of h."""
    if guess.shape != h.shape:
        return torch.inf
    h = h.float()
    return float((guess.float() - h).norm() / h.norm().clamp_min(1e-30))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _find_router(
    block: nn.Module, calls: list[_ModuleCall], k: int | None
) -> tuple[Router | None, set[nn.Module]]:
    """Return the router, and all modules of the block it is in (experts, shared ones)."""
    by_module = {call.module: call for call in calls}
    for parent in block.modules():
        for experts in parent.children():
            count = _experts(experts)
            for sibling in parent.children() if count > 1 else ():
                call = by_module.get(sibling)
                if sibling is not experts and call is not None:
                    fed = by_module[experts].inputs if experts in by_module else ()
                    router = _router(call, count, fed, k)
                    if router is not None:
                        return router, set(parent.modules())
    return None, set()


def _experts(module: nn.Module) -> int:
    """Return the number of experts in a module: a list of them, or weights with one more axis."""
    if isinstance(module, nn.ModuleList):
        return len(module)
    cubes = {
        len(weight)
        for part in module.modules()
        if not isinstance(part, nn.Conv1d)  # whose third axis is that of its window
        for weight in part.parameters(recurse=False)
        if weight.ndim == 3
    }
    return cubes.pop() if len(cubes) == 1 else 0


def _router(
    call: _ModuleCall, experts: int, fed: tuple[Tensor, ...], k: int | None
) -> Router | None:
    """Return the router that was called, or None if the module is none.

    ``fed`` are the inputs of the experts.
    """
    scores = [
        i for i, out in enumerate(call.outputs) if _scores(out) and out.shape == (_PROBES, experts)
    ]
    if not scores:
        return None
    chosen = [i for i, out in enumerate(call.outputs) if out is not None and not _scores(out)]
    tables = [call.outputs[i] for i in chosen] + [x for x in fed if not x.is_floating_point()]
    used = tables[0].shape[1] if tables else k
    if used is None or not 1 <= used <= experts:
        return None
    # logits have signs, probabilities beside them have none
    logits = next((i for i in scores if (call.outputs[i] < 0).any()), scores[0])
    weights = next(
        (
            i
            for i, out in enumerate(call.outputs)
            if i != logits and _scores(out) and out.shape[1] == used
        ),
        None,
    )
    router = Router(call.module, experts, used, logits, weights, tensor=call.tensor)
    if not chosen or weights is None:
        return router
    return _weighing(router, call, chosen[0])


def _scores(out: Any) -> bool:
    return isinstance(out, Tensor) and out.is_floating_point()


def _weighing(router: Router, call: _ModuleCall, indices: int) -> Router:
    """Return the router with the rule by which it weighs the experts that it chooses."""
    assert router.weights is not None
    weights = call.outputs[router.weights].float()
    taken = call.outputs[router.logits].float().softmax(-1).gather(1, call.outputs[indices])
    sums = taken.sum(-1, keepdim=True)
    plain, normalised = _off(taken, weights), _off(taken / sums, weights)
    return replace(
        router,
        indices=indices,
        softmax=min(plain, normalised) < 1e-2,
        normalised=normalised <= plain,
    )


def _kind(module: nn.Module) -> str:
    return type(module).__name__
