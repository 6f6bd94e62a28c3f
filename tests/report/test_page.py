"""The page of a run: what it says, what it leaves out, and what repeats the run."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from dipsim.report.page.caveats import caveats
from dipsim.report.page.configuration import codes, command_line
from dipsim.report.page.model import Bars, Heat
from dipsim.report.page.output import figures_of
from dipsim.report.page.source import page_of
from dipsim.simulate import simulate
from dipsim.store import Store
from tools.cli import Dipsim, done
from tools.reported import (
    HOSTILE,
    names,
    section,
)

RUN = "run smollm2-chat -p snapdragon8 --tokens 0:8 --dram 60%"


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """What ``run --json --details`` prints of a run."""
    ran = simulate("smollm2-chat", "snapdragon8", tokens="0:8", dram="60%")
    known: dict[str, Any] = json.loads(json.dumps(figures_of(ran)))
    return known


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
