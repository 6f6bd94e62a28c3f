"""The fast replay against its naive twin, to the count, and the laws that every policy obeys."""

from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim import files
from dipsim.errors import MethodError, PolicyError, TraceError
from dipsim.methods import build_method
from dipsim.policies import BUILTIN, Policy
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.contender import Contender, measured_rows
from dipsim.replay.replay import replay_policies
from dipsim.replay.traffic import Traffic
from dipsim.settings import Settings
from dipsim.trace import Trace, load_trace
from naive import replay as naive
from tools.policies import PARAMETERS
from tools.replays import replay

SIGNALS = ("mlp_input", "glu")
CACHING = [name for name, policy in BUILTIN.items() if policy.admit != "never"]
RANKING = [name for name in CACHING if BUILTIN[name].ranks]
EMPTY = [name for name in CACHING if not BUILTIN[name].preload]  # at the start
ALWAYS_FULL = [name for name in EMPTY if name != "window"]  # it lets go although there is room
FORCED = [name for name in ALWAYS_FULL if BUILTIN[name].admit == "forced"]
ONE_BY_ONE = [name for name, policy in BUILTIN.items() if not policy.atomic_only]
LOG8 = np.array([0] + [2 ** ((q - 255) / 20) for q in range(1, 256)], np.float32)
HALVES = [0, 215, 235, 255]  # codes of log8 that stand for 0, 1/4, 1/2, 1: gamma makes them tie


# The twin --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is drawn; the arrays follow from ``seed``. Pairs are of mlp_input and glu."""

    method: str
    encoding: str
    seed: int
    ties: bool
    tokens: int
    layers: int
    units: tuple[int, int]
    density: tuple[float, float]
    gamma: tuple[float, float]
    share: float
    sequences: int
    warmup: float
    admission: Any
    reset: Any
    prefill: Any
    threads: int
    block_bytes: int
    access: Any = "atomic"
    parameters: Any = None


def pairs(*values: float) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.tuples(st.sampled_from(values), st.sampled_from(values))


METHODS = {
    "dense": ["bool"],
    "recorded": ["bool", "bits"],
    "glu": ["float16", "float32", "log8"],
    "glu-oracle": ["float16", "float32", "log8"],
    "dip": ["float16", "float32", "log8"],
    "dip-ca": ["float16", "float32", "log8"],
}


def cases(method: str, **given: Any) -> st.SearchStrategy[Case]:
    drawn = {
        "encoding": st.sampled_from(METHODS[method]),
        "seed": st.integers(0, 2**40),
        "ties": st.booleans(),
        "tokens": st.integers(1, 20),
        "layers": st.integers(1, 2),
        "units": pairs(1, 63, 64, 65, 130),
        "density": pairs(0.0, 0.1, 0.5, 0.9, 1.0),
        "gamma": pairs(0.0, 0.2, 0.5, 1.0),
        "share": st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]),
        "sequences": st.integers(1, 3),
        "warmup": st.floats(0, 0.99),
        "admission": st.sampled_from([None, "forced", "ranked"]),
        "reset": st.sampled_from(["never", "sequence"]),
        "prefill": st.sampled_from(["stream", "cache"]),
        "threads": st.integers(1, 2),
        "block_bytes": st.sampled_from([1, 3000, 2**25]),
    }
    fixed = {name: st.just(value) for name, value in given.items()}
    return st.builds(Case, method=st.just(method), **{**drawn, **fixed})


class Example:
    """A case made ready for both: for the replay a trace, for the twin plain rows."""

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = np.random.default_rng(case.seed)
        self.decode = rng.random(case.tokens) < 0.5
        self.decode[rng.integers(case.tokens)] = True
        self.sequence = np.sort(rng.integers(0, case.sequences, case.tokens))
        self.warmup = int(case.warmup * self.decode.sum())
        self.rows: dict[str, Any] = {}  # per signal the scores or sets, [tokens, layers, units]
        arrays = {"phase": self.decode.astype(np.uint8), "sequence": self.sequence}
        declared = {}
        for signal, units in zip(SIGNALS, case.units, strict=True):
            shape = (case.tokens, case.layers, units)
            if case.encoding in ("bool", "bits"):
                stored = self.rows[signal] = rng.random(shape) < rng.random((*shape[:2], 1))
                if case.encoding == "bits":
                    stored = np.packbits(stored, axis=-1, bitorder="little")
                    declared[signal] = {"encoding": "bits", "units": units}
            elif case.encoding == "log8":
                stored = rng.choice(HALVES if case.ties else 256, shape).astype(np.uint8)
                self.rows[signal] = LOG8[stored]
                arrays[f"{signal}.max"] = rng.random(shape[:2], np.float32)
                declared[signal] = {"encoding": "log8"}
            else:
                scores = rng.integers(0, 4, shape) if case.ties else rng.lognormal(0, 2, shape)
                stored = scores.astype(case.encoding)
                self.rows[signal] = stored.astype(np.float32)
            arrays[signal] = stored
        self.trace = load_trace({**arrays, "meta": {"signals": declared}})

        self.groups = SIGNALS if case.method in ("recorded", "dip", "dip-ca") else ("glu",)
        self.units = dict(zip(SIGNALS, case.units, strict=True))
        self.density = dict(zip(SIGNALS, case.density, strict=True))
        self.gamma = dict(zip(SIGNALS, case.gamma, strict=True)) if case.method == "dip-ca" else {}
        scored = case.method not in ("dense", "recorded")
        wanted = {signal: self.density[signal] for signal in self.groups if scored}
        self.method = build_method(
            self.trace, Settings(method=case.method, group_density=wanted, gamma=self.gamma)
        )
        size = np.array([[self.units[signal] for signal in self.groups]] * case.layers)
        self.capacity = (size * case.share).astype(int) + rng.integers(-2, 3, size.shape)
        self.capacity = np.clip(self.capacity, 0, size)

    def replay(self, policy: Policy) -> Traffic:
        case = self.case
        plan = Settings(
            admission=case.admission,
            warmup=self.warmup,
            reset=case.reset,
            prefill=case.prefill,
            seed=case.seed,
            access=case.access,
        )
        with (
            patch("dipsim.trace.trace._BLOCK_BYTES", case.block_bytes),
            patch("dipsim.replay.active_sets._ROWS_WITHOUT_SIGNAL", 5),
        ):
            return replay(
                self.trace, self.method, policy, self.capacity, plan, threads=case.threads
            )

    def twin(self, policy: str, layer: int, group: int) -> list[naive.Row]:
        case, signal = self.case, self.groups[group]
        units, capacity = self.units[signal], int(self.capacity[layer, group])
        k = naive.kept_units(self.density[signal], units)
        masks = [self.mask(t, layer, signal, k) for t in range(case.tokens)]
        starts = [t for t in range(1, case.tokens) if self.sequence[t] != self.sequence[t - 1]]
        actions = ["commit"] * case.tokens
        for t in np.flatnonzero(~self.decode):
            ends = t + 1 == case.tokens or self.decode[t + 1] or t + 1 in starts
            actions[t] = "skip" if case.prefill == "stream" else "commit" if ends else "join"
        return naive.replay(
            self.rows[signal][:, layer].tolist() if self.gamma else masks,
            units,
            capacity,
            policy,
            admission=case.admission,
            actions=actions,
            resets=starts if case.reset == "sequence" else [],
            k=k,
            gamma=self.gamma.get(signal),
            seed=case.seed,
            layer=layer,
            group=group,
            pinned=self.most_used(masks, actions, units)[:capacity],
            access=case.access,
            parameters=case.parameters or {},
        )

    def mask(self, t: int, layer: int, signal: str, k: int) -> set[int]:
        """The units a row needs, were its method not cache-aware."""
        row = self.rows[signal][t, layer].tolist()
        if self.case.method == "dense":
            return set(range(len(row)))
        if self.case.method == "recorded":
            return {unit for unit, active in enumerate(row) if active}
        return set(naive.top_k(row, k))

    def most_used(self, masks: list[set[int]], actions: list[str], units: int) -> list[int]:
        """Units by uses in the warm-up tokens, or without them in all decode tokens."""
        last = np.flatnonzero(self.decode)[self.warmup - 1] if self.warmup else len(masks)
        batches = [
            batch
            for t, batch in naive.planned_batches(masks, actions)
            if t <= last and self.decode[t]
        ]
        return sorted(range(units), key=lambda unit: -sum(unit in batch for batch in batches))

    def shares(self, t: int, layer: int, group: int, chosen: list[int]) -> list[float]:
        """The share of the scores, and of their squares, that the chosen units hold."""
        scores = self.rows[self.groups[group]][t, layer].astype(float)
        if self.case.method in ("dense", "recorded") or not scores.any():
            return [1, 1]
        return [(scores[chosen] ** p).sum() / (scores**p).sum() for p in (1, 2)]


def compare(case: Case, policy: Policy, twin: str) -> None:
    """Replay a case and compare every token, layer and group with the twin."""
    example = Example(case)
    traffic = example.replay(policy)
    assert traffic.groups == example.groups
    behind = np.cumsum(example.decode) > example.warmup
    np.testing.assert_array_equal(traffic.measured, example.decode & behind)
    for layer, group in np.ndindex(*example.capacity.shape):
        rows = example.twin(twin, layer, group)
        counts = (traffic.active, traffic.hits, traffic.kept, traffic.misses)
        found = np.stack([count[:, layer, group] for count in counts], axis=1).tolist()
        assert found == [[row.active, row.hits, row.kept, len(row.missed)] for row in rows]
        booked = np.flatnonzero(example.decode | (case.prefill == "cache"))
        shares = (traffic.mass, traffic.energy)
        found = np.stack([share[booked, layer, group] for share in shares], axis=1)
        expected = [example.shares(t, layer, group, rows[t].chosen) for t in booked]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def own_only(policy: str) -> dict[str, Any]:
    """What does not rank has one admission."""
    return {} if policy in RANKING else {"admission": None}


SIMPLE = ("none", "static", "random", "lru", "fifo", "lfu", "belady", "opt")
COMBINED = [
    (p, m) for p, m in product(BUILTIN, METHODS) if p in SIMPLE or m in ("recorded", "dip-ca")
]


AWARE = ("lru", "lfu")
"""Policies of every kind: with a cache-aware method each has a loop to compile, for seconds. Those
of the others are slow tests."""


def combined(policy: str, method: str) -> Any:
    marks = [pytest.mark.slow] if method == "dip-ca" and policy not in AWARE else []
    return pytest.param(policy, method, marks=marks)


@pytest.mark.parametrize(
    ("policy", "method"),
    [combined(p, m) for p, m in COMBINED if not (BUILTIN[p].future and m == "dip-ca")],
)
@settings(max_examples=10)
@given(data=st.data())
def test_counts_and_shares_equal_the_twin(policy: str, method: str, data: st.DataObject) -> None:
    compare(data.draw(cases(method, **own_only(policy))), BUILTIN[policy], twin=policy)


@pytest.mark.parametrize("policy", PARAMETERS)
@settings(max_examples=8)
@given(data=st.data())
def test_parameters_mean_what_they_mean_to_the_twin(policy: str, data: st.DataObject) -> None:
    given = PARAMETERS[policy]
    case = data.draw(cases("recorded", parameters=given, **own_only(policy)))
    compare(case, BUILTIN[policy].with_parameters(given), twin=policy)


@pytest.mark.parametrize(
    ("policy", "method"),
    [
        *((name, "recorded") for name in ONE_BY_ONE if name != "random"),
        *(
            pytest.param(p, "dip-ca", marks=pytest.mark.slow)
            for p in ONE_BY_ONE
            if p != "random" and not BUILTIN[p].future
        ),
    ],
)
@settings(max_examples=8)
@given(data=st.data())
def test_sequential_counts_equal_the_twin(policy: str, method: str, data: st.DataObject) -> None:
    never = BUILTIN[policy].admit == "never"
    admission = None if never else "forced" if policy in RANKING else None
    case = data.draw(cases(method, access="sequential", admission=admission))
    compare(case, BUILTIN[policy], twin=policy)


@pytest.mark.parametrize("policy", BUILTIN)
def test_threads_and_blocks_change_nothing(policy: str) -> None:
    case = Case(
        method="dip-ca" if policy in AWARE else "dip",
        encoding="float32",
        seed=1,
        ties=False,
        tokens=60,
        layers=3,
        units=(65, 130),
        density=(0.5, 0.5),
        gamma=(0.5, 0.2),
        share=0.6,
        sequences=2,
        warmup=0.2,
        admission=None,
        reset="sequence",
        prefill="cache",
        threads=1,
        block_bytes=2**25,
    )
    whole = Example(case).replay(BUILTIN[policy])
    split = Example(replace(case, threads=2, block_bytes=5000)).replay(BUILTIN[policy])
    for field in fields(Traffic):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(split, field.name))


def test_negative_zeros_are_zeros() -> None:
    trace = load_trace({"glu": np.array([[[0.0, -0.0, -0.0, 1.0]]], np.float32)})
    method = build_method(trace, Settings(method="glu-oracle", density=0.75))
    assert replay(trace, method, BUILTIN["lru"], np.array([[4]])).active.item() == 3


# Laws (docs/replay.md) ---------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32 - 1)


def random_sets(seed: int, tokens: int = 30, units: int = 70) -> np.ndarray:
    """bool[tokens, 2, units], some units more popular than others."""
    rng = np.random.default_rng(seed)
    return rng.random((tokens, 2, units)) < rng.random((2, units)) ** 2


def hits(
    sets: np.ndarray,
    policy: str | Policy,
    capacity: Any,
    threads: int | None = None,
    **options: Any,
) -> np.ndarray:
    """Hits of every layer, int[layers]; ``capacity`` is one number or one per layer."""
    trace = load_trace({"glu": sets})
    method = build_method(trace, Settings(method="recorded"))
    each = np.broadcast_to(capacity, sets.shape[1])[:, None]
    chosen = BUILTIN[policy] if isinstance(policy, str) else policy
    settings = Settings(**options)
    traffic = replay(trace, method, chosen, each, settings, threads=threads)
    return traffic.hits.sum(axis=(0, 2))


@given(SEEDS, st.integers(1, 5))
def test_opt_is_what_trying_everything_finds(seed: int, capacity: int) -> None:
    sets = random_sets(seed, tokens=6, units=6)
    best = [
        naive.brute_force_opt([np.flatnonzero(row).tolist() for row in sets[:, layer]], capacity)
        for layer in range(2)
    ]
    assert hits(sets, "opt", capacity).tolist() == best


@settings(max_examples=15)
@given(SEEDS, st.integers(0, 70))
def test_opt_bounds_every_policy_that_starts_empty(seed: int, capacity: int) -> None:
    sets = random_sets(seed)
    best = hits(sets, "opt", capacity)
    for policy in CACHING:
        for admission in ("forced", "ranked") if policy in RANKING else (None,):
            assert (hits(sets, policy, capacity, admission=admission) <= best).all()


@settings(max_examples=15)
@given(SEEDS, st.integers(0, 30))
def test_belady_is_best_of_forced_when_every_set_fits(seed: int, spare: int) -> None:
    sets = random_sets(seed)
    capacity = sets.sum(axis=2).max(axis=0) + spare
    best = hits(sets, "belady", capacity)
    for policy in FORCED:
        assert (hits(sets, policy, capacity) <= best).all()


@settings(max_examples=15)
@given(SEEDS, st.integers(0, 10))
def test_forced_policies_agree_when_no_set_fits(seed: int, short: int) -> None:
    sets = random_sets(seed)
    capacity = np.maximum(sets.sum(axis=2).min(axis=0) - short, 0)
    same = hits(sets, "lru", capacity)
    for policy in FORCED:
        np.testing.assert_array_equal(hits(sets, policy, capacity), same)


@pytest.mark.parametrize(
    ("policy", "admission"),
    [(p, None) for p in ALWAYS_FULL]
    + [(p, a) for p in RANKING if p in EMPTY for a in ("forced", "ranked")],
)
def test_a_big_cache_has_compulsory_misses_only(policy: str, admission: Any) -> None:
    sets = random_sets(seed=1)
    compulsory = sets.any(axis=0).sum(axis=1)
    expected = sets.sum(axis=(0, 2)) - compulsory
    np.testing.assert_array_equal(hits(sets, policy, 70, admission=admission), expected)


@pytest.mark.parametrize("policy", BUILTIN)
def test_only_what_draws_depends_on_the_seed(policy: str) -> None:
    first, again, other = (
        hits(random_sets(seed=1, tokens=200), policy, 40, seed=seed) for seed in (7, 7, 9)
    )
    np.testing.assert_array_equal(first, again)
    assert (first == other).all() == (policy not in ("random", "lfru-sampled"))


@pytest.fixture(scope="module", params=[0.5, 0.7])
def relabelled(request: pytest.FixtureRequest) -> list[Trace]:
    """The sets dip chooses on the shipped trace at a density: as it is, and relabelled 5 times."""
    trace = load_trace("smollm2-chat")
    method = build_method(trace, Settings(method="dip", density=request.param))
    with np.load(files.shipped("traces") / "smollm2-chat.npz") as arrays:
        codes = [arrays[group.signal] for group in method.groups]
    rng = np.random.default_rng(0)
    traces = []
    for _ in range(6):
        chosen = {}
        for group, code in zip(method.groups, codes, strict=True):
            best = np.argsort(255 - code, axis=-1, kind="stable")[..., : group.kept]
            chosen[group.signal] = np.zeros(code.shape, np.bool_)
            np.put_along_axis(chosen[group.signal], best, True, axis=-1)
        traces.append(load_trace(chosen))
        codes = [code[..., rng.permutation(code.shape[-1])] for code in codes]
    return traces


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.6, 0.8])
@pytest.mark.parametrize("policy", [name for name in CACHING if name != "random"] + ["static"])
def test_relabelling_units_moves_no_hit_rate(
    policy: str, fraction: float, relabelled: list[Trace]
) -> None:
    rates = []
    for trace in relabelled:
        method = build_method(trace, Settings(method="recorded"))
        held = [naive.capacity(fraction, group.units) for group in method.groups]
        traffic = replay(trace, method, BUILTIN[policy], np.array([held] * trace.layers))
        rates.append(traffic.hits.sum(axis=(0, 1)) / traffic.active.sum(axis=(0, 1)))
    np.testing.assert_allclose(rates[1:], [rates[0]] * 5, rtol=0, atol=0.003)


# Policies of one's own -------------------------------------------------------------------------


def queue_state(units: int, capacity: int, seed: int) -> np.ndarray:
    """How many units are queued, then the units, first come first."""
    return np.zeros(capacity + 1, np.int64)


def queue_evict(state: np.ndarray, unit: int, evictable: np.ndarray, token: int) -> int:
    for i in range(1, state[0] + 1):
        if evictable[state[i]]:
            return state[i]
    return -1


def queue_leave(state: np.ndarray, unit: int) -> None:
    place = 1
    while state[place] != unit:
        place += 1
    for i in range(place, state[0]):
        state[i] = state[i + 1]
    state[0] -= 1


def queue_insert(state: np.ndarray, unit: int, token: int) -> None:
    state[0] += 1
    state[state[0]] = unit


QUEUE = Policy(
    "queue", state=queue_state, evict=queue_evict, leave=queue_leave, insert=queue_insert
)


def float_touch(state: np.ndarray, unit: int, token: int, hit: int) -> None:
    state[unit] = token


def float_rank(state: np.ndarray, unit: int, token: int) -> float:
    return (state[unit] - 8) / 3


FLOAT = Policy("float", touch=float_touch, rank=float_rank)


def careless_state(units: int, capacity: int, seed: int) -> np.ndarray:
    """Whom each of 8 units pushes out, right or wrong, and how often it was used."""
    return np.array([0, 0, 0, 0, -1, 99, 0, 0] + [0] * 8)


def careless_touch(state: np.ndarray, unit: int, token: int, hit: int) -> None:
    state[8 + unit] += 1


def careless_evict(state: np.ndarray, unit: int, evictable: np.ndarray, token: int) -> int:
    return state[unit]


def careless_insert(state: np.ndarray, unit: int, token: int) -> None:
    pass


CARELESS = Policy(
    "careless",
    state=careless_state,
    touch=careless_touch,
    evict=careless_evict,
    insert=careless_insert,
)


@pytest.mark.slow
@settings(max_examples=40)
@given(cases("dip-ca", admission=None))
def test_a_queue_that_is_first_in_first_out_equals_fifo(case: Case) -> None:
    compare(case, QUEUE, twin="fifo")


@pytest.mark.slow
@settings(max_examples=40)
@given(cases("recorded"))
def test_ranks_may_be_negative_and_fractions(case: Case) -> None:
    compare(case, FLOAT, twin="lru")


@pytest.mark.parametrize(
    ("sets", "capacity", "problem"),
    [
        ([[1], [2]], 1, "evict returned unit 0 in layer 0"),  # not resident
        ([[0, 1], [0, 2]], 2, "evict returned unit 0 in layer 0"),  # in use
        ([[0, 1], [2, 3]], 2, "evict returned unit 0 in layer 0"),  # has left already
        ([[7], [4]], 1, "evict returned unit -1 in layer 0"),  # no such unit
        ([[0], [5]], 1, "evict returned unit 99 in layer 0"),
        ([[8]], 1, "IndexError"),  # touch writes where its state has ended
    ],
)
def test_a_careless_policy_is_caught(sets: list[list[int]], capacity: int, problem: str) -> None:
    active = np.zeros((len(sets), 1, max(map(max, sets)) + 1), np.bool_)
    for t, units in enumerate(sets):
        active[t, 0, units] = True
    with pytest.raises(PolicyError, match=f"policy careless: .*{problem}"):
        hits(active, CARELESS, capacity)


# Refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["belady", "opt"])
def test_no_future_where_sets_depend_on_the_cache(policy: str) -> None:
    trace = load_trace({signal: np.ones((2, 1, 4), np.float32) for signal in SIGNALS})
    method = build_method(trace, Settings(method="dip-ca"))
    with pytest.raises(MethodError, match="no policy-independent optimum"):
        replay(trace, method, BUILTIN[policy], np.ones((1, 2), int))


@pytest.mark.parametrize("policy", ["none", "static", QUEUE])
def test_what_does_not_rank_admits_its_own_way_only(policy: str | Policy) -> None:
    with pytest.raises(PolicyError, match="--admission ranked is for policies that rank"):
        hits(random_sets(seed=1), policy, 3, admission="ranked")


@pytest.mark.parametrize("warmup", [30, 31, -1])
def test_a_warmup_leaves_a_token_to_measure(warmup: int) -> None:
    trace = load_trace({"glu": random_sets(seed=1, tokens=30)})
    with pytest.raises(TraceError, match="use --warmup 0 to 29"):
        measured_rows(trace.name, trace.rows, warmup)


def test_contenders_of_a_pass_choose_masks_in_rooms_of_their_own() -> None:
    rng = np.random.default_rng(3)
    trace = load_trace({name: rng.random((6, 2, 65), np.float32) for name in SIGNALS})
    method = build_method(trace, Settings(method="dip-ca", density=0.5))
    settings = Settings()
    sets = ActiveSets(trace, method, settings)
    (block,) = sets.blocks()
    one, other = (block.with_own_masks(method) for _ in range(2))
    for i in range(2):
        assert not np.shares_memory(one.sets[i], other.sets[i])
    measured = measured_rows(trace.name, trace.rows, 0)
    policy, sizes = BUILTIN["lru"], [np.array([[units, 20]] * 2) for units in (30, 40)]
    some = [Contender(policy, [size], settings, measured) for size in sizes]
    together = replay_policies(sets, some, threads=2)
    for size, found in zip(sizes, together, strict=True):
        alone = replay(trace, method, policy, size, settings)
        assert found is not None
        assert found[0].hits.tolist() == alone.hits.tolist()
        assert found[0].mass.tolist() == alone.mass.tolist()
