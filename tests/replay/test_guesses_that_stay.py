"""Guesses that enter the caches (--prefetch-into cache): a naive twin, a case by hand, laws."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dipsim
from dipsim.errors import DipsimError
from dipsim.methods import build_method
from dipsim.policies import BUILTIN
from dipsim.replay.prefetch import Guesses
from dipsim.replay.replay import replay_policy
from dipsim.replay.traffic import Traffic
from dipsim.settings import Settings
from dipsim.trace import load_trace
from dipsim.trace.encoding import pack_sets
from naive import guesses as naive
from naive.policies import QUEUES
from tools.devices import BY_HAND

SIGNALS = ("mlp_input", "glu")
RANKING = ["lru", "fifo", "lfu", "lfu-resident", "lfu-decay", "lru-k", "random"]
QUEUED = sorted({*QUEUES} - {"lfru-sampled"})  # refused
MODEL = {"layers": 1, "hidden": 4, "intermediate": 4, "heads": 1, "kv_heads": 1, "vocab": 10}


# The twin ---------------------------------------------------------------------------------------


class Example:
    """Sets and guesses of two groups in some layers, ready for the replay and for the twin."""

    def __init__(self, seed: int, tokens: int, layers: int, units: tuple[int, int]) -> None:
        rng = np.random.default_rng(seed)
        self.units, self.layers, self.seed = units, layers, seed
        self.sets, self.guessed = {}, []
        for signal, count in zip(SIGNALS, units, strict=True):
            popular = rng.random((layers, count)) ** 2
            needed = rng.random((tokens, layers, count)) < popular
            self.sets[signal] = needed
            self.guessed.append(
                (needed & (rng.random(needed.shape) < 0.7)) | (rng.random(needed.shape) < 0.1)
            )
        self.trace = load_trace(self.sets)
        self.places = list(np.ndindex(layers, 2))
        self.unit_bytes = rng.integers(1, 20, (layers, 2)) / 2
        self.rng = rng

    def replay(
        self, policy: str, capacities: Any, guesses: Guesses, **options: Any
    ) -> list[Traffic]:
        given_ = guesses._replace(recorded=[pack_sets(each) for each in self.guessed])
        return replay_policy(
            self.trace,
            build_method(self.trace, Settings(method="recorded")),
            BUILTIN[policy],
            capacities,
            Settings(prefill="stream", seed=self.seed, **options),
            guesses=given_,
            unit_bytes=self.unit_bytes,
            keep_missed=True,
        )

    def twin(self, cache: naive.Cache, places: list[tuple[int, int]]) -> np.ndarray[Any, Any]:
        """Return hits, kept, misses, issued, used and evicted, [tokens, parts, 6]."""
        first = np.cumsum([0, *(64 * -(-self.units[group] // 64) for _, group in places)])

        def ids(signals: list[Any], token: int) -> list[set[int]]:
            return [
                {int(first[p] + unit) for unit in np.flatnonzero(signals[group][token, layer])}
                for p, (layer, group) in enumerate(places)
            ]

        needed = [self.sets[name] for name in SIGNALS]
        found = []
        for token in range(len(needed[0])):
            rows = cache.take(token, ids(needed, token), ids(self.guessed, token))
            found.append(
                [
                    [row.hits, row.kept, len(row.missed), len(row.issued), row.used, row.evicted]
                    for row in rows
                ]
            )
        return np.array(found)


def counts(traffic: Traffic) -> np.ndarray[Any, Any]:
    """Return the same of a replay, [tokens, layers, groups, 6]."""
    ahead = traffic.ahead
    assert ahead is not None
    assert ahead.evicted is not None
    each = (traffic.hits, traffic.kept, traffic.misses, ahead.issued, ahead.used, ahead.evicted)
    return np.stack(each, axis=-1)


def check_layers(
    policy: str, example: Example, share: float, guard: float, block_bytes: int
) -> None:
    """Hold a cache for each layer and group, of two capacities, against the twin."""
    sizes = [int(share * count) for count in example.units]
    several = [
        np.tile([max(0, size - less) for size in sizes], (example.layers, 1)) for less in (0, 1)
    ]
    with patch("dipsim.trace.trace._BLOCK_BYTES", block_bytes):
        traffics = example.replay(policy, several, Guesses(guard=guard))
    for traffic, capacity in zip(traffics, several, strict=True):
        found = counts(traffic)
        for layer, group in example.places:
            cache = naive.Cache(
                [0],
                dict.fromkeys(range(example.units[group]), 1.0),
                int(capacity[layer, group]),
                policy,
                guard=guard,
                parameters={"window": 10.0} if policy == "window" else {},  # two ticks a token
                stream=(example.seed, layer, group),
            )
            expected = example.twin(cache, [(layer, group)])
            np.testing.assert_array_equal(found[:, layer, group], expected[:, 0])


def check_one(
    policy: str,
    example: Example,
    share: float,
    guard: float,
    block_bytes: int,
    depth: int,
    admission: Any = None,
) -> None:
    """Hold one cache for all against the twin."""
    places, units = example.places, example.units
    first = np.cumsum([0, *(64 * -(-units[group] // 64) for _, group in places)])
    sizes = {
        int(first[p]) + unit: float(example.unit_bytes[place])
        for p, place in enumerate(places)
        for unit in range(units[place[1]])
    }
    whole = sum(sizes.values())
    capacity = round(2 * share * whole) / 2
    if int(capacity * len(sizes) / whole) != int(capacity * len(sizes) / whole + 1e-9):
        capacity += 0.25  # the replay forgives the last digit, the twin does not
    with patch("dipsim.trace.trace._BLOCK_BYTES", block_bytes):
        how = {"scope": "global", "admission": admission}
        (traffic,) = example.replay(policy, [capacity], Guesses(guard=guard, depth=depth), **how)
    ticks = {"lfu-decay": {"half_life": 32.0}, "window": {"window": 10.0}}.get(policy, {})
    cache = naive.Cache(
        [layer for layer, _ in places],
        sizes,
        capacity,
        policy,
        guard=guard,
        depth=depth,
        admission=admission,
        parameters={name: value * len(places) for name, value in ticks.items()},
        stream=(example.seed, 0, 0),
    )
    expected = example.twin(cache, places)
    np.testing.assert_array_equal(counts(traffic).reshape(expected.shape), expected)


EXAMPLES = st.builds(
    Example,
    seed=st.integers(0, 2**40),
    tokens=st.integers(1, 12),
    layers=st.integers(1, 6),
    units=st.tuples(*[st.sampled_from([1, 5, 63, 64, 65])] * 2),
)
GUARDS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])
BLOCKS = st.sampled_from([1, 300, 2**25])


@pytest.mark.slow
@pytest.mark.parametrize("policy", [*RANKING, *QUEUED])
@settings(max_examples=15)
@given(EXAMPLES, st.sampled_from([0.0, 0.1, 0.3, 0.6, 0.9]), GUARDS, BLOCKS)
def test_caches_of_a_layer_count_as_the_twin(
    policy: str, example: Example, share: float, guard: float, block_bytes: int
) -> None:
    check_layers(policy, example, share, guard, block_bytes)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [*RANKING, *QUEUED])
@settings(max_examples=15)
@given(
    EXAMPLES,
    st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.6, 0.9]),
    GUARDS,
    BLOCKS,
    st.integers(1, 4),
    st.sampled_from([None, "forced", "ranked"]),
)
def test_one_cache_counts_as_the_twin(
    policy: str,
    example: Example,
    share: float,
    guard: float,
    block_bytes: int,
    depth: int,
    admission: Any,
) -> None:
    only = None if policy in QUEUED else admission
    check_one(policy, example, share, guard, block_bytes, depth, only)


@pytest.mark.parametrize("policy", ["lru", "s3fifo"])
def test_a_few_count_as_the_twin(policy: str) -> None:
    example = Example(7, 9, 5, (65, 20))
    check_layers(policy, example, 0.3, 0.25, 300)
    check_one(policy, example, 0.2, 0.25, 300, 2)


# By hand ----------------------------------------------------------------------------------------


def sets(rows: list[list[int]]) -> np.ndarray[Any, Any]:
    """Return the sets of one layer of four units, bool[tokens, 1, 4]."""
    return np.array([[[unit in row for unit in range(4)]] for row in rows])


META = {"model": {**MODEL, "bits": 8}, "signals": {"glu": {"slices": ["down"]}}}


def by_hand(folder: Path, needed: Any, guessed: Any, **options: Any) -> dipsim.Result:
    """Run four units of 4 B, two of which fit; the flash takes 40 ms a unit."""
    np.savez(folder / "guesses.npz", glu=guessed)
    given_ = {"prefetch": str(folder / "guesses.npz"), "prefetch_into": "cache", "context": 0}
    given_ |= {"cache": "8 B", **options}
    return dipsim.simulate(
        {"glu": needed, "meta": META},
        BY_HAND,
        method="recorded",
        policy="lru",
        **given_,
    )


def test_a_guess_that_evicts(tmp_path: Path) -> None:
    needed = sets([[0], [1], [0], [0], [1]])
    guessed = sets([[], [2], [3], [2], [1, 2]])
    found = by_hand(tmp_path, needed, guessed, prefetch_guard=0.5)  # one guess at a time
    # 0: 0 is missed: {0}. 1: 2 enters, {0, 2}; 1 is missed, and 2, never used, leaves: {0, 1}.
    # 2: for 3 the older, 0, leaves, which is missed, and 3 leaves: {0, 1}. 3: for 2 the older, 1,
    # leaves; 0 is there: {0, 2}. 4: 1 enters; 2 is there, but was guessed too, so 0 leaves: 1 hits.
    ahead = found.traffic.ahead
    assert ahead is not None
    assert ahead.evicted is not None
    assert found.traffic.hits.ravel().tolist() == [0, 0, 0, 1, 1]
    assert found.traffic.kept.ravel().tolist() == [1, 1, 1, 0, 0]
    assert ahead.issued.ravel().tolist() == [0, 1, 1, 1, 1]
    assert ahead.used.ravel().tolist() == [0, 0, 0, 0, 1]
    assert ahead.evicted.ravel().tolist() == [0, 0, 1, 1, 1]
    assert found.prefetch == {"issued": 4, "used": 1, "wasted": 3, "evicted": 3}
    assert ahead.moved.ravel().tolist() == [0, 4, 4, 4, 4]
    assert found.traffic.moved.ravel().tolist() == [4, 4, 4, 0, 0]
    # Every token waits 40 ms for its embedding, and 40 ms for a miss; guesses come in time.
    flash = found.timing.times.exposed[:, 0]
    assert flash == pytest.approx([0.08, 0.08, 0.08, 0.04, 0.04])
    # Without guesses, and with a buffer beside as large a cache, 0 stays and hits.
    demand = by_hand(tmp_path, needed, guessed, prefetch=None, prefetch_into=None)
    buffered = by_hand(tmp_path, needed, guessed, prefetch_into="buffer", cache="16 B")
    for other in (demand, buffered):
        assert other.traffic.hits.ravel().tolist() == [0, 0, 1, 1, 1]


def test_a_guard_of_less_than_a_unit_lets_nothing_enter(tmp_path: Path) -> None:
    needed = sets([[0], [1], [0]])
    found = by_hand(tmp_path, needed, needed, prefetch_guard=0.49)
    assert found.prefetch == {"issued": 0, "used": 0, "wasted": 0, "evicted": 0}


# Laws -------------------------------------------------------------------------------------------


def cycle(tokens: int, layers: int = 3, units: int = 12, each: int = 2) -> dict[str, Any]:
    """Return sets that come again in turn: tokens need ``each`` units of each layer."""
    needed = np.zeros((tokens, layers, units), np.bool_)
    for token in range(tokens):
        needed[token, :, [(token * each + i) % units for i in range(each)]] = True
    return {"expert": needed}


def lasting(seed: int, tokens: int = 30, layers: int = 4, units: int = 65) -> dict[str, Any]:
    """Return sets of experts of which some are popular."""
    rng = np.random.default_rng(seed)
    popular = rng.random((layers, units)) ** 2
    return {"expert": rng.random((tokens, layers, units)) < popular}


def run(trace: Any, **options: Any) -> dipsim.Result:
    given_ = {"unit_bytes": "1 MB", "policy": "lru", "cache": "24 MB", **options}
    return dipsim.simulate(trace, "snapdragon8", **given_)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("policy", ["lru", "lfu-decay", "s3fifo"])
def test_with_a_guard_of_nothing_no_guess_enters(policy: str, scope: Any) -> None:
    how: dict[str, Any] = {"policy": policy, "scope": scope}
    trace = lasting(3)
    how["cache"] = "150 MB"
    plain = run(trace, **how)
    found = run(trace, **how, prefetch="right=.5", prefetch_into="cache", prefetch_guard=0)
    assert plain.hits > 0
    for name in ("active", "hits", "kept", "reads", "moved", "flash_seconds"):
        one, other = (getattr(result.traffic, name) for result in (plain, found))
        np.testing.assert_array_equal(one, other)
    assert found.prefetch == {"issued": 0, "used": 0, "wasted": 0, "evicted": 0}


def test_a_policy_that_lets_nothing_enter_lets_no_guess() -> None:
    found = run(cycle(20), policy="none", prefetch="right=1", prefetch_into="cache")
    assert found.hits == 0
    assert found.prefetch == {"issued": 0, "used": 0, "wasted": 0, "evicted": 0}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_perfect_guesses_with_room_hit_everything(scope: Any, depth: int) -> None:
    how: dict[str, Any] = {"scope": scope, "prefetch_into": "cache", "prefetch_depth": depth}
    found = run(cycle(20), prefetch="right=1", prefetch_guard=1, **how)
    assert found.hits == found.accesses
    assert found.prefetch is not None
    assert found.prefetch["wasted"] == 0
    # What the token before needed is right but for the first token, and is there already.
    still = cycle(20, units=2)
    found = run(still, prefetch="previous", prefetch_guard=1, **how)
    assert found.accesses - found.hits == 3 * 2
    assert found.prefetch == {"issued": 0, "used": 0, "wasted": 0, "evicted": 0}


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_below_one_cycle_look_ahead_helps_an_lru(scope: Any) -> None:
    """A cycle of 12 units a layer and 8 slots a layer: on demand an LRU hits nothing."""
    hits = [run(cycle(60), scope=scope).unit_hit_rate]
    for right in (0.5, 1.0):
        how: dict[str, Any] = {"prefetch": f"right={right}", "prefetch_into": "cache"}
        hits.append(run(cycle(60), scope=scope, **how).unit_hit_rate)
    assert hits[0] == 0
    assert hits[1] >= 0.5
    assert hits[2] == 1


def test_how_far_ahead_changes_the_time_and_of_a_cache_per_layer_no_count() -> None:
    trace = lasting(5)
    how: dict[str, Any] = {"prefetch": "right=.7", "prefetch_into": "cache", "cache": "60 MB"}
    one, three = (run(trace, **how, prefetch_depth=depth) for depth in (1, 3))
    np.testing.assert_array_equal(counts(one.traffic), counts(three.traffic))
    assert one.tokens_per_second != three.tokens_per_second


def test_a_buffer_is_as_it_was_and_holds_the_layers_that_are_ahead() -> None:
    trace = lasting(5)
    how: dict[str, Any] = {"prefetch": "right=.7", "cache": "200 MB"}
    plain, buffer = run(trace, **how), run(trace, **how, prefetch_into="buffer", prefetch_depth=1)
    one, other = plain.to_dict(), buffer.to_dict()
    one.pop("config"), other.pop("config")
    assert one == other
    two = run(trace, **how, prefetch_depth=2)
    assert two.budget.buffer == 2 * plain.budget.buffer > 0
    assert run(trace, **how, prefetch_into="cache").budget.buffer == 0


def test_next_layer_guesses_what_is_known_when_it_goes_out() -> None:
    needed = np.zeros((9, 4, 8), np.bool_)
    for layer in range(4):
        needed[:, layer, layer] = True
    needed[4:, 2, 0] = True  # two layers before, that of layer 0
    model = {**MODEL, "layers": 4, "hidden": 8, "bits": 8}
    meta = {"model": model, "signals": {"mlp_input": {"slices": ["gate", "up"]}}}
    how: dict[str, Any] = {"prefetch": "next-layer", "cache": "1 kB", "prefetch_into": "cache"}
    for depth in (1, 2):
        how |= {"unit_bytes": None, "prefetch_depth": depth}
        found = run({"mlp_input": needed, "meta": meta}, **how)
        ahead = found.traffic.ahead
        assert ahead is not None
        assert not ahead.issued[:, :depth].any()
        assert ahead.issued[0, depth:, 0].tolist() == [1] * (4 - depth)


# How sure a guess is ----------------------------------------------------------------------------


def test_a_cut_leaves_out_unsure_guesses(tmp_path: Path) -> None:
    """Of logits, by what softmax makes of them: here 1, .5, .25 and .125 of the surest."""
    logits = np.full((6, 1, 8), -20, np.float32)
    logits[..., [2, 1, 3, 0]] = np.log(2.0, dtype=np.float32) * -np.arange(4, dtype=np.float32)
    np.savez(tmp_path / "g.npz", expert=logits)
    np.savez(tmp_path / "sets.npz", expert=logits > -1)
    meta = {"model": {**MODEL, "experts": 8, "experts_per_token": 3, "bits": 8}}
    trace = {"expert": logits, "meta": meta}

    def issued(cut: float | None, file: str = "g.npz") -> int:
        found = dipsim.simulate(
            trace,
            BY_HAND,
            policy="lru",
            cache="1 kB",
            prefetch=str(tmp_path / file),
            prefetch_into="cache",
            prefetch_guard=1,
            prefetch_cut=cut,
            context=0,
        )
        assert found.prefetch is not None
        return found.prefetch["issued"]

    everything = issued(None)
    assert everything == issued(0) == 3
    assert [issued(cut) for cut in (0.2, 0.25, 0.3, 0.5, 0.6, 1)] == [3, 3, 2, 2, 1, 1]
    with pytest.raises(DipsimError, match="do not say how sure"):
        issued(0.5, "sets.npz")


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prefetch_into": "cache"}, "is for a --prefetch: add one"),
        ({"prefetch_depth": 2}, "is for a --prefetch: add one"),
        ({"prefetch_guard": 0.5, "prefetch": "previous"}, "is for a --prefetch-into: add one"),
        (
            {"prefetch_guard": 0.5, "prefetch": "previous", "prefetch_into": "buffer"},
            "drop one of them",
        ),
        ({"prefetch": "previous", "prefetch_into": "dram"}, "--prefetch-into"),
        ({"prefetch": "previous", "prefetch_depth": 0}, "--prefetch-depth"),
        ({"prefetch": "previous", "prefetch_depth": 5}, "--prefetch-depth"),
        ({"prefetch": "previous", "prefetch_into": "cache", "prefetch_guard": 1.5}, "-guard"),
        ({"prefetch": "previous", "prefetch_into": "cache", "prefetch_guard": -1}, "-guard"),
        ({"prefetch": "previous", "prefetch_cut": 0.5}, "only recorded scores"),
        ({"prefetch": "right=.5", "prefetch_cut": 0.5}, "only recorded scores"),
        ({"prefetch": "t.npz", "prefetch_cut": 2}, "--prefetch-cut"),
        ({"prefetch": "previous", "prefetch_into": "cache", "policy": "opt"}, "buffer"),
        ({"prefetch": "previous", "prefetch_into": "cache", "policy": "belady"}, "buffer"),
        ({"prefetch": "previous", "prefetch_into": "cache", "policy": "lfru-sampled"}, "use lfru"),
        (
            {"prefetch": "previous", "prefetch_into": "cache", "access": "sequential"},
            "--access atomic",
        ),
    ],
)
def test_one_line_says_what_is_wrong(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DipsimError) as problem:
        run(cycle(8), **options)
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)
