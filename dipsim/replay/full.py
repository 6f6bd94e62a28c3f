"""Caches that hold every unit: whatever the policy, each unit is missed once and then stays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.methods import Method
from dipsim.policies import Policy
from dipsim.replay.cache import ReplayedCache, is_builtin
from dipsim.replay.sets import Sets
from dipsim.settings import Access


def nothing_leaves(policy: Policy, method: Method, access: Access) -> bool:
    """Tell whether a cache of a layer that holds every unit admits every miss and keeps it.

    A user's own policy is run nevertheless, as its functions may fail, and so is a method whose
    sets depend on the cache.
    """
    simple = policy.ranks and not policy.preload and policy.admit != "never"
    return simple and is_builtin(policy) and access == "atomic" and not method.cache_aware


class FullCache(ReplayedCache):
    """The cache of one layer and group, with room for every unit.

    It needs no loop of the policy, which is neither compiled nor run.
    """

    def _next_uses_behind(self, blocks: Sequence[Sets], joined: Any) -> list[NDArray[np.int64]]:
        return []

    def _run(
        self, loop: kernels.Loop, rows: kernels.Block, layer: int, first: int, admission: int
    ) -> None:
        resident, counts = self.cache.resident[0], rows.counts[0, :, 0]
        booked = rows.actions >= kernels.COMMIT
        starts = np.flatnonzero(rows.resets).tolist()
        for start, stop in zip([0, *starts], [*starts, len(booked)], strict=True):
            if start in starts:
                resident[:] = 0
            batches = start + np.flatnonzero(booked[start:stop])
            used = rows.sets[batches, layer, : len(resident)]
            known = np.bitwise_or.accumulate(np.concatenate([resident[None], used]), axis=0)
            missed = used & ~known[:-1]
            active, misses = _sizes(used), _sizes(missed)
            counts[batches, kernels.ACTIVE] = active
            counts[batches, kernels.HITS] = active - misses
            counts[batches, kernels.KEPT] = misses
            if len(rows.missed):
                rows.missed[0, batches] = missed
            if len(rows.before):
                rows.before[0, batches] = known[:-1]
            resident[:] = known[-1]


def _sizes(sets: NDArray[np.uint64]) -> NDArray[np.int32]:
    counts: NDArray[np.int32] = np.bitwise_count(sets).sum(axis=1, dtype=np.int32)
    return counts
