"""`dipsim export`: the same trace in other encodings, or a part of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.errors import TraceError
from dipsim.trace import Trace, load_trace
from dipsim.trace.convert import export
from dipsim.trace.encoding import encode_log8, unpack_sets
from dipsim.trace.save import save_trace

TOKENS, LAYERS, UNITS = 11, 4, 70
RNG = np.random.default_rng(3)
SCORES = RNG.lognormal(0, 2, (TOKENS, LAYERS, UNITS)).astype(np.float32)
SETS = RNG.random((TOKENS, LAYERS, UNITS)) < 0.2
MARKS = {
    "phase": np.array([0] * 3 + [1] * 8),
    "sequence": np.repeat([0, 4], [5, 6]),
    "token_id": np.arange(TOKENS) + 100,
}
META = {"model": "smollm2-135m", "mine": [1, 2], "signals": {"glu": {"unit_bytes": [9, 8, 7, 6]}}}


@pytest.fixture
def source(tmp_path: Path) -> Trace:
    save_trace(tmp_path / "s.npz", {"glu": SCORES, "up": SETS, **MARKS, "meta": META})
    return load_trace(tmp_path / "s.npz")


def read(trace: Trace, key: str) -> np.ndarray:
    signal = trace.signals[key]
    first, last = trace.first, trace.first + trace.tokens
    if signal.holds == "scores":
        return np.concatenate(list(signal.values(first, last, 3)))
    return unpack_sets(np.concatenate(list(signal.blocks(first, last, 3, "sets"))), signal.units)


@pytest.mark.parametrize("out", ["t.npz", "t"])
@pytest.mark.parametrize("scores", ["float32", "float16", "log8"])
@pytest.mark.parametrize("sets", ["bool", "bits", "sparse"])
def test_every_encoding(scores: Any, sets: Any, out: str, source: Trace, tmp_path: Path) -> None:
    assert export(source, tmp_path / out, encodings={"glu": scores, "up": sets}).warnings == ()
    trace = load_trace(tmp_path / out)
    assert [at.encoding for at in trace.signals.values()] == [sets, scores]
    np.testing.assert_array_equal(read(trace, "up"), SETS)
    tolerance = {"float32": 0, "float16": 1e-3, "log8": 2 ** (1 / 40) - 1}[scores]
    found = read(trace, "glu")
    small = found == 0  # log8 reaches 12.7 octaves below the largest
    assert (SCORES[small] < SCORES.max() * 2**-12).all()
    np.testing.assert_allclose(found[~small], SCORES[~small], rtol=tolerance + 1e-6)
    for key, values in MARKS.items():
        assert getattr(trace, key).tolist() == values.tolist()
    assert (trace.meta["mine"], trace.model) == ([1, 2], "smollm2-135m")
    assert trace.signals["glu"].declared["unit_bytes"] == [9, 8, 7, 6]


def test_log8_again_is_the_same(source: Trace, tmp_path: Path) -> None:
    export(source, tmp_path / "a.npz", encodings={"glu": "log8"})
    once = load_trace(tmp_path / "a.npz")
    export(once, tmp_path / "b.npz")
    with np.load(tmp_path / "a.npz") as first, np.load(tmp_path / "b.npz") as second:
        assert first["glu"].dtype == np.uint8
        np.testing.assert_array_equal(first["glu"], second["glu"])
        np.testing.assert_array_equal(first["glu.max"], second["glu.max"])
        np.testing.assert_array_equal(first["glu"], encode_log8(SCORES)[0])
    assert once.hash == load_trace(tmp_path / "b.npz").hash


def test_sparse_scores_survive(tmp_path: Path) -> None:
    from dipsim.trace.writer import TraceWriter

    with TraceWriter(tmp_path / "s.npz") as out:
        out.append({"expert": SETS, "expert.scores": SCORES})
    export(load_trace(tmp_path / "s.npz"), tmp_path / "t")
    trace = load_trace(tmp_path / "t")
    found = np.concatenate([data["expert"] for _, _, data in trace.blocks({"expert": "scores"})])
    np.testing.assert_array_equal(found, np.where(SETS, SCORES, 0))


def test_a_part(source: Trace, tmp_path: Path) -> None:
    part = source.part("1:4", "1:3", "1:")
    notes = export(part, tmp_path / "t.npz", signals="glu").warnings
    assert len(notes) == 1
    assert "meta.model is left out" in notes[0]
    trace = load_trace(tmp_path / "t.npz")
    assert list(trace.signals) == ["glu"]
    np.testing.assert_array_equal(read(trace, "glu"), SCORES[6:9, 1:3])
    assert trace.token_id is not None
    assert trace.token_id.tolist() == [106, 107, 108]
    assert trace.signals["glu"].declared == {"unit_bytes": [8, 7]}
    assert trace.model is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"signals": ("gate",)}, "holds no gate"),
        ({"encodings": {"gate": "log8"}}, "holds no gate"),
        ({"encodings": {"glu": "bits"}}, "holds scores, which bits cannot hold"),
        ({"encodings": {"up": "log8"}}, "holds sets, which log8 cannot hold"),
        ({"encodings": {"up": "zip"}}, "write SIGNAL=ENCODING"),
    ],
)
def test_what_cannot_be(options: Any, said: str, source: Trace, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=said):
        export(source, tmp_path / "t.npz", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


def test_meta_stays_json(source: Trace, tmp_path: Path) -> None:
    export(source, tmp_path / "t.npz", encodings={"up": "bits", "glu": "log8"})
    with np.load(tmp_path / "t.npz") as arrays:
        signals = json.loads(str(arrays["meta"]))["signals"]
    assert signals == {
        "glu": {"unit_bytes": [9, 8, 7, 6], "encoding": "log8"},
        "up": {"encoding": "bits", "units": UNITS},
    }
