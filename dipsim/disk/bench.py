"""Benchmark of a disk: its read bandwidth over request size and reads in flight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dipsim.disk.direct_io import PAGE, DirectFile, Readers, open_file
from dipsim.errors import DipsimError, printable
from dipsim.units import BANDWIDTH, BYTES

SIZES = tuple(4096 * 4**i for i in range(6))
"""Sizes of a read in bytes: 4 KiB to 4 MiB."""
THREADS = (1, 2, 4, 8)
SECONDS = 20.0
"""Default time of a benchmark in all."""
LARGEST_READ = 2**26
ROOM = 16
"""A file holds at least this many reads of the largest size."""
_FASTEST = (5e5, 5e10)  # reads and bytes per second that no disk exceeds: offsets are drawn before
_MOST_READS = 2**20  # per cell and pass: more tell nothing new, and their offsets take memory
_PASSES = 4  # over all cells: drift of the disk averages out, and shows in the spread


class BenchCell(NamedTuple):
    """Measured reads of ``size`` bytes with ``lanes`` in flight."""

    size: int
    lanes: int
    bandwidth: float
    """Bytes per second of all lanes together."""
    reads: int
    seconds: float
    spread: float
    """(highest - lowest) / mean of the bandwidths of the passes."""


@dataclass(frozen=True)
class Bench:
    """Measurements of a file, by lanes and then by size."""

    path: str
    direct: bool
    """True if the reads went past the page cache."""
    cells: list[BenchCell]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per cell as plain values in base units."""
        return [{**cell._asdict(), "direct": self.direct} for cell in self.cells]

    def table(self) -> list[dict[str, Any]]:
        """Return the rows of a CSV: sizes and bandwidths are texts with a unit, and exact."""
        return [
            {
                **row,
                "size": BYTES.exact(row["size"]),
                "bandwidth": BANDWIDTH.exact(row["bandwidth"]),
            }
            for row in self.rows()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, in base units."""
        return {"file": self.path, "direct": self.direct, "cells": self.rows()}


def iobench(
    path: str,
    sizes: Sequence[int] = SIZES,
    threads: Sequence[int] = THREADS,
    seconds: float = SECONDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Bench:
    """Measure reads at random offsets of a file, which is opened for reading only.

    Args:
        path: the file.
        sizes: sizes of a read in bytes, multiples of 4 KiB.
        threads: numbers of reads in flight.
        seconds: time in all; every combination gets the same share.
        progress: called with (combinations done, combinations).

    Raises:
        DipsimError: impossible figures, or an unsuitable file, in one line.
    """
    _check(sizes, threads, seconds)
    with open_file(path) as file:
        return measure(file, sizes, threads, seconds, progress)


def measure(
    file: DirectFile,
    sizes: Sequence[int],
    threads: Sequence[int],
    seconds: float,
    progress: Callable[[int, int], None] = lambda reads_done, total: None,
) -> Bench:
    """Measure reads of an open file; see `iobench`.

    Raises:
        DipsimError: the file is too small.
    """
    if file.size < ROOM * max(sizes):
        raise DipsimError(
            f"{printable(file.name)}: holds {BYTES.show(file.size)} in whole pages, fewer than "
            f"{ROOM} reads of {BYTES.exact(max(sizes))}: give a larger file or smaller --sizes"
        )
    combinations = [(lanes, size) for lanes in sorted(threads) for size in sorted(sizes)]
    share = seconds / (len(combinations) * _PASSES)
    rng = np.random.default_rng(0)
    results: dict[tuple[int, int], list[Any]] = {key: [] for key in combinations}
    for turn in range(_PASSES):
        for i, (lanes, size) in enumerate(combinations):
            if not file.direct:
                file.forget()
            most = lanes + int(share * min(_FASTEST[0], _FASTEST[1] / size))
            most = min(most, _MOST_READS)
            pages = rng.integers(0, (file.size - size) // PAGE, most, endpoint=True)
            wanted = [(page * PAGE, size) for page in pages.tolist()]
            with Readers(file, lanes, size) as readers:
                results[lanes, size].append(readers.read(wanted, share))
            progress(turn * len(combinations) + i + 1, _PASSES * len(combinations))
    cells = []
    for (lanes, size), reads_done in results.items():
        rates = [read.size / read.seconds for read in reads_done]
        total, spent = (
            sum(read.size for read in reads_done),
            sum(read.seconds for read in reads_done),
        )
        spread = (max(rates) - min(rates)) / float(np.mean(rates))
        reads = sum(read.reads for read in reads_done)
        cells.append(BenchCell(size, lanes, total / spent, reads, spent, spread))
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
