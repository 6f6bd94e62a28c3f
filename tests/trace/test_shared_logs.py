"""Real logs of experts, and small logs that once failed, against figures worked out elsewhere."""

import json
import runpy
import subprocess
import sys
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest

import dipsim
from dipsim.trace import Trace, load_trace
from dipsim.trace.encoding import unpack_sets
from tools.paths import ROOT, SHARED, VALIDATION

LOGS, CASES = SHARED / "traces", SHARED / "cases"
KIMI, OLMOE = LOGS / "kimi-linear-300.jsonl", LOGS / "olmoe-299.jsonl"
needs_logs = pytest.mark.skipif(not KIMI.exists(), reason="the shared logs are not here")
needs_cases = pytest.mark.skipif(not CASES.exists(), reason="the shared cases are not here")
SLOTS = (201, 402, 805, 1610, 3221, 6442)
PUBLISHED = (29.4, 40.6, 54.9, 71.9)
"""Hits per hundred of the engine warp's own simulation, at the first four of these."""
GLOBAL = {
    "lru": (4.1, 41.5, 57.2, 72.1, 86.4, 91.9),
    "lfu": (29.6, 40.7, 54.5, 70.8, 87.1, 91.9),
    "belady": (50.9, 63.6, 74.7, 84.5, 91.0, 91.9),
}


def hit_pct(trace: Path | Trace, policy: str, slots: int, **options: object) -> float:
    result = dipsim.simulate(
        trace,
        "snapdragon8",
        policy=policy,
        cache=f"{slots} MB",
        unit_bytes="1 MB",
        **options,  # type: ignore[arg-type]
    ).to_dict()
    return 100 * result["hits"] / result["accesses"]


@needs_logs
@pytest.mark.parametrize("policy", GLOBAL)
def test_one_cache_for_all_layers_of_kimi_linear(policy: str) -> None:
    trace = load_trace(KIMI)
    for slots, expected in zip(SLOTS, GLOBAL[policy], strict=True):
        assert hit_pct(trace, policy, slots, scope="global") == pytest.approx(expected, abs=0.05001)


@needs_logs
@pytest.mark.slow
def test_sampled_lfru_meets_what_an_engine_publishes_and_count_over_age_does_not() -> None:
    trace = load_trace(KIMI)
    for slots, expected in zip(SLOTS, PUBLISHED, strict=False):
        sampled = [
            hit_pct(trace, "lfru-sampled:power=0", slots, scope="global", seed=seed)
            for seed in range(20)
        ]
        assert np.mean(sampled) == pytest.approx(expected, abs=0.25)
        assert hit_pct(trace, "lfru", slots, scope="global") > expected + 1.5


@needs_logs
@pytest.mark.slow
def test_the_table_of_policies_is_what_the_script_counts() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "tables" / "policies.py"))
    page = (ROOT / "docs/policies.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines()]
    (head,) = [row for row in rows if row[:2] == ["log", "cache"]]
    assert [cell.strip("`") for cell in head[2:]] == [*script["POLICIES"]]
    logs = {"Kimi-Linear": KIMI, "OLMoE": OLMOE, "Qwen3-30B-A3B": VALIDATION / "qwen.route.csv"}
    for name, path in logs.items():
        trace = load_trace(path)
        (row,) = [row for row in rows if row[:2] == [name, "10%"]]
        for policy, shown in zip(script["POLICIES"], row[2:], strict=True):
            if not policy.startswith("lfru-sampled"):  # twenty runs each
                assert f"{script['hit_pct'](trace, policy, 0.1):.1f}" == shown


@needs_logs
@pytest.mark.parametrize("log", [KIMI, OLMOE], ids=["kimi-linear", "olmoe"])
def test_a_real_log_counts_the_same_directly_and_imported(log: Path, tmp_path: Path) -> None:
    imported = dipsim.import_(log, tmp_path / "t.npz")
    rows = [json.loads(line)["layers"] for line in log.read_text().splitlines()]
    assert (imported.tokens, imported.layers) == (len(rows), len(rows[0]))
    (words,) = (part["expert"] for _, _, part in imported.blocks({"expert": "sets"}))
    sets = unpack_sets(words, imported.signals["expert"].units)
    assert [[np.flatnonzero(layer).tolist() for layer in token] for token in sets] == rows
    for policy in ("lru", "lfu", "belady"):
        both = [hit_pct(one, policy, 800, scope="global") for one in (log, imported)]
        assert both[0] == both[1]


@needs_logs
def test_an_lru_per_layer_of_a_real_log_against_a_dictionary() -> None:
    rows = [json.loads(line)["layers"] for line in OLMOE.read_text().splitlines()]
    hits: Counter[str] = Counter()
    for layer in range(len(rows[0])):
        cache: OrderedDict[int, None] = OrderedDict()
        for token in rows:
            used = sorted(token[layer])
            hits["hit"] += sum(expert in cache for expert in used)
            hits["all"] += len(used)
            for expert in used:  # booked as used in ascending order, then the oldest leave
                cache.pop(expert, None)
                cache[expert] = None
            while len(cache) > 24:
                cache.popitem(last=False)
    result = dipsim.simulate(
        OLMOE, "snapdragon8", policy="lru", cache_fraction=24 / 64, unit_bytes="1 MB"
    ).to_dict()
    assert (result["hits"], result["accesses"]) == (hits["hit"], hits["all"])


# Cases --------------------------------------------------------------------------------------------


@needs_cases
@pytest.mark.parametrize(
    ("name", "tokens", "layers"),
    [
        ("f12-ok.csv", 12, 3),
        ("f12-dropped-column.csv", 12, 3),
        ("f14-dense-first.csv", 12, 2),
        ("f16-speculative.csv", 10, 3),
    ],
)
def test_a_phones_log_that_failed_is_read(
    name: str, tokens: int, layers: int, tmp_path: Path
) -> None:
    trace = dipsim.import_(CASES / name, tmp_path / "t.npz")
    assert (trace.tokens, trace.layers) == (tokens, layers)
    (words,) = (part["expert"] for _, _, part in trace.blocks({"expert": "sets"}))
    decode = trace.phase == 1
    assert (np.bitwise_count(words[decode]).sum(axis=-1) == 2).all()
    assert sum(trace.meta["dense_bytes"]) == 5_400_000
    assert dipsim.simulate(trace, "oneplus15r", cache_fraction=0.5).to_dict()["accesses"] > 0


@needs_cases
def test_ids_as_engines_return_them_are_sets(tmp_path: Path) -> None:
    subprocess.run([sys.executable, CASES / "f23.py"], cwd=tmp_path, check=True)
    ids = np.load(tmp_path / "f23-out.npz")["routed_experts"]
    trace = dipsim.import_(
        tmp_path / "f23-out.npz", tmp_path / "t.npz", names={"expert": "routed_experts"}
    )
    (words,) = (part["expert"] for _, _, part in trace.blocks({"expert": "sets"}))
    sets = unpack_sets(words, 16)
    assert sets.sum() == ids.size
    assert np.take_along_axis(sets, ids.astype(np.int64), axis=2).all()


# Guesses that stay (docs/time.md) ----------------------------------------------------------------

LOOK_AHEAD = {
    # slots: hits in percent, MB a token and tokens/s without guesses, and at .3, .6 and .9
    156: ((0.0, 208.7, 9.2), (25.0, 365.2, 8.8), (62.5, 287.0, 12.1), (87.5, 234.8, 14.8)),
    402: ((41.5, 122.1, 13.7), (55.8, 272.7, 11.9), (77.9, 197.3, 16.0), (92.5, 147.2, 20.6)),
}


def with_guesses(trace: Path | Trace, slots: int, **options: object) -> dipsim.Result:
    """Run one LRU of all layers."""
    return dipsim.simulate(
        trace,
        "snapdragon8",
        policy="lru",
        cache=f"{slots} MB",
        unit_bytes="1 MB",
        scope="global",
        **options,  # type: ignore[arg-type]
    )


@needs_logs
@pytest.mark.slow
@pytest.mark.parametrize("slots", LOOK_AHEAD)
def test_look_ahead_on_kimi_linear(slots: int) -> None:
    trace = load_trace(KIMI)
    for right, expected in zip((None, 0.3, 0.6, 0.9), LOOK_AHEAD[slots], strict=True):
        ahead = {"prefetch": f"right={right}", "prefetch_into": "cache"}
        found = with_guesses(trace, slots, **({} if right is None else ahead))
        megabytes = found.flash_bytes_per_token / 1e6
        figures = 100 * found.unit_hit_rate, megabytes, found.tokens_per_second
        assert figures == pytest.approx(expected, abs=0.05001)


@needs_logs
@pytest.mark.slow
@pytest.mark.parametrize("recall", [0.25, 0.625, 0.875])
def test_guesses_that_a_log_holds_do_as_drawn_ones(recall: float, tmp_path: Path) -> None:
    """A log with guesses, made of the real one, of which as many of 8 are right."""
    rng, lines = np.random.default_rng(0), []
    weights = " ".join(["0.125"] * 8)
    for row in KIMI.read_text().splitlines():
        token = json.loads(row)
        for layer, ids in enumerate(token["layers"]):
            right = rng.permutation(ids)[: round(8 * recall)].tolist()
            wrong = rng.permutation(sorted({*range(256)} - {*ids}))[: 8 - len(right)].tolist()
            numbers = [token["tok"], layer, *ids]
            lines.append(" ".join(map(str, [*numbers, weights, *right, *wrong])))
    (tmp_path / "dump.txt").write_text("\n".join(lines) + "\n")
    trace = dipsim.import_(tmp_path / "dump.txt", tmp_path / "t.npz")
    guesses = str(tmp_path / "t.guesses.npz")
    for slots in LOOK_AHEAD:
        how = {"prefetch_into": "cache"}
        held = with_guesses(trace, slots, prefetch=guesses, **how)
        drawn = with_guesses(trace, slots, prefetch=f"right={recall}", **how)
        assert held.unit_hit_rate == pytest.approx(drawn.unit_hit_rate, abs=0.005)
        assert held.prefetch is not None
        assert drawn.prefetch is not None
        assert held.prefetch["issued"] == pytest.approx(drawn.prefetch["issued"], rel=0.01)
