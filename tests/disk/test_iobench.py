"""Measuring a disk: what is counted, what bounds the time, and which files are refused."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dipsim.calibrate.benchmarks.iobench import points_of
from dipsim.disk import direct_io
from dipsim.disk.bench import Bench, BenchCell, iobench
from dipsim.disk.direct_io import PAGE, Done, Readers, made_file, open_file
from dipsim.errors import DipsimError
from dipsim.report.iobench import render
from dipsim.units import BANDWIDTH
from tools.cli import invoke, refusal
from tools.work import ticking


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("disk") / "disk.bin"
    path.write_bytes(os.urandom(2**20 + 1000))  # the last page is not whole
    return str(path)


def test_every_combination_is_measured_in_bounded_time(
    disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(direct_io, "perf_counter", ticking(0.001))
    found = iobench(disk, (16384, 4096), (2, 1), 0.4, lambda *at: calls.append(at))
    # sixteen parts, in each of which a clock may tick for the begin, the end and a read of a thread
    assert sum(cell.seconds for cell in found.cells) < 0.4 + 16 * 0.005
    assert [(cell.lanes, cell.size) for cell in found.cells] == [
        (1, 4096), (1, 16384), (2, 4096), (2, 16384),
    ]  # fmt: skip
    assert calls[-1] == (16, 16)  # four passes
    for cell in found.cells:
        assert cell.reads > 0
        assert cell.bandwidth == pytest.approx(cell.size * cell.reads / cell.seconds)
        assert cell.spread >= 0


def test_a_long_measurement_holds_few_offsets(disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counting(_: Readers, wanted: list[tuple[int, int]], seconds: float) -> Done:
        asked.append(len(wanted))
        return Done(4096, 1, seconds)

    monkeypatch.setattr(Readers, "read", counting)
    iobench(disk, (4096,), (1,), 600)  # would be 75 million, of 8 GB
    assert asked == [2**20] * 4


def test_threads_read_what_is_there(disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bytes]] = []
    real = os.preadv

    def spying(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        found = real(descriptor, buffers, offset)
        seen.append((offset, bytes(buffers[0])))
        return found

    wanted = [(page * PAGE, PAGE * (1 + page % 3)) for page in range(40)]
    with open_file(disk) as file, Readers(file, 3, 3 * PAGE) as readers:
        monkeypatch.setattr(os, "preadv", spying)
        done = readers.read(wanted)
    assert (done.reads, done.size) == (40, sum(size for _, size in wanted))
    content = Path(disk).read_bytes()
    assert sorted(seen) == [(at, content[at : at + size]) for at, size in wanted]


def test_reading_stops_at_its_time(disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "perf_counter", ticking(0.001))
    with open_file(disk) as file, Readers(file, 2, PAGE) as readers:
        done = readers.read([(0, PAGE)] * 2_000_000, 0.05)
        assert done.reads == pytest.approx(50, abs=3)
        assert done.seconds == pytest.approx(0.05, abs=0.005)
        assert readers.read([]) == (0, 0, pytest.approx(0.001))


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(4 * PAGE))
    with open_file(str(path)) as file, Readers(file, 1, PAGE) as readers:
        os.truncate(path, PAGE)
        with pytest.raises(DipsimError, match="became shorter"):
            readers.read([(2 * PAGE, PAGE)])


def test_without_direct_reads_it_says_so(disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "_FLAG", 0)
    done = invoke("iobench", disk, "--sizes", "4KiB", "--threads", "1", "--seconds", ".1")
    assert "BUFFERED" in done.stdout
    assert "warning: no direct reads" in done.stderr


def test_the_table_and_the_csv(disk: str, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    command = ["iobench", disk, "--sizes", "4KiB,8 KiB", "--threads", "1,2", "--seconds", ".2"]
    done = invoke(*command, "--csv", str(out), "--json")
    shown = json.loads(done.stdout)
    assert [(at["size"], at["lanes"]) for at in shown["cells"]] == [
        (4096, 1), (8192, 1), (4096, 2), (8192, 2),
    ]  # fmt: skip
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["size"] for row in rows] == ["4 KiB", "8 KiB"] * 2
    assert [BANDWIDTH.parse(row["bandwidth"]) for row in rows] == [
        at["bandwidth"] for at in shown["cells"]
    ]
    assert points_of(out.read_text(), "iobench.csv")[1] == shown["direct"]
    assert list(rows[0])[:3] == ["size", "lanes", "bandwidth"]


def test_bandwidths_stand_at_their_size_and_lanes(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    cells = [
        BenchCell(size, lanes, 1e6 * size * lanes, 1, 1.0, size * lanes / 1e6)
        for lanes in (1, 2)
        for size in (4096, 8192)
    ]
    Console(width=80).print(render(Bench("f", True, cells)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split("  ")[-2:] == ["1 in flight", "2 in flight"]
    assert lines[2].split() == ["4", "KiB", "4.1", "GB/s", "8.19", "GB/s"]
    assert lines[3].split() == ["8", "KiB", "8.19", "GB/s", "16.4", "GB/s"]
    assert "1% (median), 2% at most (8 KiB, 2 in flight)" in lines[4]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--sizes", "5000 B"], "multiples of 4 KiB"),
        (["--sizes", "4096"], "has no unit"),
        (["--sizes", "0 B"], "multiples of 4 KiB"),
        (["--sizes", "1 GiB"], "up to 64 MiB"),
        (["--sizes", "4KiB,4KiB"], "different ones"),
        (["--sizes", "4.0001KiB"], "whole bytes"),
        (["--threads", "0"], "from 1 to 64"),
        (["--threads", "1,x"], "numbers of reads"),
        (["--threads", "-1"], "numbers of reads"),
        (["--threads", "2,2"], "different ones"),
        (["--seconds", "0"], "from 0.1 to 600"),
        (["--seconds", "nan"], "from 0.1 to 600"),
        (["--csv", "x.txt"], "ends in .csv"),
        ([], "fewer than 16 reads of 4 MiB: give a larger file"),
    ],
)
def test_figures_that_are_none(disk: str, options: list[str], told: str) -> None:
    assert told in refusal("iobench", disk, *options)


def test_files_that_cannot_serve(tmp_path: Path) -> None:
    assert "not a regular file" in refusal("iobench", str(tmp_path))
    assert "No such file" in refusal("iobench", str(tmp_path / "none"))
    assert "not a regular file" in refusal("iobench", "/dev/null")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in refusal("iobench", str(pipe))  # and does not wait for a writer
    (tmp_path / "empty").touch()
    assert "holds 0 B" in refusal("iobench", str(tmp_path / "empty"))
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(2**30)
    assert "half of it is holes" in refusal("iobench", str(tmp_path / "sparse"))


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user other than root")
def test_a_file_one_may_not_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(bytes(PAGE))
    path.chmod(0)
    assert "Permission denied" in refusal("iobench", str(path))


def test_a_file_is_made_of_real_blocks_and_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "made"
    size = 5 * 2**20 + PAGE
    with made_file(str(path), size) as file:
        assert list(tmp_path.iterdir()) == []  # whatever ends the program, it is gone
        assert file.size == size
        assert 512 * os.fstat(file.descriptor).st_blocks >= size
        with Readers(file, 1, PAGE) as readers:
            assert readers.read([(size - PAGE, PAGE)]).size == PAGE


def fails(*_: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_file_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(KeyboardInterrupt), made_file(str(tmp_path / "made"), PAGE):
        pass
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_made(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"mine")
    for path, size, told in (
        (there, PAGE, "cannot be made"),
        (tmp_path / "none" / "f", PAGE, "cannot be made"),
        (tmp_path / "f", 2**60, "are free there"),
    ):
        with pytest.raises(DipsimError, match=told), made_file(str(path), size):
            pass
    assert there.read_bytes() == b"mine"
