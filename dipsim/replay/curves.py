"""Curves: hits, and flash time, of a policy over the capacity of the caches.

For lru one pass gives the hits at every capacity that holds each batch (Mattson et al. 1970).
Everything else is replayed, several capacities in one pass.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import PolicyError
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.contender import Contender
from dipsim.replay.replay import replay_policies
from dipsim.trace.encoding import words_for
from dipsim.views import shortened

AT_A_TIME = 8
"""Capacities replayed in one pass: more would hold too much traffic at once."""


@dataclass(frozen=True)
class Curve:
    """Hits and flash time of a policy with caches of n sizes, over the measured tokens."""

    capacity: NDArray[np.int64]
    """[n, layers, groups] in units."""
    hits: NDArray[np.int64]
    """[n, layers, groups]"""
    accesses: NDArray[np.int64]
    """[n, layers, groups]; the same for every n unless the method is cache-aware."""
    seconds: NDArray[np.float64]
    """[n, layers, groups] that the flash is busy; 0 when no costs were asked for."""

    __repr__ = shortened


def curve(
    sets: ActiveSets, contender: Contender, capacity: NDArray[np.int64], threads: int | None = None
) -> Curve:
    """Return hits and flash time of a policy at several capacities, by replay.

    Args:
        sets: best held, as they are needed once for every `AT_A_TIME` capacities.
        contender: the policy; its capacities do not matter.
        capacity: int64[n, layers, groups] in units.

    Raises:
        DipsimError: as `replay_policies`.
    """
    hits, accesses = np.zeros(capacity.shape, np.int64), np.zeros(capacity.shape, np.int64)
    seconds = np.zeros(capacity.shape)
    for start in range(0, len(capacity), AT_A_TIME):
        some = replace(contender, capacities=list(capacity[start : start + AT_A_TIME]))
        (traffics,) = replay_policies(sets, [some], threads=threads)
        for n, traffic in enumerate(traffics or (), start):
            rows = traffic.measured
            hits[n] = traffic.hits[rows].sum(axis=0, dtype=np.int64)
            accesses[n] = traffic.active[rows].sum(axis=0, dtype=np.int64)
            seconds[n] = traffic.flash_seconds[rows].sum(axis=0)
    return Curve(capacity, hits, accesses, seconds)


@dataclass(frozen=True)
class LruStack:
    """Hits of lru, forced admission, at all capacities that hold every batch."""

    depths: list[list[NDArray[np.int64]]]
    """Per layer and group int64[units + 1]: hits of a cache of so many units, of the measured
    tokens."""
    least: NDArray[np.int64]
    """[layers, groups] the smallest capacity for which that holds: the largest batch."""

    __repr__ = shortened

    def hits(self, capacity: NDArray[np.int64]) -> NDArray[np.int64]:
        """[layers, groups] -> [layers, groups] hits.

        Raises:
            PolicyError: a cache that does not hold the largest batch.
        """
        if (capacity < self.least).any():
            raise PolicyError("a cache smaller than a batch is no stack: replay it")
        hit = np.empty(capacity.shape, np.int64)
        for (layer, i), units in np.ndenumerate(capacity):
            hit[layer, i] = self.depths[layer][i][units]
        return hit


def lru_stack(sets: ActiveSets, measured: NDArray[np.bool_]) -> LruStack:
    """Return the hits of lru at all capacities, in one pass (atomic access, layer scope).

    Args:
        measured: bool[tokens], see `measured_rows`.

    Raises:
        MethodError: the sets depend on the cache.
        TraceError: bad scores met on the way.
    """
    sets.check_known()
    trace, method = sets.trace, sets.method
    shape = trace.layers, len(method.groups)
    least = np.zeros(shape, np.int64)
    units = [group.units for group in method.groups]
    depths = [[np.zeros(n + 1, np.int64) for n in units] for _ in range(trace.layers)]
    orders = [[np.empty(n + kernels.AT_ONCE, np.int64) for n in units] for _ in range(trace.layers)]
    pending = [[np.zeros(words_for(n), np.uint64) for n in units] for _ in range(trace.layers)]
    filled = np.zeros(shape, np.int64)
    for block in sets.blocks():
        booked = block.actions != kernels.SKIP
        for layer, i in np.ndindex(*shape):
            sizes = np.bitwise_count(block.sets[i][booked, layer]).sum(axis=1, dtype=np.int64)
            least[layer, i] = max(least[layer, i], sizes.max(initial=0))
            filled[layer, i] = kernels.stack_distances(
                block.sets[i],
                layer,
                block.actions,
                block.resets,
                measured[block.start : block.stop],
                pending[layer][i],
                orders[layer][i],
                filled[layer, i],
                depths[layer][i][1:],
            )
    return LruStack([[np.cumsum(depth) for depth in row] for row in depths], least)
