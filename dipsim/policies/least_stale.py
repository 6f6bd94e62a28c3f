"""Least-stale: of one cache for all layers, the units whose layer comes up last leave first.

Layers are used in turn, so after a batch the units of the layer just done, and of those before it,
are needed again only in the next token, while those of the layers ahead are needed in this one. A
plain `lru` gives up just these, since they are the longest unused.

The order: by how many batches ahead the unit's own layer and group comes up again, counted from
the batch that is served (1 for the next, as many as a token has for the one being served); the
farthest leaves first, and of units that come up together the longest unused. A cache of one layer
and group has nothing ahead but itself, so there the policy is `lru`.

Named after Least-Stale of SpecMD (arXiv 2602.03921), which also goes by the order of layers. The
order here is dipsim's own, and was not checked against a program of that paper's authors.

A miss evicts from its own layer first, so each layer keeps the share it had when the cache filled.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy

_BATCH = 2**40
"""More than any token."""


def state(units: int, capacity: int, seed: int, ticks: int = 1) -> NDArray[np.int64]:
    """Return the last use of each unit, then the batches of a token."""
    fresh = np.zeros(units + 1, np.int64)
    fresh[-1] = ticks
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Record the last use, which also tells the unit's layer and group."""
    state[unit] = token


def rank(state: NDArray[np.int64], unit: int, token: int) -> Any:
    """Return what is lowest for the layer farthest ahead, there for the longest unused."""
    ahead = (state[unit] - token - 1) % state[-1]
    return state[unit] - ahead * _BATCH


LEAST_STALE = Policy(
    "least-stale",
    "evicts from the layer that comes up last, there the least recent",
    "after SpecMD, arXiv 2602.03921",
    state=state,
    touch=touch,
    rank=rank,
    blind=True,
)
