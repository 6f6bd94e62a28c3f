"""LIRS against its authors' program: sequential access, a stack S without a bound."""

import numpy as np
import pytest

from dipsim.methods import build_method
from dipsim.policies import load_policy
from dipsim.settings import Settings
from dipsim.trace import load_trace
from naive.lirs import lirs_hits
from tools.replays import replay

LAYERS, UNITS, REQUESTS = 24, 60, 900


def streams() -> np.ndarray:
    """Return int[REQUESTS, LAYERS] units: draws, loops longer than the cache, and both mixed."""
    rng = np.random.default_rng(21)
    chance = np.arange(1, UNITS + 1) ** -0.8
    drawn = rng.choice(UNITS, (REQUESTS, LAYERS), p=chance / chance.sum())
    length = 10 + 2 * np.arange(LAYERS)
    looped = np.arange(REQUESTS)[:, None] % length
    looping = rng.random((REQUESTS, LAYERS)) < np.linspace(0, 1, LAYERS)
    return np.where(looping, looped, drawn)


def hits(units: np.ndarray, policy: str, capacity: int) -> list[int]:
    """Return the hits of each column of int[requests, layers] units."""
    sets = units[..., None] == np.arange(units.max() + 1)
    trace = load_trace({"glu": sets, "meta": {"signals": {"glu": {"unit_bytes": 4096}}}})
    method = build_method(trace, Settings(method="recorded"))
    held = np.full((units.shape[1], 1), capacity)
    traffic = replay(
        trace, method, load_policy(policy), held, Settings(access="sequential"), threads=1
    )
    return traffic.hits.sum(axis=(0, 2)).tolist()


def loop_past_the_cache() -> np.ndarray:
    """Return int[610, 1]: ten units once, then thirty others in a loop, with C = 10 of 40."""
    return np.array([*range(10), *[*range(10, 40)] * 20])[:, None]


def test_units_used_farther_apart_than_twice_the_cache_become_lir() -> None:
    # Eight of the loop become LIR in its second turn and hit in the other eighteen.
    assert hits(loop_past_the_cache(), "lirs:hir=0.2", 10) == [8 * 18]
    assert hits(loop_past_the_cache(), "lirs:hir=0.2,stack=2", 10) == [0]
    assert hits(loop_past_the_cache(), "lirs:hir=0.2,stack=4", 10) == [8 * 18]


@pytest.mark.parametrize(("capacity", "hir"), [(5, 0.01), (12, 0.01), (12, 0.3), (30, 0.1)])
def test_hits_are_those_of_the_authors_program(capacity: int, hir: float) -> None:
    units = streams()
    found = hits(units, f"lirs:hir={hir}", capacity)
    assert found == [lirs_hits(column, capacity, hir) for column in units.T.tolist()]
    assert len(set(found)) > LAYERS // 2


def test_a_bound_of_all_units_is_none() -> None:
    units = streams()
    assert hits(units, "lirs:stack=5", 12) == hits(units, "lirs", 12)  # 5 x 12 = UNITS
    assert hits(units, "lirs:stack=1.5", 12) != hits(units, "lirs", 12)
