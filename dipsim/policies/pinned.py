"""Pinned and LRU: the most used units of a profile never leave, the rest of the cache is an LRU.

``share`` of the cache is pinned. What a token uses and does not fit beside the pinned units is
streamed through, hits staying before misses. With
``share=1`` it is `static`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within

_PINNED = 2**62


def state(units: int, capacity: int, seed: int, share: float = 0.5) -> NDArray[np.int64]:
    """Return the last use of each unit, twice the token, or that it is pinned."""
    within("share", share, 0, 1)
    return np.zeros(units, np.int64)


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Record the last use, of a hit as later than that of a miss; what is loaded before the first
    token is pinned."""
    if token < 0:
        state[unit] = _PINNED
    elif state[unit] != _PINNED:
        state[unit] = 2 * token + hit


def rank(state: NDArray[np.int64], unit: int, token: int) -> Any:
    """Return the last use, so that the longest unused leaves first and a pinned unit last."""
    return state[unit]


PINNED = Policy(
    "pinned",
    "pins the most used units of a profile; the rest is lru",
    "as PowerInfer, arXiv 2312.12456, beside lru",
    state=state,
    touch=touch,
    rank=rank,
    admit="ranked",
    preload=True,
)
