"""Bytes of tokens that skip layers: worked numbers, the naive twin, and laws."""

import numpy as np
import pytest

from dipsim import load_model
from dipsim.layers import LayerError
from dipsim.layers.cost import (
    SKIP_KV,
    LayerBytes,
    kv_read,
    kv_written,
    positions_missing,
    weight_bytes,
)
from dipsim.trace import Tokens
from naive import layers as naive

SIZES = {"attention": 40.0, "projection": 10.0, "mlp": 100.0, "head": 7.0, "partial": 0.5}
MODES = np.random.default_rng(0).choice([0, 1, 2, 4, 5, 6, 8, 9, 10], (24, 5)).astype(np.uint8)
ROWS = Tokens.of(np.ones(24, np.uint8), np.repeat([0, 1], [15, 9]).astype(np.int32))


def megabytes(
    model: str, skip: float, partial: float = 0, partial_bits: float | None = None
) -> float:
    """MB of weights per token, with so many of 1000 tokens' layers skipped and partial."""
    geometry = load_model(model)
    modes = np.full(1000 * geometry.layers, 10, np.uint8)
    modes[: round((skip + partial) * modes.size)] = 5
    modes[: round(skip * modes.size)] = 0
    sizes = LayerBytes.of(geometry, partial_bits)
    return weight_bytes(modes.reshape(1000, -1), sizes).mean() / 1e6


def test_worked_numbers() -> None:
    sizes = LayerBytes.of(load_model("llama-3-8b"))
    assert round(sizes.layer / 1e6, 2) == 122.68
    assert round(sizes.head / 1e6, 1) == 295.5
    assert round(100 * sizes.projection / sizes.layer, 1) == 3.8
    llama = [round(megabytes("llama-3-8b", share), 1) for share in (0, 0.1, 0.2, 0.3)]
    assert llama == [4221.4, 3828.8, 3436.2, 3043.6]
    assert round(llama[0] / llama[3], 2) == 1.39
    assert round(megabytes("llama-3-8b", 0.2, 0.3, 2.5), 1) == 2912.7
    small = [round(megabytes("smollm2-135m", share), 1) for share in (0, 0.1, 0.2, 0.3)]
    assert small == [75.6, 69.7, 63.7, 57.7]


@pytest.mark.parametrize("skip_kv", SKIP_KV)
def test_bytes_and_positions_are_those_of_the_twin(skip_kv: str) -> None:
    sizes = LayerBytes(**SIZES)
    wanted = [naive.bytes_of(row, SIZES, skip_kv) for row in MODES.tolist()]
    np.testing.assert_allclose(weight_bytes(MODES, sizes, skip_kv), wanted)
    for rows in (ROWS, ROWS.window(6, 24)):
        modes = MODES[-len(rows) :]
        written, read = naive.kv_of(modes.tolist(), rows.position.tolist(), skip_kv)
        assert kv_written(modes, skip_kv).tolist() == written
        assert kv_read(modes, rows, skip_kv).tolist() == read
        missing = positions_missing(modes, rows, skip_kv)
        seen = (rows.position[:, None] + 1 - missing) * (modes % 4 != 0)
        assert seen.sum(axis=1).tolist() == read
        assert missing.any() == (skip_kv == "hole")


def test_without_skipping_all_kinds_of_kv_are_the_dense_ones() -> None:
    dense = np.full((24, 5), 10, np.uint8)
    for skip_kv in SKIP_KV:
        assert (weight_bytes(dense, LayerBytes(**SIZES), skip_kv) == 5 * 140 + 7).all()
        assert (kv_written(dense, skip_kv) == 5).all()
        assert kv_read(dense, ROWS, skip_kv).tolist() == (5 * (ROWS.position + 1)).tolist()


def test_a_hole_reads_and_writes_least() -> None:
    hole, project, copy = (
        (
            weight_bytes(MODES, LayerBytes(**SIZES), kv),
            kv_written(MODES, kv),
            kv_read(MODES, ROWS, kv),
        )
        for kv in ("hole", "project", "copy")
    )
    assert (project[0] >= hole[0]).all()
    assert (project[0] > hole[0]).any()
    assert (copy[0] == hole[0]).all()
    for mine, other in ((project, hole), (copy, hole)):
        assert (mine[1] == 5).all()
        assert (mine[2] >= other[2]).all()
    assert (project[2] == copy[2]).all()


def test_bad_choices_are_refused() -> None:
    with pytest.raises(LayerError, match="skip-kv 'none': give one of project, hole, copy"):
        weight_bytes(MODES, LayerBytes(**SIZES), "none")  # type: ignore[arg-type]
    with pytest.raises(LayerError, match=r"partial bits 8: give more than 0 and at most 4\.5"):
        LayerBytes.of(load_model("llama-3-8b"), 8)
