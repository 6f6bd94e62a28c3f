"""Pinned weights: the most used units of a profile, chosen once, never changed.

PowerInfer (arXiv 2312.12456) pins its hot neurons this way.
"""

from typing import Any

from numpy.typing import NDArray

from dipsim.policies.contract import Policy


def rank(state: NDArray[Any], unit: int, token: int) -> int:
    """Return 0; the engine never asks, since nothing ever leaves."""
    return 0


STATIC = Policy(
    "static",
    "pins the most used units of a profile; ties to the lower id",
    "PowerInfer, arXiv 2312.12456",
    rank=rank,
    admit="never",
    preload=True,
)
