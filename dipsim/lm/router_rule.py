"""The rule of a router, worked out from one choice that was seen."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dipsim.lm.routers import Form

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda x: x,
    "softmax": lambda x: x.softmax(-1),
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": lambda x: nn.functional.softplus(x).sqrt(),
}
"""Functions of the logits that routers select by."""


class Choice(NamedTuple):
    """One choice, as a probe saw it; rows are tokens."""

    used: Tensor
    """int64[tokens, k], -1 where no expert was used."""
    weights: Tensor | None
    """float[tokens, k]."""
    scores: Tensor | None
    """float[tokens, experts or more] that topk was given; None where no topk chose."""
    logits: Tensor | None
    """float, of the same width, that the router put out."""
    tensors: Sequence[Tensor]
    """Parameters and buffers, one of which may be the bias."""


def rule_of(choice: Choice) -> dict[str, Any]:
    """Return the fields of `Router` that say by what rule a choice was made."""
    used, weights, scores, logits = choice.used, choice.weights, choice.scores, choice.logits
    if scores is None:
        assert logits is not None, "one of them was seen"
        rule = {"reads_logits": True, **_weighed(weights, used, logits, "logits")}
        return {**rule, "selects": _best(logits, used)}
    function, bias = function_of(scores, logits, choice.tensors)
    rule = {"function": function, "selects": True}
    if bias is None:
        if function == "softmax" and logits is not None and _open(scores).all():
            found = _weighed(weights, used, logits, "logits")
            if found["form"] == "logits":
                return {**rule, **found, "reads_logits": True, "function": "softmax"}
        return {**rule, **_weighed(weights, used, scores, function)}
    values = scores - bias
    found = _weighed(weights, used, values, "biased")
    return {**rule, **found, "bias": bias if found["form"] == "biased" else None}


def _weighed(weights: Tensor | None, used: Tensor, values: Tensor, function: str) -> dict[str, Any]:
    """Return the form of scores, and how the weights follow from them.

    Args:
        values: float[tokens, experts], the scores less their bias.
        function: of the logits that the values are; ``biased``: any, less a bias.
    """
    if weights is None:  # not seen: taken to be as most routers weigh
        forms: dict[str, Form] = {"logits": "logits", "biased": "biased", "unknown": "unknown"}
        return {"form": forms.get(function, "prob")}
    real, ids = used >= 0, used.clamp_min(0)
    whole = real.all(-1)
    taken = values.float().gather(1, ids)
    ways = {function: taken}
    if function == "logits":
        of_all = values.float().softmax(-1).gather(1, ids)
        ways = {"softmax": of_all, "sigmoid": taken.sigmoid()}
    several = weights.shape[1] > 1 and bool(whole.any())
    for way, raw in ways.items():
        total = _constant(weights[whole].sum(-1), weights.dtype) if several else None
        factor = _constant((weights / raw.clamp_min(1e-30))[real], weights.dtype)
        shares = _close(_shares(weights[whole]), _shares(raw[whole]), weights.dtype)
        if factor is None and not (several and shares):
            continue
        forms = {"softmax": "logits", "biased": "biased"}
        return {
            "form": forms.get(way, "prob") if function in ("logits", "biased") else "prob",
            "squashed": function == "logits" and way == "sigmoid",
            "normalised": total is not None,
            "scaling": factor if total is None else total,
            **({} if way in ("biased", "unknown") else {"function": way}),
        }
    return {"form": "unknown", "function": "unknown"}


def function_of(
    scores: Tensor, logits: Tensor | None, tensors: Sequence[Tensor]
) -> tuple[str, Tensor | None]:
    """Return the function of the logits that scores are, and the bias; None without one."""
    if logits is None:
        return "logits" if (scores < 0).any() else "unknown", None
    for name, function in FUNCTIONS.items():
        values = function(logits.float())
        open_ = _open(scores)
        counts = open_.sum(0)
        offset = torch.where(open_, scores.float() - values, 0)
        bias = offset.sum(0) / counts.clamp_min(1)
        spread = torch.where(open_, offset - bias, 0).abs().max()
        if spread > 1e-4 * max(1.0, float(values.abs().max())):
            continue
        if bias.abs().max() < 1e-6 * max(1.0, float(values.abs().max())):
            summed = (scores >= 0).all() and _constant(scores.sum(-1), scores.dtype) is not None
            return ("softmax" if summed else name), None  # which some put out for logits
        return name, _stored(bias, counts > 0, tensors)
    return "unknown", None


def _stored(bias: Tensor, seen: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return the parameter or buffer that a bias is, as far as it was seen; else the bias."""
    for tensor in tensors:
        values = tensor.detach().flatten().float()[: len(bias)]
        if len(values) == len(bias) and _close(values[seen], bias[seen]):
            return values
    return bias


def _open(scores: Tensor) -> Tensor:
    """Return bool[tokens, experts]: candidates; experts of closed groups are at 0 or -inf."""
    return scores.isfinite() & (scores != 0)


def _best(scores: Tensor, used: Tensor) -> bool:
    best = scores.topk(used.shape[1], -1).indices
    return torch.equal(best.sort(-1).values, used.sort(-1).values)


def _shares(weights: Tensor) -> Tensor:
    return weights.float() / weights.float().sum(-1, keepdim=True)


def _constant(values: Tensor, dtype: torch.dtype) -> float | None:
    """Return the value that all have, as far as a type of weights tells; None if they differ."""
    mean = values.float().mean()
    same = values.numel() > 0 and _close(values, mean.expand_as(values), dtype)
    return float(mean) if same else None


def _close(one: Tensor, other: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    off = 1e-4 if dtype == torch.float32 else 2e-2
    return bool(torch.allclose(one.float(), other.float(), rtol=off, atol=off * 1e-2))
