"""Sparse sets: every reading equals naive lists, and every lie is refused."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.errors import TraceError
from dipsim.simulate import simulate
from dipsim.trace import load_trace
from dipsim.trace.encoding import unpack_sets
from dipsim.trace.writer import TraceWriter
from tools.cli import lines_of, program
from tools.hostile import read_or_refused

MODEL = {
    "layers": 3,
    "hidden": 8,
    "intermediate": 30,
    "heads": 2,
    "kv_heads": 1,
    "vocab": 50,
}


def lists_of(sets: np.ndarray, kind: Any = np.uint16) -> dict[str, np.ndarray]:
    """The three arrays, written with loops."""
    indptr, indices = [0], []
    for token in sets:
        for layer in token:
            indices += [u for u, active in enumerate(layer) if active]
            indptr.append(len(indices))
    return {
        "glu.indptr": np.array(indptr, np.int64),
        "glu.indices": np.array(indices, kind),
        "glu.shape": np.array(sets.shape, np.int64),
    }


def random_sets(seed: int, tokens: int = 9) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sets = rng.random((tokens, 3, 30)) < rng.random()
    sets[rng.integers(tokens)] = False
    sets[rng.integers(tokens)] = True
    return sets


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tokens=st.integers(1, 9),
    block=st.integers(1, 10),
    kind=st.sampled_from([np.uint16, np.uint32, np.int64]),
    deflated=st.booleans(),
)
def test_read_as_written(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    tokens: int,
    block: int,
    kind: Any,
    deflated: bool,
) -> None:
    sets = random_sets(seed, tokens)
    scores = np.random.default_rng(seed).random(sets.sum()).astype(np.float32)
    path = tmp_path_factory.mktemp("sparse") / "t.npz"
    save: Callable[..., None] = np.savez_compressed if deflated else np.savez
    save(path, **lists_of(sets, kind), **{"glu.scores": scores})
    trace = load_trace(path)
    signal = trace.signals["glu"]
    assert (signal.holds, signal.encoding, signal.units, signal.scored) == (
        "sets", "sparse", 30, True,
    )  # fmt: skip
    dense = np.zeros(sets.shape, np.float32)
    dense[sets] = scores
    for first in (0, tokens // 2):
        words = np.concatenate(list(signal.blocks(first, tokens, block, "sets")))
        np.testing.assert_array_equal(unpack_sets(words, 30), sets[first:])
        found = np.concatenate(list(signal.blocks(first, tokens, block, "scores")))
        np.testing.assert_array_equal(found, dense[first:])
    part = trace.part(layers="1:3")
    words = np.concatenate([rows["glu"] for _, _, rows in part.blocks({"glu": "sets"})])
    np.testing.assert_array_equal(unpack_sets(words, 30), sets[:, 1:])


def test_all_encodings_of_the_same_sets_replay_alike() -> None:
    sets = random_sets(1, 40)
    bits = np.packbits(sets, axis=-1, bitorder="little")
    traces: list[dict[str, Any]] = [
        lists_of(sets),
        {"glu": sets},
        {"glu": bits, "meta": {"signals": {"glu": {"encoding": "bits", "units": 30}}}},
    ]
    results = [
        simulate(arrays, "oneplus15r", model=MODEL, cache_fraction=0.5, policy="lru").to_dict()
        for arrays in traces
    ]
    counts = [(result["hits"], result["accesses"]) for result in results]
    assert counts[0][0] > 0
    assert counts == [counts[0]] * 3


def test_scores_of_sparse_sets_serve_methods_that_choose() -> None:
    sets = np.zeros((10, 3, 30), np.bool_)
    sets[:, :, ::2] = True
    scores = np.where(sets, np.random.default_rng(0).random(sets.shape), 0).astype(np.float32)
    arrays = {**lists_of(sets), "glu.scores": scores[sets]}
    options: dict[str, Any] = {"method": "glu-oracle", "density": 0.4, "cache_fraction": 0.5}
    sparse = simulate(arrays, "oneplus15r", model=MODEL, **options)
    dense = simulate({"glu": scores}, "oneplus15r", model=MODEL, **options)
    assert (sparse.hits, sparse.accesses) == (dense.hits, dense.accesses)


def spoiled(**change: Any) -> dict[str, np.ndarray]:
    arrays = lists_of(random_sets(0))
    for key, value in change.items():
        name = f"glu.{key}"
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value(arrays[name]) if callable(value) else np.asarray(value)
    return arrays


def at(index: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.int64)
        array[index] = value
        return array

    return change


def swapped(indices: np.ndarray) -> np.ndarray:
    return indices[::-1].copy()


SCORES = np.ones(int(random_sets(0).sum()), np.float32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"indices": None}, "needs glu.indptr"),
        ({"shape": None}, "needs glu.indptr"),
        ({"shape": [9, 3]}, "three integers"),
        ({"shape": [9.0, 3.0, 30.0]}, "three integers"),
        ({"shape": [-9, 3, 30]}, "negative"),
        ({"shape": [9, 3, 2**40]}, "not believable"),
        ({"shape": [9, 3, 0]}, "not believable"),
        ({"shape": [2**62, 3, 30]}, "indptr has shape"),
        ({"shape": [8, 3, 30]}, "indptr has shape"),
        ({"indptr": at(0, 1)}, "must rise from 0"),
        ({"indptr": at(3, 10**6)}, "must rise from 0"),
        ({"indptr": at(3, -1)}, "must rise from 0"),
        ({"indptr": lambda array: array[:, None]}, "indptr has shape"),
        ({"indptr": lambda array: array.astype(np.float32)}, "indptr has shape"),
        ({"indices": lambda array: array[:-1]}, "ends at"),
        ({"indices": lambda array: array.astype(np.float32)}, "list of integers"),
        ({"indices": swapped}, "must ascend"),
        ({"indices": at(2, 30)}, "outside 0..29"),
        ({"indices": at(2, -1)}, "outside 0..29"),
        ({"scores": SCORES[:-1]}, "one for each"),
        ({"scores": SCORES.astype(int)}, "one for each"),
    ],
)
def test_a_lie_is_refused(change: dict[str, Any], said: str) -> None:
    arrays = spoiled(**{k: v for k, v in change.items() if k != "scores"})
    if "scores" in change:
        arrays["glu.scores"] = change["scores"]
    with pytest.raises(TraceError) as problem:
        list(load_trace(arrays).blocks({"glu": "sets"}))
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("score", [np.nan, np.inf, -1.0])
def test_a_bad_score_is_refused_when_it_is_read(score: float) -> None:
    scores = SCORES.copy()
    scores[5] = score
    trace = load_trace({**lists_of(random_sets(0)), "glu.scores": scores})
    with pytest.raises(TraceError, match="finite and >= 0"):
        list(trace.blocks({"glu": "scores"}))


def test_sparse_and_dense_at_once_is_refused() -> None:
    with pytest.raises(TraceError, match="stands there twice"):
        load_trace({**lists_of(random_sets(0)), "glu": random_sets(0)})


def test_a_claim_takes_no_memory(tmp_path: Path) -> None:
    huge = {**lists_of(random_sets(0)), "glu.shape": np.array([2**40, 10, 30])}
    np.savez(tmp_path / "t.npz", **huge)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))

    done = program("inspect", "t.npz", cwd=tmp_path, preexec_fn=limit)
    assert done.returncode == 2
    assert len(lines_of(done.stderr)) == 1


@pytest.mark.parametrize("kind", ["sparse", "log8", "bits"])
def test_damaged_traces_are_refused_or_read(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    rng = np.random.default_rng(0)
    values: Any = rng.random((6, 2, 20)).astype(np.float32)
    if kind != "log8":
        values = values < 0.5
    with TraceWriter(path, encodings={"glu": kind}, meta={"model": "llama-3-8b"}) as writer:
        block = {"glu": values, "phase": np.arange(6) > 2, "sequence": np.arange(6) // 4}
        if kind == "sparse":
            block["glu.scores"] = rng.random(values.shape)
        writer.append(block)
    with np.load(path) as arrays:
        np.savez(path, **arrays)  # stored: damage reaches the values

    def read(file: Path) -> None:
        trace = load_trace(file)
        for name, signal in trace.signals.items():
            list(trace.blocks({name: signal.holds}))

    read_or_refused(read, path, path.read_bytes(), 1000)
