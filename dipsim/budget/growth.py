"""KV that grows: it takes DRAM from the caches as the context does (``--kv grow``).

The budget is divided anew for every token, with KV for the tokens of its sequence so far, itself
included. What changes between tokens is what the caches hold, in whole units; when a cache shrinks,
its lowest ranked units leave before the token's batch, and a new sequence gives the DRAM back
(docs/growing.md).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.budget.plan import Budget, GroupSize, plan_budget
from dipsim.errors import BudgetError, ModelError
from dipsim.replay.active_sets import rows_of
from dipsim.replay.cache import Sizes
from dipsim.replay.replay import Plan
from dipsim.settings import Settings
from dipsim.timeline.steps import Workload
from dipsim.units import BYTES


def redivided(
    work: Workload,
    settings: Settings,
    *,
    dram: float | None = None,
    cache: float | None = None,
    kv: float | None = None,
    buffer: float | None = None,
) -> Budget:
    """The budget of a run with another size of DRAM, of the caches (and what is read ahead), of KV
    or of the buffer of reads ahead, in bytes.

    Raises:
        BudgetError: KV and buffers alone exceed DRAM, or the buffer of reads ahead the cache.
    """
    budget, sizes = work.budget, work.unit_bytes
    groups = [GroupSize(group.units, sizes[:, i]) for i, group in enumerate(work.method.groups)]
    found = plan_budget(
        budget.static,
        groups,
        dram=budget.dram if dram is None and cache is None else dram,
        cache=cache,
        kv=budget.kv if kv is None else kv,
        staging=budget.staging,
        overhead=budget.overhead,
        equal=settings.allocate == "equal",
        buffer=budget.buffer if buffer is None else buffer,
    )
    return replace(found, start=budget.start)


def grow(work: Workload, plan: Plan, settings: Settings) -> tuple[Budget, Sizes]:
    """The budget where KV is largest, and what the caches hold at every row of the trace.

    Raises:
        ModelError: nothing says how large KV is.
        BudgetError: static weights do not fit beside the largest KV.
    """
    if work.model is None:
        raise ModelError(
            f"--kv grow: {work.trace.name} does not say which model it is from, so the size of its "
            "KV is not known; pass --model NAME or FILE"
        )
    held = work.model.kv_bytes(_tokens_held(work, plan), settings.kv_bits)
    levels, level = np.unique(held, return_inverse=True)
    last = redivided(work, settings, kv=float(levels[-1]))
    if last.streamed:
        assert last.dram is not None, "settings refuse --kv grow without DRAM"
        raise BudgetError(
            f"--kv grow: {BYTES.show(last.dram)} of DRAM cannot hold static weights "
            f"({BYTES.show(last.static.total)}) beside the largest KV ({BYTES.show(last.kv)}): "
            "give more --dram, a smaller --context, or --kv fixed"
        )
    in_bytes = plan.scope == "global"
    each: list[NDArray[np.int64] | float] = []
    of_level = np.empty(len(levels), np.int64)
    for i, kv in enumerate(levels):
        budget = redivided(work, settings, kv=float(kv))
        holds = budget.cache if in_bytes else budget.capacity
        if not each or not np.array_equal(each[-1], holds):
            each.append(holds)
        of_level[i] = len(each) - 1
    first = redivided(work, settings, kv=float(levels[0]))
    start = first.kv, first.cache
    return replace(last, start=start), Sizes(np.array(each), of_level[level])


def _tokens_held(work: Workload, plan: Plan) -> NDArray[np.int64]:
    """[tokens] tokens of KV that DRAM holds when the batch that a row belongs to is served: those
    of its sequence up to the end of the batch, at most the context."""
    actions, _ = rows_of(work.trace, plan.prefill, plan.reset)
    ends = np.flatnonzero(actions >= kernels.COMMIT)
    end = ends[np.minimum(np.searchsorted(ends, np.arange(work.trace.tokens)), len(ends) - 1)]
    held: NDArray[np.int64] = np.minimum(work.trace.position[end] + 1, work.context)
    return held.astype(np.int64)
