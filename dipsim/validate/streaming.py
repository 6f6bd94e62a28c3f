"""A published case that reads experts from flash, as a run with its counts.

Such a case states its bytes, not its routes: its counts are laid out evenly over a few tokens, so
that their means are those of the case.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.hardware import Profile
from dipsim.kernels import Requests
from dipsim.model import Model
from dipsim.replay.traffic import Traffic, empty_traffic
from dipsim.run import Run
from dipsim.simulate import prepare
from dipsim.trace import DECODE, Outline, Tokens
from dipsim.trace.outline import SignalOutline
from dipsim.validate.cases import MOST_EXPERTS, Case

_ANY_CACHE = 0.01
"""Share of the experts that a cache holds whose hits are stated anyway."""
_TOKENS = 32
"""Tokens that the counts of a case are laid out over."""
_SLACK = 0.01
"""Share of an expert by which stated bytes may exceed those of the experts used."""


def streamed_run(
    case: Case, device: Profile, backend: str, model: Model | None
) -> tuple[Run, Traffic] | str:
    """Return a case that reads experts from flash as a run and its counts, or why it is none.

    Args:
        model: as the case stores it; None where its geometry is not known.

    Raises:
        DipsimError: a figure of the case makes no sense.
    """
    layers = case.layers or (None if model is None else _of_experts(model))
    used = case.experts_used or (model.experts_per_token if model is not None else None)
    size = case.expert_bytes or (None if model is None else model.mlp_bytes)
    dense = case.dense_bytes or 0.0
    if model is not None:
        dense = (dense or _in_layers(model)) + model.head_bytes
    if case.flash_bytes is None:
        return "no bytes from flash are stated"
    if layers is None or used is None:
        return "layers and experts of its model are not known: state them"
    if size is None:
        return "the bytes of an expert are not stated"
    if not dense:
        return "the bytes of the weights that every token uses are not stated"
    stated = case.experts or (None if model is None else model.experts)
    missed = case.flash_bytes / size / layers
    most = stated or MOST_EXPERTS
    if max(used, missed - _SLACK) > most:
        return f"a token uses or reads more than the {most} experts of a layer: correct its figures"
    experts = stated or 2 * used
    mapped = case.kind == "mapped"
    run = prepare(
        _outline(case, layers, experts, size, dense),
        device,
        method="recorded",
        policy="lru" if case.cache_bytes and not mapped else "none",
        backend=backend,
        overlap="serial" if mapped else case.overlap,
        overrides=[] if case.lanes is None else [f"flash.lanes={case.lanes}"],
        cache_fraction=_ANY_CACHE,
        io="mmap" if mapped else "direct",
    )
    used = max(used, int(np.ceil(missed - _SLACK)))
    return run, _laid_out(run, used, min(missed, used))


def _outline(case: Case, layers: int, experts: int, size: float, dense: float) -> Outline:
    """Return the outline of a trace such as a runtime records.

    Args:
        size: bytes of an expert.
        dense: of the weights that every token uses, in all layers.
    """
    expert = SignalOutline(
        name="expert",
        encoding="sparse",
        recorded_units=experts,
        scored=False,
        declared={"unit_bytes": size, "tensors": case.tensors},
    )
    return Outline(
        name=case.id,
        rows=Tokens.of(np.full(_TOKENS, DECODE, np.uint8), np.zeros(_TOKENS, np.int32)),
        layers=layers,
        signals={"expert": expert},
        meta={"dense_bytes": dense / layers, "weight_format": case.stored_as},
        hash="",
        recorded_layers=layers,
    )


def _of_experts(model: Model) -> int:
    """Return how many layers have experts; all, if none has."""
    return int(model.layers_with(["expert"]).sum())


def _in_layers(model: Model) -> float:
    """Return the bytes of the layers that every token uses: attention, routers, shared experts, and
    all of the layers without experts."""
    return model.in_layers(
        lambda layer: (
            layer.attention_bytes
            + layer.static_mlp_bytes
            + layer.extra_bytes
            + (0.0 if layer.experts or model.experts is None else layer.mlp_bytes)
        )
    )


def _laid_out(run: Run, used: int, missed: float) -> Traffic:
    """Return counts whose means are ``used`` experts a layer, of which ``missed`` are read.

    Misses are spread so that every layer and token has the whole number below or above the mean.
    """
    layers, tokens = run.trace.layers, len(run.tokens)
    measured = np.ones(tokens, np.bool_)
    traffic = empty_traffic(
        tokens, run.method.groups, run.budget.capacity, measured, run.sets.no_shares()
    )
    steps = np.floor(missed * np.arange(layers * tokens + 1) + 1e-9)
    misses: NDArray[np.int32] = np.diff(steps).astype(np.int32).reshape(layers, tokens).T
    traffic.active[:, :, 0] = used
    traffic.hits[:, :, 0] = used - misses
    traffic.kept[:, :, 0] = misses if run.policy.admit != "never" else 0
    for layer in range(layers):
        for count in np.unique(misses[:, layer]):
            rows = misses[:, layer] == count
            reads, moved, seconds = _alone(run, layer, int(count))
            traffic.reads[rows, layer, 0] = reads
            traffic.moved[rows, layer, 0] = moved
            traffic.flash_seconds[rows, layer, 0] = seconds
    return traffic


def _alone(run: Run, layer: int, count: int) -> tuple[int, float, float]:
    """Return reads, bytes moved and seconds of ``count`` missed experts that are no neighbours."""
    costs, fault = run.costs[layer][0], run.device.flash.fault
    assert isinstance(costs, Requests), "experts are read alone"
    moved = count * float(costs.moved[1])
    if run.settings.io == "mmap":
        assert fault is not None, "refused when the flash was looked up"
        return count, moved, moved / fault.page * fault.seconds
    curve = costs.curve_of[min(count, len(costs.curve_of) - 1)]
    return count * costs.tensors, moved, count * float(costs.seconds[curve, 1])
