"""Files that dipsim writes: whole or not at all, and never in place of something else."""

import gc
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.errors import DipsimError
from dipsim.files import Unfinished, whole_file, whole_folder
from dipsim.trace import TraceWriter, load_trace, save_trace
from dipsim.trace.convert import export, import_arrays
from dipsim.trace.synth import synth
from tools.cli import Dipsim

SCORES = np.ones((4, 1, 8), np.float32)


def write(path: Path) -> None:
    with whole_file(path) as handle:
        handle.write(b"new")


def write_trace(path: Path) -> None:
    with TraceWriter(path) as out:
        out.append({"glu": SCORES})


def save(path: Path) -> None:
    save_trace(path, {"glu": SCORES})


WRITERS = pytest.mark.parametrize("writer", [write, write_trace, save])


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def read_only(path: Path) -> None:
    path.write_text("old")
    path.chmod(0o444)


@WRITERS
@pytest.mark.parametrize("make", [fifo, loop, read_only, Path.mkdir])
def test_what_is_no_ordinary_file_is_not_replaced(
    make: Callable[[Path], None], writer: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "t.npz"
    make(path)
    kind = stat.S_IFMT(path.lstat().st_mode)
    with pytest.raises((DipsimError, OSError)) as refusal:
        writer(path)
    text = str(refusal.value)
    assert any(
        part in text for part in ("ordinary file", "symbolic links", "read-only", "a folder")
    ), text
    assert stat.S_IFMT(path.lstat().st_mode) == kind
    assert os.listdir(tmp_path) == ["t.npz"]


@WRITERS
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_stays_and_its_target_is_written(
    writer: Callable[[Path], None], dangling: bool, tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target.npz", tmp_path / "t.npz"
    if not dangling:
        target.write_text("old")
    link.symlink_to(target)
    writer(link)
    assert link.is_symlink()
    assert target.read_bytes() != b"old"
    assert os.listdir(tmp_path / "far") == ["target.npz"]


def test_a_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".npz")
    save(path)
    assert load_trace(path).tokens == 4


def test_two_writers_of_one_name_keep_out_of_each_others_way(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    with TraceWriter(path) as first:
        first.append({"glu": SCORES[:1]})
        write_trace(path)
        first.append({"glu": SCORES[:1]})
    assert load_trace(path).tokens == 2
    assert os.listdir(tmp_path) == ["t.npz"]


def test_what_is_dropped_unfinished_is_removed(tmp_path: Path) -> None:
    for folder in (False, True):
        unfinished = Unfinished(tmp_path / "x", folder=folder)
        assert len(os.listdir(tmp_path)) == 1
        del unfinished
        assert os.listdir(tmp_path) == []


def test_hidden_files_of_others_stay(tmp_path: Path) -> None:
    for name in (".t.npz.bak", ".t.npz.swp", ".other.dipsim-12345678", ".t.npz.dipsim-mine"):
        (tmp_path / name).write_text("mine")
    save(tmp_path / "t.npz")
    assert len(os.listdir(tmp_path)) == 5


def test_a_forked_child_removes_nothing(tmp_path: Path) -> None:
    out = TraceWriter(tmp_path / "t.npz")
    out.append({"glu": SCORES})
    child = os.fork()
    if child == 0:
        del out
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    out.close()
    assert load_trace(tmp_path / "t.npz").tokens == 4


@pytest.mark.parametrize("early", [False, True])
def test_a_trace_lands_where_its_writer_began(
    early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "t.npz").write_text("mine")
    monkeypatch.chdir(tmp_path)
    out = TraceWriter("t.npz")
    out.append({"glu": SCORES})
    monkeypatch.chdir(tmp_path / "other")
    if early:
        out.close_early()
    out.close()
    assert (tmp_path / "other" / "t.npz").read_text() == "mine"
    assert load_trace(tmp_path / "t.npz").tokens == 4


def test_a_finished_trace_takes_no_more(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.npz") as out:
        out.append({"glu": SCORES})
        out.close()
        with pytest.raises(DipsimError, match="is finished"):
            out.append({"glu": SCORES})
    assert load_trace(tmp_path / "t.npz").tokens == 4


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "x" * 2000, "/glu", "../glu", "a/../../glu", 3])
def test_names_of_arrays_that_cannot_be(name: object, tmp_path: Path) -> None:
    arrays: dict[Any, Any] = {"glu": SCORES, name: SCORES}
    with pytest.raises(DipsimError, match="array"):
        save_trace(tmp_path / "t.npz", arrays)
    assert os.listdir(tmp_path) == []


@WRITERS
def test_names_that_no_file_can_have(writer: Callable[[Path], None], tmp_path: Path) -> None:
    for name in ("a\0.npz", "a\ud800.npz", "x" * 300 + ".npz"):
        with pytest.raises((DipsimError, OSError), match=r"no name|too long"):
            writer(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "new") as unfinished:
        (unfinished / "a").write_text("a")
    assert (tmp_path / "new" / "a").read_text() == "a"
    with pytest.raises(FileExistsError, match="give a new folder"), whole_folder(tmp_path / "new"):
        pass
    with pytest.raises(KeyError), whole_folder(tmp_path / "other"):
        raise KeyError
    assert os.listdir(tmp_path) == ["new"]


def test_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    source = tmp_path / "t.npz"
    save(source)
    before = source.read_bytes()
    (tmp_path / "link.npz").symlink_to(source)
    os.link(source, tmp_path / "hard.npz")
    for name in ("t.npz", "link.npz", "hard.npz"):
        out = tmp_path / name
        for convert in (
            lambda out=out: export(load_trace(source), out),
            lambda out=out: import_arrays(source, out),
            lambda out=out: synth(out, source),
        ):
            with pytest.raises(DipsimError, match="is read here; write to another name"):
                convert()
    write_trace(tmp_path / "shards")
    shard = tmp_path / "shards" / "part-00000.npz"
    with pytest.raises(DipsimError, match="is read here"):
        export(load_trace(tmp_path / "shards"), shard)
    assert source.read_bytes() == before


def test_export_onto_itself_in_an_encoding_that_cannot_be(dipsim: Dipsim, tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    save_trace(path, {"expert": SCORES - 2})
    before = path.read_bytes()
    for out in (path, tmp_path / "o.npz"):
        outcome = dipsim("export", path, out, "--encoding", "expert=log8")
        assert outcome.code == 2
        assert len(outcome.err) == 1
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["e.npz"]
