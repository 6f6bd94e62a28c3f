"""Sets as a byte per unit."""

import numpy as np
from numba import njit

from dipsim.kernels.flags import write_flags


@njit
def spread_all(words, flags):  # type: ignore[no-untyped-def]
    for w in range(words.shape[0]):
        write_flags(words[w], flags, w * 64)


def test_words_are_spread_over_units() -> None:
    rng = np.random.default_rng(7)
    held = rng.random((5, 64)) < np.array([0, 0.1, 0.5, 0.9, 1])[:, None]
    flags = np.ones(6 * 64, np.bool_)
    spread_all(np.packbits(held, axis=1, bitorder="little").view(np.uint64)[:, 0], flags)
    assert flags[: 5 * 64].tolist() == held.ravel().tolist()
    assert flags[5 * 64 :].all()
