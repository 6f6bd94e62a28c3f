"""The page of a sweep: its answer, lines, maps, frontier, bars, and the axes that it finds."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from dipsim.report.page.axes import across, varying
from dipsim.report.page.model import Bars, Heat, Lines
from dipsim.report.page.runs import Runs
from dipsim.report.page.source import open_page
from tools.reported import (
    entry,
    figures,
    fill_store,
    names,
    section,
    sweep_page,
    thousand,
)


def test_the_answer_of_a_sweep_is_the_fastest_that_a_device_can_run() -> None:
    entries = [
        entry({"policy": "lru", "dram": "50%"}, figures(10.0)),
        entry({"policy": "lfu", "dram": "50%"}, figures(20.0, 0.75)),
        entry({"policy": "opt", "dram": "50%"}, figures(40.0), ("clairvoyant",)),
        entry({"policy": "none", "dram": "50%"}, figures(50.0)),
        entry({"policy": "arc", "dram": "50%"}, None),
    ]
    page = sweep_page(entries)
    assert page.title == "mine: 5 runs"
    assert page.answer == (
        "Fastest of 5 runs, 1 failed: 20 tokens/s with 75.0% of the active bytes in DRAM (policy "
        "lfu). The fastest that no device can run gives 50 (policy none)."
    )
    assert page.footer == "dipsim 1; all runs: dram 50%"
    (table,) = section(page, "Every run").tables
    assert [row[0].text for row in table.rows] == ["lru", "lfu", "opt", "none", "arc"]
    assert table.rows[4][-1].text == "impossible: "


def test_a_sweep_without_a_possible_run_says_so() -> None:
    page = sweep_page([entry({"policy": "lru"}, None)])
    assert page.answer == "No run was possible: the table says why."
    assert names(page) == ["Every run", "Marks and caveats"]
    knowing = [entry({"policy": "opt"}, figures(1.0), ("clairvoyant",))]
    assert sweep_page(knowing).answer.startswith("No policy ran that a device")


def test_lines_rise_along_the_size_of_memory(tmp_path: Path) -> None:
    page = open_page(fill_store(tmp_path / "s.db", thousand()))
    rates, hits = section(page, "Rate and hits against DRAM").panels
    first = next(iter(rates.charts))
    assert first == "profile phone-e, method dip-ca"  # that of the fastest
    assert len(rates.charts) == 10
    for name, chart in rates.charts.items():
        assert isinstance(chart, Lines)
        assert chart.across == "DRAM (%)"
        policies = ["lru", "lfu", "arc", "sieve"] + ["opt"] * ("dip-ca" not in name)
        assert [series.name for series in chart.series] == policies
        for series in chart.series:
            assert list(series.x) == sorted(series.x) == [float(x) for x in range(2, 42, 2)]
            assert series.low is not None
            assert series.high is not None
            for low, y, high in zip(series.low, series.y, series.high, strict=True):
                assert None not in (low, y, high)
                assert (low, high) == pytest.approx((0.9 * y, 1.2 * y))  # type: ignore[operator]
    assert list(hits.charts) == list(rates.charts)


def test_a_map_has_the_highest_rate_over_all_other_axes(tmp_path: Path) -> None:
    cells = thousand()
    page = open_page(fill_store(tmp_path / "s.db", cells))
    charts = section(page, "Rates over two axes").panels[0].charts
    axes = ("dram", "profile", "method", "policy")
    assert list(charts) == [f"{x} and {y}" for x, y in combinations(axes, 2)]
    for name, chart in charts.items():
        x, y = name.split(" and ")
        assert isinstance(chart, Heat)
        for row, values in zip(chart.rows, chart.values, strict=True):
            for column, value in zip(chart.columns, values, strict=True):
                rates = [
                    outcome.figures["tokens_per_second"]
                    for place, outcome in cells
                    if (place[x], place[y]) == (column, row)
                    and outcome.figures is not None
                    and "clairvoyant" not in outcome.marks
                ]
                assert value == (max(rates) if rates else None)


def test_the_time_of_the_fastest_runs_is_stacked(tmp_path: Path) -> None:
    page = open_page(fill_store(tmp_path / "s.db", thousand()))
    (panel,) = section(page, "Where the time goes").panels
    (table,) = section(page, "Where the time goes").tables
    chart = next(iter(panel.charts.values()))
    assert isinstance(chart, Bars)
    assert len(chart.rows) == 10
    lengths = [sum(parts) for parts in zip(*chart.parts.values(), strict=True)]
    assert lengths == sorted(lengths)
    assert panel.note == "The 10 fastest runs that a device can make."
    assert table.heads == ["run", *chart.parts]
    assert [row[0].text for row in table.rows] == list(chart.rows)
    for i, lengths in enumerate(chart.parts.values(), 1):
        assert [row[i].value for row in table.rows] == list(lengths)


def test_runs_that_no_other_beats_stand_on_the_frontier() -> None:
    pairs = [(1.0, 5.0), (2.0, 4.0), (2.0, 9.0), (3.0, 9.0), (4.0, 12.0), (5.0, 1.0)]
    entries = [
        entry({"density": i / 10}, figures(rate, perplexity={"low": 0.0, "high": loss}))
        for i, (loss, rate) in enumerate(pairs)
    ]
    found = section(sweep_page(entries), "Loss against rate")
    unbeaten = [
        (loss, rate)
        for loss, rate in pairs
        if not any(o != (loss, rate) and o[0] <= loss and o[1] >= rate for o in pairs)
    ]
    shown = [(row[1].value, row[2].value) for row in found.tables[0].rows]
    assert shown == unbeaten == [(1.0, 5.0), (2.0, 9.0), (4.0, 12.0)]
    assert found.tables[0].heads[1] == "perplexity, upper bound"
    without = [entry({"density": i}, figures(1.0 + i)) for i in range(3)]
    assert "Loss against rate" not in names(sweep_page(without))


def test_intervals_are_shown_only_where_every_run_has_one() -> None:
    interval = {"tokens_per_second_interval": {"low": 5.0, "high": 15.0, "level": 0.9}}
    both = [
        entry({"dram": "50%"}, figures(10.0, **interval)),
        entry({"dram": "60%"}, figures(12.0, **interval)),
    ]
    runs = Runs(both, 2)
    assert runs.ends(both[0]) == (5.0, 15.0)
    assert runs.ends_meaning == "the interval that holds 90% of true rates"
    one = Runs([both[0], entry({"dram": "60%"}, figures(12.0))], 2)
    assert one.ends(both[0]) == (9.0, 12.0)
    assert one.ends_meaning == "the band between no and full overlap of reading and use"


def test_a_sweep_that_is_not_finished_says_so() -> None:
    page = sweep_page([entry({"dram": "50%"}, figures(10.0))], asked=3)
    assert (
        "1 of 3 runs are finished; what the others would change is not known."
        in section(page, "Marks and caveats").texts
    )
    assert page.tiles[-1].note == "2 not finished"


def test_what_the_runs_rest_on_is_said_once() -> None:
    interval = {"low": 5.0, "high": 15.0, "level": 0.9, "unmeasured": "no phone was measured"}
    more = {"tokens_per_second_interval": interval, "estimates": ["energy.dram"]}
    entries = [entry({"dram": f"{i}0%"}, figures(10.0 + i, **more)) for i in (5, 6)]
    texts = section(sweep_page(entries), "Marks and caveats").texts
    assert texts[-2:] == [
        "No phone was measured.",
        "Estimates that the times rest on: energy.dram.",
    ]


def test_the_budgets_of_the_fastest_runs_are_bars() -> None:
    budgets = [
        {"attention": 30e6, "norms": 10e6, "streamed_static": 5e6, "kv": 5e6, "cache": 60e6},
        {"attention": 30e6, "norms": 10e6, "kv": 5e6, "staging": 1e6, "aux": 1e6, "cache": 2e6},
    ]
    entries = [
        entry({"policy": policy, "dram": f"{i}0%"}, figures(rate, budget=budgets[i - 1]))
        for i, policy, rate in ((1, "lru", 3.0), (1, "lfu", 2.0), (2, "lru", 4.0))
    ]
    (panel,) = section(sweep_page(entries), "What DRAM holds").panels
    chart = next(iter(panel.charts.values()))
    assert isinstance(chart, Bars)
    assert chart.across == "MB"
    assert chart.rows == ["lru, 20%", "lru, 10%"]
    assert chart.parts == {
        "static weights": [40.0, 35.0],
        "KV": [5.0, 5.0],
        "buffers": [2.0, 0.0],
        "cache": [2.0, 60.0],
    }


def test_marks_that_all_runs_have_are_said_once(tmp_path: Path) -> None:
    found = section(open_page(fill_store(tmp_path / "s.db", thousand())), "Every run")
    assert found.texts[1] == "All runs have the marks open-loop, estimate."
    column = {row[-1].text for row in found.tables[0].rows}
    assert column == {"", "clairvoyant", "impossible: no such density"}


@pytest.mark.parametrize(
    ("values", "order", "label"),
    [
        (["90%", "5%", "50%"], [5.0, 50.0, 90.0], "DRAM (%)"),
        (["2 GB", "500 MB"], [0.5, 2.0], "DRAM (GB)"),
        ([3, 1.5], [1.5, 3.0], "DRAM"),
        (["50%", "2 GB"], None, "DRAM"),
        (["a", "b"], None, "DRAM"),
        ([None, "50%"], None, "DRAM"),
        ([True, False], None, "DRAM"),
    ],
)
def test_positions_of_an_axis(values: list[Any], order: list[float] | None, label: str) -> None:
    (axis,) = varying([{"dram": value} for value in values])
    assert axis.label == label
    assert axis.positions == (None if order is None else tuple(order))


def test_a_size_of_memory_goes_across_before_other_numbers() -> None:
    places = [{"seed": i, "policy": f"p{i}", "cache_fraction": i / 10} for i in range(3)]
    axes = varying(places)
    assert [axis.name for axis in axes] == ["seed", "policy", "cache_fraction"]
    first = across(axes)
    assert first is not None
    assert first.name == "cache_fraction"
    assert across([]) is None


@pytest.mark.parametrize("wrong", ["much", True, float("nan"), -1.0, [1], {"low": 1}, 10**400])
def test_figures_of_any_kind_are_no_figures(wrong: Any) -> None:
    known = {
        "tokens_per_second": wrong,
        "tokens_per_second_range": wrong,
        "tokens_per_second_interval": wrong,
        "hit_rate": wrong,
        "time_share": wrong,
        "perplexity": wrong,
    }
    page = sweep_page([entry({"dram": "50%"}, known), entry({"dram": wrong}, known)])
    assert page.answer.startswith("No policy ran")
