"""Least recently used."""

from typing import Any

from numpy.typing import NDArray

from dipsim.policies.contract import Policy


def touch(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Remember the last use."""
    state[unit] = token


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """The longest unused leaves first."""
    return state[unit]


LRU = Policy(
    "lru",
    "evicts the least recently used",
    "Mattson et al., IBM Systems Journal 1970",
    touch=touch,
    rank=rank,
)
