"""KV that grows: it takes DRAM from the caches as the context does (``--kv grow``).

The budget is divided anew for every token, with KV for the tokens of its sequence so far, itself
included. What changes between tokens is what the caches hold, in whole units; when a cache shrinks,
its lowest ranked units leave before the token's batch, and a new sequence gives the DRAM back
(docs/growing.md).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.budget.divide import Budget
from dipsim.errors import BudgetError
from dipsim.replay.contender import CapacityByRow
from dipsim.trace import Tokens
from dipsim.units import BYTES


def grow(kv_bytes: NDArray[np.float64], with_kv: Callable[[float], Budget], scope: str) -> Budget:
    """Return the budget where KV is largest, with what the caches hold at every row.

    Args:
        kv_bytes: float64[tokens], of `tokens_held`.
        with_kv: divides DRAM beside so many bytes of KV.
        scope: ``layer``, caches count in units; ``global``, in bytes.

    Raises:
        BudgetError: static weights do not fit beside the largest KV.
    """
    levels, level = np.unique(kv_bytes, return_inverse=True)
    largest = with_kv(float(levels[-1]))
    if largest.streamed:
        assert largest.dram is not None, "settings refuse --kv grow without DRAM"
        raise BudgetError(
            f"--kv grow: {BYTES.show(largest.dram)} of DRAM cannot hold static weights "
            f"({BYTES.show(largest.static.total)}) beside the largest KV "
            f"({BYTES.show(largest.kv)}): give more --dram, a smaller --context, or --kv fixed"
        )
    each: list[NDArray[np.int64] | float] = []
    of_level = np.empty(len(levels), np.int64)
    for i, kv in enumerate(levels):
        budget = with_kv(float(kv))
        holds = budget.cache if scope == "global" else budget.capacity
        if not each or not np.array_equal(each[-1], holds):
            each.append(holds)
        of_level[i] = len(each) - 1
    first = with_kv(float(levels[0]))
    growth = CapacityByRow(np.array(each), of_level[level])
    return replace(largest, start=(first.kv, first.cache), growth=growth)


def tokens_held(tokens: Tokens, actions: NDArray[np.uint8], context: int) -> NDArray[np.int64]:
    """[tokens] tokens of KV that DRAM holds when the batch that a row belongs to is served.

    They are those of its sequence up to the end of the batch, at most the context.

    Args:
        actions: uint8[tokens], see `rows_of`.
    """
    ends = np.flatnonzero(actions >= kernels.COMMIT)
    behind = np.searchsorted(ends, np.arange(len(tokens)))
    end = ends[np.minimum(behind, len(ends) - 1)]
    held: NDArray[np.int64] = np.minimum(tokens.position[end] + 1, context)
    return held.astype(np.int64)
