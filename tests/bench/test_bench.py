"""The benchmarks run, and their contenders count the same; nothing here looks at a clock."""

import json
import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

import bench_all
import bench_kv
import bench_methods
import bench_policies
import bench_replay
import bench_time
import bench_traces
import history
import machine
import numpy as np
import pytest
import turns
import workload

TOKENS, UNITS = 24, 640


@pytest.fixture(scope="module")
def hits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """Hits by part and contender, on a tiny workload."""
    if not os.environ.get("CI"):  # in CI a missing libCacheSim is a failure
        pytest.importorskip("libcachesim", reason="needs libcachesim")
    folder = tmp_path_factory.mktemp("bench")
    names = ("lru", "lfu")
    parts = [part(1) for part in bench_replay.one_core_parts(TOKENS, UNITS, names, folder)]
    scores = workload.scores(TOKENS, UNITS, layers=bench_replay.LAYERS)
    parts.append(bench_replay.threads(scores, rounds=1))
    for rows in parts:
        turns.show(rows)
    ratios = turns.ratios((row for rows in parts for row in rows), bench_replay.HELD)
    assert set(ratios) == set(bench_replay.HELD)
    return {rows[0].part: {row.name: row.hits for row in rows} for rows in parts}


def test_the_workload_is_what_it_says() -> None:
    sets, scores = workload.active_sets(64, UNITS), workload.scores(64, UNITS)
    assert (sets.sum(axis=-1) == workload.ACTIVE * UNITS).all()
    assert workload.overlap(sets) == pytest.approx(workload.OVERLAP, abs=0.002)
    top = workload.largest_half(scores)
    assert (top.sum(axis=-1) == workload.ACTIVE * UNITS).all()
    assert workload.overlap(top) == pytest.approx(workload.OVERLAP, abs=0.01)
    np.testing.assert_array_equal(sets, workload.active_sets(64, UNITS))


@pytest.mark.slow
def test_libcachesim_hits_nearly_as_often(hits: dict[str, dict[str, int]]) -> None:
    bits, plain, *others = hits["lru over recorded sets"].values()
    accesses = TOKENS * workload.ACTIVE * UNITS
    assert bits == plain
    assert len(others) == 2
    for other in others:
        assert other / accesses == pytest.approx(bits / accesses, abs=0.06)


@pytest.mark.slow
def test_numpy_hits_the_same(hits: dict[str, dict[str, int]]) -> None:
    counts = hits["dip-ca, lfu"]
    assert counts["numpy"] == counts["dipsim"] > 0


@pytest.mark.slow
def test_selections_choose_as_many(hits: dict[str, dict[str, int]]) -> None:
    assert set(hits["dip-ca, selection"].values()) == {TOKENS * UNITS // 2}


@pytest.mark.slow
def test_a_users_lru_hits_the_same(hits: dict[str, dict[str, int]]) -> None:
    assert len(set(hits["a user's own policy"].values())) == 1


@pytest.mark.slow
def test_encodings_hit_nearly_the_same(hits: dict[str, dict[str, int]]) -> None:
    float32, *others = hits["dip-ca, lfu, by encoding"].values()
    assert others == pytest.approx([float32] * 2, rel=0.01)


@pytest.mark.slow
def test_threads_hit_the_same(hits: dict[str, dict[str, int]]) -> None:
    one, two, *hashes = hits[bench_replay.THREADS].values()
    assert one == two > 0
    assert hashes == [1, 1]


def test_dram_is_short_where_the_benchmark_says_so() -> None:
    steps = bench_time.chain(2)
    shared, free = (
        bench_time.simulate_events(steps, 2, "pipelined", 0.45, machine).times
        for machine in (bench_time.SHARED, bench_time.FREE)
    )
    closed = bench_time.token_times(steps, 2, "pipelined", 0.45, True)
    np.testing.assert_allclose(free.exposed, closed.exposed, rtol=1e-9)
    assert (shared.latency > 1.001 * free.latency).all()
    assert len(steps) == 97


def test_the_engines_of_time_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench_time.measure(1, 10, rounds=1)
    assert all(ratio > 0 for ratio in bench_time.ratios(found).values())
    bench_time.show(found)
    assert "x first" in capsys.readouterr().out


@pytest.mark.usefixtures("fitted_once")
def test_ways_to_write_traces_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_traces, "UNITS", 64)
    found = list(bench_traces.measure(8, tmp_path, rounds=1))
    assert len({row.name for row in found}) == len(found) == 27
    assert all(row.size > 0 for row in found)
    bench_traces.show(found)
    assert "x savez" in capsys.readouterr().out
    read = list(bench_traces.passes(8, tmp_path, rounds=1))
    assert [row.encoding for row in read] == ["float16", "log8", "bool"]
    assert all(row.deflated > 0 for row in read)
    bench_traces.show_passes(read)
    assert "x stored" in capsys.readouterr().out


@pytest.mark.slow
def test_a_users_dip_ca_hits_the_same() -> None:
    builtin, own = (row.hits for row in bench_methods.part("lfu", rounds=1, tokens="0:12"))
    assert own == builtin > 0


@pytest.mark.parametrize(
    ("name", "most"), [(bench_replay.USER_LRU, 20), (bench_methods.USER_DIP_CA, 25)]
)
def test_the_users_files_are_short(name: str, most: int) -> None:
    file = Path(name.rpartition(":")[0])
    assert len(file.read_text().splitlines()) <= most


RECORDED = {"ours x theirs": 10.0, "mine x yours": 2.0}
HERE = machine.Machine("a processor", "x86-64", "avx2", 256, 2, {"numpy": "2"})


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A history with two records of a benchmark and one of another."""
    monkeypatch.setattr(history, "FOLDER", tmp_path)
    history.record("bench", HERE, {"ours x theirs": 99})
    history.record("bench", HERE, RECORDED)
    history.record("another", HERE, {"ours x theirs": 99})
    return tmp_path


def unasked(names: Iterable[str]) -> history.Ratios:
    raise AssertionError(f"measured {', '.join(names)} once more")


@pytest.mark.usefixtures("recorded")
def test_19_percent_below_the_newest_record_passes() -> None:
    now = {name: 0.81 * before for name, before in RECORDED.items()}
    assert history.check("bench", "x86-64-avx2", now, unasked) is None


@pytest.mark.usefixtures("recorded")
def test_21_percent_below_fails_when_it_happens_twice() -> None:
    asked = []

    def again(names: Iterable[str]) -> history.Ratios:
        asked.append(list(names))
        return {"ours x theirs": 7.91}

    failed = history.check("bench", "x86-64-avx2", RECORDED | {"ours x theirs": 7.9}, again)
    assert failed == "bench on x86-64-avx2: ours x theirs is 7.91, was 10"
    assert asked == [["ours x theirs"]]


@pytest.mark.usefixtures("recorded")
def test_one_slow_moment_passes() -> None:
    now = RECORDED | {"ours x theirs": 5.0}
    assert history.check("bench", "x86-64-avx2", now, lambda _: {"ours x theirs": 9.0}) is None
    assert now["ours x theirs"] == 9


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(("bench", "of"), [("bench", "arm64-neon"), ("new", "x86-64-avx2")])
def test_without_a_record_anything_passes(
    bench: str, of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert history.check(bench, of, {"ours x theirs": 0.1}, unasked) is None
    assert f"no {bench} of {of} is recorded" in capsys.readouterr().out


@pytest.mark.usefixtures("recorded")
def test_a_missing_ratio_is_named() -> None:
    failed = history.check("bench", "x86-64-avx2", {"ours x theirs": 10.0}, lambda _: {})
    assert failed is not None
    assert "mine x yours is recorded (2) but was not measured" in failed


def test_a_record_is_a_line_that_tells_where_it_was_made(recorded: Path) -> None:
    (file,) = recorded.iterdir()
    assert file.name == "x86-64-avx2.jsonl"
    line = json.loads(file.read_text().splitlines()[1])
    assert line["ratios"] == RECORDED
    assert line["machine"] == ("a processor: x86-64-avx2, vectors of 256 bits, 2 cores; numpy 2")
    assert set(line) == {"date", "commit", "bench", "machine", "ratios"}


@pytest.mark.parametrize(
    ("architecture", "features", "vectors"),
    [
        ("x86-64", {"avx512f": True, "avx2": True}, ("avx512", 512)),
        ("x86-64", {"avx512f": False, "avx2": True}, ("avx2", 256)),
        ("x86-64", {"sse2": True}, ("sse", 128)),
        ("arm64", {}, ("neon", 128)),
        ("riscv64", {}, ("any", 64)),
    ],
)
def test_vectors_of_a_processor(
    architecture: str, features: dict[str, bool], vectors: tuple[str, int]
) -> None:
    assert machine.vectors_of(architecture, features) == vectors


def test_this_machine_has_a_class() -> None:
    here = machine.this_machine()
    assert here.processor
    assert here.cores >= 1
    assert f"{here.name}, vectors of {here.width} bits" in str(here)


def test_ratios_are_those_of_yardsticks_measured_beside() -> None:
    times = {"ours": 0.5, "theirs": 12.0}
    rows = [turns.Row("p", name, "access", 1, 1.0, time, 1.0, 0) for name, time in times.items()]
    held = {
        "a": turns.Ratio("p", "ours", "theirs"),
        "not measured": turns.Ratio("p", "ours", "another's"),
        "of another part": turns.Ratio("q", "ours", "theirs"),
    }
    assert turns.ratios(rows, held) == {"a": 24}


def test_what_falls_short_is_measured_once_more_in_its_part_alone(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "this_machine", lambda: HERE)
    calls = []

    def part(name: str, first: float, then: float) -> turns.Part:
        def measured(rounds: int) -> list[turns.Row]:
            calls.append((name, rounds))
            time = first if rounds == 2 else then
            contenders = (("ours", 1.0), ("theirs", time))
            return [turns.Row(name, each, "access", 1, 1.0, x, 1.0, 0) for each, x in contenders]

        return measured

    held = {
        "ours x theirs": turns.Ratio("p", "ours", "theirs"),
        "mine x yours": turns.Ratio("q", "ours", "theirs"),
    }
    given = Namespace(quick=False, check=True, record=False, json=tmp_path / "figures.json")
    parts = [part("p", 5, 9), part("q", 2, 2)]
    assert turns.run("bench", given, parts, 2, held) is None
    assert calls == [("p", 2), ("q", 2), ("p", 6)]
    assert json.loads(given.json.read_text())["figures"] == {"ours x theirs": 9, "mine x yours": 2}


def test_kv_eviction_is_measured(tmp_path: Path) -> None:
    bench_kv.timed(24, 8, str(tmp_path / "figures.json"))
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["decisions"] == (24 - 8) * bench_kv.LAYERS * bench_kv.KV_HEADS
    goals = json.loads((bench_all.HERE / "goals.json").read_text())["bench_kv"]
    assert set(goals) <= {*figures, "memory, MB"}
    assert all(figure > 0 for figure in figures.values())


def test_goals_are_of_figures_that_benchmarks_find() -> None:
    goals = json.loads((bench_all.HERE / "goals.json").read_text())
    replay = {*bench_replay.HELD, *bench_replay.SHOWN, *bench_replay.RATES}
    assert set(goals["bench_replay"]) <= replay
    assert set(goals["bench_policies"]) <= set(bench_policies.HELD)
    assert all((bench_all.HERE / f"{bench}.py").exists() for bench in goals)


def test_the_table_of_goals_tells_what_is_missed() -> None:
    goals = {"bench": {"a": {"least": 2.0}, "b": {"most": 3.0}, "c": {"least": 1.0}}}
    lines = bench_all.table({"bench": {"a": 1.9, "b": 2.5}}, goals)
    assert [line.split()[1:] for line in lines[1:]] == [
        ["a", "1.9", ">=", "2", "missed"],
        ["b", "2.5", "<=", "3"],
        ["c", "-", ">=", "1", "not", "measured"],
    ]
