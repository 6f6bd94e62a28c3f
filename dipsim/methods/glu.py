"""Pruning by the product act(W_gate x) * (W_up x): after it is known (glu), or before (glu-oracle).

``glu`` computes gate and up densely and skips columns of down. ``glu-oracle`` knows the product
beforehand and skips all three slices of a neuron: no device can, it is a bound.
Rules: DIP, arXiv 2412.01380, and the authors' code.
"""

from dipsim.methods.contract import (
    COLUMN_OF_DOWN,
    DEFAULT_DENSITY,
    NEURON,
    Group,
    InfeasibleError,
    Method,
    check_settings,
    scores,
)
from dipsim.model import Model
from dipsim.settings import Settings
from dipsim.trace import Outline


def glu(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Let the product drive the columns of down; at MLP density D the group keeps 3 D - 2.

    Raises:
        MethodError: no ``glu`` scores, or D < 2/3.
    """
    units = scores(trace, "glu", "glu")
    check_settings("glu", settings, ("glu",))
    if settings.group_density:
        down = settings.group_density["glu"]
    else:
        density = DEFAULT_DENSITY if settings.density is None else settings.density
        down = 3 * density - 2
        if down < -1e-9:
            raise InfeasibleError("glu", density, 2 / 3)
    down = max(down, 0.0)
    group = Group("glu", units, COLUMN_OF_DOWN, "top-k", down)
    return Method("glu", (group,), dense=("gate", "up"), density=(2 + down) / 3)


def glu_oracle(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Let the product drive all three slices of a neuron.

    Raises:
        MethodError: no ``glu`` scores.
    """
    units = scores(trace, "glu", "glu-oracle")
    check_settings("glu-oracle", settings, ("glu",))
    density = DEFAULT_DENSITY if settings.density is None else settings.density
    density = settings.group_density.get("glu", density)
    return Method("glu-oracle", (Group("glu", units, NEURON, "top-k", density),), density=density)
