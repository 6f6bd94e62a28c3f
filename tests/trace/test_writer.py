"""`TraceWriter`: what is appended is what is read, and nothing stands there half written."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.errors import DipsimError, TraceError
from dipsim.trace import Trace, load_trace
from dipsim.trace import archive as archive_module
from dipsim.trace.convert import export
from dipsim.trace.encoding import unpack_sets
from dipsim.trace.save import save_trace
from dipsim.trace.writer import TraceWriter

TOKENS, LAYERS, UNITS = 23, 3, 70
RNG = np.random.default_rng(5)
SCORES = RNG.lognormal(0, 1, (TOKENS, LAYERS, UNITS)).astype(np.float32)
SETS = RNG.random((TOKENS, LAYERS, UNITS)) < 0.3
SETS[4] = False
SETS[5] = True
MARKS = {
    "phase": (np.arange(TOKENS) % 5 > 0).astype(np.uint8),
    "sequence": np.arange(TOKENS) // 7,
    "token_id": RNG.integers(0, 1000, TOKENS),
}


def read(trace: Trace, key: str) -> np.ndarray:
    at = trace.signals[key]
    if at.holds == "scores":
        return np.concatenate(list(at.values(0, trace.tokens, 4)))
    return unpack_sets(np.concatenate(list(at.blocks(0, trace.tokens, 4, "sets"))), at.units)


@pytest.mark.parametrize("block", [1, 2, 5, TOKENS])
@pytest.mark.parametrize("out", ["t.npz", "t"])
@pytest.mark.parametrize("encoding", ["float16", "float32", "log8", "bool", "bits", "sparse"])
def test_what_is_appended_is_read(encoding: Any, out: str, block: int, tmp_path: Path) -> None:
    given = SETS if encoding in ("bool", "bits", "sparse") else SCORES
    with TraceWriter(
        tmp_path / out, encodings={"glu": encoding}, meta={"mine": 1}, shard_bytes=1500
    ) as writer:
        for start in range(0, TOKENS, block):
            here = slice(start, start + block)
            writer.append({"glu": given[here], **{key: at[here] for key, at in MARKS.items()}})
    trace = load_trace(tmp_path / out)
    assert (trace.tokens, trace.layers, trace.signals["glu"].encoding) == (TOKENS, LAYERS, encoding)
    tolerance = {"float16": 1e-3, "log8": 0.02}.get(encoding, 0)
    np.testing.assert_allclose(read(trace, "glu").astype(float), given, rtol=tolerance)
    for key, values in MARKS.items():
        assert getattr(trace, key).tolist() == values.tolist()
    assert trace.meta["mine"] == 1
    assert trace.warnings == ()
    if out == "t" and block == 1 and encoding != "bits":
        assert len(trace.signals["glu"].parts) > 1


def test_one_token_at_a_time_without_an_axis_of_tokens(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.npz") as writer:
        for token in range(TOKENS):
            writer.append({"glu": SCORES[token], "phase": 1, "sequence": token // 9})
    trace = load_trace(tmp_path / "t.npz")
    np.testing.assert_array_equal(read(trace, "glu"), SCORES)
    assert trace.sequence.max() == 2


def test_sparse_sets_with_scores(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", shard_bytes=2000) as writer:
        for start in range(0, TOKENS, 4):
            here = slice(start, start + 4)
            writer.append({"expert": SETS[here], "expert.scores": -SCORES[here]})
    trace = load_trace(tmp_path / "t")
    assert trace.signals["expert"].scored
    found = np.concatenate([rows["expert"] for _, _, rows in trace.blocks({"expert": "scores"})])
    np.testing.assert_array_equal(found, np.where(SETS, -SCORES, 0))
    np.testing.assert_array_equal(read(trace, "expert"), SETS)


def test_equal_contents_make_equal_files(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        with TraceWriter(tmp_path / name) as writer:
            writer.append({"glu": SCORES})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("save", ["writer", "save_trace"])
def test_only_what_deflates_well_is_deflated(save: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.lognormal(0, 1, (40, 2, 5000)).astype(np.float32)
    arrays = {"glu": scores, "gate": scores > 4, "phase": np.ones(40, np.uint8)}
    if save == "writer":
        with TraceWriter(tmp_path / "t.npz", encodings={"gate": "bool"}) as writer:
            writer.append(arrays)
    else:
        save_trace(tmp_path / "t.npz", arrays)
    with zipfile.ZipFile(tmp_path / "t.npz") as archive:
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
    assert kinds["glu.npy"] == zipfile.ZIP_STORED
    assert kinds["gate.npy"] == kinds["phase.npy"] == zipfile.ZIP_DEFLATED
    np.testing.assert_array_equal(read(load_trace(tmp_path / "t.npz"), "gate"), scores > 4)


@pytest.mark.parametrize("way", ["writer", "save_trace", "export"])
@pytest.mark.parametrize(("compress", "deflated"), [("always", True), ("never", False)])
def test_all_or_nothing_is_deflated_on_demand(
    way: str, compress: Any, deflated: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    scores = rng.lognormal(0, 1, (40, 2, 500)).astype(np.float32)
    arrays, path = {"glu": scores, "gate": scores > 4}, tmp_path / "t.npz"
    if way == "writer":
        with TraceWriter(path, encodings={"gate": "bool"}, compress=compress) as writer:
            writer.append(arrays)
    elif way == "save_trace":
        save_trace(path, arrays, compress=compress)
    else:
        export(arrays, path, compress=compress)
    with zipfile.ZipFile(path) as archive:
        kinds = {info.compress_type for info in archive.infolist()}
    assert kinds == {zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED}
    np.testing.assert_array_equal(read(load_trace(path), "glu"), scores)


def test_shards_are_stored_unless_all_is_deflated(tmp_path: Path) -> None:
    sets = np.zeros((40, 2, 500), bool)
    sets[:, 0, 1] = True
    for compress, method in (("auto", zipfile.ZIP_STORED), ("always", zipfile.ZIP_DEFLATED)):
        folder = tmp_path / compress
        with TraceWriter(folder, encodings={"glu": "bool"}, compress=compress) as writer:  # type: ignore[arg-type]
            writer.append({"glu": sets})
        with zipfile.ZipFile(folder / "part-00000.npz") as archive:
            assert archive.getinfo("glu.npy").compress_type == method


def test_deflating_must_save_more_than_30_percent(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, silent in (("a.npz", 0.1), ("b.npz", 0.4)):  # shares of zeros
        scores = rng.random((1000, 1, 1000), np.float32)
        scores[rng.random(1000) < silent] = 0
        with TraceWriter(tmp_path / name) as writer:
            writer.append({"glu": scores})
        with zipfile.ZipFile(tmp_path / name) as archive:
            stored = archive.getinfo("glu.npy").compress_type == zipfile.ZIP_STORED
        assert stored == (name == "a.npz")


def test_what_would_be_taken_for_a_bomb_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        archive_module, "is_bomb", lambda members: members[0].compress_type == zipfile.ZIP_DEFLATED
    )
    with TraceWriter(tmp_path / "t.npz", encodings={"glu": "bool"}, compress="always") as writer:
        writer.append({"glu": np.zeros((40, 1, 1000), bool)})
    with zipfile.ZipFile(tmp_path / "t.npz") as packed:
        assert {info.compress_type for info in packed.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("given", ["gzip", "", None, 9, True])
def test_other_ways_to_compress_are_refused(given: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    tries: list[Callable[[], Any]] = [
        lambda: TraceWriter(path, compress=given),
        lambda: save_trace(path, {"glu": SCORES}, compress=given),
        lambda: export({"glu": SCORES}, path, compress=given),
    ]
    for attempt in tries:
        with pytest.raises(DipsimError, match=r"auto .*, always or never") as refusal:
            attempt()
        assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_samples_are_from_all_over_an_array(tmp_path: Path) -> None:
    """Noise behind a beginning of zeros is stored, and zeros behind noise are deflated."""
    noise = np.random.default_rng(0).random((1000, 1, 1000), np.float32)
    for name, silent in (("a.npz", slice(0, 100)), ("b.npz", slice(200, 1000))):
        scores = noise.copy()
        scores[silent] = 0
        with TraceWriter(tmp_path / name) as writer:
            writer.append({"glu": scores})
        with zipfile.ZipFile(tmp_path / name) as archive:
            stored = archive.getinfo("glu.npy").compress_type == zipfile.ZIP_STORED
        assert stored == (name == "a.npz")


NOT_FINITE = SCORES.copy()
NOT_FINITE[3, 1, 2] = np.nan
BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "nothing": ([], "no tokens"),
    "no signal": ([{"phase": 1}], "at least one signal"),
    "unknown": ([{"glu": SCORES, "glue": SCORES}], "'glue': unknown"),
    "one axis": ([{"glu": SCORES[0, 0]}], "append [n, layers, units]"),
    "integers": ([{"glu": SCORES.astype(int)}], "append floats"),
    "not finite": ([{"glu": NOT_FINITE}], "finite and >= 0"),
    "negative": ([{"glu": -SCORES}], "finite and >= 0"),
    "other shape": ([{"glu": SCORES}, {"glu": SCORES[..., 1:]}], "before it had"),
    "other keys": ([{"glu": SCORES}, {"glu": SCORES, "phase": 1}], "phase differ"),
    "layers differ": ([{"glu": SCORES, "up": SCORES[:, 1:]}], "same tokens and layers"),
    "tokens differ": ([{"glu": SCORES, "up": SCORES[1:]}], "same tokens and layers"),
    "falling": ([{"glu": SCORES, "sequence": 1}, {"glu": SCORES, "sequence": 0}], "fall"),
    "phase": ([{"glu": SCORES, "phase": 2}], "from 0 to 1"),
    "scores of scores": ([{"glu": SCORES, "glu.scores": SCORES}], "scores"),
    "scores of another shape": ([{"glu": SETS, "glu.scores": SCORES[1:]}], "one for every unit"),
    "phases of another length": ([{"glu": SCORES, "phase": [1, 0]}], "append [23] or one value"),
    "loud": ([{"glu": SCORES.astype(np.float64) * 1e6}], "do not fit float16"),
}


@pytest.mark.parametrize("out", ["t.npz", "t"])
@pytest.mark.parametrize("kind", BAD)
def test_nothing_stays_of_a_bad_trace(kind: str, out: str, tmp_path: Path) -> None:
    blocks, said = BAD[kind]
    encodings: Any = {"glu": "float16"} if kind == "loud" else None

    def write() -> None:
        with TraceWriter(tmp_path / out, encodings=encodings) as writer:
            for block in blocks:
                writer.append(block)

    with pytest.raises(TraceError, match=re.escape(said)) as problem:
        write()
    assert "\n" not in str(problem.value)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "t.npz").write_text("before")

    def write() -> None:
        with TraceWriter(tmp_path / "t.npz") as writer:
            writer.append({"glu": SCORES})
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert (tmp_path / "t.npz").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for path, said in (("there", "exists"), ("no/such/t.npz", "cannot be written")):
        with pytest.raises(TraceError, match=said):
            TraceWriter(tmp_path / path)
    with TraceWriter(tmp_path / "t.npz", encodings={"up": "log8"}) as writer:
        with pytest.raises(TraceError, match="has no signal up"):
            writer.append({"glu": SCORES})
        writer.append({"up": SCORES})
    with pytest.raises(TraceError, match="write SIGNAL=ENCODING"):
        TraceWriter(tmp_path / "t.npz", encodings={"glu": "zip"})  # type: ignore[dict-item]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for out in ("t.npz", "t"):
            with TraceWriter(tmp_path / out) as writer:
                writer.append({"glu": SCORES})
    finally:
        os.umask(before)
    assert (tmp_path / "t.npz").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o750


def test_memory_stays_bounded(tmp_path: Path) -> None:
    block = np.ones((16, 8, 8192), np.float32)  # 4 MiB
    tracemalloc.start()
    with TraceWriter(tmp_path / "t", shard_bytes=32 * 2**20) as writer:
        for _ in range(25):
            writer.append({"glu": block})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    assert len(list((tmp_path / "t").iterdir())) == 4


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import numpy as np, sys\n"
        "from dipsim.trace import TraceWriter\n"
        "from dipsim.errors import TraceError\n"
        "try:\n"
        "    with TraceWriter('t.npz') as out:\n"
        "        out.append({'glu': np.ones((64, 8, 4096), np.float32)})\n"
        "except TraceError as problem:\n"
        "    print(problem)\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, preexec_fn=limit,
                          capture_output=True, text=True, env=environment)  # fmt: skip
    assert "cannot be written (File too large)" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_meta_of_a_source_may_be_handed_on(tmp_path: Path) -> None:
    meta = {"signals": {"glu": {"unit_bytes": 7, "encoding": "bits", "units": 9}, "up": {"x": 1}}}
    with TraceWriter(tmp_path / "t.npz", meta=meta) as writer:
        writer.append({"glu": SCORES})
    with np.load(tmp_path / "t.npz") as arrays:
        assert json.loads(str(arrays["meta"]))["signals"] == {"glu": {"unit_bytes": 7}}
