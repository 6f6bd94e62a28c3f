"""Curves over capacity, several budgets in one pass, held sets: each equals plain replays."""

from dataclasses import fields, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.errors import MethodError, PolicyError, TraceError
from dipsim.flash.cost import FlashCost
from dipsim.hardware import load_profile
from dipsim.kernels import Requests
from dipsim.methods import Method, build_method
from dipsim.policies import BUILTIN
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.contender import Contender, measured_rows
from dipsim.replay.curves import AT_A_TIME, LruStack, curve, lru_stack
from dipsim.replay.replay import replay_policies
from dipsim.replay.traffic import Traffic
from dipsim.settings import Settings
from dipsim.trace import Trace, load_trace
from tools.replays import STREAMED, replay, replay_all

SIGNALS = ("mlp_input", "glu")
BLIND = [name for name, policy in BUILTIN.items() if policy.blind]
SEEDS = st.integers(0, 2**32 - 1)
UNITS = (65, 40)


def random_trace(seed: int, tokens: int = 40, layers: int = 2, scored: bool = False) -> Trace:
    """Sets or scores of two signals, some units more popular than others; a third is prefill."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {"sequence": np.sort(rng.integers(0, 3, tokens))}
    arrays["phase"] = (rng.random(tokens) < 0.7).astype(np.uint8)
    arrays["phase"][-1] = 1
    for signal, units in zip(SIGNALS, UNITS, strict=True):
        popular = rng.random((layers, units)) ** 2
        drawn = rng.random((tokens, layers, units), np.float32)
        arrays[signal] = (drawn * popular).astype(np.float32) if scored else drawn < popular
    return load_trace(arrays)


def recorded(trace: Trace) -> Method:
    return build_method(trace, Settings(method="recorded"))


def settings_for(trace: Trace, **given: Any) -> Settings:
    """Settings that measure the later half of the decode tokens."""
    warmup = int(trace.phase.sum()) // 2
    return Settings(**{"warmup": warmup, "seed": 5, "prefill": "stream", **given})


def sets_of(trace: Trace, method: Method, plan: Settings = STREAMED) -> ActiveSets:
    return ActiveSets(trace, method, plan)


def contender(
    trace: Trace, policy: str, plan: Settings = STREAMED, capacities: Any = (), **more: Any
) -> Contender:
    measured = measured_rows(trace.name, trace.rows, plan.warmup)
    return Contender(BUILTIN[policy], capacities, plan, measured, warmup=plan.warmup, **more)


def stack_of(trace: Trace, sets: ActiveSets, plan: Settings = STREAMED) -> LruStack:
    return lru_stack(sets, measured_rows(trace.name, trace.rows, plan.warmup))


def assert_same(found: Traffic, expected: Traffic) -> None:
    """Equal in every count, share and cost."""
    for field in fields(Traffic):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_array_equal(ours, theirs, err_msg=field.name)


def some_capacities(n: int, seed: int = 0, layers: int = 2) -> np.ndarray:
    """int[n, layers, 2], among them none at all and all of the units."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, np.array(UNITS) + 1, (n, layers, 2))
    drawn[0], drawn[-1] = 0, UNITS
    return drawn


# The stack of lru ------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    seed=SEEDS,
    tokens=st.integers(1, 40),
    prefill=st.sampled_from(["stream", "cache"]),
    reset=st.sampled_from(["never", "sequence"]),
    warm=st.booleans(),
    block_bytes=st.sampled_from([1, 500, 2**25]),
)
def test_the_stack_has_the_hits_of_every_cache_that_holds_a_batch(
    seed: int, tokens: int, prefill: Any, reset: Any, warm: bool, block_bytes: int
) -> None:
    trace = random_trace(seed, tokens)
    method = recorded(trace)
    plan = settings_for(trace, prefill=prefill, reset=reset)
    plan = plan if warm else plan.model_copy(update={"warmup": 0})
    with patch("dipsim.trace.trace._BLOCK_BYTES", block_bytes):
        stack = stack_of(trace, sets_of(trace, method, plan), plan)
    batches = replay(trace, method, BUILTIN["none"], np.zeros((2, 2), int), plan).active
    np.testing.assert_array_equal(stack.least, batches.max(axis=0))

    spare = np.arange(max(UNITS))[:, None, None]
    capacities = np.unique(np.minimum(stack.least + spare, UNITS), axis=0)
    traffics = replay_all(trace, method, BUILTIN["lru"], list(capacities), plan)
    for capacity, traffic in zip(capacities, traffics, strict=True):
        hits = traffic.hits[traffic.measured].sum(axis=0)
        np.testing.assert_array_equal(stack.hits(capacity), hits)


def test_a_stack_from_held_sets_is_the_same() -> None:
    trace = random_trace(seed=1)
    plan = settings_for(trace, prefill="cache", reset="sequence")
    with patch("dipsim.trace.trace._BLOCK_BYTES", 500):
        held = sets_of(trace, recorded(trace), plan).hold()
    assert len(list(held.blocks())) > 3
    found = stack_of(trace, held, plan)
    expected = stack_of(trace, sets_of(trace, recorded(trace), plan), plan)
    np.testing.assert_array_equal(found.least, expected.least)
    for ours, theirs in zip(found.depths, expected.depths, strict=True):
        for depths, others in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(depths, others)
    assert found.hits(np.tile(UNITS, (2, 1))).min() > 0


@pytest.mark.parametrize("place", [(0, 0), (1, 1)])
def test_a_cache_smaller_than_a_batch_is_no_stack(place: tuple[int, int]) -> None:
    trace = random_trace(seed=1)
    stack = stack_of(trace, sets_of(trace, recorded(trace)))
    assert stack.hits(stack.least).shape == (2, 2)
    smaller = stack.least.copy()
    smaller[place] -= 1
    with pytest.raises(PolicyError, match="smaller than a batch"):
        stack.hits(smaller)


def test_no_stack_where_sets_depend_on_the_cache() -> None:
    trace = random_trace(seed=1, scored=True)
    with pytest.raises(MethodError, match="the sets of method dip-ca depend on the cache"):
        stack_of(trace, sets_of(trace, build_method(trace, Settings(method="dip-ca"))))


def test_a_stack_needs_a_token_to_measure() -> None:
    trace = random_trace(seed=1)
    with pytest.raises(TraceError, match="at least one must remain"):
        measured_rows(trace.name, trace.rows, int(trace.phase.sum()))


# Several capacities ----------------------------------------------------------------------------


def prices() -> list[list[Requests]]:
    """What reads of units of 3 KiB, side by side, cost on a phone."""
    cost = FlashCost(load_profile("oneplus15r").flash)
    return [[cost.requests(units, 3072.0, 3072.0) for units in UNITS]] * 2


def check_curve(trace: Trace, policy: str, plan: Settings, capacities: np.ndarray) -> None:
    """A curve, its hits, accesses and seconds, equals one replay at each capacity."""
    method = recorded(trace)
    requests = prices()
    found = curve(
        sets_of(trace, method, plan), contender(trace, policy, plan, costs=requests), capacities
    )
    np.testing.assert_array_equal(found.capacity, capacities)
    for n, capacity in enumerate(capacities):
        alone = replay(trace, method, BUILTIN[policy], capacity, plan, costs=requests)
        rows = alone.measured
        np.testing.assert_array_equal(found.hits[n], alone.hits[rows].sum(axis=0))
        np.testing.assert_array_equal(found.accesses[n], alone.active[rows].sum(axis=0))
        np.testing.assert_array_equal(found.seconds[n], alone.flash_seconds[rows].sum(axis=0))
    assert found.accesses.min() > 0
    assert found.seconds[0].min() > 0
    if BUILTIN[policy].admit != "never":
        assert found.hits[-1].min() > found.hits[0].max() == 0


@pytest.mark.parametrize("policy", BUILTIN)
def test_a_curve_is_one_replay_at_each_capacity(policy: str) -> None:
    trace = random_trace(seed=2, tokens=60)
    plan = settings_for(trace, prefill="cache", reset="sequence")
    check_curve(trace, policy, plan, some_capacities(AT_A_TIME + 3))


@pytest.mark.parametrize("policy", [p for p in BUILTIN if not BUILTIN[p].atomic_only])
def test_a_curve_of_sequential_access(policy: str) -> None:
    trace = random_trace(seed=3, tokens=60)
    ranked = BUILTIN[policy].admit == "ranked"
    plan = settings_for(trace, access="sequential", admission="forced" if ranked else None)
    check_curve(trace, policy, plan, some_capacities(4))


@pytest.mark.parametrize("policy", BLIND)
@pytest.mark.parametrize("admission", ["forced", "ranked"])
def test_capacities_that_share_a_cache_admit_as_told(policy: str, admission: Any) -> None:
    if BUILTIN[policy].admit == "never":
        admission = None
    trace = random_trace(seed=4, tokens=60)
    check_curve(trace, policy, settings_for(trace, admission=admission), some_capacities(5))


def test_a_curve_from_held_sets_is_the_same() -> None:
    trace = random_trace(seed=5)
    method, capacities = recorded(trace), some_capacities(3)
    held = sets_of(trace, method).hold()
    for policy in ("lru", "arc", "belady", "static"):
        found = curve(held, contender(trace, policy), capacities)
        expected = curve(sets_of(trace, method), contender(trace, policy), capacities)
        np.testing.assert_array_equal(found.hits, expected.hits)
        assert found.hits.sum() > 0
        assert found.seconds.sum() == 0


# Several budgets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        "lru",
        "lfu",
        *(pytest.param(at, marks=pytest.mark.slow) for at in ("random", "arc", "clock")),
    ],
)
@pytest.mark.parametrize("gamma", [{"*": 0.3}, {"glu": 0.3, "mlp_input": 1.0}])
def test_budgets_of_a_cache_aware_method_equal_replays_of_each(
    policy: str, gamma: dict[str, float]
) -> None:
    trace = random_trace(seed=6, scored=True)
    method = build_method(trace, Settings(method="dip-ca", density=0.4, gamma=gamma))
    capacities = list(some_capacities(4))
    plan = settings_for(trace, prefill="cache")
    with patch("dipsim.trace.trace._BLOCK_BYTES", 3000):
        found = replay_all(trace, method, BUILTIN[policy], capacities, plan)
    for traffic, capacity in zip(found, capacities, strict=True):
        assert_same(traffic, replay(trace, method, BUILTIN[policy], capacity, plan))
    masses = {float(traffic.mass.sum()) for traffic in found}
    energies = {float(traffic.energy.sum()) for traffic in found}
    assert len(masses) == len(energies) > 2  # each has its own


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("policy", ["lru", "static", "s3fifo", "belady"])
def test_budgets_of_other_methods_equal_replays_of_each(policy: str, scope: Any) -> None:
    trace = random_trace(seed=7, scored=True)
    method = build_method(trace, Settings(method="dip", density=0.4))
    several: list[Any] = list(some_capacities(4)) if scope == "layer" else [0.0, 60.0, 200.5, 1e4]
    plan = settings_for(trace, scope=scope)
    sizes = np.array([[1.0, 2.5], [1.5, 2.0]])
    found = replay_all(trace, method, BUILTIN[policy], several, plan, unit_bytes=sizes)
    for traffic, capacity in zip(found, several, strict=True):
        alone = replay(trace, method, BUILTIN[policy], capacity, plan, unit_bytes=sizes)
        assert (alone.capacity is None) == (scope == "global")
        if scope == "global":
            assert traffic.capacity is None
            traffic, alone = (replace(each, capacity=np.array(0)) for each in (traffic, alone))
        assert_same(traffic, alone)
    assert found[0].hits.sum() == 0 < found[-1].hits.sum()


# Held sets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", BUILTIN)
@pytest.mark.parametrize("name", ["recorded", "dip"])
def test_held_sets_are_the_sets(policy: str, name: str) -> None:
    trace = random_trace(seed=8, scored=name == "dip")
    method = build_method(
        trace,
        Settings(density=0.4) if name == "dip" else Settings().model_copy(update={"method": name}),
    )
    plan = settings_for(trace, prefill="cache", reset="sequence")
    with patch("dipsim.trace.trace._BLOCK_BYTES", 3000):
        held = sets_of(trace, method, plan).hold()
    capacities = [np.array([[30, 20]] * 2)]
    ((found,),) = replay_policies(held, [contender(trace, policy, plan, capacities)])
    expected = replay(trace, method, BUILTIN[policy], np.array([[30, 20]] * 2), plan)
    for count in ("active", "hits", "kept", "measured"):
        np.testing.assert_array_equal(getattr(found, count), getattr(expected, count))
    assert found.active.sum() > 0


def test_held_sets_keep_their_shares() -> None:
    trace = random_trace(seed=8, scored=True)
    method = build_method(trace, Settings(method="dip", density=0.4))
    capacity = np.array([[30, 20]] * 2)
    held = sets_of(trace, method).hold()
    ((found,),) = replay_policies(held, [contender(trace, "lru", capacities=[capacity])])
    expected = replay(trace, method, BUILTIN["lru"], capacity)
    assert expected.mass.max() < 1
    assert_same(found, expected)


def test_what_depends_on_the_cache_cannot_be_held() -> None:
    trace = random_trace(seed=1, scored=True)
    with pytest.raises(MethodError, match="the sets of method dip-ca depend on the cache"):
        sets_of(trace, build_method(trace, Settings(method="dip-ca"))).hold()
