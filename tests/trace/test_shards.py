"""Folders of shards and parts of traces: the same tokens, whatever file they lie in."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.errors import TraceError
from dipsim.methods import Method
from dipsim.methods.contract import Group
from dipsim.policies import BUILTIN
from dipsim.simulate import simulate
from dipsim.trace import Trace, load_trace
from dipsim.trace.opening import shard_name
from dipsim.trace.writer import TraceWriter
from tools.cli import Dipsim, done, refused, runner
from tools.replays import replay

TOKENS, LAYERS, UNITS = 29, 4, 40
RNG = np.random.default_rng(2)
SCORES = RNG.random((TOKENS, LAYERS, UNITS)).astype(np.float32)
MARKS = {
    "phase": (np.arange(TOKENS) % 9 > 2).astype(np.uint8),
    "sequence": np.arange(TOKENS) // 12,
    "token_id": np.arange(TOKENS) * 3,
}
CUTS = (0, 1, 8, 9, 20, TOKENS)
MODEL = {"layers": 4, "hidden": 8, "intermediate": 40, "heads": 2, "kv_heads": 1, "vocab": 50}


def write(path: Path, here: slice, encoding: Any = "float32", **more: Any) -> None:
    glu = SCORES[here] < 0.4 if encoding in ("bits", "sparse") else SCORES[here]
    meta = {"model": MODEL, **more}
    with TraceWriter(path, encodings={"glu": encoding}, meta=meta) as out:
        out.append({"glu": glu, **{key: values[here] for key, values in MARKS.items()}})


def shards(folder: Path, encoding: Any = "float32") -> Path:
    folder.mkdir()
    for i, (start, stop) in enumerate(itertools.pairwise(CUTS)):
        write(folder / shard_name(i), slice(start, stop), encoding)
    return folder


def read(trace: Trace) -> np.ndarray:
    wanted: Any = {"glu": trace.signals["glu"].holds}
    return np.concatenate([rows["glu"] for _, _, rows in trace.blocks(wanted)])


@pytest.mark.parametrize("encoding", ["float32", "float16", "log8", "bits", "sparse"])
def test_shards_are_one_trace(encoding: str, tmp_path: Path) -> None:
    write(tmp_path / "t.npz", slice(None), encoding)
    whole, cut = load_trace(tmp_path / "t.npz"), load_trace(shards(tmp_path / "cut", encoding))
    assert len(cut.signals["glu"].parts) == len(CUTS) - 1
    for key in ("tokens", "layers", "meta", "warnings", "model"):
        assert getattr(cut, key) == getattr(whole, key)
    for key in ("phase", "sequence", "position", "token_id"):
        np.testing.assert_array_equal(getattr(cut, key), getattr(whole, key))
    if encoding != "log8":  # its codes are the same, what they stand for is taken without max
        np.testing.assert_array_equal(read(cut), read(whole))
    for part in ({"tokens": "7:21"}, {"layers": "1:3"}, {"sequence": "1:"}):
        np.testing.assert_array_equal(read(cut.part(**part)), read(whole.part(**part)))
    options: dict[str, Any] = {"cache_fraction": 0.5, "policy": "lru"}
    results = [simulate(trace, "oneplus15r", **options) for trace in (whole, cut)]
    assert results[0].hits == results[1].hits > 0


def test_meta_may_stand_in_the_first_shard_only(tmp_path: Path) -> None:
    folder = shards(tmp_path / "t", "bits")
    with np.load(folder / shard_name(2)) as arrays:
        bare = {key: arrays[key] for key in arrays.files if key != "meta"}
    np.savez(folder / shard_name(2), **bare)
    assert load_trace(folder).tokens == TOKENS


def test_another_file_is_a_warning(tmp_path: Path) -> None:
    folder = shards(tmp_path / "t")
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden").write_text("x")
    assert [
        str(folder) in text and "notes.txt" in text for text in load_trace(folder).warnings
    ] == [True]


def refusal(folder: Path) -> str:
    with pytest.raises(TraceError) as problem:
        load_trace(folder)
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_shards_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = shards(tmp_path / "t")
    second = folder / shard_name(1)
    kept = second.read_bytes()

    def swap(**arrays: Any) -> str:
        np.savez(second, **arrays)
        return refusal(folder)

    good = {"glu": SCORES[1:8], **{key: values[1:8] for key, values in MARKS.items()}}
    assert "not the signals" in swap(**{**good, "glu": SCORES[1:8, :3]})
    assert "not the signals" in swap(**{**good, "glu": SCORES[1:8].astype(np.float16)})
    assert "not the signals" in swap(**good, up=SCORES[1:8])
    assert "not the signals" in swap(**good, meta=np.array(json.dumps({"model": "llama-3-8b"})))
    assert "fall" in swap(**{**good, "sequence": np.full(7, 5)})
    assert "token_id must be in every shard" in swap(
        **{key: values for key, values in good.items() if key != "token_id"}
    )
    second.write_bytes(kept[:200])
    assert shard_name(1) in refusal(folder)
    second.unlink()
    assert f"{shard_name(1)} is missing" in refusal(folder)
    os.mkfifo(second)
    assert "not a regular file" in refusal(folder)
    second.unlink()
    second.symlink_to(second)
    assert "cannot be read" in refusal(folder)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part-1.npz").write_text("")
    assert "a folder without shards" in refusal(tmp_path)


def test_layers_are_replayed_as_in_the_whole() -> None:
    trace = load_trace({"glu": SCORES, "phase": MARKS["phase"]})
    method = Method("m", (Group("glu", UNITS, (), "top-k", 0.4),))
    whole = replay(trace, method, BUILTIN["lru"], np.full((LAYERS, 1), 20))
    part = replay(trace.part(layers="1:3"), method, BUILTIN["lru"], np.full((2, 1), 20))
    np.testing.assert_array_equal(part.hits, whole.hits[:, 1:3])
    np.testing.assert_array_equal(part.kept, whole.kept[:, 1:3])


def test_a_part_of_a_model_is_timed_and_marked_as_such() -> None:
    meta = {"model": MODEL, "signals": {"glu": {"unit_bytes": [10, 20, 30, 40]}}}
    arrays = {"glu": SCORES < 0.4, "meta": meta}
    options: dict[str, Any] = {"cache_fraction": 0.5, "policy": "lru"}
    result = simulate(arrays, "oneplus15r", layers="1:3", **options)
    assert "part" in result.marks
    assert result.groups()[0]["unit_bytes"] == [20, 30]
    whole = simulate(arrays, "oneplus15r", **options)
    assert "part" not in whole.marks
    assert result.budget.static.attention == whole.budget.static.attention / 2


def test_sequences_are_counted_from_zero_and_tokens_within_them() -> None:
    trace = load_trace({"glu": SCORES, "sequence": MARKS["sequence"] * 5 + 3})
    part = trace.part(sequence="1:3", tokens="2:14")
    np.testing.assert_array_equal(read(part), SCORES[14:26])
    assert part.sequence.tolist() == [8] * 10 + [13] * 2
    assert part.position[[0, 9, 10]].tolist() == [2, 11, 0]


@pytest.mark.parametrize("option", ["tokens", "layers", "sequence"])
@pytest.mark.parametrize("text", ["", "3", "a:b", "5:2", "2:2", "0:99", "-1:2", "1:2:3", "0x1:2"])
def test_bad_parts_are_refused(option: str, text: str) -> None:
    trace = load_trace({"glu": SCORES, **MARKS})
    with pytest.raises(TraceError, match=option):
        trace.part(**{option: text})


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Dipsim:
    """Run a command line in this process, in the folder of the test."""
    return runner(monkeypatch, capsys, tmp_path)


def test_a_run_of_shards_repeats_from_its_result(here: Dipsim, tmp_path: Path) -> None:
    shards(tmp_path / "t", "bits")
    (tmp_path / "m.yaml").write_text(json.dumps(MODEL))
    line = "run t --profile oneplus15r --cache-fraction .5 --layers 1:3 --sequence 0:2 --json"
    first = done(here(f"{line} --model m.yaml"))
    assert "layers 1:3 alone" in " ".join(first.err)
    (tmp_path / "r.json").write_text(first.out)
    assert here("run --config r.json --json").out == first.out
    assert first.json["hits"] > 0
    refused(here("run t --profile oneplus15r --layers 3:9"))


def test_devices_have_a_size(here: Dipsim, tmp_path: Path) -> None:
    write(tmp_path / "t.npz", slice(None), "bits")
    more = here("run t.npz --profile apple-a18 --dram 9GB")
    refused(more, "exceeds the 8 GB of apple-a18")
    granted = done(here("run t.npz --profile apple-a18 --dram 4GB --json"))
    assert "more DRAM than the device leaves to an app" in " ".join(granted.err)
    assert "over-available" in granted.json["marks"]
    small = here("run t.npz --profile apple-a18 -s flash.capacity=1kB")
    refused(small, "flash of apple-a18 holds 1 kB")
