"""What a cache is between two blocks of tokens, and what a block brings to it and takes away."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FORCED, RANKED, NEVER = 0, 1, 2
"""How misses are admitted (DESIGN section 5)."""
ACTIVE, HITS, KEPT, READS, OUTSIDE = 0, 1, 2, 3, 4
"""Columns of the counts; OUTSIDE is 1 where a read lay outside the measured points."""
MOVED, SECONDS = 0, 1
"""Columns of the costs: bytes the device moves, seconds the flash is busy."""
SIZE, FAULT, VICTIM = 0, 1, 2
"""Slots of `Cache.numbers`: units resident; 1 when `evict` broke the contract; what it returned."""


class Cache(NamedTuple):
    """One cache between two blocks: what is resident, the policy's state, and scratch space."""

    resident: NDArray[np.uint64]  # [words]
    last: NDArray[np.int64]  # [units] token of the last use
    factor: NDArray[np.float32]  # [units] what a score is multiplied by: 1 if resident, else gamma
    state: NDArray[Any]  # the policy's own
    pending: NDArray[np.uint64]  # [words] masks of the batch so far
    numbers: NDArray[np.int64]  # [3] SIZE, FAULT, VICTIM
    fresh: NDArray[Any]  # state after a reset
    preload: NDArray[np.uint64]  # [words] resident after a reset
    threshold: NDArray[np.int64]  # [1] where the last selection cut
    keys: NDArray[np.float32]  # [units] scratch
    lists: NDArray[np.int64]  # [4, units + AT_ONCE] scratch
    evictable: NDArray[np.bool_]  # [units] scratch of queue policies, all False between tokens


class Block(NamedTuple):
    """A block of tokens of one group; rows are tokens. Inputs hold all layers, outputs one."""

    sets: NDArray[np.uint64]  # [n, layers, words]; written when the method is cache-aware
    scores: NDArray[np.float32]  # [n, layers, units], or empty when the sets are given
    actions: NDArray[np.uint8]  # [n] SKIP, JOIN or COMMIT
    resets: NDArray[np.bool_]  # [n] empty the cache before this row
    uses: NDArray[np.int64]  # next use of every active unit, in row order; empty unless `future`
    counts: NDArray[np.int32]  # out [n, 5], of one layer
    costs: NDArray[np.float64]  # out [n, 2], of one layer
    shares: NDArray[np.float32]  # out [n, 2], of one layer: share of score and of energy kept
