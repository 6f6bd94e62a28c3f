"""Kernels of synthetic traces against numpy, value for value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.kernels.synthetic import make_normals
from dipsim.trace.synth.normals import Normals
from dipsim.trace.synth.quantiles import QuantileMap


def bits(values: np.ndarray) -> list[int]:
    return values.view(np.uint32).ravel().tolist()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 700), min_size=1, max_size=5))
def test_normals_are_those_of_numpy(seed: int, sizes: list[int]) -> None:
    ours, numpys = Normals(np.random.default_rng(seed)), np.random.default_rng(seed)
    for size in sizes:
        expected = numpys.standard_normal((size, 2), np.float32)
        assert bits(ours.draw(size, 2)) == bits(expected)


@pytest.mark.parametrize("step", [1, 2, 7])
def test_words_that_run_out_change_no_normal(step: int) -> None:
    words = np.random.default_rng(5).integers(2**32, size=6000, dtype=np.uint32)
    layers = words & 0xFF
    words[:4000:40] &= 0xFFFFFF00  # the lowest layer, and beside its rectangle: the tail
    words[:4000:40] |= 0xFFFFFE00
    whole = np.empty(len(words), np.float32)
    count, used = make_normals(words, whole)
    assert 5500 < count < used <= len(words)
    assert (np.abs(whole[:count]) > 3.6541529).sum() >= 90
    assert len(np.unique(layers)) == 256
    out, made, first, last = np.empty(len(words), np.float32), 0, 0, 0
    while last < len(words):
        last = min(last + step, len(words))
        more, taken = make_normals(words[first:last], out[made:])
        made, first = made + more, first + taken
    assert (made, first) == (count, used)
    assert bits(out[:made]) == bits(whole[:count])


def test_no_words_make_no_normals() -> None:
    assert make_normals(np.empty(0, np.uint32), np.empty(3, np.float32)) == (0, 0)
    assert Normals(np.random.default_rng(0)).draw(0, 5).shape == (0, 5)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    knots=st.sampled_from([1, 2, 5, 255]),
    power=st.sampled_from([0, 1, 9]),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_quantiles_are_moved_as_by_interp(seed: int, knots: int, power: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    model = np.sort(np.round(rng.standard_normal(knots), 2) ** power * scale)  # some are equal
    source = np.sort(rng.standard_normal(knots) * scale)
    values = (rng.standard_normal((3, 200)) * scale).astype(np.float32)
    values[0, :knots] = model.astype(np.float32)[:200]
    values[1, :3] = 0, 1e30, -1e30
    expected = values + np.interp(values, model, source - model).astype(np.float32)
    QuantileMap(model, source).move(values)
    assert bits(values) == bits(expected)
