"""Flash: what a set of misses costs (docs/layout.md).

What one read takes is in read_time.py; here reads are made of misses, in whole pages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import ProfileError
from dipsim.flash.layout import Places, laid_out, reads_whole, stride
from dipsim.flash.read_time import speed_of
from dipsim.hardware import Flash
from dipsim.kernels import Requests
from dipsim.methods.contract import Method
from dipsim.model import Model
from dipsim.settings import Layout
from dipsim.units import BYTES
from dipsim.views import shortened

MOST_READS = 2**30
"""Reads of one group and token that are counted: those of misses and those ahead fit in int32."""
_SLACK = 1e-9  # a unit's bytes may carry float noise; it must not cost a page


class FlashCost:
    """Costs of reads on one flash device."""

    def __init__(self, flash: Flash) -> None:
        self.flash = flash
        self.speed = speed_of(flash)

    def lanes_for(self, reads: int) -> int:
        """Return the number of lanes whose times serve ``reads`` in flight."""
        return self.speed.lanes_for(reads)

    def seconds(self, size: NDArray[np.float64], reads: int) -> NDArray[np.float64]:
        """Return seconds of one read of ``size`` bytes (whole pages) with ``reads`` in flight."""
        return self.speed.seconds(size, reads)

    def pages(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the bytes that the device moves for a read of ``size``.

        These are whole pages; the offset inside the first one is ignored.
        """
        return np.maximum(np.ceil(size / self.flash.align - _SLACK), size > 0) * self.flash.align

    @property
    def sequential_bandwidth(self) -> float:
        """Bytes per second of long reads in order, with all lanes busy."""
        return self.speed.sequential_bandwidth

    @property
    def sequential_read(self) -> float:
        """Bytes of one read when reading in order."""
        return self.speed.sequential_read

    def requests(self, units: int, size: float, apart: float, tensors: int = 1) -> Requests:
        """Return the cost table of a group.

        Args:
            units: units of the group, of ``size`` bytes each, ``apart`` bytes apart.
            tensors: equal parts of a unit that lie in tensors of their own, each read alone.
        """
        spans = np.maximum(np.arange(units + 1) - 1, 0) * apart + size
        alone = self.pages(spans / tensors)
        alone[0] = 0
        moved = tensors * alone
        lanes = [self.lanes_for(n * tensors) for n in range(self.flash.lanes + 1)]
        distinct = sorted(set(lanes))
        whole = units * apart
        return Requests(
            seconds=np.array([tensors * self.seconds(alone, n) for n in distinct]),
            moved=moved,
            outside=np.array([self.outside(alone, n) for n in distinct]),
            curve_of=np.array([distinct.index(n) for n in lanes], np.int64),
            whole=np.array([self.reads_in_order(whole), whole, whole / self.sequential_bandwidth]),
            tensors=tensors,
        )

    def outside(self, size: NDArray[np.float64], reads: int) -> NDArray[np.bool_]:
        """Tell which reads of ``size`` bytes lie outside what was measured."""
        return self.speed.outside(size, reads)

    def reads_in_order(self, size: Any) -> Any:
        """Return how many reads it takes to read ``size`` bytes in order, of its shape."""
        return np.ceil(np.asarray(size) / self.sequential_read - _SLACK) + 0.0

    def check_reads(self, units: int, apart: float) -> None:
        """Refuse a group whose reads could not be counted.

        Raises:
            ProfileError: its units, ``apart`` bytes apart, are too many reads.
        """
        reads = self.reads_in_order(units * apart)
        if reads > MOST_READS:
            raise ProfileError(
                f"{units} units, {BYTES.show(apart)} apart, are {reads} reads of "
                f"{BYTES.show(self.sequential_read)}, at most {MOST_READS} are counted: give "
                "larger reads in the profile's flash, or smaller units"
            )

    def break_even(self, size: float, apart: float) -> float:
        """Return q*: the share of missing units below which single reads beat reading everything.

        q* = (s / B_sequential) / t(s), at most 1, with many reads in flight; where units lie
        ``apart`` bytes apart, reading everything costs that much per unit.
        """
        pages = self.pages(np.array([size]))
        alone = float(self.seconds(pages, self.flash.lanes)[0])
        return min(1.0, apart / self.sequential_bandwidth / alone)


class InOrder(NamedTuple):
    """Reads of a group that every token needs whole: known beforehand, so read in order."""

    unit_bytes: float
    bandwidth: float
    """Bytes per second."""
    read: float
    """Bytes of one request."""

    def requests(self, units: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return how many requests each number of units takes."""
        count: NDArray[np.int32]
        count = np.ceil(units * self.unit_bytes / self.read - _SLACK).astype(np.int32)
        return count

    def price(self, units: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the bytes moved, and the seconds the flash is busy."""
        moved = np.asarray(units * self.unit_bytes, np.float64)
        return moved, moved / self.bandwidth


Costs = Sequence[Sequence[Requests | InOrder]]
"""Per layer and group, what reads cost."""


@dataclass(frozen=True)
class Placement:
    """Places of the units of a run in flash."""

    method: Method
    model: Model | None
    unit_bytes: NDArray[np.float64]
    """[layers, groups]"""
    layout: Layout | None
    places: Places | None = None
    """Place of each unit in the layout permuted; None is the order of their ids."""
    tensors: tuple[int, ...] = ()
    """Per group, the tensors that a unit is read from, one read each; empty for one."""

    __repr__ = shortened

    def strides(self) -> NDArray[np.float64]:
        """[layers, groups] bytes from one unit to the next.

        Raises:
            MethodError: a layout that scatters the slices of a unit.
        """
        return self._of_sizes(
            lambda i, size: stride(self.layout, self.method.groups[i], self.model, size)
        )

    def _of_sizes(self, found: Callable[[int, float], float]) -> NDArray[np.float64]:
        """Return [layers, groups] what is found for each group and the bytes of its unit, once for
        all layers whose units are of one size."""
        known: dict[tuple[int, float], float] = {}
        values = np.empty_like(self.unit_bytes)
        for (layer, i), size in np.ndenumerate(self.unit_bytes):
            key = i, float(size)
            if key not in known:
                known[key] = found(*key) if size else 0.0  # of layers without units
            values[layer, i] = known[key]
        return values

    def costs(self, flash: FlashCost) -> Costs:
        """Return what reads cost; groups of equal units share one table.

        Raises:
            MethodError: a layout that scatters the slices of a unit.
            ProfileError: a group of more reads than are counted.
        """
        tables: dict[tuple[int, float, float, int], Requests] = {}
        costs: list[list[Requests | InOrder]] = []
        counts = self.method.units_in(len(self.unit_bytes))
        for layer, (sizes, strides) in enumerate(zip(self.unit_bytes, self.strides(), strict=True)):
            costs.append([])
            for i, group in enumerate(self.method.groups):
                size, units = float(sizes[i]), int(counts[layer, i])
                flash.check_reads(units, float(strides[i]))
                if group.choice == "all":
                    bandwidth, read = flash.sequential_bandwidth, flash.sequential_read
                    costs[-1].append(InOrder(size, bandwidth, read))
                    continue
                tensors = self.tensors[i] if self.tensors else 1
                key = (units, size, float(strides[i]), tensors)
                if key not in tables:
                    tables[key] = flash.requests(*key)
                place = None if self.places is None else self.places[i][layer]
                costs[-1].append(laid_out(tables[key], self.layout, group, place))
        return costs

    def break_even(self, flash: FlashCost) -> NDArray[np.float64]:
        """[layers, groups] the break-even miss density of every group; 0 where nothing can be
        read alone."""

        def density(i: int, size: float) -> float:
            group = self.method.groups[i]
            if reads_whole(self.layout, group):
                return 0.0
            return flash.break_even(size, stride(self.layout, group, self.model, size))

        return self._of_sizes(density)
