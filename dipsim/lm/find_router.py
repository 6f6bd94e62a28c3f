"""Finding a layer's router: the experts, what they are given, and the topk that chose it."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dipsim.errors import ModelError
from dipsim.lm.probe import LayerProbe, ModuleCall, TopkCall
from dipsim.lm.router_rule import Choice, function_of, rule_of
from dipsim.lm.routers import Router, ids_and_weights


def find_router(seen: LayerProbe, tokens: int) -> tuple[Router | None, set[nn.Module]]:
    """Return a layer's router, and the modules of the mixture it is in (experts, shared ones).

    Args:
        seen: the layer.
        tokens: number of tokens that it saw.

    Raises:
        ModelError: several mixtures of experts in the layer.
    """
    routers: dict[nn.Module, Router] = {}
    beside: set[nn.Module] = set()
    for parent, experts in _mixtures(seen, tokens):
        router = _router(seen, parent, experts, tokens)
        if router is None:
            continue
        routers[router.chooser or router.module] = router
        around = parent if parent is not seen.block else experts
        beside |= {*around.modules(), *router.module.modules()}
    if len(routers) > 1:
        raise ModelError(
            f"{_kind(seen.block)}: {len(routers)} mixtures of experts in a layer "
            f"({', '.join(sorted({_kind(module) for module in routers}))}): a trace holds one"
        )
    return next(iter(routers.values()), None), beside


def _mixtures(seen: LayerProbe, tokens: int) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield modules that hold experts, each with the module around it."""
    fed = {call.module for call in seen.calls if _given(call, tokens) is not None}
    for parent in seen.block.modules():
        for experts in parent.children():
            if experts in fed or (not fed and _experts(experts) > 1):
                yield parent, experts


def _given(call: ModuleCall | None, tokens: int) -> tuple[Tensor, Tensor] | None:
    """Return the ids and weights that a module was given, int64 and float [tokens, k]."""
    rows = () if call is None else tuple(x for x in call.inputs if len(x) == tokens)
    try:
        return ids_and_weights(rows)
    except LookupError:
        return None


def _experts(module: nn.Module) -> int:
    """Return the number of experts in a module: a list of them, or weights with one more axis.

    One that some of the weights lack is none: it hands on what it is given (zero experts).
    """
    if isinstance(module, nn.ModuleList):
        return len(module)
    cubes = {
        len(weight)
        for part in module.modules()
        if not isinstance(part, nn.Conv1d)  # whose third axis is that of its window
        for weight in part.parameters(recurse=False)
        if weight.ndim == 3
    }
    return min(cubes, default=0)


def _router(seen: LayerProbe, parent: nn.Module, experts: nn.Module, tokens: int) -> Router | None:
    """Return the router of a module of experts, or None if it has none."""
    of_experts = next((call for call in seen.calls if call.module is experts), None)
    given, inside = _given(of_experts, tokens), {*parent.modules()} - {*experts.modules()}
    calls = [call for call in seen.topk if call.within in inside and len(call.scores) == tokens]
    count = _experts(experts)
    chosen = _choosing(calls, None if given is None else given[0], count)
    if chosen is None and (given is None or not count):
        return None
    width = count if chosen is None else chosen.scores.shape[1]
    count = count or width
    ids = chosen.ids if chosen is not None else given[0]  # type: ignore[index]
    used = torch.where(ids < count, ids, -1)
    scores = None if chosen is None else chosen.scores
    tensors = [*parent.parameters(), *parent.buffers()]
    places = [
        (call.module, None if call.tensor else i, out)
        for call in seen.calls
        for i, out in enumerate(call.outputs if call.module in inside else ())
        if _scores(out) and tuple(out.shape) == (tokens, width)
    ]
    found = _scoring(places, scores, tensors)
    if found is None and chosen is None:
        return None
    module, output, logits = found or (chosen.within, None, None)  # type: ignore[union-attr]
    weights = given[1] if given is not None else _weights(places, ids, logits)
    rule = rule_of(Choice(used, weights, scores, logits, tensors))
    if (bias := rule.get("bias")) is not None:
        rule["bias"] = bias[:count]
    choosing = module if chosen is None else chosen.within
    outputs = [len(call.outputs) for call in seen.calls if call.module is choosing]
    return Router(
        module,
        count,
        ids.shape[1],
        output,
        None if chosen is None else chosen.within,
        0 if chosen is None else chosen.number,
        None if given is None else experts,
        separate=given is not None and max(outputs, default=0) <= 3,
        **rule,
    )


def _choosing(calls: Sequence[TopkCall], used: Tensor | None, count: int) -> TopkCall | None:
    """Return the call of topk that chose the experts; None if none did.

    Args:
        calls: on all tokens.
        used: int64[tokens, k] ids that the experts were given, if they were.
        count: number of experts; 0 if it is not known.
    """
    for call in reversed(calls):
        width = call.scores.shape[1]
        if used is None:
            if width == count:
                return call
            continue
        if width < max(count, int(used.max()) + 1) or call.ids.shape != used.shape:
            continue
        same = (call.ids.sort(-1).values == used.sort(-1).values).all(-1)
        none = (call.ids >= (count or width)).any(-1)  # ids of no expert may be changed on the way
        if bool(same.any()) and bool((same | none).all()):
            return call
    return None


_Place = tuple[nn.Module, int | None, Tensor]
"""A module, the place of a score per expert in what it puts out (None if that is all), and it."""


def _scoring(
    places: Sequence[_Place], scores: Tensor | None, tensors: Sequence[Tensor]
) -> _Place | None:
    """Return the place of the logits, of which the scores are a function if there are any."""
    if scores is not None:
        for place in places:
            if function_of(scores, place[2], tensors)[0] != "unknown":
                return place
    signed = [place for place in places if (place[2] < 0).any()]  # probabilities have no signs
    return next(iter([*signed, *places]), None)


def _weights(places: Sequence[_Place], ids: Tensor, logits: Tensor | None) -> Tensor | None:
    """Return the weights of experts that are not given any: another score that a module puts out
    for every expert, 0 for those that are not used."""
    for _, _, out in places:
        if out is not logits and int((out != 0).sum()) == ids.numel():
            weights: Tensor = out.gather(1, ids)
            return weights
    return None


def _scores(out: Any) -> bool:
    return isinstance(out, Tensor) and out.is_floating_point()


def _kind(module: nn.Module) -> str:
    return type(module).__name__
