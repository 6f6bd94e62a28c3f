"""Counts of tokens that need every unit, or any k of those in DRAM, without a trace's values."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.flash.cost import Costs, InOrder
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.contender import Capacity, CapacityByRow
from dipsim.replay.traffic import Traffic, empty_traffic
from dipsim.trace.encoding import pack_sets


@dataclass(frozen=True)
class WholeCaches:
    """Caches of a method whose one group every token needs whole, as dense does.

    Of experts a token needs any k, and all of them are there.
    """

    capacity: Capacity
    """In units, of each cache."""
    costs: Costs
    """Per layer and group, what reads cost."""
    loaded: bool = False
    """True if they are full before the first token; else it finds them empty."""
    keeps_missed: bool = False


def count_whole(sets: ActiveSets, caches: WholeCaches, measured: NDArray[np.bool_]) -> Traffic:
    """Return the counts of tokens of which each needs every unit.

    A cache of C units hits C of them from the second token on: those that the token before left
    there, as far as there is room for them.

    Args:
        measured: [tokens] decode tokens that are measured.
    """
    actions, resets = sets.rows
    rows = np.flatnonzero(actions >= kernels.COMMIT)
    group, layers = sets.method.groups[0], sets.trace.layers
    each = np.array([group.at(layer).kept for layer in range(layers)])
    needed = each[:, None]
    by_row, capacity = _capacities(sets, caches.capacity, rows)
    before = capacity[:1] if caches.loaded else np.zeros_like(capacity[:1])
    left = np.concatenate([before, capacity[:-1]])
    emptied = np.cumsum(resets)[rows]
    left[1:][emptied[1:] > emptied[:-1]] = 0
    hits = np.minimum(np.minimum(left, capacity), needed)
    traffic = empty_traffic(
        len(actions),
        sets.method.groups,
        by_row,
        measured,
        sets.no_shares(),
        keeps_missed=caches.keeps_missed,
        in_steps=sets.steps is not None,
    )
    if traffic.own is not None:
        traffic.own[:] = needed
    used = np.ones((len(rows), layers, 1), np.int64)
    if sets.runs is not None:
        used[...] = sets.runs[rows, :, None]
    traffic.active[rows], traffic.hits[rows] = needed * used, hits * used
    traffic.kept[rows] = (np.minimum(capacity, needed) - hits) * used
    for layer in range(layers):
        place, costs = (rows, layer, 0), caches.costs[layer][0]
        assert isinstance(costs, InOrder), "what every token needs whole is read in order"
        misses = (each[layer] - hits[:, layer, 0]) * used[:, layer, 0]
        traffic.reads[place] = costs.requests(misses)
        traffic.moved[place], traffic.flash_seconds[place] = costs.price(misses)
        if traffic.missed is not None:
            unit = np.arange(group.units)
            beyond = (unit >= hits[:, layer, 0, None]) & (unit < each[layer])
            beyond &= used[:, layer] > 0
            traffic.missed[rows, traffic.words_of(layer, 0)] = pack_sets(beyond)
    return traffic


def _capacities(
    sets: ActiveSets, capacity: Capacity, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what the caches hold in units: int64[layers, groups] at least, and at ``rows``."""
    if isinstance(capacity, CapacityByRow):
        by_row = np.asarray(capacity.each)[capacity.row].astype(np.int64)
        return np.asarray(capacity.least, np.int64), by_row[rows]
    each = np.asarray(capacity, np.int64)
    return each, np.broadcast_to(each, (len(sets.tokens), *each.shape))[rows]
