"""A timeline in the Chrome trace event format, which ui.perfetto.dev opens.

The format is Google's "Trace Event Format", see perfetto.dev/docs/getting-started/other-formats.
Metadata events (``M``) name the process and its threads, complete events (``X``) have a start and a
duration in microseconds, values of counter events (``C``) hold until the next one.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from dipsim.errors import DipsimError
from dipsim.files import whole_file
from dipsim.timeline.excerpt import Excerpt

PROCESS = 1
LANES = ("token", "flash", "compute")
"""Threads, from the top; compute is also where sync and management happen."""
READERS = ("flash DMA", "weights and KV", "cache copies")
"""Who draws on DRAM, in the order of `Draw.reader`."""
COUNTER = "DRAM (bytes/s)"
Event = dict[str, Any]


def write(shown: Excerpt, title: str, path: Path) -> None:
    """Write the file, whole.

    Raises:
        DipsimError: it cannot be written.
    """
    try:
        with whole_file(path) as handle:
            handle.write(b'{"displayTimeUnit": "ns", "traceEvents": [\n')
            for i, event in enumerate(events(shown, title)):
                handle.write((",\n" if i else "").encode())
                handle.write(json.dumps(event, allow_nan=False).encode())
            handle.write(b"\n]}\n")
    except OSError as problem:
        raise DipsimError(f"--timeline {path}: cannot be written ({problem.strerror})") from None


def events(shown: Excerpt, title: str) -> Iterator[Event]:
    """All events: names, then tokens and what was busy, then DRAM."""
    yield _named("process_name", 0, {"name": title})
    for thread, lane in enumerate(LANES, 1):
        yield _named("thread_name", thread, {"name": lane})
        yield _named("thread_sort_index", thread, {"sort_index": thread})
    numbers = [int(row) for row in shown.rows]
    for token, (start, end) in zip(numbers, pairwise(shown.begins), strict=False):
        yield from _complete("token", f"token {token}", "token", start, end, {"token": token})
    for at in shown.spans:
        more: Event = {"token": numbers[at.token], "place": at.place, "bytes": at.bytes}
        if at.lane == "flash":
            name = f"{at.place} (ahead)" if at.early else at.place
            more["early"] = at.early
            yield from _complete("flash", name, "flash", at.start, at.end, more)
        else:
            name = at.place if at.lane == "compute" else at.lane
            kind = "use" if at.lane == "compute" else at.lane
            yield from _complete("compute", name, kind, at.start, at.end, more)
    yield from _drawn(shown)


def _named(what: str, thread: int, args: Event) -> Event:
    return {"ph": "M", "name": what, "pid": PROCESS, "tid": thread, "args": args}


def _complete(
    lane: str, name: str, kind: str, start: float, end: float, args: Event
) -> Iterator[Event]:
    """An event, unless it is shorter than a nanosecond. Both ends are whole nanoseconds, so that
    one that begins where another ends does not overlap it."""
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


def _drawn(shown: Excerpt) -> Iterator[Event]:
    """Bytes per second that each reader draws, wherever that changes; 0 at the end."""
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
