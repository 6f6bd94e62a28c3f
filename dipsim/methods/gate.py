"""Pruning by one of the two products before the other is computed.

``gate`` computes W_gate densely and keeps the neurons with the largest abs(act(W_gate x)): their
rows of up and columns of down. ``up`` does the same by abs(W_up x). ``cats`` is ``gate`` with a
threshold per layer in place of top-k, so the number of neurons varies (CATS, arXiv 2404.08763).
Rules: DIP, arXiv 2412.01380, and the authors' code.
"""

from dataclasses import replace
from typing import Literal

from dipsim.methods.contract import (
    DEFAULT_DENSITY,
    Group,
    InfeasibleError,
    Method,
    check_settings,
    scores,
)
from dipsim.methods.thresholds import with_thresholds
from dipsim.model import Model, Slice
from dipsim.settings import Settings
from dipsim.trace import Outline

_OTHER: dict[str, Literal["gate", "up"]] = {"gate": "up", "up": "gate"}


def gate(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Let abs(act(W_gate x)) drive rows of up and columns of down; the group keeps (3 D - 1) / 2.

    Raises:
        MethodError: no ``gate`` scores, or D < 1/3.
    """
    return _pruned_by("gate", "gate", trace, settings)


def up(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Let abs(W_up x) drive rows of gate and columns of down; the group keeps (3 D - 1) / 2.

    Raises:
        MethodError: no ``up`` scores, or D < 1/3.
    """
    return _pruned_by("up", "up", trace, settings)


def cats(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Do as `gate`, with a threshold per layer; the density is that of the calibration tokens.

    Raises:
        MethodError: as `gate`, or no calibration tokens.
    """
    method = _pruned_by("gate", "cats", trace, settings)
    groups = with_thresholds(trace, settings.calibrate_tokens, "cats", method.groups)
    return replace(method, groups=groups)


def _pruned_by(
    signal: Literal["gate", "up"], name: str, trace: Outline, settings: Settings
) -> Method:
    units = scores(trace, signal, name)
    check_settings(name, settings, (signal,))
    if settings.group_density:
        kept = settings.group_density[signal]
    else:
        density = DEFAULT_DENSITY if settings.density is None else settings.density
        kept = (3 * density - 1) / 2
        if kept < -1e-9:
            raise InfeasibleError(name, density, 1 / 3)
    kept = max(kept, 0.0)
    slices = (Slice(_OTHER[signal], "row"), Slice("down", "column"))
    group = Group(signal, units, slices, "top-k", kept)
    return Method(name, (group,), dense=(signal,), density=(1 + 2 * kept) / 3)
