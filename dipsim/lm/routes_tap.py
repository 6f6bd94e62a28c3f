"""Recording of routes: of every layer the scores that its router selects by, and what it used."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dipsim.errors import ModelError, TraceError
from dipsim.lm.routers import Form, Router, RouterHooks
from dipsim.lm.structure import Structure
from dipsim.trace.routes import NONE, USED, WEIGHTS, raised

_LARGEST_HALF = float(torch.finfo(torch.float16).max)


class _Rows(NamedTuple):
    """Scores and choice of one layer's router in a call; rows are tokens."""

    scores: Tensor
    used: Tensor
    weights: Tensor | None


class RoutesTap:
    """Hooks on all routers of a model; a layer without one records that it uses no expert.

    Args:
        structure: of the model.
        stored: type of the scores and weights.
    """

    def __init__(self, structure: Structure, stored: torch.dtype) -> None:
        self._rounding = rounding_of(structure.decoder)
        self._routers = [layer.router for layer in structure.layers]
        self._form, self._stored = form_of(structure), stored
        self._experts = max(router.experts for router in structure.routers)
        self._columns = max(router.k for router in structure.routers)
        self._weighed = all(router.fed is not None for router in structure.routers)
        self._rows: list[_Rows | None] = []
        self.begin()
        self._hooks = [
            RouterHooks(router, self._noting(i))
            for i, router in enumerate(self._routers)
            if router is not None
        ]

    def begin(self) -> None:
        """Start a call of the model."""
        self._rows = [None] * len(self._routers)

    def remove(self) -> None:
        """Remove all hooks from the model."""
        for hooks in self._hooks:
            hooks.remove()

    def block(self) -> dict[str, NDArray[Any]]:
        """Return ``expert``, ``expert.used`` and ``expert.weights`` of the call.

        Raises:
            TraceError: a router that did not run, or scores that float16 does not hold.
        """
        rows = [row for row in self._rows if row is not None]
        tokens = {len(row.used) for row in rows}
        if len(rows) < len(self._hooks) or len(tokens) > 1:
            raise TraceError(
                "the routers of a call did not all see the same tokens: this model does not take "
                "every token once, in its order; record other signals"
            )
        layers, count = len(self._routers), tokens.pop()
        closed = 0.0 if self._form == "prob" else -np.inf
        scores = np.full((count, layers, self._experts), closed, np.float32)
        used = np.full((count, layers, self._columns), NONE, np.uint16)
        weights = np.zeros((count, layers, self._columns), np.float32)
        for i, (router, row) in enumerate(zip(self._routers, self._rows, strict=True)):
            if router is None or row is None:
                continue
            ids = row.used.cpu().numpy()
            used[:, i, : router.k] = np.where(ids < 0, NONE, ids)
            scores[:, i, : router.experts] = row.scores.cpu().numpy()
            if row.weights is not None:
                weights[:, i, : router.k] = row.weights.float().cpu().numpy()
        weights[used == NONE] = 0
        if self._form == "biased":  # of layers without a bias, too
            scores[scores == 0] = -np.inf
        best, wrong = raised(scores, used, closed, self._rounding)
        for i, router in enumerate(self._routers):  # topk took the best of what it was given
            wrong[:, i] &= router is not None and router.chooser is None
        scores = np.where(wrong[..., None], scores, best)
        for i, router in enumerate(self._routers):  # what lies beyond a layer's units is 0
            scores[:, i, 0 if router is None else router.experts :] = 0
        block = {"expert": narrowed("expert", torch.from_numpy(scores), self._stored), USED: used}
        if self._weighed:
            block[WEIGHTS] = narrowed(WEIGHTS, torch.from_numpy(weights), self._stored)
        return block

    def _noting(self, layer: int) -> Any:
        def note(scores: Tensor, used: Tensor, weights: Tensor | None) -> None:
            self._rows[layer] = _Rows(scores.float(), used, weights)

        return note


def rounding_of(model: nn.Module) -> float:
    """Return how far rounding may move the scores of a model's routers, relative to them."""
    kinds = (weight.dtype for weight in model.parameters() if weight.is_floating_point())
    return 4 * torch.finfo(next(kinds, torch.float32)).eps


def check_takes(router: Router, drops: bool) -> None:
    """Refuse a router whose choice cannot be replaced by another one.

    Args:
        drops: whether fewer experts than it chooses may be used.

    Raises:
        ModelError: no topk chooses, or what its weights would be for fewer is not known.
    """
    if router.chooser is None:
        raise ModelError(
            f"router {type(router.module).__name__}: it does not choose by topk, so it cannot be "
            "told what to choose; record a trace and replay it"
        )
    if drops and (router.fed is None or not router.separate):
        raise ModelError(
            f"router {type(router.module).__name__}: what its weights would be for fewer experts "
            "is not known, which --routing drop-cold and --top-k need; record a trace and replay it"
        )


def logits_of(router: Router, scores: Tensor, used: Tensor, rounding: float) -> Tensor:
    """Return scores as a replay takes them, float32[tokens, experts], those used the best.

    Args:
        scores: float[tokens, experts] in the router's form.
        used: int64[tokens, k], -1 for none.
        rounding: of `rounding_of`.
    """
    ids = np.where((ids := used.cpu().numpy()) < 0, NONE, ids).astype(np.uint16)
    values = scores.detach().float().cpu().numpy()
    best, _ = raised(values, ids, router.closed, rounding)
    logits = torch.from_numpy(best)
    return logits.log() if router.form == "prob" else logits


def narrowed(signal: str, values: Tensor, dtype: torch.dtype) -> NDArray[Any]:
    """Return values in the stored type, in the memory of the CPU.

    Raises:
        TraceError: finite values beyond float16.
    """
    if dtype == torch.float16 and bool((values.abs().nan_to_num(posinf=0) > _LARGEST_HALF).any()):
        raise TraceError(
            f"signal {signal} goes above 65504, the most float16 holds: --encoding {signal}=float32"
        )
    scores: NDArray[Any] = values.to(dtype).cpu().numpy()
    return scores


def form_of(structure: Structure) -> Form:
    """Return the form that the scores of all layers have."""
    forms = {router.form for router in structure.routers}
    if len(forms) == 1:
        return forms.pop()
    return "biased" if forms == {"prob", "biased"} else "unknown"


def routing_meta(structure: Structure, recorded: bool) -> dict[str, Any]:
    """Return what a trace's meta says of a model's routers.

    Args:
        recorded: whether the trace has the signal ``expert``.
    """
    routers, form = structure.routers, form_of(structure)
    meta: dict[str, Any] = {"experts_per_token": max(router.k for router in routers)}
    if not recorded:
        return meta
    signal: dict[str, Any] = {}
    if form != "logits":
        signal["encoding"] = "prob" if form == "prob" else "logits"
    units = [0 if layer.router is None else layer.router.experts for layer in structure.layers]
    if len(set(units)) > 1:
        signal["layer_units"] = units
    if signal:
        meta["signals"] = {"expert": signal}
    functions = {router.function for router in routers}
    router: dict[str, Any] = {
        "function": functions.pop() if len(functions) == 1 and form != "unknown" else "unknown",
        "normalised": all(each.normalised for each in routers),
    }
    scalings = {None if each.scaling is None else round(each.scaling, 4) for each in routers}
    if len(scalings) == 1 and (scaling := scalings.pop()) is not None:
        router["scaling"] = scaling
    if form == "biased":
        experts = max(each.experts for each in routers)
        router["bias"] = [_bias(layer.router, experts) for layer in structure.layers]
    if not all(each.selects for each in routers):
        router["selection"] = "unknown"
    return {**meta, "router": router}


def _bias(router: Router | None, experts: int) -> list[float]:
    values = [] if router is None or router.bias is None else router.bias.float().tolist()
    return [*values, *[0.0] * (experts - len(values))]


def joined_meta(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recording's own meta, with entries that a user gives in their place."""
    meta = {**own, **given}
    signals = own.get("signals"), given.get("signals")
    if all(isinstance(each, Mapping) for each in signals):
        one, other = (dict(each or {}) for each in signals)
        meta["signals"] = {
            key: {**one.get(key, {}), **other.get(key, {})} for key in (*one, *other)
        }
    return meta
