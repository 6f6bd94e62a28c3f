"""What misses cost in flash reads: the kernel against its naive twin, and one case by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.kernels import Requests
from naive import replay as naive
from tools.reads import cost, random_device, table


@settings(max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1),
    measured=st.booleans(),
    align=st.sampled_from([1.0, 512.0, 4096.0]),
)
def test_costs_equal_the_twin(seed: int, measured: bool, align: float) -> None:
    rng = np.random.default_rng(seed)
    device = random_device(rng, measured=measured, align=align)
    sets = rng.random((12, 1, device.units)) < rng.random((12, 1, 1)) ** 2
    traffic = cost(sets, table(device))
    missed = [np.flatnonzero(row).tolist() for row in sets[:, 0]]
    twin = np.array([naive.requests(units, **device._asdict())[:3] for units in missed])
    np.testing.assert_array_equal(traffic.reads[:, 0, 0], twin[:, 0])
    np.testing.assert_allclose(traffic.moved[:, 0, 0], twin[:, 1], rtol=1e-12)
    np.testing.assert_allclose(traffic.flash_seconds[:, 0, 0], twin[:, 2], rtol=1e-12)


@pytest.mark.parametrize(
    ("missed", "whole", "reads", "moved", "seconds", "outside"),
    [
        ([], 9.0, 0, 0, 0.0, False),
        ([3], 9.0, 1, 10, 1.5, True),
        ([0, 1, 2], 9.0, 1, 30, 2.5, False),
        ([0, 2], 9.0, 1, 30, 2.5, False),  # 2.5 s with the gap, 3 s as two reads
        ([0, 3], 9.0, 2, 20, 3.0, True),  # 3 s either way: not worth joining
        ([0, 3, 4, 5], 9.0, 2, 40, 4.0, True),
        ([0, 2, 5, 6], 9.0, 2, 50, 4.5, False),
        ([0, 2, 5, 6], 4.0, 7, 80, 4.0, False),  # all eight units in order are faster
    ],
)
def test_costs_by_hand(
    missed: list[int],
    whole: float,
    reads: int,
    moved: float,
    seconds: float,
    outside: bool,
) -> None:
    sets = np.zeros((1, 1, 8), bool)
    sets[..., missed] = True
    spans = np.arange(9.0)
    requests = Requests(
        seconds=1 + spans[None] / 2,
        moved=10 * spans,
        outside=spans[None] == 1,
        curve_of=np.zeros(2, np.int64),
        whole=np.array([7, 80, whole]),
    )
    traffic = cost(sets, requests)
    assert (traffic.reads.item(), traffic.moved.item()) == (reads, moved)
    assert traffic.flash_seconds.item() == seconds
    assert traffic.outside.item() is outside
