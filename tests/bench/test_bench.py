"""The benchmarks run, and their contenders count the same; nothing here looks at a clock."""

import os
from pathlib import Path

import bench_methods
import bench_replay
import bench_time
import bench_traces
import numpy as np
import pytest
import workload

TOKENS, UNITS = 24, 640


@pytest.fixture(scope="module")
def hits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """Hits by part and contender, on a tiny workload."""
    if not os.environ.get("CI"):  # in CI a missing libCacheSim is a failure
        pytest.importorskip("libcachesim", reason="needs libcachesim")
    folder = tmp_path_factory.mktemp("bench")
    parts = list(bench_replay.one_core_parts(TOKENS, UNITS, ("lru", "lfu"), folder, rounds=1))
    parts.append(bench_replay.threads(workload.scores(TOKENS, UNITS, layers=3), rounds=1))
    for rows in parts:
        bench_replay.show(rows)
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
    assert len(set(hits["dip-ca, lfu, 3 layers"].values())) == 1


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
    assert set(bench_time.LEAST) < set(found)
    bench_time.show(found)
    assert "x first" in capsys.readouterr().out


def test_ways_to_write_traces_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_traces, "UNITS", 64)
    found = list(bench_traces.measure(8, tmp_path, rounds=1))
    assert len({row.name for row in found}) == len(found) == 27
    assert all(row.size > 0 for row in found)
    bench_traces.show(found)
    assert "x savez" in capsys.readouterr().out


@pytest.mark.slow
def test_a_users_dip_ca_hits_the_same() -> None:
    (rows,) = bench_methods.parts(("lfu",), rounds=1, tokens="0:12")
    builtin, own = (row.hits for row in rows)
    assert own == builtin > 0


@pytest.mark.parametrize(
    ("name", "most"), [(bench_replay.USER_LRU, 20), (bench_methods.USER_DIP_CA, 25)]
)
def test_the_users_files_are_short(name: str, most: int) -> None:
    file = Path(name.rpartition(":")[0])
    assert len(file.read_text().splitlines()) <= most
