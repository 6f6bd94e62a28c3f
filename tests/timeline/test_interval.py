"""The interval of a rate: it follows from what the numbers of the profile are worth, and from
nothing else."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest

from dipsim.hardware import SPREADS, load_profile, spread_of
from dipsim.result import Result
from dipsim.simulate import simulate
from dipsim.timeline.interval import rate_interval
from tools import one_layer, three_layers
from tools.paths import DOCS

CPU = "backends.cpu"
COMPUTE, OVERLAP = f"{CPU}.compute", f"{CPU}.overlap_factor"
NUMBERS: dict[str, tuple[float, str]] = {
    "dram.bandwidth": (1000, "B/s"),
    "flash.bandwidth": (300, "B/s"),
    f"{CPU}.dram_efficiency": (0.6, ""),
    COMPUTE: (3000, "FLOP/s"),
    f"{CPU}.per_layer": (0.2, "s"),
    f"{CPU}.per_mask": (0.1, "s"),
    f"{CPU}.per_score": (0.02, "s"),
    f"{CPU}.cache_copy": (200, "B/s"),
    OVERLAP: (0.5, ""),
}
"""A slow device of which everything takes a part of the time."""
SPREAD = 0.5
RULES, MEASURED = 0.12, 0.1
CALIBRATED = dict(SPREADS)


@pytest.fixture(autouse=True)
def spreads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold fast the spreads that a calibration may move."""
    monkeypatch.setattr("dipsim.timeline.interval.RULES", RULES)
    monkeypatch.setitem(cast("dict[str, float]", SPREADS), "measured", MEASURED)


def device(
    numbers: Mapping[str, tuple[float, str]] = NUMBERS,
    spreads: Mapping[str, float] | None = None,
    *,
    others: float = 0.0,
    name: str = "slow",
) -> dict[str, Any]:
    """Return a profile of these numbers, all of them measured, with these spreads."""
    profile: dict[str, Any] = {"name": name, "dram": {"capacity": "1 MB"}, "sources": {}}
    for key, (value, unit) in numbers.items():
        *sections, last = key.split(".")
        place = profile
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = f"{value!r} {unit}" if unit else value
        spread = {**dict.fromkeys(numbers, others), **(spreads or {})}[key]
        profile["sources"][key] = {"kind": "measured", "from": "a test", "spread": spread}
    return profile


def times(key: str, factor: float, numbers: Mapping[str, Any] = NUMBERS) -> dict[str, Any]:
    """Return the numbers with one of them times a factor."""
    value, unit = numbers[key]
    return {**numbers, key: (value * factor, unit)}


def run(profile: Any, **options: Any) -> Result:
    """Run 24 tokens with half of the units in the cache, in closed form."""
    given = {"cache_fraction": 0.5, "engine": "closed", "context": 24, **options}
    return simulate(three_layers.scores(3, 24), profile, **given)


def near(value: Any, tolerance: float = 1e-9) -> Any:
    """Equal but for rounding, or within a relative tolerance; of dictionaries the values."""
    if isinstance(value, dict):
        return {key: pytest.approx(each, rel=tolerance) for key, each in value.items()}
    return pytest.approx(value, rel=tolerance)


def width(result: Result) -> float:
    """Return how many times the lowest rate of an interval the highest is."""
    assert result.interval is not None
    return result.interval.high / result.interval.low


def alone(result: Result) -> dict[str, tuple[float, float]]:
    """Return the rates at the ends of the spreads of the numbers to measure, in their order."""
    assert result.interval is not None
    return {key: (low, high) for key, low, high in result.interval.first_to_measure}


def at_ends(key: str, numbers: Mapping[str, Any] = NUMBERS, **options: Any) -> tuple[float, float]:
    """Return the rates of profiles with one number at either end of its spread, the lower first."""
    factors = 1 / (1 + SPREAD), 1 + SPREAD
    ends = [run(device(times(key, each, numbers)), **options) for each in factors]
    slow, fast = sorted(result.tokens_per_second for result in ends)
    return slow, fast


# One number alone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in NUMBERS if key not in (OVERLAP, COMPUTE)])
def test_a_number_alone_moves_the_rate_as_a_changed_profile_does(key: str) -> None:
    assert alone(run(device(spreads={key: SPREAD}))) == near({key: at_ends(key)})


@pytest.mark.parametrize("compute", [600.0, 1300.0, 1e6])
@pytest.mark.parametrize("key", ["dram.bandwidth", COMPUTE])
def test_which_of_dram_and_kernel_binds_is_worked_out_anew(compute: float, key: str) -> None:
    numbers = {**NUMBERS, COMPUTE: (compute, "FLOP/s")}
    slow, fast = at_ends(key, numbers)
    matters = fast > slow * 1.01
    assert matters is not (key == COMPUTE and compute == 1e6)
    expected = {key: (slow, fast)} if matters else {}
    assert alone(run(device(numbers, {key: SPREAD}))) == near(expected)


def test_where_an_entry_of_the_format_decides_it_is_the_number() -> None:
    numbers = {**NUMBERS, f"{CPU}.gemv.q8_0": (400, "B/s")}
    for key, matters in ((f"{CPU}.gemv.q8_0", True), (COMPUTE, False)):
        expected = {key: at_ends(key, numbers)} if matters else {}
        assert alone(run(device(numbers, {key: SPREAD}))) == near(expected)


@pytest.mark.parametrize(
    ("io", "key", "number"),
    [
        ("mmap", "flash.fault.seconds", (1.5, "s")),
        ("buffered", "page_cache.bandwidth", (250, "B/s")),
        ("buffered", "flash.bandwidth", (300, "B/s")),
    ],
)
def test_reads_through_the_system_rest_on_its_numbers(
    io: str, key: str, number: tuple[float, str]
) -> None:
    page = {"flash.fault.page": (512, "B"), "page_cache.size": (8192, "B")}
    numbers = {**NUMBERS, "page_cache.bandwidth": (250, "B/s"), **page, key: number}
    numbers.setdefault("flash.fault.seconds", (1.5, "s"))
    result = run(device(numbers, {key: SPREAD}), io=io)
    assert alone(result) == near({key: at_ends(key, numbers, io=io)})


def test_all_measured_points_of_the_flash_are_off_together() -> None:
    slow, usual, fast = (
        three_layers.DEVICE["flash"]
        | {"reads": [{"size": f"{s} B", "lanes": 1, "bandwidth": f"{factor * s / t!r} B/s"}
                     for s, t in three_layers.POINTS]}
        for factor in (1 / 1.5, 1.0, 1.5)
    )  # fmt: skip
    profile = device({key: NUMBERS[key] for key in NUMBERS if key != "flash.bandwidth"})
    rates = [run(profile | {"flash": flash}).tokens_per_second for flash in (slow, fast)]
    source = {"flash": {"kind": "measured", "from": "a test", "spread": SPREAD}}
    own = profile | {"flash": usual, "sources": profile["sources"] | source}
    assert alone(run(own)) == near({"flash.reads": tuple(rates)})


@pytest.mark.parametrize(
    ("source", "ends"),
    [
        ({"kind": "measured", "spread": 0.2}, (0.3, 0.7)),
        ({"kind": "measured"}, (0.4, 0.6)),
        ({"kind": "estimate", "spread": 0.3}, (0.2, 0.8)),
        ({"kind": "vendor", "spread": 7}, (0, 1)),
        ({"kind": "estimate"}, (0.05, 0.95)),
        (None, (0.05, 0.95)),
    ],
)
def test_an_overlap_is_a_share(source: dict[str, Any] | None, ends: tuple[float, float]) -> None:
    profile = device()
    del profile["sources"][OVERLAP]
    if source is not None:
        profile["sources"][OVERLAP] = {"from": "a test", **source}
    slow, fast = (run(device({**NUMBERS, OVERLAP: (a, "")})).tokens_per_second for a in ends)
    assert alone(run(profile)) == near({OVERLAP: (slow, fast)})


def test_where_nothing_overlaps_the_factor_does_not_matter() -> None:
    result = run(device(spreads={OVERLAP: 9}), overlap="serial")
    assert OVERLAP not in alone(result)
    assert result.interval == run(device(), overlap="serial").interval


def test_a_share_of_the_peak_is_at_most_all_of_it() -> None:
    efficiency = f"{CPU}.dram_efficiency"
    slow, fast = alone(run(device({**NUMBERS, efficiency: (0.8, "")}, {efficiency: 1})))[efficiency]
    for share, rate in ((0.4, slow), (1.0, fast)):
        assert run(device({**NUMBERS, efficiency: (share, "")})).tokens_per_second == near(rate)


# All of them --------------------------------------------------------------------------------------


def test_where_dram_alone_is_uncertain_the_rate_is_lognormal() -> None:
    numbers = {
        "dram.bandwidth": (100, "B/s"),
        f"{CPU}.dram_efficiency": (1, ""),
        "flash.bandwidth": (1e15, "B/s"),
        COMPUTE: (1e15, "FLOP/s"),
    }
    trace = one_layer.trace([{0, 1}] * 4)
    options: dict[str, Any] = {"warmup": 1, "cache_fraction": 1.0, "engine": "closed"}
    result = simulate(trace, device(numbers, {"dram.bandwidth": SPREAD}), **options)
    rate = result.tokens_per_second
    assert alone(result) == {"dram.bandwidth": near((rate / 1.5, rate * 1.5), 1e-6)}
    both = math.exp(math.hypot(math.log(1 + SPREAD), math.log(1 + RULES)))
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == near((rate / both, rate * both), 0.02)


def test_without_doubt_about_numbers_that_about_the_rules_is_left() -> None:
    profile = device()
    result = run(profile, overlap="serial")
    assert result.interval is not None
    rate = result.tokens_per_second
    ends = rate / (1 + RULES), rate * (1 + RULES)
    assert (result.interval.low, result.interval.high) == near(ends, 1e-4)
    assert alone(result) == {}


def test_a_naive_twin_finds_the_same_interval() -> None:
    """Draws one by one, each through a whole run of a changed profile."""
    spreads = {**dict.fromkeys(NUMBERS, 0.25), "flash.bandwidth": 0.6, f"{CPU}.per_layer": 0.5}
    rng, rates = np.random.default_rng(5), []
    for _ in range(300):
        drawn = dict(NUMBERS)
        for key, (value, unit) in NUMBERS.items():
            if key == OVERLAP:
                share = value + rng.normal() * spreads[key] / 1.6449
                drawn[key] = float(np.clip(share, 0, 1)), unit
            else:
                factor = rng.lognormal(0, math.log(1 + spreads[key]) / 1.6449)
                drawn[key] = min(value * factor, 1.0) if not unit else value * factor, unit
        rules = rng.lognormal(0, math.log(1 + RULES) / 1.6449)
        rates.append(rules * run(device(drawn)).tokens_per_second)
    interval = run(device(spreads=spreads)).interval
    assert interval is not None
    assert (interval.low, interval.high) == near(tuple(np.quantile(rates, (0.05, 0.95))), 0.05)


def test_the_rates_from_no_to_full_overlap_lie_in_the_interval() -> None:
    with patch("dipsim.timeline.interval.RULES", 0.0):  # nothing at all is in doubt
        result = run(device())
        interval = result.interval
    slow, fast = result.timing.rate_range
    assert slow < result.tokens_per_second < fast
    assert interval is not None
    assert (interval.low, interval.high) == (slow, fast)


def test_a_seed_decides_the_draws() -> None:
    first, again, other = (run(device(others=0.3), seed=seed) for seed in (0, 0, 1))
    assert first.interval == again.interval != other.interval
    assert width(first) == near(width(other), 0.1)


def test_a_number_that_does_not_matter_does_not_widen() -> None:
    mask = (f"{CPU}.per_mask", f"{CPU}.per_score", f"{CPU}.cache_copy")
    small, large = (
        run(
            device(spreads=dict.fromkeys(mask, spread), others=0.2),
            method="dense",
            cache_fraction=0,
        )
        for spread in (0.0, 9.0)
    )
    assert small.interval == large.interval


def test_every_number_that_matters_widens() -> None:
    base = width(run(device(others=0.1)))
    for key in NUMBERS:
        assert width(run(device(spreads={key: 2}, others=0.1))) > base


def test_long_runs_are_judged_by_evenly_spaced_tokens() -> None:
    trace, key = three_layers.scores(3, 400), "flash.bandwidth"
    options: dict[str, Any] = {"cache_fraction": 0.5, "engine": "closed"}
    factors = 1 / (1 + SPREAD), 1 + SPREAD
    slow, fast = (simulate(trace, device(times(key, each)), **options) for each in factors)
    rates = slow.tokens_per_second, fast.tokens_per_second
    assert alone(simulate(trace, device(spreads={key: SPREAD}), **options)) == {
        key: near(rates, 0.005)
    }


def test_where_only_events_tell_the_rate_moves_as_in_closed_form() -> None:
    heat = {"thermal.after": (1, "s"), "thermal.flash": (0.5, ""), "thermal.compute": (0.5, "")}
    profile = device({**NUMBERS, **heat}, others=0.3)
    cold, hot = run(profile), run(profile, engine="auto", thermal="sustained")
    assert hot.timing.engine == "events"
    assert hot.tokens_per_second < cold.tokens_per_second
    assert width(hot) == near(width(cold), 0.1)


# Worth of a number --------------------------------------------------------------------------------


def test_a_spread_is_stated_or_that_of_the_kind() -> None:
    profile = load_profile(
        device()
        | {
            "sources": {
                "dram": {"kind": "vendor", "from": "a test"},
                "flash": {"kind": "fitted", "from": "a test", "spread": 0.07},
                f"{CPU}.per_mask": {"kind": "measured", "from": "a test"},
            }
        },
        ("dram.background=1B/s",),
    )
    assert spread_of(profile, "dram.bandwidth") == SPREADS["vendor"]
    assert spread_of(profile, "flash.bandwidth") == 0.07
    assert spread_of(profile, f"{CPU}.per_mask") == SPREADS["measured"]
    assert spread_of(profile, "dram.background") == SPREADS["estimate"]  # stated by -s
    assert spread_of(profile, f"{CPU}.per_layer") == SPREADS["estimate"]  # no source at all


def test_the_page_on_profiles_has_the_spread_of_every_kind() -> None:
    page = (DOCS / "profiles.md").read_text()
    for kind, spread in CALIBRATED.items():
        assert re.search(rf"^\| `{kind}` \| .* \| {spread:g} \|$", page, re.MULTILINE)


def test_a_formula_is_worth_as_much_as_its_worst_number() -> None:
    fit = {
        "t0": "1 ms",
        "bandwidth": "1 GB/s",
        "cap": "2 GB/s",
        "p": 3,
        "sizes": ["4 KiB", "1 MiB"],
    }
    sources = {"flash.fit": {"kind": "measured", "from": "a test"}}
    numbers = {key: NUMBERS[key] for key in NUMBERS if not key.startswith("flash")}
    profile = device(numbers) | {"flash": {"fit": {**fit, "lanes": [1, 4]}}, "sources": sources}
    assert spread_of(load_profile(profile), "flash.fit") == SPREADS["measured"]
    stated = load_profile(profile, ("flash.fit.cap=3GB/s",))
    assert spread_of(stated, "flash.fit") == SPREADS["estimate"]


def test_measured_numbers_narrow_the_interval() -> None:
    profile = device()
    widths = []
    for kind in ("estimate", "fitted", "vendor", "measured"):
        profile["sources"] = {key: {"kind": kind, "from": "a test"} for key in NUMBERS}
        widths.append(width(run(profile)))
    assert widths == sorted(widths, reverse=True)
    own = {"kind": "measured", "from": "a test", "spread": 0.01}
    first = next(iter(alone(run(profile))))
    profile["sources"][first] = own
    assert width(run(profile)) < widths[-1]


def test_a_name_vouches_for_nothing() -> None:
    numbers = {**NUMBERS, "dram.bandwidth": (900, "GB/s")}
    named, plain = (
        run(device(numbers, others=0.3, name=name)) for name in ("snapdragon8gen3", "x")
    )
    assert named.interval == plain.interval
    measured = simulate("smollm2-chat", "snapdragon8", tokens="0:8", cache_fraction=0.5)
    stated = simulate(
        "smollm2-chat", "snapdragon8", tokens="0:8", cache_fraction=0.5,
        overrides=("flash.bandwidth=2GB/s",),
    )  # fmt: skip
    assert "flash.bandwidth" in alone(stated)
    assert width(stated) > width(measured)


def test_the_number_that_widens_most_is_named_first() -> None:
    spreads = {f"{CPU}.per_layer": 3.0, "flash.bandwidth": 2.0, "dram.bandwidth": 0.05}
    named = alone(run(device(spreads=spreads)))
    assert list(named) == sorted(named, key=lambda key: named[key][0] / named[key][1])
    assert set(named) == set(spreads)
    assert len(alone(run(device(others=0.5)))) == 3
    assert alone(run(device(spreads={"flash.bandwidth": 0.001}))) == {}


# Runs with none -----------------------------------------------------------------------------------


def test_the_papers_device_is_what_its_numbers_say() -> None:
    for overlap in ("paper-serial", "paper-concurrent"):
        result = run(device(others=0.5), overlap=overlap)
        assert result.interval is None
        assert result.to_dict()["tokens_per_second_interval"] is None


def test_a_run_that_takes_no_time_has_none() -> None:
    result = run(device())
    assert rate_interval(result.run, result.traffic, replace(result.timing, rate=math.inf)) is None


@pytest.mark.parametrize(
    ("options", "said"), [({}, "no phone was measured with dip:"), ({"method": "dense"}, None)]
)
def test_methods_that_no_phone_was_measured_with_say_so(
    options: dict[str, Any], said: str | None
) -> None:
    interval = run(device(), **options).interval
    assert interval is not None
    assert (interval.unmeasured or "").startswith(said or "")
    assert (interval.unmeasured is None) is (said is None)


@pytest.mark.parametrize("recorded", [False, True])
def test_experts_were_measured(recorded: bool) -> None:
    scores = np.random.default_rng(0).random((8, 2, 6)).astype(np.float32)
    expert = np.argsort(np.argsort(scores)) > 3 if recorded else scores
    trace = {"expert": expert, "meta": {"signals": {"expert": {"unit_bytes": 64}}}}
    result = simulate(trace, device(), top_k=None if recorded else 2, cache_fraction=0.5)
    assert result.method == ("recorded" if recorded else "moe")
    assert result.interval is not None
    assert result.interval.unmeasured is None
