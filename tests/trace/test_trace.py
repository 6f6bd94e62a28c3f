"""Traces: what is written reads back, however stored; what is no trace is refused in one line."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipsim import files
from dipsim.errors import DipsimError, TraceError
from dipsim.simulate import simulate
from dipsim.trace import Trace, load_trace, trace_names
from dipsim.trace.encoding import encode_log8
from dipsim.trace.save import save_trace
from tools.work import counted

TOKENS, LAYERS, UNITS = 7, 3, 70
STORED, DEFLATED = np.savez, np.savez_compressed
each_storage = pytest.mark.parametrize("save", [STORED, DEFLATED], ids=["stored", "deflated"])


def scores(units: int = UNITS, tokens: int = TOKENS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0, 2, (tokens, LAYERS, units)).astype(np.float32)


def meta(**signals: Mapping[str, Any]) -> np.ndarray:
    return np.array(json.dumps({"signals": signals}))


def read(trace: Trace, name: str) -> np.ndarray:
    """All tokens of a signal; sets, which come as words of 64 bits, as booleans."""
    wanted = {name: trace.signals[name].holds}
    rows = np.concatenate([data[name] for _, _, data in trace.blocks(wanted)])
    return (
        rows if trace.signals[name].holds == "scores" else unpacked(rows, trace.signals[name].units)
    )


def read_all(trace: Trace) -> dict[str, np.ndarray]:
    return {name: read(trace, name) for name in trace.signals}


def unpacked(words: np.ndarray, units: int) -> np.ndarray:
    """Unit u is bit u % 64 of word u // 64."""
    assert words.dtype == np.uint64
    bits = [(words[..., u // 64] >> np.uint64(u % 64)) & np.uint64(1) for u in range(units)]
    return np.stack(bits, axis=-1).astype(bool)


def refusal(path: Path) -> str:
    """The one line a file is refused with, on opening or on reading."""
    with pytest.raises(TraceError) as problem:
        read_all(load_trace(path))
    message = str(problem.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.npz"


# What is written reads back -----------------------------------------------------------------------


@each_storage
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_scores_read_back_as_float32(save: Callable[..., None], dtype: str, path: Path) -> None:
    stored = np.minimum(scores(), 60000).astype(dtype)
    save(path, glu=stored)
    trace = load_trace(path)
    assert (trace.tokens, trace.layers, trace.signals["glu"].units) == (TOKENS, LAYERS, UNITS)
    assert trace.signals["glu"].holds == "scores"
    found = read(trace, "glu")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, stored.astype(np.float32))
    assert ["float64" in warning for warning in trace.warnings] == [True] * (dtype == "float64")


def test_joined_scores_stay_float32(path: Path) -> None:
    largest = np.finfo(np.float32).max
    np.savez(path, glu=np.full((2, 1, 4), largest, np.float32))
    assert (read(load_trace(path).clustered(2), "glu") == largest).all()


def test_the_scale_of_log8_beyond_float32_is_refused(path: Path) -> None:
    largest = np.full((TOKENS, LAYERS), 1e300)
    codes = np.ones((TOKENS, LAYERS, UNITS), np.uint8)
    arrays = {"glu": codes, "glu.max": largest, "meta": meta(glu={"encoding": "log8"})}
    np.savez(path, **arrays)
    with pytest.raises(TraceError, match="max must be finite"):
        list(load_trace(path).signals["glu"].values(0, TOKENS, TOKENS))


@each_storage
@pytest.mark.parametrize("units", [1, 7, 8, 63, 64, 65, 130])
def test_sets_read_back(save: Callable[..., None], units: int, path: Path) -> None:
    sets = scores(units) > 1
    bits = np.zeros((TOKENS, LAYERS, -(-units // 8)), np.uint8)
    for u in range(units):  # little-endian bits: unit u is bit u % 8 of byte u // 8
        bits[..., u // 8] |= sets[..., u].astype(np.uint8) << (u % 8)
    save(path, gate=sets, glu=bits, meta=meta(glu={"encoding": "bits", "units": units}))
    trace = load_trace(path)
    for name in ("gate", "glu"):
        assert (trace.signals[name].holds, trace.signals[name].units) == ("sets", units)
        np.testing.assert_array_equal(read(trace, name), sets)


@each_storage
def test_log8_reads_back_as_powers_of_two(save: Callable[..., None], path: Path) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(4, 2, 32)
    largest = np.ones((4, 2), np.float32)
    save(path, **{"glu": codes, "glu.max": largest, "meta": meta(glu={"encoding": "log8"})})
    table = [0.0] + [2.0 ** ((q - 255) / 20) for q in range(1, 256)]
    found = read(load_trace(path), "glu")
    np.testing.assert_array_equal(found.ravel(), np.array(table, np.float32))


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([1, 1e-3, 1e3]))
def test_log8_keeps_scores_to_half_a_step(seed: int, zeros: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    given_scores = rng.lognormal(0, 3, (3, 2, 40)) * scale * (rng.random((3, 2, 40)) >= zeros)
    codes, largest = encode_log8(given_scores.astype(np.float32))
    assert codes.dtype == np.uint8
    assert largest.dtype == np.float32
    np.testing.assert_array_equal(largest, given_scores.astype(np.float32).max(axis=-1))
    decoded = np.where(codes > 0, largest[..., None] * 2.0 ** ((codes - 255.0) / 20), 0)
    lost = given_scores <= largest[..., None] * 2.0 ** (-254.5 / 20)
    assert (decoded[lost & (given_scores == 0)] == 0).all()
    kept = ~lost & (given_scores > 0)
    ratio = decoded[kept] / given_scores[kept]
    assert (abs(np.log2(ratio)) <= 0.5 / 20 + 1e-5).all()
    assert (codes.max(axis=-1)[largest > 0] == 255).all()


def log8_in_float64(scores: np.ndarray) -> np.ndarray:
    """The naive twin of `encode_log8`."""
    wide = scores.astype(np.float64)
    largest = wide.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        steps = 255 + 20 * np.log2(wide / np.where(largest > 0, largest, 1))
    return np.where(wide > 0, np.clip(np.rint(steps), 0, 255), 0).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-310, 1e-43, 1e-6, 1.0, 6e4, 1e38])
@pytest.mark.parametrize("units", [1, 5, 20_000])
def test_log8_is_exact_where_float32_is_not(dtype: Any, scale: float, units: int) -> None:
    rng = np.random.default_rng(3)
    with np.errstate(over="ignore"):
        given_scores = (rng.random((3, 2, units)) ** 20 * scale).astype(dtype)
    given_scores = np.minimum(given_scores, np.finfo(dtype).max)
    given_scores[0, 0] = 0
    between = np.exp2((np.arange(0.5, 255) - 255) / 20)  # halfway from code to code
    given_scores[1, 1, : min(units, 255)] = (between * float(given_scores[1, 1].max()))[:units]
    codes, largest = encode_log8(given_scores)
    np.testing.assert_array_equal(codes, log8_in_float64(given_scores))
    np.testing.assert_array_equal(largest, given_scores.max(axis=-1).astype(np.float32))


def test_minus_zero_is_zero(path: Path) -> None:
    STORED(path, glu=np.full((2, 1, 4), -0.0, np.float16))
    assert (read(load_trace(path), "glu") == 0).all()


def test_router_scores_may_be_negative(path: Path) -> None:
    router = np.array([[[-3.0, 2.0, 0.5]]], np.float32)
    STORED(path, expert=router)
    np.testing.assert_array_equal(read(load_trace(path), "expert"), router)


def test_arrays_in_memory_read_as_files_do(path: Path) -> None:
    arrays = {"glu": scores().astype(np.float16), "gate": scores() > 1}
    save_trace(path, {**arrays, "meta": {"source": "here"}})
    memory, disk = load_trace({**arrays, "meta": {"source": "here"}}), load_trace(path)
    assert memory.meta == disk.meta == {"source": "here"}
    for name, rows in read_all(disk).items():
        np.testing.assert_array_equal(read(memory, name), rows)
    assert load_trace(disk) is disk


def test_saving_replaces_a_file_whole_or_not_at_all(path: Path) -> None:
    save_trace(path, {"glu": scores()})
    before = path.read_bytes()
    with pytest.raises(TraceError, match="Python objects"):
        save_trace(path, {"glu": scores(), "token_id": np.array([object()])})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# Blocks and windows -------------------------------------------------------------------------------


def rich(tokens: int = TOKENS) -> dict[str, np.ndarray]:
    """A trace with every encoding and every mark."""
    codes, largest = encode_log8(scores(20, tokens, seed=1))
    sets = scores(13, tokens, seed=2) > 1
    return {
        "mlp_input": scores(16, tokens).astype(np.float16),
        "glu": codes,
        "glu.max": largest,
        "gate": np.packbits(sets, axis=-1, bitorder="little"),
        "up": sets,
        "phase": (np.arange(tokens) % 4 > 0).astype(np.uint8),
        "sequence": (np.arange(tokens) // 4).astype(np.int32),
        "token_id": np.arange(tokens, dtype=np.int32),
        "meta": meta(glu={"encoding": "log8"}, gate={"encoding": "bits", "units": 13}),
    }


def test_mapped_streamed_and_held_rows_are_the_same(tmp_path: Path) -> None:
    arrays = rich(50)
    STORED(tmp_path / "stored.npz", **arrays)
    DEFLATED(tmp_path / "deflated.npz", **arrays)
    plain = {k: v for k, v in arrays.items() if k != "meta"}
    held = read_all(load_trace({**plain, "meta": json.loads(str(arrays["meta"]))}))
    for file in ("stored.npz", "deflated.npz"):
        found = read_all(load_trace(tmp_path / file))
        assert found.keys() == held.keys() == {"mlp_input", "glu", "gate", "up"}
        for name, rows in found.items():
            np.testing.assert_array_equal(rows, held[name])


@each_storage
@pytest.mark.parametrize("block", [1, 2, 3, TOKENS, 100])
def test_the_block_size_does_not_matter(save: Callable[..., None], block: int, path: Path) -> None:
    save(path, **rich())
    trace = load_trace(path)
    for name, signal_ in trace.signals.items():
        whole = np.concatenate(list(signal_.blocks(0, TOKENS, TOKENS, signal_.holds)))
        blocks = list(signal_.blocks(0, TOKENS, block, signal_.holds))
        assert all(1 <= len(rows) <= block for rows in blocks)
        np.testing.assert_array_equal(np.concatenate(blocks), whole, err_msg=name)
        part = np.concatenate(list(signal_.blocks(2, 6, block, signal_.holds)))
        np.testing.assert_array_equal(part, whole[2:6], err_msg=name)


def test_blocks_say_which_tokens_they_hold(path: Path) -> None:
    STORED(path, **rich())
    trace = load_trace(path)
    spans = [
        (start, stop, len(d["glu"]), len(d["up"]))
        for start, stop, d in trace.blocks({"glu": "scores", "up": "scores"})
    ]
    assert [(start, stop) for start, stop, *_ in spans] == [(0, TOKENS)]
    assert all(stop - start == glu == up for start, stop, glu, up in spans)


@each_storage
def test_a_window_is_a_trace_of_its_own(save: Callable[..., None], path: Path) -> None:
    save(path, **rich())
    trace = load_trace(path)
    part = trace.window(2, 6)
    assert (part.tokens, part.layers, part.hash) == (4, trace.layers, trace.hash)
    np.testing.assert_array_equal(part.phase, trace.phase[2:6])
    np.testing.assert_array_equal(part.sequence, trace.sequence[2:6])
    inner = part.window(1, 3)
    for name, rows in read_all(trace).items():
        np.testing.assert_array_equal(read(part, name), rows[2:6])
        np.testing.assert_array_equal(read(inner, name), rows[3:5])


@pytest.mark.parametrize("span", [(0, 0), (3, 2), (-1, 2), (0, TOKENS + 1), (TOKENS, TOKENS + 1)])
def test_a_window_outside_the_trace_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(TraceError, match=f"0 <= A < B <= {TOKENS}"):
        load_trace({"glu": scores()}).window(*span)


def test_a_bad_score_is_placed_by_its_token_and_layer_and_unit(path: Path) -> None:
    bad = scores()
    bad[5, 2, 61] = np.nan
    STORED(path, glu=bad)
    for trace in (load_trace(path), load_trace(path).window(4, 7)):
        with pytest.raises(TraceError, match=r"signal glu.* layer 2, unit 61"):
            read(trace, "glu")
    assert "token 5, layer 2, unit 61" in refusal(path)


# Marks and meta -----------------------------------------------------------------------------------


def test_without_marks_all_tokens_decode_in_one_sequence() -> None:
    trace = load_trace({"glu": scores()})
    assert (trace.phase == 1).all()
    assert (trace.sequence == 0).all()
    assert trace.position.tolist() == list(range(TOKENS))
    assert (trace.meta, trace.model) == ({}, None)


def test_marks_and_meta_are_kept() -> None:
    given_meta = {"model": "llama-3-8b", "author": {"name": "me"}, "version": 1}
    sequence = [0, 0, 1, 1, 1, 1, 7]
    marks = {"phase": [0, 1, 1, 1, 1, 0, 1], "sequence": sequence, "token_id": range(TOKENS)}
    trace = load_trace({"glu": scores(), **marks, "meta": given_meta})
    assert (trace.meta, trace.model) == (given_meta, "llama-3-8b")
    assert trace.sequence.tolist() == sequence
    assert trace.position.max() == 3
    described = trace.describe()
    assert (described["prefill_tokens"], described["sequences"]) == (2, 3)
    assert described["signals"] == {
        "glu": {"holds": "scores", "encoding": "float32", "scores": True, "units": UNITS}
    }


def test_an_unknown_array_is_a_warning(path: Path) -> None:
    STORED(path, glu=scores(), attention=scores())
    trace = load_trace(path)
    assert list(trace.signals) == ["glu"]
    assert len(trace.warnings) == 1
    assert "attention" in trace.warnings[0]
    assert str(path) in trace.warnings[0]


def declared(signals: Any, **more: Any) -> np.ndarray:
    return np.array(json.dumps({"signals": signals, **more}))


GLU = scores(10)


def holding(value: float) -> np.ndarray:
    """Scores with one that is ``value``, at token 3, layer 1, unit 2."""
    bad = GLU.copy()
    bad[3, 1, 2] = value
    return bad


LOG8 = {"glu": GLU.astype(np.uint8), "glu.max": GLU[..., 0]}
BITS = np.zeros((TOKENS, LAYERS, 2), np.uint8)


def bits_of(**more: Any) -> np.ndarray:
    return meta(glu={"encoding": "bits", **more})


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "no signal"),
    "no signal": ({"activations": GLU}, "no signal"),
    "NaN": ({"glu": holding(np.nan)}, "nan at token 3, layer 1, unit 2"),
    "infinite": ({"glu": holding(np.inf)}, "inf at token 3, layer 1, unit 2"),
    "negative": ({"glu": holding(-1)}, "-1.0 at token 3, layer 1, unit 2"),
    "router NaN": ({"expert": holding(np.nan) - 5}, "nan at token 3, layer 1, unit 2"),
    "negative float16": ({"glu": -GLU.astype(np.float16)}, "token 0, layer 0, unit 0"),
    "beyond float32": ({"glu": GLU.astype(np.float64) * 1e300}, "inf at token 0"),
    "tokens disagree": ({"glu": GLU, "mlp_input": GLU[1:]}, "disagree"),
    "layers disagree": ({"glu": GLU, "mlp_input": GLU[:, 1:]}, "disagree"),
    "1-D signal": ({"glu": GLU[0, 0]}, "[tokens, layers, units]"),
    "2-D signal": ({"glu": GLU[0]}, "[tokens, layers, units]"),
    "4-D signal": ({"glu": GLU[None]}, "[tokens, layers, units]"),
    "zero tokens": ({"glu": GLU[:0]}, "0 tokens"),
    "zero layers": ({"glu": GLU[:, :0]}, "0 layers"),
    "zero units": ({"glu": GLU[..., :0]}, "glu"),
    "int64": ({"glu": GLU.astype(np.int64)}, "glu is int64: scores are floats"),
    "complex": ({"glu": GLU.astype(np.complex64)}, "glu is complex64"),
    "text": ({"glu": GLU.astype(str)}, "glu is"),
    "dates": ({"glu": np.zeros((2, 1, 3), "M8[s]")}, "glu is"),
    "records": ({"glu": np.zeros((2, 1, 3), [("a", "f4")])}, "glu"),
    "big-endian": ({"glu": GLU.astype(">f4")}, "little-endian"),
    "Fortran order": ({"glu": np.asfortranarray(GLU)}, "Fortran order"),
    "uint8 alone": ({"glu": BITS}, "encoding"),
    "uint8 as prob": ({"glu": BITS, "meta": declared({"glu": {"encoding": "prob"}})}, "encoding"),
    "float as bits": ({"glu": GLU, "meta": declared({"glu": {"encoding": "bits"}})}, "encoding"),
    "bits without units": ({"glu": BITS, "meta": bits_of()}, "9 to 16"),
    "too few units": ({"glu": BITS, "meta": bits_of(units=8)}, "9 to 16"),
    "too many units": ({"glu": BITS, "meta": bits_of(units=17)}, "9 to 16"),
    "negative units": ({"glu": BITS, "meta": bits_of(units=-9)}, "9 to 16"),
    "units as text": ({"glu": BITS, "meta": bits_of(units="9")}, "9 to 16"),
    "bits beyond": ({"glu": ~BITS, "meta": bits_of(units=9)}, "beyond its 9 units"),
    "log8 without max": (
        {"glu": LOG8["glu"], "meta": meta(glu={"encoding": "log8"})},
        "needs glu.max",
    ),
    "log8, wrong max": (
        {**LOG8, "glu.max": GLU[0, :, 0], "meta": meta(glu={"encoding": "log8"})},
        "needs glu.max",
    ),
    "log8, integer max": (
        {**LOG8, "glu.max": BITS[..., 0], "meta": meta(glu={"encoding": "log8"})},
        "needs glu.max",
    ),
    "phase too short": ({"glu": GLU, "phase": np.ones(3, np.uint8)}, "phase"),
    "phase 2": ({"glu": GLU, "phase": np.full(TOKENS, 2, np.uint8)}, "0 is prefill, 1 decode"),
    "phase 257": ({"glu": GLU, "phase": np.full(TOKENS, 257)}, "phase"),
    "phase as float": ({"glu": GLU, "phase": np.ones(TOKENS)}, "phase is float64"),
    "sequence falls": ({"glu": GLU, "sequence": np.arange(TOKENS)[::-1]}, "sequence"),
    "sequence too large": ({"glu": GLU, "sequence": np.arange(TOKENS) + 2**31}, "sequence"),
    "token_id 2-D": ({"glu": GLU, "token_id": np.zeros((TOKENS, 1), np.int32)}, "token_id"),
    "meta not JSON": ({"glu": GLU, "meta": np.array("model: llama")}, "meta is not JSON"),
    "meta not an object": ({"glu": GLU, "meta": np.array("[1, 2]")}, "JSON object"),
    "meta too deep": ({"glu": GLU, "meta": np.array("[" * 50_000)}, "meta is not JSON"),
    "meta as bytes": ({"glu": GLU, "meta": np.array(b"{}")}, "meta must be one text"),
    "meta as numbers": ({"glu": GLU, "meta": GLU}, "meta must be one text"),
    "meta as list": ({"glu": GLU, "meta": np.array(["{}"])}, "meta must be one text"),
    "other format": ({"glu": GLU, "meta": declared({}, format="mine")}, "reads dipsim-trace"),
    "other version": ({"glu": GLU, "meta": declared({}, version=2)}, "version 2"),
    "signals no object": ({"glu": GLU, "meta": declared(["glu"])}, "meta.signals"),
    "signal no object": ({"glu": GLU, "meta": declared({"glu": 4096})}, "meta.signals"),
    "unknown signal": ({"glu": GLU, "meta": declared({"gul": {}})}, "meta.signals names 'gul'"),
    "absent signal": ({"glu": GLU, "meta": declared({"up": {}})}, "meta.signals names 'up'"),
}  # fmt: skip


@each_storage
@pytest.mark.parametrize(("arrays", "said"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_are_no_trace_are_refused(
    save: Callable[..., None], arrays: dict[str, Any], said: str, path: Path
) -> None:
    save(path, **arrays)
    assert said in refusal(path)


BAD_SIZES = [-1, 0, "many", [], {}, [1, 2], 10**400, 2**60]


@pytest.mark.parametrize("size", BAD_SIZES, ids=lambda size: str(size)[:20])
def test_unit_bytes_must_be_believable(size: Any) -> None:
    trace = load_trace({"glu": GLU > 1, "meta": {"signals": {"glu": {"unit_bytes": size}}}})
    with pytest.raises(TraceError, match="unit_bytes of glu"):
        simulate(trace, "paper-a18")


# Identity -----------------------------------------------------------------------------------------


def saved_hash(path: Path, save: Callable[..., None], **arrays: np.ndarray) -> str:
    save(path, **arrays)
    return load_trace(path).hash


def test_the_hash_is_that_of_the_contents_whatever_the_compression(path: Path) -> None:
    arrays = rich()
    hashes = {saved_hash(path, save, **arrays) for save in (STORED, DEFLATED)}
    backwards = dict(reversed(arrays.items()))
    assert {saved_hash(path, DEFLATED, **backwards)} == hashes
    assert len(hashes) == 1
    assert len(hashes.pop()) == 64


def test_the_hash_differs_for_other_contents(path: Path) -> None:
    base = scores()
    changed_score, other_phase = base.copy(), np.ones(TOKENS, np.uint8)
    changed_score[3, 1, 5] *= 2
    traces: list[dict[str, np.ndarray]] = [
        {"glu": base},
        {"glu": changed_score},
        {"up": base},
        {"glu": base.astype(np.float64)},
        {"glu": base.reshape(TOKENS, 1, -1)},
        {"glu": base, "phase": other_phase},
        {"glu": base, "up": base},
        {"glu": base, "meta": np.array("{}")},
        {"glu": base, "meta": np.array('{"a": 1}')},
    ]
    for save in (STORED, DEFLATED):
        assert len({saved_hash(path, save, **arrays) for arrays in traces}) == len(traces)
    assert len({load_trace({"glu": t["glu"]}).hash for t in traces[:2]}) == 2


def test_the_hash_of_arrays_in_memory_is_stable() -> None:
    base = scores()
    same = [base, base.copy(), np.asfortranarray(base), np.repeat(base, 2, axis=2)[..., ::2]]
    assert len({load_trace({"glu": array}).hash for array in same}) == 1


# The shipped trace --------------------------------------------------------------------------------


def test_the_shipped_trace_opens_and_is_small() -> None:
    assert "smollm2-chat" in trace_names()
    trace = load_trace("smollm2-chat")
    assert (trace.tokens, trace.layers) == (128, 30)
    assert {name: (s.encoding, s.units) for name, s in trace.signals.items()} == {
        "mlp_input": ("log8", 576),
        "glu": ("log8", 1536),
    }
    assert trace.warnings == ()
    assert trace.meta["license"].startswith("Apache-2.0")
    assert files.shipped("traces").joinpath("smollm2-chat.npz").stat().st_size <= 8_000_000


# Bad files ----------------------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    """An array as `.npy`."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def with_header(header: str | bytes, data: bytes = bytes(800), version: int = 1) -> bytes:
    """A `.npy` with any header text."""
    text = header if isinstance(header, bytes) else header.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + data


def described(shape: str, descr: str = "'<f4'", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}\n"


def write_zip(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)


BAD_HEADERS = {
    "more than the file": described("(1000, 1, 200)"),
    "less than the file": described("(1, 1, 2)"),
    "huge": described("(4000000000, 4000000000, 4000000000)"),
    "beyond 64 bits": described("(99999999999999999999, 1, 1)"),
    "negative": described("(-2, 1, -100)"),
    "float shape": described("(2.0, 1, 100)"),
    "list shape": described("[2, 1, 100]"),
    "no shape": "{'descr': '<f4', 'fortran_order': False}\n",
    "one more key": "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 100), 'x': 1}\n",
    "float128": described("(2, 1, 25)", "'<f16'"),
    "objects": described("(2, 1, 50)", "'|O'"),
    "records": described("(2, 1, 50)", "[('a', '<f4'), ('b', '<f4')]"),
    "void": described("(2, 1, 50)", "'|V8'"),
    "no dtype": described("(2, 1, 100)", "'banana'"),
    "subarray": described("(2, 1, 25)", "('<f4', (4,))"),
    "huge item": described("(1, 1, 1)", "'<U999999999'"),
    "code": "__import__('os').mkdir('pwned')\n",
    "call in shape": described("(print(1), 1, 1)"),
    "open string": "'''\n",
    "open bracket": "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, \n",
    "deep brackets": "(" * 9000,
    "deep minus": "-" * 9000 + "1\n",
    "NUL": b"\x00" * 60,
    "binary": bytes(range(128, 256)),
    "empty": "",
    "list": "[1, 2]\n",
    "long": described("(2, 1, 100)") + " " * 20_000,
}


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"]
)
@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_header_that_lies_is_refused(
    header: str | bytes, method: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    write_zip(path, ("glu.npy", with_header(header)), method=method)
    assert "glu" in refusal(path)
    assert list(path.parent.iterdir()) == [path]


def test_the_good_header_of_these_tests_is_read(path: Path) -> None:
    write_zip(path, ("glu.npy", with_header(described("(2, 1, 100)"))))
    assert read(load_trace(path), "glu").shape == (2, 1, 100)


def test_a_header_written_by_python_2_is_read_without_a_fuss(path: Path) -> None:
    write_zip(path, ("glu.npy", with_header(described("(2L, 1L, 100L)"))))
    assert read(load_trace(path), "glu").shape == (2, 1, 100)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "glu"),
        (b"\x93NUMPY", "glu"),
        (b"PK\x03\x04 not an array", "glu"),
        (with_header(described("(2, 1, 100)"), version=9), "version"),
        (npy(np.zeros((2, 1, 3), np.float32))[:-1], "declares"),
        (npy(np.zeros((2, 1, 3), np.float32)) + b"x", "declares"),
    ],
    ids=["empty", "magic only", "other magic", "version 9", "a byte short", "a byte more"],
)
def test_a_member_that_is_no_array_is_refused(data: bytes, said: str, path: Path) -> None:
    write_zip(path, ("glu.npy", data))
    assert said in refusal(path)


def test_members_that_are_not_npy_or_twice_are_refused(path: Path) -> None:
    good = npy(GLU)
    write_zip(path, ("glu.npy", good), ("readme.txt", b"hello"))
    assert "'readme.txt' is no .npy array" in refusal(path)
    write_zip(path, ("glu.npy", good), ("folder/", b""))
    assert "'folder/' is no .npy array" in refusal(path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(path, ("glu.npy", good), ("glu.npy", good))
    assert "'glu' stands there twice" in refusal(path)
    write_zip(path, *((f"{i}.npy", npy(np.zeros(1))) for i in range(1001)))
    assert "1001 members" in refusal(path)


def test_other_compressions_are_refused(path: Path) -> None:
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        write_zip(path, ("glu.npy", npy(GLU)), method=method)
        assert "compression" in refusal(path)


def test_an_encrypted_member_is_refused(path: Path) -> None:
    STORED(path, glu=GLU)
    data = bytearray(path.read_bytes())
    data[6] |= 1  # flags of the local header, then of the directory
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refusal(path)


@pytest.mark.parametrize("name", ["../evil", "../../evil", "/tmp/evil", "..\\evil", "a/../evil"])
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    write_zip(tmp_path / "t.npz", ("glu.npy", npy(GLU)), (f"{name}.npy", npy(GLU)))
    assert "named like a path" in refusal(tmp_path / "t.npz")
    assert [path.name for path in tmp_path.rglob("*")] == ["t.npz"]


def test_names_may_have_folders_in_them(tmp_path: Path) -> None:
    write_zip(tmp_path / "t.npz", ("glu.npy", npy(GLU)), ("a/b.npy", npy(GLU)))
    assert "'a/b'" in load_trace(tmp_path / "t.npz").warnings[0]


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


@each_storage
@pytest.mark.parametrize("name", ["glu", "meta", "phase", "other"])
def test_pickles_are_refused_and_never_run(
    save: Callable[..., None], name: str, path: Path
) -> None:
    made = path.parent / "made"
    save(path, **{"mlp_input": GLU, name: np.array([Bomb(made)], dtype=object)})
    message = refusal(path)
    assert name in message
    assert "never unpickles" in message
    assert not made.exists()
    np.load(path, allow_pickle=True)[name]
    assert made.exists()  # the bomb was live


def test_zero_bytes_and_other_files_are_refused(path: Path) -> None:
    for data in (b"", b"\0" * 100, npy(GLU), b"\xff" + os.urandom(1000)):
        path.write_bytes(data)
        assert "not a readable .npz" in refusal(path)
    path.write_text("not a zip")
    assert "a text, no trace" in refusal(path)


@pytest.mark.parametrize("what", ["directory", "FIFO", "device"])
def test_what_is_no_regular_file_is_refused(what: str, path: Path) -> None:
    if what == "directory":
        path.mkdir()
    elif what == "FIFO":
        os.mkfifo(path)
    else:
        path = Path("/dev/zero")
    expected = "a folder without shards" if what == "directory" else "not a regular file"
    assert expected in refusal(path)


@pytest.mark.parametrize("name", ["gone.npz", "x" * 5000, "", "."], ids=["gone", "long", "", "dot"])
def test_a_missing_file_is_refused(name: str) -> None:
    with pytest.raises(TraceError) as problem:
        load_trace(name)
    message = str(problem.value)
    assert "\n" not in message
    assert ".npz file" in message


@each_storage
def test_a_truncated_file_is_refused_wherever_it_ends(
    save: Callable[..., None], path: Path
) -> None:
    save(path, **rich())
    whole = path.read_bytes()
    cuts = {0, 1, 4, 30, len(whole) - 1, len(whole) - 22, len(whole) - 23}
    for cut in sorted(cuts | set(range(50, len(whole), len(whole) // 15))):
        path.write_bytes(whole[:cut])
        assert refusal(path)


@each_storage
def test_a_file_whose_middle_is_gone_is_refused(save: Callable[..., None], path: Path) -> None:
    save(path, glu=scores(tokens=40), up=scores(tokens=40))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3] + whole[len(whole) // 2 :])
    assert refusal(path)


def test_damaged_deflated_data_is_refused(path: Path) -> None:
    DEFLATED(path, glu=scores(tokens=40))
    data = bytearray(path.read_bytes())
    data[1000:1010] = bytes(10)
    path.write_bytes(data)
    assert "glu" in refusal(path)


@each_storage
def test_random_damage_is_read_or_refused(save: Callable[..., None], path: Path) -> None:
    save(path, **rich())
    whole = path.read_bytes()
    rng = np.random.default_rng(2024)
    damage = np.stack([rng.integers(0, len(whole), 120), rng.integers(1, 256, 120)], axis=1)
    with counted() as usual:
        read_all(load_trace(path))
    messages, escaped, costly = [], [], []
    for place, change in damage.tolist():
        data = bytearray(whole)
        data[place] ^= change
        path.write_bytes(data)
        with counted() as work:
            try:
                read_all(load_trace(path))
            except DipsimError as problem:
                messages.append(str(problem))
            except Exception as problem:
                escaped.append((place, change, repr(problem)))
        if work.calls > 4 * usual.calls or work.memory > 4 * usual.memory:
            costly.append((place, change, work.calls, work.memory))
    assert escaped == []
    assert costly == []
    assert 40 < len(messages) < 120
    assert not [message for message in messages if "\n" in message]
