"""Measurements of the same work that contradict each other: none of them is kept."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from typing import TypeVar

from dipsim.calibrate.measured import Measurements, Rate, Reads, Transfer, Writes

AGREE = 1.5
"""Factor within which two measurements of the same work agree."""
_Point = TypeVar("_Point", Rate, Reads, Writes, Transfer)


def agreeing(found: Measurements) -> Measurements:
    """Return measurements without those of the same work whose figures differ by more than
    `AGREE`; a sentence of ``refused`` tells each."""
    refused: list[str] = []
    rates = _kept(found.rates, _work_of_rate, lambda rate: rate.value, "tokens/s", refused)
    reads = _kept(
        found.reads,
        lambda reads: ("reads", reads.point.size, reads.point.lanes, reads.in_order),
        lambda reads: reads.point.bandwidth,
        "B/s",
        refused,
    )
    writes = _kept(
        found.writes,
        lambda writes: ("writes", writes.size, writes.lanes, writes.in_order),
        lambda writes: writes.bandwidth,
        "B/s",
        refused,
    )
    transfers = _kept(
        found.transfers,
        lambda transfer: ("transfers", transfer.origin.tool, transfer.test, transfer.threads),
        lambda transfer: transfer.bandwidth,
        "B/s",
        refused,
    )
    return replace(
        found,
        rates=rates,
        reads=reads,
        writes=writes,
        transfers=transfers,
        refused=(*found.refused, *refused),
    )


def _work_of_rate(rate: Rate) -> Hashable:
    """Return all of a rate that is not the figure, nor where it stands."""
    case = rate.case.model_dump(exclude={"id", "source", "note"})
    beside = (rate.threads, rate.kv_bits, rate.settings, rate.model_file)
    return repr(sorted(case.items())), beside


def _kept(
    points: Iterable[_Point],
    work: Callable[[_Point], Hashable],
    figure: Callable[[_Point], float],
    unit: str,
    refused: list[str],
) -> tuple[_Point, ...]:
    """Return the points whose work was measured once, or agrees; tell the others."""
    alike: dict[Hashable, list[_Point]] = {}
    listed = list(points)
    for point in listed:
        alike.setdefault(work(point), []).append(point)
    dropped: set[Hashable] = set()
    for key, group in alike.items():
        low, high = min(group, key=figure), max(group, key=figure)
        if figure(high) > AGREE * figure(low):
            dropped.add(key)
            where = dict.fromkeys(point.origin.file for point in (low, high))
            refused.append(
                f"{' and '.join(where)}: {_what(low)} measured {len(group)} times, from "
                f"{figure(low):.4g} to {figure(high):.4g} {unit}: they contradict each other, and "
                "none is kept"
            )
    agree = [point for point in listed if work(point) not in dropped]
    once: dict[Hashable, _Point] = {}
    for point in agree:  # a figure that stands there twice was measured once
        once.setdefault((work(point), figure(point), point.origin.date), point)
    return tuple(once.values())


def _what(point: Rate | Reads | Writes | Transfer) -> str:
    if isinstance(point, Rate):
        return f"{point.case.kind} of {point.case.model}"
    if isinstance(point, Reads):
        return f"reads of {point.point.size:.0f} B, {point.point.lanes} in flight,"
    if isinstance(point, Writes):
        return f"writes, {point.lanes} in flight,"
    return point.test
