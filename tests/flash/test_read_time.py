"""What a read costs: the formula against its text, its limits, and the points it is an
alternative to."""

import itertools
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
from dipsim.flash.read_time import Formula, Points, Steady, with_times
from dipsim.hardware import Fit, load_profile, profile_names, profile_schema
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
        if read.size <= 4 * MIB and read.lanes > 1  # the others are of other runs
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


# Measured points ----------------------------------------------------------------------------------

LARGE = {"size": "128 KiB", "lanes": 2, "bandwidth": "1 GB/s"}


def seconds(flash: dict[str, Any], size: float, reads: int) -> float:
    return float(cost(flash).seconds(np.array([float(size)]), reads)[0])


def test_small_reads_by_hand() -> None:
    # 128 KiB at 1 GB/s take 131.072 us. 50 000 reads of 4 KiB a second take 20 us each; 66 KiB is
    # half way between the two: 75.536 us.
    flash = {"reads": [LARGE], "lanes": 2, "iops": "50 kIOPS"}
    times = [seconds(flash, size, 2) for size in (1, 4096, 67584, 131072, 262144)]
    assert times == pytest.approx([20e-6, 20e-6, 75.536e-6, 131.072e-6, 262.144e-6])
    small = np.array([4096.0, 131072.0])
    assert cost(flash).outside(small, 2).tolist() == [True, False]


def test_without_iops_small_reads_take_as_long_as_the_smallest() -> None:
    assert seconds({"reads": [LARGE], "lanes": 2}, 4096, 2) == pytest.approx(131.072e-6)


@pytest.mark.parametrize(
    ("iops", "small"),
    [
        ("1 kIOPS", 131.072e-6),  # never above the smallest point's time
        ("unlimited", 4.096e-6),  # nor less per byte
        ("1 MIOPS", 4.096e-6),
    ],
)
def test_small_reads_stay_within_what_was_measured(iops: str, small: float) -> None:
    assert seconds({"reads": [LARGE], "iops": iops}, 4096, 2) == pytest.approx(small)


def test_a_lane_measured_at_one_size_takes_the_next_ones_shape() -> None:
    # Two lanes: 4 KiB in 10 us, 8 KiB in 12 us. One lane: 8 KiB in 18 us, half as long again, so
    # 4 KiB take 15 us. Of more lanes than were measured at several sizes nothing is known but the
    # point: 8 KiB in 11 us, and two lanes for smaller ones.
    points = [(4096, 2, 10e-6), (8192, 2, 12e-6), (8192, 1, 18e-6), (8192, 4, 11e-6)]
    reads = [
        {"size": f"{size} B", "lanes": lanes, "bandwidth": f"{size / time!r} B/s"}
        for size, lanes, time in points
    ]
    flash = {"reads": reads, "lanes": 4}
    assert [seconds(flash, 4096, n) for n in (1, 2, 4)] == pytest.approx([15e-6, 10e-6, 10e-6])
    assert [seconds(flash, 8192, n) for n in (1, 2, 4)] == pytest.approx([18e-6, 12e-6, 11e-6])
    assert seconds(flash, 6144, 1) == pytest.approx(16.5e-6)


def test_the_measured_phone_with_one_lane() -> None:
    flash = FlashCost(load_profile("oneplus15r").flash)
    size = np.array([MIB / 8, 4 * MIB])
    one, two = flash.seconds(size, 1), flash.seconds(size, 2)
    assert one / two == pytest.approx([2459.8 / 1809.9] * 2, rel=1e-4)
    assert 1 / flash.seconds(np.array([4096.0]), 4)[0] == pytest.approx(110e3)


@pytest.mark.parametrize("name", ["snapdragon8elite", "dimensity9400"])
def test_phones_that_borrow_the_points_borrow_the_iops(name: str) -> None:
    device = load_profile(name)
    source = device.source("flash.iops")
    assert device.flash.iops == 110e3
    assert source is not None
    assert source.kind == "estimate"


@pytest.mark.parametrize(
    ("flash", "told"),
    [
        ({"bandwidth": "1 GB/s", "iops": "1 kIOPS"}, "iops stands beside reads"),
        ({"fit": PHONE, "iops": "1 kIOPS"}, r"give fit\.iops to a fit"),
        ({"reads": [READ], "iops": "1 kIOPS"}, "larger than 4 KiB"),
        ({"reads": [LARGE], "iops": "0 IOPS"}, "positive"),
        ({"reads": [LARGE], "iops": 9}, "'100 kIOPS'"),
    ],
)
def test_iops_that_say_nothing(flash: dict[str, Any], told: str) -> None:
    with pytest.raises(ProfileError, match=told):
        cost(flash)


def test_another_speed_takes_the_place_of_points_and_their_iops() -> None:
    found = load_profile("oneplus15r", ("flash.bandwidth=1GB/s",))
    assert found.flash.iops is None
    assert "flash.iops" not in found.sources
    reads = load_profile({"extends": "oneplus15r", "name": "x", "flash": {"reads": [LARGE]}})
    assert reads.flash.iops is None
    assert load_profile("oneplus15r", ("flash.iops=50kIOPS",)).flash.iops == 50e3


def random_flash(rng: np.random.Generator) -> dict[str, Any]:
    """Any flash whatever: a bandwidth, a fit, or points that contradict one another."""

    def bandwidth() -> str:
        return f"{10 ** rng.uniform(6, 10)!r} B/s"

    form, lanes = rng.integers(4), int(rng.integers(1, 33))
    if form == 0:
        return {"bandwidth": bandwidth(), "lanes": lanes}
    if form == 1:
        fit = {**PHONE, "bandwidth": bandwidth(), "cap": bandwidth(), "lanes": [1, 16]}
        return {"fit": {**fit, "iops": f"{10 ** rng.uniform(3, 6)!r} IOPS"}, "lanes": lanes}
    reads = [
        {"size": f"{size} B", "lanes": n, "bandwidth": bandwidth()}
        for n in (rng.choice(16, size=rng.integers(1, 4), replace=False) + 1).tolist()
        for size in np.unique(rng.integers(512, 2**23, rng.integers(1, 5))).tolist()
    ]
    flash = {"reads": reads, "lanes": lanes}
    if form == 3:
        flash["reads"] = [*reads, {"size": "16 MiB", "lanes": 17, "bandwidth": bandwidth()}]
        flash["iops"] = f"{10 ** rng.uniform(3, 7)!r} IOPS"
    return flash


SIZES = np.unique(np.append(np.geomspace(1, 1e8, 80), [4095, 4096, 4097, 131072]))


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_larger_read_never_takes_less_time(seed: int) -> None:
    flash = cost(random_flash(np.random.default_rng(seed)))
    for reads in (1, 2, 7, 32):
        times = flash.seconds(SIZES, reads)
        assert (times > 0).all()
        assert (np.diff(times) >= -1e-12 * times[1:]).all()


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1))
def test_more_lanes_never_slow_a_job_down(seed: int) -> None:
    given_flash = random_flash(np.random.default_rng(seed))
    flashes = [cost({**given_flash, "lanes": lanes}) for lanes in (1, 2, 3, 5, 8, 16, 32)]
    for reads in (1, 2, 6, 40):
        totals = np.array([reads * flash.seconds(SIZES, reads) for flash in flashes])
        assert (np.diff(totals, axis=0) <= 1e-12 * totals[1:]).all()


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(1, 100))
def test_more_bandwidth_never_slows_a_read_down(seed: int, factor: float) -> None:
    device = load_profile(profile(random_flash(np.random.default_rng(seed))))
    slow, fast = FlashCost(device.flash), FlashCost(scaled(device, factor).flash)
    points = device.flash.model_copy(update={"reads": scaled(device, factor).flash.reads})
    for reads in (1, 2, 7, 32):
        times = slow.seconds(SIZES, reads)
        assert fast.seconds(SIZES, reads) == pytest.approx(times / factor, rel=1e-9)
        if points.reads:  # the same reads per second
            assert (FlashCost(points).seconds(SIZES, reads) <= times * (1 + 1e-12)).all()


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1))
def test_times_that_stay_as_they_are_make_the_same_flash(seed: int) -> None:
    flash = load_profile(profile(random_flash(np.random.default_rng(seed)))).flash
    if flash.reads:
        same = FlashCost(with_times(flash, lambda size, seconds: seconds))
        for reads in (1, 7, 32):
            times = FlashCost(flash).seconds(SIZES, reads)
            assert same.seconds(SIZES, reads) == pytest.approx(times, rel=1e-9)


def test_reads_between_measured_lanes_take_no_longer_than_those_that_reach_the_next() -> None:
    # A read of 4 KiB takes 1 ms on one lane; four in flight take 0.1 ms each, 0.4 ms in all. Two or
    # three of them then take 0.4 ms in all too, not 2 or 3 ms.
    points = [
        {"size": "4 KiB", "lanes": 1, "bandwidth": "4.096 MB/s"},
        {"size": "4 KiB", "lanes": 4, "bandwidth": "40.96 MB/s"},
    ]
    flash = cost({"lanes": 4, "align": "4 KiB", "reads": points})
    size = np.array([4096.0])
    each = [float(flash.seconds(size, reads)[0]) for reads in (1, 2, 3, 4, 9)]
    assert each == pytest.approx([4e-4, 2e-4, 4e-4 / 3, 1e-4, 1e-4])
    assert [flash.lanes_for(reads) for reads in (1, 2, 3, 4, 9)] == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("name", profile_names())
def test_one_more_read_never_takes_less_in_all(name: str) -> None:
    flash = FlashCost(load_profile(name).flash)
    for size in (512.0, 4096.0, 2.0**14, 2.0**17, 2.0**20, 2.0**23):
        pages = flash.pages(np.array([size]))
        totals = [reads * float(flash.seconds(pages, reads)[0]) for reads in range(1, 70)]
        assert all(more >= less * (1 - 1e-12) for less, more in itertools.pairwise(totals))
