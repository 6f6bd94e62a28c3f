"""What misses cost in flash reads: the kernel against its naive twin, and one case by hand."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.kernels import Requests
from dipsim.methods import build_method
from dipsim.policies import BUILTIN
from dipsim.replay.replay import Traffic, replay
from dipsim.settings import Settings
from dipsim.trace import load_trace
from naive import replay as naive


class Device(NamedTuple):
    """A group of units in flash; the arguments of `naive.requests`."""

    units: int
    size: float
    stride: float
    align: float
    curves: Mapping[int, naive.Curve]
    lanes: int
    sequential_bandwidth: float
    sequential_read: float


def table(device: Device) -> Requests:
    """What a span of 0, 1, ... units costs, read off the curves one by one."""
    lengths = range(1, device.units + 1)
    spans = [(length - 1) * device.stride + device.size for length in lengths]
    pages = [0.0] + [naive.ceil_slack(span / device.align) * device.align for span in spans]
    serving = [naive.curve_for(device.curves, device.lanes, n) for n in range(device.lanes + 1)]
    distinct = list(device.curves.values())
    whole = device.units * device.stride
    reads = naive.ceil_slack(whole / device.sequential_read)
    return Requests(
        seconds=np.array([[naive.read_seconds(s, curve) for s in pages] for curve in distinct]),
        moved=np.array(pages),
        outside=np.zeros((len(distinct), len(pages)), np.bool_),
        curve_of=np.array([distinct.index(curve) for curve in serving]),
        whole=np.array([reads, whole, whole / device.sequential_bandwidth]),
    )


def cost(sets: np.ndarray, requests: Requests) -> Traffic:
    """Replay recorded sets bool[tokens, 1, units] without a cache: every active unit is missed."""
    trace = load_trace({"glu": sets})
    method = build_method("recorded", trace, Settings())
    return replay(trace, method, BUILTIN["none"], np.zeros((1, 1), int), requests=[[requests]])


def random_device(rng: np.random.Generator, *, measured: bool, align: float) -> Device:
    """Any device; its curves rise, as time does with size, but need not be convex or concave."""
    size, units, lanes = rng.uniform(1, 3000), rng.integers(1, 131), rng.integers(1, 7)
    curves: dict[int, naive.Curve] = {1: [(0, 1e-7)]}
    if measured:
        curves = {}
        for in_flight in rng.choice(8, size=3, replace=False) + 1:
            sizes = np.sort(rng.uniform(1000, 100_000, 3)).tolist()
            seconds = np.cumsum(rng.uniform(1e-6, 1e-4, 3)).tolist()
            curves[int(in_flight)] = list(zip(sizes, seconds, strict=True))
    return Device(
        units=int(units),
        size=size,
        stride=size + rng.choice([0.0, 100.5, 5000.0]),
        align=align,
        curves=curves,
        lanes=int(lanes),
        sequential_bandwidth=10 ** rng.uniform(7, 10),
        sequential_read=2.0**16,
    )


@settings(max_examples=300)
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
