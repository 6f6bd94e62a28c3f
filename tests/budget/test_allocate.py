"""How the caches divide DRAM: equal bytes, and the division that makes flash fastest."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.budget.allocate import PARTS, cheapest
from dipsim.budget.divide import GroupSize, Static, divide
from dipsim.errors import BudgetError, DipsimError
from dipsim.run import Run
from dipsim.settings import Settings
from dipsim.simulate import prepare, simulate
from dipsim.trace import load_trace
from tools.replays import replay

SEEDS = st.integers(0, 2**32 - 1)


# The solver ------------------------------------------------------------------------------------


def random_choices(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Costs and sizes [n, layers, groups]; whole sizes often add up to the budget exactly."""
    rng = np.random.default_rng(seed)
    cost = rng.integers(0, 50, shape) / 8
    size = rng.integers(0, 12, shape).astype(float)
    size[rng.integers(shape[0])] = 0
    return cost, size


def totals(cost: np.ndarray, size: np.ndarray) -> list[tuple[float, float]]:
    """Bytes and cost of every way to take one choice of each place."""
    n, places = len(cost), cost[0].size
    costs, sizes = cost.reshape(n, places), size.reshape(n, places)
    at = np.arange(places)
    ways = [list(way) for way in product(range(n), repeat=places)]
    return [(float(sizes[way, at].sum()), float(costs[way, at].sum())) for way in ways]


@settings(max_examples=80)
@given(
    seed=SEEDS,
    shape=st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 2)),
    budget=st.integers(0, 50),
)
def test_no_other_division_is_cheaper(seed: int, shape: tuple[int, int, int], budget: int) -> None:
    cost, size = random_choices(seed, shape)
    chosen = cheapest(cost, size, float(budget))
    assert chosen.shape == shape[1:]
    taken, paid = (np.take_along_axis(of, chosen[None], axis=0).sum() for of in (size, cost))
    assert taken <= budget
    best = min(paid for taken, paid in totals(cost, size) if taken <= budget)
    assert paid == pytest.approx(best, rel=2e-6)


def test_a_division_that_exceeds_the_budget_by_one_unit_does_not_fit() -> None:
    budget = 4e9
    size = np.array([[[0.0, 0.0]], [[2e9, 2e9 + 3072]]])
    cost = np.array([[[2.0, 1.0]], [[0.0, 0.0]]])
    rounded = 2 * budget / PARTS  # each size counts up to one part more
    assert cheapest(cost, size, budget + 3072 + rounded).tolist() == [[1, 1]]
    assert cheapest(cost, size, budget).tolist() == [[1, 0]]


# Optimal ---------------------------------------------------------------------------------------


def run(allocate: str, **options: Any) -> Run:
    options = {"policy": "lru", **options}
    return prepare("smollm2-chat", "snapdragon8", allocate=allocate, **options)


def calibration_seconds(of: Run) -> float:
    """How long flash is busy with the half of the decode tokens that the division was made from."""
    decode = np.flatnonzero(of.trace.phase == 1)
    part = of.trace.part(f"0:{decode[len(decode) // 2 - 1] + 1}", None, None)
    capacity = of.budget.capacity
    plan = Settings(prefill=of.sets.prefill)
    traffic = replay(part, of.method, of.policy, capacity, plan, costs=of.costs)
    return float(traffic.flash_seconds.sum())


def taken_bytes(of: Run) -> np.ndarray:
    """[layers, groups] bytes of the capacities."""
    return of.budget.capacity * of.unit_bytes


@pytest.mark.parametrize("fraction", [0.0, 0.13, 0.5, 1.0])
@pytest.mark.parametrize("method", ["dip", pytest.param("dip-ca", marks=pytest.mark.slow)])
def test_optimal_is_no_slower_than_even_where_it_was_made(method: str, fraction: float) -> None:
    options: dict[str, Any] = {"method": method, "cache_fraction": fraction, "density": 0.5}
    optimal, even = run("optimal", **options), run("even", **options)
    assert taken_bytes(optimal).sum() <= optimal.budget.cache
    assert optimal.budget.cache == even.budget.cache
    ours, theirs = calibration_seconds(optimal), calibration_seconds(even)
    assert 0 < ours <= theirs * (1 + 1e-6)
    if fraction == 0.13:
        assert ours < 0.99 * theirs


@pytest.mark.parametrize("warmup", [0, 100])
def test_the_half_that_divides_is_not_measured(warmup: int) -> None:
    options: dict[str, Any] = {"policy": "lru", "cache_fraction": 0.3, "warmup": warmup}
    result = simulate("smollm2-chat", "snapdragon8", allocate="optimal", **options)
    decode = load_trace("smollm2-chat").phase == 1
    behind = max(warmup, int(decode.sum()) // 2)
    np.testing.assert_array_equal(result.traffic.measured, decode & (np.cumsum(decode) > behind))
    sizes = result.traffic.capacity * result.unit_bytes
    assert 0 < sizes.sum() <= result.budget.cache
    assert len(np.unique(result.traffic.capacity[:, 0])) > 1  # layers differ


def test_one_decode_token_cannot_be_halved() -> None:
    with pytest.raises(BudgetError, match="has 1; record more, or --allocate even") as problem:
        run("optimal", cache_fraction=0.5, tokens="0:1")
    assert "\n" not in str(problem.value)
    assert run("optimal", cache_fraction=0.5, tokens="0:2").warmup == 1


@pytest.mark.parametrize("allocate", ["optimal", "equal"])
def test_one_cache_needs_no_division(allocate: str) -> None:
    with pytest.raises(DipsimError, match="--scope global has one") as problem:
        run(allocate, cache_fraction=0.5, scope="global")
    assert "\n" not in str(problem.value)


# Equal -----------------------------------------------------------------------------------------


def check_equal(capacity: np.ndarray, sizes: np.ndarray, units: np.ndarray, cache: float) -> None:
    """The same bytes for each within one unit, or all of its units; and no more than there is."""
    taken = capacity * sizes
    slack = 1e-8 * sizes.max() * capacity.size
    assert taken.sum() <= cache + slack
    assert (capacity >= 0).all()
    assert (capacity <= units).all()
    short = capacity < units
    if not short.any():
        return
    share = (taken + sizes)[short].min()  # what each could have had at most
    assert (taken[short] > share - 2 * sizes[short].max()).all()
    assert (taken <= share + slack).all()
    left = cache - taken.sum()  # less than a unit for each that could take more
    assert left < sizes[short].sum() + slack


@settings(max_examples=200)
@given(
    seed=SEEDS,
    layers=st.integers(1, 4),
    groups=st.integers(1, 3),
    share=st.floats(0, 1.2),
)
def test_equal_gives_each_the_same_bytes(seed: int, layers: int, groups: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    units = rng.integers(0 if seed % 5 == 0 else 1, 60, groups)
    sizes = np.exp(rng.normal(5, 2, (layers, groups)))
    cache = share * float((units * sizes).sum())
    each = [GroupSize(np.full(len(sizes), n), sizes[:, i]) for i, n in enumerate(units)]
    budget = divide(Static(), each, cache=cache, equal=True)
    assert budget.capacity.shape == (layers, groups)
    assert budget.capacity.dtype == np.int64
    check_equal(budget.capacity, sizes, units, budget.cache)
    if share >= 1:
        assert (budget.capacity == units).all()


def test_equal_shares_by_hand() -> None:
    # 100 bytes: all 2 units of the first take 8 of its 33.3; then 46 each for the others.
    groups = [GroupSize(np.array([n]), np.array([size])) for n, size in ((2, 4.0), (30, 5.0))]
    groups.append(GroupSize(np.array([9]), np.array([10.0])))
    budget = divide(Static(), groups, cache=100.0, equal=True)
    assert budget.capacity.tolist() == [[2, 9, 4]]


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.8, 1.0])
def test_equal_through_a_run(fraction: float) -> None:
    done = run("equal", cache_fraction=fraction)
    budget, units = done.budget, [group.units for group in done.method.groups]
    check_equal(budget.capacity, done.unit_bytes, np.array(units), budget.cache)
    even = run("even", cache_fraction=fraction).budget
    assert (budget.capacity == even.capacity).all() == (fraction == 1.0)
