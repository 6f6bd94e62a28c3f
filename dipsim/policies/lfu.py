"""LFU with perfect memory: counts survive eviction and include streamed misses.

This is the LFU of the DIP paper's simulator (arXiv 2412.01380).
"""

from typing import Any

from numpy.typing import NDArray

from dipsim.policies.contract import Policy


def touch(state: NDArray[Any], unit: int, token: int, hit: int) -> None:
    """Count every use, resident or not."""
    state[unit] += 1


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """Return the number of uses, so that the least used leaves first."""
    return state[unit]


LFU = Policy(
    "lfu",
    "evicts the least used; counts survive eviction",
    "as in DIP, arXiv 2412.01380",
    touch=touch,
    rank=rank,
    blind=True,
)
