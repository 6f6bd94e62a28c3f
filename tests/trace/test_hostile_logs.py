"""Routing logs that nobody vouches for: damaged, absurd, or far larger than they say."""

import gzip
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import dipsim
from dipsim.errors import DipsimError
from dipsim.trace.logs import format_named
from tools.forks import Forks
from tools.hostile import mutations, one_line
from tools.routing_logs import FIXTURES, NAMES, Fixture, drawn

CPU_SECONDS, KILOBYTES = 20, 1_000_000
GB = 2**30


def damaged_copies(fixture: Fixture, folder: Path, count: int) -> int:
    """How many of ``count`` damaged copies of a log are read; the others are refused in one line,
    whether the format is told or insisted on."""
    log = fixture.write(drawn(), folder)
    file = sorted(log.iterdir())[0] if log.is_dir() else log
    out, read_well = folder / "t.npz", 0
    for i, data in enumerate(mutations(file.read_bytes(), count)):
        file.write_bytes(data)
        insisted = {"format": format_named(fixture.format).name} if i % 2 else {}
        read_well += one_line(
            lambda path: dipsim.import_(path, out, **insisted, **fixture.options),  # noqa: B023
            log,
        )
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    return read_well


@pytest.mark.slow
@pytest.mark.parametrize("fixture", FIXTURES, ids=NAMES)
def test_damaged_copies_are_read_or_refused(fixture: Fixture, tmp_path: Path) -> None:
    assert damaged_copies(fixture, tmp_path, 200) < 200


LINE = '{"layer_idx": 0, "token_idx": 0, "selected_ids": [1, 2]}\n'
BAD = {
    "a negative id": LINE.replace("1,", "-1,"),
    "an id that is no number": LINE.replace("1,", '"1",'),
    "an id that is a truth value": LINE.replace("1,", "true,"),
    "a fraction": LINE.replace("1,", "1.5,"),
    "an id beyond all experts": LINE.replace("1,", "70000,"),
    "an id of many digits": LINE.replace("1,", "9" * 5000 + ","),
    "ids that are no list": LINE.replace("[1, 2]", "3"),
    "no ids": LINE.replace("[1, 2]", "[]"),
    "an expert twice": LINE.replace("[1, 2]", "[1, 1]"),
    "thousands of ids": LINE.replace("[1, 2]", json.dumps([*range(5000)])),
    "lists in lists": LINE.replace("[1, 2]", "[" * 5000 + "]" * 5000),
    "a negative token": LINE.replace('"token_idx": 0', '"token_idx": -1'),
    "a token of many digits": LINE + LINE.replace('"token_idx": 0', '"token_idx": 1e400'),
    "tokens far apart": LINE + LINE.replace('"token_idx": 0', f'"token_idx": {2**39}'),
    "a token beyond all": LINE.replace('"token_idx": 0', f'"token_idx": {2**60}'),
    "a missing token": LINE + LINE.replace('"token_idx": 0', '"token_idx": 2'),
    "a layer of many digits": LINE.replace('"layer_idx": 0', '"layer_idx": 99999999999'),
    "a row that is no object": LINE + "[1, 2]\n",
    "half a row": LINE + LINE[:30] + "\n",
    "two rows on a line": LINE + LINE.strip() + LINE,
    "no text": LINE + "\x00\xff\n",
    "weights of another length": LINE.replace("}", ', "gate_weights": [0.5]}'),
    "a weight that is none": LINE.replace("}", ', "gate_weights": [0.5, "x"]}'),
    "an infinite weight": LINE.replace("}", ', "gate_weights": [0.5, Infinity]}'),
    "nothing": "",
}


@pytest.mark.parametrize("what", BAD)
def test_rows_that_no_log_has_are_refused(what: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(BAD[what], encoding="latin-1")
    with pytest.raises(DipsimError) as caught:
        dipsim.import_(log, tmp_path / "t.npz", format="lattice")
    assert "\n" not in str(caught.value)
    assert str(log) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_an_id_beyond_the_experts_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(LINE)
    with pytest.raises(DipsimError, match="expert 2: from 0 to 1"):
        dipsim.import_(log, tmp_path / "t.npz", experts=2)
    with pytest.raises(DipsimError, match="--experts 0: from 1"):
        dipsim.import_(log, tmp_path / "t.npz", experts=0)


# What is larger than it says ----------------------------------------------------------------------


def grown(path: Path, head: bytes) -> None:
    """Write a file of 1 GB: a beginning, and nothing but zeros behind it."""
    path.write_bytes(head)
    with open(path, "r+b") as file:
        file.truncate(GB)


def gzipped(path: Path, head: bytes, filler: bytes) -> None:
    """Write 1 GB of a few bytes over and over, gzipped to a thousandth."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(GB // 2**24):
            file.write(filler * (2**24 // len(filler)))


HUGE = {
    "a line of 1 GB": ("l.jsonl", lambda path: grown(path, LINE.encode() + b'{"layer_idx": 0')),
    "a table of 1 GB without a row": ("r.csv", lambda path: grown(path, b"# route_trace v1\n")),
    "a list of 1 GB": ("l.json", lambda path: grown(path, b'{"top_k": 2, "entries": [[0, 1, 2], ')),
    "a header of 4e9 tokens": (
        "a.q4rt",
        lambda path: path.write_bytes(
            struct.pack("<4sHHHHI", b"Q4RT", 1, 9999, 65535, 64, 2**32 - 1)
        ),
    ),
    "counts of 4e9 layers": ("u", lambda path: path.write_bytes(b"IKU1" + b"\xff" * 8)),
    "a bomb of spaces": ("b.jsonl.gz", lambda path: gzipped(path, LINE.encode(), b" " * 1024)),
    "a bomb of brackets": ("b.json.gz", lambda path: gzipped(path, b'{"executed_topk": ', b"[")),
    "a bomb of zeros": ("c.jsonl.gz", lambda path: gzipped(path, LINE.encode(), b"\0")),
    "base64 of little, and a shape of much": (
        "s.json",
        lambda path: path.write_text(
            json.dumps({"routed_experts": {"data": "AAAA", "shape": [2**30, 1000, 8]}})
        ),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    started = Forks(CPU_SECONDS)
    yield started
    started.close()


@pytest.mark.slow
@pytest.mark.parametrize("what", HUGE)
def test_a_log_larger_than_it_says_is_refused(what: str, forks: Forks, tmp_path: Path) -> None:
    name, write = HUGE[what]
    write(tmp_path / name)
    for words in (("import", name, "t.npz"), ("run", name, "-p", "snapdragon8")):
        code, said, most = forks.run(words, tmp_path)
        assert (code, len(said.splitlines())) == (2, 1), said
        assert name in said
        assert most < KILOBYTES
        assert [path.name for path in tmp_path.iterdir()] == [name]
    shutil.rmtree(tmp_path)
