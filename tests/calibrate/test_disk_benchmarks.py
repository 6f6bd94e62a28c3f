"""iozone, AndroBench, iobench and logs of reads: points of flash, and what tells nothing."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest

from dipsim.calibrate.benchmarks import read_benchmarks
from dipsim.calibrate.measured import Measurements
from dipsim.disk.fit import Measured
from dipsim.errors import DipsimError

KIB, MIB = 1024, 2**20


def read(folder: Path, text: str, name: str = "disk.txt") -> Measurements:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_benchmarks([str(path)])


def points(found: Measurements) -> list[tuple[Measured, bool]]:
    return [(reads.point, reads.in_order) for reads in found.reads]


# iozone -------------------------------------------------------------------------------------------

# Facts of published runs: a memory card in a Raspberry Pi 3B, and a disk at a Pi over USB.
_HEAD = """
\tInclude fsync in write timing
\tO_DIRECT feature enabled
\tAuto Mode
\tFile size set to 102400 kB
\tRecord Size {record} kB
\tCommand line used: ./iozone -e -I -a -s 100M -r {record}k {tests} -f /tmp/iozone
\tOutput is in kBytes/sec
                                                              random    random     bkwd    record
              kB  reclen    write  rewrite    read    reread    read     write     read   rewrite
"""
_CARD = (
    _HEAD.format(record=4, tests="-i 0 -i 1 -i 2")
    + "          102400       4     3044     3144     8570     8573     8067     4437       \n"
    + "\niozone test complete.\n"
)
_DISK = (
    _HEAD.format(record=1024, tests="-i 0 -i 2")
    + "          102400    1024   357808   366741                     370983   391250      \n"
    + "\niozone test complete.\n"
)


def test_tables_of_iozone(tmp_path: Path) -> None:
    found = read(tmp_path, _CARD + _DISK)
    assert points(found) == [
        (Measured(4096, 1, 8570 * 1024), True),
        (Measured(4096, 1, 8067 * 1024), False),
        (Measured(MIB, 1, 370983 * 1024), False),
    ]
    told = [(way.bandwidth, way.in_order) for way in found.writes]
    assert told[:2] == [(3044 * 1024, True), (4437 * 1024, False)]
    assert told[2:] == [(357808 * 1024, True), (391250 * 1024, False)]
    assert found.reads[0].origin.command.startswith("./iozone -e -I -a")
    assert found.refused == ()


def test_of_several_files_the_largest_tells(tmp_path: Path) -> None:
    rows = ["1024 4 10 10 20 20 99999 10", "2048 4 10 10 8000 20 7000 10"]
    text = _HEAD.format(record=4, tests="-i 0 -i 1 -i 2") + "".join(f"   {row}\n" for row in rows)
    assert [point.bandwidth for point, _ in points(read(tmp_path, text))] == [
        8000 * 1024,
        7000 * 1024,
    ]


def test_all_columns_of_a_whole_run(tmp_path: Path) -> None:
    text = _HEAD.format(record=64, tests="")
    row = "102400 64 100 110 90000 130 70000 150 160 170 180 190 200 210 220\n"
    assert points(read(tmp_path, text + row)) == [
        (Measured(64 * KIB, 1, 90000 * 1024), True),
        (Measured(64 * KIB, 1, 70000 * 1024), False),
    ]


def test_the_report_for_spreadsheets(tmp_path: Path) -> None:
    text = (
        "\tO_DIRECT feature enabled\n\tCommand line used: iozone -I -a -R -i 0 -i 1\n"
        '"Reader report"\n        "4"  "64"\n"1024"   11  22 \n"102400"   20000  90000 \n'
        '"Re-reader report"\n        "4"  "64"\n"102400"   1  1 \n'
        '"Random read report"\n        "4"  "64"\n"102400"   18000  80000 \n'
        "\tIozone: Performance Test of File I/O\n"
    )
    assert points(read(tmp_path, text)) == [
        (Measured(4096, 1, 20000 * 1024), True),
        (Measured(64 * KIB, 1, 90000 * 1024), True),
        (Measured(4096, 1, 18000 * 1024), False),
        (Measured(64 * KIB, 1, 80000 * 1024), False),
    ]


def test_throughput_of_several_processes(tmp_path: Path) -> None:
    text = (
        "\tIozone: Performance Test of File I/O\n\tO_DIRECT feature enabled\n"
        "\tRecord Size 128 kB\n\tCommand line used: iozone -I -t 4 -r 128k -i 0 -i 2\n"
        "\tChildren see throughput for  4 readers \t\t=  800000.50 kB/sec\n"
        "\tChildren see throughput for  4 random readers \t=  600000.25 kB/sec\n"
        "\tChildren see throughput for  4 re-readers \t=  1.00 kB/sec\n"
    )
    assert points(read(tmp_path, text)) == [
        (Measured(128 * KIB, 4, 800000.50 * 1024), True),
        (Measured(128 * KIB, 4, 600000.25 * 1024), False),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            _CARD.replace("-I ", "").replace("\tO_DIRECT feature enabled\n", ""),
            "line 10, line 10, line 10 and 1 more: through the page cache",
        ),
        (_CARD.replace("kBytes/sec", "ops/sec"), "operations per second"),
        (_CARD.replace("     4437", ""), "5 figures for 6 tests"),
        (_CARD.replace("8570     8573     8067     4437", ""), "2 figures for 6 tests"),
        (_CARD.split("102400       4")[0] + "\niozone test complete.\n", "states no figure"),
        (_CARD.replace("8570", "0").replace("8067", "0").replace("3044", "0").replace("4437", "0"),
         "bandwidth is 0.0, not a number"),
    ],
)  # fmt: skip
def test_runs_of_iozone_that_tell_nothing(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        read(tmp_path, text)


# AndroBench ---------------------------------------------------------------------------------------

_ANDRO = """\
AndroBench 5.0.1
Device: Galaxy S24
Date: 2024-05-01
Sequential buffer size: 32 MB
Random buffer size: 4 KB
Threads: 8
Sequential Read: 2279.8 MB/s
Sequential Write: 1,210.5 MB/s
Random Read 146.4 MB/s, 37240 IOPS (4 KB)
Random Write 330.1 MB/s, 84505 IOPS
SQLite Insert 4512 QPS
"""


def test_a_text_of_androbench(tmp_path: Path) -> None:
    found = read(tmp_path, _ANDRO)
    assert points(found) == [
        (Measured(32 * MIB, 8, 2279.8 * MIB), True),
        (Measured(4096, 8, 37240 * 4096), False),
    ]
    assert [(way.bandwidth, way.size) for way in found.writes] == [
        (1210.5 * MIB, 32 * MIB),
        (84505 * 4096, 4096),
    ]
    origin = found.reads[0].origin
    assert (origin.tool, origin.date) == ("AndroBench", "2024-05-01")
    assert [name for name, _ in found.devices] == ["Galaxy S24"]


def test_megabytes_are_what_the_operations_say(tmp_path: Path) -> None:
    text = "Seq. Read (1 MB, 1 thread): 500 MB/s\nRand Read (4 KB, 1 thread): {} MB/s 10000 IOPS\n"
    assert points(read(tmp_path, text.format("40.96")))[0][0].bandwidth == 500e6
    assert points(read(tmp_path, text.format("39.06")))[0][0].bandwidth == 500 * MIB
    alone = "Seq Read (1 MB, 1 thread): 500 MiB/s\n"
    assert points(read(tmp_path, alone))[0][0].bandwidth == 500 * MIB
    assert points(read(tmp_path, alone.replace("MiB", "MB")))[0][0].bandwidth == 500e6


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Sequential Read: 2279.8 MB/s\n", "line 1: the size of its requests is not stated"),
        ("Random Read (4 KB): 37240 IOPS\n", "line 1: the number of its threads is not stated"),
        (_ANDRO + "Mode: buffered\n", "through the page cache"),
        ("Random Read (4 KB, 8 threads): 0 IOPS\n", "bandwidth is 0.0, not a number"),
        ("Random Read (4 KB, 900 threads): 5000 IOPS\n", "900 requests in flight"),
        ("Random Read (4 KB, 1 thread): 200000000 IOPS\n", "no disk takes less"),
        (_ANDRO + "Device: Pixel 9\n", "measurements of Galaxy S24 and of Pixel 9 in one file"),
    ],
)
def test_texts_that_tell_nothing(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        read(tmp_path, text)


# iobench ------------------------------------------------------------------------------------------


def test_the_table_of_iobench(tmp_path: Path) -> None:
    text = "size,lanes,bandwidth,direct\n4 KiB,1,100 MB/s,True\n1 MiB,4,2 GB/s,True\n"
    assert points(read(tmp_path, text)) == [
        (Measured(4096, 1, 1e8), False),
        (Measured(MIB, 4, 2e9), False),
    ]
    with pytest.raises(DipsimError, match=r"disk.txt: not all reads were direct"):
        read(tmp_path, text.replace("2 GB/s,True", "2 GB/s,False"))
    with pytest.raises(DipsimError, match=r"disk.txt: 1 point; a curve needs 2"):
        read(tmp_path, "size,lanes,bandwidth\n4 KiB,1,100 MB/s\n")


# Logs of reads ------------------------------------------------------------------------------------

_COLUMNS = "turn,phase,step,layer,expert,proj,lane,spec,offset,req_bytes,read_bytes,latency_ns"


def line(lane: int, size: int, latency: float) -> str:
    return f"0,decode,1,2,3,up,{lane},0,4096,{size},{size},{latency:.0f}"


def log_of(rows: list[str]) -> str:
    return "\n".join([_COLUMNS, *rows, ""])


def test_bandwidths_are_lanes_times_bytes_over_the_median_latency(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    large = 2e6 * np.exp(0.4 * random.standard_normal(101))
    small = 9e4 * np.exp(0.4 * random.standard_normal(40))
    rows = [line(at % 4, MIB, latency) for at, latency in enumerate(large)]
    rows += [line(at % 2, 4096, latency) for at, latency in enumerate(small)]
    found = read(tmp_path, log_of(rows))
    first, second = (reads.point for reads in found.reads)
    assert (first.size, first.lanes) == (4096, 2)
    assert (second.size, second.lanes) == (MIB, 4)
    middle = np.sort(small)[19]
    assert first.bandwidth == pytest.approx(2 * 4096 / (middle * 1e-9), rel=3e-3)
    assert second.bandwidth == pytest.approx(4 * MIB / (np.median(large) * 1e-9), rel=3e-3)
    assert found.refused == ()


def test_sizes_close_to_each_other_are_one_bucket(tmp_path: Path) -> None:
    rows = [line(0, 1_000_000 + 4096 * (at % 5), 1e6) for at in range(20)]
    (reads,) = read(tmp_path, log_of(rows)).reads
    assert reads.point.size == 1_000_000 + 2 * 4096


def test_cached_few_and_damaged_reads_are_left_out_and_told(tmp_path: Path) -> None:
    rows = [line(0, 65536, 2e5)] * 20
    rows += [line(0, 65536, 7e3)] * 3 + [line(1, 0, 2e5)] * 4 + [line(2, 2**24, 2e7)] * 15
    rows += ["0,decode", line(0, 65536, -5), line(0, 65536, 2e5).replace("65536", "many")]
    found = read(tmp_path, log_of(rows))
    (reads,) = found.reads
    assert (reads.point.size, reads.point.lanes) == (65536, 1)
    few, cached, damaged = found.refused
    assert "reads of about 16777216 bytes: a curve needs 16" in few
    assert "7 reads: the page cache answered them" in cached
    assert "3 lines: not three numbers" in damaged


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (log_of([]), "it has no reads"),
        (log_of(["a,b"] * 9), "9 of 9 lines are damaged"),
        (log_of([line(0, 4096, 100)] * 99), "99 reads: the page cache answered them"),
        (log_of([line(at, 4096, 1e5) for at in range(400)]), "257 requests in flight"),
    ],
)
def test_logs_that_tell_nothing(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        read(tmp_path, text)


def test_a_gzipped_log_of_any_length_takes_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "log.csv.gz"
    wide = "decode" + "_" * 2000
    rows = (line(at % 4, 4096 * (1 + at % 3), 1e5 + at) for at in range(600))
    block = "\n".join(row.replace("decode", wide) for row in rows) + "\n"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(_COLUMNS + "\n")
        for _ in range(6):
            file.write(block)
    tracemalloc.start()
    found = read_benchmarks([str(path)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [reads.point.lanes for reads in found.reads] == [4, 4, 4]
    assert peak < MIB < 5 * len(block)


def test_a_log_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(io.BytesIO(log_of([line(0, 4096, 1e5)] * 20).encode("utf-16")).getvalue())
    with pytest.raises(DipsimError, match="no text of UTF-8"):
        read_benchmarks([str(path)])
