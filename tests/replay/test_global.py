"""One cache in bytes over all layers and groups: against its naive twin, and against a phone."""

import csv
from dataclasses import dataclass
from itertools import chain
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.errors import MethodError, PolicyError
from dipsim.methods import build_method
from dipsim.policies import BUILTIN
from dipsim.replay.traffic import Traffic
from dipsim.settings import Settings
from dipsim.simulate import simulate
from dipsim.trace import Trace, load_trace
from dipsim.trace.convert import import_
from naive import replay as naive
from tools.paths import VALIDATION, of_a_phone
from tools.replays import replay, replay_all

SIGNALS = ("mlp_input", "glu")
CLOSED = [name for name in BUILTIN if name != "opt"]  # those that have a global scope
TWINNED = [name for name in CLOSED if not BUILTIN[name].preload]
RANKING = [name for name in CLOSED if BUILTIN[name].ranks and BUILTIN[name].admit != "never"]
MIB = 2**20


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
    seed=st.integers(0, 2**40),
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
        self.method = build_method(self.trace, Settings(method="recorded"))
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
        plan = Settings(
            admission=case.admission,
            prefill=case.prefill or "stream",
            seed=case.seed,
            scope="global",
        )
        with patch("dipsim.trace.trace._BLOCK_BYTES", case.block_bytes):
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
        batches = {
            "lfu-decay": {"half_life": 32.0},
            "window": {"window": 5.0},
            "lru-heat": {"window": 32},
            "lru-throttled": {"window": 32},
            "lfru": {"ticks": 1},
            "lfru-sampled": {"ticks": 1},
            "least-stale": {"ticks": 1},
        }.get(policy, {})
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
@settings(max_examples=15)
@given(data=st.data())
def test_counts_equal_the_twin(policy: str, data: st.DataObject) -> None:
    case = data.draw(CASES)
    drop = {} if policy in RANKING else {"admission": None}
    if policy == "window":  # it lets go at every batch of its twin, also at an empty one
        drop["prefill"] = None
    example = Example(Case(**{**vars(case), **drop}))
    expected = [[row.active, row.hits, row.kept, len(row.missed)] for row in example.twin(policy)]
    assert counts(example.replay(policy)) == expected


# Laws ------------------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32 - 1)


def random_sets(seed: int, tokens: int, units: int, layers: int = 1) -> np.ndarray:
    """bool[tokens, layers, units], some units more popular than others."""
    rng = np.random.default_rng(seed)
    return rng.random((tokens, layers, units)) < rng.random((layers, units)) ** 2


@pytest.mark.parametrize("policy", CLOSED)
@settings(max_examples=15)
@given(
    seed=SEEDS,
    units=st.sampled_from([1, 63, 64, 70]),
    share=st.floats(0, 1),
    admission=st.sampled_from([None, "forced", "ranked"]),
    sequential=st.booleans(),
)
def test_one_cache_of_units_of_one_byte_equals_layer_scope(
    policy: str, seed: int, units: int, share: float, admission: Any, sequential: bool
) -> None:
    trace = load_trace({"glu": random_sets(seed, tokens=25, units=units)})
    method = build_method(trace, Settings(method="recorded"))
    one_by_one = sequential and not BUILTIN[policy].atomic_only
    given: dict[str, Any] = {"seed": seed, "warmup": 3}
    given["access"] = "sequential" if one_by_one else "atomic"
    given["admission"] = admission if policy in RANKING else None
    if one_by_one and policy in RANKING:
        given["admission"] = "forced"
    held = int(share * units)
    layer = replay(trace, method, BUILTIN[policy], np.array([[held]]), Settings(**given))
    plan = Settings(**given, scope="global")
    one = replay(trace, method, BUILTIN[policy], float(held), plan, unit_bytes=np.ones((1, 1)))
    assert counts(one) == counts(layer)
    assert one.capacity is None


@pytest.mark.parametrize("bits", [4.5, 4.8437, 4.1, 3.0001, 16 / 3])
@pytest.mark.parametrize("method", ["dense", "dip"])
def test_a_cache_of_everything_holds_everything(method: str, bits: float) -> None:
    given: dict[str, Any] = {"method": method, "bits": bits, "policy": "lru", "tokens": "0:3"}
    layer, one = (
        simulate("smollm2-chat", "paper-a18", scope=scope, cache_fraction=1.0, **given)
        for scope in ("layer", "global")
    )
    assert one.fits
    np.testing.assert_array_equal(one.traffic.misses, layer.traffic.misses)


@settings(max_examples=25)
@given(CASES)
def test_static_holds_the_most_used_that_fit(case: Case) -> None:
    example = Example(Case(**{**vars(case), "prefill": None, "admission": None}))
    uses = dict.fromkeys(example.sizes, 0)
    for batch in example.batches():
        for unit in batch:
            uses[unit] += 1
    pinned, taken = set(), 0.0
    for unit in sorted(uses, key=lambda unit: (-uses[unit], unit)):
        taken += example.sizes[unit]
        if taken > example.capacity:
            break
        pinned.add(unit)
    expected = [
        [len(batch), len(batch & pinned), 0, len(batch - pinned)] for batch in example.batches()
    ]
    assert counts(example.replay("static")) == expected


@pytest.mark.parametrize("policy", [name for name in TWINNED if name != "random"])
@settings(max_examples=5)
@given(seed=SEEDS, capacity=st.integers(0, 400))
def test_a_reset_forgets_everything(policy: str, seed: int, capacity: int) -> None:
    rng = np.random.default_rng(seed)
    sets = {
        "mlp_input": random_sets(seed, tokens=24, units=65, layers=2),
        "glu": random_sets(seed + 1, tokens=24, units=40, layers=2),
    }
    sequence = np.sort(rng.integers(0, 3, 24))
    sizes = np.array([[1.0, 3.5], [2.0, 4.0]])

    def run(rows: np.ndarray) -> list[list[int]]:
        given = {name: each[rows] for name, each in sets.items()}
        trace = load_trace({**given, "sequence": sequence[rows]})
        method = build_method(trace, Settings(method="recorded"))
        plan = Settings(scope="global", reset="sequence")
        found = replay(trace, method, BUILTIN[policy], float(capacity), plan, unit_bytes=sizes)
        return counts(found)

    each = [run(np.flatnonzero(sequence == number)) for number in np.unique(sequence)]
    assert run(np.arange(24)) == list(chain.from_iterable(each))


def test_a_gamma_of_one_chooses_as_dip_does() -> None:
    rng = np.random.default_rng(3)
    scores = {signal: rng.random((20, 2, 70), np.float32) for signal in SIGNALS}
    trace = load_trace(scores)
    sizes = np.array([[1.0, 3.5], [2.0, 4.0]])
    plain, aware, preferring = (
        replay(
            trace,
            build_method(trace, Settings(method=name, density=0.5, gamma=gamma)),
            BUILTIN["lfu"],
            400.0,
            Settings(scope="global"),
            unit_bytes=sizes,
        )
        for name, gamma in (("dip", {}), ("dip-ca", {"*": 1.0}), ("dip-ca", {"*": 0.2}))
    )
    assert counts(plain) == counts(aware)
    np.testing.assert_allclose(aware.mass, plain.mass, rtol=1e-6)
    assert preferring.hits.sum() > aware.hits.sum() > 0
    assert preferring.mass.mean() < aware.mass.mean()


# Refusals --------------------------------------------------------------------------------------


def test_opt_has_no_global_scope() -> None:
    trace = load_trace({"glu": random_sets(1, tokens=3, units=4)})
    method = build_method(trace, Settings(method="recorded"))
    with pytest.raises(PolicyError, match="with --scope global use belady"):
        replay(
            trace, method, BUILTIN["opt"], 2.0, Settings(scope="global"), unit_bytes=np.ones((1, 1))
        )


def test_a_cached_batch_of_prefill_has_no_global_scope_where_sets_depend_on_the_cache() -> None:
    trace = load_trace({signal: np.ones((2, 1, 4), np.float32) for signal in SIGNALS})
    method = build_method(trace, Settings(method="dip-ca"))
    plan = Settings(scope="global", prefill="cache")
    with pytest.raises(MethodError, match="use --prefill stream, or --scope layer"):
        replay(trace, method, BUILTIN["lru"], 2.0, plan, unit_bytes=np.ones((1, 2)))


# The phone -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Routes of Qwen3-30B-A3B, recorded on a OnePlus 15R."""
    out = tmp_path_factory.mktemp("phone") / "t.npz"
    import_(VALIDATION / "qwen.route.csv", out)
    return load_trace(out)


@of_a_phone
def test_the_hit_rate_a_phone_reported(phone: Trace) -> None:
    result = simulate(phone, "oneplus15r", scope="global", cache="4000MiB", policy="lru").to_dict()
    hits = result["hits"] + result["prefill"]["hits"]
    accesses = result["accesses"] + result["prefill"]["accesses"]
    assert result["prefill"]["accesses"] > 0
    assert 100 * hits / accesses == pytest.approx(74.9, abs=0.05)


def replay_phone(phone: Trace, policy: str, budgets: list[float]) -> list[Traffic]:
    """One cache of each budget, in MiB."""
    method = build_method(phone, Settings(method="recorded"))
    sizes = np.array(phone.signals["expert"].declared["unit_bytes"], float)[:, None]
    capacities = [budget * MIB for budget in budgets]
    plan = Settings(prefill="cache", scope="global")
    return replay_all(phone, method, BUILTIN[policy], capacities, plan, unit_bytes=sizes)


@of_a_phone
@pytest.mark.parametrize("policy", ["lru", "belady"])
def test_the_curve_of_the_phones_author(policy: str, phone: Trace) -> None:
    with (VALIDATION / "qwen-curve.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["policy"] == policy]
    assert len(rows) == 11
    found = replay_phone(phone, policy, [float(row["budget_mib"]) for row in rows])
    for row, traffic in zip(rows, found, strict=True):
        hits, active = traffic.hits, traffic.active
        both = 100 * hits.sum() / active.sum()
        decode = 100 * hits[traffic.measured].sum() / active[traffic.measured].sum()
        assert both == pytest.approx(float(row["hit_pct_cum"]), abs=0.05)
        assert decode == pytest.approx(float(row["hit_pct_decode"]), abs=0.05)


@of_a_phone
def test_a_loop_larger_than_the_cache_never_hits_under_lru(phone: Trace) -> None:
    *small, larger = replay_phone(phone, "lru", [250, 500, 750, 770, 1000])
    assert [traffic.hits.sum() for traffic in small] == [0, 0, 0, 0]
    assert larger.hits.sum() > 0


@pytest.mark.parametrize("size", [360.0, 237_600_000.6, 348.7464])
@pytest.mark.parametrize("policy", ["lru", "lfu-decay", "fifo", "belady", "clock", "arc", "s3fifo"])
def test_one_layer_and_group_is_the_same_in_bytes(policy: str, size: float) -> None:
    rng = np.random.default_rng(3)
    sets = rng.random((80, 1, 64)) < rng.random(64) ** 2
    trace = load_trace({"glu": sets})
    method = build_method(trace, Settings(method="recorded"))
    for units in (0, 1, 9, 20, 40, 64):
        layer = replay(trace, method, BUILTIN[policy], np.array([[units]]))
        one = replay(
            trace,
            method,
            BUILTIN[policy],
            units * size,
            Settings(scope="global"),
            unit_bytes=np.array([[size]]),
        )
        np.testing.assert_array_equal(one.hits, layer.hits)
        np.testing.assert_array_equal(one.kept, layer.kept)
