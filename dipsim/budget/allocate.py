"""The division of the cache that makes flash fastest (``--allocate optimal``).

Each (layer, group) has a curve: how long flash is busy for it, over the capacity of its cache. The
division takes one point of every curve so that the sum of the times is least and the bytes fit: a
multiple-choice knapsack. Curves come from the first half of the decode tokens; the other half
judges.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.budget.divide import Budget
from dipsim.errors import BudgetError
from dipsim.flash.cost import Placement
from dipsim.policies import Policy
from dipsim.replay.active_sets import HELD_BYTES, ActiveSets
from dipsim.replay.contender import Contender, measured_rows
from dipsim.replay.curves import curve

STEPS = 32
"""Capacities tried per cache, beside none at all and the even share."""
PARTS = 2**17
"""Steps in which a budget is divided."""


def allocate_optimal(
    budget: Budget, sets: ActiveSets, placement: Placement, policy: Policy, **more: Any
) -> Budget:
    """Return the budget divided by what the first half of the decode tokens shows.

    Args:
        more: ``costs`` and ``profile_uses``, see `Contender`.

    Raises:
        BudgetError: fewer than two decode tokens.
        DipsimError: as a replay.
    """
    trace, method, settings = sets.trace, sets.method, sets.settings
    decode = np.flatnonzero(trace.rows.decode)
    half = len(decode) // 2
    if half == 0:
        raise BudgetError(
            "--allocate optimal divides by the first half of the decode tokens and is judged on "
            f"the rest: {trace.name} has {len(decode)}; record more, or --allocate even"
        )
    part = trace.part(f"0:{decode[half - 1] + 1}", None, None)
    units = method.units_in(trace.layers)
    grid = [np.floor(share * units + 1e-9) for share in np.linspace(0, 1, STEPS + 1)]
    tried = np.stack([*grid, budget.capacity]).astype(np.int64)
    learned = trace.calibration_rows(settings.calibrate_tokens)
    measured = measured_rows(part.name, part.rows, 0, [learned])
    first_half = ActiveSets(part, method, settings)
    if not method.cache_aware and first_half.packed_bytes <= HELD_BYTES:
        first_half.hold()
    seconds = curve(first_half, Contender(policy, (), settings, measured, **more), tried).seconds
    index = cheapest(seconds, tried * placement.unit_bytes, budget.cache)[None]
    chosen = np.take_along_axis(tried, index, axis=0)[0]
    # Sizes are rounded up, so the even division, which may fill the budget, is looked at as it is.
    if np.take_along_axis(seconds, index, axis=0).sum() >= seconds[-1].sum():
        chosen = budget.capacity
    return replace(budget, capacity=chosen, learned_from=half)


def cheapest(
    cost: NDArray[np.float64], size: NDArray[np.float64], budget: float
) -> NDArray[np.int64]:
    """Choose one of n sizes for each (layer, group): the least total cost that fits.

    Dynamic programming over the budget, place after place: ``least[b]`` is the least cost of the
    places so far in b parts of it. Exact for whole sizes and budgets up to `PARTS`; beyond, sizes
    are rounded up to 1 / `PARTS` of the budget.

    Args:
        cost: float64[n, layers, groups]; one choice of each must be of size 0.
        size: float64[n, layers, groups]; one choice of each must be of size 0.
        budget: what the sizes may sum to.

    Returns:
        int64[layers, groups], indices of choices.
    """
    n, layers, groups = cost.shape
    places = layers * groups
    part = max(1.0, budget / PARTS)
    parts = int(budget / part + 1e-9)
    costs = cost.reshape(n, places)
    sizes = np.ceil(size.reshape(n, places) / part - 1e-9).astype(np.int64)
    least = np.zeros(parts + 1)
    chosen = np.zeros((places, parts + 1), np.int16)
    for place in range(places):
        before, least = least, np.full(parts + 1, np.inf)
        for choice in range(n):
            taken = int(sizes[choice, place])
            if taken <= parts:
                total = before[: parts + 1 - taken] + costs[choice, place]
                better = total < least[taken:]
                least[taken:][better] = total[better]
                chosen[place, taken:][better] = choice
    choices, left = np.empty(places, np.int64), parts
    for place in range(places - 1, -1, -1):
        choices[place] = chosen[place, left]
        left -= int(sizes[choices[place], place])
    return choices.reshape(layers, groups)
