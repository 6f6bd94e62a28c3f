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
    Wish,
    check_wish,
    scores,
)
from dipsim.model import Model
from dipsim.trace import Trace


def glu(trace: Trace, wish: Wish, model: Model | None) -> Method:
    """The product drives the columns of down; at MLP density D the group keeps 3 D - 2.

    Raises:
        MethodError: no ``glu`` scores, or D < 2/3.
    """
    units = scores(trace, "glu", "glu")
    check_wish("glu", wish, ("glu",))
    if wish.group_density:
        down = wish.group_density["glu"]
    else:
        density = DEFAULT_DENSITY if wish.density is None else wish.density
        down = 3 * density - 2
        if down < -1e-9:
            raise InfeasibleError("glu", density, 2 / 3)
    down = max(down, 0.0)
    group = Group("glu", units, COLUMN_OF_DOWN, "top-k", down)
    return Method("glu", (group,), dense=("gate", "up"), density=(2 + down) / 3)


def glu_oracle(trace: Trace, wish: Wish, model: Model | None) -> Method:
    """The product drives all three slices of a neuron.

    Raises:
        MethodError: no ``glu`` scores.
    """
    units = scores(trace, "glu", "glu-oracle")
    check_wish("glu-oracle", wish, ("glu",))
    density = DEFAULT_DENSITY if wish.density is None else wish.density
    density = wish.group_density.get("glu", density)
    return Method("glu-oracle", (Group("glu", units, NEURON, "top-k", density),), density=density)
