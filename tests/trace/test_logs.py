"""Routing logs of others: each format, written by an independent program, against what went in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dipsim
from dipsim.trace import Trace, load_trace
from dipsim.trace.encoding import unpack_sets
from dipsim.trace.logs import FORMATS, recognised
from tools.routing_logs import EXPERTS, FIXTURES, NAMES, Fixture, K, Routes, drawn

ODD = (1, 2, 4)
"""Layers with experts of a model whose others are dense."""


def sets_of(trace: Trace) -> np.ndarray:
    words = np.concatenate([part["expert"] for _, _, part in trace.blocks({"expert": "sets"})])
    return unpack_sets(words, trace.signals["expert"].units)


def scores_of(trace: Trace) -> np.ndarray:
    return np.concatenate([part["expert"] for _, _, part in trace.blocks({"expert": "scores"})])


def expected(ids: list[list[list[int]]]) -> np.ndarray:
    sets = np.zeros((len(ids), len(ids[0]), EXPERTS), bool)
    for token, of_layers in enumerate(ids):
        for layer, experts in enumerate(of_layers):
            sets[token, layer, experts] = True
    return sets


def check(trace: Trace, routes: Routes, fixture: Fixture) -> None:
    np.testing.assert_array_equal(sets_of(trace)[:, :, :EXPERTS], expected(routes.ids))
    phase = [int(t >= routes.prefill) for t in range(routes.tokens)] if fixture.phase else None
    assert trace.phase.tolist() == (phase or [1] * routes.tokens)
    assert trace.sequence.tolist() == [0] * routes.tokens
    assert trace.meta["experts_per_token"] == K
    assert trace.signals["expert"].scored == fixture.weights
    if fixture.weights:
        scores = scores_of(trace)
        for token, of_layers in enumerate(routes.ids):
            for layer, experts in enumerate(of_layers):
                assert scores[token, layer, experts].tolist() == routes.weights[token][layer]
        assert (scores[~sets_of(trace)] == 0).all()


@pytest.mark.parametrize("fixture", FIXTURES, ids=NAMES)
def test_a_log_is_imported_exactly(fixture: Fixture, tmp_path: Path) -> None:
    routes = drawn(layers=ODD if fixture.any_layers else (0, 1, 2))
    log = fixture.write(routes, tmp_path)
    found = recognised(log)
    assert found is not None
    assert found.name == fixture.format
    trace = dipsim.import_(log, tmp_path / "t.npz", **fixture.options)
    check(trace, routes, fixture)
    assert trace.meta.get("layer_numbers") == (list(ODD) if fixture.any_layers else None)
    if fixture.guesses:
        guesses = load_trace(tmp_path / "t.guesses.npz")
        np.testing.assert_array_equal(sets_of(guesses), expected(routes.guesses))


@pytest.mark.parametrize("fixture", FIXTURES, ids=NAMES)
def test_a_log_that_leaves_nothing_open_is_a_trace(fixture: Fixture, tmp_path: Path) -> None:
    routes = drawn(1, layers=(0, 1, 2))
    log = fixture.write(routes, tmp_path)
    if fixture.options:
        with pytest.raises(dipsim.DipsimError, match=r"give --.*dipsim import"):
            load_trace(log)
        return
    trace = load_trace(log)
    check(trace, routes, fixture)
    imported = dipsim.import_(log, tmp_path / "t.npz")
    run: dict[str, Any] = {"unit_bytes": "1MB", "cache": "12MB", "policy": "lru"}
    direct, through = (dipsim.simulate(one, "snapdragon8", **run) for one in (log, imported))
    assert direct.to_dict()["hits"] == through.to_dict()["hits"]
    assert direct.to_dict()["accesses"] > 0


def test_every_format_has_a_fixture() -> None:
    assert {fixture.format for fixture in FIXTURES} == {format_.name for format_ in FORMATS}
