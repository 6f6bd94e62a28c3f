"""Models of reference on a device, beside the shipped device that is nearest to it."""

import math
from typing import NamedTuple

from dipsim.analysis.profile_list import flash_bandwidth
from dipsim.errors import BudgetError
from dipsim.hardware import Profile, load_profile, profile_names
from dipsim.simulate import simulate
from dipsim.timeline.interval import RateInterval

MODELS = ("smollm2-135m", "llama-3.2-1b", "llama-3-8b")
DEPTH = 512
"""Tokens whose keys and values are read."""


class ReferenceRun(NamedTuple):
    """A dense model on a device, as its preset stores it."""

    model: str
    rate: float | None
    """Tokens per second; None where it does not run."""
    interval: RateInterval | None
    flash_bytes: float
    """Bytes per token that come from flash for want of DRAM; 0 where the model fits."""


class Compared(NamedTuple):
    """The same runs on a device and on the shipped one that is nearest."""

    profile: Profile
    nearest: Profile
    runs: tuple[tuple[ReferenceRun, ReferenceRun], ...]


def sizes_of(profile: Profile) -> tuple[float, float, float]:
    """Return the figures by which devices are near to each other: size and bandwidth of DRAM, and
    bandwidth of flash, in base units."""
    capacity = max(profile.dram.capacity, 1.0)  # a file may state 0 B
    return capacity, profile.dram.bandwidth, flash_bandwidth(profile)


def distance(one: Profile, other: Profile) -> float:
    """Return how far devices are apart: the root of the summed squares of the logarithms of the
    ratios of `sizes_of`."""
    sizes = zip(sizes_of(one), sizes_of(other), strict=True)
    return math.hypot(*(math.log(own / its) for own, its in sizes))


def nearest_to(profile: Profile) -> Profile:
    """Return the nearest shipped profile of another name, but for those that compute for free, and
    for another name of a shipped one."""
    names = profile_names()
    others = [load_profile(name) for name in names if name != profile.name]
    real = [other for other in others if math.isfinite(other.backend()[1].compute)]
    if profile.name in names:
        real = [other for other in real if other.numbers() != profile.numbers()]
    return min(real, key=lambda other: distance(profile, other))


def run_reference(profile: Profile, model: str) -> ReferenceRun:
    """Run a model on the device's first backend, without a trace."""
    try:
        result = simulate(None, profile, model=model, method="dense", depth=DEPTH)
    except BudgetError:
        return ReferenceRun(model, None, None, 0.0)
    budget = result.run.budget
    fits = budget.streamed == 0 and budget.fraction == 1
    missing = 0.0 if fits else result.flash_bytes_per_token
    return ReferenceRun(model, result.tokens_per_second, result.interval, missing)


def compare_to_nearest(profile: Profile) -> Compared:
    """Run the models of reference on a device, and on the shipped one that is nearest."""
    nearest = nearest_to(profile)
    runs = tuple((run_reference(profile, m), run_reference(nearest, m)) for m in MODELS)
    return Compared(profile, nearest, runs)
