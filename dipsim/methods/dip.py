"""Dynamic Input Pruning and its cache-aware form (Federici et al., MLSys 2025, arXiv 2412.01380).

Two top-k selections per layer and token, neither of which needs a predictor:

    S_in   = top-k of |x|                                  -> columns of W_gate and W_up
    S_down = top-k of |act(W_gate x') * (W_up x')|         -> columns of W_down

A trace recorded from the dense model holds x for x' (open loop). The cache-aware form (dip-ca)
prefers units that are already in DRAM; its rule and the variants of it (``--masking``) are
masking.py, equation by equation.

The MLP density D is the mean density of the three matrices, D = (2 d_in + d_down) / 3.
"""

import math
from dataclasses import replace

from dipsim.errors import MethodError
from dipsim.methods.contract import (
    COLUMN_OF_DOWN,
    COLUMN_OF_GATE_AND_UP,
    DEFAULT_DENSITY,
    Group,
    Method,
    check_settings,
    scores,
)
from dipsim.methods.masking import prefer_resident
from dipsim.model import Model
from dipsim.settings import Settings
from dipsim.trace import Outline

SIGNALS = ("mlp_input", "glu")
SPLITS = ("authors", "equal")


def split_density(density: float, split: str) -> tuple[float, float]:
    """Return (d_in, d_down) at MLP density D; the authors fitted their split in logits.

    Args:
        density: D, from 0 to 1.
        split: one of `SPLITS`, or d_in as a text, from which d_down follows.

    Raises:
        MethodError: an unknown split, or one that leaves no possible d_down.
    """
    if split not in SPLITS:
        return _given_input(density, split)
    if split == "equal" or density in (0.0, 1.0):
        return density, density
    logit = 0.98499 * math.log(density / (1 - density)) + 0.29976
    entering = 1 / (1 + math.exp(-logit))
    return entering, min(max(3 * density - 2 * entering, 0.0), 1.0)


def _given_input(density: float, split: str) -> tuple[float, float]:
    """Return the densities of a split that is the density of the input.

    Raises:
        MethodError: no number, or one that leaves no possible density of the other stage.
    """
    try:
        entering = float(split)
    except ValueError:
        entering = math.nan
    least, most = max((3 * density - 1) / 2, 0.0), min(3 * density / 2, 1.0)
    if not least <= entering <= most:
        raise MethodError(
            f"split {split!r}: use {' or '.join(SPLITS)}, or the density of the input, at density "
            f"{density:g} from {least:.4g} to {most:.4g}"
        )
    return entering, round(3 * density - 2 * entering, 12)


def dip(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Prune both groups by plain top-k, or by thresholds.

    Raises:
        MethodError: ``mlp_input`` or ``glu`` scores are missing, or a density is impossible.
    """
    return _pruned("dip", trace, settings)


def dip_ca(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Prune as `dip`, preferring what is in DRAM, with a gamma per group.

    Raises:
        MethodError: as `dip`, a gamma outside 0..1, or a masking that is none.
    """
    plain = _pruned("dip-ca", trace, settings)
    return replace(plain, groups=prefer_resident(plain.groups, settings))


def _pruned(name: str, trace: Outline, settings: Settings) -> Method:
    """Return the method with both groups by top-k."""
    units = {signal: scores(trace, signal, name) for signal in SIGNALS}
    check_settings(name, settings, SIGNALS)
    if settings.group_density:
        if settings.split is not None:
            raise MethodError("give either --split or --group-density, not both")
        entering, down = (settings.group_density[signal] for signal in SIGNALS)
    else:
        density = DEFAULT_DENSITY if settings.density is None else settings.density
        entering, down = split_density(density, settings.split or "authors")
    into, out = SIGNALS
    groups = (
        Group(into, units[into], COLUMN_OF_GATE_AND_UP, "top-k", entering),
        Group(out, units[out], COLUMN_OF_DOWN, "top-k", down),
    )
    return Method(name, groups, density=(2 * entering + down) / 3)
