"""Are router weights never taken for logits, whoever brings them, and logits never for weights?"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import save_trace
from dipsim.errors import TraceError
from dipsim.simulate import simulate
from dipsim.trace import load_trace
from dipsim.trace.convert import import_arrays
from dipsim.trace.writer import TraceWriter
from tools.cli import invoke, refusal

Array = Any
LOGITS = np.random.default_rng(0).normal(0, 2, (12, 2, 8)).astype(np.float32)
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=-1, keepdims=True)
CHOSEN = np.where(np.argsort(np.argsort(-LOGITS, axis=-1), axis=-1) < 2, SOFTMAX, 0)
WEIGHTS = {
    "softmax": SOFTMAX,
    "softmax in halves": SOFTMAX.astype(np.float16),
    "a part of it": 0.8 * SOFTMAX,
    "of the chosen": CHOSEN,
    "of the chosen, normalised": CHOSEN / CHOSEN.sum(axis=-1, keepdims=True),
}
PASSING = {
    "signs": LOGITS,
    "positive": LOGITS - LOGITS.min() + 1,
    "between 0 and 1": np.random.default_rng(1).random((12, 2, 8)),
    "sigmoid": 1 / (1 + np.exp(-LOGITS)),
    "one row like weights": np.concatenate([LOGITS[1:], SOFTMAX[:1]]),
    "nothing": np.zeros((12, 2, 8)),
    "one expert": np.full((12, 2, 1), 0.5),
}


def saved_by_numpy(path: Path, expert: Array, meta: dict[str, Any]) -> None:
    np.savez(path, expert=expert, meta=np.asarray(json.dumps(meta)))
    load_trace(path)


def saved(path: Path, expert: Array, meta: dict[str, Any]) -> None:
    save_trace(path, {"expert": expert, "meta": meta})


def given(path: Path, expert: Array, meta: dict[str, Any]) -> None:
    load_trace({"expert": expert, "meta": meta})


def written(path: Path, expert: Array, meta: dict[str, Any]) -> None:
    with TraceWriter(path, meta=meta) as out:
        for rows in expert:
            out.append({"expert": rows})


def imported(path: Path, expert: Array, meta: dict[str, Any]) -> None:
    source = path.with_suffix(".npy")
    np.save(source, expert)
    import_arrays(source, path, names={"expert": source.stem}, meta=meta)


WAYS = (saved_by_numpy, saved, given, written, imported)
each_way = pytest.mark.parametrize("way", WAYS)


@each_way
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_refused_and_the_line_leads_on(
    name: str, way: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(TraceError, match=r"holds weights .*, not logits: .*encoding = 'prob'") as e:
        way(tmp_path / "t.npz", WEIGHTS[name], {})
    assert ("'expert.scores': w" in str(e.value)) == name.startswith("of the chosen")
    assert "\n" not in str(e.value)
    assert way in (saved_by_numpy,) or not (tmp_path / "t.npz").exists()


@each_way
@pytest.mark.parametrize("name", PASSING)
def test_logits_pass(name: str, way: Callable[..., None], tmp_path: Path) -> None:
    way(tmp_path / "t.npz", PASSING[name], {})


@each_way
@pytest.mark.parametrize("encoding", ["prob", "logits"])
def test_weights_pass_once_they_are_named(
    encoding: str, way: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "t.npz"
    way(path, SOFTMAX, {"signals": {"expert": {"encoding": encoding}}})
    if way is not given:
        assert load_trace(path).signals["expert"].declared == {"encoding": encoding}


@each_way
def test_logits_named_probabilities_are_refused(way: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="probabilities are never negative: drop"):
        way(tmp_path / "t.npz", LOGITS, {"signals": {"expert": {"encoding": "prob"}}})


def test_the_writer_judges_its_first_block_alone(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.npz") as out:
        out.append({"expert": LOGITS})
        out.append({"expert": SOFTMAX})
    assert load_trace(tmp_path / "t.npz").tokens == 24


def test_what_floats_are_is_no_property_of_sets(tmp_path: Path) -> None:
    out = TraceWriter(tmp_path / "t.npz", encodings={"expert": "prob"})
    with pytest.raises(TraceError, match="prob: is for floats"):
        out.append({"expert": CHOSEN > 0})
    out.abort()
    with pytest.raises(TraceError, match="encoding 'prob' does not fit"):
        load_trace({"expert": CHOSEN > 0, "meta": {"signals": {"expert": {"encoding": "prob"}}}})
    with pytest.raises(TraceError, match="one of float16"):
        TraceWriter(tmp_path / "t.npz", encodings={"glu": "prob"})


def test_the_command_imports_weights_either_way(tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", SOFTMAX)
    np.save(tmp_path / "chosen.npy", CHOSEN.astype(np.float32))
    out = tmp_path / "t.npz"
    line = refusal("import", tmp_path / "all.npy", out, "--map", "expert=all")
    assert "--encoding expert=prob" in line
    done = invoke(
        "import", tmp_path / "all.npy", out, "--map", "expert=all", "--encoding", "expert=prob"
    )
    assert done.exit_code == 0, done
    assert load_trace(out).signals["expert"].declared == {"encoding": "prob"}
    done = invoke(
        "import", tmp_path / "chosen.npy", out, "--map", "expert=chosen",
        "--encoding", "expert=sparse",
    )  # fmt: skip
    assert done.exit_code == 0, done
    signal = load_trace(out).signals["expert"]
    assert (signal.encoding, signal.scored) == ("sparse", True)
    rows = next(iter(load_trace(out).blocks({"expert": "scores"})))[2]["expert"]
    np.testing.assert_array_equal(rows, CHOSEN.astype(np.float32))
    np.save(tmp_path / "logits.npy", LOGITS)
    line = refusal(
        "import", tmp_path / "logits.npy", out, "--map", "expert=logits",
        "--encoding", "expert=sparse",
    )  # fmt: skip
    assert "holds scores, which sparse cannot hold" in line


def test_named_weights_choose_as_logits_do() -> None:
    """Logarithms of a softmax are the logits less a number a row: the order is the same."""
    meta = {"experts_per_token": 2, "signals": {"expert": {"unit_bytes": 1000}}}
    prob = {"experts_per_token": 2, "signals": {"expert": {"unit_bytes": 1000, "encoding": "prob"}}}
    results = [
        simulate({"expert": scores, "meta": said}, "paper-a18", cache="8kB").to_dict()
        for scores, said in ((LOGITS, meta), (SOFTMAX, prob))
    ]
    assert results[0]["hits"] == results[1]["hits"] > 0
