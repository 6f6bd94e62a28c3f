"""`dipsim iobench`: the read bandwidth of a disk over request size and reads in flight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dipsim.disk.direct_io import PAGE, DirectFile, Readers, open_file
from dipsim.errors import DipsimError, printable
from dipsim.units import BYTES

SIZES = tuple(4096 * 4**i for i in range(6))
"""Bytes of a read: 4 KiB to 4 MiB."""
THREADS = (1, 2, 4, 8)
SECONDS = 20.0
"""In all, unless told otherwise."""
LARGEST_READ = 2**26
ROOM = 16
"""A file holds at least this many reads of the largest size."""
_FASTEST = (5e5, 5e10)  # reads and bytes a second no disk exceeds: offsets are drawn beforehand
_MOST_READS = 2**20  # of one cell in one pass: more say nothing new, and their offsets are held
_PASSES = 4  # over all cells, so that a disk that drifts is averaged, and shows in the spread


class Cell(NamedTuple):
    """Reads of ``size`` bytes with ``lanes`` in flight."""

    size: int
    lanes: int
    bandwidth: float
    """Bytes per second, all lanes together."""
    reads: int
    seconds: float
    spread: float
    """The passes' bandwidths: (highest - lowest) / mean."""


@dataclass(frozen=True)
class Bench:
    """What was measured, by lanes and then by size."""

    path: str
    direct: bool
    """Whether the reads went past the page cache."""
    cells: list[Cell]

    def rows(self) -> list[dict[str, Any]]:
        """Plain values in base units, the columns of a CSV."""
        return [{**cell._asdict(), "direct": self.direct} for cell in self.cells]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"file": self.path, "direct": self.direct, "cells": self.rows()}


def iobench(
    path: str,
    sizes: Sequence[int] = SIZES,
    threads: Sequence[int] = THREADS,
    seconds: float = SECONDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Bench:
    """Measure reads at random offsets of a file, which is only read.

    Args:
        sizes: bytes of a read, in whole pages of 4 KiB.
        threads: reads in flight.
        seconds: in all; every combination gets the same share.
        progress: called with (combinations done, combinations).

    Raises:
        DipsimError: impossible figures, or a file that cannot serve, in one line.
    """
    _check(sizes, threads, seconds)
    with open_file(path) as file:
        return measure(file, sizes, threads, seconds, progress)


def measure(
    file: DirectFile,
    sizes: Sequence[int],
    threads: Sequence[int],
    seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Bench:
    """The same of a file that is open.

    Raises:
        DipsimError: the file is too small.
    """
    if file.size < ROOM * max(sizes):
        raise DipsimError(
            f"{printable(file.name)}: holds {BYTES.show(file.size)} in whole pages, fewer than "
            f"{ROOM} reads of {BYTES.exact(max(sizes))}: give a larger file or smaller --sizes"
        )
    places = [(lanes, size) for lanes in sorted(threads) for size in sorted(sizes)]
    share = seconds / (len(places) * _PASSES)
    rng = np.random.default_rng(0)
    found: dict[tuple[int, int], list[Any]] = {place: [] for place in places}
    for turn in range(_PASSES):
        for i, (lanes, size) in enumerate(places):
            if not file.direct:
                file.forget()
            most = lanes + int(share * min(_FASTEST[0], _FASTEST[1] / size))
            most = min(most, _MOST_READS)
            pages = rng.integers(0, (file.size - size) // PAGE, most, endpoint=True)
            wanted = [(page * PAGE, size) for page in pages.tolist()]
            with Readers(file, lanes, size) as readers:
                found[lanes, size].append(readers.read(wanted, share))
            progress(turn * len(places) + i + 1, _PASSES * len(places))
    cells = []
    for (lanes, size), done in found.items():
        rates = [one.size / one.seconds for one in done]
        total, spent = sum(one.size for one in done), sum(one.seconds for one in done)
        spread = (max(rates) - min(rates)) / float(np.mean(rates))
        reads = sum(one.reads for one in done)
        cells.append(Cell(size, lanes, total / spent, reads, spent, spread))
    return Bench(file.name, file.direct, cells)


def _check(sizes: Sequence[int], threads: Sequence[int], seconds: float) -> None:
    for size in sizes:
        if size % PAGE or not PAGE <= size <= LARGEST_READ:
            raise DipsimError(
                f"--sizes {BYTES.exact(size)}: direct reads are multiples of 4 KiB, up to "
                f"{BYTES.exact(LARGEST_READ)}"
            )
    for count in threads:
        if not 1 <= count <= 64:
            raise DipsimError(f"--threads {count}: reads in flight, from 1 to 64")
    for option, values in (("--sizes", sizes), ("--threads", threads)):
        if not values or len(set(values)) < len(values) or len(values) > 16:
            raise DipsimError(f"{option}: give 1 to 16 different ones, separated by commas")
    if not 0.1 <= seconds <= 600:
        raise DipsimError(f"--seconds {seconds:g}: in all, from 0.1 to 600")
