"""Cold start: what is read before the first token when nothing is in DRAM yet."""

import math

from dipsim.flash.cost import FlashCost
from dipsim.timeline.steps import Workload


def cold_start(
    work: Workload, flash: FlashCost, first_content: float = 0.0, room: float = math.inf
) -> float | None:
    """Seconds to bring static weights, and what the caches start with, from flash.

    Both are known beforehand, so they are read in order. Static weights that do not fit are no part
    of it: every token reads them. Prompt and first token come on top.

    Args:
        first_content: bytes that a preloaded policy starts with.
        room: bytes of static weights that fit, where the budget does not say it: of mapped ones.

    Returns:
        None where no model says how large static weights are.
    """
    if work.model is None:
        return None
    resident = min(work.budget.static.total - work.budget.streamed, room)
    return (resident + first_content) / flash.sequential_bandwidth
