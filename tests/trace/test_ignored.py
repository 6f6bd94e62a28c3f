"""Is everything in a trace read, or refused or warned of: never kept and ignored without a word?"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import save_trace
from dipsim.errors import TraceError
from dipsim.trace import load_trace
from dipsim.trace.writer import TraceWriter

RNG = np.random.default_rng(0)
X = RNG.random((6, 2, 8)).astype(np.float32)
SETS = X > 0.5
SPARSE = {
    "glu.indptr": np.arange(13) * 8,
    "glu.indices": np.tile(np.arange(8, dtype=np.uint16), 12),
    "glu.shape": np.array([6, 2, 8]),
}
LOG8 = {
    "glu": np.full((6, 2, 8), 200, np.uint8),
    "glu.max": X[..., 0],
    "meta": {"signals": {"glu": {"encoding": "log8"}}},
}
LEFT_OVER = {
    "scores beside bool": ({"glu": SETS, "glu.scores": X}, "glu.scores is for sparse sets"),
    "scores beside floats": ({"glu": X, "glu.scores": X}, "glu.scores is for sparse sets"),
    "scores beside log8": ({**LOG8, "glu.scores": X}, "but glu is log8"),
    "scores of nothing": ({"glu": X, "up.scores": X}, "but there is no signal up"),
    "max beside floats": ({"glu": X, "glu.max": X[..., 0]}, "glu.max is for scores as 8-bit"),
    "max beside sets": ({"glu": SETS, "glu.max": X[..., 0]}, "but glu is bool"),
    "max beside sparse": ({**SPARSE, "glu.max": X[..., 0]}, "but glu is sparse"),
    "max of nothing": ({"glu": X, "gate.max": X[..., 0]}, "there is no signal gate"),
    "norms beside sets": ({"glu": SETS, "glu.norms": X[0]}, "that scores of glu weigh"),
    "norms beside sparse": ({**SPARSE, "glu.norms": X[0]}, "but glu is sparse"),
    "norms of another": ({"up": X, "up.norms": X[0]}, "that scores of glu weigh"),
    "norms of nothing": ({"up": X, "glu.norms": X[0]}, "there is no signal glu"),
    "lists without ends": ({"glu": X, "glu.indices": np.arange(3)}, "glu.indices is for sparse"),
    "shape alone": ({"glu": X, "up.shape": np.array([6, 2, 8])}, "up.shape is for sparse sets"),
    "units that are not": ({"glu": X, "meta": {"signals": {"glu": {"units": 7}}}}, "has 8 units"),
    "units of sparse": ({**SPARSE, "meta": {"signals": {"glu": {"units": 9}}}}, "has 8 units"),
}
MISPLACED: dict[str, Any] = {
    "unit_bytes at the top": ({"unit_bytes": 7}, "meta.unit_bytes is ignored"),
    "encoding at the top": ({"encoding": "prob"}, "under meta.signals.<signal>"),
    "a signal at the top": ({"glu": {"unit_bytes": 7}}, "meta.glu is ignored"),
    "a geometry at the top": (
        {"layers": 2, "hidden": 8, "intermediate": 8},
        "belong under meta.model",
    ),
    "k of a signal": ({"signals": {"glu": {"experts_per_token": 2}}}, "it belongs under meta"),
    "k that is none": ({"experts_per_token": "2"}, "'2' is no number of experts"),
}


def numpy_arrays(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return arrays as np.savez takes them: meta as text."""
    texts = {"meta": np.asarray(json.dumps(arrays["meta"]))} if "meta" in arrays else {}
    return {**arrays, **texts}


@pytest.mark.parametrize("name", LEFT_OVER)
def test_arrays_of_another_storage_are_refused(name: str, tmp_path: Path) -> None:
    arrays, said = LEFT_OVER[name]
    np.savez(tmp_path / "t.npz", **numpy_arrays(arrays))
    for given in (tmp_path / "t.npz", arrays):
        with pytest.raises(TraceError) as caught:
            load_trace(given)
        assert said in str(caught.value)
    with pytest.raises(TraceError):
        save_trace(tmp_path / "u.npz", arrays)
    assert not (tmp_path / "u.npz").exists()


@pytest.mark.parametrize(
    "arrays",
    [
        {"glu": X, "glu.norms": X[0]},
        {**LOG8, "glu.norms": X[0]},
        {**SPARSE, "glu.scores": np.ones(96, np.float32)},
        {"glu": X, "meta": {"signals": {"glu": {"units": 8, "encoding": "float32"}}}},
    ],
)
def test_those_of_its_own_are_read(arrays: dict[str, Any], tmp_path: Path) -> None:
    save_trace(tmp_path / "t.npz", arrays)
    assert load_trace(tmp_path / "t.npz").warnings == ()


@pytest.mark.parametrize("name", MISPLACED)
def test_meta_in_the_wrong_place_is_told(name: str, tmp_path: Path) -> None:
    meta, said = MISPLACED[name]
    np.savez(tmp_path / "t.npz", **numpy_arrays({"glu": X, "meta": meta}))
    (warning,) = load_trace(tmp_path / "t.npz").warnings
    assert said in warning
    with pytest.raises(TraceError, match="ignored"):
        save_trace(tmp_path / "u.npz", {"glu": X, "meta": meta})
    with pytest.raises(TraceError, match="ignored"):
        TraceWriter(tmp_path / "u.npz", meta=meta)
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


def test_own_entries_of_meta_are_kept_without_a_word(tmp_path: Path) -> None:
    meta = {"mine": {"units": 3}, "up": 3, "layers": 2, "signals": {"glu": {"note": "x"}}}
    save_trace(tmp_path / "t.npz", {"glu": X, "meta": meta})
    trace = load_trace(tmp_path / "t.npz")
    assert (trace.warnings, trace.meta) == ((), meta)


def test_unknown_arrays_are_read_over_with_a_warning_but_not_written(tmp_path: Path) -> None:
    arrays = {"glu": X, "glu.mine": X, "other": X}
    assert len(load_trace(arrays).warnings) == 2
    with pytest.raises(TraceError, match=r"unknown array 'glu\.mine' ignored"):
        save_trace(tmp_path / "t.npz", arrays)


def test_the_writer_refuses_what_it_would_drop(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"meta\.signals names 'gllu', no signal: use mlp_input"):
        TraceWriter(tmp_path / "t.npz", meta={"signals": {"gllu": {"unit_bytes": 3}}})
    out = TraceWriter(tmp_path / "t.npz", norms=X[0])
    with pytest.raises(TraceError, match="norms weigh scores of glu, and this glu holds sets"):
        out.append({"glu": SETS})
    out.abort()
    assert list(tmp_path.iterdir()) == []
