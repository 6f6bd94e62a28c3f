"""What a cache is between two blocks of tokens, and what a block brings to it and takes away.

A cache serves one or more *parts*, each the units of one (layer, group). In layer scope it has one
part and counts in units; in global scope it has all of them and counts in bytes. The units of a
part begin at a word of their own, so a unit's id is 64 * (first word) + its place in the part.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FORCED, RANKED, NEVER = 0, 1, 2
"""How misses are admitted (DESIGN section 5)."""
ACTIVE, HITS, KEPT = 0, 1, 2
"""Columns of the counts."""
FAULT, VICTIM, DRAWS, SEED = 0, 1, 2, 3
"""Slots of `Cache.numbers`: 1 when the policy broke the contract, 2 when it did in `expel`; and
the unit it named. Whether the misses that are kept when not all fit are drawn; the seed."""
BATCHES = 2
"""Where `Cache.memory` counts the batches since the cache was emptied."""
SLACK = 1e-6
"""Less than any size: sums of sizes are exact, since sizes are multiples of 2**-10 bytes."""


class Parts(NamedTuple):
    """The parts of a cache; arrays are [parts] unless said otherwise."""

    word: NDArray[np.int64]
    """[parts + 1] the first word of each part, and the end."""
    units: NDArray[np.int64]
    size: NDArray[np.float64]
    """Bytes of a unit; 1 in layer scope."""
    of_word: NDArray[np.int64]
    """[words] the part each word belongs to."""
    chosen: NDArray[np.int64]
    """k of a cache-aware top-k."""
    gamma: NDArray[np.float32]
    """What scores of absent units are multiplied by; 1 unless the rule is plain gamma."""
    numbers: NDArray[np.float64]
    """[parts, 6] the rule of a cache-aware part and its numbers (masking.py, routing.py)."""


class Cache(NamedTuple):
    """A cache between two blocks: what is resident, the policy's state, and scratch space.

    The same policy state can serve several capacities at once when it does not depend on hits.
    """

    capacity: NDArray[np.float64]  # [capacities] in the units of `Parts.size`
    filled: NDArray[np.float64]  # [capacities] of it
    resident: NDArray[np.uint64]  # [capacities, words]
    last: NDArray[np.int64]  # [ids] batch of the last use
    factor: NDArray[np.float32]  # [ids] what a score is multiplied by: 1 if resident, else gamma
    state: NDArray[Any]  # the policy's own
    pending: NDArray[np.uint64]  # [words] masks of the batch so far
    found: NDArray[np.uint64]  # [words] hits of the batch
    numbers: NDArray[np.int64]  # [4] FAULT, VICTIM, DRAWS, SEED
    fresh: NDArray[Any]  # state after a reset
    preload: NDArray[np.uint64]  # [capacities, words] resident after a reset
    threshold: NDArray[np.int64]  # [parts] where the last selection cut
    keys: NDArray[np.float32]  # [ids] scratch
    lists: NDArray[np.int64]  # [3, ids + AT_ONCE] scratch
    ends: NDArray[np.int64]  # [BINS] scratch
    spare: NDArray[np.int64]  # [ids] scratch
    histogram: NDArray[np.int64]  # [BINS * LANES] scratch
    memory: NDArray[np.float64]  # [parts, 3] of rules: two of their own, and batches so far
    uses: NDArray[np.int64]  # [ids] batches that used a unit, where the rule counts them
    evictable: NDArray[np.bool_]  # [ids] of queue policies: resident and not in use


class Block(NamedTuple):
    """A block of tokens; rows are tokens. ``layer`` of the inputs is given to the loop."""

    sets: NDArray[np.uint64]  # [n, layers, words]; written when the method is cache-aware
    scores: NDArray[np.float32]  # [n, layers, ids], or empty when sets or codes are given
    codes: NDArray[np.uint8]  # [n, layers, ids] of log8, or empty
    actions: NDArray[np.uint8]  # [n] SKIP, JOIN, COMMIT or DECODE
    resets: NDArray[np.bool_]  # [n] empty the cache before this row
    uses: NDArray[np.int64]  # next token of every active unit, in order; empty unless `future`
    counts: NDArray[np.int32]  # out [capacities, n, parts, 3]
    shares: NDArray[np.float32]  # out [n, parts, 2]: share of score and of energy kept
    missed: NDArray[np.uint64]  # out [capacities, n, words], or empty to leave it out
    before: NDArray[np.uint64]  # out, the same of what was resident before each row
    capacity: NDArray[np.float64]  # [n] of every row, where it changes (`new_size`); else empty
