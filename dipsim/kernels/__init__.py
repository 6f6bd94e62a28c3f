"""The hot loops: choose top-k, replay a cache, coalesce misses. No validation, no input or output.

Everything works on one cache and one block of tokens. The tests hold the slow, obvious form of
each of them.
"""

from dipsim.kernels.bind import Loop, Replay
from dipsim.kernels.bits import (
    AT_ONCE,
    COMMIT,
    DECODE,
    JOIN,
    JOIN_DECODE,
    NO_NEXT,
    SKIP,
    count_uses,
    next_uses,
)
from dipsim.kernels.cache import (
    ACTIVE,
    DRAWS,
    FAULT,
    FORCED,
    HITS,
    KEPT,
    NEVER,
    RANKED,
    SEED,
    VICTIM,
    Block,
    Choosing,
    Parts,
    new_cache,
    new_choosing,
    new_parts,
)
from dipsim.kernels.coactivation import chain
from dipsim.kernels.frames import framed
from dipsim.kernels.pages import PageLru, Regions, use_pages
from dipsim.kernels.reads import MOVED, NO_REQUESTS, OUTSIDE, READS, SECONDS, Requests, price
from dipsim.kernels.stack_distance import stack_distances
from dipsim.kernels.topk import errors_of, select_codes_of, select_of, shares_of

__all__ = [
    "ACTIVE",
    "AT_ONCE",
    "COMMIT",
    "DECODE",
    "DRAWS",
    "FAULT",
    "FORCED",
    "HITS",
    "JOIN",
    "JOIN_DECODE",
    "KEPT",
    "MOVED",
    "NEVER",
    "NO_NEXT",
    "NO_REQUESTS",
    "OUTSIDE",
    "RANKED",
    "READS",
    "SECONDS",
    "SEED",
    "SKIP",
    "VICTIM",
    "Block",
    "Choosing",
    "Loop",
    "PageLru",
    "Parts",
    "Regions",
    "Replay",
    "Requests",
    "chain",
    "count_uses",
    "errors_of",
    "framed",
    "new_cache",
    "new_choosing",
    "new_parts",
    "next_uses",
    "price",
    "select_codes_of",
    "select_of",
    "shares_of",
    "stack_distances",
    "use_pages",
]
