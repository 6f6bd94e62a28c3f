"""Replays of decode steps of several tokens, against naive twins and by hand."""

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dipsim
from dipsim.errors import MethodError
from dipsim.methods import build_method
from dipsim.policies import load_policy
from dipsim.replay.active_sets import ActiveSets, largest_active
from dipsim.replay.contender import Contender, measured_rows
from dipsim.replay.replay import replay_policies
from dipsim.settings import Settings
from dipsim.systems.steps import plan_steps
from dipsim.trace import load_trace
from naive import replay as naive
from naive.steps import steps as naive_steps

UNITS = {"mlp_input": 70, "glu": 9}
DENSITY, GAMMA = {"mlp_input": 0.4, "glu": 0.5}, {"mlp_input": 0.5, "glu": 0.2}
PLANS = ("batch=2", "batch=3", "draft=1,accept=.5", "draft=3,accept=0", "draft=2,accept=1")


@dataclass(frozen=True)
class Case:
    """What is drawn; the arrays follow from ``seed``."""

    seed: int
    tokens: int
    plan: str
    share: float
    reset: Any
    prefill: Any
    block_bytes: int


CASES = st.builds(
    Case,
    seed=st.integers(0, 2**40),
    tokens=st.integers(12, 30),
    plan=st.sampled_from(PLANS),
    share=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    reset=st.sampled_from(["never", "sequence"]),
    prefill=st.sampled_from(["stream", "cache"]),
    block_bytes=st.sampled_from([1, 3000, 2**25]),
)


def options_of(plan: str) -> dict[str, Any]:
    name, _, value = plan.partition("=")
    return {"batch": int(value)} if name == "batch" else {"speculate": plan}


class Example:
    """A case made ready for both: scores of two layers, sequences, prompts."""

    def __init__(self, case: Case, method: str) -> None:
        rng = np.random.default_rng(case.seed)
        self.case, self.aware = case, method == "dip-ca"
        self.decode = rng.random(case.tokens) < 0.8
        self.decode[2:7] = True  # so that there is a whole step
        self.sequence = np.sort(rng.integers(0, 2, case.tokens))
        self.sequence[:8] = 0
        self.scores = {
            name: rng.random((case.tokens, 2, units), np.float32) for name, units in UNITS.items()
        }
        arrays = {"phase": self.decode.astype(np.uint8), "sequence": self.sequence}
        self.trace = load_trace({**arrays, **self.scores})
        gamma = GAMMA if self.aware else {}
        self.settings = Settings(
            method=method,
            group_density=DENSITY,
            gamma=gamma,
            reset=case.reset,
            prefill=case.prefill,
            **options_of(case.plan),
        )
        self.method = build_method(self.trace, self.settings)
        self.steps = plan_steps(self.trace, self.settings)
        assert self.steps is not None
        self.sets = ActiveSets(self.trace, self.method, self.settings, steps=self.steps)
        self.capacity = np.array([[int(case.share * units) for units in UNITS.values()]] * 2)

    def twin(self, policy: str, layer: int, group: int) -> list[naive.Row]:
        """Replay the rows of every step; all but the last join."""
        signal = self.method.groups[group].signal
        width = self.steps.width
        gives = iter(self.steps.given[self.steps.given > 0].tolist())
        taken = naive_steps(self.decode, self.sequence, width, gives)
        rows, actions = [], []
        for step in taken:
            rows += step.rows
            actions += ["join"] * (len(step.rows) - 1) + ["commit"]
        assert rows == self.steps.source.tolist()
        prompt = ~self.decode[rows]
        begins = np.diff(self.sequence[rows], prepend=self.sequence[0]) != 0
        for i in np.flatnonzero(prompt):
            goes_on = i + 1 < len(rows) and prompt[i + 1] and not begins[i + 1]
            if self.case.prefill == "stream":
                actions[i] = "skip"
            else:
                actions[i] = "join" if goes_on else "commit"
        k = naive.kept_units(DENSITY[signal], UNITS[signal])
        scores = self.scores[signal][rows, layer].tolist()
        masks = [set(naive.top_k(row, k)) for row in scores]
        return naive.replay(
            scores if self.aware else masks,
            UNITS[signal],
            int(self.capacity[layer, group]),
            policy,
            actions=actions,
            resets=np.flatnonzero(begins).tolist() if self.case.reset == "sequence" else [],
            k=k,
            gamma=GAMMA[signal] if self.aware else None,
        )

    def replay(self, policy: str) -> Any:
        plain = measured_rows("t", self.trace.rows, 0)
        contender = Contender(
            load_policy(policy),
            [self.capacity],
            self.settings,
            self.steps.measured("t", plain),
        )
        with patch("dipsim.trace.trace._BLOCK_BYTES", self.case.block_bytes):
            (traffics,) = replay_policies(self.sets, [contender])
        assert traffics is not None
        return traffics[0]


@pytest.mark.parametrize(
    ("method", "policy"),
    [("dip", "lru"), ("dip", "lfu"), ("dip", "opt"), ("dip", "arc"), ("dip-ca", "lfu")],
)
@settings(max_examples=15)
@given(case=CASES)
def test_counts_equal_the_twin(method: str, policy: str, case: Case) -> None:
    example = Example(case, method)
    traffic = example.replay(policy)
    for layer, group in np.ndindex(*example.capacity.shape):
        rows = example.twin(policy, layer, group)
        counts = (traffic.active, traffic.hits, traffic.kept, traffic.misses)
        found = np.stack([count[:, layer, group] for count in counts], axis=1).tolist()
        assert found == [[row.active, row.hits, row.kept, len(row.missed)] for row in rows]
        decode = example.steps.tokens.decode
        own = np.array([len(row.chosen) for row in rows])
        assert (traffic.own[decode, layer, group] == own[decode]).all()


@settings(max_examples=20)
@given(case=CASES)
def test_the_largest_set_is_that_of_a_step(case: Case) -> None:
    example = Example(case, "dip")
    rows = [[example.twin("lru", layer, group) for group in (0, 1)] for layer in (0, 1)]
    own = [[max(len(row.chosen) for row in each) for each in of] for of in rows]
    of_steps = [[max(row.active for row in each) for each in of] for of in rows]
    prompts = case.prefill == "cache"  # whose batches count here, but not there
    largest = largest_active(example.sets)
    if not prompts:
        assert largest.tolist() == np.maximum(own, of_steps).tolist()
    aware = Example(case, "dip-ca")
    k = [naive.kept_units(DENSITY[name], units) for name, units in UNITS.items()]
    most = np.minimum(np.array(k) * aware.steps.width, list(UNITS.values()))
    assert (largest_active(aware.sets) == most).all()


# By hand ------------------------------------------------------------------------------------------


def one_layer(sets: list[set[int]], **marks: Any) -> dict[str, Any]:
    glu = np.zeros((len(sets), 1, 5), np.bool_)
    for token, active in enumerate(sets):
        glu[token, 0, sorted(active)] = True
    meta = {"signals": {"glu": {"unit_bytes": 10, "slices": ["down"]}}}
    return {"glu": glu, "meta": meta, **marks}


SETS = [{0, 1}, {1, 2}, {1}, {3}, {0, 4}, {3, 4}]


def by_hand(**options: Any) -> dipsim.Result:
    given: dict[str, Any] = {"policy": "lru", "cache_fraction": 0.8, **options}
    return dipsim.simulate(one_layer(SETS), "paper-a18", **given)


def test_a_step_of_three_tokens_over_five_units() -> None:
    """{0, 1, 2} miss, and all stay; of {0, 3, 4} unit 0 hits. 4 fit, so 3 and 4 need a place: 1
    leaves, as the lower of those used as long ago."""
    result = by_hand(batch=3)
    rows = result.traffic.measured
    assert np.flatnonzero(rows).tolist() == [2, 5]
    assert result.traffic.active[rows].ravel().tolist() == [3, 3]
    assert result.traffic.hits[rows].ravel().tolist() == [0, 1]
    assert result.traffic.own.ravel().tolist() == [2, 2, 1, 1, 2, 2]
    assert (result.tokens, result.accesses, result.hits) == (6, 6, 1)
    assert result.flash_useful_bytes_per_token == pytest.approx(50 / 6)
    assert result.step["union_share"] == pytest.approx(3 / 5)
    assert result.step["token_share"] == pytest.approx(10 / 30)
    later = by_hand(batch=2)
    # {0, 1, 2} miss; {1, 3}: 1 hits; {0, 3, 4}: 0 and 3 hit, 4 misses.
    assert later.traffic.hits[later.traffic.measured].ravel().tolist() == [0, 1, 2]


def test_drafts_that_are_all_rejected_begin_a_step_at_every_token() -> None:
    result = by_hand(speculate="draft=2,accept=0")
    rows = np.flatnonzero(result.traffic.measured)
    windows = [SETS[i] | SETS[i + 1] | SETS[i + 2] for i in range(4)]
    assert result.traffic.active[rows].ravel().tolist() == [len(window) for window in windows]
    assert result.run.steps.source.tolist() == [0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5, 5]
    assert (result.tokens, result.step["steps"]) == (4, 4)  # the shorter ones at the end apart


def test_drafts_that_are_all_accepted_are_a_batch_but_for_their_kv() -> None:
    drafts, batch = by_hand(speculate="draft=2,accept=1"), by_hand(batch=3)
    for name in ("active", "hits", "kept", "own"):
        np.testing.assert_array_equal(getattr(drafts.traffic, name), getattr(batch.traffic, name))
    assert drafts.step["tokens_per_step"] == drafts.step["tokens_per_step_drawn"] == 3
    assert drafts.tokens_per_second == batch.tokens_per_second


@pytest.mark.parametrize("options", [{"batch": 1}, {"speculate": "draft=0,accept=.4,cost=1"}])
@pytest.mark.parametrize("method", ["dip", "dip-ca"])
def test_steps_of_one_token_are_no_steps(options: dict[str, Any], method: str) -> None:
    given: dict[str, Any] = {"method": method, "dram": "60%", "tokens": "0:24"}
    plain, alone = (
        dipsim.simulate("smollm2-chat", "snapdragon8", **given, **more).to_dict()
        for more in ({}, options)
    )
    assert plain.pop("config") != alone.pop("config")
    assert plain == alone


# The shipped trace --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("density", "draft", "expected"),
    [
        (0.5, 1, (0.726, 0.718)),
        (0.5, 2, (0.845, 0.833)),
        (0.5, 4, (0.947, 0.935)),
        (0.5, 7, (0.987, 0.981)),
        (0.7, 1, (0.898, None)),
        (0.7, 4, (0.994, None)),
    ],
)
def test_unions_of_the_shipped_trace(
    density: float, draft: int, expected: tuple[float | None, ...]
) -> None:
    """Drafts that are all rejected begin a step at every token: every window there is."""
    result = dipsim.simulate(
        "smollm2-chat",
        "paper-a18",
        method="dip",
        group_density={"mlp_input": density, "glu": density},
        cache_fraction=0.5,
        speculate=f"draft={draft},accept=0",
    )
    shares = [group["active"] / group["units"] for group in result.groups()]
    assert [round(share, 3) for share in shares[: 2 - expected.count(None)]] == [
        share for share in expected if share is not None
    ]


# What is refused ----------------------------------------------------------------------------------


def test_a_global_cache_has_no_one_state_for_all_tokens_of_a_step() -> None:
    options: dict[str, Any] = {"dram": "60%", "scope": "global", "tokens": "0:8", "policy": "lru"}
    with pytest.raises(MethodError, match="dip-ca chooses for all tokens of a step on one state"):
        dipsim.simulate("smollm2-chat", "snapdragon8", method="dip-ca", batch=2, **options)
    assert dipsim.simulate("smollm2-chat", "snapdragon8", batch=2, **options).accesses


@pytest.mark.parametrize("access", ["atomic", "sequential"])
def test_a_step_uses_its_units_once(access: Any) -> None:
    result = by_hand(batch=3, access=access)
    assert (result.accesses, result.step["steps"]) == (6, 2)


# Experts ------------------------------------------------------------------------------------------


def experts(tokens: int, **marks: Any) -> dict[str, Any]:
    logits = np.random.default_rng(3).normal(size=(tokens, 2, 8)).astype(np.float32)
    meta = {"signals": {"expert": {"unit_bytes": 100}}}
    return {"expert": logits, "meta": meta, **marks}


def test_a_step_needs_the_distinct_experts_of_its_tokens() -> None:
    arrays = experts(6)
    result = dipsim.simulate(arrays, "paper-a18", top_k=2, batch=3, cache_fraction=0.5)
    best = np.argsort(-arrays["expert"], axis=2)[:, :, :2].reshape(2, 3, 2, 2)
    distinct = [[len(set(step[:, layer].ravel())) for layer in (0, 1)] for step in best]
    assert result.traffic.active[result.traffic.measured, :, 0].tolist() == distinct


@pytest.mark.parametrize("routing", ["max-rank", "drop-cold:factor=1"])
@pytest.mark.slow
def test_routing_goes_by_the_cache_for_every_token_of_a_step(routing: str) -> None:
    """Both tokens of a step are alike, so together they need what one does, and lose as much."""
    arrays = experts(6)
    arrays["expert"][1::2] = arrays["expert"][::2]
    options: dict[str, Any] = {"top_k": 3, "cache_fraction": 0.5, "routing": routing}
    steps = dipsim.simulate(arrays, "paper-a18", batch=2, **options)
    tokens = {**arrays, "expert": arrays["expert"][::2]}
    alone = dipsim.simulate(tokens, "paper-a18", **options)
    ends = np.flatnonzero(steps.traffic.measured)
    for name in ("active", "hits", "kept", "mass"):
        of_steps, of_tokens = (getattr(result.traffic, name) for result in (steps, alone))
        np.testing.assert_array_equal(of_steps[ends], of_tokens)
    np.testing.assert_array_equal(steps.traffic.own[::2], steps.traffic.own[1::2])
    assert steps.routing_weight_lost == pytest.approx(alone.routing_weight_lost)
