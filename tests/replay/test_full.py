"""Caches that hold everything: the counts are those of the policy's own loop."""

from dataclasses import fields, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from dipsim.policies import BUILTIN
from dipsim.replay.cache import ReplayedCache
from dipsim.replay.full import nothing_leaves
from dipsim.replay.traffic import Ahead, Traffic
from dipsim.run import Run, replay
from dipsim.simulate import prepare
from dipsim.trace import load_trace
from tools.three_layers import DEVICE, scores

TRACE = load_trace(scores(1, 40))
RANKING = [
    name
    for name, policy in BUILTIN.items()
    if policy.ranks and not policy.preload and policy.admit != "never"
]


def run(**options: Any) -> Run:
    return prepare(TRACE, DEVICE, **{"method": "dip", "cache_fraction": 1.0, **options})


def by_the_loop(one: Run) -> Traffic:
    """The traffic of a run whose caches are all looped over."""
    with patch("dipsim.replay.replay.nothing_leaves", return_value=False):
        return replay(one, keep_missed=True)


def assert_same(ours: Any, theirs: Any) -> None:
    for field in fields(type(ours)):
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(one, Ahead):
            assert_same(one, other)
        else:
            np.testing.assert_array_equal(one, other, err_msg=field.name)


@pytest.mark.parametrize("policy", RANKING)
def test_it_counts_as_the_loop_does(policy: str) -> None:
    for prefill in ("stream", "cache"):
        for reset in ("never", "sequence"):
            one = run(policy=policy, prefill=prefill, reset=reset)
            ours = replay(one, keep_missed=True)
            assert_same(ours, by_the_loop(one))
            assert 0 < ours.misses.sum() < ours.active.sum()
            assert (ours.kept == ours.misses).all()


def test_admission_and_reads_ahead_change_nothing() -> None:
    for options in ({"admission": "ranked"}, {"overlap": "prefetch", "prefetch": "previous"}):
        one = run(policy="lfu", **options)
        assert_same(replay(one, keep_missed=True), by_the_loop(one))


def test_blocks_may_end_anywhere() -> None:
    one = run(policy="lru", prefill="cache", reset="sequence")
    expected = by_the_loop(one)
    with patch("dipsim.trace.trace._BLOCK_BYTES", 1000):
        again = run(policy="lru", prefill="cache", reset="sequence")
        assert len(list(again.sets.blocks())) > 4
        assert_same(replay(again, keep_missed=True), expected)


def test_only_caches_that_hold_everything_do_without_a_loop() -> None:
    made = []

    def noted(self: ReplayedCache, *arguments: Any, **more: Any) -> None:
        made.append(type(self))
        original(self, *arguments, **more)

    original = ReplayedCache.__init__
    one = run(policy="lru")
    capacity = one.budget.capacity.copy()
    capacity[0, 0] -= 1
    smaller = replace(one, budget=replace(one.budget, capacity=capacity))
    with patch.object(ReplayedCache, "__init__", noted):
        ours = replay(smaller, keep_missed=True)
    assert sorted(kind.__name__ for kind in made) == ["FullCache"] * 5 + ["ReplayedCache"]
    assert_same(ours, by_the_loop(smaller))
    method = one.method
    assert nothing_leaves(BUILTIN["lru"], method, "atomic")
    assert not nothing_leaves(BUILTIN["lru"], method, "sequential")
    assert not nothing_leaves(BUILTIN["arc"], method, "atomic")
    assert not nothing_leaves(BUILTIN["none"], method, "atomic")
    assert not nothing_leaves(replace(BUILTIN["lru"], touch=lambda *_: None), method, "atomic")
    assert not nothing_leaves(BUILTIN["lru"], run(method="dip-ca").method, "atomic")
