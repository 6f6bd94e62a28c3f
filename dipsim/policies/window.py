"""Sliding window: keeps the union of the last ``window`` active sets and no more, as LLM in a flash
does in DRAM (arXiv 2312.11514).

A unit that none of the last ``window`` tokens used leaves although there is room. If the union does
not fit, the longest unused leaves first.
"""

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import end, first, info, linked, renew
from dipsim.policies.lru import evict, insert, leave


def state(
    units: int, capacity: int, seed: int, window: int = 5, ticks: int = 1
) -> NDArray[np.int64]:
    """Return a queue by last use, the last use of each unit, and the window in batches."""
    fresh = linked(units, 1, per_unit=1, units=units, fields=2)
    fresh[-2] = within("window", window, 1, 2**40) * ticks
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Record the last use; move a hit to the newest end."""
    state[info(state, 1) + unit] = token
    if hit:
        renew(state, end(state, 0), unit)


def expel(state: NDArray[np.int64], evictable: NDArray[np.bool_], token: int) -> int:
    """Return the oldest unit if its last use lies before the window, else -1."""
    queue = end(state, 0)
    unit = first(state, queue)
    if unit != queue and evictable[unit] and state[info(state, 1) + unit] <= token - state[-2]:
        return unit
    return -1


WINDOW = Policy(
    "window",
    "keeps the union of the last tokens' sets, no more",
    "LLM in a flash, arXiv 2312.11514",
    state=state,
    touch=touch,
    insert=insert,
    evict=evict,
    leave=leave,
    expel=expel,
    atomic_only=True,
)
