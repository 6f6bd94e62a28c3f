"""Layouts: the places of units in flash, and the bytes that reading some of them takes.

See docs/layout.md.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError
from dipsim.kernels import Requests
from dipsim.methods.contract import COLUMN_OF_DOWN, NEURON, Group
from dipsim.model import Model
from dipsim.settings import Layout

Places = list[NDArray[np.int64]]
"""Per group int64[layers, units]: the place of each unit in address order."""


def stride(layout: Layout | None, group: Group, model: Model | None, size: float) -> float:
    """Return the bytes from one unit of a group to the next.

    Without a ``layout``, columns lie by column, what holds a row lies as bundles of a neuron's
    slices, and experts lie whole; ``permuted`` is that in another order.

    Raises:
        MethodError: the layout scatters the slices of a unit, so no read can fetch it alone.
    """
    rows = any(slice_.part == "row" for slice_ in group.slices)
    usual = "expert" if group.of_experts else "bundle" if rows else "column"
    if layout in (None, "permuted", usual):
        return size
    if "expert" in (layout, usual):
        raise MethodError(
            f"layout {layout} does not store the units of group {group.signal} alone: "
            f"use --layout {usual}"
        )
    if layout == "row":
        if reads_whole(layout, group) or len(group.slices) == 1:
            return size
        raise MethodError(
            f"layout row stores rows of gate and of up apart, and group {group.signal} loads "
            "both at once: use --layout bundle"
        )
    if layout == "column":
        raise MethodError(
            f"layout column stores no rows of gate and up, which group {group.signal} loads: "
            "use --layout bundle"
        )
    if group.slices != COLUMN_OF_DOWN:
        raise MethodError(
            f"layout bundle stores no columns of gate and up, which group {group.signal} loads: "
            "use --layout column"
        )
    return size if model is None else max(size, model.slice_bytes(NEURON))


def reads_whole(layout: Layout | None, group: Group) -> bool:
    """Tell whether nothing of a group can be read alone.

    A model file stores matrices by row: a column lies across all of them.
    """
    return layout == "row" and any(slice_.part == "column" for slice_ in group.slices)


def laid_out(
    table: Requests, layout: Layout | None, group: Group, place: NDArray[np.int64] | None
) -> Requests:
    """Return what reads cost where units do not lie one by one in the order of their ids.

    Args:
        table: of units that do.
        place: int64[units], the place of each unit in address order; None is its id.
    """
    if reads_whole(layout, group):  # no read of single units competes with reading everything
        return table._replace(seconds=np.full_like(table.seconds, np.inf))
    return table if place is None else table._replace(place=place)
