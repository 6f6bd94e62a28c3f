"""No cache: every active unit is read from flash. The baseline of every comparison."""

from typing import Any

from numpy.typing import NDArray

from dipsim.policies.contract import Policy


def rank(state: NDArray[Any], unit: int, token: int) -> int:
    """Return 0; the engine never asks, since nothing is ever resident."""
    return 0


NONE = Policy("none", "keeps nothing", "baseline", rank=rank, admit="never")
