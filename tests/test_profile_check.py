"""`dipsim profiles --check`: what it finds in a profile, and what it lets pass."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.analysis.flash_laws import bus_of
from dipsim.analysis.profile_laws import LAWS, check_profile
from dipsim.analysis.reference import MODELS, compare_to_nearest, nearest_to, sizes_of
from dipsim.hardware import Profile, load_profile, profile_names
from dipsim.simulate import simulate
from tools.cli import Dipsim, done, refused

SOUND: dict[str, Any] = {
    "name": "mine",
    "summary": "my phone (UFS 4.0)",
    "dram": {"capacity": "12 GB", "available": "6 GB", "bandwidth": "68 GB/s"},
    "flash": {
        "lanes": 4,
        "align": "4 KiB",
        "write": "1 GB/s",
        "iops": "60 kIOPS",
        "reads": [
            {"size": "128 KiB", "lanes": 1, "bandwidth": "0.9 GB/s"},
            {"size": "1 MiB", "lanes": 1, "bandwidth": "1.9 GB/s"},
            {"size": "128 KiB", "lanes": 4, "bandwidth": "1.5 GB/s"},
            {"size": "1 MiB", "lanes": 4, "bandwidth": "2.4 GB/s"},
        ],
        "fault": {"seconds": "40 us"},
    },
    "backends": {
        "cpu": {
            "engine": "llama.cpp",
            "gemv": {"q4_0": "30 GB/s"},
            "dram_efficiency": 0.5,
            "compute": "0.3 TFLOP/s",
            "per_layer": "0.2 ms",
            "per_mask": "30 us",
            "overlap_factor": 0.45,
            "cache_copy": "8 GB/s",
            "active_power": "8 W",
        }
    },
    "runtime_overhead": "200 MB",
    "page_cache": {"bandwidth": "8 GB/s"},
    "energy": {"dram": "40 pJ/B", "flash": "420 pJ/B", "idle": "0.8 W"},
    "sources": {
        section: {"kind": "measured", "from": "fio 3.36 and llama-bench on a Pixel 10, 2026-05-01"}
        for section in ("dram", "flash", "backends", "runtime_overhead", "page_cache", "energy")
    },
}
"""A profile without a fault."""


def changed(**values: Any) -> Profile:
    """Return the sound profile with other values; ``__`` in a name stands for a dot, None takes a
    value away."""
    data = copy.deepcopy(SOUND)
    for path, value in values.items():
        *sections, last = path.split("__")
        place = data
        for section in sections:
            place = place[section]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return load_profile(data)


def reads(*points: tuple[str, int, str]) -> list[dict[str, Any]]:
    return [{"size": s, "lanes": n, "bandwidth": b} for s, n, b in points]


def source(kind: str, origin: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "from": origin, **more}


def test_a_sound_profile_has_no_finding() -> None:
    assert check_profile(changed()) == []


FAST = reads(("4 KiB", 1, "0.1 GB/s"), ("1 MiB", 1, "5 GB/s"))
FAULTS: list[tuple[dict[str, Any], str, bool, str]] = [
    # what is changed, key, whether it is an error, what is said
    ({"flash__reads": FAST}, "flash.reads", True, "UFS 4 carries, 4.66 GB/s"),
    ({"summary": "a phone (UFS 3.1)"}, "flash.reads", True, "UFS 3 carries, 2.33 GB/s"),
    ({"summary": "a phone (UFS 2.2)"}, "flash.reads", True, "UFS 2 carries, 1.17 GB/s"),
    ({"summary": "a board with eMMC"}, "flash.reads", True, "eMMC carries, 400 MB/s"),
    ({"summary": "PCIe 2.0 x1"}, "flash.reads", True, "PCIe 2.0 x1 carries, 500 MB/s"),
    (
        {"summary": "", "flash__reads": reads(("1 MiB", 1, "16 GB/s"))},
        "flash.reads", False, "more than a drive on PCIe 5.0 x4",
    ),
    (
        {"summary": "", "flash__reads": reads(("1 MiB", 1, "70 GB/s"))},
        "flash.reads", True, "as fast as DRAM",
    ),
    (
        {"flash__reads": reads(("128 KiB", 1, "2 GB/s"), ("1 MiB", 1, "1.7 GB/s"))},
        "flash.reads", False, "falls by 15% with size: 128 KiB with 1 in flight reach 2 GB/s",
    ),
    (
        {"flash__reads": reads(("128 KiB", 1, "2 GB/s"), ("1 MiB", 1, "1.2 GB/s"))},
        "flash.reads", True, "falls by 40% with size",
    ),
    (
        {"flash__reads": reads(("1 MiB", 1, "2 GB/s"), ("1 MiB", 4, "1.2 GB/s"))},
        "flash.reads", True, "falls by 40% with lanes",
    ),
    (
        {"flash__iops": None, "flash__reads": reads(("4 KiB", 1, "2 GB/s"))},
        "flash.reads", False, "2.05 us a read, and flash takes 20 to 100 us",
    ),
    ({"flash__iops": "1 MIOPS"}, "flash.iops", True, "are 4.1 GB/s, more than the largest"),
    ({"flash__write": "3 GB/s"}, "flash.write", False, "more than reads reach (2.4 GB/s)"),
    ({"flash__fault": {"seconds": "1 us"}}, "flash.fault.seconds", True, "faster than the largest"),
    ({"flash__fault": {"seconds": "9 ms"}}, "flash.fault.seconds", False, "usual is 20 to 200 us"),
    ({"dram__available": "10 GB"}, "dram.available", False, "83% of capacity"),
    ({"dram__capacity": "12 TB"}, "dram.capacity", False, "usual is 4 to 64 GB"),
    ({"dram__bandwidth": "68 TB/s"}, "dram.bandwidth", True, "usual is 17 to 550 GB/s"),
    ({"dram__background": "40 GB/s"}, "dram.background", False, "more than half"),
    ({"runtime_overhead": "6 GB"}, "runtime_overhead", True, "takes all of dram.available"),
    ({"backends__cpu__gemv": {"q4_0": "69 GB/s"}}, "backends.cpu.gemv.q4_0", True, "is 101%"),
    ({"backends__cpu__gemv": {"q4_0": "66 GB/s"}}, "backends.cpu.gemv.q4_0", False, "is 97%"),
    ({"backends__cpu__gemv": {"q9_9": "30 GB/s"}}, "backends.cpu.gemv.q9_9", False, "no format"),
    ({"backends__cpu__dram_efficiency": 1.0}, "backends.cpu.dram_efficiency", False, "is 100%"),
    ({"backends__cpu__dram_efficiency": None}, "backends.cpu", False, "no dram_efficiency"),
    ({"backends__cpu__cache_copy": "40 GB/s"}, "backends.cpu.cache_copy", False, "twice"),
    ({"backends__cpu__cache_copy": "90 GB/s"}, "backends.cpu.cache_copy", True, "twice"),
    ({"page_cache": {"bandwidth": "70 GB/s"}}, "page_cache.bandwidth", True, "twice"),
    ({"backends__cpu__compute": "300 TFLOP/s"}, "backends.cpu.compute", True, "0.1 to 2 TFLOP/s"),
    ({"backends__cpu__compute": "9 TFLOP/s"}, "backends.cpu.compute", False, "0.1 to 2 TFLOP/s"),
    ({"backends__cpu__compute": "3 MFLOP/s"}, "backends.cpu.compute", False, "0.1 to 2 TFLOP/s"),
    ({"backends__cpu__compute": "unlimited"}, "backends.cpu.compute", False, "cost no compute"),
    ({"backends__cpu__per_layer": None}, "backends.cpu.per_layer", False, "costs nothing"),
    ({"backends__cpu__per_layer": "6 ms"}, "backends.cpu.per_layer", False, "30 us to 1 ms"),
    ({"backends__cpu__per_mask": "1 s"}, "backends.cpu.per_mask", False, "10 us to 0.3 ms"),
    ({"backends__cpu__overlap_factor": 0.9}, "backends.cpu.overlap_factor", False, "below 0.5"),
    ({"backends__cpu__active_power": "900 W"}, "backends.cpu.active_power", False, "2 to 15 W"),
    ({"energy__dram": "40 nJ/B"}, "energy.dram", False, "40000 pJ/B"),
    ({"energy__flash": "30 pJ/B"}, "energy.flash", False, "ten times as much"),
    ({"energy__idle": "50 W"}, "energy.idle", False, "0.3 to 5 W"),
    ({"sources__energy": None}, "sources", True, "energy.dram, energy.flash, energy.idle"),
    ({"sources__dram": source("vendor", "press")}, "sources.dram", False, "'press' says nothing"),
    (
        {"sources__dram": source("measured", "my own phone")},
        "sources.dram", False, "does not say where it was measured",
    ),
    ({"sources__dram": source("fitted", "runs of mine")}, "sources.dram", False, "names no cases"),
    (
        {"sources__dram": source("fitted", "runs of mine", cases=["a", "b", "c"])},
        "sources.dram", False, "without left_out",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "key", "certain", "said"), FAULTS)
def test_a_fault_is_found(change: dict[str, Any], key: str, certain: bool, said: str) -> None:
    found = check_profile(changed(**change))
    mine = [finding for finding in found if finding.key == key and said in finding.fault]
    assert [finding.certain for finding in mine] == [certain], found
    assert all("\n" not in str(finding) for finding in found)


def test_errors_come_first_and_every_law_can_find_something() -> None:
    tripped = set()
    for change, *_ in FAULTS:
        profile = changed(**change)
        found = check_profile(profile)
        assert found == sorted(found, key=lambda finding: not finding.certain)
        tripped |= {law for law in LAWS if list(law(profile))}
    assert tripped == {*LAWS}


def test_noise_is_no_fall() -> None:
    level = reads(("128 KiB", 1, "2 GB/s"), ("1 MiB", 1, "1.81 GB/s"), ("1 MiB", 4, "1.7 GB/s"))
    assert check_profile(changed(flash__reads=level)) == []


def test_a_fitted_flash_is_held_to_the_same_laws() -> None:
    formula = {"t0": "0.2 ms", "bandwidth": "3 GB/s", "cap": "5 GB/s", "iops": "2 MIOPS",
               "p": 3.0, "sizes": ["4 KiB", "1 MiB"], "lanes": [1, 4]}  # fmt: skip
    found = check_profile(changed(flash={"lanes": 4, "fit": formula}))
    assert [(finding.key, finding.certain) for finding in found] == [
        ("flash.fit.cap", True), ("flash.fit.iops", True)]  # fmt: skip


@pytest.mark.parametrize(
    ("summary", "name", "limit"),
    [
        ("UFS 3.1 or UFS 4.0", "UFS 4", 4.664e9),
        ("NVMe", "NVMe", 15.752e9),
        ("NVMe on PCIe 3.0 x1", "PCIe 3.0 x1", 0.985e9),
        ("Gen4 drive", "PCIe 4.0 x4", 7.876e9),
        ("pcie-devices of a page", None, None),
        ("emmc", "eMMC", 0.4e9),
    ],
)
def test_the_bus_that_a_profile_names(summary: str, name: str | None, limit: float | None) -> None:
    bus = bus_of(changed(summary=summary))
    assert (bus and bus.name) == name
    assert (bus and bus.limit) == (limit if limit is None else pytest.approx(limit))


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles_have_no_errors(name: str) -> None:
    assert [str(finding) for finding in check_profile(load_profile(name)) if finding.certain] == []


# Runs ---------------------------------------------------------------------------------------------


def test_the_nearest_device_by_hand() -> None:
    """The root of the summed squares of three log ratios, worked out anew."""
    mine = changed()
    own = (12e9, 68e9, 2.4e9)
    assert sizes_of(mine) == pytest.approx(own)
    apart = {}
    for name in profile_names():
        other = load_profile(name)
        its = sizes_of(other)
        if math.isfinite(other.backend()[1].compute):
            apart[name] = sum(math.log(a / b) ** 2 for a, b in zip(own, its, strict=True))
    assert nearest_to(mine).name == min(apart, key=lambda name: apart[name])


def test_the_nearest_of_a_shipped_device_is_another() -> None:
    """Neither itself nor its other name."""
    for name in ("snapdragon8", "snapdragon8gen3"):
        assert nearest_to(load_profile(name)).name not in ("snapdragon8", "snapdragon8gen3")


def test_runs_are_those_of_simulate() -> None:
    mine = changed(dram__available="3 GB")
    compared = compare_to_nearest(mine)
    assert [here.model for here, _ in compared.runs] == list(MODELS)
    for place, device in enumerate((mine, compared.nearest)):
        for model, pair in zip(MODELS, compared.runs, strict=True):
            result = simulate(None, device, model=model, method="dense", depth=512)
            assert pair[place].rate == result.tokens_per_second
            assert pair[place].interval == result.interval
    missing = [here.flash_bytes for here, _ in compared.runs]
    assert missing[:2] == [0, 0]
    assert missing[2] > 1e9


# Command ------------------------------------------------------------------------------------------

MINE = """
name: mine
dram: {capacity: 8 GB, available: 4 GB, bandwidth: 50 GB/s}
flash: {bandwidth: 60 GB/s}
backends: {cpu: {gemv: {q4_0: 55 GB/s}, dram_efficiency: 0.5, compute: 1 TFLOP/s}}
sources:
  dram: {kind: vendor, from: "data sheet of the SoC"}
"""


def test_errors_are_printed_and_the_exit_code_is_2(dipsim: Dipsim, folder: Path) -> None:
    (folder / "checked.yaml").write_text(MINE)
    outcome = dipsim("profiles --check checked.yaml")
    assert outcome.code == 2
    assert outcome.err == ["dipsim: profile mine: 3 errors and 1 doubt: mend what is an error"]
    starts = [line for line in outcome.out.splitlines() if line.startswith(("error", "doubt"))]
    keys = [line.split(": ")[:2] for line in starts]
    assert keys == [
        ["error", "sources"], ["error", "flash.bandwidth"], ["error", "backends.cpu.gemv.q4_0"],
        ["doubt", "backends.cpu.per_layer"]]  # fmt: skip
    assert "llama-3-8b" in outcome.out
    assert "is the shipped device that is nearest to mine" in outcome.out


def test_doubts_alone_are_no_failure(dipsim: Dipsim) -> None:
    out = done(dipsim("profiles --check paper-a18")).out
    assert "doubt: dram.available: 100% of capacity" in out
    assert "error" not in out


def test_a_model_that_does_not_fit_is_said(dipsim: Dipsim, folder: Path) -> None:
    (folder / "small.yaml").write_text("extends: snapdragon7gen3\nname: small\n")
    out = " ".join(done(dipsim("profiles --check small.yaml")).out.split())
    assert "llama-3-8b does not fit: " in out
    assert "smollm2-135m does not fit" not in out


def test_a_device_without_dram_is_judged_too(dipsim: Dipsim, folder: Path) -> None:
    (folder / "none.yaml").write_text(
        "extends: paper-a18\nname: none\ndram: {capacity: 0 B, available: 0 B}\n"
    )
    outcome = dipsim("profiles --check none.yaml")
    assert outcome.code == 2
    assert outcome.out.count("does not fit") >= len(MODELS)


@pytest.mark.parametrize("what", ["size", "lanes"])
def test_the_largest_fall_is_told_as_of_all_pairs(what: str) -> None:
    """Against every pair, on random curves."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        size, lanes = ((2**i, 4) for i in range(12, 20)), ((2**20, i) for i in range(1, 9))
        places = size if what == "size" else lanes
        points = [(f"{s} B", n, f"{rng.uniform(1, 2):.3f} GB/s") for s, n in places]
        profile = changed(flash__iops=None, flash__write=None, flash__reads=reads(*points))
        rates = [read.bandwidth for read in profile.flash.reads]
        worst = max((1 - b / a for i, a in enumerate(rates) for b in rates[i:]), default=0)
        told = [f.fault for f in check_profile(profile) if f"with {what}" in f.fault]
        assert [text.split(" ")[2] for text in told] == [f"{worst:.0%}"] * (worst > 0.1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("profiles --check nowhere.yaml", "nowhere.yaml"),
        ("profiles --check t.npz", "a trace, no profile"),
        ("profiles --check phone.yaml --json", "--check tests one"),
        ("profiles snapdragon8 --check phone.yaml", "NAME and --check"),
        ("profiles --check phone.yaml --sort dram", "--check and --sort"),
    ],
)
def test_what_cannot_be_checked_is_refused(dipsim: Dipsim, line: str, said: str) -> None:
    refused(dipsim(line), said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dram: {capacity: 8, bandwidth: 50 GB/s}", "8 has no unit"),
        ("dram: {capacity: 8 GB, bandwidth: 50 Gb/s}", "counts bits"),
        ("drams: {}", "unknown key 'drams'"),
        ("backends: {cpu: {dram_efficiency: 1.2}}", "dram_efficiency"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_in_one_line(
    dipsim: Dipsim, folder: Path, text: str, said: str
) -> None:
    (folder / "bad.yaml").write_text(f"extends: snapdragon8\nname: bad\n{text}\n")
    refused(dipsim("profiles --check bad.yaml"), said)
