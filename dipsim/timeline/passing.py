"""Time of tokens that nothing reaches into: two who share DRAM, in closed form."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.timeline.closed import (
    COMPUTE,
    DRAM,
    FLASH,
    MANAGEMENT,
    RESOURCES,
    SYNC,
    Machine,
    Seconds,
    Step,
)
from dipsim.timeline.work import Work, ratio


class Passing(NamedTuple):
    """Seconds and bytes of tokens that nothing reaches into."""

    exposed: NDArray[np.float64]
    """[tokens, 5] seconds, in the order of `RESOURCES`."""
    moved: NDArray[np.float64]
    """[tokens, 3] bytes through DRAM: by the flash, by use, by copies."""


def passing(work: Work[Seconds], machine: Machine, is_hot: bool) -> Passing:
    """Return what the tokens take, cold or hot throughout, if nothing else is under way.

    Then every step finds the flash at rest and leaves it so, and two flows meet at most once: the
    step's own read and the use that it hides. dram.py says who gets what. Keys and values that are
    read meanwhile are in nobody's way: else tokens take their steps (events.py).
    """
    room = machine.dram - machine.background
    flash, flash_rate = work.flash, ratio(work.moved, work.flash)
    hidden, limit = work.hidden, np.ones_like(flash)
    if is_hot and machine.heat is not None:
        flash, flash_rate = flash / machine.heat.flash, flash_rate * machine.heat.flash
        hidden, limit = work.hidden_hot, work.hot
    want = work.rate * limit
    owed = ratio(work.beside, work.beside + hidden * work.rate)
    least = room * np.where(work.beside > 0, owed, 0.5)
    grant = np.minimum(flash_rate, np.maximum(room - want, least))
    short = (hidden > 0) & (want + flash_rate > room)
    speed = np.where(short, _speed(room - grant, work.rate, limit), limit)
    flash_speed = np.where(short, _speed(grant, flash_rate, 1.0), 1.0)
    together = np.minimum(hidden / speed, flash / flash_speed)
    speed_alone = _speed(room, work.rate, limit)
    waited = np.maximum(flash - together * flash_speed, 0.0) / _speed(room, flash_rate, 1.0)
    used = together + (work.use - together * speed) / speed_alone
    kv = used * work.kv_share * limit
    spent = np.zeros((len(RESOURCES), len(work.flash)))
    spent[FLASH] = waited.sum(axis=1)
    spent[DRAM] = kv.sum(axis=1)
    weights = used - kv
    brought = weights - weights * work.arithmetic
    spent[COMPUTE if machine.compute_bound else DRAM] += brought.sum(axis=1)
    spent[COMPUTE] += (weights * work.arithmetic).sum(axis=1)
    spent[SYNC] = work.sync.sum(axis=1)
    spent[MANAGEMENT] = (work.copy / _speed(room, work.copy_rate, 1.0)).sum(axis=1)
    read = work.moved + work.tail_moved
    flows = (read, work.use * work.rate, work.copy * work.copy_rate)
    moved = [flow.sum(axis=1) for flow in flows]
    return Passing(np.ascontiguousarray(spent.T), np.array(moved).T)


def tails_meet(chain: Sequence[Step], machine: Machine) -> bool:
    """Return whether keys and values that are read beside a step may get into its way, or come
    late because the device gets hot."""
    if not any(step.tail_place for step in chain):
        return False
    tail = _fastest((step.tail_moved, step.tail) for step in chain)
    copies = _fastest((2 * step.copied, step.management) for step in chain)
    most = machine.background + tail + max(machine.weights, machine.kv, copies)
    return tail > 0 and (machine.heat is not None or most > machine.dram)


def _fastest(moved: Iterable[tuple[Seconds | float, Seconds | float]]) -> float:
    """Return the most bytes per second, of pairs of bytes and seconds."""
    rates = (ratio(*np.broadcast_arrays(np.atleast_1d(size), seconds)) for size, seconds in moved)
    return max(float(rate.max(initial=0.0)) for rate in rates)


def _speed(granted: Seconds | float, rate: Seconds, limit: Seconds | float) -> Seconds:
    """Return the speed of flows that want ``rate`` bytes/s at full speed, at most ``limit``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rate > 0, np.minimum(granted / rate, limit), limit)
