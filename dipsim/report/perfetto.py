"""Timeline of a run in the Chrome trace event format, which ui.perfetto.dev opens.

The format is Google's "Trace Event Format", see perfetto.dev/docs/getting-started/other-formats.
Metadata events (``M``) name the process and its threads, complete events (``X``) have a start and a
duration in microseconds, values of counter events (``C``) hold until the next one.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from dipsim.errors import printable
from dipsim.files import unwritable, whole_file
from dipsim.timeline.excerpt import Excerpt

PROCESS = 1
LANES = ("token", "flash", "compute")
"""Threads, from the top; sync and management stand in the lane of compute."""
READERS = ("flash DMA", "weights and KV", "cache copies")
"""Readers of DRAM, in the order of `Draw.reader`."""
COUNTER = "DRAM (bytes/s)"
Event = dict[str, Any]


def write(shown: Excerpt, title: str, path: Path) -> None:
    """Write the file, whole.

    Args:
        shown: the first tokens of a run.
        title: name of the process.
        path: a .json file.

    Raises:
        DipsimError: the file cannot be written.
    """
    try:
        with whole_file(path) as handle:
            handle.write(b'{"displayTimeUnit": "ns", "traceEvents": [\n')
            for i, event in enumerate(events(shown, title)):
                handle.write((",\n" if i else "").encode())
                handle.write(json.dumps(event, allow_nan=False).encode())
            handle.write(b"\n]}\n")
    except OSError as problem:
        raise unwritable(f"--timeline {path}", problem) from None


def events(shown: Excerpt, title: str) -> Iterator[Event]:
    """Yield all events: names, then tokens and what was busy, then DRAM."""
    yield _name("process_name", 0, {"name": printable(title)})
    for thread, lane in enumerate(LANES, 1):
        yield _name("thread_name", thread, {"name": lane})
        yield _name("thread_sort_index", thread, {"sort_index": thread})
    numbers = [int(row) for row in shown.rows]
    for token, (start, end) in zip(numbers, pairwise(shown.begins), strict=False):
        yield from _complete("token", f"token {token}", "token", start, end, {"token": token})
    for span in shown.spans:
        args: Event = {"token": numbers[span.token], "place": span.place, "bytes": span.bytes}
        if span.lane == "flash":
            name = f"{span.place} (ahead)" if span.early else span.place
            args["early"] = span.early
            yield from _complete("flash", name, "flash", span.start, span.end, args)
        else:
            name = span.place if span.lane == "compute" else span.lane
            kind = "use" if span.lane == "compute" else span.lane
            yield from _complete("compute", name, kind, span.start, span.end, args)
    yield from _draws(shown)


def _name(kind: str, thread: int, args: Event) -> Event:
    return {"ph": "M", "name": kind, "pid": PROCESS, "tid": thread, "args": args}


def _complete(
    lane: str, name: str, kind: str, start: float, end: float, args: Event
) -> Iterator[Event]:
    """Yield an event, unless it is shorter than a nanosecond.

    Both ends are whole nanoseconds, so that an event that begins where another ends does not
    overlap it.
    """
    first, last = _nanoseconds(start), _nanoseconds(end)
    if last > first:
        yield {
            "ph": "X",
            "name": name,
            "cat": kind,
            "ts": first / 1000,
            "dur": (last - first) / 1000,
            "pid": PROCESS,
            "tid": LANES.index(lane) + 1,
            "args": args,
        }


def _draws(shown: Excerpt) -> Iterator[Event]:
    """Yield the bytes per second that each reader draws, wherever that changes; 0 at the end."""
    changes: dict[int, list[tuple[int, int, float]]] = {0: []}
    end = _nanoseconds(float(shown.begins[-1]))
    for draw in shown.draws:
        first, last = _nanoseconds(draw.start), min(_nanoseconds(draw.end), end)
        if last > first:
            changes.setdefault(first, []).append((draw.reader, 1, draw.rate))
            changes.setdefault(last, []).append((draw.reader, -1, -draw.rate))
    active, rates = [0] * len(READERS), [0.0] * len(READERS)
    before = None
    for time in sorted(changes):
        for reader, count, rate in changes[time]:
            active[reader] += count
            rates[reader] = rates[reader] + rate if active[reader] else 0.0
        if rates != before:
            drawn = dict(zip(READERS, rates, strict=True))
            event = {"ph": "C", "name": COUNTER, "ts": time / 1000, "pid": PROCESS, "args": drawn}
            yield event
        before = list(rates)


def _nanoseconds(seconds: float) -> int:
    return round(float(seconds) * 1e9)
