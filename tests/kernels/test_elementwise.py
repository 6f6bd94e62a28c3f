"""Hooks that may be applied to 64 units at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

import dipsim
from dipsim.kernels.elementwise import places_reached
from dipsim.policies import (
    BUILTIN,
    Policy,
    arc,
    clock,
    fifo,
    lfu_decay,
    lfu_resident,
    lru,
    mru,
    sieve,
    slru,
)
from tools.one_layer import DEVICE


def counts(state: Any, unit: int, token: int, hit: int) -> None:
    state[unit] += 2 * hit - 1


def caps(state: Any, unit: int, token: int, hit: int) -> None:
    if hit and state[unit] < 3:
        state[unit] = state[unit] + 1


def neighbour(state: Any, unit: int, token: int, hit: int) -> None:
    state[unit + 1] = token


def last(state: Any, unit: int, token: int, hit: int) -> None:
    state[unit] = state[-1]


def renamed(state: Any, unit: int, token: int, hit: int) -> None:
    unit = token
    state[unit] = 1


def divides(state: Any, unit: int, token: int, hit: int) -> None:
    state[unit] = token // hit


def loops(state: Any, unit: int, token: int, hit: int) -> None:
    for _ in range(token):
        state[unit] += 1


def calls(state: Any, unit: int, token: int, hit: int) -> None:
    state[unit] = abs(token)


def whole(state: Any, unit: int, token: int, hit: int) -> None:
    state[:] = token


META = {"signals": {"glu": {"unit_bytes": 8}}}
WEIGHTS = np.arange(64)


def weighs(state: Any, unit: int, token: int, hit: int) -> None:
    state[unit] = token * 64 + WEIGHTS[unit]


def nothing(state: Any, unit: int, token: int, hit: int) -> None:
    pass


@pytest.mark.parametrize("hook", [counts, caps, lru.touch, fifo.touch, mru.touch, sieve.touch])
def test_a_hook_of_its_own_place(hook: Callable[..., None]) -> None:
    assert places_reached(hook) == 1


def test_a_hook_of_no_place() -> None:
    assert places_reached(nothing) == 0


@pytest.mark.parametrize(
    "hook",
    [
        *(neighbour, last, renamed, divides, loops, calls, whole, weighs),
        *(arc.touch, clock.touch, lfu_decay.touch, slru.touch),
    ],
)
def test_any_other_hook(hook: Callable[..., None]) -> None:
    assert places_reached(hook) is None


def test_ranks_are_read_too() -> None:
    assert places_reached(lfu_resident.rank) == 1
    assert places_reached(BUILTIN["belady"].hooks["touch"]) is not None


@pytest.mark.parametrize("touch", [weighs, njit(lru.touch)])
def test_hooks_that_read_an_array_of_their_own_or_are_compiled(touch: Any) -> None:
    """They keep what lru keeps."""
    sets = np.random.default_rng(1).random((20, 1, 64)) < 0.5
    own = Policy("own", touch=touch, rank=lru.rank)
    usual = BUILTIN["lru"]
    hits = [
        dipsim.simulate({"glu": sets, "meta": META}, DEVICE, policy=policy, cache_fraction=0.75)
        for policy in (own, usual)
    ]
    if touch is weighs:  # ties of one token go to the higher unit
        assert hits[0].hits > 0
    else:
        assert hits[0].hits == hits[1].hits
