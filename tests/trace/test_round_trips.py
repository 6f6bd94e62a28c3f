"""What dipsim writes, dipsim reads: equal, or refused before a byte is written."""

import dataclasses
import datetime
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.errors import DipsimError, TraceError
from dipsim.trace import Trace, TraceWriter, load_trace, npz, save_trace
from dipsim.trace.convert import export, import_arrays
from dipsim.trace.encoding import unpack_sets
from dipsim.trace.meta import plain_meta
from dipsim.trace.synth import synth

Array = np.ndarray[Any, np.dtype[Any]]
EXAMPLES = pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.slow)])
SCORES, SETS = ("float16", "float32", "log8"), ("bool", "bits", "sparse")
ROUNDING = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-6, "log8": 0.02}
NAMES = ("mlp_input", "glu", "expert")

# Values that a trace may hold, and such that none may; most examples hold none of the latter.

FLOATS = [0.0, -0.0, 1.0, 2.5e-310, 1e-42, 6e-8, 65504.0, 65519.0, 7e4, 3.4e38, 1e39, 1e300, -1.0]
ODD_FLOATS = [*FLOATS, math.nan, math.inf, -math.inf]


KINDS = st.sampled_from(["usual", "usual", "usual", "sets", "sets", "odd", "integers"])
TYPES = st.sampled_from(["<f2", "<f4", "<f8", ">f4", ">f2", "longdouble"])


@st.composite
def values(draw: Any, kind: str, tokens: int, layers: int, units: int) -> Array:
    """Scores or sets of one signal, of any type and order of bytes and axes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (tokens, layers, units)
    if kind == "sets":
        return rng.random(shape) < draw(st.sampled_from([0, 0.01, 0.3, 1]))
    if kind == "integers":
        return rng.integers(0, 3, shape)
    array = rng.exponential(1, shape)
    if kind == "odd":
        array = rng.choice(draw(st.lists(st.sampled_from(ODD_FLOATS), min_size=1)), shape)
    with np.errstate(over="ignore"):
        array = array.astype(draw(TYPES))
    return np.asfortranarray(array) if draw(st.booleans()) else array


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        [np.float32(1.5), np.int64(7), np.bool_(True), np.arange(3), Path("a/b"), {2, 1}, b"bytes",
         datetime.date(2026, 1, 2), object(), 1j, range(3), np.float64(math.nan)]
    ),
)  # fmt: skip
META = st.one_of(
    st.just({}),
    st.dictionaries(
        st.sampled_from(["source", "license", "mine", "experts_per_token"]) | st.text(max_size=3),
        st.recursive(
            LEAVES,
            lambda leaf: st.lists(leaf, max_size=3) | st.dictionaries(st.text(), leaf, max_size=2),
            max_leaves=4,
        ),
        max_size=2,
    ),
    st.sampled_from(
        [{"signals": {"glu": {"unit_bytes": 7, "x": [1]}}}, {"signals": ["glu"]}, {"signals": 3},
         {"signals": {"glu": 1}}, {"signals": {"up": {"unit_bytes": 1}}}, {"format": "other"},
         {"signals": {"glu": {"encoding": "bits", "units": 2}}}]
    ),
)  # fmt: skip


@st.composite
def blocks(draw: Any, fewest: int = 0) -> list[dict[str, Any]]:
    """Up to three blocks of a trace, most of them alike, each of ``fewest`` tokens or some more."""
    layers, units = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 7, 8, 9, 64, 65]))
    kinds = draw(st.dictionaries(st.sampled_from(NAMES), KINDS, min_size=1, max_size=2))
    scored = draw(st.booleans())
    marks = draw(st.lists(st.sampled_from(["phase", "sequence", "token_id"]), unique=True))
    listed = []
    for number in range(draw(st.integers(1, 3))):
        tokens = draw(st.integers(fewest, fewest + 4))
        block: dict[str, Any] = {}
        for name, kind in kinds.items():
            block[name] = draw(values(kind, tokens, layers, units))
            if kind == "sets" and scored:
                block[f"{name}.scores"] = np.abs(draw(values("usual", tokens, layers, units)))
        for mark in marks:
            most = {"phase": 1, "sequence": number, "token_id": 2**31 - 1}[mark]
            least = number if mark == "sequence" else draw(st.sampled_from([0, 0, 0, -1]))
            block[mark] = draw(st.integers(least, most + draw(st.sampled_from([0, 0, 0, 1]))))
        listed.append(block)
    return listed


ENCODINGS = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from([*SCORES, *SETS, "zip"]), max_size=2
)
OUT = st.sampled_from(["t.npz", "t"])
NO_CHOICE: Any = st.just({})


def read(trace: Trace, name: str) -> Array:
    """All values or sets of a signal."""
    signal = trace.signals[name]
    reading: Any = "values" if signal.holds == "scores" else "sets"
    rows = np.concatenate([block[name] for _, _, block in trace.blocks({name: reading})])
    return rows if reading == "values" else unpack_sets(rows, signal.units)


def read_scores(trace: Trace, name: str) -> Array:
    return np.concatenate([block[name] for _, _, block in trace.blocks({name: "scores"})])


def check_equal(trace: Trace, expected: dict[str, Any]) -> None:
    """Compare a trace with its arrays, to the rounding of its encodings."""
    assert trace.warnings == ()
    for name, array in expected.items():
        if name in trace.signals:
            encoding = trace.signals[name].encoding
            assert trace.signals[name].units == array.shape[-1]
            got = read(trace, name).astype(float)
            scale = np.abs(got).max(axis=-1, keepdims=True) if got.size else 0
            floor = {"log8": 2e-4 * scale + 1e-44, "float16": 6e-8}.get(encoding, 1e-44)
            error = np.abs(got - array.astype(float))
            assert (error <= ROUNDING.get(encoding, 0) * np.abs(got) + floor).all()
        elif name.endswith(".scores"):
            sets = expected[name.removesuffix(".scores")]
            scores = np.where(sets, array.astype(float), 0)
            np.testing.assert_allclose(
                read_scores(trace, name.removesuffix(".scores")), scores, rtol=1e-6, atol=1e-44
            )
        else:
            np.testing.assert_array_equal(getattr(trace, name), array)


def kept_or_refused(
    write: Callable[[Path], object], out: str, check: Callable[[Trace], None]
) -> bool:
    """Return True if something was written, which is read and checked; else nothing is there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / out
        try:
            write(path)
        except DipsimError as refusal:
            lines = str(refusal).splitlines()
            assert (len(lines), list(Path(folder).iterdir())) == (1, [])
        else:
            check(load_trace(path))
            assert [one.name for one in Path(folder).iterdir()] == [out]
            return True
        return False


def whole(listed: list[dict[str, Any]]) -> dict[str, Any]:
    """The blocks as one, marks as an array."""
    counts = [len(next(iter(block.values()))) for block in listed]
    return {
        key: np.concatenate(
            [
                np.broadcast_to(block[key], count) if np.ndim(block[key]) == 0 else block[key]
                for block, count in zip(listed, counts, strict=True)
            ]
        )
        for key in listed[0]
    }


@EXAMPLES
def test_the_writer_keeps_what_it_accepts(examples: int) -> None:
    accepted: list[bool] = []

    @settings(max_examples=examples)
    @given(blocks(), ENCODINGS, META, OUT, st.sampled_from([1, 200, 10**6]))
    def check(
        listed: list[dict[str, Any]], encodings: Any, meta: dict[str, Any], out: str, shard: int
    ) -> None:
        def write(path: Path) -> None:
            options: Any = {"encodings": encodings, "meta": meta, "shard_bytes": shard}
            with TraceWriter(path, **options) as writer:
                for block in listed:
                    writer.append(block)

        def compare(trace: Trace) -> None:
            check_equal(trace, whole(listed))
            kept = {key: value for key, value in plain_meta(meta).items() if key != "signals"}
            assert {**trace.meta, **kept, "format": "dipsim-trace"} == dict(trace.meta)

        accepted.append(kept_or_refused(write, out, compare))

    check()
    assert sum(accepted) > examples / 8


def stored(listed: list[dict[str, Any]], encodings: Any, path: Path) -> bool:
    """Write the blocks; return False where they make no trace."""
    try:
        with TraceWriter(path, encodings=encodings) as writer:
            for block in listed:
                writer.append(block)
    except TraceError:
        return False
    return True


def differences(one: Trace, other: Trace) -> list[str]:
    """What two traces differ in, values, marks and meta."""
    differing = [
        name for name in one.signals if not np.array_equal(read(one, name), read(other, name))
    ]
    for mark in ("phase", "sequence", "token_id"):
        if not np.array_equal(getattr(one, mark), getattr(other, mark)):
            differing.append(mark)
    return differing + ["meta"] * (one.meta != other.meta)


@EXAMPLES
def test_save_trace_keeps_what_it_accepts(examples: int) -> None:
    accepted: list[bool] = []

    @settings(max_examples=examples)
    @given(blocks(), META)
    def plain(listed: list[dict[str, Any]], meta: dict[str, Any]) -> None:
        arrays = whole(listed)
        expected = {key: array for key, array in arrays.items() if not key.endswith(".scores")}

        def compare(trace: Trace) -> None:
            named = [text for text in trace.warnings if "unknown array" not in text]
            assert named == []
            check_equal(trace_without_warnings(trace), expected)

        accepted.append(
            kept_or_refused(
                lambda path: save_trace(path, {**arrays, "meta": meta}), "t.npz", compare
            )
        )

    @settings(max_examples=examples)
    @given(blocks(), ENCODINGS, st.sampled_from(["as it is", "big-endian", "Fortran", "damaged"]))
    def encoded(listed: list[dict[str, Any]], encodings: Any, kind: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            first = Path(folder) / "first.npz"
            if not stored(listed, encodings, first):
                return
            with np.load(first) as loaded:
                arrays = dict(loaded)
            trace = load_trace(first)
            for key, array in arrays.items():
                if kind == "big-endian":
                    arrays[key] = array.astype(array.dtype.newbyteorder(">"))
                elif kind == "Fortran":
                    arrays[key] = np.asfortranarray(array).reshape(array.shape, order="F")
                elif kind == "damaged" and array.dtype.kind in "iuf" and array.size:
                    arrays[key] = array + np.asarray(1, array.dtype)

            def compare(saved: Trace) -> None:
                for name in saved.signals:
                    read(saved, name)
                if kind != "damaged":
                    assert differences(trace, saved) == []

            accepted.append(
                kept_or_refused(lambda path: save_trace(path, arrays), "t.npz", compare)
            )

    plain()
    encoded()
    assert sum(accepted) > examples / 8


def trace_without_warnings(trace: Trace) -> Trace:
    """The trace as if all its arrays were known."""
    return dataclasses.replace(trace, warnings=())


@EXAMPLES
def test_import_keeps_what_it_accepts(examples: int) -> None:
    accepted: list[bool] = []

    @settings(max_examples=examples)
    @given(blocks(), ENCODINGS, OUT)
    def check(listed: list[dict[str, Any]], encodings: Any, out: str) -> None:
        arrays = {k: np.ascontiguousarray(a) for k, a in whole(listed).items()}
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "arrays.npz"
            np.savez(source, **arrays)
            expected = {
                key: np.abs(array) if key in NAMES and key != "expert" else array
                for key, array in arrays.items()
                if not key.endswith(".scores")
            }
            for key in [key for key, each in (encodings or {}).items() if each == "sparse"]:
                if key in expected and expected[key].dtype.kind == "f":  # sets, with their scores
                    expected |= {key: expected[key] > 0, f"{key}.scores": expected[key]}

            def write(path: Path) -> None:
                import_arrays(source, path, encodings=encodings)

            accepted.append(kept_or_refused(write, out, lambda trace: check_equal(trace, expected)))

    check()
    assert sum(accepted) > examples / 8


@EXAMPLES
def test_export_keeps_what_it_accepts(examples: int) -> None:
    accepted: list[bool] = []

    @settings(max_examples=examples)
    @given(blocks(), ENCODINGS, ENCODINGS, OUT)
    def check(listed: list[dict[str, Any]], before: Any, after: Any, out: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "s.npz"
            if not stored(listed, before, source):
                return
            trace = load_trace(source)

            def compare(exported: Trace) -> None:
                check_equal(exported, {name: read(trace, name) for name in trace.signals})
                assert exported.phase.tolist() == trace.phase.tolist()
                assert exported.sequence.tolist() == trace.sequence.tolist()

            accepted.append(
                kept_or_refused(lambda path: export(trace, path, encodings=after), out, compare)
            )

    check()
    assert sum(accepted) > examples / 8


@EXAMPLES
def test_synth_keeps_what_it_accepts(examples: int) -> None:
    accepted: list[bool] = []

    @settings(max_examples=examples)
    @given(blocks(16), NO_CHOICE, NO_CHOICE | ENCODINGS, OUT, st.integers(0, 5), st.booleans())
    def check(
        listed: list[dict[str, Any]], before: Any, after: Any, out: str, tokens: int, iid: bool
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "s.npz"
            if not stored(listed, before, source):
                return

            def write(path: Path) -> None:
                synth(path, source, tokens=tokens, encodings=after, iid=iid)

            def compare(trace: Trace) -> None:
                assert trace.tokens == tokens
                for name in trace.signals:
                    assert np.isfinite(read(trace, name)).all()

            accepted.append(kept_or_refused(write, out, compare))

    check()
    assert sum(accepted) > examples / 8


# By hand


@pytest.mark.parametrize("active", ["1 of 10 000", "1 of 2 000", "nothing"])
def test_sparse_data_is_no_bomb(
    active: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "_LARGE", npz._LARGE // 5)
    rng = np.random.default_rng(3)
    shape = (200, 8, 10_000)
    kind, every = {"1 of 10 000": (bool, 10_000), "1 of 2 000": (np.float16, 2_000)}.get(
        active, (np.float32, 0)
    )
    array = np.zeros(shape, kind)
    if every:
        array.reshape(-1)[rng.integers(0, array.size, array.size // every)] = 1
    np.savez_compressed(tmp_path / "t.npz", glu=array)
    expected = int(array.astype(np.int64).sum())
    assert int(read(load_trace(tmp_path / "t.npz"), "glu").astype(np.int64).sum()) == expected


def test_what_would_look_like_a_bomb_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "_LARGE", 10**6)
    zeros = np.zeros((10, 10, 10_000), np.float32)
    np.savez_compressed(tmp_path / "bomb.npz", glu=zeros)
    with pytest.raises(TraceError, match="of nearly nothing when inflated: store sets as sparse"):
        load_trace(tmp_path / "bomb.npz")
    save_trace(tmp_path / "t.npz", {"glu": zeros})
    with TraceWriter(tmp_path / "u.npz") as writer:
        writer.append({"glu": zeros})
    for name in ("t.npz", "u.npz"):
        assert read(load_trace(tmp_path / name), "glu").shape == zeros.shape


META_REFUSED: list[tuple[Any, str]] = [
    ({"a": {"b": math.nan}}, "meta.a.b is nan, which JSON cannot hold"),
    ({"a": [1, object()]}, r"meta.a\[1\] is of type object"),
    ({"a": b"x"}, "meta.a is of type bytes"),
    ({1.5: 1}, "meta has the key '1.5': keys are text"),
    ({1: 1, "1": 2}, "two keys of one name"),
    ({"a": 10**5000}, "thousands of digits"),
    ({"a": "x" * (2**22 - 30)}, "characters as JSON"),  # the writer adds some
    ([1], "give a dict"),
]


@pytest.mark.parametrize(("meta", "refusal"), META_REFUSED)
def test_meta_that_cannot_be_kept_is_refused_at_the_start(
    meta: Any, refusal: str, tmp_path: Path
) -> None:
    with pytest.raises(TraceError, match=refusal):
        TraceWriter(tmp_path / "t.npz", meta=meta)
    assert list(tmp_path.iterdir()) == []


def test_meta_that_holds_itself_or_lies_deep_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipsim.trace.meta._MOST_VALUES", 1000)
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    wide: Any = 1
    for _ in range(40):
        wide = [wide, wide]
    for meta, refusal in ((cycle, "itself"), ({"a": deep}, "64 levels"), ({"a": wide}, "values")):
        with pytest.raises(TraceError, match=refusal):
            TraceWriter(tmp_path / "t.npz", meta=meta)


def test_meta_of_an_obvious_form_is_converted() -> None:
    given_meta = {
        "n": np.float32(0.5), "i": np.int64(3), "b": np.bool_(True), "a": np.arange(2), 7: (1, 2),
        "p": Path("a/b"), "d": datetime.date(2026, 1, 2), "s": {3, 1}, "t": np.str_("x"),
    }  # fmt: skip
    assert plain_meta(given_meta) == {
        "n": 0.5, "i": 3, "b": True, "a": [0, 1], "7": [1, 2],
        "p": "a/b", "d": "2026-01-02", "s": [1, 3], "t": "x",
    }  # fmt: skip


def test_norms_survive_an_export(tmp_path: Path) -> None:
    norms = np.arange(12, dtype=np.float32).reshape(2, 6)
    save_trace(tmp_path / "s.npz", {"glu": np.ones((3, 2, 6), np.float32), "glu.norms": norms})
    for out in ("t.npz", "t"):
        export(load_trace(tmp_path / "s.npz").part(layers="1:2"), tmp_path / out)
        np.testing.assert_array_equal(load_trace(tmp_path / out).signals["glu"].norms, norms[1:])
