"""Reads through the operating system (``--io buffered``) and mapped files (``--io mmap``).

In both an LRU of pages decides what must come from flash (kernels/pages.py; docs/layout.md).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import ModelError, ProfileError
from dipsim.flash.cost import Costs, InOrder, Placement
from dipsim.flash.layout import reads_whole
from dipsim.flash.read_time import speed_of
from dipsim.hardware import Fault, Flash, Profile, Read
from dipsim.trace.encoding import words_for
from dipsim.units import BYTES

PAGE = 4096.0
"""Bytes of a page, unless the profile has a ``flash.fault.page``."""
MOST = 2**26
"""Pages that are followed: 1.5 GiB of lists, for 256 GiB of weights in pages of 4 KiB."""


class Served(NamedTuple):
    """Deliveries of the flash behind a page cache; arrays are [tokens, layers, groups]."""

    read: NDArray[np.int64]
    """Missed units that flash must deliver."""
    requests: NDArray[np.int32]
    outside: NDArray[np.bool_]
    """True where a read lay outside the measured points of the flash curve."""
    moved: NDArray[np.float64]
    """Bytes."""
    seconds: NDArray[np.float64]


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
    fault: Fault | None
    """Page fault of a mapped file; None with reads through the page cache."""
    in_order: float
    """Bytes per second of the flash when it reads in order (mmap)."""
    static: tuple[NDArray[np.float64], float]
    """Bytes of mapped static weights: of each layer, float64[layers], and behind the last one."""
    placement: Placement

    @property
    def static_room(self) -> float:
        """Bytes of static weights that fit: no more than there are pages, where they are mapped."""
        return self.size if self.static[0].any() or self.static[1] else math.inf

    def serve(
        self,
        missed: NDArray[np.uint64],
        actions: NDArray[np.uint8],
        resets: NDArray[np.bool_],
        costs: Costs,
    ) -> Served:
        """Replay the misses of a run through the page cache.

        Args:
            missed: uint64[tokens, words], see `Traffic.missed`.
            actions: [tokens], see `rows_of`.
            resets: [tokens], see `rows_of`.
            costs: what reads cost without a page cache.

        Raises:
            ModelError: the weights have more than `MOST` pages.
        """
        regions, pages = self._regions()
        cache = kernels.PageLru(
            newer=np.zeros(pages + 1, np.int64),
            older=np.zeros(pages + 1, np.int64),
            held=np.array([0, min(int(self.size / self.page), pages)]),
            loaded=np.zeros(pages, np.int64),
        )
        unread = np.zeros_like(missed)
        faults = np.zeros((len(unread), 2 * len(regions.first) + 1), np.int64)
        kernels.use_pages(missed, actions, resets, regions, cache, unread, faults)
        shape = len(missed), *self.placement.unit_bytes.shape
        read = _members(unread, regions.word).reshape(shape)
        if self.fault is not None:
            return self._faults(read, faults, self.fault)
        return self._reads(read, unread, regions.word, costs)

    def serve_warm(
        self,
        missed: NDArray[np.uint64],
        actions: NDArray[np.uint8],
        resets: NDArray[np.bool_],
        costs: Costs,
    ) -> Served:
        """Replay the misses of a run through the page cache that the same run has left.

        Args and errors are those of `serve`.
        """
        rows = np.flatnonzero(actions >= kernels.COMMIT)
        twice = np.tile(rows, 2)
        served = self.serve(missed[twice], actions[twice], resets[twice], costs)

        def second(each: NDArray[Any]) -> NDArray[Any]:
            whole = np.zeros((len(missed), *each.shape[1:]), each.dtype)
            whole[rows] = each[len(rows) :]
            return whole

        return Served(
            read=second(served.read),
            requests=second(served.requests),
            outside=second(served.outside),
            moved=second(served.moved),
            seconds=second(served.seconds),
        )

    def _faults(self, read: NDArray[np.int64], faults: NDArray[np.int64], fault: Fault) -> Served:
        """Let pages cost faults: one each, and one per read-ahead window where they are in order.

        Static weights and groups that every token needs whole are in order. Static pages at the
        end count with the last group.
        """
        needed_whole = [group.choice == "all" for group in self.placement.method.groups]
        in_order = np.ones(faults.shape[1], np.bool_)
        in_order[1::2] = np.resize(needed_whole, read[0].size)
        moved = faults * self.page
        times = np.where(in_order, np.ceil(moved / fault.window - 1e-9), faults)
        seconds = times * fault.seconds
        seconds[:, in_order] = np.maximum(seconds, moved / self.in_order)[:, in_order]

        def by_group(costs: NDArray[Any]) -> NDArray[np.float64]:
            groups: NDArray[np.float64] = costs[:, :-1:2] + costs[:, 1::2]
            groups[:, -1] += costs[:, -1]
            return groups.reshape(read.shape)

        return Served(
            read=read,
            requests=by_group(times).astype(np.int32),
            outside=np.zeros(read.shape, np.bool_),
            moved=by_group(moved),
            seconds=by_group(seconds),
        )

    def _reads(
        self,
        read: NDArray[np.int64],
        unread: NDArray[np.uint64],
        word: NDArray[np.int64],
        costs: Costs,
    ) -> Served:
        """Read the units that lack a page.

        Args:
            unread: uint64[tokens, words] those units.
            word: [parts + 1] where each part begins.
        """
        requests, outside = np.zeros(read.shape, np.int32), np.zeros(read.shape, np.bool_)
        moved, seconds = np.zeros(read.shape), np.zeros(read.shape)
        groups = self.placement.method.groups
        for p, (layer, i) in enumerate(np.ndindex(read.shape[1:])):
            place, cost = (slice(None), layer, i), costs[layer][i]
            if isinstance(cost, InOrder):  # read in order, as far as it is read
                units = read[place]
                requests[place] = cost.requests(units)
                moved[place], seconds[place] = cost.price(units)
                continue
            start, stop = word[p : p + 2].tolist()
            own = groups[i].at(layer).units
            counts, prices = kernels.price(unread, start, stop, own, cost)
            requests[place] = counts[:, kernels.READS]
            outside[place] = counts[:, kernels.OUTSIDE]
            moved[place] = prices[:, kernels.MOVED]
            seconds[place] = prices[:, kernels.SECONDS]
        return Served(read, requests, outside, moved, seconds)

    def _regions(self) -> tuple[kernels.Regions, int]:
        """Return where all units lie, in pages, and how many pages there are.

        Raises:
            ModelError: too many.
        """
        placement = self.placement
        groups = placement.method.groups
        parts = list(np.ndindex(placement.unit_bytes.shape))
        units = np.array([groups[i].units for _, i in parts])
        size, stride = placement.unit_bytes.ravel(), placement.strides().ravel()
        static = np.zeros(len(parts) + 1)
        static[: len(parts) : len(groups)] = self.static[0]
        static[-1] = self.static[1]
        own = placement.method.units_in(len(placement.unit_bytes)).ravel()
        pages = pages_of(np.concatenate([own * stride, static]), self.page)
        begins = np.cumsum(pages) - pages
        if pages.sum() > MOST:
            raise ModelError(
                f"--io {self.io}: {BYTES.show(pages.sum() * self.page)} of weights are more than "
                f"{MOST} pages of {BYTES.show(self.page)}: use --layers A:B, or --io direct"
            )
        words = np.array([words_for(n) for n in units])
        place = np.zeros(64 * words.sum(), np.int64)
        word = np.concatenate([[0], np.cumsum(words)])
        for (layer, i), begin, count in zip(parts, 64 * word, units, strict=False):
            places = placement.places
            place[begin : begin + count] = np.arange(count) if places is None else places[i][layer]
        n = len(parts)
        regions = kernels.Regions(
            word=word.astype(np.int64),
            first=begins[:n].astype(np.int64),
            pages=pages[:n].astype(np.int64),
            size=size / self.page,
            stride=stride / self.page,
            whole=np.array([reads_whole(placement.layout, groups[i]) for _, i in parts]),
            place=place,
            static_first=begins[n:].astype(np.int64),
            static_pages=pages[n:].astype(np.int64),
        )
        return regions, int(pages.sum())


def page_size(flash: Flash) -> float:
    """Return the bytes of a page."""
    return PAGE if flash.fault is None else flash.fault.page


def mapped(device: Profile) -> Flash:
    """Return the flash as a mapped file sees it: a page per fault, and in order a window.

    Raises:
        ProfileError: the profile does not say what a fault takes.
    """
    fault = device.flash.fault
    if fault is None:
        raise ProfileError(
            f"profile {device.name} has no flash.fault, which --io mmap needs: add it, "
            "e.g. -s flash.fault.seconds=40us, or use --io direct"
        )
    in_order = speed_of(device.flash).sequential_bandwidth
    times = {fault.page: fault.seconds}
    times[fault.window] = max(fault.seconds, fault.window / in_order)
    reads = tuple(
        Read.model_construct(size=size, lanes=1, bandwidth=size / seconds)
        for size, seconds in times.items()
    )
    return Flash.model_construct(lanes=1, align=fault.page, reads=reads, fault=fault)


def pages_of(sizes: NDArray[np.float64], page: float) -> NDArray[np.float64]:
    """Return the pages that so many bytes begin, each from a page of its own."""
    pages: NDArray[np.float64] = np.ceil(sizes / page - 1e-6)
    return pages


def _members(sets: NDArray[np.uint64], word: NDArray[np.int64]) -> NDArray[np.int64]:
    """[tokens, parts] units of each part in packed sets."""
    members: NDArray[np.int64] = np.add.reduceat(
        np.bitwise_count(sets).astype(np.int64), word[:-1], axis=1
    )
    return members
