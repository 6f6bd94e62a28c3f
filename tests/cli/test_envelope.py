"""Every JSON report says what it is about, in which units; tables have a column for each axis."""

import csv
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import load_trace
from dipsim.report.envelope import numbers_of, units_of
from tools.cli import Dipsim, done, runner
from tools.commands import taking
from tools.model_folder import fill as fill_with_model

DOCUMENTS = {"profiles", "models"}
"""Commands whose JSON is a document that other commands read, not a report."""
ON_PHONE = "t.npz -p phone.yaml --cache-fraction .5"
LINES = [
    f"run {ON_PHONE} --method dip-ca --policy lru --attribution",
    "run marked.npz -p oneplus15r --dram 80% --io buffered",
    f"run {ON_PHONE} --prefetch previous",
    f"run {ON_PHONE} -s thermal.after=60s -s thermal.flash=.5 --thermal sustained",
    "compare t.npz -p phone.yaml --policy lru,opt --cache-fraction .5,.7",
    "mrc t.npz --policy lru,opt --cache-fraction .5,.7",
    f"search {ON_PHONE} --max-loss .5 --method dip",
    "search t.npz -p phone.yaml --target-rate 100000",
    "search t.npz -p oneplus15r --axes dram,iops --points 2",
    "search t.npz -p phone.yaml --target-rate 1000 --least flash-bandwidth",
    "sweep study.yaml",
    "sweep study.yaml --dry-run",
    "results study.db",
    "results study.db --pivot policy,cache_fraction,hit_rate",
    "study",
    *(
        f"study {name} t.npz -p phone.yaml"
        for name in (
            "density",
            "gamma",
            "dram",
            "flash",
            "policies",
            "split",
            "layers",
            "variants",
            "ttft",
        )
    ),
    "plan smollm2-135m -p paper-a18 --dram 60MB --context 512",
    "plan model.yaml --trace t.npz -p phone.yaml --context 64 --prompt 8 --target-rate 1e8",
    "inspect marked.npz",
    "export t.npz small.npz --tokens 0:4",
    "import glu.npz other.npz",
    "synth made.npz --model model.yaml --tokens 6 --signals glu",
    "policies",
    "methods",
    "systems",
    "explain mass",
    "validate",
    "validate --replay t.npz disk.bin --file-size 8MB --tokens 0:8 --bench-seconds .1",
    "iobench large.bin --sizes 4KiB,64KiB --threads 1 --seconds .2",
    "calibrate reads.csv --fit",
    "calibrate reads.csv",
]
WITH_MODEL = [
    "record my-model recorded.npz --prompt 'w3 w4' --generate 4",
    "eval my-model --text book.txt --tokens 64 --window 32 -p paper-a18 --open-loop",
    "lora my-model --text book.txt --out adapter --steps 1 --window 32 --judge-tokens 64",
]


def command_of(line: str) -> str:
    return line.split()[0]


def test_no_command_with_json_is_forgotten() -> None:
    assert set(map(command_of, LINES + WITH_MODEL)) == set(taking("--json")) - DOCUMENTS


def check(line: str, report: Any) -> None:
    """Check what a report says about itself."""
    about = report["about"]
    assert set(about) == {"command", "trace", "profiles", "options", "version", "units"}
    assert (about["command"], about["version"]) == (command_of(line), version("dipsim"))
    figures = {key: value for key, value in report.items() if key != "about"}
    without = [path for path in numbers_of(figures) if not _unit(path, about["units"])]
    assert without == []
    if " -p " in line:
        name = line.split(" -p ")[1].split()[0].removesuffix(".yaml")
        assert [profile["name"] for profile in about["profiles"]] == [name]


def _unit(path: tuple[str, ...], units: dict[str, str]) -> str | None:
    """Return the unit of a number: the nearest key of its path that has one."""
    for end in range(len(path), 0, -1):
        for key in (".".join(path[max(end - 2, 0) : end]), path[end - 1]):
            if key in units:
                return units[key]
    return None


@pytest.fixture(scope="module")
def stocked(folder: Path) -> Path:
    """The folder of small traces, with a file to read and measurements."""
    (folder / "large.bin").write_bytes(np.random.default_rng(0).bytes(2**22))
    study = "trace: t.npz\nprofile: phone.yaml\npolicy: [lru, opt]\ncache_fraction: [.5, .7]\n"
    (folder / "study.yaml").write_text(study)
    (folder / "reads.csv").write_text(
        "size,lanes,bandwidth\n4 KiB,1,100 MB/s\n16 KiB,1,300 MB/s\n64 KiB,1,500 MB/s\n"
        "256 KiB,1,900 MB/s\n1 MiB,1,1.5 GB/s\n4 MiB,1,1.7 GB/s\n4 KiB,4,300 MB/s\n"
    )
    return folder


@pytest.mark.usefixtures("stocked", "judged_once", "fitted_once")
@pytest.mark.parametrize("line", LINES)
def test_a_report_says_what_it_is_about(dipsim: Dipsim, line: str) -> None:
    outcome = dipsim(f"{line} --json")
    assert outcome.code == 0, outcome.err
    check(line, outcome.json)
    trace = next((word for word in line.split() if word.endswith(".npz")), None)
    written = command_of(line) in ("export", "import", "synth")
    if trace is not None and not written:
        assert outcome.json["about"]["trace"]["hash"] == load_trace(trace).hash


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    fill_with_model(path)
    return path


@pytest.mark.parametrize("line", WITH_MODEL)
def test_a_report_with_a_model_in_the_loop(
    line: str,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = runner(monkeypatch, capsys, model_folder)(f"{line} --json")
    assert outcome.code == 0, outcome.err
    check(line, outcome.json)
    assert outcome.json["about"]["options"]["model"] == "my-model"


def test_options_are_those_that_were_given(dipsim: Dipsim) -> None:
    line = "mrc t.npz --policy lru --gamma mlp_input=.5,glu=.2 --method dip-ca --csv m.csv --json"
    assert done(dipsim(line)).json["about"]["options"] == {
        "trace": "t.npz",
        "method": "dip-ca",
        "policy": ["lru"],
        "gamma": "mlp_input=.5,glu=.2",
    }
    settings = done(dipsim(f"run {ON_PHONE} --policy lru --json")).json
    assert settings["about"]["options"] == settings["config"]["settings"]


def test_units_by_hand() -> None:
    figures = {
        "tokens": 3,
        "budget": {"kv": 5.0, "cache_fraction": 0.5},
        "latency_ms": {"p50": 1.0},
        "cells": [{"dram": 0.5, "fits": True, "name": "x", "lost": None}],
        "config": {"density": 0.7},
        "unheard_of": 7,
    }
    assert units_of(figures, {"cells.dram": "share of the model"}) == {
        "budget": "B",
        "cache_fraction": "share",
        "cells.dram": "share of the model",
        "latency_ms": "ms",
        "tokens": "tokens",
    }


# CSV ----------------------------------------------------------------------------------------------

AXES = {
    f"run {ON_PHONE} --policy lru": {
        "trace": "t.npz",
        "profile": "phone",
        "method": "dip",
        "policy": "lru",
    },
    "mrc t.npz --policy lru --cache-fraction .5": {"trace": "t.npz", "method": "dip"},
    f"search {ON_PHONE} --policy lru --method dip --max-loss .5": {
        "trace": "t.npz",
        "profile": "phone",
        "policy": "lru",
        "method": "dip",
        "budget": "cache_fraction=0.5",
    },
    "search t.npz -p phone.yaml --target-rate 100000": {
        "trace": "t.npz",
        "profile": "phone",
        "policy": "lfu",
        "budget": "available",
        "what": "dram",
    },
    "search t.npz -p oneplus15r --axes dram,iops --points 2": {
        "trace": "t.npz",
        "profile": "oneplus15r",
    },
    "study policies t.npz -p phone.yaml --policy lru --cache-fraction .5": {
        "trace": "t.npz",
        "profile": "phone.yaml",
        "policy": "lru",
        "method": "dip",
        "cache_fraction": "0.5",
    },
    "inspect t.npz": {"trace": "t.npz"},
}


def rows_of(dipsim: Dipsim, line: str, path: Path) -> list[dict[str, str]]:
    assert dipsim(f"{line} --csv {path}").code == 0
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("line", AXES)
def test_a_table_has_a_column_for_every_axis(dipsim: Dipsim, line: str, tmp_path: Path) -> None:
    rows = rows_of(dipsim, line, tmp_path / "t.csv")
    assert rows
    for row in rows:
        assert {name: row[name] for name in AXES[line]} == AXES[line]


def test_a_run_has_a_row_for_each_measured_token(dipsim: Dipsim, tmp_path: Path) -> None:
    line = f"run {ON_PHONE} --warmup 3"
    rows = rows_of(dipsim, line, tmp_path / "t.csv")
    result = json.loads(done(dipsim(f"{line} --json")).out)
    assert [int(row["token"]) for row in rows] == list(range(3, 12))
    assert sum(int(row["hits"]) for row in rows) == result["hits"]
    assert sum(int(row["accesses"]) for row in rows) == result["accesses"]
    times = [float(row["latency_ms"]) for row in rows]
    assert np.mean(times) == pytest.approx(result["latency_ms"]["mean"])
    causes = [sum(float(row[f"{name}_ms"]) for name in result["time_share"]) for row in rows]
    assert causes == pytest.approx(times)
    moved = [float(row["flash_bytes"]) for row in rows]
    assert np.mean(moved) == pytest.approx(result["flash_bytes_per_token"])


def test_an_inspection_has_a_row_for_each_figure(dipsim: Dipsim, tmp_path: Path) -> None:
    rows = rows_of(dipsim, "inspect t.npz", tmp_path / "t.csv")
    found = json.loads(done(dipsim("inspect t.npz --json")).out)["inspection"]
    for signal, figures in found.items():
        own = [row for row in rows if row["signal"] == signal]
        for policy in ("lru", "opt"):
            rates = {
                row["at"]: float(row["value"])
                for row in own
                if (row["figure"], row["policy"]) == ("hit_rate", policy)
            }
            assert rates == figures[policy]
        (gini,) = (float(row["value"]) for row in own if row["figure"] == "gini")
        assert gini == figures["gini"]
