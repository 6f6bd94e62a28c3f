"""Vectors and recorded decisions: what is written is read, in any encoding, file, shard or part."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.errors import TraceError
from dipsim.trace import TraceWriter, load_trace, save_trace
from dipsim.trace.convert import export, import_
from dipsim.trace.opening import shard_name
from dipsim.trace.vectors import VECTORS
from tools.cli import invoke, refusal
from tools.hostile import read_or_refused

TOKENS, LAYERS, HEADS, KV_HEADS, WIDTH = 14, 3, 4, 2, 5
RNG = np.random.default_rng(3)
SHAPE = (TOKENS, LAYERS)
ARRAYS: dict[str, Any] = {
    "query": RNG.normal(0, 3, (*SHAPE, HEADS * WIDTH)).astype(np.float32),
    "key": RNG.normal(0, 3, (*SHAPE, KV_HEADS * WIDTH)).astype(np.float32),
    "value": RNG.normal(0, 3, (*SHAPE, KV_HEADS * WIDTH)).astype(np.float32),
    "layer_io": np.tanh(RNG.normal(0, 1, (*SHAPE, 6))).astype(np.float32),
    "layer_mode": RNG.choice([0, 1, 2, 4, 5, 6, 8, 9, 10], SHAPE).astype(np.uint8),
}
MARKS = {
    "phase": np.array([0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1], np.uint8),
    "sequence": np.repeat([0, 1, 2], [6, 5, 3]),
}
STEP_TOKENS = [0, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]
STEP_ENDS = [3, 4, 5, 6, 2, 3, 4, 5, 1, 2, 3]
POSITIONS = 6
KEPT = (RNG.random((len(STEP_ENDS), LAYERS, POSITIONS)) < 0.6) & (
    np.arange(POSITIONS) < np.array(STEP_ENDS)[:, None, None]
)
META = {"attention": {"heads": HEADS, "kv_heads": KV_HEADS, "scaling": 0.4, "window": [4, None, 4]}}
INT8: Any = dict.fromkeys(("query", "key", "value"), "int8")


def write(path: Path, tokens: slice = slice(None), block: int = TOKENS, **more: Any) -> Path:
    """Write some of the tokens, ``block`` at a time."""
    start, stop, _ = tokens.indices(TOKENS)
    with TraceWriter(path, meta=META, **more) as out:
        for first in range(start, stop, block):
            rows = slice(first, min(first + block, stop))
            steps = [rows.start <= token < rows.stop for token in STEP_TOKENS]
            values = {key: array[rows] for key, array in (ARRAYS | MARKS).items()}
            out.append({**values, "kept": KEPT[steps]})
    return path


@pytest.mark.parametrize("block", [1, 4, TOKENS])
@pytest.mark.parametrize("name", ["t.npz", "t"])
def test_what_is_appended_is_read(name: str, block: int, tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / name, block=block, shard_bytes=2000))
    assert (trace.tokens, trace.layers, dict(trace.signals), trace.warnings) == (14, 3, {}, ())
    for key in VECTORS:
        np.testing.assert_array_equal(trace.vectors(key).read(), ARRAYS[key])
        np.testing.assert_array_equal(trace.vectors(key).read(5, 9), ARRAYS[key][5:9])
        blocks = list(trace.vectors(key).blocks(4))
        assert {len(rows) for rows in blocks} <= {1, 2, 3, 4}
        np.testing.assert_array_equal(np.concatenate(blocks), ARRAYS[key])
    assert trace.vectors("query").read(3, 3).shape == (0, LAYERS, HEADS * WIDTH)
    np.testing.assert_array_equal(trace.layer_modes().read(), ARRAYS["layer_mode"])
    np.testing.assert_array_equal(trace.kept_positions().read(), KEPT)
    if name == "t" and block < TOKENS:
        assert len(trace.vectors("key").parts) > 1
    with pytest.raises(TraceError, match=r"rows 3:15 of 14"):
        trace.vectors("key").read(3, 15)


def test_int8_has_a_scale_per_head(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / "t.npz", encodings=INT8))
    for key, heads in (("query", HEADS), ("key", KV_HEADS), ("value", KV_HEADS)):
        vectors = trace.vectors(key)
        assert (vectors.encoding, vectors.heads, vectors.width) == ("int8", heads, heads * WIDTH)
        split = ARRAYS[key].reshape(*SHAPE, heads, WIDTH)
        scale = (np.abs(split).max(-1) / 127).astype(np.float16).astype(np.float32)[..., None]
        wanted = np.clip(np.rint(split / scale), -127, 127) * scale
        np.testing.assert_array_equal(vectors.read().reshape(split.shape), wanted)
        assert (np.abs(wanted - split) <= 0.51 * scale).all()
    silent = {"query": np.zeros((2, 1, 8))}
    with TraceWriter(tmp_path / "z.npz", meta=META, encodings={"query": "int8"}) as out:
        out.append(silent)
    assert not load_trace(tmp_path / "z.npz").vectors("query").read().any()


@pytest.mark.parametrize("encodings", [None, INT8, {"key": "float16"}])
def test_parts_shards_and_exports_hold_the_same(encodings: Any, tmp_path: Path) -> None:
    whole = load_trace(write(tmp_path / "t.npz", encodings=encodings))
    cut = load_trace(write(tmp_path / "cut", block=1, shard_bytes=1, encodings=encodings))
    assert len(cut.paths) == TOKENS  # also within a prompt
    exported = export(cut, tmp_path / "e.npz")
    assert exported.warnings == ()
    for part in ({}, {"tokens": "4:9"}, {"layers": "1:3"}, {"sequence": "1:"}, {"tokens": "0:1"}):
        wanted = whole.part(**part)
        for trace in (cut.part(**part), exported.part(**part), whole.kept().part(**part)):
            for name in whole.arrays:
                np.testing.assert_array_equal(trace.array(name).read(), wanted.array(name).read())
        assert len(wanted.vectors("key").read()) == wanted.tokens
    steps = whole.part(tokens="4:9").kept_positions()
    np.testing.assert_array_equal(steps.read(), KEPT[2:6])  # half a prompt is a step, too
    assert whole.part(layers="1:2").layer_modes().read().tolist() == (
        ARRAYS["layer_mode"][:, 1:2].tolist()
    )


def test_a_cut_prompt_or_sequence_loses_what_it_kept(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / "t.npz"))
    for tokens, lost in (("0:6", False), ("6:", False), ("0:2", True), ("4:9", True)):
        out = export(trace, tmp_path / f"{tokens[0]}{lost}.npz", tokens=tokens)
        assert ("kept" not in out.arrays) is lost
        assert [("kept is left out" in text) for text in out.warnings] == [True] * lost
    with pytest.raises(TraceError, match="nothing is left to write"):
        export(trace, tmp_path / "n.npz", tokens="4:9", signals=["kept"])
    part = export(
        trace, tmp_path / "l.npz", layers="1:3", signals=["key"], encodings={"key": "int8"}
    )
    assert part.meta["attention"] == META["attention"] | {"window": [None, 4]}
    assert part.vectors("key").encoding == "int8"
    with pytest.raises(TraceError, match="layer_mode has one form"):
        export(trace, tmp_path / "n.npz", encodings={"layer_mode": "int8"})  # type: ignore[dict-item]


def test_arrays_of_others_are_imported(tmp_path: Path) -> None:
    layers = {f"l{i}.q": ARRAYS["query"][:, i] for i in range(LAYERS)}
    np.savez(tmp_path / "a.npz", **layers, io=ARRAYS["layer_io"], noise=np.ones(3))
    trace = import_(
        tmp_path / "a.npz",
        tmp_path / "t.npz",
        names={"query": "l*.q", "layer_io": "io"},
        meta=META,
        encodings={"query": "int8"},
    )
    assert trace.vectors("query").encoding == "int8"
    np.testing.assert_allclose(trace.vectors("query").read(), ARRAYS["query"], atol=0.1)
    assert (trace.vectors("query").read() < 0).any()
    np.testing.assert_array_equal(trace.vectors("layer_io").read(), ARRAYS["layer_io"])
    np.savez(tmp_path / "b.npz", key=ARRAYS["key"].astype(np.int16))
    with pytest.raises(TraceError, match="key is int16: key is of floats"):
        import_(tmp_path / "b.npz", tmp_path / "n.npz")


def test_plain_arrays_are_a_trace() -> None:
    trace = load_trace({key: ARRAYS[key] for key in ("key", "layer_mode")})
    np.testing.assert_array_equal(trace.vectors("key").read(), ARRAYS["key"])
    assert trace.describe()["arrays"] == {
        "key": {"encoding": "float32", "width": 10, "heads": None},
        "layer_mode": {"encoding": "uint8"},
    }
    named = load_trace({"key": ARRAYS["key"], "meta": {"model": {**GEOMETRY, "kv_heads": 2}}})
    assert named.vectors("key").heads == KV_HEADS
    assert named.signals == {}


GEOMETRY = {"layers": 3, "hidden": 20, "intermediate": 8, "heads": 4, "vocab": 9}
GOOD = {"key": ARRAYS["key"], "layer_io": ARRAYS["layer_io"]}
NAN = np.where(np.arange(6) == 3, np.nan, ARRAYS["layer_io"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": ARRAYS["key"][:, 0]}, r"key has shape \[14, 10\]: it must be \[tokens"),
        ({"key": ARRAYS["key"].astype(np.float64)}, r"key is float64: save float16"),
        ({"key": ARRAYS["key"].astype(np.int8)}, "key is int8: it needs key.scale"),
        ({"key.scale": np.ones((14, 3, 2))}, "key.scale is for int8, but key is float32"),
        ({"value.scale": np.ones((14, 3, 2))}, "value.scale belongs to value, which is missing"),
        ({"layer_io": ARRAYS["layer_io"][..., :5]}, "layer_io has 5 figures a layer"),
        ({"layer_io": ARRAYS["layer_io"].astype(np.int8)}, "layer_io is int8"),
        ({"layer_mode": np.ones((14, 3))}, "layer_mode is float64"),
        ({"layer_mode": np.ones((14, 2), np.uint8)}, "disagree on tokens x layers"),
        ({"kept": np.zeros((14, 3, 1), np.uint8)}, "kept needs kept.shape"),
        ({"kept.shape": np.array([14, 3, 14])}, "kept.shape belongs to kept"),
        (
            {"kept": np.zeros((14, 3, 1), np.uint8), "kept.shape": np.array([14, 3, 10**15])},
            "by kept.shape it must be uint8",
        ),
        (
            {"kept": np.zeros((13, 3, 2), np.uint8), "kept.shape": np.array([13, 3, 14])},
            "kept has 13 steps, and the tokens are 14",
        ),
        (
            {"kept": np.zeros((14, 3, 2), np.uint8), "kept.shape": np.array([14, 3, 13])},
            "kept has 13 positions, and a sequence 14",
        ),
        (
            {"kept": np.zeros((14, 2, 2), np.uint8), "kept.shape": np.array([14, 2, 14])},
            "kept has 2 layers",
        ),
        ({"meta": {"attention": {"kv_heads": 3}}}, "key is 10 wide, which 3 heads do not divide"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message) as problem:
        load_trace({**GOOD, **change})
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_io": NAN}, "nan at token 0, layer 0"),
        ({"layer_io": ARRAYS["layer_io"] * 9}, r"a cosine outside -1\.\.1"),
        ({"layer_mode": np.full((14, 3), 3, np.uint8)}, "layer_mode holds 3: attention"),
        (
            {"kept": np.full((14, 3, 2), 1, np.uint8) << 2, "kept.shape": np.array([14, 3, 14])},
            "step 0 keeps position 2 in layer 0, and has 1 positions",
        ),
        (
            {"key": np.ones((14, 3, 4), np.int8), "key.scale": np.full((14, 3, 2), -1.0)},
            "key.scale is negative",
        ),
    ],
)
def test_values_that_none_may_hold_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        load_trace({**GOOD, **change}).check_values()
    with pytest.raises(TraceError, match=message):
        save_trace("never-written.npz", {**GOOD, **change})
    assert not os.path.exists("never-written.npz")


BLOCK = {key: ARRAYS[key] for key in ("key", "layer_io", "layer_mode")}


@pytest.mark.parametrize(
    ("block", "options", "message"),
    [
        ({"key": NAN}, {}, "vectors key: values must be finite"),
        ({"key": ARRAYS["key"] * 1e6}, {"encodings": {"key": "float16"}}, "beyond float16"),
        ({"key": ARRAYS["key"] * 1e9}, {"encodings": {"key": "int8"}, "meta": META}, "8.3 million"),
        ({"key": ARRAYS["key"]}, {"encodings": {"key": "int8"}}, "say how many there are"),
        ({"key": ARRAYS["key"]}, {"encodings": {"key": "log8"}}, "one of float16, float32, int8"),
        ({"key": ARRAYS["key"]}, {"encodings": {"query": "int8"}}, "the trace has no signal query"),
        (
            {"layer_io": ARRAYS["layer_io"]},
            {"encodings": {"layer_io": "int8"}},
            "encoding layer_io=int8: write SIGNAL=ENCODING .* one of float16, float32$",
        ),
        ({"key": np.ones((2, 3, 4), np.int8)}, {}, "append int8 codes with key.scale"),
        ({"key": ARRAYS["key"], "key.scale": np.ones((14, 3, 2))}, {}, "or floats without"),
        (
            {"key": np.ones((2, 3, 4), np.int8), "key.scale": np.ones((2, 3, 3))},
            {},
            "4 wide, which 3 heads do not divide",
        ),
        ({"layer_mode": np.full((14, 3), 7)}, {}, "layer_mode holds 7"),
        ({"layer_mode": np.ones((14, 3))}, {}, "layer_mode is float64: append integers"),
        ({**BLOCK, "kept": KEPT}, {}, "kept has 11 steps, and with these tokens 14 begin"),
        ({**BLOCK, **MARKS, "kept": KEPT.astype(int)}, {}, "kept is int64: append bool"),
        ({**BLOCK, **MARKS, "kept": KEPT[..., :5]}, {}, "kept has 5 positions, and a sequence"),
        (
            {**BLOCK, **MARKS, "kept": np.ones_like(KEPT)},
            {},
            "a step of 3 positions keeps position 5",
        ),
        ({"kept": KEPT}, {}, "at least one signal"),
        ({**BLOCK, "key.scores": ARRAYS["key"]}, {}, "array 'key.scores': unknown"),
    ],
)
def test_the_writer_refuses_what_no_reader_takes(
    block: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TraceError, match=message), TraceWriter(tmp_path / "t", **options) as out:
        out.append(block)
    assert os.listdir(tmp_path) == []


def test_a_step_that_ends_too_early_is_noticed_at_the_end(tmp_path: Path) -> None:
    kept = np.ones((1, 1, 4), np.bool_)
    with (
        pytest.raises(TraceError, match="a step of 2 positions keeps position 3"),
        TraceWriter(tmp_path / "t.npz") as out,
    ):
        out.append({"key": np.ones((2, 1, 4)), "phase": 0, "kept": kept})
    with TraceWriter(tmp_path / "t.npz") as out:
        out.append({"key": np.ones((2, 1, 4)), "phase": 0, "kept": kept})
        out.append({"key": np.ones((2, 1, 4)), "phase": 0, "kept": kept[:0]})
    assert load_trace(tmp_path / "t.npz").kept_positions().read().tolist() == kept.tolist()


def test_what_a_trace_lacks_is_said_with_the_way_to_it() -> None:
    trace = load_trace({"key": ARRAYS["key"]})
    with pytest.raises(TraceError, match=r"dipsim record MODEL t\.npz --signals query"):
        trace.vectors("query")
    with pytest.raises(TraceError, match=r"dipsim\.TraceWriter"):
        trace.layer_modes()
    with pytest.raises(TraceError, match="kept alone"):
        load_trace({"kept": np.zeros((2, 1, 1), np.uint8), "kept.shape": np.array([2, 1, 3])})


def test_shards_that_differ_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    write(tmp_path / "t" / shard_name(0), slice(0, 6))
    write(tmp_path / "t" / shard_name(1), slice(6, 11), encodings={"key": "int8"})
    with pytest.raises(TraceError, match="not the signals, shapes or meta"):
        load_trace(tmp_path / "t")


@pytest.mark.parametrize("encodings", [None, INT8])
def test_damaged_files_are_read_or_refused(encodings: Any, tmp_path: Path) -> None:
    data = write(tmp_path / "good.npz", encodings=encodings).read_bytes()
    path = tmp_path / "t.npz"
    assert read_or_refused(lambda file: load_trace(file).check_values(), path, data, 150) < 150


def test_the_commands_take_such_a_trace(tmp_path: Path) -> None:
    path = write(tmp_path / "t.npz")
    assert "query       float32      20      4" in invoke("inspect", path).stdout
    assert json.loads(invoke("inspect", path, "--json").stdout)["arrays"]["kept"]["steps"] == 11
    out = tmp_path / "o.npz"
    done = invoke("export", path, out, "--sequence", "1:2", "--encoding", "query=int8")
    assert done.exit_code == 0, done.stderr
    assert load_trace(out).vectors("query").encoding == "int8"
    assert "pass --model" in refusal("run", path, "--profile", "snapdragon8")
    assert "to fit" in refusal("synth", out, "--like", "smollm2-kv", "--tokens", "40")
    assert invoke("run", "smollm2-kv", "--profile", "snapdragon8").exit_code == 0
