"""Pictures of time: the timeline for ui.perfetto.dev, and latencies by cause."""

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim import simulate
from dipsim.errors import DipsimError
from dipsim.report import perfetto
from dipsim.report import run as report
from dipsim.report.files import MOST_TOKENS, check_timeline
from dipsim.report.pictures import Sheet
from dipsim.result import Result
from dipsim.run import Run, replay
from dipsim.simulate import prepare
from dipsim.timeline.excerpt import Excerpt, excerpt
from dipsim.timeline.timing import time_traffic
from tools import one_layer, three_layers
from tools.cli import Dipsim, done, refused

ENGINES: list[dict[str, Any]] = [
    {},
    {"engine": "closed"},
    {"engine": "events"},
    {"overlap": "serial"},
    {"overlap": "paper-serial"},
    {"overlap": "paper-concurrent"},
    {"prefetch": "right=.6"},
    {"prefetch": "previous", "cache": "600 B"},
    {"thermal": "sustained", "overrides": ["thermal.after=30s", "thermal.flash=.5"]},
    {"overrides": ["dram.background=900 B/s"]},
]


def replayed(**options: Any) -> tuple[Run, Result]:
    """A small run of two sequences with prompts."""
    given = {"group_density": {"mlp_input": 0.5, "glu": 0.4}, "cache": "900 B", "policy": "lru"}
    run = prepare(three_layers.scores(1, 16), three_layers.DEVICE, **{**given, **options})
    traffic = replay(run)
    return run, Result(run, traffic, time_traffic(run, traffic))


def seconds(result: Result) -> np.ndarray:
    return np.cumsum(result.timing.times.latency)


# The timeline -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_a_timeline_is_the_beginning_of_the_run(options: dict[str, Any]) -> None:
    """Tokens take as long as in the run, and what was busy moved the bytes they needed."""
    run, result = replayed(**options)
    shown = excerpt(run, result.traffic, 4)
    rows = np.flatnonzero(result.traffic.measured)
    assert shown.rows.tolist() == rows[:5].tolist()
    assert shown.begins[1:] == pytest.approx(seconds(result)[:4], rel=1e-9)
    traffic, four = result.traffic, rows[:4]
    late = [at for at in shown.spans if at.lane == "flash" and at.token < 4 and not at.early]
    assert sum(at.bytes for at in late) == pytest.approx(traffic.moved[four].sum())
    early = [at for at in shown.spans if at.early and at.token < 4]
    assert bool(early) == ("prefetch" in options)
    if traffic.ahead is not None:
        assert sum(at.bytes for at in early) == pytest.approx(traffic.ahead.moved[four].sum())
    # Whatever is drawn while a read goes on comes to its bytes.
    drawn = sum((at.end - at.start) * at.rate for at in shown.draws if at.reader == 0)
    cut = max(at.end for at in [*late, *early])
    begun = sum(at.bytes for at in shown.spans if at.lane == "flash" and at.start < cut)
    assert drawn == pytest.approx(begun)


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_more_tokens_begin_with_the_same_bars(options: dict[str, Any]) -> None:
    run, result = replayed(**options)
    short, long = (excerpt(run, result.traffic, tokens) for tokens in (2, 6))
    end = short.begins[-1]
    assert [at for at in short.spans if at.end <= end] == [at for at in long.spans if at.end <= end]
    assert any(at.token == 2 for at in short.spans) == ("prefetch" in options)


def complete(shown: Excerpt) -> list[dict[str, Any]]:
    return [event for event in perfetto.events(shown, "title") if event["ph"] == "X"]


def test_a_timeline_by_hand() -> None:
    # The second token of one_layer.SETS finds two units of 12 B in DRAM: .24 s. The third
    # misses one of them: 1.2 s of flash. They read KV of one and two positions, .16 s each.
    profile = one_layer.device(per_mask="0.5 s")
    options: dict[str, Any] = {"policy": "lru", "cache_fraction": 0.25, "overlap": "serial"}
    run = prepare(one_layer.trace(one_layer.SETS), profile, **options, warmup=1)
    shown = excerpt(run, replay(run), 5)
    bars = [
        (at["name"], at["cat"], at["tid"], at["ts"] / 1e6, at["dur"] / 1e6, at["args"]["token"])
        for at in complete(shown)
    ]
    # Static weights are 152 B: 64 of the head, 8 of the last norm, 80 of attention and norms.
    second = [
        ("layer 0 attention", "use", 3, 0, 0.8 + 0.16, 1),
        ("layer 0 glu", "use", 3, 0.96, 0.24, 1),
        ("sync", "sync", 3, 1.2, 0.5, 1),
        ("head", "use", 3, 1.7, 0.72, 1),
    ]
    third = [
        ("layer 0 attention", "use", 3, 2.42, 0.8 + 0.32, 2),
        ("layer 0 glu", "flash", 2, 3.54, 1.2, 2),
        ("layer 0 glu", "use", 3, 4.74, 0.24, 2),
        ("sync", "sync", 3, 4.98, 0.5, 2),
        ("head", "use", 3, 5.48, 0.72, 2),
    ]
    tokens = [("token 1", "token", 1, 0, 2.42, 1), ("token 2", "token", 1, 2.42, 3.78, 2)]
    assert sorted(bars) == [pytest.approx(at) for at in sorted([*tokens, *second, *third])]
    sizes = {(at["name"], at["cat"]): at["args"].get("bytes") for at in complete(shown)}
    assert sizes["layer 0 glu", "flash"] == pytest.approx(12)
    assert sizes["layer 0 glu", "use"] == pytest.approx(24)
    assert sizes["head", "use"] == pytest.approx(72)


def counted(events: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """(reader, bytes) of every stretch between two counter events."""
    counters = [event for event in events if event["ph"] == "C"]
    assert [set(event["args"]) for event in counters] == [set(perfetto.READERS)] * len(counters)
    for one, after in pairwise(counters):
        for reader, rate in one["args"].items():
            yield reader, rate * (after["ts"] - one["ts"]) / 1e6
    assert set(counters[-1]["args"].values()) == {0.0}


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_the_format(options: dict[str, Any]) -> None:
    run, result = replayed(**options)
    shown = excerpt(run, result.traffic, 4)
    events = list(perfetto.events(shown, "title"))
    assert json.loads(json.dumps(events, allow_nan=False)) == events
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {1: "token", 2: "flash", 3: "compute"}
    assert events[0]["name"] == "process_name"
    lanes = defaultdict(list)
    for event in events:
        assert event["pid"] == 1
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] > 0
            lanes[event["tid"]].append(event)
        else:
            assert event["ph"] in "MC"
    for bars in lanes.values():  # one after the other, to the nanosecond
        ends = [(round(1e3 * at["ts"]), round(1e3 * (at["ts"] + at["dur"]))) for at in bars]
        assert all(end <= start for (_, end), (start, _) in pairwise(ends))
    bytes_of = defaultdict(float)
    for reader, size in counted(events):
        bytes_of[reader] += size
    used = [at for at in shown.spans if at.lane == "compute"]
    assert bytes_of["weights and KV"] == pytest.approx(sum(at.bytes for at in used), rel=1e-6)
    copied = [at for at in shown.spans if at.lane == "management"]
    assert bytes_of["cache copies"] == pytest.approx(sum(at.bytes for at in copied), rel=1e-6)
    if "prefetch" not in options:  # then a read may go on behind the end
        reads = [at for at in shown.spans if at.lane == "flash"]
        assert bytes_of["flash DMA"] == pytest.approx(sum(at.bytes for at in reads), rel=1e-6)


def test_nobody_draws_more_than_there_is() -> None:
    run, result = replayed(overrides=["dram.background=900 B/s"])
    shown = excerpt(run, result.traffic, 4)
    drawn = [e["args"] for e in perfetto.events(shown, "") if e["ph"] == "C"]
    together = [(at["flash DMA"], at["weights and KV"]) for at in drawn if min(at.values()) == 0]
    both = [(flash, used) for flash, used in together if flash and used]
    assert both
    for flash, used in both:  # other programs come first, and leave 100 B/s
        assert flash + used == pytest.approx(100)


# The command line -------------------------------------------------------------------------------

RUN = "run t.npz --profile phone.yaml --cache-fraction .5"


def test_run_writes_a_timeline(dipsim: Dipsim, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    result = done(dipsim(f"{RUN} --timeline {file} --json"))
    assert result.err == []
    found = json.loads(file.read_text())
    tokens = [event for event in found["traceEvents"] if event.get("cat") == "token"]
    assert [event["args"]["token"] for event in tokens] == list(range(8))
    assert sum(event["dur"] for event in tokens) > 0
    assert found["traceEvents"][0]["args"]["name"] == "t with dip and lfu on phone"
    assert done(dipsim(f"{RUN} --json")).out == result.out  # it changes no figure
    done(dipsim(f"{RUN} --timeline {file} --timeline-tokens 20"))  # the trace has 12
    assert file.read_text().count('"cat": "token"') == 12


def test_a_closed_form_that_knows_no_contention_is_told(dipsim: Dipsim, tmp_path: Path) -> None:
    line = f"{RUN} -s dram.background=55GB/s --timeline {tmp_path / 'out.json'}"
    (said,) = done(dipsim(f"{line} --engine closed --json")).err
    assert "times as long as those of the figures" in said
    assert "--engine events" in said
    assert done(dipsim(f"{line} --json")).err == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--timeline out.json --timeline-tokens 10000000", ["1 to 1000", "--plot"]),
        ("--timeline out.json --timeline-tokens 0", ["1 to 1000"]),
        ("--timeline out.json --timeline-tokens -3", ["1 to 1000"]),
        ("--timeline-tokens 8", ["--timeline FILE.json"]),
        ("--timeline out.pb", ["out.pb", "ends in .json"]),
        ("--timeline no/such/out.json", ["no such folder"]),
        ("--plot out.gif", ["--plot out.gif", ".png"]),
    ],
)
def test_refused_before_the_replay(
    dipsim: Dipsim, options: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("it replays")

    monkeypatch.setattr("dipsim.replay.replay.replay_policies", too_late)
    monkeypatch.setattr("dipsim.run.replay_policies", too_late)
    before = set(Path().iterdir())
    refused(dipsim(f"{RUN} {options}"), *said)
    assert set(Path().iterdir()) == before


def test_the_most_tokens_are_allowed(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    assert check_timeline(file, MOST_TOKENS) == file
    assert check_timeline(None, None) is None
    (tmp_path / "is.json").mkdir()
    with pytest.raises(DipsimError, match="is a folder"):
        check_timeline(tmp_path / "is.json", None)


def test_a_timeline_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, result = replayed()
    shown = excerpt(run, result.traffic, 2)
    events = list(perfetto.events(shown, ""))

    def full(*_: object) -> Iterator[dict[str, Any]]:
        yield from events[:9]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(perfetto, "events", full)
    with pytest.raises(DipsimError, match="cannot be written") as problem:
        perfetto.write(shown, "", tmp_path / "out.json")
    assert "\n" not in str(problem.value)
    assert list(tmp_path.iterdir()) == []


# Latencies --------------------------------------------------------------------------------------


def test_bars_are_means() -> None:
    values = np.arange(14.0).reshape(7, 2)
    assert report.means_of(values, 3).tolist() == [[2, 3], [8, 9], [12, 13]]
    assert report.means_of(values, 1).tolist() == values.tolist()


def drawn(result: Result, path: Path) -> str:
    report.plot(result, Sheet(path))
    return path.read_text()


def test_the_picture_says_what_it_shows(tmp_path: Path) -> None:
    _, result = replayed()
    text = drawn(result, tmp_path / "p.svg")
    shares = {name: share for name, share in result.time_share.items() if share}
    assert set(shares) == {"flash", "dram", "sync"}
    for name, share in shares.items():
        assert f"<!-- {name} {share:.1%} -->" in text
    for label in (
        "latency (s)",
        "measured token",
        f"Latency of each token: {report.what_ran(result)}",
        "exposed time",
    ):
        assert f"<!-- {label} -->" in text
    assert "slowest" not in text
    assert "management" not in text


def test_many_tokens_share_bars(tmp_path: Path) -> None:
    sets = np.random.default_rng(0).random((10_000, 1, 8)) < 0.3
    arrays = {"glu": sets, "meta": {"model": one_layer.TINY}}
    result = simulate(arrays, one_layer.device(), policy="lru", cache_fraction=0.5)
    text = drawn(result, tmp_path / "p.svg")
    assert "<!-- measured token (bars: means of 50) -->" in text
    assert "<!-- slowest -->" in text
    assert len(text) < 300_000


def test_tokens_that_take_no_time_are_drawn(dipsim: Dipsim, tmp_path: Path) -> None:
    file = tmp_path / "p.png"
    assert dipsim(f"run idle.npz --profile paper-a18 --plot {file}").code == 0
    assert file.read_bytes().startswith(b"\x89PNG")


def test_run_draws(dipsim: Dipsim, tmp_path: Path) -> None:
    for suffix in (".png", ".svg", ".pdf"):
        file = tmp_path / f"latency{suffix}"
        done(dipsim(f"{RUN} --plot {file} --json"))
        assert file.stat().st_size > 1000
    assert "<!-- latency (ms) -->" in (tmp_path / "latency.svg").read_text()
