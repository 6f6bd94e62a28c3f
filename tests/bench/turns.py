"""Contenders that take turns: what a part of a benchmark is, how it is measured and printed.

On one core the processor time of this process counts, so another program that gets a turn in
between does not; where threads are compared it is the time of the clock. What happens once per
process (imports, compilation, reading a trace into memory) is not timed; each call is timed whole.
"""

import argparse
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import NamedTuple

import history

Run = Callable[[], int]
Prepare = Callable[[], Run]
"""Makes a call ready, untimed; the call returns its hits."""


@dataclass(frozen=True)
class Row:
    """One contender of one part."""

    part: str
    name: str
    per: str
    """What it handles ``items`` of: accesses, scores, or bytes."""
    items: int
    seconds: float
    """Of one call, median."""
    times_first: float
    """Its time as a multiple of that of the part's first contender, median over the rounds."""
    hits: int


Part = Callable[[int], list[Row]]
"""Measures a part in so many rounds."""


class Ratio(NamedTuple):
    """How many times as long a yardstick takes as a contender of the same part."""

    part: str
    contender: str
    yardstick: str
    worth: tuple[str, str] = ("", "")
    """Two more of the part: the ratio is divided by how many times as long the latter takes."""


def measure(
    part: str,
    per: str,
    items: int,
    contenders: dict[str, Prepare],
    rounds: int,
    one_core: bool = True,
) -> list[Row]:
    """Call the contenders in turns, another one first in every round.

    The first call of each, which compiles, does not count.
    """
    clock = time.process_time if one_core else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = deque(contenders)
    with pinned(one_core):
        hits = {name: prepare()() for name, prepare in contenders.items()}
        for _ in range(rounds):
            for name in names:
                run = contenders[name]()
                start = clock()
                run()
                seconds[name].append(clock() - start)
            names.rotate()
    first = seconds[next(iter(contenders))]
    return [
        Row(
            part,
            name,
            per,
            items,
            statistics.median(taken),
            statistics.median(a / b for a, b in zip(taken, first, strict=True)),
            hits[name],
        )
        for name, taken in seconds.items()
    ]


@contextmanager
def pinned(one_core: bool) -> Iterator[None]:
    """Keep this process on one core, where the system can."""
    if not (one_core and hasattr(os, "sched_setaffinity")):
        yield
        return
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def ratios(rows: Iterable[Row], held: Mapping[str, Ratio]) -> history.Ratios:
    """Work out those of the ratios whose contenders were measured."""
    times = {(row.part, row.name): row.times_first for row in rows}
    times |= {(part, ""): 1.0 for part, _ in times}
    found = {}
    for name, (part, contender, yardstick, (faster, slower)) in held.items():
        keys = [(part, each) for each in (contender, yardstick, faster, slower)]
        if all(key in times for key in keys):
            ours, theirs, fast, slow = (times[key] for key in keys)
            found[name] = theirs / ours * fast / slow
    return found


def rates(rows: Iterable[Row], named: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """Millions of items a second of some contenders, by the name of the figure."""
    found = {(row.part, row.name): row.items / row.seconds / 1e6 for row in rows}
    return {name: found[key] for name, key in named.items() if key in found}


def show(rows: list[Row]) -> None:
    """Print one part."""
    per = rows[0].per
    print(f"\n{rows[0].part:28}{'ns per ' + per:>19}{'million/s':>11}{'x first':>9}{'hits':>12}")
    for row in rows:
        nanoseconds = row.seconds / row.items * 1e9
        rate = 1e3 / nanoseconds
        print(f"  {row.name:30}{nanoseconds:15.2f}{rate:11.0f}{row.times_first:9.2f}{row.hits:12}")


def run(
    bench: str,
    given: argparse.Namespace,
    parts: Iterable[Part],
    rounds: int,
    held: Mapping[str, Ratio],
    others: Callable[[list[Row]], dict[str, float]] = lambda _: {},
) -> str | None:
    """Measure all parts, print them, and do what the options say; the text of an error, if any.

    ``others`` works out figures that are written, but not held.
    """
    rounds *= 3 if given.record else 1
    taken: list[tuple[Part, list[Row]]] = []
    for part in parts:
        taken.append((part, part(rounds)))
        show(taken[-1][1])
    rows = [row for _, found in taken for row in found]

    def again(names: Iterable[str]) -> history.Ratios:
        wanted = {held[name].part for name in names if name in held}
        found = [part(3 * rounds) for part, before in taken if before[0].part in wanted]
        for each in found:
            show(each)
        return ratios((row for each in found for row in each), held)

    return history.finish(
        bench,
        given,
        ratios(rows, held),
        again,
        figures=others(rows),
        rows=[asdict(row) for row in rows],
    )
