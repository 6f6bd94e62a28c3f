"""The choice of the k best and what it keeps, against numpy's sorting and float64's sums."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from dipsim.kernels import new_choosing
from dipsim.kernels.topk import (
    CODES,
    kept_shares,
    kth_largest,
    select_codes,
    top_k,
    top_k_weighed,
    weigh_all,
)
from dipsim.methods import masking
from dipsim.trace.encoding import LOG8_TABLE, pack_sets, unpack_sets

SEEDS = st.integers(0, 2**32 - 1)
UNITS = st.sampled_from([1, 2, 63, 64, 65, 200, 1000, 3000])
LARGEST = np.finfo(np.float32).max
_keys, _tables = njit(weigh_all), njit(masking.gamma_tables)
KINDS = ("spread", "tied", "few", "zeros", "tiny", "huge", "alike")


def drawn(kind: str, units: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return scores >= 0 whose search takes different ways."""
    scores = np.exp(rng.standard_normal(units) * 2)
    if kind == "tied":
        scores = np.round(scores, 1)
    if kind == "few":
        scores = np.floor(3 * rng.random(units))
    if kind == "zeros":
        scores *= rng.random(units) < 0.1
    if kind == "tiny":
        scores *= 1e-44
    if kind == "huge":
        scores = np.where(rng.random(units) < 0.5, LARGEST, np.minimum(scores * 1e37, LARGEST))
    if kind == "alike":
        scores = 1 + rng.random(units) * 1e-6
    return scores.astype(np.float32)


def best(keys: NDArray[np.float32], raw: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Return the set of the k largest keys; ties: larger raw score, then lower id."""
    chosen = np.zeros(len(keys), np.bool_)
    chosen[np.lexsort((np.arange(len(keys)), -raw, -keys))[:k]] = True
    return chosen


@settings(max_examples=100)
@given(
    seed=SEEDS,
    kind=st.sampled_from(KINDS),
    units=UNITS,
    share=st.floats(0, 1),
    gamma=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    guess=st.sampled_from([0, 1, 0x3F800000, 0x7F7FFFFF]),
)
@example(seed=1, kind="huge", units=3000, share=0.3, gamma=1.0, guess=0x3F800000)
@example(seed=2, kind="few", units=3000, share=0.5, gamma=0.2, guess=0x3F800000)
@pytest.mark.slow
def test_the_k_best_are_chosen(
    seed: int, kind: str, units: int, share: float, gamma: float, guess: int
) -> None:
    """Whatever the guess; what a token leaves as the next one's guess changes nothing either."""
    rng = np.random.default_rng(seed)
    k = max(1, int(share * units))
    scratch = new_choosing(-(-units // 64))
    keys, words = scratch.keys[0, :units], np.empty(-(-units // 64), np.uint64)
    at_once = np.empty_like(words)
    for _ in range(3):
        raw, resident = drawn(kind, units, rng), rng.random(units) < 0.5
        expected = np.where(resident, raw, np.float32(gamma) * raw).astype(np.float32)
        here = pack_sets(resident)
        _keys(raw, here, np.float32(gamma), keys)
        np.testing.assert_array_equal(keys, expected)
        how = k, guess, at_once, scratch.keys[1, :units], scratch.tied
        top_k_weighed(raw, here, np.float32(gamma), *how)
        guess = top_k(keys, raw, k, guess, words, keys, scratch.tied)
        chosen = best(expected, raw, k)
        np.testing.assert_array_equal(unpack_sets(words, units), chosen)
        np.testing.assert_array_equal(at_once, words)
        assert pack_sets(chosen)[-1] == words[-1], "bits beyond the units"
        assert kth_largest(raw, k) == np.sort(raw)[units - k]


@settings(max_examples=100)
@given(seed=SEEDS, units=UNITS, share=st.floats(0, 1), gamma=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_codes_are_chosen_by_what_they_stand_for(
    seed: int, units: int, share: float, gamma: float
) -> None:
    rng = np.random.default_rng(seed)
    k = max(1, int(share * units))
    codes = rng.integers(0, CODES, units).astype(np.uint8)
    if seed % 3 == 0:  # so few that k falls among equal ones
        codes //= 64
    scratch, words = new_choosing(-(-units // 64)), np.empty(-(-units // 64), np.uint64)
    resident, kept = rng.random(units) < 0.5, np.empty(2, np.float32)
    _tables(gamma, scratch.tables)
    select_codes(codes, scratch.tables, pack_sets(resident), k, words, scratch.counters, kept)
    raw = LOG8_TABLE[codes]
    chosen = best(np.where(resident, raw, np.float32(gamma) * raw), raw, k)
    np.testing.assert_array_equal(words, pack_sets(chosen))
    np.testing.assert_allclose(kept, shares(raw, chosen), rtol=1e-6)


def shares(scores: NDArray[np.float32], chosen: NDArray[np.bool_]) -> list[float]:
    """Return the shares of the mass and of the energy that a set holds."""
    exact = scores.astype(np.float64)
    totals = [(each.sum(), each[chosen].sum()) for each in (exact, exact**2)]
    return [kept / total if total > 0 else 1.0 for total, kept in totals]


@pytest.mark.parametrize("units", [1, 64, 700, 20_000])
@pytest.mark.parametrize("scale", [0, 1e-40, 1e-25, 1, 1e18, 1e34])
def test_shares_are_right_at_any_scale(units: int, scale: float) -> None:
    """Squares of very small and very large scores do not fit float32."""
    rng = np.random.default_rng(units)
    scores = (np.exp(rng.standard_normal(units)) * scale).astype(np.float32)
    chosen, kept = rng.random(units) < 0.5, np.empty(2, np.float32)
    kept_shares(scores, pack_sets(chosen), kept)
    np.testing.assert_allclose(kept, shares(scores, chosen), rtol=1e-6)
