"""`dipsim sweep` and `dipsim results`: what they print and write, exit codes, programs killed."""

import csv
import json
import random
import resource
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

import dipsim as package
from dipsim.analysis.results import COLUMNS
from dipsim.cli.sweep import SweepProgress
from dipsim.report import results as report
from dipsim.store import Outcome, Store
from dipsim.sweep.execute import Ran
from dipsim.sweep.keys import schema
from dipsim.sweep.plan import Planned
from tools.cli import PROGRAM, Dipsim, done, program, refused

SMALL = """\
trace: t.npz
profile: phone.yaml
method: [dip, dip-ca]
policy: [lru, lfu, opt]
cache_fraction: [0.3, 0.6]
"""
MANY = f"sweep study.yaml -s seed=[{','.join(map(str, range(9000)))}]"


@pytest.fixture
def study(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of 12 cells of which two fail, in a folder of its own."""
    for name in ("t.npz", "phone.yaml", "mine.py"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    path = tmp_path / "study.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def here(dipsim: Dipsim, study: Path, monkeypatch: pytest.MonkeyPatch) -> Dipsim:
    """Run a command line in the folder of the sweep."""
    monkeypatch.chdir(study.parent)
    return dipsim


@pytest.fixture
def swept(here: Dipsim) -> Dipsim:
    assert here("sweep study.yaml").code == 3
    return here


# dipsim sweep -------------------------------------------------------------------------------------


def test_a_sweep_says_what_came_of_it_and_exits_3_where_cells_failed(here: Dipsim) -> None:
    code, out, err = here("sweep study.yaml")
    assert (code, err) == (3, [])
    lines = out.splitlines()
    assert lines[0] == "study: 12 cells, 2 failed (dipsim results study.db --failed)"
    assert lines[1] == "the fastest of 10 (without 2 that know the future):"
    assert lines[2].split() == [
        "method",
        "policy",
        "cache_fraction",
        "tok/s",
        "low",
        "high",
        "hits",
    ]
    assert lines[3].split()[:3] == ["dip-ca", "lfu", "0.6"]
    assert lines[-1] == "all of them: dipsim results study.db"
    code, out, _ = here("sweep study.yaml -s policy=[lru,lfu] -s 'title=Two policies'")
    assert (code, out.splitlines()[0]) == (0, "Two policies: 8 cells, 8 were in the store")


def test_a_sweep_in_json(here: Dipsim) -> None:
    outcome = here("sweep study.yaml --store other.db --json")
    assert outcome.code == 3
    figures = {key: value for key, value in outcome.json.items() if key != "about"}
    assert figures == {
        "sweep": "study",
        "title": "",
        "store": "other.db",
        "axes": ["method", "policy", "cache_fraction"],
        "cells": 12,
        "known": 0,
        "failed": 2,
        "lost": [],
    }


def test_a_dry_run_runs_nothing_that_stays(here: Dipsim, study: Path) -> None:
    _, out, err = done(here("sweep study.yaml --dry-run"))
    assert err == []
    first, second, third = out.splitlines()
    assert first == "study: 12 cells, 0 of them in the store"
    assert second == "12 to run, in 2 passes over traces and about 12 replays"
    assert third.startswith("about ")
    assert third.endswith(" with 1 worker: an estimate, from 8 cells")
    assert not study.with_suffix(".db").exists()
    here("sweep study.yaml -s method=dip")
    counts = done(here("sweep study.yaml --dry-run --json")).json
    assert (counts["cells"], counts["known"], counts["missing"]) == (12, 6, 6)
    here("sweep study.yaml")
    assert done(here("sweep study.yaml --dry-run")).out.splitlines() == [
        "study: 12 cells, 12 of them in the store"
    ]


def test_a_log_has_a_line_for_each_chunk(here: Dipsim) -> None:
    lines = [json.loads(line) for line in here("sweep study.yaml --log jsonl").err]
    assert [(line["done"], line["cells"], line["failed"], line["chunk"]) for line in lines] == [
        *((6, 12, 0, 6), (12, 12, 2, 6)),
    ]
    assert all(line["seconds"] > 0 and line["lost"] is None for line in lines)


def test_progress_says_what_is_done_running_failed_and_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("dipsim.cli.sweep.monotonic", lambda: now)
    cell, outcome = (
        Planned("key", {}, {}),
        Outcome(key="key", options={}, figures={}, seconds=1.0, semantics=1),
    )
    failed = replace(outcome, figures=None, why="impossible")
    progress = SweepProgress(lines=False)
    assert str(progress) == "preparing"
    progress.planned(20, [[cell] * 4] * 3, 2)
    assert str(progress) == "sweeping 8 of 20 cells, 8 running"
    now = 102.0
    progress.ran(Ran([cell] * 4, [outcome, outcome, outcome, failed]))
    assert str(progress) == "sweeping 12 of 20 cells, 8 running, 1 failed, 2/s, 4 s left"
    progress.ran(Ran([cell] * 4, (), "lost"))
    assert str(progress) == "sweeping 16 of 20 cells, 4 running, 5 failed, 4/s, 1 s left"


def test_progress_says_that_there_are_no_workers() -> None:
    progress = SweepProgress(lines=False)
    progress.waiting(True)
    assert str(progress) == "waiting for workers"
    progress.waiting(False)
    assert str(progress) == "preparing"
    progress.planned(20, [[Planned("key", {}, {})] * 4] * 3, 2)
    progress.waiting(True)
    assert str(progress) == "sweeping 8 of 20 cells, waiting for workers"


def test_the_schema_is_printed(here: Dipsim) -> None:
    assert done(here("sweep --schema")).json == schema()


def test_a_file_of_python_is_run_when_it_is_trusted(here: Dipsim) -> None:
    line = "sweep study.yaml -s policy=mine.py:policy -s method=dip"
    refused(here(line), "names the policy mine.py:policy, a file that would be run")
    done(here(f"{line} --trust-files"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sweep", "no sweep: dipsim sweep FILE"),
        ("sweep missing.yaml", "no such file"),
        ("sweep study.yaml --limit 11", "12 cells (2 x 3 x 2), at most 11"),
        (MANY, "--limit 108000"),
        ("sweep study.yaml -s polcy=lru", "did you mean policy?"),
        ("sweep study.yaml -s cache_fraction=2", "--cache-fraction"),
        ("sweep study.yaml --workers 0", "1 to 1024"),
        ("sweep study.yaml --log text", "use jsonl"),
        ("sweep study.yaml --store study.yaml", "not a dipsim store"),
        ("sweep study.yaml --store t.npz --dry-run", "not a dipsim store"),
        ("sweep study.yaml --store missing/x.db", "no such folder"),
        ("sweep t.npz", "cannot be read"),
    ],
)
def test_bad_input_ends_in_one_line(here: Dipsim, study: Path, line: str, said: str) -> None:
    refused(here(line), said)
    assert not study.with_suffix(".db").exists()


# dipsim results -----------------------------------------------------------------------------------


def test_results_are_filtered_and_the_best_are_chosen(swept: Dipsim) -> None:
    rows = done(swept("results study.db --where policy=lru,lfu --where cache_fraction=.6 --json"))
    assert [(row["method"], row["policy"]) for row in rows.json["rows"]] == [
        *(("dip", "lru"), ("dip", "lfu"), ("dip-ca", "lru"), ("dip-ca", "lfu")),
    ]
    repeated = "--where policy=lru --where policy=lfu --where cache_fraction=.6"
    assert done(swept(f"results study.db {repeated} --json")).json["rows"] == rows.json["rows"]
    (best,) = done(swept("results study.db --best tokens_per_second:1 --json")).json["rows"]
    everything = done(swept("results study.db --json")).json
    rates = [row["tokens_per_second"] for row in everything["rows"]]
    assert best["tokens_per_second"] == max(rate for rate in rates if rate is not None)
    (least,) = done(swept("results study.db --best flash_bytes_per_token:1 --json")).json["rows"]
    moved = [row["flash_bytes_per_token"] for row in everything["rows"] if not row["why"]]
    assert least["flash_bytes_per_token"] == min(moved)
    (sweep,) = everything["sweeps"]
    assert (sweep["cells"], sweep["done"], sweep["failed"]) == (12, 10, 2)


def test_a_pivot_is_a_table_of_two_axes(swept: Dipsim) -> None:
    line = "results study.db --where method=dip --pivot policy,cache_fraction,hit_rate"
    text = done(swept(line)).out.splitlines()
    assert text[0] == "hit_rate by policy and cache_fraction"
    assert text[1].split() == ["policy", "0.3", "0.6"]
    assert [row.split()[0] for row in text[2:]] == ["lru", "lfu", "opt"]
    rows = done(swept(f"{line} --json")).json["rows"]
    found = package.results("study.db")
    for row in rows:
        for share in (0.3, 0.6):
            same = found[(found.policy == row["policy"]) & (found.method == "dip")]
            (rate,) = same[same.cache_fraction == share].hit_rate
            assert row[f"cache_fraction={share}"] == rate


def test_what_failed_says_why(swept: Dipsim) -> None:
    out = " ".join(done(swept("results study.db --failed")).out.split())
    assert out.startswith("method=dip-ca, policy=opt, cache_fraction=0.3: policy opt must know")
    assert out.count("there is no policy-independent optimum") == 2
    assert done(swept("results study.db --failed --where method=dip")).out == "no cell failed\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("results missing.db", "no such store"),
        ("results study.yaml", "not a dipsim store"),
        ("results study.db --sweep stady", "no sweep 'stady': did you mean study?"),
        ("results study.db --where polcy=lru", "no option 'polcy': did you mean policy?"),
        ("results study.db --where policy", "write key=value"),
        (
            "results study.db --where policy=lru --where cache_fraction=.5",
            "no cell has cache_fraction=.5: there are 0.3, 0.6",
        ),
        ("results study.db --best hit_rte", "no figure 'hit_rte': did you mean hit_rate?"),
        ("results study.db --best hit_rate:x", "FIGURE:NUMBER"),
        ("results study.db --best hit_rate:0", "1 cell or more"),
        ("results study.db --columns hits_rate", "did you mean hit_rate?"),
        ("results study.db --pivot policy,hit_rate", "two axes and a figure"),
        ("results study.db --pivot policy,seed,hit_rate", "no axis 'seed'"),
        (
            "results study.db --pivot policy,cache_fraction,hit_rate",
            "cells differ in method too: choose one, e.g. --where method=dip-ca",
        ),
        ("results study.db --csv x.txt", "ends in .csv"),
        ("results study.db --parquet x.csv", "ends in .parquet"),
        ("results study.db --markdown x.txt", "ends in .md"),
    ],
)
def test_a_wrong_question_ends_in_one_line(swept: Dipsim, line: str, said: str) -> None:
    refused(swept(line), said)


def test_parquet_needs_an_extra(swept: Dipsim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    refused(swept("results study.db --parquet x.parquet"), "pip install 'dipsim[parquet]'")


def same(values: Any, others: Any) -> bool:
    """Tell whether two columns hold the same, None and nan alike."""
    blank = [None if value is None or value != value or value == "" else value for value in values]
    given = [None if value is None or value != value or value == "" else value for value in others]
    return blank == given


def test_files_come_back_through_pandas_and_polars(swept: Dipsim, study: Path) -> None:
    done(swept("results study.db --csv r.csv --parquet r.parquet --markdown r.md"))
    rows = report.records(package.analysis.results.load_results("study.db"))  # type: ignore[attr-defined]
    frames = [pd.read_csv("r.csv"), pd.read_parquet("r.parquet"), package.results("study.db")]
    for frame in (*frames, pl.read_csv("r.csv"), pl.read_parquet("r.parquet")):
        assert list(frame.columns) == list(rows[0])
        for name in frame.columns:
            assert same(list(frame[name]), [row[name] for row in rows]), name
    assert (
        list(frames[0].columns)[:5] == ["sweep", "method", "policy", "cache_fraction", *COLUMNS][:5]
    )
    with open("r.csv") as file:
        assert len(list(csv.reader(file))) == 13
    lines = Path("r.md").read_text().splitlines()
    assert len(lines) == 14
    assert {line.count(" | ") for line in lines} == {len(rows[0]) - 1}


def test_columns_are_those_that_are_named(swept: Dipsim) -> None:
    line = "results study.db --columns hit_rate,latency_ms.p99,groups --csv r.csv"
    head = done(swept(line)).out.splitlines()[0]
    assert head.split()[-4:] == ["cache_fraction", "hits", "latency_ms.p99", "groups"]


def test_results_of_nothing_are_a_table_of_nothing(here: Dipsim) -> None:
    with Store.open("empty.db", create=True):
        pass
    done(here("results empty.db --csv r.csv --markdown r.md --parquet r.parquet"))
    assert package.results("empty.db").shape == (0, 0)


def test_two_sweeps_stand_one_below_the_other(swept: Dipsim) -> None:
    swept("sweep study.yaml --store study.db -s name=later -s policy=[lru,arc] -s method=dip")
    text = done(swept("results study.db --where method=dip --where cache_fraction=.6")).out
    assert [row.split()[0] for row in text.splitlines()[1:6]] == [*["later"] * 2, *["study"] * 3]
    line = "results study.db --where method=dip --pivot policy,cache_fraction,hit_rate"
    text = done(swept(line)).out  # what both asked for is one cell
    assert [row.split()[0] for row in text.splitlines()[2:]] == ["lru", "arc", "lfu", "opt"]
    swept("sweep study.yaml --store study.db -s name=other -s density=.5")
    refused(swept(line), "cells differ in sweep too: choose one, e.g. --sweep other")


# Programs that are killed, and disks that are full ------------------------------------------------


def table(store: Path) -> Any:
    with Store.open(store) as opened:
        return [(cell.key, cell.place, cell.figures, cell.why) for cell in opened.cells()]


def survives(study: Path, kills: int, seed: int, more: str = "") -> None:
    """Kill a sweep so many times behind one of its chunks, let it end, and compare its store with
    that of an undisturbed one."""
    draw = random.Random(seed)
    line = f"sweep study.yaml --log jsonl {more}"
    for _ in range(kills):
        with subprocess.Popen(
            [*PROGRAM, *line.split()], stderr=subprocess.PIPE, cwd=study.parent
        ) as sweep:
            assert sweep.stderr is not None
            for _ in range(draw.randint(1, 3)):
                if not sweep.stderr.readline():
                    break
            for _ in range(draw.randint(0, 10**6)):  # somewhere in the next chunk
                pass
            sweep.kill()
    store, undisturbed = study.with_suffix(".db"), study.with_name("undisturbed.db")
    begun = len(table(store))
    assert begun > 0
    assert package.sweep(study, store).known == begun
    package.sweep(study, undisturbed)
    assert table(store) == table(undisturbed)
    assert len({cell[0] for cell in table(store)}) == len(table(store))


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_where_it_was(study: Path) -> None:
    study.write_text(f"{SMALL}seeds: 8\n")
    survives(study, kills=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_1000_cells_survive_20_kills(study: Path, workers: int) -> None:
    shares = [round(0.01 * i, 2) for i in range(1, 101)]
    study.write_text(
        "trace: t.npz\nprofile: phone.yaml\nmethod: [dip, dip-ca]\n"
        f"policy: [lru, lfu, arc, sieve, random]\ncache_fraction: {shares}\n"
    )
    survives(study, 20, seed=workers, more=f"--workers {workers}")
    assert len(table(study.with_suffix(".db"))) == 1000


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_the_sweep_goes_on_later(study: Path) -> None:
    study.write_text(SMALL.replace("[lru, lfu, opt]", "[lru, lfu]") + "seeds: 20\n")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    full = program("sweep study.yaml", cwd=study.parent, preexec_fn=limited)
    assert full.returncode == 2
    (line,) = full.stderr.splitlines()
    assert "the disk is full, or failed); the cells that are finished stay" in line
    kept = len(table(study.with_suffix(".db")))
    assert 0 < kept < 160
    again = package.sweep(study, study.with_suffix(".db"))
    assert (again.known, len(again.cells)) == (kept, 160)
    package.sweep(study, study.with_name("other.db"))
    assert table(study.with_suffix(".db")) == table(study.with_name("other.db"))


@pytest.mark.slow
def test_two_sweeps_at_once_are_what_one_after_the_other_is(study: Path) -> None:
    both, turns = study.with_name("both.db"), study.with_name("turns.db")
    changes = [{"name": "a", "seeds": 5}, {"name": "b", "seeds": 8}]
    line = "sweep study.yaml --store both.db -s name=a -s seeds=5"
    with subprocess.Popen([*PROGRAM, *line.split()], cwd=study.parent) as other:
        package.sweep(study, both, changes=changes[1])
    assert other.returncode == 3
    for each in changes:
        package.sweep(study, turns, changes=each)
    assert table(both) == table(turns)
    with Store.open(both) as store:
        assert [(each.name, each.cells) for each in store.sweeps()] == [("a", 60), ("b", 96)]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(study: Path, workers: int) -> None:
    study.write_text(f"{SMALL}seeds: 60\n")
    line = f"sweep study.yaml --log jsonl --workers {workers}"
    with subprocess.Popen(
        [*PROGRAM, *line.split()], cwd=study.parent, stderr=subprocess.PIPE, text=True
    ) as sweep:
        assert sweep.stderr is not None
        said = json.loads(sweep.stderr.readline())
        sweep.send_signal(2)
        rest = sweep.stderr.read().splitlines()
    assert sweep.returncode == 130
    assert rest[-1] == "dipsim: interrupted"
    assert len(table(study.with_suffix(".db"))) >= said["done"] > 0
