"""From measured reads to a flash section: the fit and its errors."""

import math
from typing import Any

import numpy as np
import pytest

from dipsim.disk import fit as flash_fit
from dipsim.disk.fit import Measured, calibrated, fit_points
from dipsim.flash.read_time import speed_of
from dipsim.hardware import Flash

MIB = 2**20
# OnePlus 15R, BigMoeOnEdge: MiB/s by size, with 2, 4 and 8 in flight; one point with one.
PHONE = {
    2**17: (953.6, 1486.1, 1858.8),
    2**18: (1536.4, 2099.4, 2144.2),
    2**19: (1882.4, 2114.0, 2108.2),
    2**20: (2084.8, 2235.3, 2251.4),
    2**21: (2043.7, 2155.4, 2063.5),
    2**22: (2172.0, 2205.7, 2263.0),
}
POINTS = [Measured(2**22, 1, 1809.9 * MIB)] + [
    Measured(size, lanes, rates[i] * MIB)
    for i, lanes in enumerate((2, 4, 8))
    for size, rates in PHONE.items()
]
TRUE = {"t0": "80 us", "bandwidth": "1500 MB/s", "cap": "1200 MB/s", "iops": "40 kIOPS", "p": 3.0,
        "sizes": ["4 KiB", "4 MiB"], "lanes": [1, 8]}  # fmt: skip


def drawn(fit: dict[str, Any], noise: float = 0.0) -> list[Measured]:
    """Points of a known formula."""
    rng = np.random.default_rng(1)
    found = []
    for lanes in (1, 2, 4, 8):
        speed = speed_of(Flash.model_validate({"lanes": lanes, "fit": fit}))
        for size in (4096 * 4**i for i in range(6)):
            seconds = speed.seconds(np.array([float(size)]), lanes)[0]
            found.append(
                Measured(size, lanes, float(size / seconds * np.exp(noise * rng.normal())))
            )
    return found


def test_the_phone_is_fitted_as_well_as_published() -> None:
    found = calibrated(POINTS, True, fit=True)
    assert len(found.points) == 19
    assert found.errors is not None
    assert found.left_out is not None
    assert found.errors.rms <= 0.044
    assert found.errors.rms == pytest.approx(0.0277, abs=0.0005)
    assert abs(found.errors.worst) <= 0.11
    assert found.left_out.rms > found.errors.rms
    fit = found.flash["fit"]
    assert (fit["sizes"], fit["lanes"]) == (["128 KiB", "4 MiB"], [1, 8])


def test_the_errors_are_those_of_the_profile_it_makes() -> None:
    found = calibrated(POINTS, True, fit=True)
    wrong = []
    for point in POINTS:
        speed = speed_of(Flash.model_validate({**found.flash, "lanes": point.lanes}))
        seconds = float(speed.seconds(np.array([point.size]), point.lanes)[0])
        wrong.append(math.log(point.size / seconds / point.bandwidth))
    assert found.errors is not None
    assert found.errors.rms == pytest.approx(math.sqrt(np.mean(np.square(wrong))))
    worst = max(wrong, key=abs)
    assert found.errors.worst == pytest.approx(math.exp(worst) - 1)
    assert found.errors.at == POINTS[wrong.index(worst)]


def test_a_known_formula_is_found_again() -> None:
    t0, bandwidth, cap, iops, p = np.exp(fit_points(drawn(TRUE)))
    assert [t0, bandwidth, cap, iops, p] == pytest.approx([80e-6, 1.5e9, 1.2e9, 4e4, 3], rel=1e-4)


def test_a_limit_of_iops_that_is_not_there_is_left_out() -> None:
    points = drawn({**TRUE, "iops": "unlimited"}, noise=0.03)
    found = calibrated(points, True, fit=True)
    assert found.flash["fit"]["iops"] == "unlimited"
    assert found.errors is not None
    assert found.errors.rms < 0.03


def test_no_nearby_formula_is_better() -> None:
    logs = fit_points(POINTS)
    points = np.array(POINTS, np.float64)

    def error(at: Any) -> float:
        return float(np.square(flash_fit._residual(at, points)[0]).sum())

    rng = np.random.default_rng(2)
    least = error(logs)
    assert all(error(logs + rng.normal(size=5) * 10.0**-k) > least for k in range(1, 5))


def test_the_points_stay_what_they_are() -> None:
    found = calibrated(POINTS, True, lanes=4)
    flash = Flash.model_validate(found.flash)
    assert flash.lanes == 4
    assert [(read.size, read.lanes) for read in flash.reads] == [at[:2] for at in POINTS]
    rates = [read.bandwidth for read in flash.reads]
    assert rates == pytest.approx([at.bandwidth for at in POINTS], rel=5e-4)


def test_a_point_left_out_by_hand() -> None:
    # 8 kB between 4 kB in 1 s and 16 kB in 4 s would take 2 s, and takes 2.5
    points = [Measured(4000, 1, 4000), Measured(8000, 1, 8000 / 2.5), Measured(16000, 1, 4000)]
    left = calibrated([*points, Measured(4000, 2, 9e3)], True).left_out
    assert left is not None
    assert (left.rms, left.worst) == pytest.approx((math.log(1.25), 0.25), rel=1e-3)
    assert left.at == points[1]
    assert calibrated(points[:2], True).left_out is None


def test_six_points_make_a_formula_and_none_can_be_left_out() -> None:
    assert calibrated(POINTS[1:7], True, fit=True).left_out is None
