"""mbw, STREAM, sizes of memory, and cases."""

import json
from pathlib import Path
from typing import Any

import pytest

from dipsim.calibrate.benchmarks import read_benchmarks
from dipsim.calibrate.measured import Measurements
from dipsim.errors import DipsimError
from tools.paths import shared

MIB = 2**20


def read(folder: Path, text: str, name: str = "memory.txt") -> Measurements:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_benchmarks([str(path)])


# Facts of published runs.
_MBW = """\
Long uses 8 bytes. Allocating 2*134217728 elements = 2147483648 bytes of memory.
Using 262144 bytes as blocks for memcpy block copy test.
Getting down to business... Doing 10 runs per test.
9\tMethod: DUMB\tElapsed: 0.08925\tMiB: 1024.00000\tCopy: 11474.032 MiB/s
AVG\tMethod: MEMCPY\tElapsed: 0.82003\tMiB: 2048.00000\tCopy: 2497.478 MiB/s
AVG     Method: DUMB    Elapsed: 0.23962        MiB: 2048.00000 Copy: 8546.830 MiB/s
AVG     Method: MCBLOCK Elapsed: 0.19531        MiB: 2048.00000 Copy: 10485.808 MiB/s  1.0 Mb/s
"""
_STREAM = """\
STREAM version $Revision: 5.10 $
This system uses 8 bytes per array element.
Array size = 10000000 (elements), Offset = 0 (elements)
Memory per array = 76.3 MiB (= 0.1 GiB).
Number of Threads requested = 6
Number of Threads counted = 6
Function    Best Rate MB/s  Avg time     Min time     Max time
Copy:           47239.8     0.003658     0.003387     0.004648
Scale:          48721.4     0.003657     0.003284     0.005366
Add:            46592.6     0.006095     0.005151     0.008138
"""


def test_mbw_counts_a_copy_once_and_the_bus_twice(tmp_path: Path) -> None:
    found = read(tmp_path, _MBW)
    assert [(way.test, way.bandwidth) for way in found.transfers] == [
        ("MEMCPY", 2 * 2497.478 * MIB),
        ("DUMB", 2 * 8546.830 * MIB),
        ("MCBLOCK", 2 * 10485.808 * MIB),
    ]
    assert {(way.threads, way.origin.tool) for way in found.transfers} == {(1, "mbw")}


def test_stream_counts_both(tmp_path: Path) -> None:
    found = read(tmp_path, _STREAM)
    assert [(way.test, way.bandwidth) for way in found.transfers] == [
        ("Copy", pytest.approx(47239.8e6)),
        ("Scale", pytest.approx(48721.4e6)),
        ("Add", pytest.approx(46592.6e6)),
    ]
    assert {way.threads for way in found.transfers} == {6}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (_MBW.replace("2048.00000", "8.00000"), "MEMCPY, DUMB, MCBLOCK: arrays below 16 MiB"),
        (_MBW.partition("AVG")[0], "no averages"),
        (_MBW.replace("2497.478", "-1").replace("8546.830", "0").replace("10485.808", "nan"),
         "MEMCPY: Copy in MiB/s is -1"),
        (_STREAM.replace("76.3 MiB", "0.8 MiB"), "Copy, Scale, Add: arrays below 16 MiB"),
        (_STREAM.partition("Copy:")[0], "no rates of Copy"),
        (_STREAM.replace("47239.8", "1e300").replace("48721.4", "0").replace("46592.6", "-"),
         "Copy: Best Rate MB/s is 1e"),
    ],
)  # fmt: skip
def test_outputs_that_tell_nothing(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        read(tmp_path, text)


def test_a_test_run_twice_must_agree(tmp_path: Path) -> None:
    other = tmp_path / "again.txt"
    other.write_text(_STREAM.replace("47239.8", "20000.0"))
    (tmp_path / "first.txt").write_text(_STREAM)
    found = read_benchmarks([str(tmp_path / "first.txt"), str(other)])
    assert {way.test for way in found.transfers} == {"Scale", "Add"}
    assert "Copy measured 2 times" in found.refused[0]


def test_sizes_of_memory(tmp_path: Path) -> None:
    linux = "MemTotal:       11534336 kB\nMemFree:  204800 kB\nMemAvailable:    6291456 kB\n"
    (memory,) = read(tmp_path, linux).memory
    assert (memory.capacity, memory.available) == (11 * 2**30, 6 * 2**30)
    (memory,) = read(tmp_path, linux.replace("MemAvailable", "Buffers")).memory
    assert memory.available is None
    mac = (
        "hw.memsize: 17179869184\n"
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
        "Pages free:                              1000.\nPages active:   99999.\n"
        "Pages inactive:                          2000.\nPages speculative:  30.\n"
    )
    (memory,) = read(tmp_path, mac).memory
    assert (memory.capacity, memory.available) == (2**34, 3030 * 16384)
    for none in ("MemTotal:  0 kB\n", "MemTotal: 99999999999999 kB\n", "hw.memsize: 12\n"):
        with pytest.raises(DipsimError, match="no device has that"):
            read(tmp_path, none)


# Cases --------------------------------------------------------------------------------------------


def case(**changes: Any) -> dict[str, Any]:
    return {
        "id": "a",
        "kind": "decode",
        "device": "Phone",
        "engine": "llama.cpp",
        "backend": "cpu",
        "model": "m",
        "weight_format": "q4_0",
        "value": 8,
        "source": "2024-02-03, a page",
        **changes,
    }


def cases_of(*cases: dict[str, Any]) -> str:
    return json.dumps({"models": {"m": {"layers": 4}}, "cases": list(cases)})


def test_cases_are_rates(tmp_path: Path) -> None:
    listed = [
        case(),
        case(id="b", model="n", unit="ms", value=50),
        case(id="c", model="n", kind="prefill", prompt=128, unit="s", value=4),
        case(id="d", kind="prefill", prompt=128, value=90),
        case(id="e", kind="ttft", unit="s", value=3),
        case(id="f", kind="prefill", unit="s", value=3),
        case(id="g", not_predicted="drafts"),
    ]
    found = read(tmp_path, cases_of(*listed))
    assert [(rate.case.id, rate.case.unit, rate.value) for rate in found.rates] == [
        ("a", "tokens/s", 8),
        ("b", "tokens/s", pytest.approx(20)),
        ("c", "tokens/s", pytest.approx(32)),
        ("d", "tokens/s", 90),
    ]
    assert found.rates[0].origin.date == "2024-02-03"
    assert [name for name, _ in found.devices] == ["Phone"]
    assert found.models == {"m": {"layers": 4}}
    assert len(found.refused) == 3
    as_yaml = "cases:\n- {id: a, kind: decode, model: m, value: 8}\n"
    assert read(tmp_path, as_yaml).rates[0].value == 8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (cases_of(case(value=-3)), "value must be a number above 0"),
        (cases_of(case(), case()), "a stands there twice"),
        (cases_of(case(depth="deep")), "depth"),
        (cases_of(), "no cases"),
        (cases_of(case())[:-5], "not readable as JSON"),
        ("cases:\n- {id: [\n", "not readable as YAML"),
        ("cases:\n" + "- {id: a}\n" * 500_000, "larger than"),
    ],
)
def test_cases_that_are_none(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        read(tmp_path, text)


def test_the_published_rates_are_read() -> None:
    found = read_benchmarks([str(shared("validation/resident.json"))])
    stated = json.loads(shared("validation/resident.json").read_text())["cases"]
    values = {entry["id"]: entry["value"] for entry in stated}
    assert len(found.rates) > 30
    assert all(rate.value == values[rate.case.id] for rate in found.rates)
    assert "OnePlus 12 (Snapdragon 8 Gen 3)" in {name for name, _ in found.devices}


def test_two_files_of_one_name_have_cases_of_their_own(tmp_path: Path) -> None:
    for folder, model in (("one", "m"), ("two", "n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cases.json").write_text(cases_of(case(model=model)))
    found = read_benchmarks([str(tmp_path)])
    assert len({rate.case.id for rate in found.rates}) == len(found.rates) == 2
