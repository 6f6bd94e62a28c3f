"""Hostile files, folders and archives: a line each, within bounds."""

import gzip
import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dipsim.calibrate.benchmarks import read_benchmarks
from dipsim.calibrate.benchmarks import source as sources
from dipsim.errors import DipsimError
from tools.benchmarks import fio_json, llama_bench
from tools.hostile import one_line, read_or_refused

MODEL = {"model_type": "llama 1B Q4_0", "model_size": 2**30, "model_n_params": 10**9}
LLAMA = llama_bench([{**MODEL, "n_gen": 128, "rate": 40.0}])
FIO = fio_json([{"size": 4096, "bandwidth": 2e8}])
FORMS = {
    "llama.json": LLAMA,
    "llama.jsonl": llama_bench([{**MODEL, "n_prompt": 64, "rate": 40.0}], "jsonl"),
    "llama.csv": llama_bench([{**MODEL, "n_gen": 32, "rate": 40.0}], "csv"),
    "llama.md": llama_bench(
        [
            {
                "model_type": "m",
                "model_size": 2**30,
                "model_n_params": 10**9,
                "n_gen": 9,
                "rate": 4.0,
            }
        ],
        "md",
    ),
    "fio.json": FIO,
    "iozone.txt": (
        "O_DIRECT feature enabled\nCommand line used: iozone -I -i 1\n"
        "   kB  reclen    write\n   1024   4   2000   2000\n"
    ),
    "andro.txt": "Threads: 8\nRandom Read 146.4 MB/s, 37240 IOPS (4 KB)\n",
    "iobench.csv": "size,lanes,bandwidth\n4 KiB,1,190 MB/s\n8 KiB,1,350 MB/s\n",
    "log.csv": "lane,read_bytes,latency_ns\n" + "0,4096,21000\n" * 20,
    "mbw.txt": "AVG\tMethod: DUMB\tElapsed: 0.2\tMiB: 64.0\tCopy: 8546.8 MiB/s\n",
    "stream.txt": "Best Rate MB/s\nNumber of Threads counted = 6\nCopy: 47239.8 0.1 0.1 0.1\n",
    "meminfo": "MemTotal:       11534336 kB\nMemAvailable:    6291456 kB\n",
    "cases.json": json.dumps({"cases": [{"id": "a", "kind": "decode", "model": "m", "value": 8}]}),
}


def refusal(*paths: Path | str) -> str:
    with pytest.raises(DipsimError) as problem:
        read_benchmarks([str(path) for path in paths])
    message = str(problem.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def fill(folder: Path) -> None:
    for name, text in FORMS.items():
        (folder / name).write_text(text, encoding="utf-8")


def count(path: Path) -> int:
    found = read_benchmarks([str(path)])
    parts = (found.rates, found.reads, found.writes, found.transfers, found.memory)
    return sum(len(part) for part in parts)


# Damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    read_or_refused(lambda path: read_benchmarks([str(path)]), path, FORMS[name].encode(), 120)


ODD = (None, True, -1, 10**30, "1", [[]], {"a": []})


def swapped(value: Any) -> Iterator[Any]:
    """Yield a JSON value once for each of its parts and each odd value in its place."""
    yield from ODD
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            for part in swapped(value[key]):
                copy = value.copy()
                copy[key] = part
                yield copy


@pytest.mark.parametrize("name", ["llama.json", "fio.json", "cases.json"])
def test_every_value_may_be_another(tmp_path: Path, name: str) -> None:
    path = tmp_path / "odd.json"
    sound = 0
    for value in swapped(json.loads(FORMS[name])):
        path.write_text(json.dumps(value, indent=1))
        sound += one_line(lambda path: read_benchmarks([str(path)]), path)
    assert sound > 0


@pytest.mark.parametrize("name", FORMS)
def test_line_ends_marks_and_gzip_change_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "renamed.bin"
    path.write_text(FORMS[name], encoding="utf-8")
    plain = count(path)
    assert plain > 0
    text = "\ufeff" + FORMS[name].replace("\n", "\r\n")
    path.write_bytes(text.encode())
    assert count(path) == plain
    path.write_bytes(gzip.compress(text.encode()))
    assert count(path) == plain


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LLAMA[:900], "not readable as JSON"),
        (FIO[:900], "not readable as JSON"),
        (FIO.replace('"error": 0', '"error": ' + "[" * 5000), "not readable as JSON"),
        (LLAMA.replace('"n_depth": 0', '"n_depth": NaN'), "NaN is no number"),
        (LLAMA.replace('"n_depth": 0', '"n_depth": ' + "9" * 5000), "not readable as JSON"),
        (LLAMA.replace('"f16"', "[[[]]]"), "keys and values of type a list"),
        (LLAMA.replace('"n_gen": 128', '"n_gen": "128"'), "n_gen is '128', not a number"),
        (LLAMA.replace('"poll": 50', '"poll": {"a": 1}').replace('"avg_ts": ', '"avg_ts": -'),
         "avg_ts is -40.0"),
        ("[" + "{}," * 12_000 + LLAMA[1:], "more than 10000 rows"),
        (FIO.replace('"jobs": [', '"jobs": [' + "{}," * 12_000), "more than 10000 jobs"),
        (FORMS["llama.csv"].replace(",", "\r,"), "no output of a benchmark"),
        (FORMS["llama.csv"].replace("Made-up", '"' * 3 + "x" * 200_000), "0 values under"),
        ('{"results": [{"tool": "hyperfine", "mean": 3.1}]}', "no output of a benchmark"),
        ("", "no output of a benchmark"),
        (LLAMA + "\0", "no output of a benchmark"),
        ("[" * 50_000, "no output of a benchmark"),
        ("\n" * 65_000, "no output of a benchmark"),
        ("| " * 32_000, "no output of a benchmark"),
        ("build_commit," + "model_type," * 5800, "no output of a benchmark"),
        ("Random Read " + "1 " * 30_000, "no output of a benchmark"),
        ("Random Read 1 IOPS\n" + "1" * 500_000 + " IOPS", "the size of its requests"),
        ("Iozone: Performance Test of File I/O\nChildren see throughput for 1 " + " " * 500_000,
         "states no figure"),
    ],
)  # fmt: skip
def test_texts_that_are_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text, encoding="utf-8")
    assert told in refusal(path)


def test_a_file_that_is_not_known_lists_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(os.urandom(5000))
    message = refusal(path)
    for name in ("x.bin: ", "llama-bench", "fio", "iozone", "AndroBench", "STREAM", "meminfo"):
        assert name in message


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none")
    assert "no files in it" in refusal(tmp_path)
    assert "a?b: no such file" in refusal("a\0b")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")
    assert "no figure in what is given" in refusal()


def test_a_hundred_megabytes_of_other_text_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with open(path, "wb") as file:
        file.write(b"01:23:45 I/system: something happened\n" * 1000)
        file.truncate(100 * 2**20)  # a hole takes no disk
    tracemalloc.start()
    assert "no output of a benchmark" in refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2**20


def test_a_benchmark_that_never_ends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "llama.json"
    with open(path, "w") as file:
        file.write(LLAMA)
        file.write(" " * sources.MOST_TEXT)
    tracemalloc.start()
    assert "larger than" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * sources.MOST_TEXT
    tracemalloc.stop()


def test_a_line_without_end_in_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(FORMS["log.csv"] + "1" * 200_000)
    assert "a line longer than 65536 characters" in refusal(path)


# Folders and archives -----------------------------------------------------------------------------


def pack(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_and_its_folders_are_read(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "fio.json").write_text(FIO)
    (tmp_path / "a" / "llama.txt").write_text(LLAMA)
    (tmp_path / "a" / "b" / "deep.txt").write_text(LLAMA)
    (tmp_path / "readme.md").write_text("Hello")
    (tmp_path / "a" / "cut.json").write_text(FIO[:800])
    found = read_benchmarks([str(tmp_path)])
    assert (len(found.rates), len(found.reads)) == (1, 1)
    assert [text.partition(":")[0] for text in found.refused] == ["cut.json", "readme.md"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_is_read_as_its_folder(tmp_path: Path, mode: str) -> None:
    fill(tmp_path)
    whole = read_benchmarks([str(tmp_path)])
    packed = pack(
        tmp_path / "out.bin",
        {f"kit/{name}": (tmp_path / name).read_bytes() for name in sorted(FORMS)},
        mode,
    )
    assert read_benchmarks([str(packed)]) == whole
    assert len(whole.rates) == 5
    assert whole.refused == ()


def link(kind: bytes, to: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, to
    return info


def test_links_devices_and_ways_out_of_an_archive_do_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "fio.json"
    secret.write_text(FIO)
    members: dict[str, Any] = {
        "s": link(tarfile.SYMTYPE, str(secret)),
        "h": link(tarfile.LNKTYPE, str(secret)),
        "d": link(tarfile.CHRTYPE, ""),
        "f": link(tarfile.FIFOTYPE, ""),
        "../../out.json": LLAMA.encode(),
        "/etc/passwd\x1b[2J": b"root",
    }
    packed = pack(tmp_path / "evil.tar", members)
    before = sorted(os.listdir(tmp_path))
    found = read_benchmarks([str(packed)])
    assert (len(found.rates), found.reads) == (1, ())
    assert found.rates[0].origin.file == "out.json"
    assert found.refused == ("passwd?[2J: no output of a benchmark that is known",)
    assert sorted(os.listdir(tmp_path)) == before


def test_archives_that_are_damaged_or_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(tmp_path / "kit.tgz", {"a": LLAMA.encode(), "b": os.urandom(50_000)})
    data = packed.read_bytes()
    packed.write_bytes(data[:20_000])
    assert "kit.tgz: no sound archive" in refusal(packed)
    packed.write_bytes(data)
    monkeypatch.setattr(sources, "MOST_INFLATED", 10_000)
    assert "more than 10000 bytes once inflated" in refusal(packed)
    monkeypatch.setattr(sources, "MOST_FILES", 1)
    monkeypatch.undo()
    monkeypatch.setattr(sources, "MOST_FILES", 1)
    assert "more than 1 members" in refusal(packed)
    (tmp_path / "two.json").write_text(LLAMA)
    assert "2 files; at most 1" in refusal(tmp_path)


def test_a_bomb_of_zeros_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(LLAMA.encode() + b" " * 50 * 2**20, 1))
    tracemalloc.start()
    assert "larger than" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * sources.MOST_TEXT
    tracemalloc.stop()


def test_a_header_that_declares_a_huge_member(tmp_path: Path) -> None:
    info = tarfile.TarInfo("llama.json")
    info.size = 2**40
    path = tmp_path / "huge.tar"
    path.write_bytes(info.tobuf() + b"{}" * 1000)
    assert "huge.tar: no sound archive" in refusal(path)


@pytest.mark.parametrize("how", ["w", "w:gz"])
def test_damaged_archives_are_read_or_refused_in_one_line(tmp_path: Path, how: str) -> None:
    packed = pack(tmp_path / "kit.tar", {"a.json": LLAMA.encode(), "f.json": FIO.encode()}, how)
    data = packed.read_bytes()
    read_or_refused(lambda path: read_benchmarks([str(path)]), packed, data, 150)
