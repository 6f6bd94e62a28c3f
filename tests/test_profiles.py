"""Do the shipped profiles run, and does a run say when it rests on an assumed flash?"""

import math

import pytest

import dipsim
from dipsim.hardware import load_profile, profile_names

each_shipped = pytest.mark.parametrize("name", profile_names())


@each_shipped
def test_a_shipped_profile_runs_and_names_the_flash_it_assumes(name: str) -> None:
    result = dipsim.simulate("smollm2-chat", name, tokens="0:2", dram="80%")
    assert math.isfinite(result.tokens_per_second)
    assert result.tokens_per_second > 0
    profile = load_profile(name)
    key = "flash.reads" if profile.flash.reads else "flash.bandwidth"
    source = profile.source(key)
    assert source is not None
    assert (key in result.estimates) == (source.kind == "estimate")


@each_shipped
def test_every_backend_of_a_shipped_profile_runs(name: str) -> None:
    for backend in load_profile(name).backends:
        result = dipsim.simulate("smollm2-chat", name, tokens="0:2", dram="80%", backend=backend)
        assert math.isfinite(result.tokens_per_second)


@each_shipped
def test_more_lanes_or_larger_reads_are_never_slower_in_all(name: str) -> None:
    """Within the noise of the measurements, which is about 10 %."""
    reads = load_profile(name).flash.reads
    for slow in reads:
        for fast in reads:
            if fast.size >= slow.size and fast.lanes >= slow.lanes:
                assert fast.bandwidth > 0.9 * slow.bandwidth


@each_shipped
def test_a_backend_does_not_use_weights_faster_than_dram_delivers_them(name: str) -> None:
    profile = load_profile(name)
    for backend in profile.backends.values():
        assert all(rate <= profile.dram.bandwidth for rate in backend.gemv.values())


@each_shipped
def test_a_fitted_number_of_a_shipped_profile_says_what_it_was_fitted_to(name: str) -> None:
    for key, source in load_profile(name).sources.items():
        if source.kind == "fitted":
            assert source.cases, key
            assert source.left_out is not None or len(source.cases) < 3, key


def test_the_two_curves_of_ufs_4_differ() -> None:
    oneplus, snapdragon = (load_profile(name).flash for name in ("oneplus15r", "snapdragon8gen3"))
    assert set(oneplus.reads).isdisjoint(snapdragon.reads)
    at = {
        name: max(read.bandwidth for read in flash.reads if read.size == 512 * 1024)
        for name, flash in (("oneplus", oneplus), ("snapdragon", snapdragon))
    }
    assert at["snapdragon"] > 1.5 * at["oneplus"]


def test_phones_without_a_curve_of_their_own_say_whose_it_is() -> None:
    for name, owner in (
        ("snapdragon8gen2", "snapdragon8gen3"),
        ("dimensity9300", "snapdragon8gen3"),
        ("exynos2400", "snapdragon8gen3"),
        ("snapdragon8elite", "oneplus15r"),
        ("dimensity9400", "oneplus15r"),
    ):
        profile, other = load_profile(name), load_profile(owner)
        assert profile.flash.reads == other.flash.reads
        source = profile.source("flash.reads")
        assert source is not None
        assert source.kind == "estimate"
        assert {"snapdragon8gen3": "Snapdragon 8 Gen 3", "oneplus15r": "OnePlus 15R"}[
            owner
        ] in source.origin


def test_the_rate_of_a_hot_device_says_what_it_rests_on() -> None:
    cold, hot, paper = (
        dipsim.simulate("smollm2-chat", "oneplus15r", tokens="0:2", **how).estimates
        for how in ({}, {"thermal": "sustained"}, {"overlap": "paper-serial"})
    )
    keys = ("thermal.after", "thermal.flash", "thermal.compute")  # the second is measured
    assert [key for key in keys if key in cold] == ["thermal.compute"]
    assert [key for key in keys if key in hot] == ["thermal.after", "thermal.compute"]
    assert not set(keys) & set(paper)


@pytest.mark.parametrize(
    ("name", "backend", "joules", "rates"),
    [
        ("snapdragon8gen3", "cpu", 0.285, (24.5, 40, 50)),
        ("oneplus15r", "cpu", 0.285, (24.5, 40, 50)),
        ("snapdragon8elite", "npu", 0.078, (30, 50, 75)),
    ],
)
def test_what_whole_phones_took_lies_inside_the_range_of_energy(
    name: str, backend: str, joules: float, rates: tuple[float, ...]
) -> None:
    """Of a token of a 1.2 B model, at rates that phones reach with it."""
    for rate in rates:
        changed = {"gemv.q4_0": f"{rate * 695.2} MB/s", "per_layer": "0 s"}
        result = dipsim.simulate(
            None,
            name,
            model="llama-3.2-1b",
            method="dense",
            weight_format="q4_0",
            backend=backend,
            overrides=[f"backends.{backend}.{key}={value}" for key, value in changed.items()],
        )
        assert result.tokens_per_second == pytest.approx(rate, rel=0.02)
        assert result.timing.energy is not None
        low, high = result.timing.energy
        assert low < joules < high
