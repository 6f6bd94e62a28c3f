"""Groups of units in flash, any at all, and what their reads cost."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dipsim.kernels import Requests
from dipsim.methods import build_method
from dipsim.policies import BUILTIN
from dipsim.replay.traffic import Traffic
from dipsim.settings import Settings
from dipsim.trace import load_trace
from naive import replay as naive
from tools.replays import replay


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
    method = build_method(trace, Settings(method="recorded"))
    return replay(trace, method, BUILTIN["none"], np.zeros((1, 1), int), costs=[[requests]])


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
