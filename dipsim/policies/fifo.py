"""First in, first out: a hit changes nothing."""

from typing import Any

from numpy.typing import NDArray

from dipsim.policies.contract import Policy


def touch(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Remember the place in the queue: misses of one token enter in ascending order."""
    if not hit:
        state[unit] = token * len(state) + unit


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """The first that came leaves first."""
    return state[unit]


FIFO = Policy("fifo", "evicts the one loaded longest ago", "baseline", touch=touch, rank=rank)
