"""The cliff of a global lru: below one token's cycle it hits exactly nothing.

Layers are used in turn, so between two uses of a unit come all other layers. The unit that waits
least is the last of its batch: the cache must hold it and every other batch of the cycle, that is
the cycle less all but one unit of its largest batch.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.policies import BUILTIN
from dipsim.run import Run
from dipsim.units import BYTES


class Cliff(NamedTuple):
    """Bytes at which a global lru begins to hit."""

    edge: float
    """Below it nothing is hit."""
    cycle: float
    """The most that one token uses."""
    batch: float
    """The most that one layer and group of a token uses."""


def falls(run: Run) -> bool:
    """Return whether a run is one of a global lru over known sets, whose size does not change."""
    settings = run.settings
    global_lru = settings.scope == "global" and run.policy == BUILTIN["lru"]
    steady = run.budget.growth is None and settings.admission != "ranked"
    return global_lru and steady and not run.method.cache_aware


def find_cliff(run: Run) -> Cliff | None:
    """Return the cliff of a run, whatever its budget, in one pass over its trace.

    None when it is not one that `falls`, or when nothing is used twice.
    """
    if not falls(run):
        return None
    used = _batches(run)
    if len(used) < 2:
        return None
    unit = run.unit_bytes.ravel()
    # Between batch i of one token and of the next: what follows i, then what comes before it.
    total, before = used.sum(axis=1), np.cumsum(used, axis=1) - used
    between = (total[:-1, None] - before[:-1] - used[:-1]) + before[1:]
    waits = np.where((used[:-1] > 0) & (used[1:] > 0), between + unit, np.inf)
    # A unit that rests for a token waits at least for the other batches of that token.
    rests = np.where(used[:-2] > 0, (total[1:-1, None] - used[1:-1]) + unit, np.inf)
    edge = float(min(waits.min(), rests.min(initial=np.inf)))
    return Cliff(edge, float(total.max()), float(used.max())) if np.isfinite(edge) else None


def _batches(run: Run) -> NDArray[np.float64]:
    """[tokens, layers * groups] bytes of every batch, those of a token in the order of its cycle.

    Tokens that a prompt streams past the cache are left out.
    """
    layers, groups = run.unit_bytes.shape
    used = []
    for block in run.sets.blocks():
        booked = block.actions >= kernels.COMMIT
        sizes = np.empty((int(booked.sum()), layers, groups))
        for layer, i in np.ndindex(layers, groups):
            count = np.bitwise_count(block.sets[i][booked, layer]).sum(axis=1, dtype=np.int64)
            sizes[:, layer, i] = count * run.unit_bytes[layer, i]
        used.append(sizes.reshape(len(sizes), layers * groups))
    return np.concatenate(used)


def cliff_warning(run: Run, cliff: Cliff | None) -> str | None:
    """Return what to say before a run that will hit nothing; None for other runs.

    Args:
        cliff: of `find_cliff`, for this run or one with another budget.
    """
    if cliff is None:
        return None
    capacity = run.budget.cache
    # A batch that does not fit may leave room for a smaller unit of another layer.
    mixed = np.ptp(run.unit_bytes) > 0
    if capacity >= cliff.edge - 1e-6 or (mixed and capacity < cliff.batch):
        return None
    return (
        f"lru over one global cache of {BYTES.show(capacity)} hits exactly nothing: a "
        f"token cycles through up to {BYTES.show(cliff.cycle)}, and a unit comes round again "
        f"only in caches of {BYTES.show(cliff.edge)} or more; give more DRAM, use another "
        "policy, or --scope layer"
    )
