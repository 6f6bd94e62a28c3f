"""Vector instructions against plain Python."""

import numpy as np
import pytest
from numba import njit

from dipsim.kernels import eviction, vector


@njit
def deposit(bits, word):
    return vector.deposit(bits, word)


@pytest.mark.parametrize("seed", range(20))
def test_deposit_puts_bits_where_a_word_has_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits, word, other = rng.integers(0, 2**64, 3, np.uint64)
    for each in (word, word & other, np.uint64(0), np.uint64(2**64 - 1)):
        places = [b for b in range(64) if (int(each) >> b) & 1]
        expected = sum(((int(bits) >> i) & 1) << b for i, b in enumerate(places))
        assert int(deposit(bits, each)) == expected
        assert int(vector._deposit_plainly(bits, each)) == expected


@njit
def leave_lowest(resident, candidates, keys, count, n, guess, last):
    return eviction.leave_lowest(resident, candidates, keys, count, n, guess, last)


@pytest.mark.parametrize("kinds", [1, 2, 5, 1000, 2**62, 2**63])
@pytest.mark.parametrize("seed", range(12))
def test_the_lowest_leave_whatever_the_guess(kinds: int, seed: int) -> None:
    rng = np.random.default_rng([seed, kinds])
    words = int(rng.integers(1, 6))
    flags = rng.random(64 * words) < rng.choice([0.1, 0.5, 1.0])
    flags[rng.integers(64 * words)] = True
    units = np.flatnonzero(flags)
    ranks = rng.integers(-kinds, kinds, len(units))
    if kinds == 2**63:  # both ends of what an integer holds
        ranks = rng.choice([-kinds, 0, kinds - 1], len(units))
    last = rng.integers(-1, 4, 64 * words)
    n = int(rng.integers(1, len(units) + 1))
    by_rank = sorted(zip(ranks.tolist(), last[units].tolist(), units.tolist(), strict=True))
    left = np.ones(64 * words, np.bool_)
    left[[unit for _, _, unit in by_rank[:n]]] = False
    for guess in (by_rank[n - 1][0], -(2**62), 2**62, 0):
        resident = np.full(words, 2**64 - 1, np.uint64)
        keys = np.concatenate([ranks, rng.integers(-5, 5, 64)])
        candidates = np.packbits(flags, bitorder="little").view(np.uint64)
        cut = leave_lowest(resident, candidates, keys, len(units), n, guess, last)
        assert cut == by_rank[n - 1][0]
        assert (np.unpackbits(resident.view(np.uint8), bitorder="little") == left).all()
