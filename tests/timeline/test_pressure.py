"""Memory pressure: what exceeds the DRAM an app may use is paged, by hand and as a law."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dipsim
from dipsim.analysis.attribution import SPEEDS, attribute
from dipsim.simulate import prepare
from dipsim.timeline.pressure import pressure_warning
from tools import three_layers
from tools.cli import Dipsim, done
from tools.one_layer import SETS, device, trace

FAULT = {"seconds": "8 s", "page": "512 B"}


def pressed(available: str, fault: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """Return the slow device that leaves so much DRAM to an app."""
    profile = {**device(), "staging": "0 B", **more}
    profile["dram"] = {**profile["dram"], "available": available}
    if fault is not None:
        profile["flash"] = {**profile["flash"], "fault": fault}
    return profile


def run(profile: dict[str, Any], **options: Any) -> dipsim.Result:
    options = {"policy": "lru", "cache_fraction": 0.25, "overlap": "serial", **options}
    return dipsim.simulate(trace(SETS), profile, **options)


def added(profile: dict[str, Any], **options: Any) -> list[float]:
    """Return what each token takes longer than on a device that leaves all of its DRAM."""
    calm = run({**profile, "dram": {**profile["dram"], "available": "1 kB"}}, **options)
    found = run(profile, **options)
    return list(found.timing.times.latency - calm.timing.times.latency)


def test_a_share_of_what_a_token_uses_is_faulted_in() -> None:
    # 152 B static, 48 B of KV and 24 B of cache, 224 B in all, of which 112 are left: half. Tokens
    # use 152 B, KV of 0, 1 and 2 positions of 16 B, and hit 0, 2 and 1 neurons of 12 B.
    used = np.array([152 + 0 + 0, 152 + 16 + 24, 152 + 32 + 12])
    profile = pressed("112 B", FAULT)
    assert added(profile) == pytest.approx(list(0.5 * used / 512 * 8))
    result = run(profile)
    moved, missed = 0.5 * used.mean(), 12 * (2 + 0 + 1) / 3
    assert result.flash_bytes_per_token == pytest.approx(missed + moved)
    assert result.timing.static_flash_bytes == pytest.approx(moved)
    assert result.timing.static_flash_reads == round(moved / 512)
    assert "paged" in result.marks
    assert "page faults among them" in result.verdict


def test_without_a_fault_a_page_is_a_read_alone() -> None:
    used = np.array([152, 192, 196])  # 4 KiB at 10 B/s
    assert added(pressed("112 B")) == pytest.approx(list(0.5 * used / 4096 * 409.6))


def test_overhead_and_staging_count_unless_the_budget_does() -> None:
    more = {"runtime_overhead": "100 B", "staging": "12 B"}
    # 224 B exceed the 210; with 112 beside them they are 336, of which 3 / 8 are not there.
    used = np.array([152, 192, 196])
    expected = list(0.375 * used / 512 * 8)
    assert added(pressed("210 B", FAULT, **more)) == pytest.approx(expected)
    given = {"cache_fraction": None, "dram": "224 B"}
    assert added(pressed("210 B", FAULT, **more), **given) == pytest.approx(expected)
    # What an app may use holds what is given: room for the rest is taken to be made.
    assert added(pressed("224 B", FAULT, **more), **given) == [0, 0, 0]
    counted = run(pressed("336 B", FAULT, **more), cache_fraction=None)  # the profile's available
    assert (counted.budget.beside, counted.budget.cache) == (0, 24)
    assert "paged" not in counted.marks


def test_what_is_asked_for_and_not_taken_is_not_paged() -> None:
    # All 96 B of neurons fit: 296 B, however much more is given.
    given = {"cache_fraction": None, "dram": "900 B"}
    result = run(pressed("296 B", FAULT), **given)
    assert "paged" not in result.marks
    assert "over-available" in result.marks
    assert result.fits
    assert not run(pressed("200 B", FAULT), **given).fits


@pytest.mark.parametrize("overlap", ["paper-serial", "paper-concurrent"])
def test_the_papers_modes_know_no_pressure(overlap: str) -> None:
    assert added(pressed("112 B", FAULT), overlap=overlap) == [0, 0, 0]
    assert "paged" not in run(pressed("112 B", FAULT), overlap=overlap).marks


def test_both_engines_agree_and_attribution_has_the_step() -> None:
    profile = pressed("112 B", FAULT)
    closed, events = (run(profile, engine=engine) for engine in ("closed", "events"))
    np.testing.assert_allclose(
        events.timing.times.exposed, closed.timing.times.exposed, rtol=1e-9, atol=1e-12
    )
    found = attribute(closed)
    assert sum(found.elasticity[speed] for speed in SPEEDS) == pytest.approx(1, abs=1e-2)
    parts = found.parts
    assert parts[0].name == "page faults"
    total = sum(sum(part.exposed.values()) for part in parts)
    assert total == pytest.approx(closed.timing.times.latency.mean())


def warning(profile: dict[str, Any], **options: Any) -> str | None:
    return pressure_warning(prepare(dipsim.load_trace(trace(SETS)), profile, **options))


def test_the_warning_says_what_is_asked_and_what_to_do() -> None:
    more = {"runtime_overhead": "100 B"}
    assert warning(pressed("324 B", FAULT, **more), cache_fraction=0.25) is None
    said = warning(pressed("162 B", FAULT, **more), cache_fraction=0.25)
    assert said is not None
    assert "\n" not in said
    for part in ("take 324 B", "leaves 162 B", "50.0%", "8 s per 512 B", "the cache less"):
        assert part in said
    said = warning(pressed("210 B", FAULT, **more), dram="224 B")
    assert said is not None
    assert "give at most --dram 210B" in said


def test_the_command_line_warns_and_marks(dipsim: Dipsim) -> None:
    line = "run --model phi-3-medium -p oneplus15r --method dense --dram"
    paged = done(dipsim(f"{line} 8GB"))
    assert sum("leaves 6 GB to an app" in said for said in paged.err) == 1
    assert "paged" in paged.out
    assert not done(dipsim(f"{line} 5GB")).err


@given(
    seed=st.integers(0, 2**16),
    asked=st.tuples(st.floats(0.3, 1), st.floats(0.3, 1)),
    overhead=st.sampled_from([0, 150]),
    staging=st.sampled_from([0, 40]),
    overlap=st.sampled_from(["serial", "pipelined"]),
)
@settings(max_examples=40, deadline=None)
def test_more_dram_is_never_slower_up_to_what_is_available(
    seed: int, asked: tuple[float, float], overhead: int, staging: int, overlap: Any
) -> None:
    """Up to ``available``; a policy that knows the future, as others may hit less with more."""
    available = 2600.0
    profile = {
        **three_layers.DEVICE,
        "dram": {**three_layers.DEVICE["dram"], "available": f"{available} B"},
        "runtime_overhead": f"{overhead} B",
        "staging": f"{staging} B",
        "backends": {"cpu": {"overlap_factor": 0.5}},
    }
    less, more = (
        dipsim.simulate(three_layers.scores(seed, 12), profile, policy="belady", context=4,
                        overlap=overlap, dram=f"{share * available} B")
        for share in sorted(asked)
    )  # fmt: skip
    assert more.tokens_per_second >= 0.999 * less.tokens_per_second
    assert "paged" not in more.marks
