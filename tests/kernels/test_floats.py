"""Floats of a trace that are copied and looked at in one pass, against numpy's conversion."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dipsim.trace import encoding
from dipsim.trace.encoding import decode_floats

EVERY_HALF = np.arange(0x7C00, dtype=np.uint16).view(np.float16)


@pytest.fixture(autouse=True)
def kernels_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_MANY", 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("part", [slice(None), slice(1, 3)])
def test_every_half_is_converted_exactly(dtype: Any, part: slice) -> None:
    raw = EVERY_HALF.astype(dtype).reshape(4, 4, -1)[:, part]
    scores, sound = decode_floats(raw)
    assert sound == (dtype != np.float64)
    assert scores.dtype == np.float32
    assert scores.flags.writeable
    assert not np.shares_memory(scores, raw)
    np.testing.assert_array_equal(scores, raw.astype(np.float32))


def test_bytes_that_are_not_aligned_or_not_writeable() -> None:
    values = EVERY_HALF.astype(np.float32)
    unaligned: NDArray[np.float32] = np.ndarray(values.shape, "<f4", bytes(1) + values.tobytes(), 1)
    scores, sound = decode_floats(unaligned)
    assert sound
    np.testing.assert_array_equal(scores, values)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -1.0, -0.0])
def test_what_is_odd_is_left_to_the_check(dtype: Any, odd: float) -> None:
    raw = np.array([[[1, 0, odd, 2]]], dtype)
    scores, sound = decode_floats(raw)
    assert not sound
    np.testing.assert_array_equal(scores, raw.astype(np.float32))
    assert np.signbit(scores[0, 0, 2]) == np.signbit(raw[0, 0, 2])
