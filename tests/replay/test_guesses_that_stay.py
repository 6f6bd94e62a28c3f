"""Guesses that enter the caches (--prefetch-into cache): a naive twin, a case by hand, laws."""

from itertools import pairwise
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
TWINNED = ["lru", "fifo", "lfu", "lfu-resident", "lfu-decay", "lru-k", "random"]
QUEUED = sorted(QUEUES)
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


DRAWN: dict[str, Any] = {
    "seed": st.integers(0, 2**40),
    "tokens": st.integers(1, 12),
    "layers": st.integers(1, 6),
    "units": st.tuples(*[st.sampled_from([1, 5, 63, 64, 65])] * 2),
    "guard": st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]),
    "block_bytes": st.sampled_from([1, 300, 2**25]),
}


@pytest.mark.parametrize("policy", [*TWINNED, *QUEUED])
@settings(max_examples=12)
@given(share=st.sampled_from([0.0, 0.1, 0.3, 0.6, 0.9]), **DRAWN)
def test_caches_of_a_layer_count_as_the_twin(
    policy: str,
    seed: int,
    tokens: int,
    layers: int,
    units: tuple[int, int],
    guard: float,
    block_bytes: int,
    share: float,
) -> None:
    example = Example(seed, tokens, layers, units)
    sizes = [int(share * count) for count in units]
    several = [
        np.tile(sizes, (layers, 1)),
        np.tile([max(0, size - 1) for size in sizes], (layers, 1)),
    ]
    with patch("dipsim.trace.trace._BLOCK_BYTES", block_bytes):
        traffics = example.replay(policy, several, Guesses(guard=guard))
    for traffic, capacity in zip(traffics, several, strict=True):
        found = counts(traffic)
        for layer, group in example.places:
            cache = naive.Cache(
                [0],
                dict.fromkeys(range(units[group]), 1.0),
                int(capacity[layer, group]),
                policy,
                guard=guard,
                parameters={"window": 10.0} if policy == "window" else {},
                stream=(seed, layer, group),
            )
            expected = example.twin(cache, [(layer, group)])
            np.testing.assert_array_equal(found[:, layer, group], expected[:, 0])


@pytest.mark.parametrize("policy", [*TWINNED, *QUEUED])
@settings(max_examples=12)
@given(
    share=st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.6, 0.9]),
    depth=st.integers(1, 4),
    admission=st.sampled_from([None, "forced", "ranked"]),
    **DRAWN,
)
def test_one_cache_counts_as_the_twin(
    policy: str,
    seed: int,
    tokens: int,
    layers: int,
    units: tuple[int, int],
    guard: float,
    block_bytes: int,
    share: float,
    depth: int,
    admission: Any,
) -> None:
    example = Example(seed, tokens, layers, units)
    places, admission = example.places, None if policy in QUEUED else admission
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
        stream=(seed, 0, 0),
    )
    expected = example.twin(cache, places)
    np.testing.assert_array_equal(counts(traffic).reshape(expected.shape), expected)
