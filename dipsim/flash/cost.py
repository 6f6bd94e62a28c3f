"""Flash: what a set of misses costs (DESIGN section 7).

What one read takes is in speed.py; here reads are made of misses, in whole pages.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.flash.layout import Places, laid_out, reads_whole, stride
from dipsim.flash.speed import speed_of
from dipsim.hardware import Flash
from dipsim.kernels import NO_REQUESTS, Requests
from dipsim.methods.contract import Method
from dipsim.model import Model
from dipsim.replay.traffic import Ahead, Traffic
from dipsim.settings import Layout

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
        places: Places | None = None,
    ) -> list[list[Requests]]:
        """What reads cost, per layer and group; groups of equal units share one table.

        Groups that every token reads whole need none: see `book_in_order`.

        Args:
            places: of the layout permuted, where each unit lies.

        Raises:
            MethodError: a layout that scatters the slices of a unit.
        """
        made: dict[tuple[int, float, float], Requests] = {}
        tables: list[list[Requests]] = []
        for layer, sizes in enumerate(unit_bytes):
            tables.append([])
            for i, group in enumerate(method.groups):
                size = float(sizes[i])
                key = (group.units, size, stride(layout, group, model, size))
                if key not in made:
                    made[key] = self.requests(*key)
                place = None if places is None else places[i][layer]
                table = laid_out(made[key], layout, group, place)
                tables[-1].append(NO_REQUESTS if group.choice == "all" else table)
        return tables

    def break_even_of(
        self,
        method: Method,
        model: Model | None,
        unit_bytes: NDArray[np.float64],
        layout: Layout | None,
    ) -> NDArray[np.float64]:
        """[layers, groups] the break-even miss density of every group; 0 where nothing can be
        read alone."""
        found = np.zeros_like(unit_bytes)
        for (layer, i), size in np.ndenumerate(unit_bytes):
            group = method.groups[i]
            if not reads_whole(layout, group):
                apart = stride(layout, group, model, float(size))
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
