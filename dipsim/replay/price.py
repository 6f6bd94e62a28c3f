"""Prices of misses: what reading them costs on a device, in the replay or after it."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.flash.cost import Costs, InOrder
from dipsim.kernels import Requests
from dipsim.replay.traffic import Traffic


class Reads(NamedTuple):
    """Reads of one part's misses; arrays are [rows]."""

    requests: NDArray[np.int32]
    outside: NDArray[np.bool_]
    """True where a read lay outside the measured points of the flash curve."""
    moved: NDArray[np.float64]
    """Bytes the flash device moves."""
    seconds: NDArray[np.float64]
    """Seconds the flash is busy."""


def price(misses: NDArray[np.uint64], units: int, cost: Requests | InOrder) -> Reads:
    """Return what reading misses costs.

    Args:
        misses: uint64[rows, words] of one layer and group, which has so many ``units``.
        cost: of that layer and group.
    """
    if isinstance(cost, InOrder):
        counts = np.bitwise_count(misses).sum(axis=1, dtype=np.int64)
        return Reads(np.int32(0) + cost.requests(counts), counts < 0, *cost.price(counts))
    misses = np.ascontiguousarray(misses)
    reads, costs = kernels.price(misses, 0, misses.shape[1], units, cost)
    return Reads(
        requests=reads[:, kernels.READS],
        outside=reads[:, kernels.OUTSIDE].astype(np.bool_),
        moved=costs[:, kernels.MOVED],
        seconds=costs[:, kernels.SECONDS],
    )


def repriced(traffic: Traffic, costs: Costs) -> Traffic:
    """Return the counts of a replay with its reads on another device.

    Args:
        traffic: with the units that were missed, of a replay that read nothing ahead.
        costs: of that device, per layer and group.
    """
    assert traffic.missed is not None, "a replay that keeps what was missed"
    assert traffic.ahead is None, "a replay that reads nothing ahead"
    again = replace(
        traffic,
        reads=np.zeros_like(traffic.reads),
        outside=np.zeros_like(traffic.outside),
        moved=np.zeros_like(traffic.moved),
        flash_seconds=np.zeros_like(traffic.flash_seconds),
    )
    for layer, group in np.ndindex(traffic.active.shape[1:]):
        place = slice(None), layer, group
        missed = traffic.missed[:, traffic.words_of(layer, group)]
        reads = price(missed, traffic.units[group], costs[layer][group])
        again.reads[place], again.outside[place] = reads.requests, reads.outside
        again.moved[place], again.flash_seconds[place] = reads.moved, reads.seconds
    return again
