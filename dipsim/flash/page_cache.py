"""Reads through the operating system (``--io buffered``) and mapped files (``--io mmap``).

In both an LRU of pages decides what must come from flash (kernels/pages.py; docs/layout.md). What
it finds is booked in the traffic, so that the timing need not know.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.budget.plan import Budget
from dipsim.errors import MethodError, ModelError, ProfileError
from dipsim.flash.cost import FlashCost
from dipsim.flash.layout import Places, reads_whole, stride
from dipsim.hardware import Flash, Profile
from dipsim.replay.active_sets import rows_of
from dipsim.replay.replay import Plan
from dipsim.replay.traffic import Traffic
from dipsim.settings import Settings
from dipsim.timeline.steps import Workload
from dipsim.trace.encoding import words_for
from dipsim.units import BYTES

PAGE = 4096.0
"""Bytes of a page, unless the profile has a ``flash.fault.page``."""
MOST = 2**26
"""Pages that are followed: 1.5 GiB of lists, for 256 GiB of weights in pages of 4 KiB."""


@dataclass(frozen=True)
class Paging:
    """The page cache of a run."""

    io: Literal["buffered", "mmap"]
    page: float
    """Bytes."""
    size: float
    """Bytes the page cache may hold."""
    copy: float
    """Bytes per second from the page cache to the reader (buffered)."""
    fault: float
    """Seconds per fault (mmap)."""
    static: tuple[float, float]
    """Bytes of mapped static weights: of each layer, and behind the last one."""
    places: Places | None
    settings: Settings

    @property
    def static_room(self) -> float:
        """Bytes of static weights that fit: no more than there are pages, where they are mapped."""
        return self.size if any(self.static) else math.inf

    def book(
        self,
        traffic: Traffic,
        work: Workload,
        plan: Plan,
        flash: FlashCost,
        requests: Sequence[Sequence[kernels.Requests]],
    ) -> Traffic:
        """The traffic with what the page cache makes of its misses.

        Args:
            traffic: with `Traffic.missed`; left as it is.
        """
        assert traffic.missed is not None, "a replay that keeps what was missed"
        regions, pages = self._regions(work)
        cache = kernels.PageCache(
            newer=np.zeros(pages + 1, np.int64),
            older=np.zeros(pages + 1, np.int64),
            held=np.array([0, min(int(self.size / self.page), pages)]),
            loaded=np.zeros(pages, np.int64),
        )
        unread = np.zeros_like(traffic.missed)
        faults = np.zeros((len(unread), len(regions.first) + 1), np.int64)
        actions, resets = rows_of(work.trace, plan.prefill, plan.reset)
        kernels.use_pages(traffic.missed, actions, resets, regions, cache, unread, faults)
        if self.io == "mmap":
            return self._book_faults(traffic, regions, unread, faults)
        return self._book_reads(traffic, work, flash, requests, regions, unread)

    def _regions(self, work: Workload) -> tuple[kernels.Regions, int]:
        """Where all units lie, in pages, and how many pages there are.

        Raises:
            ModelError: too many.
        """
        groups, layout = work.method.groups, self.settings.layout
        parts = list(np.ndindex(work.unit_bytes.shape))
        units = np.array([groups[i].units for _, i in parts])
        size, apart = work.unit_bytes.ravel(), _strides(work, self.settings).ravel()
        static = np.zeros(len(parts) + 1)
        static[: len(parts) : len(groups)] = self.static[0]
        static[-1] = self.static[1]
        taken = _pages(np.concatenate([units * apart, static]), self.page)
        begins = np.cumsum(taken) - taken
        if taken.sum() > MOST:
            raise ModelError(
                f"--io {self.io}: {BYTES.show(taken.sum() * self.page)} of weights are more than "
                f"{MOST} pages of {BYTES.show(self.page)}: use --layers A:B, or --io direct"
            )
        words = np.array([words_for(n) for n in units])
        place = np.zeros(64 * words.sum(), np.int64)
        word = np.concatenate([[0], np.cumsum(words)])
        for (layer, i), begin, count in zip(parts, 64 * word, units, strict=False):
            order = np.arange(count) if self.places is None else self.places[i][layer]
            place[begin : begin + count] = order
        n = len(parts)
        regions = kernels.Regions(
            word=word.astype(np.int64),
            first=begins[:n].astype(np.int64),
            pages=taken[:n].astype(np.int64),
            size=size / self.page,
            stride=apart / self.page,
            whole=np.array([reads_whole(layout, groups[i]) for _, i in parts]),
            place=place,
            static_first=begins[n:].astype(np.int64),
            static_pages=taken[n:].astype(np.int64),
        )
        return regions, int(taken.sum())

    def _book_faults(
        self,
        traffic: Traffic,
        regions: kernels.Regions,
        unread: NDArray[np.uint64],
        faults: NDArray[np.int64],
    ) -> Traffic:
        """Every page costs a fault; static ones at the end count with the last group."""
        pages = faults[:, :-1].copy()
        pages[:, -1] += faults[:, -1]
        pages = pages.reshape(traffic.active.shape)
        size = pages.astype(np.float64)
        read = _members(unread, regions.word).reshape(traffic.active.shape)
        return replace(
            traffic,
            hits=(traffic.active - read).astype(np.int32),
            reads=pages.astype(np.int32),
            moved=size * self.page,
            flash_seconds=size * self.fault,
            missed=None,
        )

    def _book_reads(
        self,
        traffic: Traffic,
        work: Workload,
        flash: FlashCost,
        requests: Sequence[Sequence[kernels.Requests]],
        regions: kernels.Regions,
        unread: NDArray[np.uint64],
    ) -> Traffic:
        """Units whose pages are all there are copied, the others read."""
        reads, outside = np.zeros_like(traffic.reads), np.zeros_like(traffic.outside)
        moved, seconds = np.zeros_like(traffic.moved), np.zeros_like(traffic.moved)
        read = _members(unread, regions.word).reshape(traffic.active.shape)
        for p, (layer, i) in enumerate(np.ndindex(traffic.active.shape[1:])):
            start, stop, group = regions.word[p], regions.word[p + 1], work.method.groups[i]
            counts, costs = np.zeros((len(reads), 2), np.int32), np.zeros((len(reads), 2))
            if group.choice == "all":  # read in order, as far as it is read
                costs[:, kernels.MOVED] = read[:, layer, i] * work.unit_bytes[layer, i]
                costs[:, kernels.SECONDS] = costs[:, kernels.MOVED] / flash.sequential_bandwidth
                counts[:, kernels.READS] = [flash.reads_in_order(at) for at in costs[:, 0]]
            else:
                table = requests[layer][i]
                kernels.price(unread, start, stop, group.units, table, counts, costs)
            reads[:, layer, i] = counts[:, kernels.READS]
            outside[:, layer, i] = counts[:, kernels.OUTSIDE]
            moved[:, layer, i] = costs[:, kernels.MOVED]
            seconds[:, layer, i] = costs[:, kernels.SECONDS]
        copied = traffic.misses - read
        return replace(
            traffic,
            reads=reads,
            outside=outside,
            moved=moved,
            flash_seconds=seconds + copied * work.unit_bytes / self.copy,
            copied=copied,
            missed=None,
        )


def paged(
    work: Workload, device: Profile, settings: Settings, places: Places | None
) -> tuple[Workload, Flash, Paging | None]:
    """The page cache of a run; and the workload and the flash as its replay and timing see them.

    Mapped weights lie in no cache but that of the pages, which is as large as the budget leaves
    it; their flash serves a page per fault.

    Raises:
        ProfileError: the profile does not say what a fault or a copy takes.
        MethodError: a method that looks into a cache there is none of.
    """
    if settings.io == "direct":
        return work, device.flash, None
    fault, budget = device.flash.fault, work.budget
    page = PAGE if fault is None else fault.page
    if settings.io == "buffered":
        section = device.page_cache
        if section is None:
            raise ProfileError(
                f"profile {device.name} has no page_cache, which --io buffered needs: add it, "
                "e.g. -s page_cache.bandwidth=8GB/s, or use --io direct"
            )
        size = _left(budget, device) if section.size is None else section.size
        made = Paging("buffered", page, size, section.bandwidth, 0.0, (0, 0), places, settings)
        return work, device.flash, made
    if fault is None:
        raise ProfileError(
            f"profile {device.name} has no flash.fault, which --io mmap needs: add it, "
            "e.g. -s flash.fault.seconds=40us, or use --io direct"
        )
    if work.method.cache_aware:
        raise MethodError(
            f"method {work.method.name} prefers what its cache holds; with --io mmap there is "
            "none to look into: use dip, or --io buffered"
        )
    static = _mapped_static(work)
    if budget.dram is not None:
        size = budget.dram - budget.kv - budget.staging - budget.overhead
    else:  # a cache given directly leaves static weights resident
        size = budget.cache
        if budget.fits:  # so do their pages, of which a few are not full
            units = np.array([group.units for group in work.method.groups])
            size = max(size, page * float(_pages(units * _strides(work, settings), page).sum()))
    alone = replace(budget, capacity=np.zeros_like(budget.capacity), streamed=0.0)
    served = Flash.model_construct(
        lanes=1, align=page, bandwidth=page / fault.seconds, reads=(), fault=fault
    )
    made = Paging("mmap", page, size, 0.0, fault.seconds, static, places, settings)
    return replace(work, budget=alone), served, made


def _strides(work: Workload, settings: Settings) -> NDArray[np.float64]:
    """[layers, groups] bytes from one unit to the next."""
    found = np.empty_like(work.unit_bytes)
    for (layer, i), size in np.ndenumerate(work.unit_bytes):
        group = work.method.groups[i]
        found[layer, i] = stride(settings.layout, group, work.model, float(size))
    return found


def _pages(sizes: NDArray[np.float64], page: float) -> NDArray[np.float64]:
    """Pages that so many bytes begin, each from a page of its own."""
    found: NDArray[np.float64] = np.ceil(sizes / page - 1e-6)
    return found


def _left(budget: Budget, device: Profile) -> float:
    """Bytes of the DRAM an app may use that a run did not ask for."""
    asked = budget.dram
    if asked is None:
        asked = budget.cache + budget.static.total + budget.kv
    return max(0.0, device.dram.available - asked)


def _mapped_static(work: Workload) -> tuple[float, float]:
    """Bytes of static weights that are used in each layer, and behind the last one."""
    static, layers = work.budget.static, work.trace.layers
    if work.budget.dram is None:
        return 0.0, 0.0
    last = static.head + static.norms / (2 * layers + 1)
    return (static.total - last) / layers, last


def _members(sets: NDArray[np.uint64], word: NDArray[np.int64]) -> NDArray[np.int64]:
    """[tokens, parts] units of each part in packed sets."""
    found: NDArray[np.int64] = np.add.reduceat(
        np.bitwise_count(sets).astype(np.int64), word[:-1], axis=1
    )
    return found
