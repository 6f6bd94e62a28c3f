"""A replay's misses read from a file: the same reads as were reckoned with, and honest figures."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.disk import direct_io
from dipsim.disk import replayed as replayed_io
from dipsim.disk.direct_io import PAGE, Done, Readers
from dipsim.disk.fit import calibrated
from dipsim.disk.replayed import (
    Place,
    ReplayedIo,
    Wanted,
    _batches,
    layout,
    replay_io,
    scaled_to,
    validate_io,
)
from dipsim.errors import DipsimError
from dipsim.model import load_model
from dipsim.run import Run, replay
from dipsim.simulate import prepare
from tools.cli import invoke, refusal

READS = [
    {"size": size, "lanes": lanes, "bandwidth": f"{rate} MB/s"}
    for lanes, rates in ((1, (40, 400, 1200)), (4, (120, 900, 1500)))
    for size, rate in zip(("4 KiB", "64 KiB", "1 MiB"), rates, strict=True)
]
DEVICE = {
    "name": "disk",
    "dram": {"capacity": "8 GB", "bandwidth": "60 GB/s"},
    "flash": {"lanes": 4, "align": "4 KiB", "reads": READS},
    "compute": "unlimited",
}
CHAT: dict[str, Any] = {"tokens": "0:10", "cache_fraction": 0.5, "method": "dip", "policy": "lru"}


def chat(**options: Any) -> Run:
    return prepare("smollm2-chat", DEVICE, **{**CHAT, **options})


class Spy:
    """Stands for the threads: keeps what they were asked for, and takes a second each time."""

    def __init__(self, *_: Any) -> None:
        self.asked: list[list[tuple[int, int]]] = []

    def __enter__(self) -> "Spy":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def read(self, wanted: list[tuple[int, int]]) -> Done:
        self.asked.append(wanted)
        return Done(sum(size for _, size in wanted), len(wanted), 1.0)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    made = Spy()
    monkeypatch.setattr(replayed_io, "Readers", lambda *_: made)
    return made


class File:
    """A file as `replay_io` sees it."""

    name, direct, size = "f", True, 2**30


def found_by(run: Run, **more: Any) -> ReplayedIo:
    points = [replayed_io.Measured(4096, 1, 1e8), replayed_io.Measured(8192, 1, 1e8)]
    file: Any = File()
    return replay_io(run, file, calibrated(points, True), **more)


@pytest.mark.parametrize("single", [True, False])
def test_the_reads_are_those_the_replay_reckons_with(single: bool) -> None:
    quick = {"t0": "1 us", "bandwidth": "1 GB/s", "cap": "1 GB/s", "p": 2.0}
    fit = {"fit": {**quick, "sizes": ["4 KiB", "1 MiB"], "lanes": [1, 4]}}
    flash = {"lanes": 4, "align": "512 B", **fit} if single else DEVICE["flash"]
    run = prepare("smollm2-chat", {**DEVICE, "flash": flash}, **CHAT)
    traffic = replay(run, keep_missed=True)
    places = layout(run, 2**30, None)
    lanes = run.device.flash.lanes
    counted, whole = 0, 0
    for row in np.flatnonzero(traffic.measured):
        batches = list(_batches(run, traffic, int(row), places))
        numbers = [(layer, i) for layer, i in places if traffic.misses[row, layer, i]]
        assert len(batches) == len(numbers)
        for (runs, _), (layer, i) in zip(batches, numbers, strict=True):
            table = run.costs[layer][i]
            if traffic.moved[row, layer, i] == table.whole[1]:
                assert sum(units for _, units in runs) == run.method.groups[i].units
                whole += 1
                continue
            counted += 1
            assert len(runs) == traffic.reads[row, layer, i]
            lengths = [units for _, units in runs]
            moved = table.moved[lengths].sum()
            seconds = table.seconds[table.curve_of[min(len(runs), lanes)], lengths].sum()
            assert moved == pytest.approx(traffic.moved[row, layer, i])
            assert seconds == pytest.approx(traffic.flash_seconds[row, layer, i])
            misses = traffic.missed_units(int(row), layer, i)
            assert len(misses) == traffic.misses[row, layer, i]
            covered = np.concatenate([np.arange(first, first + n) for first, n in runs])
            assert set(misses) <= set(covered)
            assert {first for first, _ in runs} <= set(misses)  # none begins with a gap
    assert (counted if single else whole) > 100


def test_reads_by_hand(spy: Spy) -> None:
    # Eight neurons of 5000 B; the token misses 1, 2 and 6. Reads of up to 16 KiB take 1 s, so
    # neighbours join: pages of 5000 to 15000, and of 30000 to 35000.
    sets = np.zeros((8, 1, 8), np.bool_)
    sets[:, 0, [1, 2, 6]] = True
    trace = {"glu": sets, "meta": {"signals": {"glu": {"unit_bytes": 5000}}}}
    read = [{"size": "16 KiB", "lanes": 1, "bandwidth": "16 KiB/s"}]
    flash = {"align": "4 KiB", "reads": read}
    options: dict[str, Any] = {"policy": "none", "cache_fraction": 0.5}
    run = prepare(trace, {**DEVICE, "flash": flash}, **options)
    found = found_by(run)
    probe = [(size, len(batch)) for batch in spy.asked[:5] for size in {s for _, s in batch}]
    assert probe == [(4096 * 4**i, 4) for i in range(5)]  # 16 KiB take 1 s, 1 MiB 64 s
    assert spy.asked[5:12] == [[(4096, 12288), (28672, 8192)], *spy.asked[:5], spy.asked[5]]
    assert len(spy.asked) == 8 + 9 * 5
    assert found.pace.tolist() == pytest.approx([5 / (4 * (1 + 1 + 4 + 16 + 64))] * 8)
    assert found.reads.tolist() == [2] * 8
    assert found.predicted.tolist() == [2.0] * 8
    assert found.measured.tolist() == [1.0] * 8
    assert found.moved.tolist() == [12288 + 8192] * 8  # the offset in the first page is ignored
    assert found.read.tolist() == [12288 + 8192] * 8


def test_what_is_read_in_order_keeps_all_lanes_busy(spy: Spy) -> None:
    found = found_by(chat(method="dense", policy="lru", warmup=1), seconds=1e9)
    assert len(found.measured) == 9
    groups = [batch for batch in spy.asked if len({size for _, size in batch}) > 1]
    # A layer misses 768 of 1536 neurons of 1080 B: four lanes read a quarter of them each
    assert len(groups) == 9 * 30
    for batch in groups:
        ends = [offset + size for offset, size in batch]
        assert len(batch) == 4
        assert 768 * 1080 <= ends[-1] - batch[0][0] <= 768 * 1080 + 2 * PAGE
        assert all(0 <= end - at[0] <= PAGE for end, at in zip(ends, batch[1:], strict=False))


def test_every_read_lies_in_the_file_in_whole_pages(spy: Spy) -> None:
    run = scaled_to(chat(), load_model("phi-3-medium"))
    file: Any = File()
    file.size = 40 * 2**20  # much less than the layers take
    points = [replayed_io.Measured(4096, 1, 1e8), replayed_io.Measured(8192, 1, 1e8)]
    found = replay_io(run, file, calibrated(points, True), model=load_model("phi-3-medium"))
    reads = np.array([one for batch in spy.asked for one in batch])
    offsets, sizes = reads.T
    assert not (reads % PAGE).any()
    assert sizes.min() > 0
    assert (offsets + sizes).max() <= file.size
    assert len({int(at) // 2**20 for at in offsets}) > 20  # and all over it
    probed = sum(size for batch in spy.asked[:5] for _, size in batch)
    assert found.read.sum() == sizes.sum() - (len(found.read) + 1) * probed
    assert (found.read >= found.moved).mean() > 0.5


def test_layers_lie_where_the_model_puts_them() -> None:
    run, phi = chat(), load_model("phi-3-medium")
    scaled = scaled_to(run, phi)
    columns = scaled.unit_bytes[0].tolist()
    assert columns == [2 * 17920 * 4.5 / 8, 5120 * 4.5 / 8]
    places = layout(scaled, 4 * 10**9 // PAGE * PAGE, phi)
    assert places[0, 0] == Place(0, columns[0], columns[0])
    first = -(-576 * int(columns[0]) // PAGE) * PAGE
    assert places[0, 1].base == first
    pitch = phi.attention_bytes + phi.mlp_bytes
    assert places[1, 0].base == int(pitch) // PAGE * PAGE
    # Thirty layers of 161 MB wrap around 4 GB
    assert places[29, 0].base == int(29 * pitch) // PAGE * PAGE % (4 * 10**9 // PAGE * PAGE)


def test_scaling_keeps_what_the_caches_hold() -> None:
    run = chat()
    scaled = scaled_to(run, load_model("phi-3-medium"))
    plain, large = (replay(each) for each in (run, scaled))
    np.testing.assert_array_equal(plain.hits, large.hits)
    assert large.moved.sum() > 5 * plain.moved.sum()


def test_the_predictors_judge_what_they_have_not_seen() -> None:
    points = [replayed_io.Measured(4096, 1, 1e8), replayed_io.Measured(8192, 1, 1e8)]
    size = np.arange(1.0, 9.0)
    measured = 2 * size + 1
    found = ReplayedIo(
        file="f", direct=True, lanes=1, calibrated=calibrated(points, True),
        predicted=1.1 * measured, measured=measured, moved=size, read=size,
        reads=np.ones(8, np.int64), pace=np.full(8, 2.0),
    )  # fmt: skip
    ours, paced, constant, line = found.judged()
    assert paced.bias == pytest.approx(1.2)
    assert found.to_dict()["median_error_at_pace"] == pytest.approx(1.2)
    assert (ours.median, ours.bias) == pytest.approx((0.1, 0.1))
    # the first half measured 3, 5, 7, 9: its median is 6; the second 11, 13, 15, 17
    assert constant.bias == pytest.approx(np.median([6 / 11, 6 / 13, 6 / 15, 6 / 17]) - 1)
    assert constant.median == pytest.approx(-constant.bias)
    assert line.median == pytest.approx(0, abs=1e-9)


def test_no_token_begins_behind_the_limit(spy: Spy) -> None:
    found = found_by(chat(), seconds=1.0)  # each group takes a second
    assert len(found.measured) == replayed_io.LEAST_TOKENS
    assert len(found.predicted) == len(found.reads) == replayed_io.LEAST_TOKENS
    assert len(found_by(chat(), seconds=1e9).measured) == 10


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tokens": "0:4"}, "4 tokens to measure: give at least 8"),
        ({"method": "dense", "cache_fraction": 1.0, "warmup": 1}, "some tokens miss nothing"),
    ],
)
def test_replays_that_cannot_be_timed(spy: Spy, options: dict[str, Any], told: str) -> None:
    with pytest.raises(DipsimError, match=told):
        found_by(chat(**options))
    assert spy.asked == []


def test_models_that_do_not_fit() -> None:
    with pytest.raises(DipsimError, match="it has experts, unlike what mlp_input chooses"):
        scaled_to(chat(), load_model("mixtral-8x7b"))
    with pytest.raises(DipsimError, match="give --cache-fraction"):
        scaled_to(chat(cache_fraction=None, cache="20 MB"), load_model("phi-3-medium"))
    with pytest.raises(DipsimError, match="use --scope layer"):
        scaled_to(chat(scope="global"), load_model("phi-3-medium"))
    with pytest.raises(DipsimError, match=r"takes .* a layer, the file holds"):
        layout(scaled_to(chat(), load_model("phi-3-medium")), 2**20, None)


@pytest.mark.slow
def test_a_file_that_was_made_is_gone_and_one_that_was_there_stays(tmp_path: Path) -> None:
    wanted = Wanted(str(tmp_path / "made"), file_size=2**25, bench_seconds=0.1, seconds=0.2)
    said: list[str] = []
    found = validate_io("smollm2-chat", "paper-a18", wanted, said.append, **CHAT)
    assert list(tmp_path.iterdir()) == []
    assert len(said) == 2
    assert (found.measured > 0).all()
    assert (found.predicted > 0).all()
    assert (found.pace > 0).all()
    there = tmp_path / "there"
    there.write_bytes(os.urandom(2**25))
    before = there.stat().st_mtime_ns
    wanted = replace(wanted, path=str(there), fit=True, scale_to="llama-3.2-1b")
    found = validate_io("smollm2-chat", "paper-a18", wanted, **CHAT)
    assert "fit" in found.calibrated.flash
    assert there.stat().st_mtime_ns == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whatever_ends_it_the_file_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Readers, "read", broken)
    with pytest.raises(error):
        validate_io(
            "smollm2-chat", "paper-a18", Wanted(str(tmp_path / "made"), file_size=2**25), **CHAT
        )
    assert list(tmp_path.iterdir()) == []


def test_wrong_input_is_refused_before_the_disk_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(replayed_io, "made_file", touched)
    path = str(tmp_path / "made")
    for wanted, options, told in (
        (Wanted(path), {"density": 7}, "density"),
        (Wanted(path, lanes=0), {}, "--lanes 0"),
        (Wanted(path, bench_seconds=float("nan")), {}, "--bench-seconds"),
        (Wanted(path, file_size=5e9), {}, "--file-size"),
        (Wanted(path, scale_to="nobody"), {}, "no model 'nobody'"),
        (Wanted(path, scale_to="mixtral-8x7b"), {}, "it has experts"),
    ):
        with pytest.raises(DipsimError, match=told):
            validate_io("smollm2-chat", "paper-a18", wanted, **{**CHAT, **options})


def test_files_that_are_too_small(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(os.urandom(100_000))
    with pytest.raises(DipsimError, match="too few to measure reads"):
        validate_io("smollm2-chat", "paper-a18", Wanted(str(small)), **CHAT)


def test_the_command(tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = ["validate", "--replay", "smollm2-chat", str(made), "--file-size", "32MiB"]
    more = ["--bench-seconds", ".1", "--tokens", "0:8"]
    shown = invoke(*command, *more)
    assert "flash time of 8 tokens" in shown.stdout
    assert "a line in bytes of the first half" in shown.stdout
    figures = json.loads(invoke(*command, *more, "--json").stdout)
    assert len(figures["measured_ms"]) == 8
    assert figures["median_error"] >= 0
    assert not made.exists()
    for wrong, told in (
        (["validate", str(made)], "is for dipsim validate --replay TRACE FILE"),
        (["validate", "--lanes", "2"], "--lanes: is for dipsim validate --replay TRACE FILE"),
        (["validate", "--policy", "lru"], "--policy: is for dipsim validate --replay TRACE FILE"),
        (["validate", "--replay", "smollm2-chat"], "give a file on the disk to read"),
        ([*command, "--page", "page.md"], "--page is about published measurements"),
        ([*command[:-1], "32"], "--file-size '32' has no unit"),
        ([*command, "--cache-fraction", "7"], "--cache-fraction"),
    ):
        assert told in refusal(*wrong)


def test_a_short_trace_is_replayed_whole(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random((20, 2, 64), np.float32)
    meta = json.dumps({"signals": {"glu": {"unit_bytes": 4096, "slices": ["down"]}}})
    sequence = np.repeat(np.arange(2, dtype=np.int32), 10)
    np.savez(tmp_path / "short.npz", glu=scores, sequence=sequence, meta=np.array(meta))
    command = ["validate", "--replay", str(tmp_path / "short.npz"), str(tmp_path / "made")]
    more = ["--file-size", "32MiB", "--bench-seconds", ".1", "--json"]
    for options, tokens in (([], 20), (["--sequence", "1:2"], 10)):
        done = invoke(*command, *more, *options)
        assert len(json.loads(done.stdout)["measured_ms"]) == tokens


def test_buffered_reads_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "_FLAG", 0)
    command = ["validate", "--replay", "smollm2-chat", str(tmp_path / "made")]
    more = ["--file-size", "32MiB", "--bench-seconds", ".1", "--tokens", "0:8"]
    done = invoke(*command, *more)
    assert "BUFFERED reads" in done.stdout
    assert "no direct reads" in done.stderr
