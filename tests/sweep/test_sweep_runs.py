"""Sweeps that run: their figures, what a store saves, and what befalls the processes."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import dipsim
from dipsim.errors import DipsimError
from dipsim.store import Store
from dipsim.sweep import sweep as sweeping
from dipsim.sweep import workers as working
from dipsim.sweep.chunk import run_chunk
from dipsim.sweep.execute import Ran, Serial, Watch
from dipsim.sweep.sweep import SweepResult
from tools.deadly import deadly

POLICIES = ["lru", "lfu-decay:half_life=4", "arc", "opt"]
GRID = {
    "trace": "t.npz",
    "profile": ["phone.yaml", "paper-a18", "snapdragon8"],
    "method": ["dip", "dip-ca", "glu"],
    "policy": POLICIES,
    "cache_fraction": [0.3, 0.6],
}
SMALL = {"trace": "t.npz", "profile": "phone.yaml", "policy": ["lru", "lfu", "arc"]}


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the chunks that are run in this process."""
    lengths: list[int] = []

    def counted(chunk: Any, inputs: Any) -> Any:
        lengths.append(len(chunk))
        return run_chunk(chunk, inputs)

    monkeypatch.setattr(sweeping, "Serial", lambda **more: Serial(counted, **more))
    return lengths


def table(result: SweepResult) -> list[Any]:
    """Return all that a sweep tells, without the time it took."""
    return [(cell.place, cell.options, cell.figures, cell.why, cell.marks) for cell in result.cells]


def alone(options: Any) -> Any:
    """Return the figures of a run as its JSON has them."""
    figures = json.loads(dipsim.simulate(**options).to_json())
    return {name: value for name, value in figures.items() if name not in ("config", "version")}


# Figures ------------------------------------------------------------------------------------------


def test_figures_are_those_of_single_runs_to_the_last_bit(store: Path) -> None:
    result = dipsim.sweep(GRID, store)
    failed = [cell for cell in result.cells if cell.figures is None]
    assert len(result.cells) == 72
    assert {cell.place["method"] for cell in failed} == {"dip-ca"}
    assert all("must know future sets" in str(cell.why) for cell in failed)
    assert result.failed == len(failed) == 6
    for cell in result.cells:
        if cell.figures is not None:
            assert alone(cell.options) == cell.figures, cell.place


@pytest.mark.parametrize(
    "more",
    [
        {"io": ["direct", "mmap"], "profile": "oneplus15r", "policy": None},
        {"io": ["direct", "buffered"], "profile": "oneplus15r", "overrides": "dram.available=1GB"},
        {"layout": [None, "permuted"], "allocate": ["even", "optimal"], "cache_fraction": 0.5},
        {"scope": ["layer", "global"], "access": ["atomic", "sequential"], "policy": "lru"},
        {"prefetch": [None, "previous"], "profile": ["phone.yaml", "paper-a18"]},
        {
            "prefetch": "right=.5",
            "prefetch_into": [None, "cache"],
            "policy": "lru",
            "prefetch_depth": [None, 2],
            "scope": ["layer", "global"],
            "cache_fraction": 0.5,
        },
        {
            "prefetch": "right=.5",
            "prefetch_into": "cache",
            "policy": ["lru", "s3fifo"],
            "prefetch_guard": [0.1, None, 1],
            "cache_fraction": 0.5,
        },
        {"overrides": ["flash.bandwidth=1GB/s", "flash.bandwidth=3GB/s", None], "method": "dip"},
        {"trace": "marked.npz", "kv_dram": ["50%", "auto"], "profile": "oneplus15r"},
        {"trace": ["t.npz", "marked.npz"], "tokens": ["0:6", None], "seeds": 2, "policy": "random"},
        {"trace": None, "model": "llama-3.2-1b", "method": "dense", "depth": [0, 64]},
        {"policy": ["mine.py:policy", "lru"], "cache_fraction": 0.5},
        {"policy": "static", "static_from": [None, "t.npz"], "warmup": 2, "cache_fraction": 0.5},
    ],
)
def test_other_options_too(store: Path, more: dict[str, Any]) -> None:
    result = dipsim.sweep({**SMALL, **more}, store, trust_files=True)
    done = [cell for cell in result.cells if cell.figures is not None]
    assert len(done) >= len(result.cells) / 2
    for cell in done:
        assert alone(cell.options) == cell.figures, cell.place


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_figures_do_not_depend_on_the_workers(store: Path, tmp_path: Path, workers: int) -> None:
    result = dipsim.sweep(GRID, store, workers=workers)
    assert table(result) == table(dipsim.sweep(GRID, tmp_path / "serial.db"))


# Stores -------------------------------------------------------------------------------------------


def test_what_is_in_the_store_is_never_run_again(store: Path, chunks: list[int]) -> None:
    first = dipsim.sweep(SMALL, store)
    assert (sum(chunks), first.known) == (3, 0)
    again = dipsim.sweep(SMALL, store)
    assert (sum(chunks), again.known) == (3, 3)
    assert table(first) == table(again)
    other = {**SMALL, "name": "other", "policy": ["arc", "sieve", "lru"], "seed": [0]}
    of_other = dipsim.sweep(other, store)
    assert (sum(chunks), of_other.known) == (4, 2)
    assert [cell.place["policy"] for cell in of_other.cells] == ["arc", "sieve", "lru"]
    with Store.open(store) as opened:
        assert [(each.name, each.cells) for each in opened.sweeps()] == [("other", 3), ("sweep", 3)]


def test_sweeps_of_one_store_are_what_each_is_alone(store: Path, tmp_path: Path) -> None:
    one, two = {**SMALL, "name": "one"}, {**SMALL, "name": "two", "policy": ["lfu", "sieve"]}
    together = [table(dipsim.sweep(each, store)) for each in (one, two)]
    apart = [table(dipsim.sweep(each, tmp_path / f"{each['name']}.db")) for each in (one, two)]
    assert together == apart


def test_a_failed_cell_is_run_again_when_asked(store: Path, chunks: list[int]) -> None:
    given = {**SMALL, "policy": ["lru", "opt"], "method": "dip-ca"}
    assert dipsim.sweep(given, store).failed == 1
    assert dipsim.sweep(given, store).failed == 1
    assert sum(chunks) == 2
    assert dipsim.sweep(given, store, retry_failed=True).failed == 1
    assert sum(chunks) == 3


def test_cells_that_all_fail_all_say_why(store: Path) -> None:
    result = dipsim.sweep({**SMALL, "tokens": ["0:99", "0:9999"], "policy": "lru"}, store)
    assert result.failed == 2
    assert all("99" in str(cell.why) for cell in result.cells)
    assert len({cell.why for cell in result.cells}) == 2


def test_options_that_exclude_each_other_fail_their_cell_alone(store: Path) -> None:
    given = {**SMALL, "policy": "lru", "batch": [None, 2], "speculate": [None, "draft=2,accept=.5"]}
    result = dipsim.sweep(given, store)
    assert [cell.why is None for cell in result.cells] == [True, True, True, False]
    assert "drop one of them" in str(result.cells[-1].why)
    assert result.cells[-1].place == {"batch": 2, "speculate": "draft=2,accept=.5"}
    assert dipsim.sweep(given, store).known == 4


# Interruptions ------------------------------------------------------------------------------------


class Stops(Watch):
    """Interrupts after some chunks."""

    def __init__(self, after: int) -> None:
        self.after, self.cells = after, 0

    def ran(self, ran: Ran) -> None:
        self.cells += len(ran.chunk)
        self.after -= 1
        if not self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_interruption_keeps_what_is_done(
    store: Path, tmp_path: Path, chunks: list[int], workers: int
) -> None:
    stops = Stops(2)
    with pytest.raises(KeyboardInterrupt):
        dipsim.sweep(GRID, store, workers=workers, watch=stops)
    del chunks[:]
    result = dipsim.sweep(GRID, store)
    assert result.known == stops.cells > 0
    assert sum(chunks) == 72 - stops.cells
    assert table(result) == table(dipsim.sweep(GRID, tmp_path / "undisturbed.db"))


# Workers that are lost ----------------------------------------------------------------------------


@pytest.mark.parametrize("deaths", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_worker_that_is_lost_is_replaced(store: Path, tmp_path: Path, deaths: int) -> None:
    (tmp_path / "deadly.py").write_text(deadly(tmp_path, deaths))
    given = {**GRID, "policy": ["lru", f"{tmp_path}/deadly.py:policy"], "method": "dip"}
    result = dipsim.sweep(given, store, workers=2, trust_files=True)
    assert (tmp_path / "deadly.losses").read_text() == "x" * deaths
    assert (len(result.cells), result.failed, result.lost) == (12, 0, [])
    assert table(result) == table(dipsim.sweep(given, tmp_path / "serial.db", trust_files=True))


@pytest.mark.slow
def test_a_chunk_that_is_lost_again_and_again_fails_alone(store: Path, tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(deadly(tmp_path, 99))
    given = {**SMALL, "policy": ["lru", "lfu", f"{tmp_path}/deadly.py:policy", "arc"]}
    given |= {"method": "dip", "cache_fraction": [0.3, 0.6]}
    result = dipsim.sweep(given, store, workers=2, trust_files=True)
    lost = [cell.place["policy"] for ran in result.lost for cell in ran.chunk]
    assert "deadly.py:policy" in lost
    assert result.failed == len(lost) == 8 - len(result.cells)
    assert all("was lost 3 times (signal 9)" in str(ran.lost) for ran in result.lost)
    assert {cell.place["policy"] for cell in result.cells} >= {"lru"}
    again = dipsim.sweep(given, store, trust_files=True)  # here it lives, and nothing was stored
    assert (again.known, again.failed, len(again.cells)) == (len(result.cells), 0, 8)


@pytest.mark.slow
def test_workers_that_cannot_begin_are_told(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "_work", os._exit)  # given a pipe, it fails at once
    with pytest.raises(DipsimError, match="--workers: processes end as they begin"):
        dipsim.sweep(SMALL, store, workers=2)


@pytest.mark.slow
def test_a_bug_in_a_worker_is_raised_with_its_place(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = working._Worker
    answers: Sequence[Any] = [("ready", None), ("bug", "Traceback: line 1")]
    told = iter(answers)
    monkeypatch.setattr(worker, "answer", lambda self: next(told))
    with pytest.raises(RuntimeError, match="a worker failed:\nTraceback: line 1"):
        dipsim.sweep(SMALL, store, workers=2)


@pytest.mark.parametrize("workers", [0, -1, 10**6, True, "2"])
def test_what_is_no_number_of_workers_is_refused(store: Path, workers: Any) -> None:
    with pytest.raises(DipsimError, match="workers"):
        dipsim.sweep(SMALL, store, workers=workers)
    assert not store.exists()
