"""Error bars: which run has which, what it says, and that no other run has one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.errors import DipsimError
from dipsim.replay.active_sets import ActiveSets
from dipsim.result import Result
from dipsim.simulate import simulate
from dipsim.validate.error_bars import (
    FORMAT,
    MAPPED,
    MEMORY,
    STREAMING,
    Bar,
    bar_dict,
    bar_of,
    bar_rows,
    bars_text,
    class_of,
    load_bars,
    request_sizes,
)
from tools.cli import Dipsim
from tools.hostile import read_or_refused

TRACE = "smollm2-chat"
BARS = load_bars()


@pytest.fixture(scope="module")
def results() -> Callable[..., Result]:
    """Runs of a few tokens, each only once."""
    known: dict[tuple[object, ...], Result] = {}

    def run(profile: str, **options: Any) -> Result:
        key = (profile, *sorted(options.items()))
        if key not in known:
            known[key] = simulate(TRACE, profile, tokens="0:4", **options)
        return known[key]

    return run


STREAMED = {"dram": "50%"}
FITS = {"cache_fraction": 1.0}


@pytest.mark.parametrize(
    ("profile", "options", "expected"),
    [
        ("snapdragon8", STREAMED, STREAMING),
        ("oneplus15r", STREAMED, STREAMING),
        ("tensor-g4", STREAMED, STREAMING),
        ("snapdragon8elite", STREAMED, STREAMING),
        ("snapdragon8", FITS, f"{MEMORY}: phone CPU, XNNPACK and KleidiAI"),
        (
            "snapdragon8elite",
            {**FITS, "backend": "gpu"},
            f"{MEMORY}: phone GPU, llama.cpp on Adreno",
        ),
        (
            "snapdragon8elite",
            {**FITS, "backend": "npu"},
            f"{MEMORY}: phone NPU, llama.cpp on Hexagon",
        ),
        ("raspberrypi5", FITS, f"{MEMORY}: Raspberry Pi 5 CPU, ollama"),
        ("m1max", {**FITS, "bits": 4.5}, f"{MEMORY}: Apple GPU of a Max or Ultra, 4 bit"),
        ("m1max", {**FITS, "bits": 16}, f"{MEMORY}: Apple GPU of a Max or Ultra, 16 bit"),
    ],
)
def test_a_run_has_the_bar_of_its_kind(
    results: Callable[..., Result], profile: str, options: Any, expected: str
) -> None:
    result = results(profile, **options)
    assert class_of(result) == expected
    assert bar_of(result) == BARS[expected]


@pytest.mark.parametrize(
    ("profile", "options"),
    [
        ("paper-a18", STREAMED),  # nobody measured the paper's device
        ("snapdragon8", {**STREAMED, "overlap": "paper-serial"}),  # nor a run without overheads
        (
            "snapdragon8elite",
            {**STREAMED, "backend": "npu"},
        ),  # streaming was measured on a CPU, this is an NPU
        ("snapdragon8", {**STREAMED, "prefetch": "previous"}),  # nor one that reads ahead
        ("snapdragon8", {**STREAMED, "overrides": ("flash.bandwidth=50GB/s",)}),  # nor this phone
        ("m1max", STREAMED),
        ("oneplus15r", FITS),
        ("m1max", {**FITS, "bits": 8}),
    ],
)
def test_a_run_of_another_kind_has_none(
    results: Callable[..., Result], profile: str, options: Any
) -> None:
    result = results(profile, **options)
    assert bar_of(result) is None
    assert bar_dict(result, None)["error_bar"] is None
    assert bar_rows(result, None)[0] == ("error bar", "none: no measurement matches this run")


@pytest.mark.parametrize(
    ("io", "expected"), [("direct", STREAMING), ("mmap", MAPPED), ("buffered", None)]
)
def test_the_bar_depends_on_how_weights_come_in(
    results: Callable[..., Result], io: str, expected: str | None
) -> None:
    direct = results("oneplus15r", **STREAMED)
    run = direct.run
    settings = run.settings.model_copy(update={"io": io})
    sets = ActiveSets(run.trace, run.method, settings)
    assert class_of(replace(direct, run=replace(run, sets=sets))) == expected


def test_a_factor_is_shown_as_one() -> None:
    assert BARS[MAPPED].size == "x 1.7"
    assert BARS[STREAMING].size == "±11%"


def test_request_sizes_are_those_of_the_marks(results: Callable[..., Result]) -> None:
    columns = results("snapdragon8", **STREAMED)  # columns of 1920 bytes, points from 4 KiB up
    assert request_sizes(columns) == "extrapolated"
    nowhere = np.zeros_like(columns.traffic.outside)
    inside = replace(
        columns,
        traffic=replace(columns.traffic, outside=nowhere),
        timing=replace(columns.timing, extrapolated=False),
    )
    assert request_sizes(inside) == "inside"
    assert request_sizes(results("paper-a18", **STREAMED)) == "inside"


def test_every_bar_says_what_it_rests_on() -> None:
    assert {STREAMING, MAPPED} <= set(BARS)
    assert len(BARS) == 9
    for name, bar in BARS.items():
        assert bar.name == name
        assert bar.cases >= 2
        assert len(bar.measured_on) <= 60


def test_the_text_names_cases_and_device(results: Callable[..., Result]) -> None:
    result = results("snapdragon8", **STREAMED)
    (label, text), sizes = bar_rows(result, BARS[STREAMING])
    assert label == "error bar"
    assert text == "±11%, median of 10 runs: experts, OnePlus 15R"
    assert sizes == ("request sizes", "extrapolated")


def test_run_prints_the_bar_below_its_rate(dipsim: Dipsim) -> None:
    line = f"run {TRACE} --profile snapdragon8 --dram 50% --tokens 0:4"
    assert "; error bar ±11% (experts, OnePlus 15R)\n" in dipsim(line).out
    outcome = dipsim(f"{line} --details")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    rate = next(row for row, line in enumerate(lines) if line.startswith("rate "))
    assert lines[rate + 1].startswith("error bar  ")
    assert lines[rate + 2].split() == ["request", "sizes", "extrapolated"]


@pytest.mark.parametrize(("profile", "there"), [("snapdragon8", True), ("paper-a18", False)])
def test_json_holds_the_bar(dipsim: Dipsim, profile: str, there: bool) -> None:
    outcome = dipsim(f"run {TRACE} --profile {profile} --dram 50% --tokens 0:4 --json")
    assert outcome.code == 0
    found = outcome.json
    assert found["request_sizes"] == ("extrapolated" if there else "inside")
    if there:
        assert {"class", "median", "cases"} <= set(found["error_bar"])
        assert found["error_bar"]["class"] == STREAMING
    else:
        assert found["error_bar"] is None


# The file ----------------------------------------------------------------------------------------


def test_bars_are_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "bars.json"
    path.write_text(bars_text(list(BARS.values())))
    assert load_bars(path) == BARS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "x"}, FORMAT),
        ({"version": 2}, "version 1"),
        ({"bars": {}}, "a list"),
        ({"bars": [{"class": "a"}]}, "is missing"),
        ({"bars": [{"class": "a", "median": 0, "cases": 1, "measured_on": "x"}]}, "median"),
        ({"bars": [{"class": "a", "median": 1, "cases": 0, "measured_on": "x"}]}, "cases"),
    ],
)
def test_broken_bars_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "bars.json"
    path.write_text(json.dumps({**json.loads(bars_text([])), **change}))
    with pytest.raises(DipsimError, match=said):
        load_bars(path)


def test_damaged_bars_are_refused_in_one_line(tmp_path: Path) -> None:
    data = bars_text(list(BARS.values())).encode()
    assert read_or_refused(load_bars, tmp_path / "bars.json", data, 200) < 200


def test_a_bar_is_frozen() -> None:
    bar = next(iter(BARS.values()))
    assert Bar.model_validate(bar.to_dict()) == bar
    with pytest.raises(ValueError, match="frozen"):
        bar.median = 0.0  # type: ignore[misc]
