"""Verdicts on a run, worked out by hand, and the cliff of a global lru, by brute force."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from dipsim.analysis import baseline
from dipsim.analysis.baseline import replay_held
from dipsim.analysis.cliff import cliff_warning, find_cliff
from dipsim.analysis.compare import Watch, compare
from dipsim.analysis.verdict import Verdict
from dipsim.errors import DipsimError
from dipsim.policies import BUILTIN
from dipsim.run import Run
from dipsim.simulate import prepare
from dipsim.trace import Trace, load_trace
from tools.cli import Dipsim, done
from tools.replays import replay_all

KEYS = {
    "accesses", "misses", "first_uses", "unavoidable", "lost", "admission", "admission_misses",
}  # fmt: skip
TIMES = {"optimum_rate", "admission_rate", "policys_time"}
RATES = ("rate", "optimum_rate", "admission_rate")
BYTES = 1000
"""Of a unit."""


def trace_of(sets: np.ndarray, unit_bytes: Any = BYTES, **marks: Any) -> Trace:
    meta = {"signals": {"glu": {"unit_bytes": unit_bytes}}}
    return load_trace({"glu": sets, "meta": meta, **marks})


def tokens_of(*active: Any, units: int = 4) -> np.ndarray:
    """bool[tokens, 1, units]: the units of each token."""
    sets = np.zeros((len(active), 1, units), np.bool_)
    for token, these in enumerate(active):
        sets[token, 0, list(these)] = True
    return sets


def judged(trace: Trace, policy: str, cached: int, **options: Any) -> Verdict:
    """The verdict on a run with a cache of so many units."""
    run = prepare(trace, "snapdragon8", policy=policy, cache=f"{cached * BYTES}B", **options)
    found = replay_held(run)[1].verdict
    assert found is not None
    return found


# The counts ---------------------------------------------------------------------------------------

CYCLE = tokens_of([0], [1], [2], [0], [1], [2])
"""In two places lru hits nothing; the optimum keeps 0 and 1, and hits each once more."""
SCAN = tokens_of([0], [0], [0], [1], [0], [2], [0], [3], [0])
"""One place: forced, 1, 2 and 3 each push 0 out; by its count 0 stays."""


@pytest.mark.parametrize(
    ("sets", "policy", "cached", "counts"),
    [
        # accesses, misses, first uses, unavoidable, the other admission and what misses with it
        (CYCLE, "lru", 2, (6, 6, 3, 4, "ranked", 6)),
        (CYCLE, "mru", 2, (6, 4, 3, 4, "ranked", 4)),
        (CYCLE, "none", 2, (6, 6, 3, 4, None, None)),
        (CYCLE, "clock", 2, (6, 6, 3, 4, None, None)),
        (CYCLE, "opt", 2, (6, 4, 3, 4, None, None)),
        (CYCLE, "belady", 2, (6, 4, 3, 4, None, None)),
        (CYCLE, "lru", 3, (6, 3, 3, 3, "ranked", 3)),
        (CYCLE, "lru", 0, (6, 6, 3, 6, "ranked", 6)),
        (SCAN, "lfu", 1, (9, 7, 4, 4, "ranked", 4)),
        (SCAN, "lfu-decay", 1, (9, 4, 4, 4, "forced", 7)),
        (SCAN, "lru", 1, (9, 7, 4, 4, "ranked", 7)),
        (tokens_of([0, 1], [1, 2], [0, 1], [1]), "lru", 2, (7, 4, 3, 3, "ranked", 4)),
        (tokens_of([], [], []), "lru", 2, (0, 0, 0, 0, "ranked", 0)),
    ],
)
def test_the_counts_by_hand(sets: np.ndarray, policy: str, cached: int, counts: Any) -> None:
    found = judged(trace_of(sets), policy, cached)
    first = ("accesses", "misses", "first_uses", "unavoidable", "admission", "admission_misses")
    assert tuple(getattr(found, key) for key in first) == counts
    assert found.lost == counts[1] - counts[3]
    assert found.gained == (0 if counts[5] is None else counts[1] - counts[5])


def test_two_caches_are_added_up() -> None:
    both = np.concatenate([CYCLE, CYCLE], axis=1)
    found = judged(trace_of(both), "lru", 4)
    assert (found.accesses, found.misses, found.first_uses, found.unavoidable) == (12, 12, 6, 8)


@pytest.mark.parametrize("warmup", [0, 2, 5])
def test_warm_up_counts_too(warmup: int) -> None:
    found = judged(trace_of(CYCLE), "lru", 2, warmup=warmup)
    assert (found.accesses, found.misses, found.first_uses, found.unavoidable) == (6, 6, 3, 4)


def test_prefill_counts_when_it_is_cached() -> None:
    phase = np.array([0, 0, 0, 1, 1, 1], np.uint8)
    trace = trace_of(CYCLE, phase=phase)
    streamed = judged(trace, "lru", 2, prefill="stream")
    assert (streamed.accesses, streamed.misses, streamed.first_uses) == (3, 3, 3)
    cached = judged(trace, "lru", 2, prefill="cache")  # one batch of 0, 1, 2, of which two stay
    assert (cached.accesses, cached.misses, cached.first_uses) == (6, 4, 3)
    assert cached.unavoidable == 4


def test_resets_count_first_uses_anew() -> None:
    sequence = np.array([0, 0, 0, 1, 1, 1], np.int32)
    found = judged(trace_of(CYCLE, sequence=sequence), "lru", 2, reset="sequence")
    assert (found.accesses, found.misses, found.first_uses, found.unavoidable) == (6, 6, 6, 6)


def test_a_run_of_the_other_admission_says_the_opposite(dipsim: Dipsim) -> None:
    line = "run t.npz --profile snapdragon8 --cache-fraction 0.8 --warmup 3 --json --policy"
    for name, policy in BUILTIN.items():
        found = done(dipsim(f"{line} {name}")).json["verdict"]
        has_other = policy.ranks and policy.admit != "never" and not policy.future
        assert (found["admission"] is not None) is has_other
        if not has_other:
            continue
        other = done(dipsim(f"{line} {name} --admission {found['admission']}")).json["verdict"]
        assert other["misses"] == found["admission_misses"]
        assert other["admission_misses"] == found["misses"]
        assert {found["admission"], other["admission"]} == {"forced", "ranked"}
        assert other["unavoidable"] == found["unavoidable"]


# In words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (Verdict(6, 0, 3, 0, None, None), "no misses"),
        (Verdict(0, 0, 0, 0, "ranked", 0), "no misses"),
        (
            Verdict(6, 4, 3, 4, None, None),
            "of 100 misses 100 are unavoidable in this much DRAM (75 are first uses). The working "
            "set is to blame, not the policy",
        ),
        (
            Verdict(100, 50, 5, 10, None, None),
            "of 100 misses 20 are unavoidable in this much DRAM (10 are first uses), 80 are the "
            "policy's. Mostly the policy is to blame",
        ),
        (
            Verdict(9, 7, 4, 4, "ranked", 4),
            "of 100 misses 57 are unavoidable in this much DRAM (57 are first uses), 43 are the "
            "policy's; ranked admission would avoid 43. Mostly the working set is to blame",
        ),
        (
            Verdict(20, 10, 2, 6, "forced", 13),
            "of 100 misses 60 are unavoidable in this much DRAM (20 are first uses), 40 are the "
            "policy's; forced admission would add 30. Mostly the working set is to blame",
        ),
        (
            Verdict(1000, 500, 0, 200, "ranked", 499),
            "of 100 misses 40 are unavoidable in this much DRAM (0 are first uses), 60 are the "
            "policy's. Mostly the policy is to blame",
        ),
    ],
)
def test_the_sentence(found: Verdict, sentence: str) -> None:
    assert found.sentence == sentence


@pytest.mark.parametrize(
    ("rates", "admission", "share", "sentence"),
    [
        (
            (1.67, 2.85, None),
            None,
            1 - 1.67 / 2.85,
            "with the optimum 2.85 tok/s instead of 1.67: 41% of the time is the policy's",
        ),
        (
            (2.0, 2.5, 4.0),  # fewest misses are not always fastest
            "ranked",
            0.5,
            "with ranked admission 4 tok/s instead of 2: 50% of the time is the policy's",
        ),
        (
            (2.0, 2.005, 1.0),
            "forced",
            1 - 2 / 2.005,
            "with the optimum it would be no faster: the working set is to blame, not the policy",
        ),
        (
            (2.0, 1.5, None),
            None,
            1 - 2 / 1.5,
            "with the optimum it would be no faster: the working set is to blame, not the policy",
        ),
        (
            (float("inf"), float("inf"), None),
            None,
            0.0,
            "with the optimum it would be no faster: the working set is to blame, not the policy",
        ),
    ],
)
def test_the_verdict_blames_by_time_where_it_is_known(
    rates: Any, admission: str | None, share: float, sentence: str
) -> None:
    found = Verdict(100, 50, 5, 40, admission, None if admission is None else 60, False, *rates)
    assert found.policys_time == pytest.approx(share)
    assert found.sentence == sentence
    assert "of 100 misses 80 are unavoidable" in found.counts


def by_misses(trace: Trace, policy: str, cached: int) -> str:
    found = judged(trace, policy, cached)
    return replace(found, rate=None, optimum_rate=None, admission_rate=None).sentence


def test_the_sentences_of_hand_made_runs() -> None:
    assert "not the policy" in by_misses(trace_of(CYCLE), "mru", 2)
    assert "67 are unavoidable" in by_misses(trace_of(CYCLE), "lru", 2)
    again = tokens_of(*[[0], [1]] * 5)
    assert by_misses(trace_of(again), "none", 2).endswith("Mostly the policy is to blame")
    assert "ranked admission would avoid 43" in by_misses(trace_of(SCAN), "lfu", 1)
    assert judged(trace_of(tokens_of([], [])), "lru", 2).sentence == "no misses"
    assert judged(trace_of(again), "static", 2).sentence == "no misses"


def test_one_that_starts_full_is_not_held_against_the_optimum() -> None:
    found = judged(trace_of(SCAN), "static", 1)  # it holds 0 from the start
    assert (found.misses, found.unavoidable) == (3, 4)
    assert found.lost == -1
    assert "100 misses" not in found.sentence
    assert "starts full" in found.sentence


def test_the_run_prints_the_verdict(dipsim: Dipsim) -> None:
    line = "run t.npz --profile snapdragon8 --cache-fraction 0.6 --policy lru"
    found = done(dipsim(f"{line} --json")).json
    said = found["verdict"]
    lost = said.pop("lost")
    rates = found["tokens_per_second"], found["baselines"]["optimum"]["rate"]
    other = found["tried"][0]["rate"]
    verdict = Verdict(**{key: said[key] for key in said if key in KEYS})
    assert verdict.lost == lost > 0
    verdict = replace(verdict, **dict(zip(RATES, (*rates, other), strict=True)))
    assert {key: getattr(verdict, key) for key in TIMES} == {key: said[key] for key in TIMES}
    details = " ".join(done(dipsim(f"{line} --details")).out.split())
    assert verdict.sentence in details
    assert verdict.counts[1:] in details


# In JSON ------------------------------------------------------------------------------------------


def test_the_json_of_a_run_has_the_verdict(dipsim: Dipsim) -> None:
    line = "run t.npz --profile snapdragon8 --cache-fraction 0.6 --policy lru --json"
    found = done(dipsim(line)).json
    assert set(found["verdict"]) == KEYS | TIMES
    assert found["verdict"]["accesses"] == found["accesses"]
    assert found["verdict"]["misses"] == found["accesses"] - found["hits"]
    measured = done(dipsim(f"{line} --warmup 5")).json
    assert all(measured["verdict"][key] == found["verdict"][key] for key in KEYS)
    assert measured["accesses"] < found["accesses"]


@pytest.mark.parametrize(
    "options",
    [
        "--method dip-ca",
        "--scope global",
        "--access sequential",
        "--scope global --access sequential",
    ],
)
def test_where_there_is_no_optimum_there_is_no_verdict(dipsim: Dipsim, options: str) -> None:
    line = f"run t.npz --profile snapdragon8 --cache-fraction 0.9 {options}"
    assert done(dipsim(f"{line} --json")).json["verdict"] is None
    assert "unavoidable" not in done(dipsim(line)).out


def test_a_long_trace_is_not_judged_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(trace_of(CYCLE), "snapdragon8", policy="lru", cache="2kB")
    monkeypatch.setattr(baseline, "MOST", 6)
    result, standing = replay_held(run)
    assert standing.verdict is not None
    assert standing.optimum is not None
    for name, most in (("MOST", 5), ("HELD_BYTES", run.sets.packed_bytes - 1)):
        with monkeypatch.context() as patch:
            patch.setattr(baseline, name, most)
            again, standing = replay_held(run)
        assert (standing.verdict, standing.optimum, standing.trials) == (None, None, ())
        np.testing.assert_array_equal(again.traffic.hits, result.traffic.hits)


# The cliff ----------------------------------------------------------------------------------------


def global_run(trace: Trace, cache: float, policy: str = "lru", **options: Any) -> Run:
    given = {"policy": policy, "scope": "global", **options}
    return prepare(trace, "snapdragon8", cache=f"{cache}B", **given)


def global_hits(trace: Trace, sizes: list[float], policy: str = "lru") -> list[int]:
    """Hits of one global cache of each size, over all tokens."""
    run = global_run(trace, sizes[0], policy)
    found = replay_all(
        run.trace, run.method, run.policy, sizes, run.settings, unit_bytes=run.unit_bytes
    )
    return [int(traffic.hits.sum()) for traffic in found]


def stated(trace: Trace) -> float:
    """The bytes below which a global lru hits nothing, as `find_cliff` has them."""
    found = find_cliff(global_run(trace, 1))
    assert found is not None
    return found.edge


def check_warnings(trace: Trace, sizes: list[float]) -> tuple[int, int]:
    """Where it is said that lru hits nothing, it does; how often it is said, and how often not
    although it is so."""
    warned = missed = 0
    run = global_run(trace, 1)
    cliff = find_cliff(run)
    for size, hits in zip(sizes, global_hits(trace, sizes), strict=True):
        said = cliff_warning(replace(run, budget=replace(run.budget, cache=size)), cliff)
        if said is not None:
            assert hits == 0, f"{hits} hits in {size} bytes: {said}"
            warned += 1
        else:
            missed += hits == 0
    return warned, missed


def warning(run: Run) -> str | None:
    return cliff_warning(run, find_cliff(run))


@pytest.mark.parametrize("seed", range(12))
def test_below_the_cliff_lru_hits_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, layers, units = rng.integers(2, 12), rng.integers(1, 6), rng.integers(1, 20)
    sets = rng.random((tokens, layers, units)) < rng.uniform(0.3, 0.9)
    sets[..., 0] = True  # no batch is empty
    sizes = [float(BYTES * n) for n in range(layers * units + 1)]
    warned, _ = check_warnings(trace_of(sets), sizes)
    assert warned >= 1
    edge = stated(trace_of(sets))
    assert warned == sum(size < edge for size in sizes)


@pytest.mark.parametrize("seed", range(12))
def test_at_the_cliff_it_hits_when_every_token_is_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers, units = int(rng.integers(1, 6)), int(rng.integers(2, 20))
    now = rng.random((layers, units)) < rng.uniform(0.2, 0.9)
    now[:, 0] = True
    trace = trace_of(np.repeat(now[None], 4, axis=0))
    cycle, largest = int(now.sum()), int(now.sum(axis=1).max())
    edge = stated(trace)
    assert edge == BYTES * (cycle - largest + 1)
    sizes = [float(BYTES * n) for n in range(1, layers * units + 1)]
    hits = global_hits(trace, sizes)
    assert [count > 0 for count in hits] == [size >= edge for size in sizes]
    assert hits[-1] == 3 * cycle
    assert check_warnings(trace, sizes) == (sum(size < edge for size in sizes), 0)


@pytest.mark.parametrize("prompt", [slice(0, 3), slice(2, 4), slice(1, 5)])
def test_blocks_of_prompt_alone_do_not_move_the_cliff(
    prompt: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipsim.trace.trace._BLOCK_BYTES", 1)  # a block for every token
    sets = np.random.default_rng(1).random((6, 2, 9)) < 0.6
    phase = np.ones(len(sets), np.uint8)
    phase[prompt] = 0
    generated = trace_of(sets[phase == 1])
    assert stated(trace_of(sets, phase=phase)) == stated(generated)


@pytest.mark.parametrize("seed", range(8))
def test_units_of_different_sizes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers, units = int(rng.integers(2, 6)), int(rng.integers(2, 16))
    sets = rng.random((8, layers, units)) < rng.uniform(0.3, 0.9)
    sets[..., 0] = True
    each = [float(size) for size in rng.choice([100, 400, 700, 3000], layers)]
    trace = trace_of(sets, each)
    sizes = [float(size) for size in np.linspace(50, units * sum(each), 60).round()]
    check_warnings(trace, sizes)


@pytest.mark.parametrize("seed", range(12))
def test_layers_that_are_idle_at_times(seed: int) -> None:
    """Between two uses of a unit its layer may need nothing for some tokens."""
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(2, 5))
    sets = rng.random((14, layers, 12)) < rng.uniform(0.2, 0.9, (1, layers, 1))
    sets &= rng.random((14, layers, 1)) < 0.5
    sizes = [float(BYTES * n) for n in range(layers * 12 + 1)]
    check_warnings(trace_of(sets), sizes)


def test_a_unit_that_rests_for_a_token_comes_back() -> None:
    sets = np.zeros((7, 2, 12), np.bool_)
    sets[:4, 0, :5] = True
    sets[:4, 1, :10] = True
    sets[4, 0, 0] = sets[6, 0, 0] = True  # alone, and nobody comes in between
    assert global_hits(trace_of(sets), [1000.0, 3000.0]) == [1, 1]
    check_warnings(trace_of(sets), [1000.0, 3000.0])


def test_where_nothing_is_used_twice_there_is_no_cliff() -> None:
    assert find_cliff(global_run(trace_of(np.zeros((3, 2, 5), np.bool_)), 1000)) is None
    assert find_cliff(global_run(trace_of(np.ones((1, 2, 5), np.bool_)), 1000)) is None


ALIKE = np.ones((5, 3, 8), np.bool_)
"""A cycle of 24 units in batches of 8: the cliff is at 17."""


@pytest.mark.parametrize(
    ("options", "cache"),
    [
        ({"policy": "lfu"}, 10_000),
        ({"policy": "mru"}, 10_000),
        ({"policy": "fifo"}, 10_000),
        ({"scope": "layer"}, 10_000),
        ({"admission": "ranked"}, 10_000),
        ({}, 17_000),
        ({}, 24_000),
    ],
)
def test_only_a_small_global_lru_is_warned_about(options: dict[str, Any], cache: int) -> None:
    trace = trace_of(ALIKE)
    assert warning(global_run(trace, 16_999)) is not None
    assert warning(global_run(trace, cache, **options)) is None
    if options:
        assert find_cliff(global_run(trace, cache, **options)) is None


def test_the_warning_names_the_sizes() -> None:
    said = warning(global_run(trace_of(ALIKE), 10_000))
    assert said is not None
    for text in ("10 kB", "hits exactly nothing", "24 kB", "17 kB", "--scope layer"):
        assert text in said


def warnings_of(dipsim: Dipsim, line: str) -> list[str]:
    return [text for text in done(dipsim(line)).err if "hits exactly nothing" in text]


SHIPPED = "smollm2-chat --tokens 0:8 --profile snapdragon8 --cache-fraction 0.5"


def test_a_run_into_the_cliff_is_warned_about(dipsim: Dipsim) -> None:
    line = f"run {SHIPPED} --policy lru --scope global --json"
    found = done(dipsim(line))
    assert found.json["hits"] == 0
    assert len(warnings_of(dipsim, line)) == 1


@pytest.mark.parametrize(
    "options",
    [
        "--policy lfu --scope global",
        "--policy lru",
        "--policy lru --scope global --admission ranked",
        "--policy lru --scope global --method dip-ca",
        "--policy lru --scope global --cache-fraction 1",
    ],
)
def test_other_runs_are_not(dipsim: Dipsim, options: str) -> None:
    line = SHIPPED.replace("--cache-fraction 0.5", "") if "fraction" in options else SHIPPED
    assert warnings_of(dipsim, f"run {line} {options}") == []


def test_the_warning_comes_before_the_run(dipsim: Dipsim, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise DipsimError("the run began")

    for module in ("dipsim.run", "dipsim.sweep.passes"):
        monkeypatch.setattr(import_module(module), "replay_policies", stop)
    for command in ("run", "compare"):
        found = dipsim(f"{command} {SHIPPED} --policy lru --scope global")
        assert found.code == 2
        warned, stopped = found.err
        assert "hits exactly nothing" in warned
        assert stopped == "dipsim: the run began"


class Heard(Watch):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, text: str) -> None:
        self.warnings.append(text)


def test_a_comparison_warns_for_each_budget_below_the_cliff() -> None:
    heard = Heard()
    sizes = ["5kB", "16kB", "17kB", "24kB"]
    options: dict[str, Any] = {"scope": "global", "watch": heard}
    found = compare(trace_of(ALIKE), "snapdragon8", ["lru", "lfu"], cache=sizes, **options)
    assert len(heard.warnings) == 2
    assert ["5 kB" in heard.warnings[0], "16 kB" in heard.warnings[1]] == [True, True]
    hits = {
        cell.place["budget"]: cell.number("hit_rate")
        for cell in found.cells
        if cell.place["policy"] == "lru"
    }
    assert [hits[f"cache={size}"] > 0 for size in sizes] == [False, False, True, True]


def test_a_comparison_without_lru_does_not(dipsim: Dipsim) -> None:
    line = f"compare {SHIPPED} --scope global"
    assert warnings_of(dipsim, f"{line} --policy lfu --policy belady") == []
    assert len(warnings_of(dipsim, line)) == 1  # lru is among the usual ones
