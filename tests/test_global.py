"""One cache in bytes over all layers and groups: against its naive twin, and against a phone."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.convert import import_routes
from dipsim.errors import MethodError, PolicyError
from dipsim.methods import Wish, build_method
from dipsim.policies import BUILTIN
from dipsim.replay import Plan, replay, replay_all
from dipsim.simulate import simulate
from dipsim.trace import Trace, load_trace
from dipsim.traffic import Traffic

SIGNALS = ("mlp_input", "glu")
CLOSED = [name for name in BUILTIN if name != "opt"]  # those that have a global scope
TWINNED = [name for name in CLOSED if name != "static"]
RANKING = [name for name in TWINNED if BUILTIN[name].ranks and BUILTIN[name].admit != "never"]
VALIDATION = Path(__file__).resolve().parents[2] / "shared" / "validation"
MIB = 2**20

of_a_phone = pytest.mark.skipif(
    not VALIDATION.exists(), reason="the phone's routes are third-party, not shipped"
)


# The twin --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is drawn; the arrays follow from ``seed``. Pairs are of mlp_input and glu."""

    seed: int
    tokens: int
    layers: int
    units: tuple[int, int]
    share: float
    halves: bool
    even: bool
    prefill: Any
    admission: Any
    block_bytes: int


UNITS = st.sampled_from([1, 5, 63, 64, 65, 130])
CASES = st.builds(
    Case,
    seed=st.integers(0, 2**64 - 1),
    tokens=st.integers(1, 12),
    layers=st.integers(1, 3),
    units=st.tuples(UNITS, UNITS),
    share=st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.6, 0.9, 1.0, 1.5]),
    halves=st.booleans(),
    even=st.booleans(),
    prefill=st.sampled_from([None, "stream", "cache"]),
    admission=st.sampled_from([None, "forced", "ranked"]),
    block_bytes=st.sampled_from([1, 300, 2**25]),
)


class Example:
    """A case made ready for both: for the replay a trace, for the twin plain sets."""

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = np.random.default_rng(case.seed)
        self.decode = np.ones(case.tokens, np.bool_)
        if case.prefill is not None:
            self.decode = rng.random(case.tokens) < 0.5
            self.decode[rng.integers(case.tokens)] = True
        self.sets = {}
        for signal, units in zip(SIGNALS, case.units, strict=True):
            popular = rng.random((case.layers, units)) ** 2
            self.sets[signal] = rng.random((case.tokens, case.layers, units)) < popular
        self.trace = load_trace({**self.sets, "phase": self.decode.astype(np.uint8)})
        self.method = build_method("recorded", self.trace, Wish())
        # Multiples of a half, so that sums are exact in any order.
        sizes = rng.integers(1, 20, (case.layers, 2)) / (2 if case.halves else 1)
        self.unit_bytes = np.full_like(sizes, sizes[0, 0]) if case.even else sizes
        self.places = list(np.ndindex(case.layers, 2))
        self.first = np.concatenate(
            [[0], np.cumsum([64 * -(-case.units[group] // 64) for _, group in self.places])]
        )
        self.sizes = {
            int(first) + unit: float(self.unit_bytes[place])
            for first, place in zip(self.first, self.places, strict=False)
            for unit in range(case.units[place[1]])
        }
        whole = sum(self.sizes.values())
        mean = whole / len(self.sizes)
        self.capacity = min(round(2 * case.share * whole) / 2, whole)
        if int(self.capacity / mean) != int(self.capacity / mean + 1e-9):
            self.capacity += 0.25  # the replay forgives the last digit, the twin does not

    def replay(self, policy: str) -> Traffic:
        case = self.case
        plan = Plan(
            admission=case.admission,
            prefill=case.prefill or "stream",
            seed=case.seed,
            scope="global",
        )
        with patch("dipsim.trace._BLOCK_BYTES", case.block_bytes):
            return replay(
                self.trace,
                self.method,
                BUILTIN[policy],
                self.capacity,
                plan,
                unit_bytes=self.unit_bytes,
            )

    def batches(self) -> list[set[int]]:
        """One per token, layer and group; empty where a row of prefill commits nothing."""
        found = []
        pending: list[set[int]] = [set() for _ in self.places]
        for token, decode in enumerate(self.decode):
            last = token + 1 == len(self.decode) or self.decode[token + 1]
            for part, (layer, group) in enumerate(self.places):
                active = np.flatnonzero(self.sets[SIGNALS[group]][token, layer])
                batch = pending[part] | {int(self.first[part] + unit) for unit in active}
                joins = not decode and self.case.prefill == "cache" and not last
                skipped = not decode and self.case.prefill == "stream"
                pending[part] = batch if joins else set()
                found.append(set() if joins or skipped else batch)
        return found

    def twin(self, policy: str) -> list[naive.Row]:
        # What is in tokens, the twin counts in batches.
        batches = {"lfu-decay": {"half_life": 32.0}, "window": {"window": 5.0}}.get(policy, {})
        parameters = {name: value * len(self.places) for name, value in batches.items()}
        return naive.replay_global(
            self.batches(),
            self.sizes,
            self.capacity,
            policy,
            admission=self.case.admission,
            parameters=parameters,
            seed=self.case.seed,
        )


def counts(traffic: Traffic) -> list[list[int]]:
    """Active, hits, kept and misses of every token, layer and group in that order."""
    each = (traffic.active, traffic.hits, traffic.kept, traffic.misses)
    return np.stack([count.ravel() for count in each], axis=1).tolist()


@pytest.mark.parametrize("policy", TWINNED)
@settings(max_examples=25)
@given(data=st.data())
def test_counts_equal_the_twin(policy: str, data: st.DataObject) -> None:
    case = data.draw(CASES)
    drop = {} if policy in RANKING else {"admission": None}
    if policy == "window":  # it lets go at every batch of its twin, also at an empty one
        drop["prefill"] = None
    example = Example(Case(**{**vars(case), **drop}))
    expected = [[row.active, row.hits, row.kept, len(row.missed)] for row in example.twin(policy)]
    assert counts(example.replay(policy)) == expected
