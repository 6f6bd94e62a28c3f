"""Structure of a model: its MLPs, attention and routers, found by one run, not by names.

The tensors of the run are compared. In every decoder layer the linear whose input is
``act(a) * b``, where a and b are outputs of other linears of the layer, is the MLP's down
projection; in a plain MLP its input is ``act(a)`` alone. Of the other linears the first ones, which
share an input, are q, k, v, and the last one is o. Routers: see find_router.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipsim.errors import ModelError, brief
from dipsim.lm.find_router import find_router
from dipsim.lm.probe import PROBES, LayerProbe, ModuleCall, run_probe
from dipsim.lm.routers import Router

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
        """True if any layer has a router."""
        return any(layer.router is not None for layer in self.layers)

    @property
    def routers(self) -> tuple[Router, ...]:
        """Routers of the layers that have one."""
        return tuple(layer.router for layer in self.layers if layer.router is not None)


def find_structure(model: nn.Module) -> Structure:
    """Run a model once on a few tokens and find its MLPs, attention and routers.

    Args:
        model: a causal language model; called as ``model(input_ids=int64[1, 8])``.

    Raises:
        ModelError: no decoder layers, or one without an MLP or router; the message lists the
            modules seen.
    """
    seen, called = run_probe(model)
    if not seen:
        raise ModelError(
            f"{_kind(model)}: no decoder layers found (a ModuleList of blocks that run); "
            f"it has {brief(', '.join(name for name, _ in model.named_children()), 200)}"
        )
    layers = [_layer(of_layer) for of_layer in seen]
    routed = any(layer.router is not None for layer in layers)
    for i, (layer, of_layer) in enumerate(zip(layers, seen, strict=True)):
        if layer.down is None and not routed:  # some mixtures have layers of attention alone
            names = ", ".join(
                f"{call.name} ({_kind(call.module)})" for call in of_layer.calls if call.linear
            )
            raise ModelError(
                f"{_kind(model)}: no MLP and no router found in layer {i}: of the linears seen "
                f"({brief(names or 'none', 300)}) none takes act(a) * b or act(a) of others"
            )
    first = seen[0].block
    holder = next(m for m in model.modules() for child in m.children() if _holds(child, first))
    by_ids = [module for module in model.modules() if module in called]
    decoder = next((m for m in reversed(by_ids) if first in {*m.modules()}), holder)
    return Structure(tuple(layers), tuple(each.block for each in seen), decoder)


def _holds(blocks: nn.Module, block: nn.Module) -> bool:
    return isinstance(blocks, nn.ModuleList) and any(item is block for item in blocks)


def _layer(seen: LayerProbe) -> Layer:
    """Find the MLP or router, and the attention, of one decoder layer."""
    calls = seen.calls
    router, beside = find_router(seen, PROBES)
    linears = [call for call in calls if call.linear and call.input.is_floating_point()]
    outside = [call for call in linears if call.module not in beside]
    mlp = _find_mlp(outside, [call for call in calls if _may_activate(call)])
    if router is None:
        _refuse_hidden_experts(seen, mlp)
    taken = {*mlp.mlp_input, mlp.down}
    rest = [call for call in outside if call.module not in taken]
    attn_input = tuple(call.module for call in rest if _same(call.input, rest[0].input))
    attn_output = rest[-1].module if rest and rest[-1].module not in attn_input else None
    if (
        router is not None
    ):  # an MLP beside the experts is shared: every token uses it, so it has no signal
        layer = Layer(attn_input=attn_input, attn_output=attn_output, router=router)
    else:
        layer = replace(mlp, attn_input=attn_input, attn_output=attn_output)
    return replace(
        layer, units=_units(layer, {call.module: call.input.shape[-1] for call in linears})
    )


def _refuse_hidden_experts(seen: LayerProbe, mlp: Layer) -> None:
    """Refuse an MLP that has experts which are no modules.

    Raises:
        ModelError: the module that holds the MLP's matrices chooses by topk.
    """
    for call in seen.topk:
        if call.within is not seen.block and mlp.down in {*call.within.modules()}:
            raise ModelError(
                f"{_kind(call.within)}: chooses by topk among experts that are no modules which "
                "are given ids and weights, so which of them are used is not seen"
            )


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


def _may_activate(call: ModuleCall) -> bool:
    """Return True for a module without weights that maps a tensor to one of the same shape."""
    return (
        next(call.module.parameters(), None) is None
        and call.tensor
        and call.outputs[0] is not None
        and len(call.inputs) == 1
        and call.input.shape == call.output.shape
    )


def _find_mlp(linears: list[ModuleCall], own: Sequence[ModuleCall]) -> Layer:
    """Return the MLP of the last linear whose input is made of the outputs of earlier ones.

    Args:
        linears: calls of the layer's linears.
        own: calls of its modules that may be activations; a norm takes vectors of one width only.
    """
    for exact in (True, False):  # the model's own activations first: they are exact
        for i in range(len(linears) - 1, 0, -1):
            width = linears[i].input.shape[-1]
            modules = [call.module for call in own if call.input.shape[-1] == width]
            mlp = _made_of(linears[i], linears[:i], modules if exact else _ACTIVATIONS)
            if mlp is not None:
                return mlp
    return Layer()


def _made_of(
    down: ModuleCall, earlier: list[ModuleCall], activations: Sequence[Callable[[Tensor], Tensor]]
) -> Layer | None:
    """Return the MLP whose act(a) * b or act(a), of earlier outputs a and b, is nearest to h.

    h is the input of ``down``; None if nothing comes near enough.
    """
    h = down.input
    best, least = None, 1e-4 if h.dtype == torch.float32 else 2e-2
    parts = [(call, part) for call in earlier for part in _parts(call.output, h)]
    with torch.no_grad():
        for call, part in parts:
            a = call.output[..., part]
            for act in activations:
                active = act(a)
                if (off := _off(active, h)) < least and _off(active, a) > 0:
                    best, least = Layer((call.module,), down.module, act=act), off
                for other, its in parts:
                    same = other is call and its == part
                    if same or not _same(other.input, call.input):
                        continue
                    if (off := _off(active * other.output[..., its], h)) < least:
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


def _kind(module: nn.Module) -> str:
    return type(module).__name__
