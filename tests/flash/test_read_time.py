"""What a read costs: the formula against its text, its limits, and the points it is an
alternative to."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import dipsim
from dipsim.errors import ProfileError
from dipsim.flash.cost import FlashCost
from dipsim.flash.read_time import Formula, Points, Steady
from dipsim.hardware import Fit, load_profile, profile_schema
from dipsim.sweep.vary import iops_of, scaled

MIB = 2.0**20
# hardware.md 1.4(f), OnePlus 15R
PHONE = {
    "t0": "0.21 ms",
    "bandwidth": "2550 MiB/s",
    "cap": "2175 MiB/s",
    "p": 3,
    "sizes": ["128 KiB", "4 MiB"],
    "lanes": [1, 8],
}

READ = {"size": "4 KiB", "lanes": 1, "bandwidth": "1 GB/s"}


def profile(flash: dict[str, Any], **more: Any) -> dict[str, Any]:
    dram = {"capacity": "8 GB", "bandwidth": "60 GB/s"}
    return {"name": "phone", "dram": dram, "flash": flash, "compute": "unlimited", **more}


def cost(flash: dict[str, Any]) -> FlashCost:
    return FlashCost(load_profile(profile(flash)).flash)


def naive_bandwidth(size: float, lanes: int, fit: dict[str, float]) -> float:
    """The formula as it is written down, of bare numbers."""
    x = lanes * size / (fit["t0"] + size / fit["b1"])
    p = fit["p"]
    return (x**-p + fit["cap"] ** -p + (fit["iops"] * size) ** -p) ** (-1 / p)


@settings(max_examples=50)
@given(
    t0=st.floats(1e-6, 1e-3),
    b1=st.floats(1e7, 1e11),
    cap=st.floats(1e7, 1e11),
    iops=st.floats(1e3, 1e7),
    p=st.floats(0.5, 8),
    size=st.floats(512, 1e8),
    lanes=st.integers(1, 64),
)
def test_the_formula_is_the_one_that_is_written_down(
    t0: float, b1: float, cap: float, iops: float, p: float, size: float, lanes: int
) -> None:
    fit = Fit.model_construct(
        t0=t0, bandwidth=b1, cap=cap, iops=iops, p=p, sizes=(512, 1e8), lanes=(1, 64)
    )
    found = Formula(fit, 64).seconds(np.array([size]), lanes)[0]
    plain = {"t0": t0, "b1": b1, "cap": cap, "iops": iops, "p": p}
    assert found == pytest.approx(size / naive_bandwidth(size, lanes, plain), rel=1e-9)


def test_the_formula_by_hand() -> None:
    # p = 1 adds the three times: (1 ms + 4 kB / 4 MB/s) / 2 lanes, 4 kB / 1 MB/s, 1 / 1000 a second
    flash = cost(
        {
            "lanes": 2,
            "fit": {
                "t0": "1 ms", "bandwidth": "4 MB/s", "cap": "1 MB/s", "iops": "1 kIOPS", "p": 1,
                "sizes": ["1 kB", "4 kB"], "lanes": [1, 2],
            },
        }
    )  # fmt: skip
    assert flash.seconds(np.array([4000.0]), 2)[0] == pytest.approx(0.001 + 0.004 + 0.001)
    assert flash.seconds(np.array([4000.0]), 1)[0] == pytest.approx(0.002 + 0.004 + 0.001)
    assert flash.seconds(np.array([0.0]), 1)[0] == pytest.approx(0.001 + 0.001)
    assert (flash.sequential_read, flash.sequential_bandwidth) == pytest.approx((4000, 4000 / 6e-3))


def test_the_published_fit_is_within_its_error_of_the_phone() -> None:
    reads = [
        read
        for read in load_profile("oneplus15r").flash.reads
        if read.size <= 4 * MIB  # the 8 MiB row is of another run
    ]
    flash = cost({"lanes": 8, "fit": PHONE})
    wrong = [
        math.log(float(read.size / flash.seconds(np.array([read.size]), read.lanes)[0]))
        - math.log(read.bandwidth)
        for read in reads
    ]
    assert len(reads) == 18
    assert math.sqrt(np.mean(np.square(wrong))) == pytest.approx(0.044, abs=0.002)
    assert max(wrong) == pytest.approx(0.11, abs=0.01)


def test_reads_in_flight_are_those_of_the_fit() -> None:
    flash = cost({"lanes": 4, "fit": {**PHONE, "lanes": [2, 3]}})
    assert [flash.lanes_for(n) for n in (1, 2, 3, 4, 100)] == [2, 2, 3, 3, 3]
    assert cost({"lanes": 1, "fit": PHONE}).lanes_for(100) == 1


def test_more_lanes_and_smaller_reads_never_take_longer() -> None:
    flash = cost({"lanes": 8, "fit": {**PHONE, "iops": "20 kIOPS"}})
    sizes = np.geomspace(1, 1e8, 60)
    times = np.array([flash.seconds(sizes, n) for n in range(1, 9)])
    assert (np.diff(times, axis=0) <= 1e-18).all()
    assert (np.diff(times, axis=1) >= 0).all()
    assert (times >= 1 / 20e3).all()


def test_a_steep_meeting_of_limits_does_not_overflow() -> None:
    flash = cost({"fit": {**PHONE, "p": 100}})
    times = flash.seconds(np.array([0.0, 1.0, 1e15]), 1)
    assert np.isfinite(times).all()
    assert times[2] == pytest.approx(1e15 / (2175 * MIB), rel=1e-3)


def test_sizes_the_fit_was_not_made_from_are_marked() -> None:
    flash = cost({"fit": PHONE})
    sizes = np.array([131071.0, 131072.0, 4194304.0, 4194305.0])
    assert flash.outside(sizes, 1).tolist() == [True, False, False, True]
    quick = {**PHONE, "t0": "1 us"}  # single reads pay
    options = {"tokens": "0:4", "cache_fraction": 0.5}
    for fit, marked in ((quick, True), ({**quick, "sizes": ["1 B", "1 GB"]}, False)):
        marks = dipsim.simulate("smollm2-chat", profile({"fit": fit}), **options).marks
        assert ("extrapolated" in marks) is marked


def test_each_form_has_its_own_speed() -> None:
    forms = ({"bandwidth": "1 GB/s"}, {"reads": [READ]}, {"fit": PHONE})
    kinds = [type(cost(form).speed) for form in forms]
    assert kinds == [Steady, Points, Formula]


@pytest.mark.parametrize(
    ("flash", "told"),
    [
        ({"fit": PHONE, "bandwidth": "1 GB/s"}, "bandwidth or reads .* or fit"),
        ({"fit": {**PHONE, "cap": "0 B/s"}}, "must be positive"),
        ({"fit": {**PHONE, "iops": "0 IOPS"}}, "must be positive"),
        ({"fit": {**PHONE, "iops": 100}}, "'100 kIOPS'"),
        ({"fit": {**PHONE, "t0": "-1 ms"}}, "out of range"),
        ({"fit": {**PHONE, "p": 0.1}}, "0.5"),
        ({"fit": {**PHONE, "sizes": ["4 MiB", "4 KiB"]}}, "sizes must ascend"),
        ({"fit": {**PHONE, "lanes": [8, 1]}}, "lanes must ascend"),
        ({"fit": {**PHONE, "lanes": [1, 10**9]}}, "256"),
        ({"fit": {**PHONE, "sizes": ["4 MiB"]}}, "flash.fit.sizes"),
        ({"fit": {k: v for k, v in PHONE.items() if k != "p"}}, "flash.fit.p is missing"),
        ({"fit": {**PHONE, "q": 1}}, "unknown key 'flash.fit.q'"),
        ({}, "bandwidth or reads"),
        ({"reads": []}, "bandwidth or reads"),
        ({"reads": [READ, {**READ, "size": "1 KiB"}]}, "with 1 lanes the sizes do not ascend"),
        ({"reads": [{**READ, "bandwidth": "-1 GB/s"}]}, "out of range"),
    ],
)
def test_fits_that_are_none(flash: dict[str, Any], told: str) -> None:
    with pytest.raises(ProfileError, match=told):
        cost(flash)


def test_one_number_of_a_fit_overridden() -> None:
    given = profile({"fit": PHONE}, sources={"flash.fit": {"kind": "measured", "from": "a bench"}})
    found = load_profile(given, ("flash.fit.cap=1GB/s", "flash.fit.p=2", "flash.fit.iops=9 kIOPS"))
    fit = found.flash.fit
    assert fit is not None
    assert (fit.cap, fit.p, fit.iops, fit.t0) == (1e9, 2, 9e3, 0.21e-3)
    kinds = [at.kind for key in ("cap", "t0") if (at := found.source(f"flash.fit.{key}"))]
    assert kinds == ["estimate", "measured"]
    with pytest.raises(ProfileError, match=r"from 0.5 to 100"):
        load_profile(given, ("flash.fit.p=x",))


@pytest.mark.parametrize("base", ["oneplus15r", "paper-a18"])
def test_a_fit_takes_the_place_of_the_speed_it_extends(base: str) -> None:
    source = {"flash.fit": {"kind": "measured", "from": "a bench"}}
    child = load_profile({"extends": base, "name": "x", "flash": {"fit": PHONE}, "sources": source})
    assert (child.flash.bandwidth, child.flash.reads) == (None, ())
    assert child.flash.lanes == load_profile(base).flash.lanes
    assert {"flash.reads", "flash.bandwidth"}.isdisjoint(child.sources)


def test_a_bandwidth_takes_the_place_of_a_fit() -> None:
    sources = {"flash.fit.t0": {"kind": "measured", "from": "a bench"}}
    found = load_profile(profile({"fit": PHONE}, sources=sources), ("flash.bandwidth=1GB/s",))
    assert (found.flash.bandwidth, found.flash.fit) == (1e9, None)
    assert set(found.sources) == {"flash.bandwidth"}


def test_a_run_on_a_fit_can_be_repeated_and_names_its_estimates() -> None:
    result = dipsim.simulate("smollm2-chat", profile({"fit": PHONE}), tokens="0:4", dram="80%")
    assert {"flash.fit.t0", "flash.fit.cap"} <= set(result.estimates)
    again = dipsim.simulate("smollm2-chat", result.config["profile"], tokens="0:4", dram="80%")
    assert again.tokens_per_second == result.tokens_per_second


def test_a_fit_can_be_scaled_but_has_no_smallest_read() -> None:
    device = load_profile(profile({"lanes": 4, "fit": {**PHONE, "iops": "9 kIOPS"}}))
    sizes = np.geomspace(1e3, 1e7, 9)
    slow, fast = (FlashCost(at.flash).seconds(sizes, 3) for at in (device, scaled(device, 4)))
    np.testing.assert_allclose(fast, slow / 4, rtol=1e-12)
    with pytest.raises(ProfileError, match="a fitted flash"):
        iops_of(device)


def test_the_schema_knows_the_fit(tmp_path: Path) -> None:
    found = profile_schema()["$defs"]["Fit"]["properties"]
    assert set(found) == {*PHONE, "iops"}
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(profile({"fit": PHONE})))
    assert load_profile(path).flash.fit is not None
