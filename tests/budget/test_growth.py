"""KV that grows: against a naive twin, by hand, and the laws that follow from the rule."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dipsim
from dipsim.errors import BudgetError, DipsimError, ModelError, PolicyError, TraceError
from dipsim.methods import build_method
from dipsim.policies import BUILTIN
from dipsim.repeat import read_config
from dipsim.replay.contender import CapacityByRow
from dipsim.settings import Settings
from dipsim.simulate import prepare
from dipsim.trace import load_trace
from naive import growth as naive_growth
from naive import replay as naive
from tools.one_layer import DEVICE, KV, NEURON, STATIC, TINY, trace
from tools.replays import replay, replay_all

COMPILED = ["lru", "lfu", "opt"]
"""Policies whose loops with changing capacities other tests here need too."""
OTHERS = ["lfu-decay", "random", "belady", "fifo", "mru", "lfu-resident", "lru-k"]
ACTION = {True: "commit", False: "join"}


def run(sets: list[set[int]], marks: dict[str, object] | None = None, **options: Any) -> Any:
    options = {"policy": "lru", "kv": "grow", **options}
    return dipsim.simulate(trace(sets, **(marks or {})), DEVICE, **options)


def held(each: list[int]) -> CapacityByRow:
    """Capacities of the rows of one layer with one group."""
    return CapacityByRow(np.array(each, np.int64)[:, None, None], np.arange(len(each)))


# By hand -----------------------------------------------------------------------------------------


def test_a_unit_leaves_for_every_token_of_kv() -> None:
    # 222 B less 152 static: 70, and 54, 38, 22, 6 B beside the KV of 1 to 4 tokens: room for
    # 4, 3, 1 and 0 neurons. Token 0 loads 0-3. Before token 1, 0 leaves: 1 hits. Before token 2,
    # 2 and 3 leave, 1 hits. Before token 3 everything leaves.
    result = run([{0, 1, 2, 3}, {1}, {1}, {1}], dram="222 B")
    assert result.traffic.active.ravel().tolist() == [4, 1, 1, 1]
    assert result.traffic.hits.ravel().tolist() == [0, 1, 1, 0]
    assert result.traffic.kept.ravel().tolist() == [4, 0, 0, 0]
    budget = result.to_dict()["budget"]
    assert (budget["kv"], budget["cache"]) == (4 * KV, 6)
    assert budget["start"] == {"kv": KV, "cache": 54}
    assert result.to_dict()["groups"][0]["capacity"] == 0


def test_a_new_sequence_gives_the_dram_back_and_keeps_what_is_there() -> None:
    # Room for 4, 3, 1, then a new sequence: 4 again. 3 was kept through token 2.
    sets = [{0, 1, 2, 3}, {2, 3}, {3}, {0, 3}, {0}]
    kept = run(sets, {"sequence": [0, 0, 0, 1, 1]}, dram="222 B")
    assert kept.traffic.hits.ravel().tolist() == [0, 2, 1, 1, 1]
    emptied = run(sets, {"sequence": [0, 0, 0, 1, 1]}, dram="222 B", reset="sequence")
    assert emptied.traffic.hits.ravel().tolist() == [0, 2, 1, 0, 1]


def test_kv_grows_to_the_context_and_no_further() -> None:
    sets = [{0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}]
    short = run(sets, dram="222 B", context=1)
    fixed = run(sets, dram="222 B", context=1, kv="fixed")
    assert short.traffic.hits.ravel().tolist() == [0, 4, 4]
    assert (short.traffic.hits == fixed.traffic.hits).all()
    assert short.budget.kv == fixed.budget.kv == KV


def test_a_batch_of_prefill_has_the_kv_of_its_last_token() -> None:
    # Rows 0-2 are one batch, served with KV for 3 tokens: room for one neuron.
    marks = {"phase": np.array([0, 0, 0, 1], np.uint8)}
    result = run([{5}, {6}, {7}, {5}], marks, dram="222 B", prefill="cache")
    assert result.traffic.kept.ravel().tolist() == [0, 0, 1, 0]
    streamed = run([{5}, {6}, {7}, {5}], marks, dram="222 B")
    assert streamed.traffic.kept.ravel().tolist() == [0, 0, 0, 0]


# The twin ----------------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "seed": draw(st.integers(0, 2**32)),
        "admission": draw(st.sampled_from([None, "forced", "ranked"])),
        "tokens": draw(st.integers(1, 24)),
        "units": draw(st.sampled_from([1, 7, 63, 64, 65, 130])),
        "sequences": draw(st.integers(1, 3)),
        "prefill": draw(st.sampled_from(["cache", "stream"])),
        "reset": draw(st.sampled_from(["never", "sequence"])),
        "block": draw(st.sampled_from([1, 40, 2**25])),
    }


@pytest.mark.parametrize(
    "policy",
    [*COMPILED, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)],
)
@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_replay_is_that_of_the_twin(policy: str, case: dict[str, Any]) -> None:
    against_the_twin(policy, **case)


def against_the_twin(
    policy: str,
    seed: int,
    admission: Any,
    tokens: int,
    units: int,
    sequences: int,
    prefill: Any,
    reset: Any,
    block: int,
) -> None:
    case = Drawn(seed, tokens, units, sequences, prefill)
    sets = case.rng.random((tokens, 1, units)) < case.rng.random((tokens, 1, 1))
    found = load_trace({"glu": sets, **case.marks})
    plan = Settings(admission=admission, reset=reset, prefill=prefill, seed=seed)
    method = build_method(found, Settings(method="recorded"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dipsim.trace.trace._BLOCK_BYTES", block)
        traffic = replay(found, method, BUILTIN[policy], held(case.capacities), plan)
    twin = naive_growth.replay_growing(
        [set(np.flatnonzero(row[0]).tolist()) for row in sets],
        units,
        case.capacities,
        policy,
        actions=case.actions,
        resets=case.borders if reset == "sequence" else (),
        admission=admission,
        stream=(seed, 0, 0),
    )
    same(traffic, twin)


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 16),
    units=st.sampled_from([7, 65]),
    gamma=st.sampled_from([0.0, 0.3, 1.0]),
    prefill=st.sampled_from(["cache", "stream"]),
)
@settings(max_examples=40, deadline=None)
def test_masks_that_depend_on_the_cache_see_it_shrunk(
    seed: int, tokens: int, units: int, gamma: float, prefill: Any
) -> None:
    case = Drawn(seed, tokens, units, 2, prefill)
    scores = case.rng.integers(0, 9, (tokens, 1, units)).astype(np.float32)
    found = load_trace({"mlp_input": scores, "glu": scores, **case.marks})
    settings = Settings(
        group_density={"mlp_input": 0.5, "glu": 0.5}, gamma={"mlp_input": gamma, "glu": gamma}
    )
    method = build_method(found, settings.model_copy(update={"method": "dip-ca"}))
    each = np.repeat(np.array(case.capacities, np.int64)[:, None, None], 2, axis=2)
    sizes = CapacityByRow(each, np.arange(tokens))
    traffic = replay(found, method, BUILTIN["lfu"], sizes, Settings(prefill=prefill))
    twin = naive_growth.replay_growing(
        [row[0].tolist() for row in scores],
        units,
        case.capacities,
        "lfu",
        actions=case.actions,
        k=naive.kept_units(0.5, units),
        gamma=gamma,
    )
    for group in range(2):
        same(traffic, twin, group)


@given(
    seed=st.integers(0, 2**32),
    policy=st.sampled_from(["lru", "lfu"]),
    tokens=st.integers(1, 10),
    units=st.tuples(st.sampled_from([3, 64]), st.sampled_from([5, 65])),
)
@settings(max_examples=40, deadline=None)
def test_one_global_cache_is_that_of_the_twin(
    seed: int, policy: str, tokens: int, units: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    names, size = ("mlp_input", "glu"), (3.0, 2.0)
    sets = {
        name: rng.random((tokens, 2, n)) < rng.random((tokens, 2, 1))
        for name, n in zip(names, units, strict=True)
    }
    whole = 2 * sum(n * b for n, b in zip(units, size, strict=True))
    room = rng.integers(0, int(whole) + 1, tokens).astype(float)
    found = load_trace(sets)
    method = build_method(found, Settings(method="recorded"))
    traffic = replay_all(
        found,
        method,
        BUILTIN[policy],
        [CapacityByRow(room, np.arange(tokens))],
        Settings(scope="global"),
        unit_bytes=np.array([size, size]),
    )[0]
    first = dict(zip([(0, 0), (0, 1), (1, 0), (1, 1)], np.cumsum([0, 130, 130, 130]), strict=True))
    batches, bytes_of = [], {}
    for t in range(tokens):
        for (layer, i), base in first.items():
            batches.append({int(base) + int(u) for u in np.flatnonzero(sets[names[i]][t, layer])})
            bytes_of |= dict.fromkeys(range(int(base), int(base) + units[i]), size[i])
    twin = naive_growth.replay_growing_global(
        batches, bytes_of, np.repeat(room, 4).tolist(), [i % 4 == 0 for i in range(4 * tokens)],
        policy,
    )  # fmt: skip
    assert traffic.hits.ravel().tolist() == [row.hits for row in twin]
    assert traffic.kept.ravel().tolist() == [row.kept for row in twin]


class Drawn:
    """Phases, sequences and capacities drawn from a seed; the last row always ends a batch."""

    def __init__(self, seed: int, tokens: int, units: int, sequences: int, prefill: str) -> None:
        self.rng = rng = np.random.default_rng(seed)
        decode = rng.random(tokens) < 0.6
        decode[-1] = True
        sequence = np.sort(rng.integers(0, sequences, tokens))
        self.marks = {"phase": decode.astype(np.uint8), "sequence": sequence}
        self.borders = [r for r in range(1, tokens) if sequence[r] != sequence[r - 1]]
        self.actions = ["commit"] * tokens
        for r in np.flatnonzero(~decode):
            ends = decode[r + 1] or r + 1 in self.borders
            self.actions[r] = ACTION[bool(ends)] if prefill == "cache" else "skip"
        self.capacities = [int(c) for c in rng.integers(0, units + 1, tokens)]
        for r in range(tokens - 2, -1, -1):  # the rows of a batch have one capacity
            if self.actions[r] == "join":
                self.capacities[r] = self.capacities[r + 1]


def same(traffic: Any, twin: list[naive.Row], group: int = 0) -> None:
    assert traffic.active[:, 0, group].tolist() == [row.active for row in twin]
    assert traffic.hits[:, 0, group].tolist() == [row.hits for row in twin]
    assert traffic.kept[:, 0, group].tolist() == [row.kept for row in twin]


@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 20),
    dram=st.integers(STATIC + 20 * KV, STATIC + 30 * KV),
    equal=st.booleans(),
    prefill=st.sampled_from(["cache", "stream"]),
    context=st.sampled_from([None, 5, 20]),
)
@settings(max_examples=40, deadline=None)
def test_the_whole_run_is_that_of_the_twins(
    seed: int, tokens: int, dram: int, equal: bool, prefill: Any, context: int | None
) -> None:
    case = Drawn(seed, tokens, 8, 3, prefill)
    sets = case.rng.random((tokens, 1, 8)) < 0.4
    result = dipsim.simulate(
        {"glu": sets, "meta": {"model": TINY}, **case.marks},
        DEVICE,
        policy="lfu",
        kv="grow",
        dram=f"{dram} B",
        allocate="equal" if equal else "even",
        prefill=prefill,
        context=context,
    )
    starts = [0, *case.borders, tokens]
    positions = [at for a, b in pairwise(starts) for at in range(b - a)]
    tokens_held = naive_growth.tokens_held(positions, case.actions, context or max(positions) + 1)
    capacities = [
        naive_growth.division(dram - STATIC - KV * n, [8], [NEURON], equal=equal)[0]
        for n in tokens_held
    ]
    twin = naive_growth.replay_growing(
        [set(np.flatnonzero(row[0]).tolist()) for row in sets],
        8,
        capacities,
        "lfu",
        actions=case.actions,
    )
    same(result.traffic, twin)
    assert result.budget.kv == KV * max(tokens_held)


# Laws --------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_opt_is_the_optimum_also_where_capacities_change(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, 6))
    sets = [data.draw(st.sets(st.integers(0, 4), max_size=4)) for _ in range(tokens)]
    capacities = data.draw(st.lists(st.integers(0, 4), min_size=tokens, max_size=tokens))
    found = load_trace(trace(sets))
    method = build_method(found, Settings(method="recorded"))
    hits = replay(found, method, BUILTIN["opt"], held(capacities), Settings()).hits
    assert hits.sum() == naive_growth.most_hits([frozenset(s) for s in sets], capacities)


@pytest.mark.parametrize(
    "more",
    [{}, {"allocate": "equal"}, {"scope": "global"}, {"overlap": "prefetch"}],
    ids=str,
)
def test_the_last_token_has_the_cache_of_fixed_kv(more: dict[str, Any]) -> None:
    told: dict[str, Any] = {"dram": "70%", **more}
    grown = prepare("smollm2-chat", "snapdragon8", kv="grow", **told)
    fixed = prepare("smollm2-chat", "snapdragon8", **told)
    assert grown.budget.growth is not None
    each, row = grown.budget.growth.each, grown.budget.growth.row
    assert np.array_equal(each[row[-1]], fixed.capacity)
    assert (np.diff(each.astype(float), axis=0) <= 0).all(), "KV only ever takes"
    assert grown.budget.kv == fixed.budget.kv
    assert grown.budget.cache == fixed.budget.cache


def test_constant_sizes_are_the_plain_replay() -> None:
    run = prepare("smollm2-chat", "snapdragon8", dram="60%", policy="lfu")
    trace_, method, plain = run.trace, run.method, run.capacity
    same_all = CapacityByRow(np.asarray(plain)[None], np.zeros(trace_.tokens, np.int64))
    one, other = replay_all(trace_, method, run.policy, [plain, same_all], run.settings)
    alone = replay(trace_, method, run.policy, plain, run.settings)
    for found in (one, other):
        assert np.array_equal(found.hits, alone.hits)
        assert np.array_equal(found.kept, alone.kept)


def test_the_optimum_gains_from_what_kv_does_not_need_yet() -> None:
    run = prepare("smollm2-chat", "snapdragon8", kv="grow", dram="60%", policy="opt")
    sizes = [run.capacity, run.budget.capacity]
    grown, fixed = replay_all(run.trace, run.method, run.policy, sizes, run.settings)
    assert grown.hits.sum() > fixed.hits.sum()


def test_a_result_repeats_itself(tmp_path: Any) -> None:
    result = dipsim.simulate("smollm2-chat", "snapdragon8", kv="grow", dram="60%", policy="lru")
    (tmp_path / "result.json").write_text(result.to_json())
    saved = read_config(str(tmp_path / "result.json"))
    again = dipsim.simulate(saved.open_trace(), saved.profile, **saved.settings_with({}))
    assert again.to_dict() == result.to_dict()


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"cache": "48 B"}, DipsimError, "--cache gives them without it: give --dram"),
        ({"cache_fraction": 0.5}, DipsimError, "--cache-fraction gives them without it"),
        ({"allocate": "optimal", "dram": "400 B"}, DipsimError, "use --allocate even or equal"),
        ({"compat": "authors", "dram": "400 B"}, DipsimError, "has fixed only; drop one"),
        ({"policy": "arc", "dram": "400 B"}, PolicyError, "use a policy that ranks"),
        ({"policy": "static", "dram": "400 B"}, PolicyError, "use a policy that loads what is"),
        ({"access": "sequential", "dram": "400 B"}, PolicyError, "use --access atomic"),
        ({"dram": "175 B"}, BudgetError, "give more --dram, a smaller --context, or --kv fixed"),
        ({"kv": "swap", "dram": "400 B"}, DipsimError, "--kv: input should be 'fixed' or 'grow'"),
    ],
)
def test_what_cannot_be_is_refused(
    options: dict[str, Any], error: type[DipsimError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        run([{0}, {1}], **options)
    assert "\n" not in str(caught.value)


def test_without_a_model_the_size_of_kv_is_not_known() -> None:
    arrays = {**trace([{0}]), "meta": {"signals": {"glu": {"unit_bytes": 12}}}}
    with pytest.raises(ModelError, match="pass --model"):
        dipsim.simulate(arrays, DEVICE, kv="grow", dram="400 B")


def test_a_prompt_alone_leaves_nothing_to_measure() -> None:
    arrays = trace([{0}, {1}], phase=np.zeros(2, np.uint8))
    with pytest.raises(TraceError, match="holds no decode tokens"):
        dipsim.simulate(arrays, DEVICE, kv="grow", dram="400 B", policy="lru")


@pytest.mark.slow
def test_mapped_weights_keep_the_budget_of_growing_kv() -> None:
    overrides = ["flash.fault.seconds=1 ms"]
    mapped = run([{0}, {1}], dram="222 B", policy=None, io="mmap", overrides=overrides)
    plain = run([{0}, {1}], dram="222 B")
    assert mapped.budget.start == plain.budget.start
    assert mapped.to_dict()["groups"][0]["capacity"] == plain.to_dict()["groups"][0]["capacity"]
    with pytest.raises(BudgetError, match="give more --dram, a smaller --context, or --kv fixed"):
        run([{0}, {1}], dram="175 B", policy=None, io="mmap", overrides=overrides)
