"""The cliff of a global lru: below one token's cycle it hits exactly nothing.

Layers are used in turn, so between two uses of a unit come all other layers. The unit that waits
least is the last of its batch: the cache must hold it and every other batch of the cycle, that is
the cycle less all but one unit of its largest batch.
"""

from collections.abc import Sequence

import numpy as np

from dipsim import kernels
from dipsim.policies import BUILTIN
from dipsim.replay.active_sets import Sets
from dipsim.replay.replay import hold
from dipsim.simulate import Job
from dipsim.units import BYTES


def cliff(job: Job, held: Sequence[Sets] | None = None) -> tuple[float, float, float] | None:
    """Bytes, from the sets: below which a global lru hits nothing; of the largest cycle; of the
    largest batch.

    None when the run is not one of a global lru over known sets, when its size changes, or when
    nothing is used twice.
    """
    plan, work = job.plan, job.work
    one_size = plan.scope == "global" and job.growth is None
    global_lru = one_size and job.policy == BUILTIN["lru"]
    if not global_lru or plan.admission == "ranked" or work.method.cache_aware:
        return None
    blocks = hold(work.trace, work.method, plan) if held is None else held
    layers, groups = work.unit_bytes.shape
    batches = []  # bytes of every batch: a row for each token, in the order of the cycle
    for at in blocks:
        booked = at.actions >= kernels.COMMIT
        sizes = np.empty((int(booked.sum()), layers, groups))
        for layer, i in np.ndindex(layers, groups):
            count = kernels.count_members(at.sets[i], layer)[booked]
            sizes[:, layer, i] = count * work.unit_bytes[layer, i]
        batches.append(sizes.reshape(len(sizes), -1))
    used = np.concatenate(batches)
    if len(used) < 2:
        return None
    unit = work.unit_bytes.ravel()
    # Between batch i of one token and of the next: what follows i, then what comes before it.
    total, before = used.sum(axis=1), np.cumsum(used, axis=1) - used
    between = (total[:-1, None] - before[:-1] - used[:-1]) + before[1:]
    waits = np.where((used[:-1] > 0) & (used[1:] > 0), between + unit, np.inf)
    # A unit that rests for a token waits at least for the other batches of that token.
    rests = np.where(used[:-2] > 0, (total[1:-1, None] - used[1:-1]) + unit, np.inf)
    least = float(min(waits.min(), rests.min(initial=np.inf)))
    return (least, float(total.max()), float(used.max())) if np.isfinite(least) else None


def cliff_warning(job: Job, held: Sequence[Sets] | None = None) -> str | None:
    """What to say before a run that will hit nothing."""
    found = cliff(job, held)
    if found is None:
        return None
    least, cycle, largest = found
    capacity = job.work.budget.cache
    # A batch that does not fit may leave room for a smaller unit of another layer.
    mixed = np.ptp(job.work.unit_bytes) > 0
    if capacity >= least - 1e-6 or (mixed and capacity < largest):
        return None
    return (
        f"lru over one global cache of {BYTES.show(capacity)} hits exactly nothing: a "
        f"token cycles through up to {BYTES.show(cycle)}, and a unit comes round again "
        f"only in caches of {BYTES.show(least)} or more; give more DRAM, use another "
        "policy, or --scope layer"
    )
