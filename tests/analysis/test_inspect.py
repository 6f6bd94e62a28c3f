"""`dipsim inspect`: every figure against lists and dicts, and traces with nothing to say."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.analysis.activity import activity
from dipsim.analysis.inspect import CAPACITIES, Convergence, inspect
from dipsim.errors import DipsimError
from dipsim.report import files
from dipsim.report import inspect as inspection
from dipsim.trace import Trace, load_trace
from naive import replay as naive

TOKENS, LAYERS, UNITS = 10, 2, 12


def made(seed: int = 0, tokens: int = TOKENS, **marks: Any) -> tuple[np.ndarray, Trace]:
    scores = np.random.default_rng(seed).random((tokens, LAYERS, UNITS)).astype(np.float32)
    return scores, load_trace({"glu": scores, **marks})


def top(scores: np.ndarray, density: float) -> set[int]:
    return set(naive.top_k(scores.tolist(), naive.kept_units(density, len(scores))))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), border=st.integers(1, TOKENS))
def test_overlap_is_what_the_token_before_used_too(seed: int, border: int) -> None:
    sequence = np.array([0] * border + [3] * (TOKENS - border), np.int32)
    scores, trace = made(seed, sequence=sequence)
    found = activity(trace, "glu").overlap
    for density in (0.25, 0.5, 0.75):
        shared = size = 0
        for t in range(1, TOKENS):
            if sequence[t] == sequence[t - 1]:
                for layer in range(LAYERS):
                    now, before = (top(scores[i, layer], density) for i in (t, t - 1))
                    shared, size = shared + len(now & before), size + len(now)
        assert found[density] == pytest.approx(shared / size)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_popularity(seed: int) -> None:
    scores, trace = made(seed)
    found = activity(trace, "glu")
    shares, ginis = [], []
    for layer in range(LAYERS):
        uses = Counter(u for t in range(TOKENS) for u in top(scores[t, layer], 0.5))
        counts = [uses[u] for u in range(UNITS)]
        shares.append(max(counts) / sum(counts))  # a tenth of 12 units is one
        differences = sum(abs(a - b) for a in counts for b in counts)
        ginis.append(differences / (2 * UNITS * sum(counts)))
        assert found.uses[layer].tolist() == counts
    assert found.top_share == pytest.approx(sum(shares) / LAYERS)
    assert found.gini == pytest.approx(sum(ginis) / LAYERS)
    assert found.lorenz()[[0, 1, -1]] == pytest.approx([0, found.top_share, 1])


def test_gini_by_hand() -> None:
    alike = np.ones((4, 1, 5), np.bool_)
    assert activity(load_trace({"glu": alike}), "glu").gini == 0
    alone = np.zeros((4, 1, 5), np.bool_)
    alone[:, 0, 2] = True  # all uses go to one of five: 1 - 1/5
    assert activity(load_trace({"glu": alone}), "glu").gini == pytest.approx(0.8)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), sets=st.booleans())
def test_hit_rates_are_those_of_the_twins(seed: int, sets: bool) -> None:
    scores, trace = made(seed)
    active = [[top(scores[t, layer], 0.5) for t in range(TOKENS)] for layer in range(LAYERS)]
    if sets:
        flags = np.zeros(scores.shape, np.bool_)
        for layer, rows in enumerate(active):
            for t, row in enumerate(rows):
                flags[t, layer, sorted(row)] = True
        trace = load_trace({"glu": flags})
    report = inspect(trace).signals["glu"]
    for share in CAPACITIES:
        for policy, curve in (("lru", report.lru), ("opt", report.opt)):
            rows = [
                row
                for layer in range(LAYERS)
                for row in naive.replay(active[layer], UNITS, naive.capacity(share, UNITS), policy)
            ]
            hits, accesses = (sum(row[i] for row in rows) for i in (1, 0))
            assert curve[share] == pytest.approx(hits / accesses)


def test_growing_prefixes_end_in_the_whole() -> None:
    _, trace = made(tokens=64)
    report = inspect(trace).signals["glu"]
    assert report.convergence is not None
    assert list(report.convergence.prefixes) == [8, 16, 32, 64]
    assert report.convergence.prefixes[64] == pytest.approx(report.lru[CAPACITIES[1]])
    part = inspect(trace.part("0:16")).signals["glu"]
    assert report.convergence.prefixes[16] == pytest.approx(part.lru[CAPACITIES[1]])


def test_the_interval_holds_the_rate_and_narrows_with_more_sequences() -> None:
    widths = []
    for sequences in (8, 64):
        sequence = np.repeat(np.arange(sequences), 8).astype(np.int32)
        _, trace = made(tokens=8 * sequences, sequence=sequence)
        report = inspect(trace).signals["glu"]
        assert report.convergence is not None
        assert report.convergence.resampled == "sequences"
        low, high = report.convergence.interval
        assert low < report.lru[CAPACITIES[1]] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_a_verdict() -> None:
    settled = Convergence({8: 0.5, 16: 0.505}, (0.5, 0.51), "sequences")
    assert settled.verdict.startswith("long enough: the second half moves it by 0.50%")
    assert Convergence({8: 0.4, 16: 0.5}, (0.5, 0.51), "x").verdict.startswith("too short")
    assert Convergence({8: 0.5, 16: 0.5}, (0.4, 0.6), "x").verdict.startswith("too short")


def test_experts_known_by_number_count_as_active() -> None:
    logits = np.random.default_rng(0).standard_normal((20, 2, 16)).astype(np.float32)
    trace = load_trace({"expert": logits, "meta": {"experts_per_token": 4}})
    named = {"experts": 16, "experts_per_token": 3, "layers": 2, "hidden": 8, "heads": 1}
    named |= {"kv_heads": 1, "intermediate": 9, "vocab": 9}
    other = load_trace({"expert": logits, "meta": {"model": named}})
    assert activity(other, "expert").active == 3 / 16
    found = activity(trace, "expert")
    assert found.active == 0.25
    rows = np.argsort(-logits, axis=2)[..., :4]
    assert found.uses.tolist() == [np.bincount(rows[:, i].ravel(), minlength=16).tolist()
                                   for i in range(2)]  # fmt: skip


NOTHING: dict[str, dict[str, Any]] = {
    "one token": {"glu": np.ones((1, 1, 1), np.float32)},
    "one unit": {"glu": np.ones((5, 2, 1), np.float32)},
    "all alike": {"glu": np.ones((20, 2, 9), np.float32)},
    "all zero": {"glu": np.zeros((20, 2, 9), np.float32)},
    "empty sets": {"glu": np.zeros((20, 2, 9), np.bool_)},
    "prefill only": {"glu": np.ones((20, 2, 9), np.float32), "phase": np.zeros(20, np.uint8)},
    "a sequence each": {"glu": np.ones((6, 2, 9), np.float32), "sequence": np.arange(6)},
    "negative logits": {"expert": -np.ones((6, 2, 9), np.float32)},
}


@pytest.mark.parametrize("kind", NOTHING)
def test_traces_with_little_to_say(kind: str) -> None:
    trace = load_trace(NOTHING[kind])
    inspected = inspect(trace)
    inspection.render(inspected)
    found = {name: report.to_dict() for name, report in inspected.signals.items()}
    text = json.dumps(found, allow_nan=False)
    assert all(math.isfinite(x) for x in numbers(json.loads(text)))


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for item in value.values() for x in numbers(item)]
    if isinstance(value, list):
        return [x for item in value for x in numbers(item)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.parametrize(
    ("kind", "suffix"),
    list(zip(("all alike", "prefill only", "negative logits"), files.PICTURES, strict=True)),
)
def test_a_picture(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p{suffix}"
    sheet = files.check_plot(path, size=(6, 5), dpi=50)
    figure = inspection.plot(inspect(load_trace(NOTHING[kind])), sheet)
    assert tuple(figure.get_size_inches()) == (6, 5)
    head = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(head)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["p.exe", "p", "no/such/p.png"])
def test_a_picture_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DipsimError, match="--plot"):
        files.check_plot(tmp_path / name)
