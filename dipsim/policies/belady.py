"""Belady's rule under forced admission: what is needed farthest in the future leaves first.

Best among forced policies while the cache holds every active set. It needs the future, so it is a
bound, not a policy a device can run.
"""

from typing import Any

from numpy.typing import NDArray

from dipsim.policies.contract import Policy


def rank(state: NDArray[Any], unit: int, token: int) -> Any:
    """``state`` holds the next use (see `future` in the contract)."""
    return -state[unit]


BELADY = Policy(
    "belady",
    "evicts what is used farthest in the future (clairvoyant)",
    "Belady, IBM Systems Journal 1966",
    rank=rank,
    future=True,
)
