"""Reader of texts as people copy them out of AndroBench and other benchmarks of storage.

A line states a rate (``Random Read 146.4 MB/s, 37240 IOPS``); sizes of requests and threads stand
there too, or in lines of their own (``Random buffer size: 4 KB``, ``Threads: 8``). Such programs
read past the page cache, unless the text says otherwise.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from dipsim.calibrate.benchmarks.points import Points
from dipsim.calibrate.benchmarks.reading import Format, day, one_device, words
from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Origin

_RATE = re.compile(
    r"(?im)^[^\w\n]*(seq|rand)\w*\.?[ -]*(read|write)s?\b"
    r"(.*\d\s*(?:[KMG]i?B/s|[KMG]i?Bps|IOPS)\b.*)$"
)
_SPEED = re.compile(r"([\d.,]*\d)\s*([KMG])(i?)B(?:/s|ps)", re.IGNORECASE)
_IOPS = re.compile(r"([\d.,]*\d)\s*IOPS", re.IGNORECASE)
_SIZE = re.compile(r"(?<![\d.])(\d{1,6})\s*([KM])i?B\b(?!/s|ps)", re.IGNORECASE)
_THREADS = re.compile(
    r"(\d{1,3})[ \t]*(?:threads?|jobs?)\b|\b(?:threads?|jobs?)[ \t]*[:=]?[ \t]*(\d{1,3})", re.I
)
_BUFFERED = re.compile(r"\b(?:buffered|cached|with cache|page cache)\b", re.IGNORECASE)
_LONGEST = 400
"""Characters of a line that is read; longer ones state no rate."""
_POWER = {"K": 1, "M": 2, "G": 3}


class _Line(NamedTuple):
    """A line that states a rate."""

    at: int
    in_order: bool
    written: bool
    text: str


def read(source: Source) -> Measurements:
    """Read the bandwidths of a device, as far as sizes, threads and rates are stated.

    Raises:
        DipsimError: it cannot be read, or is about several devices.
    """
    kept = (line for line in source.text.split("\n") if len(line) <= _LONGEST)
    text = "\n".join(kept)
    date = re.search(r"(?im)^[^\w\n]*date[^\w\n]+(\d{4}-\d\d-\d\d)", text)
    tool = "AndroBench" if "androbench" in text.lower() else "a benchmark of storage"
    origin = Origin(source.name, tool, day(date[1]) if date else "")
    lines = list(_lines(text))
    rest = _RATE.sub("", text)
    threads = _threads(rest)
    base = _base(lines, rest, tool)
    points = Points(source.name)
    for line in lines:
        size = _size(line.text) or _stated_size(rest, line.in_order)
        lanes = _threads(line.text) or threads
        missing = "the size of its requests" if size is None else "the number of its threads"
        if size is None or lanes is None:
            points.refuse(f"line {line.at}", f"{missing} is not stated")
            continue
        points.add(
            f"line {line.at}",
            origin,
            size=size,
            lanes=lanes,
            bandwidth=_bandwidth(line.text, size, base),
            direct=not _BUFFERED.search(text),
            in_order=line.in_order,
            written=line.written,
        )
    named = re.findall(r"(?im)^[^\w\n]*(?:device|phone|model)\s*:\s*(\S.*)$", text)
    devices = dict.fromkeys(words(name) for name in named)
    return points.measurements(one_device(devices, origin))


def _lines(text: str) -> Iterator[_Line]:
    for match in _RATE.finditer(text):
        at = text.count("\n", 0, match.start(1)) + 1
        in_order, written = match[1].lower() == "seq", match[2].lower() == "write"
        yield _Line(at, in_order, written, match[3])


def _number(text: str) -> float:
    """Read a number, with commas between thousands or none; 0 for what is none."""
    try:
        return float(re.sub(r",(?=\d{3}(?!\d))", "", text).replace(",", "."))
    except ValueError:
        return 0.0


def _size(text: str) -> int | None:
    match = _SIZE.search(text)
    return int(match[1]) * 1024 ** _POWER[match[2].upper()] if match else None


def _stated_size(text: str, in_order: bool) -> int | None:
    """Return the size of requests that a line beside the rates states."""
    name = "seq" if in_order else "rand"
    for line in re.findall(rf"(?im)^.*\b{name}.*$", text):
        if size := _size(line):
            return size
    return None


def _threads(text: str) -> int | None:
    match = _THREADS.search(text)
    return int(match[1] or match[2]) if match else None


def _base(lines: list[_Line], rest: str, tool: str) -> int:
    """Return 1000 or 1024, by what the text means with M where it states operations too."""
    for line in lines:
        speed, count = _SPEED.search(line.text), _IOPS.search(line.text)
        size = _size(line.text) or _stated_size(rest, line.in_order)
        if speed and count and size and not speed[3] and _number(speed[1]):
            unit = _number(count[1]) * size / _number(speed[1])
            power = _POWER[speed[2].upper()]
            return min((1000, 1024), key=lambda base: abs(base**power / unit - 1) if unit else base)
    return 1024 if tool == "AndroBench" else 1000


def _bandwidth(text: str, size: int, base: int) -> float:
    """Return bytes per second, of operations per second where they are stated."""
    if match := _IOPS.search(text):
        return _number(match[1]) * size
    match = _SPEED.search(text)
    if not match:
        return 0.0
    unit = float(1024 if match[3] else base) ** _POWER[match[2].upper()]
    return _number(match[1]) * unit


ANDROBENCH = Format(
    "text of AndroBench (Sequential Read: 2279 MB/s, with sizes and threads)",
    lambda head: _RATE.search(head) is not None,
    read,
)
