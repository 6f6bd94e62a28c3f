"""Flash: where units lie (layout) and what a set of misses costs (DESIGN section 7).

What one read takes is in speed.py; here reads are made of misses, in whole pages.
"""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError
from dipsim.hardware import Flash
from dipsim.kernels import NO_REQUESTS, Requests
from dipsim.methods.contract import COLUMN_OF_DOWN, NEURON, Group, Method
from dipsim.model import Model
from dipsim.timeline.speed import speed_of
from dipsim.traffic import Ahead, Traffic

Layout = Literal["column", "bundle", "expert"]
_SLACK = 1e-9  # a unit's bytes may carry float noise; it must not cost a page


class FlashCost:
    """What reads cost on one flash device."""

    def __init__(self, flash: Flash) -> None:
        self.flash = flash
        self.speed = speed_of(flash)

    def lanes_for(self, reads: int) -> int:
        """The number of lanes whose times serve ``reads`` in flight."""
        return self.speed.lanes_for(reads)

    def seconds(self, size: NDArray[np.float64], reads: int) -> NDArray[np.float64]:
        """t of one read of ``size`` bytes (whole pages) with ``reads`` in flight."""
        return self.speed.seconds(size, reads)

    def pages(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bytes the device moves for a read of ``size``: whole pages, first offset ignored."""
        return np.ceil(size / self.flash.align - _SLACK) * self.flash.align

    @property
    def sequential_bandwidth(self) -> float:
        """Bytes per second of long reads in order, with all lanes busy."""
        return self.speed.sequential_bandwidth

    @property
    def sequential_read(self) -> float:
        """Bytes of one read when reading in order."""
        return self.speed.sequential_read

    def requests(self, units: int, size: float, apart: float) -> Requests:
        """The cost table of a group of ``units``, ``size`` bytes each, ``apart`` bytes apart."""
        spans = np.maximum(np.arange(units + 1) - 1, 0) * apart + size
        moved = self.pages(spans)
        moved[0] = 0
        lanes = [self.lanes_for(n) for n in range(self.flash.lanes + 1)]
        distinct = sorted(set(lanes))
        whole = units * apart
        return Requests(
            seconds=np.array([self.seconds(moved, n) for n in distinct]),
            moved=moved,
            outside=np.array([self.outside(moved, n) for n in distinct]),
            curve_of=np.array([distinct.index(n) for n in lanes], np.int64),
            whole=np.array([self.reads_in_order(whole), whole, whole / self.sequential_bandwidth]),
        )

    def outside(self, size: NDArray[np.float64], reads: int) -> NDArray[np.bool_]:
        """Whether reads of ``size`` bytes lie outside what was measured."""
        return self.speed.outside(size, reads)

    def reads_in_order(self, size: float) -> int:
        """How many reads it takes to read ``size`` bytes in order."""
        return math.ceil(size / self.sequential_read - _SLACK)

    def break_even(self, size: float, apart: float) -> float:
        """q*: the share of missing units below which single reads beat reading everything.

        q* = (s / B_sequential) / t(s), at most 1, with many reads in flight; where units lie
        ``apart`` bytes apart, reading everything costs that much per unit.
        """
        pages = self.pages(np.array([size]))
        alone = float(self.seconds(pages, self.flash.lanes)[0])
        return min(1.0, apart / self.sequential_bandwidth / alone)

    def tables(
        self,
        method: Method,
        model: Model | None,
        unit_bytes: NDArray[np.float64],
        layout: Layout | None,
    ) -> list[list[Requests]]:
        """What reads cost, per layer and group; groups of equal units share one table.

        Groups that every token reads whole need none: see `book_in_order`.

        Raises:
            MethodError: a layout that scatters the slices of a unit.
        """
        made: dict[tuple[int, float, float], Requests] = {}
        tables: list[list[Requests]] = []
        for sizes in unit_bytes:
            tables.append([])
            for size, group in zip(map(float, sizes), method.groups, strict=True):
                key = (group.units, size, stride(layout, group, model, size))
                if key not in made:
                    made[key] = self.requests(*key)
                tables[-1].append(NO_REQUESTS if group.choice == "all" else made[key])
        return tables

    def break_even_of(
        self,
        method: Method,
        model: Model | None,
        unit_bytes: NDArray[np.float64],
        layout: Layout | None,
    ) -> NDArray[np.float64]:
        """[layers, groups] the break-even miss density of every group."""
        found = np.empty_like(unit_bytes)
        for (layer, i), size in np.ndenumerate(unit_bytes):
            apart = stride(layout, method.groups[i], model, float(size))
            found[layer, i] = self.break_even(float(size), apart)
        return found

    def book_in_order(
        self, traffic: Traffic, method: Method, unit_bytes: NDArray[np.float64]
    ) -> None:
        """Book the reads of groups that are needed whole: known beforehand, so read in order."""
        ahead = traffic.ahead
        for i, group in enumerate(method.groups):
            if group.choice != "all":
                continue
            late = traffic.misses[:, :, i]
            booked: list[tuple[Traffic | Ahead, Any]] = [(traffic, late)]
            if ahead is not None:
                booked = [(traffic, late - ahead.used[:, :, i]), (ahead, ahead.used[:, :, i])]
            for to, units in booked:
                missed = units * unit_bytes[:, i]
                to.moved[:, :, i] = missed
                to.flash_seconds[:, :, i] = missed / self.sequential_bandwidth
                to.reads[:, :, i] = np.ceil(missed / self.sequential_read - _SLACK)


def stride(layout: Layout | None, group: Group, model: Model | None, size: float) -> float:
    """Bytes from one unit of a group to the next.

    Without a ``layout``, columns lie by column, what holds a row lies as bundles of a neuron's
    slices, and experts lie whole.

    Raises:
        MethodError: the layout scatters the slices of a unit, so no read can fetch it alone.
    """
    rows = any(slice_.part == "row" for slice_ in group.slices)
    usual = "expert" if group.of_experts else "bundle" if rows else "column"
    if layout is None or layout == usual:
        return size
    if "expert" in (layout, usual):
        raise MethodError(
            f"layout {layout} does not store the units of group {group.signal} alone: "
            f"use --layout {usual}"
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
