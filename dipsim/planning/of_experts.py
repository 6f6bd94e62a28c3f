"""Ways of mixtures of experts: how many are cached, by which policy, with how many lanes."""

from collections.abc import Iterator
from dataclasses import replace

from dipsim.errors import DipsimError
from dipsim.planning.question import Question, figures_of
from dipsim.planning.room import Room
from dipsim.planning.way import Way
from dipsim.units import BYTES

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the room for experts that are tried, and beyond it `BEYOND`."""
BEYOND = 1.25
POLICIES = ("lru", "lfu")
LANES = (1, 2, 4, 8)
_LEAST_GAIN = 1.01
"""Gain of rate below which another number of lanes is no way."""


def cached(question: Question, room: Room) -> list[Way]:
    """Return the model with caches of experts of several sizes, each with the faster policy, and
    the best of them with other numbers of lanes.

    The largest cache takes more than the system leaves, so that it shows what paging costs.
    """
    plain = question.run(question.trace)
    beside = plain.budget.static.total + room.kv + room.overhead + room.staging
    left = room.available - beside
    ways = []
    for share in (*SHARES, BEYOND):
        size = min(share * left, plain.budget.units_bytes)
        if size <= 0:
            continue
        tried = [way for policy in POLICIES for way in _cached(question, size, policy)]
        if tried:
            ways.append(max(tried, key=_rate))
    if ways:
        best = max(ways, key=_rate)
        ways += [way for lanes in LANES for way in _with_lanes(question, best, lanes)]
    return ways


def _rate(way: Way) -> float:
    return way.figures.rate.value


def _cached(question: Question, size: float, policy: str) -> Iterator[Way]:
    options = {"cache": f"{size / 2**20:.0f}MiB", "policy": policy, "scope": "global"}
    try:
        result = question.run(question.trace, **options)
    except DipsimError:
        return
    slots, experts = result.budget.capacity.sum(), result.layer_units.sum()
    yield Way(
        name=f"{BYTES.show(size)}, {policy}",
        why=f"{slots:.0f} of {experts:.0f} experts in DRAM: {result.hit_rate:.0%} of the bytes hit",
        options=options,
        figures=replace(figures_of(result), assumed=question.assumed),
    )


def _with_lanes(question: Question, best: Way, lanes: int) -> Iterator[Way]:
    flash = question.device.flash
    if lanes == flash.lanes:
        return
    device = question.device.model_copy(update={"flash": flash.model_copy(update={"lanes": lanes})})
    result = question.run(question.trace, device=device, **best.options)
    figures = replace(figures_of(result), assumed=question.assumed)
    if figures.rate.value > best.figures.rate.value * _LEAST_GAIN:
        yield Way(
            name=f"{best.name}, {lanes} lanes",
            why=f"{lanes} reads in flight for {flash.lanes}",
            options={**best.options, "s": f"flash.lanes={lanes}"},
            figures=figures,
        )
