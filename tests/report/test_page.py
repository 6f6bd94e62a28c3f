"""The page of `dipsim report`: what it says of a run and of a sweep, and what it refuses."""

import json
import shlex
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

import dipsim as package
from dipsim.errors import DipsimError
from dipsim.report.page import source
from dipsim.report.page.axes import across, varying
from dipsim.report.page.caveats import caveats
from dipsim.report.page.configuration import codes, command_line
from dipsim.report.page.entry import Entry
from dipsim.report.page.model import Bars, Heat, Lines, Page, Section
from dipsim.report.page.output import FORMATS, check_output, figures_of, write
from dipsim.report.page.runs import Runs
from dipsim.report.page.source import open_page, page_of
from dipsim.report.page.sweep import page_of_sweep
from dipsim.simulate import simulate
from dipsim.store import Store
from tools.cli import Dipsim, done, refused
from tools.reported import HOSTILE, cell, figures, fill_store, thousand

RUN = "run smollm2-chat -p snapdragon8 --tokens 0:8 --dram 60%"


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """What ``run --json --details`` prints of a run."""
    ran = simulate("smollm2-chat", "snapdragon8", tokens="0:8", dram="60%")
    known: dict[str, Any] = json.loads(json.dumps(figures_of(ran)))
    return known


def section(page: Page, name: str) -> Section:
    (found,) = [each for each in page.sections if each.name == name]
    return found


def names(page: Page) -> list[str]:
    return [each.name for each in page.sections]


def entry(place: dict[str, Any], known: Any, marks: tuple[str, ...] = ()) -> Entry:
    return Entry(place, {"trace": "t", "profile": "p", **place}, known, marks, "", 1)


def sweep_page(entries: list[Entry], asked: int = 0) -> Page:
    return page_of_sweep("mine", entries, max(asked, len(entries)), "1")


# A run --------------------------------------------------------------------------------------------


def test_the_answer_of_a_run_has_its_figures(result: dict[str, Any]) -> None:
    changed = result | {
        "tokens_per_second": 25.0,
        "hit_rate": 0.25,
        "flash_bytes_per_token": 48e6,
        "baselines": {"dense": {"rate": 50.0, "times": 0.5}},
        "verdict": {"policys_time": 0.4},
    }
    assert page_of(changed).answer == (
        "25 tokens/s: 25.0% of the active bytes are in DRAM, 48 MB a token come from flash. The "
        "dense model is faster in the same DRAM: 50 tokens/s. 40% of the time is the policy's."
    )
    alone = changed | {"baselines": {}, "verdict": None}
    assert page_of(alone).answer.endswith("come from flash.")


def test_the_time_of_a_token_is_divided_without_rest(result: dict[str, Any]) -> None:
    found = section(page_of(result), "Where the time goes")
    chart = next(iter(found.panels[0].charts.values()))
    assert isinstance(chart, Bars)
    total = sum(lengths[0] for lengths in chart.parts.values())
    assert total == pytest.approx(result["latency_ms"]["mean"])


def test_the_budget_is_divided_without_rest(result: dict[str, Any]) -> None:
    found = section(page_of(result), "What DRAM holds")
    sizes = [row[1].value for row in found.tables[0].rows]
    assert sum(size for size in sizes if isinstance(size, float)) == pytest.approx(
        result["budget"]["dram"]
    )
    streamed = result | {"budget": result["budget"] | {"streamed_static": 1e6}}
    assert "do not fit" in section(page_of(streamed), "What DRAM holds").texts[1]


def test_the_map_of_layers_is_that_of_the_table(result: dict[str, Any]) -> None:
    frame = simulate("smollm2-chat", "snapdragon8", tokens="0:8", dram="60%").to_frame("layers")
    chart = section(page_of(result), "Layer by layer").panels[0].charts["hit rate"]
    assert isinstance(chart, Heat)
    for group, values in zip(chart.rows, chart.values, strict=True):
        rates = frame[frame.group == group].sort_values("layer").hit_rate
        assert values == pytest.approx([100 * rate for rate in rates])


@pytest.mark.parametrize(
    ("key", "value", "heading"),
    [
        ("per_layer", [], "Layer by layer"),
        ("groups", [], "Groups of units"),
        ("time_share", {}, "Where the time goes"),
        ("budget", {}, "What DRAM holds"),
    ],
)
def test_a_section_without_figures_is_left_out(
    result: dict[str, Any], key: str, value: Any, heading: str
) -> None:
    assert heading in names(page_of(result))
    assert heading not in names(page_of(result | {key: value}))


def test_what_a_run_is_held_against_is_left_out_where_nothing_is_known(
    result: dict[str, Any],
) -> None:
    heading = "What the same memory could do"
    assert heading in names(page_of(result))
    assert heading not in names(page_of(result | {"baselines": {}, "tried": []}))


def test_attribution_adds_the_time_of_each_layer(dipsim: Dipsim) -> None:
    known = done(dipsim(f"{RUN} --json --attribution")).json
    panel = section(page_of(known), "Where the time goes").panels[1]
    chart = next(iter(panel.charts.values()))
    assert isinstance(chart, Bars)
    assert chart.rows == [str(part["part"]) for part in known["attribution"]["parts"]]
    flash = [part["flash_ms"] for part in known["attribution"]["parts"]]
    assert chart.parts["flash"] == flash


def test_details_of_json_are_the_layers(dipsim: Dipsim, result: dict[str, Any]) -> None:
    assert "per_layer" not in done(dipsim(f"{RUN} --json")).json
    known = done(dipsim(f"{RUN} --json --details")).json
    assert known["per_layer"] == result["per_layer"]
    assert known["about"]["units"]["per_layer.layer"] == "index of a layer"


def test_an_unlimited_rate_is_said() -> None:
    ran = simulate("smollm2-chat", "snapdragon8", tokens="0:4")
    known = {**figures_of(ran), "tokens_per_second": None, "tokens_per_second_range": [None, None]}
    assert page_of(known).answer.startswith("unlimited tokens/s: ")


def test_every_mark_is_explained() -> None:
    found = caveats(["open-loop", "never-heard-of"], [])
    rows = [[each.text for each in row] for row in found.tables[0].rows]
    assert rows == [
        ["open-loop", "pruning did not feed back into the trace"],
        ["never-heard-of", "a mark that this version of dipsim does not know"],
    ]
    assert caveats([], []).texts == ["No mark applies to these figures."]


# A sweep ------------------------------------------------------------------------------------------


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
        "Fastest of 4 runs: 20 tokens/s with 75.0% of the active bytes in DRAM (policy lfu). The "
        "fastest that no device can run gives 50 (policy none)."
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
    chart = next(iter(panel.charts.values()))
    assert isinstance(chart, Bars)
    assert len(chart.rows) == 10
    lengths = [sum(parts) for parts in zip(*chart.parts.values(), strict=True)]
    assert lengths == sorted(lengths)
    assert panel.note == "The 10 fastest runs that a device can make."


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


# Repeating ----------------------------------------------------------------------------------------


def test_what_is_copied_repeats_the_run(dipsim: Dipsim, tmp_path: Path) -> None:
    options = {
        "trace": "smollm2-chat",
        "profile": "snapdragon8",
        "overrides": ["flash.bandwidth=2GB/s"],
        "tokens": "0:8",
        "method": "dip-ca",
        "density": 0.7,
        "gamma": {"mlp_input": 0.5, "glu": 0.2},
        "policy": "lfu-decay:half_life=32",
        "dram": "60%",
        "seed": 0,
    }
    command, text, python = (code.text for code in codes(options))
    program, *line = shlex.split(command)
    assert program == "dipsim"
    rate = done(dipsim(f"{shlex.join(line)} --json")).json["tokens_per_second"]
    assert yaml.safe_load(text) == {key: value for key, value in options.items() if key != "seed"}
    names: dict[str, Any] = {}
    exec(python, names)
    assert names["result"].tokens_per_second == rate
    assert simulate(**options).tokens_per_second == rate
    (tmp_path / "one.yaml").write_text(text)
    done(dipsim("sweep", tmp_path / "one.yaml", "--store", tmp_path / "one.db"))
    with Store.open(tmp_path / "one.db") as store:
        (found,) = store.cells()
    assert found.figures is not None
    assert found.figures["tokens_per_second"] == rate


def test_a_run_is_repeated_from_its_page(dipsim: Dipsim) -> None:
    line = f"{RUN} --method dip-ca --gamma mlp_input=.5,glu=.2 --policy arc --context 64"
    known = done(dipsim(f"{line} --json")).json
    command = section(page_of(known), "Repeat it").codes[0].text
    again = done(dipsim(f"{command.removeprefix('dipsim ')} --json")).json
    assert again["config"] == known["config"]
    assert again["tokens_per_second"] == known["tokens_per_second"]


def test_a_changed_device_is_said() -> None:
    ran = simulate("smollm2-chat", "snapdragon8", tokens="0:4", overrides=["dram.available=1GB"])
    texts = section(page_of(figures_of(ran)), "Repeat it").texts
    assert "The device is no shipped profile" in texts[1]
    ran = simulate("smollm2-chat", "snapdragon8", tokens="0:4")
    assert len(section(page_of(figures_of(ran)), "Repeat it").texts) == 1


@pytest.mark.parametrize("name", ["a b", "$(rm -r /)", "`x`", "--policy", "a;b", "x\ny", HOSTILE])
def test_a_command_line_takes_any_name_for_a_name(name: str) -> None:
    words = shlex.split(command_line({"trace": name, "profile": name, "policy": name}))
    assert words[:2] == ["dipsim", "run"]
    assert len(words) in (6, 7)
    assert not words[2].startswith("-")
    assert "\n" not in "".join(words)


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_written(kind: str, dipsim: Dipsim, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(done(dipsim(f"{RUN} --json")).out)
    target = tmp_path / f"r.{kind}"
    out = done(dipsim("report", tmp_path / "r.json", "-o", target)).out
    assert "tokens/s: " in out
    starts = {"html": b"<!doctype html>", "md": b"# ", "png": b"\x89PNG", "svg": b"<?xml"}
    assert target.read_bytes().startswith(starts[kind])


def test_a_result_writes_its_report(tmp_path: Path) -> None:
    ran = simulate("smollm2-chat", "snapdragon8", tokens="0:8", dram="60%")
    ran.write_report(tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    assert text.startswith("# smollm2-chat: dip with lfu on snapdragon8\n")
    assert "## Layer by layer" in text
    assert "## What the same memory could do" in text
    with pytest.raises(package.DipsimError, match=r"ends in \.html, \.md, \.png, \.svg"):
        ran.write_report(tmp_path / "r.pdf")


def test_the_file_says_the_format() -> None:
    assert check_output(None) == (Path("report.html"), "html")
    assert check_output(None, "md") == (Path("report.md"), "md")
    assert check_output("a.svg", "svg") == (Path("a.svg"), "svg")
    for path, kind, said in (
        ("a.svg", "png", "ends in .svg"),
        ("a.txt", None, "give a file that ends in"),
        (None, "pdf", "use one of html, md, png, svg"),
        ("no/such/folder.md", None, "no such folder"),
    ):
        with pytest.raises(DipsimError, match=said):
            check_output(path, kind)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not readable as JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "no result of dipsim run (tokens is missing"),
        ('{"about": {"command": "compare"}}', "the JSON of dipsim 'compare'"),
        ('{"about": 3}', "no result of dipsim run"),
        ("{" * 100_000, "not readable as JSON"),
        ("SQLite format 3", "not readable as JSON"),
        ("SQLite format 3\0", "no"),
    ],
)
def test_what_is_no_result_is_refused(text: str, said: str, dipsim: Dipsim, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    refused(dipsim("report", tmp_path / "r.json", "-o", tmp_path / "r.html"), said)
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens_per_second", "fast"),
        ("tokens_per_second", -1),
        ("hit_rate", 1.5),
        ("hit_rate", "NaN"),
        ("latency_ms", None),
        ("groups", {}),
        ("config", {"trace": 1}),
        ("marks", [1]),
        ("per_layer", [{"layer": -1}]),
        ("time_share", {"flash": 2}),
    ],
)
def test_a_result_with_a_wrong_figure_is_refused(
    result: dict[str, Any], key: str, value: Any
) -> None:
    with pytest.raises(DipsimError, match=f"no result of dipsim run .*{key}"):
        page_of(result | {key: value})


def test_a_store_of_nothing_is_refused(dipsim: Dipsim, tmp_path: Path) -> None:
    target = ("-o", tmp_path / "r.html")
    store = fill_store(tmp_path / "s.db", [])
    refused(dipsim("report", store, *target), "no cell is finished")
    refused(dipsim("report", tmp_path / "none.db", *target), "no such file")
    refused(dipsim("report", tmp_path, *target), "not a regular file")
    assert not (tmp_path / "r.html").exists()


def test_one_of_several_sweeps_is_chosen(dipsim: Dipsim, tmp_path: Path) -> None:
    for name, rate in (("first", 1.0), ("second", 2.0)):
        fill_store(tmp_path / "s.db", [cell({"policy": name}, figures(rate))], name)
    words = ("report", tmp_path / "s.db", "-o", tmp_path / "r.md")
    refused(dipsim(*words), "several sweeps (first, second): choose one with --sweep NAME")
    refused(dipsim(*words, "--sweep", "third"), "finished cells of first, second")
    assert "2 tokens/s" in done(dipsim(*words, "--sweep", "second")).out


def test_a_sweep_is_of_a_store(dipsim: Dipsim, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{}")
    refused(dipsim("report", tmp_path / "r.json", "--sweep", "a"), "is no store; drop it")


def test_more_cells_than_a_page_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MOST_CELLS", 999)
    store = fill_store(tmp_path / "s.db", thousand())
    with pytest.raises(DipsimError, match="has 1000 cells, a page at most 999"):
        open_page(store)


def test_the_source_is_not_overwritten(dipsim: Dipsim, tmp_path: Path) -> None:
    store = fill_store(tmp_path / "s.html", [cell({"policy": "lru"}, figures(1.0))])
    before = store.read_bytes()
    refused(dipsim("report", store, "-o", store), "s.html")
    assert store.read_bytes() == before


@pytest.mark.parametrize("missing", ["plotly", "jinja2"])
def test_a_page_without_its_packages_names_the_extra(
    missing: str, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    from dipsim.report.page import html

    html.bundle.cache_clear()
    page, target = page_of(result), tmp_path / "r.html"
    with pytest.raises(DipsimError, match=r"pip install 'dipsim\[report\]'"):
        write(page, target, "html")
    assert not target.exists()
    write(page, tmp_path / "r.md", "md")
    write(page, tmp_path / "r.png", "png")
    html.bundle.cache_clear()


def test_a_picture_of_no_chart_is_refused(tmp_path: Path) -> None:
    page = sweep_page([entry({"policy": "lru"}, None)])
    with pytest.raises(DipsimError, match="nothing to draw"):
        write(page, tmp_path / "r.png", "png")
