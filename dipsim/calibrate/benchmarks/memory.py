"""Readers of programs that measure the bandwidth of memory: mbw and STREAM."""

import re

from dipsim.calibrate.benchmarks.reading import BANDWIDTHS, Format, Refusals, number, plain
from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Origin, Transfer

LEAST_ARRAY = 16.0
"""MiB of an array, below which a cache may hold it."""
_MIB = 2**20
_SMALL = f"arrays below {LEAST_ARRAY:.0f} MiB may lie in a cache: give larger ones"
_MBW = re.compile(
    r"(?m)^AVG\s+Method: (\w{1,12})\s+Elapsed: \S+\s+MiB: (\S+)\s+Copy: (\S+) MiB/s", re.ASCII
)
_STREAM = re.compile(r"(?m)^(Copy|Scale|Add|Triad):\s+(\S+)\s+\S+\s+\S+\s+\S+\s*$", re.ASCII)


def read_mbw(source: Source) -> Measurements:
    """Read the averages of mbw, whose copies are counted once: twice the bytes cross the bus.

    Raises:
        DipsimError: it cannot be read.
    """
    origin = Origin(source.name, "mbw")
    found: list[Transfer] = []
    refusals = Refusals(source.name)
    for method, size, rate in _MBW.findall(source.text):
        try:
            if number(plain(size), "MiB", (0, 1e9)) < LEAST_ARRAY:
                raise ValueError(_SMALL)
            copied = number(plain(rate), "Copy in MiB/s", _in(_MIB))
        except ValueError as problem:
            refusals.add(method, str(problem))
        else:
            found.append(Transfer(2 * copied * _MIB, 1, origin, method))
    if not found and not refusals.places:
        refusals.add("the output", "no averages: run mbw to its end, without -q 0")
    return Measurements(transfers=tuple(found), refused=refusals.sentences())


def read_stream(source: Source) -> Measurements:
    """Read the best rates of STREAM, which count what is read and what is written.

    Raises:
        DipsimError: it cannot be read.
    """
    text = source.text
    origin = Origin(source.name, "STREAM")
    found: list[Transfer] = []
    refusals = Refusals(source.name)
    array = re.search(r"Memory per array = ([\d.]+) MiB", text)
    small = array is not None and float(array[1].strip(".") or 0) < LEAST_ARRAY
    counted = re.search(r"Number of Threads counted = (\d{1,4})\b", text, re.ASCII)
    for test, rate in _STREAM.findall(text):
        try:
            if small:
                raise ValueError(_SMALL)
            bandwidth = number(plain(rate), "Best Rate MB/s", _in(1e6)) * 1e6
        except ValueError as problem:
            refusals.add(test, str(problem))
        else:
            threads = int(counted[1]) if counted else None
            found.append(Transfer(bandwidth, threads, origin, test))
    if not found and not refusals.places:
        refusals.add("the output", "no rates of Copy, Scale, Add or Triad: run STREAM to its end")
    return Measurements(transfers=tuple(found), refused=refusals.sentences())


def _in(unit: float) -> tuple[float, float]:
    return BANDWIDTHS[0] / unit, BANDWIDTHS[1] / unit


MBW = Format("mbw", lambda head: re.search(r"Method: \w+\s+Elapsed: ", head) is not None, read_mbw)
STREAM = Format(
    "STREAM", lambda head: "STREAM version" in head or "Best Rate MB/s" in head, read_stream
)
