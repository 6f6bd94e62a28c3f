"""fio: what jobs of any mix reach together, what tells nothing, and the real program."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.calibrate.benchmarks import read_benchmarks
from dipsim.calibrate.measured import Measurements
from dipsim.disk.fit import Measured
from dipsim.errors import DipsimError
from tools.benchmarks import fio_json


def read(folder: Path, text: str, name: str = "fio.json") -> Measurements:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_benchmarks([str(path)])


def point(size: int = 4096, bandwidth: float = 2e8, **changes: Any) -> dict[str, Any]:
    return {"size": size, "bandwidth": bandwidth, **changes}


@pytest.mark.parametrize("how", ["json", "json+"])
@pytest.mark.parametrize("grouped", [True, False])
def test_a_mix_of_jobs(tmp_path: Path, how: str, grouped: bool) -> None:
    points = [
        point(),
        point(131072, 1.5e9, depth=8),
        point(131072, 1.1e9, jobs=4),
        point(2**20, 2.2e9, depth=4, jobs=2, rw="read"),
        point(2**20, 1.0e9, rw="write"),
        point(4096, 9e7, jobs=2, rw="randwrite"),
    ]
    found = read(tmp_path, fio_json(points, how, grouped=grouped))
    assert [reads.point for reads in found.reads] == [
        Measured(4096, 1, 2e8),
        Measured(131072, 8, 1.5e9),
        Measured(131072, 4, 1.1e9),
        Measured(2**20, 8, 2.2e9),
    ]
    assert [reads.in_order for reads in found.reads] == [False, False, False, True]
    told = [(way.bandwidth, way.size, way.lanes, way.in_order) for way in found.writes]
    assert told == [(1.0e9, 2**20, 1, True), (9e7, 4096, 2, False)]
    assert found.refused == ()
    origin = found.reads[0].origin
    assert origin[:] == ("fio.json", "fio", "2026-03-14", "fio-3.33")


def test_notes_above_and_below_are_passed_over(tmp_path: Path) -> None:
    notes = "note: both iodepth >= 1 and synchronous I/O engine are selected\nfio: {terse}\n"
    text = "\ufeff" + notes + fio_json([point()]) + "\nbye\n"
    assert len(read(tmp_path, text.replace("\n", "\r\n")).reads) == 1


@pytest.mark.parametrize("engine", ["psync", "sync", "pvsync2", "posix_fadvise", ""])
def test_engines_that_wait_have_a_depth_of_one(tmp_path: Path, engine: str) -> None:
    shared = {"direct": "1", **({"ioengine": engine} if engine else {})}
    found = read(tmp_path, fio_json([point(depth=32, jobs=3)], shared=shared))
    assert found.reads[0].point.lanes == 3


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("4k", 4096),
        ("4K", 4096),
        ("4096", 4096),
        ("4096B", 4096),
        ("64kb", 65536),
        ("4ki", 4000),
        ("1m", 2**20),
        ("16k,64k", 16384),
    ],
)
def test_block_sizes(tmp_path: Path, given: str, size: int) -> None:
    found = read(tmp_path, fio_json([point(options={"bs": given})]))
    assert found.reads[0].point.size == size


def test_the_default_block_and_another_base(tmp_path: Path) -> None:
    data = json.loads(fio_json([point(), point()], shared={"direct": "1", "kb_base": "1000"}))
    del data["jobs"][0]["job options"]["bs"]
    data["jobs"][1]["job options"]["bs"] = "8ki"
    found = read(tmp_path, json.dumps(data, indent=1))
    assert [reads.point.size for reads in found.reads] == [4000, 8192]
    data["global options"] = {"buffered": "0"}
    data["jobs"].pop()
    found = read(tmp_path, json.dumps(data, indent=1))
    assert [reads.point.size for reads in found.reads] == [4096]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"direct": "0"}, "through the page cache"),
        ({"ioengine": "mmap"}, "through the page cache"),
        ({"rw": "randrw"}, "rw=randrw: reads and writes in turn"),
        ({"rw": "trim"}, "rw=trim"),
        ({"bssplit": "4k/50:64k/50"}, "requests of several sizes"),
        ({"bsrange": "4k-64k"}, "requests of several sizes"),
        ({"rate_iops": "100"}, "rate_iops: its requests were held back"),
        ({"bs": "much"}, "bs=much: no block size"),
        ({"bs": "9" * 12 + "t"}, "bs is"),
        ({"iodepth": "-1"}, "iodepth is"),
        ({"numjobs": "nan"}, "numjobs is"),
        ({"iodepth": "512"}, "512 requests in flight; a curve has at most 256"),
    ],
)
def test_jobs_that_tell_nothing_are_refused_and_others_kept(
    tmp_path: Path, options: dict[str, str], told: str
) -> None:
    found = read(tmp_path, fio_json([point(options=options), point(8192)]))
    assert [reads.point.size for reads in found.reads] == [8192]
    (sentence,) = found.refused
    assert sentence.startswith("fio.json: job j0: ")
    assert told in sentence


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bw_bytes": 0}, "bw_bytes is 0"),
        ({"bw_bytes": -5}, "bw_bytes is -5"),
        ({"bw_bytes": 1e300}, "bw_bytes is 1e"),
        ({"bw_bytes": "2e8"}, "bw_bytes is '2e8'"),
        ({"bw_bytes": 1e13}, "no disk takes less than"),
    ],
)
def test_bandwidths_that_are_none(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    data = json.loads(fio_json([point()]))
    data["jobs"][0]["read"].update(changes)
    with pytest.raises(DipsimError, match=told):
        read(tmp_path, json.dumps(data, indent=1))


def test_jobs_beside_each_other_must_be_alike(tmp_path: Path) -> None:
    data = json.loads(fio_json([point(bandwidth=1e8), point(8192, 1e8)]))
    data["jobs"][1]["groupid"] = 0
    with pytest.raises(DipsimError, match="of several kinds ran at the same time"):
        read(tmp_path, json.dumps(data, indent=1))
    data["jobs"][1]["job options"]["bs"] = "4k"
    (reads,) = read(tmp_path, json.dumps(data, indent=1)).reads
    assert reads.point == Measured(4096, 2, 2e8)


def test_jobs_hidden_under_one_report_are_noticed(tmp_path: Path) -> None:
    data = json.loads(fio_json([point()]))
    data["jobs"][0]["job_runtime"] = 8000
    with pytest.raises(DipsimError, match="several jobs ran at the same time under one report"):
        read(tmp_path, json.dumps(data, indent=1))


def test_figures_of_older_versions_are_in_kib(tmp_path: Path) -> None:
    data = json.loads(fio_json([point(bandwidth=1024e5)]))
    del data["jobs"][0]["read"]["bw_bytes"]
    assert read(tmp_path, json.dumps(data, indent=1)).reads[0].point.bandwidth == 1024e5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"jobs": []}, "no jobs"),
        ({"jobs": 3}, "no jobs"),
        ({"jobs": [3]}, "a job must be an object"),
        ({"jobs": [{"jobname": "a"}]}, "no job options"),
    ],
)
def test_files_without_jobs(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    data = json.loads(fio_json([point()]))
    with pytest.raises(DipsimError, match=told):
        read(tmp_path, json.dumps({**data, **change}, indent=1))


def test_two_hosts_in_a_file_are_refused(tmp_path: Path) -> None:
    data = json.loads(fio_json([point(), point(8192)]))
    data["jobs"][0]["hostname"], data["jobs"][1]["hostname"] = "phone", "laptop"
    data["client_stats"] = data.pop("jobs")
    with pytest.raises(DipsimError, match="measurements of phone and of laptop in one file"):
        read(tmp_path, json.dumps(data, indent=1))


def test_reads_that_contradict_each_other(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    points = [point(), point(bandwidth=3.1e8), point(8192), point(8192)]
    found = read(tmp_path, fio_json(points, noise=0.01, random=random))
    assert [reads.point.size for reads in found.reads] == [8192, 8192]
    (sentence,) = found.refused
    assert "reads of 4096 B, 1 in flight, measured 2 times" in sentence


# The program itself -------------------------------------------------------------------------------

IN_CI = bool(os.environ.get("CI"))


@pytest.mark.slow
def test_the_real_program(tmp_path: Path) -> None:
    program = shutil.which("fio")
    if program is None:
        assert not IN_CI, "install fio (Debian's package of that name)"
        pytest.skip("needs fio")
    shared = [f"--filename={tmp_path / 'f'}", "--size=8m", "--runtime=500ms", "--time_based"]
    shared += ["--ioengine=psync", "--group_reporting", "--direct=1"]
    jobs = ["--name=a", "--rw=randread", "--bs=4k"]
    jobs += ["--name=b", "--stonewall", "--rw=randread", "--bs=64k", "--numjobs=2"]
    jobs += ["--name=c", "--stonewall", "--rw=read", "--bs=1m", "--iodepth=4"]
    jobs += ["--name=d", "--stonewall", "--rw=read", "--bs=1m", "--direct=0"]
    for form in ("json", "json+"):
        done = subprocess.run(
            [program, *shared, f"--output-format={form}", *jobs],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        if done.returncode and "O_DIRECT" in done.stdout + done.stderr:
            assert not IN_CI, "give tests a file system with direct reads"
            pytest.skip("needs a file system with direct reads")
        found = read(tmp_path, done.stdout)
        told = [(reads.point.size, reads.point.lanes, reads.in_order) for reads in found.reads]
        assert told == [(4096, 1, False), (65536, 2, False), (2**20, 1, True)]
        (sentence,) = found.refused
        assert "job d: through the page cache" in sentence
        printed = json.loads(done.stdout[done.stdout.index("{") :])  # below fio's notes
        entries = {job["jobname"]: job for job in printed["jobs"]}
        assert found.reads[1].point.bandwidth == entries["b"]["read"]["bw_bytes"]
        assert found.reads[0].origin.command.startswith("fio-")
