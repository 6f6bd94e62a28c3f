"""A phone's routes: the replay's bytes, what is fitted on which tokens, what is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.errors import DipsimError
from dipsim.validate import RoutesResult, judge_routes
from dipsim.validate.metrics import load_metrics
from dipsim.validate.routes import Speeds, fit_speeds, predict, replay_routes
from tools.cli import Dipsim, done
from tools.hostile import read_or_refused
from tools.paths import of_a_phone
from tools.validating import (
    BYTES,
    DENSE,
    LAYERS,
    METRICS,
    ROUTES,
    TOKENS,
    USED,
    case,
    written,
)


@pytest.fixture(scope="module")
def routes() -> RoutesResult:
    return judge_routes(ROUTES, METRICS)


# A phone's routes --------------------------------------------------------------------------------


@of_a_phone
def test_the_replay_reads_what_the_phone_read(routes: RoutesResult) -> None:
    assert routes.exact >= 120
    assert abs(routes.bytes_error) < 0.001
    assert routes.worst_bytes < 0.03
    assert routes.hit_pct == pytest.approx(routes.recorded_hit_pct, abs=0.01)
    assert routes.hit_pct == pytest.approx(74.9, abs=0.1)  # what the phone's author states


@of_a_phone
def test_the_routes_meet_their_targets(routes: RoutesResult) -> None:
    medians = {at.name: at.median for at in routes.measures}
    assert medians["stall"] <= 0.05
    assert medians["mgmt"] <= 0.035
    assert medians["io"] <= 0.035
    assert medians["wall of 16 tokens"] <= 0.06
    for at in routes.measures:
        assert at.met in (True, None)
        assert "wall" in at.name or (at.correlation or 0) >= 0.98
    lines = {at.name: at.line for at in routes.measures}
    reference = {"stall": 0.044, "mgmt": 0.024, "wall of 16 tokens": 0.034}
    assert {name: lines[name] for name in reference} == pytest.approx(reference, abs=0.001)
    assert len(vars(routes.speeds)) <= 4


@of_a_phone
def test_the_run_of_the_phone_is_predicted_by_import_and_run(
    dipsim: Dipsim, tmp_path: Path
) -> None:
    archive = tmp_path / "qwen.npz"
    done(dipsim("import", ROUTES, archive))
    options = "--policy lru --scope global --cache 4000MiB --profile oneplus15r --json"
    printed = done(dipsim(f"run {options}", archive)).json
    assert printed["tokens_per_second"] == pytest.approx(5.66, rel=0.10)


MADE = Speeds(flash=1.3, cache_copy=6e9, gemv=9e9, overlap_factor=0.4)


def test_speeds_that_made_a_run_are_found_again(run_of: Callable[..., Any]) -> None:
    route, metrics = run_of(MADE)
    result = judge_routes(route, metrics)
    assert vars(result.speeds) == pytest.approx(vars(MADE), rel=1e-3)
    assert max(at.median for at in result.measures) < 1e-3
    assert result.exact == TOKENS
    assert result.fitted_on == TOKENS // 2


def test_a_token_of_the_routes_by_hand(run_of: Callable[..., Any]) -> None:
    route, metrics = run_of()
    replay = replay_routes(route, load_metrics(metrics))
    took = predict(replay, MADE)
    assert (replay.misses[0] == USED).all()  # the first token finds nothing
    use, copy = USED * BYTES / 9e9, replay.kept_bytes[0] / 6e9
    flash, sync = replay.flash[0] / 1.3, replay.device.backends["cpu"].per_layer
    hidden = 0.4 * np.minimum(flash, use * (1 - 1 / replay.requests[0]) + copy)
    assert took["stall"][0] == pytest.approx(1e3 * (flash - hidden + sync).sum())
    assert took["io"][0] == pytest.approx(1e3 * 4 * flash.sum())
    assert took["mgmt"][0] == pytest.approx(1e3 * copy.sum())
    wall = LAYERS * (DENSE / 9e9 + use) + (flash - hidden + sync + copy).sum()
    assert took["wall"][0] == pytest.approx(1e3 * wall)


def test_the_judged_tokens_do_not_move_the_speeds(run_of: Callable[..., Any]) -> None:
    route, path = run_of(MADE)
    metrics = load_metrics(path)
    replay = replay_routes(route, metrics)
    half = slice(0, TOKENS // 2)
    poisoned = {name: values.copy() for name, values in metrics.columns.items()}
    for values in poisoned.values():
        values[TOKENS // 2 :] *= 7
    before = fit_speeds(replay, metrics, half)
    assert fit_speeds(replay, replace(metrics, columns=poisoned), half) == before
    poisoned["io_ms"][0] *= 7
    assert fit_speeds(replay, replace(metrics, columns=poisoned), half) != before


# The command line --------------------------------------------------------------------------------


def test_json_holds_everything(ran: Any, tmp_path: Path, run_of: Callable[..., Any]) -> None:
    route, metrics = run_of(MADE)
    code, out, errors = ran(
        "--cases", written(tmp_path, case()), "--routes", route, "--metrics", metrics, "--json"
    )
    assert (code, errors) == (0, [])
    found = json.loads(out)
    assert set(found) == {"about", "cases", "groups", "routes", "trivial_is_closer"}
    phone = found["routes"]
    assert set(phone) == {
        "tokens", "fitted_on", "speeds", "measures", "bytes", "hit_pct", "recorded_hit_pct",
    }  # fmt: skip
    assert set(phone["speeds"]) == {"flash", "cache_copy", "gemv", "overlap_factor"}
    measures = phone["measures"]
    assert set(measures[0]) == {
        "name", "bar", "median", "shipped", "line", "correlation", "line_correlation", "met",
    }  # fmt: skip
    assert [at["name"] for at in measures][:3] == ["stall", "mgmt", "io"]
    assert [at["met"] for at in measures] == [True] * 4 + [None]


def test_tables_fit_a_terminal(ran: Any, tmp_path: Path, run_of: Callable[..., Any]) -> None:
    route, metrics = run_of(MADE)
    cases = written(tmp_path, case())
    code, out, _ = ran("--cases", cases, "--routes", route, "--metrics", metrics)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    head = next(line for line in out.splitlines() if line.startswith("quantity"))
    assert head.split()[:4] == ["quantity", "fitted", "shipped", "line"]


def test_files_of_two_runs_are_refused(ran: Any, run_of: Callable[..., Any]) -> None:
    route, metrics = run_of(tokens=TOKENS - 1)
    code, _, errors = ran("--routes", route, "--metrics", metrics)
    assert (code, len(errors)) == (2, 1)
    assert "70 decode tokens, the metrics have 69: give the two files of one run" in errors[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("step,steps", "nothing,steps", "metrics begin with the columns"),
        ("stall_ms", "other", "one column stall_ms"),
        ("stall_ms", "wall_ms", "one column wall_ms"),
        ("cache_budget_MiB=20.0", "", "must give cache_budget_MiB"),
        ("cache_budget_MiB=20.0", "cache_budget_MiB=0", "must give cache_budget_MiB"),
        ("\n9,70,1,", "\n9,70,nan,", "line 10: 9 numbers from 0 up"),
        ("\n9,70,1,", "\n9,70,-1,", "line 10: 9 numbers from 0 up"),
        ("\n9,70,1,", "\n9,70,1,1,", "line 10: 9 numbers from 0 up"),
        ("\n9,70,1,", "\n9,70,0,", "wall_ms is 0 in a row"),
        ("\n9,70,1,1,1,1,1,", "\n9,70,1,1,1,1,101,", "cache_hit_pct of 101: percent"),
        ("\n9,70,1,1,1,1,", "\n9,70,1,1,1,2e9,", "read_bytes over wall_ms is 2e+12 B/s in a row"),
    ],
)
def test_broken_metrics_are_refused(
    run_of: Callable[..., Any], old: str, new: str, said: str
) -> None:
    _, metrics = run_of()
    text = metrics.read_text()
    assert old in text
    metrics.write_text(text.replace(old, new, 1))
    with pytest.raises(DipsimError, match=re.escape(said)):
        load_metrics(metrics)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cache_budget_MiB=20.0", "cache_budget_MiB=1.0", "reads or keeps nothing"),
        ("cache_budget_MiB=20.0", "cache_budget_MiB=1000000", "exceeds the 12 GB"),
        ("cache_budget_MiB=20.0", "cache_budget_MiB=20.0", "leave no time for compute"),
    ],
)
def test_metrics_that_fit_nothing_are_refused(
    ran: Any, run_of: Callable[..., Any], old: str, new: str, said: str
) -> None:
    route, metrics = run_of()  # 1 ms of everything: stall and copies take more than wall
    metrics.write_text(metrics.read_text().replace(old, new))
    code, out, errors = ran("--routes", route, "--metrics", metrics)
    assert (code, out, len(errors)) == (2, "", 1)
    assert said in errors[0]


def test_damaged_routes_are_refused(ran: Any, run_of: Callable[..., Any]) -> None:
    route, metrics = run_of()
    route.write_text(route.read_text().replace("0,1,5,1,0,", "0,1,5,1,9,"))
    code, out, errors = ran("--routes", route, "--metrics", metrics)
    assert (code, out, len(errors)) == (2, "", 1)
    assert "rows are missing" in errors[0]


def test_few_tokens_are_refused(run_of: Callable[..., Any]) -> None:
    with pytest.raises(DipsimError, match="63 tokens; give 64 or more"):
        load_metrics(run_of(tokens=63)[1])


def test_damaged_metrics_are_refused_in_one_line(
    tmp_path: Path, run_of: Callable[..., Any]
) -> None:
    _, metrics = run_of()
    assert read_or_refused(load_metrics, tmp_path / "x", metrics.read_bytes(), 200) < 200
