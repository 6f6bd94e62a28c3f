"""Reader of an engine's log of its reads of flash, a line each, of any length.

Reads of nearly one size form a bucket. Its bandwidth is that of all lanes that read in it at once:
lanes x bytes of a read / median of its latency.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from dipsim.calibrate.benchmarks.points import MOST_LANES, Points
from dipsim.calibrate.benchmarks.reading import Format
from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Origin
from dipsim.errors import DipsimError

LEAST_READS = 16
"""Reads of a bucket, of which fewer tell too little."""
_COLUMNS = ("lane", "read_bytes", "latency_ns")
_PER_OCTAVE = 4
"""Buckets between a size and twice that."""
_PER_FOLD = 200
"""Steps between a latency and e times that, by which its median is found."""
_LARGEST, _LONGEST = 2**32, 2**60
"""Bytes of a read, and nanoseconds, that are believed."""
_SETUP_NS, _BYTES_PER_NS = 5e3, 10.0
"""A read that took less than 5 us and a transfer at 10 GB/s was answered by the page cache."""


class _Read(NamedTuple):
    lane: str
    size: int
    latency: int


@dataclass
class _Bucket:
    """Reads of nearly one size: latencies are counted by steps of their logarithm."""

    reads: int = 0
    bytes: int = 0
    lanes: set[str] = field(default_factory=set)
    latencies: Counter[int] = field(default_factory=Counter)

    def add(self, read: _Read) -> None:
        self.reads += 1
        self.bytes += read.size
        self.latencies[int(math.log(read.latency) * _PER_FOLD)] += 1
        if len(self.lanes) <= MOST_LANES:
            self.lanes.add(read.lane)

    @property
    def seconds(self) -> float:
        """Median of the latency, within 0.3 %."""
        below = 0
        for step in sorted(self.latencies):
            below += self.latencies[step]
            if 2 * below >= self.reads:
                return math.exp((step + 0.5) / _PER_FOLD) * 1e-9
        raise AssertionError("a bucket has reads")


def read(source: Source) -> Measurements:
    """Read the bandwidths of a device.

    Raises:
        DipsimError: it cannot be read, or half of its lines are damaged.
    """
    buckets: defaultdict[int, _Bucket] = defaultdict(_Bucket)
    cached = damaged = total = 0
    for row in _rows(source):
        total += 1
        if row is None:
            damaged += 1
        elif row.size == 0 or row.latency < _SETUP_NS + row.size / _BYTES_PER_NS:
            cached += 1
        else:
            buckets[round(math.log2(row.size) * _PER_OCTAVE)].add(row)
    if 2 * damaged > total:
        raise DipsimError(f"{source.name}: {damaged} of {total} lines are damaged")
    points = Points(source.name)
    origin = Origin(source.name, "a log of reads")
    for _, bucket in sorted(buckets.items()):
        _point(points, bucket, origin)
    if cached:
        points.refuse(f"{cached} reads", "the page cache answered them")
    if damaged:
        points.refuse(f"{damaged} lines", "not three numbers from 0 on: lane, bytes and latency")
    if not total:
        points.refuse("the log", "it has no reads")
    return points.measurements()


def _point(points: Points, bucket: _Bucket, origin: Origin) -> None:
    size = round(bucket.bytes / bucket.reads)
    place = f"reads of about {size} bytes"
    if bucket.reads < LEAST_READS:
        points.refuse(place, f"a curve needs {LEAST_READS} of about one size")
        return
    lanes = len(bucket.lanes)
    points.add(
        place,
        origin,
        size=size,
        lanes=lanes,
        bandwidth=lanes * size / bucket.seconds,
        direct=True,
        in_order=False,
    )


def _rows(source: Source) -> Iterator[_Read | None]:
    """Yield the reads of a log; None for a line that is damaged."""
    lines = source.lines()
    names = [name.strip() for name in next(lines, "").split(",")]
    if not set(_COLUMNS) <= set(names):
        raise DipsimError(f"{source.name}: no text of UTF-8: write the log anew")
    lane, size, latency = (names.index(name) for name in _COLUMNS)
    for line in lines:
        cells = line.split(",")
        if len(cells) != len(names):
            if line:
                yield None
            continue
        try:
            row = _Read(cells[lane], int(cells[size]), int(cells[latency]))
        except ValueError:
            yield None
            continue
        yield row if 0 <= row.size <= _LARGEST and 0 <= row.latency < _LONGEST else None


def _recognises(head: str) -> bool:
    names = [name.strip() for name in head.partition("\n")[0].split(",")]
    return all(name in names for name in _COLUMNS)


IO_LOG = Format("log of reads (CSV with lane, read_bytes, latency_ns)", _recognises, read)
