"""The division of the cache that makes flash fastest (``--allocate optimal``).

Each (layer, group) has a curve: how long flash is busy for it, over the capacity of its cache. The
division takes one point of every curve so that the sum of the times is least and the bytes fit: a
multiple-choice knapsack, solved exactly. Curves come from the first half of the decode tokens; the
other half judges.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dipsim.budget import Budget
from dipsim.curves import curve
from dipsim.errors import BudgetError
from dipsim.kernels import Requests
from dipsim.policies import Policy
from dipsim.replay import Plan
from dipsim.timeline.steps import Workload
from dipsim.trace import DECODE

STEPS = 32
"""Capacities tried per cache, beside none at all and the even share."""
_SECONDS = 20.0
"""How long the solver may look; by then it has a division within a fraction of a percent."""


def allocate_optimal(
    work: Workload, policy: Policy, plan: Plan, requests: Sequence[Sequence[Requests]]
) -> tuple[Budget, Plan]:
    """The budget divided by what the first half of the decode tokens shows.

    The returned plan leaves those tokens out of the measured ones.

    Raises:
        BudgetError: fewer than two decode tokens.
        DipsimError: as a replay.
    """
    decode = np.flatnonzero(work.trace.phase == DECODE)
    half = len(decode) // 2
    if half == 0:
        raise BudgetError(
            "--allocate optimal divides by the first half of the decode tokens and is judged on "
            f"the rest: {work.trace.name} has {len(decode)}; record more, or --allocate even"
        )
    part = work.trace.part(f"0:{decode[half - 1] + 1}", None, None)
    units = np.array([group.units for group in work.method.groups])
    grid = [np.floor(share * units + 1e-9) for share in np.linspace(0, 1, STEPS + 1)]
    each = [np.tile(row, (work.trace.layers, 1)) for row in grid]
    tried = np.stack([*each, work.budget.capacity]).astype(np.int64)
    found = curve(part, work.method, policy, tried, replace(plan, warmup=0), requests=requests)
    capacity = cheapest(found.seconds, tried * work.unit_bytes, work.budget.cache)
    chosen = np.take_along_axis(tried, capacity[None], axis=0)[0]
    return replace(work.budget, capacity=chosen), replace(plan, warmup=max(plan.warmup, half))


def cheapest(
    cost: NDArray[np.float64], size: NDArray[np.float64], budget: float
) -> NDArray[np.int64]:
    """Which of n choices each (layer, group) takes: the least total cost whose sizes fit.

    Args:
        cost, size: float64[n, layers, groups]; one choice of each must be of size 0.
        budget: what the sizes may sum to.

    Returns:
        int64[layers, groups], indices of choices.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    n, layers, groups = cost.shape
    places = layers * groups
    costs, sizes = cost.reshape(n, places), size.reshape(n, places)
    # Variable (place, choice) is 1 where the place takes the choice.
    rows = np.concatenate([np.repeat(np.arange(places), n), np.full(n * places, places)])
    columns = np.tile(np.arange(n * places), 2)
    scale = max(budget, 1.0)
    values = np.concatenate([np.ones(n * places), sizes.T.ravel() / scale])
    matrix = csr_array((values, (rows, columns)), shape=(places + 1, n * places))
    one_each = np.ones(places)
    limits = LinearConstraint(
        matrix, np.append(one_each, -np.inf), np.append(one_each, budget / scale + 1e-12)
    )
    worth = costs.T.ravel() / max(float(costs.max(initial=0.0)), 1e-300)
    solved = milp(
        worth,
        constraints=limits,
        integrality=np.ones(n * places),
        bounds=Bounds(0, 1),
        options={"time_limit": _SECONDS, "mip_rel_gap": 1e-6},
    )
    if solved.x is None:
        raise BudgetError(f"--allocate optimal: no division found ({solved.message})")
    choice: NDArray[np.int64] = solved.x.reshape(places, n).argmax(axis=1)
    return choice.reshape(layers, groups)
