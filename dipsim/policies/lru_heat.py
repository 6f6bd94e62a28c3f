"""LRU with protected heat: what is used often lately leaves last.

A unit is hot while its last ``window`` tokens hold at least ``uses`` uses of it, this token's
among them. The least recently used that is not hot leaves first; when all are hot, the least
recently used of them. A protected segment, as that of `slru`, which units leave by time.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.policies.contract import Policy, within
from dipsim.policies.lists import note_time

_LONG_AGO = -(2**40)
_HOT = 2**41
"""More than any token lies behind another."""


def state(
    units: int, capacity: int, seed: int, uses: int = 2, window: int = 32, ticks: int = 1
) -> NDArray[np.int64]:
    """Return the last ``uses`` uses of each unit, newest first; then the window in batches, and
    ``uses``."""
    fresh = np.full(units * int(within("uses", uses, 1, 64)) + 2, _LONG_AGO, np.int64)
    fresh[-2:] = int(within("window", window, 1, 2**30)) * ticks, uses
    return fresh


def touch(state: NDArray[np.int64], unit: int, token: int, hit: int) -> None:
    """Record the use as the newest."""
    note_time(state, unit * state[-1], state[-1], token)


def rank(state: NDArray[np.int64], unit: int, token: int) -> Any:
    """Return the last use, and for a hot unit more than any that is not."""
    newest = unit * state[-1]
    hot = state[newest + state[-1] - 1] > token - state[-2]
    return state[newest] + (_HOT if hot else 0)


LRU_HEAT = Policy(
    "lru-heat",
    "evicts the least recently used that is not hot",
    "dipsim; compare slru",
    state=state,
    touch=touch,
    rank=rank,
    blind=True,
)
