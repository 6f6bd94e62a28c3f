"""The state of a cache between two blocks of tokens, and the input and output of a block.

A cache serves one or more *parts*, each the units of one (layer, group). In layer scope it has one
part and counts in units; in global scope it has all of them and counts in bytes. The units of a
part begin at a word of their own, so a unit's id is 64 * (first word) + its place in the part.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.kernels.bits import FEW
from dipsim.kernels.frames import framed
from dipsim.kernels.topk import CODES, COUNTERS

FORCED, RANKED, NEVER = 0, 1, 2
"""Admission of misses: the first that fit, whatever their rank; the best of residents and misses;
none."""
ACTIVE, HITS, KEPT = 0, 1, 2
"""Columns of the counts."""
FAULT, VICTIM, DRAWS, SEED = 0, 1, 2, 3
"""Slots of `Cache.numbers`: 1 when `evict` named a unit that may not leave, 2 when `expel` did;
that unit; whether the misses that are kept when not all fit are drawn; the seed."""
BATCHES = 2
"""Column of `Choosing.memory`: batches since the cache was emptied."""
SLACK = 1e-6
"""Less than any size: sums of sizes are exact, since sizes are multiples of 2**-10 bytes."""
_FIRST_THRESHOLD = 0x3F800000  # 1.0 as float32


class Parts(NamedTuple):
    """The parts of a cache; arrays are [parts] unless said otherwise."""

    word: NDArray[np.int64]
    """[parts + 1] the first word of each part, and the end."""
    units: NDArray[np.int64]
    """Units of each part."""
    size: NDArray[np.float64]
    """Bytes of a unit; 1 in layer scope."""
    of_word: NDArray[np.int64]
    """[words] the part each word belongs to."""
    k: NDArray[np.int64]
    """Units a token chooses, where the choice depends on the cache."""
    numbers: NDArray[np.float64]
    """[parts, n] the rule by which it chooses, as numbers that only the rule reads."""
    counted: NDArray[np.bool_]
    """True where the rule wants to know how many batches used each unit."""


class Choosing(NamedTuple):
    """Memory of a rule that chooses masks, from token to token, and its scratch space."""

    threshold: NDArray[np.int64]  # [parts] where the last selection cut
    memory: NDArray[np.float64]  # [parts, 3] two of the rule's own, and batches so far
    uses: NDArray[np.int64]  # [ids] batches that used a unit, in parts that are `counted`
    keys: NDArray[np.float32]  # [2, ids] scratch, as all below
    wide: NDArray[np.float64]  # [ids]
    tied: NDArray[np.int64]  # [ids + FEW]
    sets: NDArray[np.uint64]  # [3, words]
    tables: NDArray[np.float32]  # [3, CODES]
    counters: NDArray[np.int64]  # [COUNTERS]
    flags: NDArray[np.bool_]  # [2, ids] of a user's own method, else empty; scratch
    own: NDArray[np.float64]  # its states, part by part
    own_at: NDArray[np.int64]  # [parts + 1] where the state of each part begins, and the end
    own_fresh: NDArray[np.float64]  # its states after a reset


class Cache(NamedTuple):
    """A cache between two blocks: what is resident, the policy's state, and scratch space.

    The same policy state can serve several capacities at once when it does not depend on hits.
    """

    capacity: NDArray[np.float64]  # [capacities] in the units of `Parts.size`
    filled: NDArray[np.float64]  # [capacities] of it
    resident: NDArray[np.uint64]  # [capacities, words]
    last: NDArray[np.int64]  # [ids] batch of the last use, -1 for none
    state: NDArray[Any]  # the policy's own
    pending: NDArray[np.uint64]  # [words] masks of the batch so far
    hit: NDArray[np.uint64]  # [words] units of the batch that were resident before it
    numbers: NDArray[np.int64]  # [4] FAULT, VICTIM, DRAWS, SEED
    fresh: NDArray[Any]  # state after a reset
    preload: NDArray[np.uint64]  # [capacities, words] resident after a reset
    before: NDArray[np.int64]  # [ids] last use after a reset, below 0
    evictable: NDArray[np.bool_]  # [ids] of queue policies: resident and not in use
    choosing: Any  # a `Choosing`, framed; of no units where masks are given
    cuts: NDArray[np.int64]  # [capacities] rank of the last unit that left, where to look next
    awaited: NDArray[np.uint64]  # [words] guessed for steps to come: they may not leave
    unseen: NDArray[np.uint64]  # [words] of capacity 0: guesses that a `rank` was not told of
    until: NDArray[np.int64]  # [parts + 1] see `new_cache`
    guard: NDArray[np.float64]  # [1] share of the capacity that awaited guesses may take
    candidates: NDArray[np.uint64]  # [2, words] scratch, as all below
    keys: NDArray[np.int64]  # [2, ids + 64]


class Block(NamedTuple):
    """A block of tokens; rows are tokens. ``layer`` of the inputs is given to the loop."""

    sets: NDArray[np.uint64]  # [n, layers, words]; written when the method is cache-aware
    scores: NDArray[np.float32]  # [n, layers, ids], or empty when sets or codes are given
    codes: NDArray[np.uint8]  # [n, layers, ids] of log8, or empty
    actions: NDArray[np.uint8]  # [n] SKIP, JOIN, JOIN_DECODE, COMMIT or DECODE
    resets: NDArray[np.bool_]  # [n] empty the cache before this row
    uses: NDArray[np.int64]  # next token of every active unit, in order; empty unless `future`
    counts: NDArray[np.int32]  # out [capacities, n, parts, 3]
    shares: NDArray[np.float32]  # out [n, parts, 2]: share of score and of energy kept
    missed: NDArray[np.uint64]  # out [capacities, n, words], or empty to leave it out
    before: NDArray[np.uint64]  # out, the same of what was resident before each row
    guessed: NDArray[np.uint64]  # [n, words] guesses that may enter, or empty
    issued: NDArray[np.uint64]  # out [capacities, n, words] of them, those that entered
    displaced: NDArray[np.int32]  # out [capacities, n, parts] units that left to make room
    capacity: NDArray[np.float64]  # [n] of every row, where it changes from row to row; else empty


def new_parts(
    units: Sequence[int],
    size: Sequence[float],
    k: Sequence[int],
    numbers: Sequence[Sequence[float]],
    counted: Sequence[bool],
) -> Parts:
    """Return the parts of a cache; the arguments are the fields of `Parts`, part by part."""
    words = [-(-count // 64) for count in units]
    return Parts(
        word=np.concatenate([[0], np.cumsum(words)]).astype(np.int64),
        units=np.array(units, np.int64),
        size=np.array(size, np.float64),
        of_word=np.repeat(np.arange(len(words)), words).astype(np.int64),
        k=np.array(k, np.int64),
        numbers=np.array(numbers, np.float64).reshape(len(words), -1),
        counted=np.array(counted, np.bool_),
    )


def new_choosing(
    words: int, parts: int = 1, own: Sequence[NDArray[np.float64]] | None = None
) -> Choosing:
    """Return the memory and scratch space of choosing among 64 * ``words`` ids.

    Args:
        own: [parts] fresh states of a user's own method; None for any other.
    """
    ids = 64 * words
    states = own or [np.zeros(0)] * parts
    fresh = np.concatenate(states)
    return Choosing(
        threshold=np.full(parts, _FIRST_THRESHOLD, np.int64),
        memory=np.zeros((parts, 3)),
        uses=np.zeros(ids, np.int64),
        keys=np.empty((2, ids), np.float32),
        wide=np.empty(ids),
        tied=np.empty(ids + FEW, np.int64),
        sets=np.empty((3, words), np.uint64),
        tables=np.empty((3, CODES), np.float32),
        counters=np.empty(COUNTERS, np.int64),
        flags=np.zeros((2, 0 if own is None else ids), np.bool_),
        own=fresh.copy(),
        own_at=np.cumsum([0, *(len(state) for state in states)]),
        own_fresh=fresh,
    )


@cache
def _no_choosing() -> Choosing:
    """Return the memory of no rule, which all caches whose masks are given share."""
    return new_choosing(0)


def new_cache(
    parts: Parts,
    capacity: NDArray[np.float64],
    fresh: NDArray[Any],
    preload: NDArray[np.uint64],
    before: NDArray[np.int64],
    choosing: Choosing | None,
    until: NDArray[np.int64],
    guard: float,
) -> Cache:
    """Return a cache that holds nothing; its first block must empty it, which loads ``preload``.

    Args:
        capacity: float64[capacities], in the units of `Parts.size`.
        fresh: the policy's state at the start.
        preload: uint64[capacities, words], resident at the start.
        before: int64[ids], last use of each unit at the start: -1 for none, lower for one that
            leaves earlier than others of its rank.
        choosing: memory of the rule by which masks are chosen; None where they are given.
        until: int64[parts + 1]; guesses for the parts before number ``until[0]`` enter as a row
            begins, those for the parts before ``until[p + 1]`` behind the batch of part p.
        guard: share of the capacity that awaited guesses may take.
    """
    words = int(parts.word[-1])
    ids = 64 * words
    return Cache(
        capacity=capacity,
        filled=np.zeros(len(capacity)),
        resident=np.zeros((len(capacity), words), np.uint64),
        last=np.full(ids, -1, np.int64),
        state=fresh.copy(),
        pending=np.zeros(words, np.uint64),
        hit=np.zeros(words, np.uint64),
        numbers=np.zeros(4, np.int64),
        fresh=fresh,
        preload=preload,
        before=before,
        evictable=np.zeros(ids, np.bool_),
        choosing=framed(choosing or _no_choosing()),
        cuts=np.zeros(len(capacity), np.int64),
        awaited=np.zeros(words, np.uint64),
        unseen=np.zeros(words, np.uint64),
        until=until,
        guard=np.array([guard]),
        candidates=np.empty((2, words), np.uint64),
        keys=np.empty((2, ids + 64), np.int64),
    )
