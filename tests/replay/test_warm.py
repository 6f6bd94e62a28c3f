"""Caches that start with the most used units of a profile, against the naive twin."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dipsim
from dipsim.analysis.verdict import contenders
from dipsim.errors import DipsimError
from dipsim.methods import build_method
from dipsim.policies import BUILTIN, Policy
from dipsim.replay.replay import replay_policy
from dipsim.settings import Settings
from dipsim.simulate import prepare
from dipsim.trace import load_trace
from naive import replay as naive
from tools.replays import replay

TOKENS, LAYERS, UNITS, HELD = 30, 2, 70, 31
ONLINE = [
    name
    for name, policy in BUILTIN.items()
    if policy.admit != "never" and not policy.future and not policy.preload
]
FIRST = [64 * -(-UNITS // 64) * layer for layer in range(LAYERS)]
"""Id of the first unit of each layer in one cache for all."""
WARM = Settings(warm_from="elsewhere", prefill="stream")


def sets_of(seed: int) -> np.ndarray:
    """bool[tokens, layers, units], some units more popular than others."""
    rng = np.random.default_rng(seed)
    return rng.random((TOKENS, LAYERS, UNITS)) < rng.random((LAYERS, UNITS)) ** 2


def counted(sets: np.ndarray, policy: Policy, capacity: Any, settings: Settings) -> list[Any]:
    """Hits, kept and misses of every token and layer, of caches filled by other uses."""
    trace = load_trace({"glu": sets})
    method = build_method(trace, Settings(method="recorded"))
    more = {} if settings.scope == "layer" else {"unit_bytes": np.ones((LAYERS, 1))}
    found = replay(trace, method, policy, capacity, settings, profile_uses=[uses()], **more)
    return np.stack([found.hits, found.kept, found.misses], axis=-1)[:, :, 0].tolist()


def uses() -> np.ndarray:
    """int64[layers, units] on another trace; there are ties."""
    return sets_of(99).sum(axis=0).astype(np.int64)


def figures(rows: Sequence[naive.Row]) -> list[list[int]]:
    return [[row.hits, row.kept, len(row.missed)] for row in rows]


@pytest.mark.parametrize(
    ("policy", "reset"),
    [
        *((policy, "never") for policy in (*ONLINE, "static", "pinned")),
        *((policy, "sequence") for policy in ("lru", "arc", "pinned")),
    ],
)
def test_a_cache_per_layer_equals_the_twin(policy: str, reset: Any) -> None:
    sets = sets_of(1)
    sequence = np.repeat([0, 1], [12, TOKENS - 12])
    plan = WARM.model_copy(update={"reset": reset})
    trace = load_trace({"glu": sets, "sequence": sequence})
    method = build_method(trace, Settings(method="recorded"))
    found = replay(
        trace, method, BUILTIN[policy], np.full((LAYERS, 1), HELD), plan, profile_uses=[uses()]
    )
    for layer in range(LAYERS):
        most = sorted(range(UNITS), key=lambda unit: (-uses()[layer, unit], unit))
        rows = naive.replay(
            [set(np.flatnonzero(row).tolist()) for row in sets[:, layer]],
            UNITS,
            HELD,
            policy,
            layer=layer,
            resets=[12] if reset == "sequence" else [],
            pinned=most[:HELD],
            warm=most[:HELD],
        )
        own = np.stack([found.hits, found.kept, found.misses], axis=-1)[:, layer, 0]
        assert own.tolist() == figures(rows)


@pytest.mark.parametrize("policy", ONLINE)
def test_one_cache_for_all_equals_the_twin(policy: str) -> None:
    sets, capacity = sets_of(2), 57
    ids = [(layer, unit) for layer in range(LAYERS) for unit in range(UNITS)]
    most = sorted(ids, key=lambda at: (-uses()[at], at))[:capacity]
    in_batches = {"lfu-decay": "half_life", "window": "window", "lru-heat": "window"}
    in_batches |= {"lru-throttled": "window"}
    given = {**BUILTIN[policy].parameters}
    if policy in in_batches:
        given[in_batches[policy]] *= LAYERS
    if policy in ("lfru", "lfru-sampled", "least-stale"):
        given["ticks"] = LAYERS
    given.pop("eager", None)
    rows = naive.replay_global(
        [
            {FIRST[layer] + unit for unit in np.flatnonzero(row[layer]).tolist()}
            for row in sets
            for layer in range(LAYERS)
        ],
        {FIRST[layer] + unit: 1.0 for layer, unit in ids},
        float(capacity),
        policy,
        parameters=given,
        warm={FIRST[layer] + unit: layer - LAYERS for layer, unit in most},
    )
    plan = WARM.model_copy(update={"scope": "global"})
    found = counted(sets, BUILTIN[policy], float(capacity), plan)
    assert [row for token in found for row in token] == figures(rows)


def test_a_cache_of_everything_misses_nothing() -> None:
    full = np.full((LAYERS, 1), UNITS)
    misses = np.array(counted(sets_of(3), BUILTIN["lru"], full, WARM))[..., 2]
    assert misses.sum() == 0


def test_several_sizes_in_one_pass_start_each_with_their_own() -> None:
    trace = load_trace({"glu": sets_of(4)})
    method = build_method(trace, Settings(method="recorded"))
    sizes = [np.full((LAYERS, 1), held) for held in (10, 31, 60)]
    together = replay_policy(trace, method, BUILTIN["lfu"], sizes, WARM, profile_uses=[uses()])
    for size, found in zip(sizes, together, strict=True):
        alone = counted(sets_of(4), BUILTIN["lfu"], size, WARM)
        assert found.hits[:, :, 0].tolist() == [[at[0] for at in token] for token in alone]


REFUSED = {
    "belady": "--warm-from with policy belady: it knows the next use of nothing",
    "none": "--warm-from with policy none: nothing would ever leave",
    "static": "--warm-from with policy static: it starts from --static-from",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two traces of a model, ``own`` and ``other``, and one of ``another``."""
    folder = tmp_path_factory.mktemp("warm")
    meta = json.dumps({"signals": {"glu": {"unit_bytes": 4096}}})
    for name, sets in (("own", sets_of(5)), ("other", sets_of(6)), ("another", sets_of(7)[:, 1:])):
        np.savez(folder / f"{name}.npz", glu=sets, meta=np.array(meta))
    return folder


def run(folder: Path, policy: str, profile: str | None) -> dict[str, Any]:
    """Figures of a run on ``own``."""
    warm_from = None if profile is None else str(folder / f"{profile}.npz")
    given: dict[str, Any] = {"cache_fraction": 0.5, "policy": policy, "warm_from": warm_from}
    return dipsim.simulate(folder / "own.npz", "snapdragon8", **given).to_dict()


@pytest.mark.parametrize("policy", REFUSED)
def test_what_cannot_start_warm_is_refused(policy: str, folder: Path) -> None:
    with pytest.raises(DipsimError, match=REFUSED[policy]):
        run(folder, policy, "other")


def test_a_history_of_another_model_is_one_line(folder: Path) -> None:
    with pytest.raises(DipsimError, match=r"--warm-from .*: not the layers and units") as refusal:
        run(folder, "lru", "another")
    assert "\n" not in str(refusal.value)


def test_a_warm_start_is_marked(folder: Path) -> None:
    cold, warm, known = (run(folder, "lru", source) for source in (None, "other", "own"))
    assert warm["hits"] > cold["hits"]
    assert "preloaded" not in cold["marks"]
    assert "preloaded" in warm["marks"]
    assert "clairvoyant" not in warm["marks"]
    assert {"preloaded", "clairvoyant"} <= set(known["marks"])
    assert warm["config"]["settings"]["warm_from"] == str(folder / "other.npz")


def test_the_other_admission_starts_alike_and_the_optimum_empty(folder: Path) -> None:
    run = prepare(
        folder / "own.npz",
        "snapdragon8",
        cache_fraction=0.5,
        policy="lru",
        warm_from=str(folder / "other.npz"),
    )
    best, first_uses, other = contenders(run)
    assert best.loaded is None
    assert first_uses.loaded is None
    assert other.loaded is not None
