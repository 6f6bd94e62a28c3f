"""The methods against their naive twins, to the count: sets, and what a cache makes of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipsim.methods import build_method
from dipsim.model import Model, load_model
from dipsim.policies import BUILTIN
from dipsim.replay.active_sets import active_sets
from dipsim.settings import Settings
from dipsim.simulate import simulate
from dipsim.trace import Trace, load_trace
from dipsim.trace.encoding import unpack_sets
from naive import methods as twins
from naive import replay as naive
from tools.paths import shared
from tools.replays import replay

LOG8 = np.array([0] + [2 ** ((q - 255) / 20) for q in range(1, 256)], np.float32)
HALVES = [0, 215, 235, 255]  # codes of log8 that stand for 0, 1/4, 1/2, 1
ONLINE = ("lru", "lfu", "lfu-decay", "arc", "s3fifo", "sieve", "none")
EACH_ONLINE = [
    pytest.param(policy, marks=[] if policy in ("lru", "lfu") else pytest.mark.slow)
    for policy in ONLINE
]
"""A cache-aware method compiles a loop for each, which takes seconds."""
Sets = list[list[list[list[int]]]]
"""Units by token, layer and group."""
Chooser = Callable[[int, int], naive.Choose]
"""A rule for each layer and group."""


# The twin --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is drawn; the arrays follow from ``seed``."""

    seed: int
    encoding: str
    ties: bool
    tokens: int
    layers: int
    hidden: int
    intermediate: int
    density: float
    other_density: float
    share: float
    sequences: int
    cluster: int
    policy: str
    reset: Any
    prefill: Any
    threads: int
    block_bytes: int


def cases(**fixed: Any) -> st.SearchStrategy[Case]:
    drawn = {
        "seed": st.integers(0, 2**32 - 1),
        "encoding": st.sampled_from(["float16", "float32", "log8"]),
        "ties": st.booleans(),
        "tokens": st.integers(3, 20),
        "layers": st.integers(1, 2),
        "hidden": st.sampled_from([1, 7, 64, 65, 90]),
        "intermediate": st.sampled_from([1, 5, 63, 66, 130]),
        "density": st.floats(0.35, 1),
        "other_density": st.floats(0.05, 1),
        "share": st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]),
        "sequences": st.integers(1, 3),
        "cluster": st.just(1),
        "policy": st.sampled_from(ONLINE),
        "reset": st.sampled_from(["never", "sequence"]),
        "prefill": st.sampled_from(["stream", "cache"]),
        "threads": st.integers(1, 2),
        "block_bytes": st.sampled_from([1, 3000, 2**25]),
    }
    given = {name: st.just(value) for name, value in fixed.items()}
    return st.builds(Case, **{**drawn, **given})


def clustered(**fixed: Any) -> st.SearchStrategy[Case]:
    """Cases of which units may be joined."""
    sizes = st.sampled_from([1, 2, 3, 6])
    return sizes.flatmap(
        lambda size: cases(cluster=size, hidden=size * 11, intermediate=size * 23, **fixed)
    )


class Drawn:
    """A case made ready for both: a trace, and plain rows of every signal.

    Attributes:
        scores: float32[tokens, layers, units], among which a row's best are chosen.
        values: the same in the units they were recorded in.
    """

    def __init__(self, case: Case, *signals: str) -> None:
        self.case = case
        self.rng = rng = np.random.default_rng(case.seed)
        self.decode = rng.random(case.tokens) < 0.6
        self.decode[-1] = True
        self.sequence = np.sort(rng.integers(0, case.sequences, case.tokens))
        self.scores: dict[str, np.ndarray] = {}
        self.values: dict[str, np.ndarray] = {}
        self.arrays = {"phase": self.decode.astype(np.uint8), "sequence": self.sequence}
        self.declared: dict[str, Any] = {}
        for signal in signals:
            self.draw(signal)

    @cached_property
    def trace(self) -> Trace:
        """The trace, once all arrays are there."""
        return load_trace({**self.arrays, "meta": {"signals": self.declared}}).clustered(
            self.case.cluster
        )

    def draw(self, signal: str) -> None:
        case, rng = self.case, self.rng
        units = case.hidden if signal in ("mlp_input", "attn_input", "attn_output") else 0
        shape = (case.tokens, case.layers, units or case.intermediate)
        if case.encoding == "log8":
            stored = rng.choice(HALVES if case.ties else 256, shape).astype(np.uint8)
            largest = rng.random(shape[:2], np.float32)
            self.arrays[f"{signal}.max"] = largest
            self.declared[signal] = {"encoding": "log8"}
            scores, values = LOG8[stored], LOG8[stored] * largest[..., None]
        else:
            drawn = rng.integers(0, 4, shape) if case.ties else rng.lognormal(0, 2, shape)
            stored = drawn.astype(case.encoding)
            if rng.random() < 0.3:
                stored[rng.integers(case.tokens)] = 0
            scores = values = stored.astype(np.float32)
        self.arrays[signal] = stored
        self.scores[signal], self.values[signal] = joined(scores, case), joined(values, case)

    def capacity(self, units: Sequence[int]) -> np.ndarray:
        """Units each cache holds, int[layers, groups]: about the share of the case."""
        size = np.array([units] * self.case.layers)
        held = (size * self.case.share).astype(int) + self.rng.integers(-2, 3, size.shape)
        return np.clip(held, 0, size)

    @property
    def starts(self) -> list[int]:
        """The first rows of all sequences but the first."""
        return [int(t) for t in np.flatnonzero(np.diff(self.sequence)) + 1]

    @property
    def actions(self) -> list[str]:
        found = ["commit"] * self.case.tokens
        for t in np.flatnonzero(~self.decode):
            ends = t + 1 == self.case.tokens or self.decode[t + 1] or t + 1 in self.starts
            found[t] = "skip" if self.case.prefill == "stream" else "commit" if ends else "join"
        return found

    def compare(
        self,
        method: Any,
        rows: Callable[[int, int], Sequence[Any]],
        shares: Callable[[int, int, int, list[int]], Sequence[float]] | None,
        choose: Chooser | None = None,
        **plan: Any,
    ) -> None:
        """Replay on both sides; every token, layer and group must be the same.

        Args:
            rows: the rows of a layer and group: sets, or what ``choose`` takes.
            shares: mass and energy of what a token, layer and group has chosen.
        """
        case = self.case
        capacity = self.capacity([group.units for group in method.groups])
        settings = Settings(reset=case.reset, prefill=case.prefill, seed=case.seed, **plan)
        with small_blocks(case):
            traffic = replay(
                self.trace, method, BUILTIN[case.policy], capacity, settings, threads=case.threads
            )
        for layer, group in np.ndindex(*capacity.shape):
            twin = naive.replay(
                rows(layer, group),
                method.groups[group].units,
                int(capacity[layer, group]),
                case.policy,
                actions=self.actions,
                resets=self.starts if case.reset == "sequence" else [],
                seed=case.seed,
                layer=layer,
                group=group,
                choose=None if choose is None else choose(layer, group),
                fill="random" if plan.get("compat") == "authors" else "ascending",
            )
            counts = (traffic.active, traffic.hits, traffic.kept)
            found = np.stack([count[:, layer, group] for count in counts], axis=1).tolist()
            assert found == [[row.active, row.hits, row.kept] for row in twin]
            if shares is not None:
                booked = np.flatnonzero(self.decode | (case.prefill == "cache"))
                held = (traffic.mass, traffic.energy)
                there = np.stack([share[booked, layer, group] for share in held], axis=1)
                expected = [shares(t, layer, group, twin[t].chosen) for t in booked]
                np.testing.assert_allclose(there, expected, rtol=1e-5, atol=1e-7)

    def score_shares(self, *signals: str) -> Callable[[int, int, int, list[int]], list[float]]:
        """The shares of groups that choose by these signals."""
        rows = {signal: self.scores[signal].tolist() for signal in signals}
        return lambda t, layer, group, chosen: twins.score_shares(
            rows[signals[group]][t][layer], chosen
        )


def joined(scores: np.ndarray, case: Case) -> np.ndarray:
    """Scores of clusters."""
    if case.cluster == 1:
        return scores
    rows = [[twins.cluster_scores(row, case.cluster) for row in token] for token in scores.tolist()]
    return np.array(rows, np.float32)


def small_blocks(case: Case) -> Any:
    return patch("dipsim.trace.trace._BLOCK_BYTES", case.block_bytes)


def found_sets(trace: Trace, method: Any) -> Sets:
    """The sets that dipsim chooses, whatever the cache."""
    chosen: Sets = []
    for _, _, words in active_sets(trace, method):
        groups = zip(words, method.groups, strict=True)
        active = [unpack_sets(of_group, group.units) for of_group, group in groups]
        for row in zip(*active, strict=True):
            layers = zip(*row, strict=True)
            chosen.append([[np.flatnonzero(sets).tolist() for sets in layer] for layer in layers])
    return chosen


def compare_sets(drawn: Drawn, method: Any, expected: Sets, *signals: str) -> None:
    """Both sides choose these sets, and replay them equally."""
    with small_blocks(drawn.case):
        assert found_sets(drawn.trace, method) == expected
    drawn.compare(
        method,
        lambda layer, group: [set(row[layer][group]) for row in expected],
        drawn.score_shares(*signals) if signals else None,
    )


def per_row(case: Case, groups: int, choose: Callable[[int, int, int], list[int]]) -> Sets:
    """The sets that ``choose(token, layer, group)`` finds."""
    return [
        [[choose(t, layer, group) for group in range(groups)] for layer in range(case.layers)]
        for t in range(case.tokens)
    ]


def spanned(drawn: Drawn) -> tuple[int, int]:
    """Some rows to calibrate on; not all."""
    start, stop = sorted(drawn.rng.choice(drawn.case.tokens, 2, replace=False))
    return int(start), int(stop)


# Top-k -----------------------------------------------------------------------------------------


def check_dense_first(drawn: Drawn, name: str, density: float) -> None:
    """Methods gate and up, at an MLP density."""
    method = build_method(drawn.trace, Settings(method=name, density=density))
    rows = drawn.scores[name].tolist()
    units = len(rows[0][0])
    k = naive.kept_units(twins.group_density(name, density), units)
    assert [(group.signal, group.units, group.kept) for group in method.groups] == [
        (name, units, k)
    ]
    expected = per_row(drawn.case, 1, lambda t, layer, group: naive.top_k(rows[t][layer], k))
    compare_sets(drawn, method, expected, name)


@pytest.mark.parametrize("name", ["gate", "up"])
@settings(max_examples=20)
@given(case=clustered())
def test_gate_and_up(name: str, case: Case) -> None:
    check_dense_first(Drawn(case, name), name, case.density)


@pytest.mark.parametrize("name", ["glu", "glu-oracle", "dip"])
@settings(max_examples=12)
@given(case=clustered())
def test_clusters_of_scores(name: str, case: Case) -> None:
    signals = SIGNALS[name]
    drawn = Drawn(case, *signals)
    density = dict(zip(signals, (case.density, case.other_density), strict=False))
    method = build_method(drawn.trace, Settings(method=name, group_density=density))

    def chosen(t: int, layer: int, group: int) -> list[int]:
        row = drawn.scores[signals[group]][t, layer].tolist()
        return naive.top_k(row, naive.kept_units(density[signals[group]], len(row)))

    compare_sets(drawn, method, per_row(case, len(signals), chosen), *signals)


@settings(max_examples=20)
@given(case=clustered(), packed=st.booleans())
def test_clusters_of_sets(case: Case, packed: bool) -> None:
    drawn = Drawn(case)
    sets = drawn.rng.random((case.tokens, case.layers, case.intermediate)) < 0.2
    drawn.arrays["glu"] = sets
    if packed:
        drawn.arrays["glu"] = np.packbits(sets, axis=-1, bitorder="little")
        drawn.declared["glu"] = {"encoding": "bits", "units": case.intermediate}

    def chosen(t: int, layer: int, group: int) -> list[int]:
        return sorted(twins.cluster_set(np.flatnonzero(sets[t, layer]).tolist(), case.cluster))

    method = build_method(drawn.trace, Settings(method="recorded"))
    compare_sets(drawn, method, per_row(case, 1, chosen))


# Thresholds ------------------------------------------------------------------------------------


def by_threshold(
    drawn: Drawn, signals: Sequence[str], span: tuple[int, int], density: Sequence[Sequence[float]]
) -> Sets:
    """The twin's sets, with a density for each layer and group."""
    values = [drawn.values[signal] for signal in signals]
    limits = [
        [
            twins.calibrate(of_group[slice(*span), layer].tolist(), density[layer][i])
            for i, of_group in enumerate(values)
        ]
        for layer in range(drawn.case.layers)
    ]
    return per_row(
        drawn.case,
        len(signals),
        lambda t, layer, group: twins.above(values[group][t, layer].tolist(), limits[layer][group]),
    )


SIGNALS = {
    "cats": ("gate",),
    "gate": ("gate",),
    "up": ("up",),
    "glu": ("glu",),
    "glu-oracle": ("glu",),
    "dip": ("mlp_input", "glu"),
    "dip-ca": ("mlp_input", "glu"),
}


def check_thresholds(
    drawn: Drawn, name: str, span: tuple[int, int], density: tuple[float, float]
) -> None:
    """A method with thresholds; densities are those of the MLP where it has a dense part."""
    signals = SIGNALS[name]
    settings: dict[str, Any] = {"calibrate_tokens": f"{span[0]}:{span[1]}"}
    if name != "cats":
        settings["selection"] = "threshold"
    if name in ("cats", "gate", "up"):
        settings["density"] = density[0]
        density = (twins.group_density(name, density[0]), 0)
    else:
        settings["group_density"] = dict(zip(signals, density, strict=False))
    method = build_method(drawn.trace, Settings(method=name, **settings))
    expected = by_threshold(drawn, signals, span, [density] * drawn.case.layers)
    compare_sets(drawn, method, expected, *signals)


@pytest.mark.parametrize("name", ["cats", "gate", "up", "glu", "glu-oracle", "dip"])
@settings(max_examples=15)
@given(case=clustered())
def test_thresholds(name: str, case: Case) -> None:
    drawn = Drawn(case, *SIGNALS[name])
    check_thresholds(drawn, name, spanned(drawn), (case.density, case.other_density))


TEAL = ("attn_input", "attn_output", "mlp_input", "glu")


def geometry(layers: int, hidden: int, intermediate: int) -> dict[str, Any]:
    """A model of these sizes."""
    return {
        "name": "drawn",
        "layers": layers,
        "hidden": hidden,
        "intermediate": intermediate,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": hidden // 2,
        "vocab": 16,
        "tied_embeddings": True,
        "bits": 8,
    }


def model_of(case: Case) -> Model:
    return load_model(geometry(case.layers, case.hidden, case.intermediate))


def check_teal(
    drawn: Drawn, signals: Sequence[str], split: str | None, span: tuple[int, int], density: float
) -> None:
    """Method teal with these signals."""
    case = drawn.case
    settings = Settings(density=density, split=split, calibrate_tokens=f"{span[0]}:{span[1]}")
    method = build_method(
        drawn.trace,
        settings.model_copy(update={"method": "teal"}),
        model_of(case),
    )
    assert [group.signal for group in method.groups] == signals
    weights = twins.teal_weights(case.hidden, case.intermediate, 2, 1, case.hidden // 2)
    densities = [[density] * len(signals)] * case.layers
    if split != "equal":
        densities = [
            twins.greedy_densities(
                [drawn.values[signal][slice(*span), layer].tolist() for signal in signals],
                [weights[signal] for signal in signals],
                density,
            )
            for layer in range(case.layers)
        ]
    compare_sets(drawn, method, by_threshold(drawn, signals, span, densities), *signals)


@pytest.mark.parametrize("split", [None, "greedy", "equal"])
@settings(max_examples=10)
@given(
    case=cases(hidden=6) | cases(hidden=12, cluster=2, intermediate=46) | cases(hidden=40),
    there=st.sets(st.sampled_from(TEAL), min_size=1),
    density=st.floats(0.05, 1.0),
)
def test_teal(split: str | None, case: Case, there: set[str], density: float) -> None:
    signals = [signal for signal in TEAL if signal in there]
    drawn = Drawn(case, *signals)
    check_teal(drawn, signals, split, spanned(drawn), density)


# Predictor -------------------------------------------------------------------------------------


def noise_of(method: Any, layers: int) -> list[float]:
    """The solved noise of every layer; it must be a number for each, 0 or more."""
    sigma = list(method.groups[0].noise)
    assert len(sigma) == layers
    assert min(sigma) >= 0
    return sigma


def check_predictor(
    drawn: Drawn, density: float, recall: float | None, first: int = 0, layer0: int = 0
) -> None:
    """Method predictor on scores, on the rows and layers of the trace from these on."""
    case = drawn.case
    trace = drawn.trace.part(tokens=f"{first}:", layers=f"{layer0}:")
    settings = Settings(group_density={"glu": density}, recall=recall, seed=case.seed)
    model = load_model(geometry(trace.layers, case.hidden, case.intermediate))
    method = build_method(
        trace,
        settings.model_copy(update={"method": "predictor"}),
        model,
    )
    rows = drawn.values["glu"].tolist()
    units = len(rows[0][0])
    k = naive.kept_units(density, units)
    sigma = noise_of(method, trace.layers)
    assert recall != 1 or sigma == [0.0] * trace.layers

    def predicted(t: int, layer: int) -> list[int]:
        blur = twins.noise(case.seed, layer, t, units)
        return twins.predicted(rows[t][layer], k, sigma[layer - layer0], blur)

    expected = [
        [[predicted(t, layer)] for layer in range(layer0, case.layers)]
        for t in range(first, case.tokens)
    ]
    if first == layer0 == 0:
        compare_sets(drawn, method, expected, "glu")
    with small_blocks(case):
        assert found_sets(trace, method) == expected


@settings(max_examples=25)
@given(
    case=cases(hidden=7, intermediate=65) | cases(cluster=2, hidden=14, intermediate=66),
    density=st.floats(0.1, 0.4),  # of which chance alone finds less than the least recall
    recall=st.sampled_from([None, 0.7, 0.85, 1.0]),
    cut=st.booleans(),
)
def test_predictor(case: Case, density: float, recall: float | None, cut: bool) -> None:
    at = (1, case.layers - 1) if cut else (0, 0)
    check_predictor(Drawn(case, "glu"), density, recall, *at)


@settings(max_examples=15)
@given(case=cases(hidden=7, intermediate=65), recall=st.sampled_from([None, 0.7, 0.85, 1.0]))
def test_predictor_of_recorded_sets(case: Case, recall: float | None) -> None:
    drawn = Drawn(case)
    shape = (case.tokens, case.layers, case.intermediate)
    sets = drawn.rng.random(shape) < drawn.rng.uniform(0, 0.5, (*shape[:2], 1))
    sets[0] = False
    drawn.arrays["glu"] = sets
    settings = Settings(recall=recall, seed=case.seed)
    method = build_method(
        drawn.trace,
        settings.model_copy(update={"method": "predictor"}),
        model_of(case),
    )
    sigma = noise_of(method, case.layers)
    assert recall != 1 or sigma == [0.0] * case.layers

    def predicted(t: int, layer: int, group: int) -> list[int]:
        blur = twins.noise(case.seed, layer, t, case.intermediate)
        active = set(np.flatnonzero(sets[t, layer]).tolist())
        return twins.predicted_set(active, case.intermediate, sigma[layer], blur)

    compare_sets(drawn, method, per_row(case, 1, predicted))


@pytest.mark.parametrize("recall", [0.5, 0.7, 0.9, 0.99])
def test_the_predictor_recalls_what_it_shall(recall: float) -> None:
    rng = np.random.default_rng(1)
    scores = rng.lognormal(0, 1, (60, 2, 200)).astype(np.float32)
    trace = load_trace({"glu": scores})
    model = load_model(geometry(layers=2, hidden=8, intermediate=200))
    settings = Settings(group_density={"glu": 0.3}, recall=recall, seed=4)
    found = found_sets(
        trace,
        build_method(
            trace,
            settings.model_copy(update={"method": "predictor"}),
            model,
        ),
    )
    for layer in range(2):
        wanted = [naive.top_k(row.tolist(), 60) for row in scores[:, layer]]
        assert twins.recall([row[layer][0] for row in found], wanted) == pytest.approx(
            recall, abs=0.02
        )


# Cache-aware masking ---------------------------------------------------------------------------


def written(rule: str, parameters: Mapping[str, float]) -> str:
    """A rule as on the command line."""
    listed = ",".join(f"{name}={value!r}" for name, value in parameters.items())
    return f"{rule}:{listed}" if listed else rule


GAMMAS = st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0])
EXEMPT = st.sampled_from([0.0, 0.1, 0.4, 1.0])


@st.composite
def parameters_of_masking(draw: Any, rule: str) -> dict[str, float]:
    """Parameters of a masking rule, some left out; of approximate without ``top_m``."""
    parameters: dict[str, float] = {}
    if draw(st.booleans()):
        parameters["fixed_top_n"] = draw(EXEMPT)
    if rule == "approximate" and draw(st.booleans()):
        parameters["counts"] = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
    if rule != "approximate" and draw(st.booleans()):
        parameters["warm_up"] = draw(st.sampled_from([0, 1]))
    return parameters


@pytest.mark.parametrize("policy", EACH_ONLINE)
@pytest.mark.parametrize("rule", ["gamma", "blend", "approximate"])
@settings(max_examples=15)
@given(data=st.data())
def test_masking(rule: str, policy: str, data: st.DataObject) -> None:
    case = data.draw(clustered(policy=policy) | cases(policy=policy))
    parameters = data.draw(parameters_of_masking(rule))
    signals = SIGNALS["dip-ca"]
    density = (case.density, case.other_density)
    gamma = dict(zip(signals, data.draw(st.tuples(GAMMAS, GAMMAS)), strict=True))
    if rule == "approximate":
        extra = data.draw(st.sampled_from([0.0, 0.1, 0.5]))
        parameters["top_m"] = min(1.0, max(density) + extra)
        gamma = {}
    check_masking(Drawn(case, *signals), density, rule, parameters, gamma)


def check_masking(
    drawn: Drawn,
    density: tuple[float, float],
    rule: str,
    parameters: Mapping[str, Any],
    gamma: Mapping[str, float],
) -> None:
    """Method dip-ca with a masking rule."""
    signals = SIGNALS["dip-ca"]
    settings = Settings(
        group_density=dict(zip(signals, density, strict=True)),
        gamma=gamma,
        masking=None if rule == "gamma" and not parameters else written(rule, parameters),
    )
    method = build_method(drawn.trace, settings.model_copy(update={"method": "dip-ca"}))

    def choose(layer: int, group: int) -> naive.Choose:
        signal = signals[group]
        k = naive.kept_units(density[group], drawn.scores[signal].shape[-1])
        return twins.masking(rule, k, gamma.get(signal, 1.0), **parameters)

    drawn.compare(
        method,
        lambda layer, group: drawn.scores[signals[group]][:, layer].tolist(),
        drawn.score_shares(*signals),
        choose,
    )


# Expert routing --------------------------------------------------------------------------------


def router_rows(drawn: Drawn, kind: str, experts: int, k: int) -> list[list[dict[int, float]]]:
    """Draw the signal ``expert``; the candidates' logits by token and layer."""
    case, rng = drawn.case, drawn.rng
    shape = (case.tokens, case.layers, experts)
    logits = rng.integers(-2, 3, shape) * 1.0 if case.ties else rng.normal(0, 2, shape)
    odd = rng.choice([1, 1.37, 2.11, 3.43, 5.19], shape)  # sums and bonuses never tie
    weights = (odd if case.ties else np.exp(logits)) * (rng.random(shape) < 0.8)
    if kind in ("float16", "float32"):
        stored = drawn.arrays["expert"] = logits.astype(kind)
        return [[dict(enumerate(row)) for row in token] for token in stored.astype(float).tolist()]
    if kind == "prob":
        stored = (weights / (weights.sum(-1, keepdims=True) + 1)).astype(np.float32)
        drawn.arrays["expert"] = stored
        drawn.declared["expert"] = {"encoding": "prob"}
        return [
            [twins.log_weights(dict(enumerate(row))) for row in token] for token in stored.tolist()
        ]
    listed = rng.random(shape) < 0.7
    listed[..., : k + 1] = True
    listed[rng.integers(case.tokens)] = False
    indptr = np.concatenate([[0], np.cumsum(listed.sum(-1).ravel())]).astype(np.int64)
    stored = weights.astype(np.float32)
    drawn.arrays |= {
        "expert.indptr": indptr,
        "expert.indices": np.nonzero(listed)[2].astype(np.uint16),
        "expert.shape": np.array(shape, np.int64),
        "expert.scores": stored[listed],
    }
    return [
        [
            twins.log_weights({int(unit): float(row[unit]) for unit in np.flatnonzero(here)})
            for row, here in zip(token, where, strict=True)
        ]
        for token, where in zip(stored, listed, strict=True)
    ]


RULES = ["plain", "cache-prior", "max-rank", "drop-cold", "reuse-distance"]


@st.composite
def parameters_of_routing(draw: Any, rule: str, k: int) -> dict[str, float]:
    """Parameters of a routing rule, some left out."""
    allowed: dict[str, st.SearchStrategy[float]] = {
        "cache-prior": {
            "lambda": st.sampled_from([0.0, 0.05, 0.5, 3.0]),
            "top_j": st.integers(0, k),
        },
        "max-rank": {"top_j": st.integers(0, k), "max_rank": st.integers(k, 2 * k + 3)},
        "drop-cold": {"factor": st.sampled_from([0.0, 0.3, 0.7, 0.97])},
    }.get(rule, {})
    return {name: draw(one) for name, one in allowed.items() if draw(st.booleans())}


@pytest.mark.parametrize("policy", EACH_ONLINE)
@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=12)
@given(data=st.data())
def test_routing(rule: str, policy: str, data: st.DataObject) -> None:
    case = data.draw(cases(policy=policy))
    experts = data.draw(st.sampled_from([4, 8, 64, 70]))
    k = data.draw(st.integers(1, min(experts - 1, 6)))
    parameters = data.draw(parameters_of_routing(rule, k))
    kind = data.draw(st.sampled_from(["float16", "float32", "prob", "sparse"]))
    drawn = Drawn(case)
    rows = router_rows(drawn, kind, experts, k)
    check_routing(drawn, rows, k, rule, parameters)


def check_routing(
    drawn: Drawn,
    rows: Sequence[Sequence[Mapping[int, float]]],
    k: int,
    rule: str,
    parameters: Mapping[str, float],
) -> None:
    """Method moe with a routing rule; the rows are the candidates' logits by token and layer."""
    routing = None if rule == "plain" else written(rule, parameters)
    method = build_method(drawn.trace, Settings(method="moe", routing=routing, top_k=k))
    drawn.compare(
        method,
        lambda layer, group: [
            twins.Routed(row[layer], decode=bool(drawn.decode[t])) for t, row in enumerate(rows)
        ],
        lambda t, layer, group, chosen: twins.router_shares(rows[t][layer], chosen),
        lambda layer, group: twins.routing(rule, k, parameters),
    )


# The authors' simulator ------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["lru", "lfu", "belady", "none"])
@settings(max_examples=15)
@given(data=st.data())
def test_random_fill(policy: str, data: st.DataObject) -> None:
    fixed = {"reset": "sequence", "prefill": "stream"}  # the authors have nothing else
    case = data.draw(cases(policy=policy, density=0.9, share=0.6, **fixed))
    drawn = Drawn(case, "glu")
    method = build_method(drawn.trace, Settings(method="glu-oracle", density=0.7))
    k = naive.kept_units(0.7, case.intermediate)
    rows = drawn.scores["glu"].tolist()
    drawn.compare(
        method,
        lambda layer, group: [set(naive.top_k(row[layer], k)) for row in rows],
        drawn.score_shares("glu"),
        compat="authors",
    )


@pytest.mark.parametrize("mode", ["serial", "concurrent"])
@settings(max_examples=15)
@given(
    case=cases(hidden=8, intermediate=20, encoding="float32", reset="sequence", prefill="stream"),
    name=st.sampled_from(["dip", "dip-ca", "glu", "glu-oracle", "gate", "up"]),
    policy=st.sampled_from(["lru", "lfu", "belady", "none"]),
    budget=st.floats(0.2, 1.2),
    context=st.none() | st.integers(1, 40),
)
def test_compat_authors(
    mode: Any, case: Case, name: str, policy: str, budget: float, context: int | None
) -> None:
    if name == "dip-ca" and policy == "belady":
        policy = "lru"
    signals = SIGNALS[name]
    drawn = Drawn(case, *signals)
    density = dict(zip(signals, (0.75, 0.5), strict=False))
    gamma = {"mlp_input": 0.5, "glu": 0.2} if name == "dip-ca" else {}
    net = twins.Net(case.layers, 8, 20, 2, 1, 4, 16, weight_bytes=1.0, kv_bytes=2.0)
    lengths = {s: int((drawn.sequence == s).sum()) for s in set(drawn.sequence.tolist())}
    positions = max(lengths.values()) if context is None else context
    groups = twins.masked_groups(net, name)
    mlp = sum(group.units * group.unit_bytes(net) for group in groups) * net.layers
    static = twins.authors_static(net, name)
    dram = round(static + twins.authors_kv(net, positions) + (budget - 0.4) * mlp)
    dram = max(dram, 1)
    result = simulate(
        drawn.trace,
        {
            "name": "phone",
            "dram": {"capacity": "1 GB", "bandwidth": "60 MB/s"},
            "flash": {"bandwidth": "1 MB/s"},
            "compute": "unlimited",
        },
        model=geometry(case.layers, case.hidden, case.intermediate),
        method=name,
        group_density=density,
        gamma=gamma,
        policy=policy,
        dram=f"{dram} B",
        context=context,
        compat="authors",
        overlap=f"paper-{mode}",
        seed=case.seed,
        threads=1,
    )
    capacity = twins.authors_capacity(net, name, dram, positions)
    assert result.budget.capacity.tolist() == [capacity] * case.layers
    traffic = result.traffic
    for layer, group in np.ndindex(case.layers, len(groups)):
        signal = signals[group]
        rows = drawn.scores[signal][:, layer].tolist()
        k = naive.kept_units(density[signal], len(rows[0]))
        twin = naive.replay(
            rows if gamma else [set(naive.top_k(row, k)) for row in rows],
            len(rows[0]),
            capacity[group],
            policy,
            admission=None if policy == "none" else "forced",
            actions=drawn.actions,
            resets=drawn.starts,
            k=k,
            gamma=gamma.get(signal),
            seed=case.seed,
            layer=layer,
            group=group,
            fill="random",
        )
        found = [traffic.active[:, layer, group], traffic.hits[:, layer, group]]
        assert np.stack(found, axis=1).tolist() == [[row.active, row.hits] for row in twin]

    latencies: dict[int, list[float]] = {}
    for t in np.flatnonzero(drawn.decode):
        here = int(drawn.sequence[t])
        prompt = int((~drawn.decode & (drawn.sequence == here)).sum())
        average = twins.average_positions(prompt, lengths[here])
        spent = twins.authors_latency(
            net,
            name,
            traffic.hits[t].tolist(),
            traffic.misses[t].tolist(),
            dram_rate=60e6,
            flash_rate=1e6,
            positions=average if context is None else context,
            overflow=max(0.0, static + twins.authors_kv(net, positions) - dram),
            mode=mode,
        )
        latencies.setdefault(here, []).append(spent)
    assert result.tokens_per_second == pytest.approx(twins.authors_rate(latencies), rel=1e-9)


# Recorded traces -------------------------------------------------------------------------------


STAND_INS = {
    "mlp_input": "mlp_input",
    "attn_input": "mlp_input",
    "attn_output": "mlp_input",
    "glu": "glu",
    "gate": "glu",
    "up": "glu",
}
"""Which recorded array is taken for a signal."""


class Recorded(Drawn):
    """The beginning of a recorded trace: 4 tokens of prompt, then decode tokens."""

    def __init__(self, path: Path, policy: str, tokens: int = 20, layers: int = 2) -> None:
        self.case = Case(
            seed=1, encoding="float16", ties=False, tokens=tokens, layers=layers, hidden=576,
            intermediate=1536, density=0.6, other_density=0.4, share=0.6, sequences=1, cluster=1,
            policy=policy, reset="never", prefill="cache", threads=1, block_bytes=2**25,
        )  # fmt: skip
        self.rng = np.random.default_rng(1)
        self.decode = np.arange(tokens) >= 4
        self.sequence = np.zeros(tokens, int)
        self.arrays = {"phase": self.decode.astype(np.uint8)}
        self.declared = {}
        with np.load(path) as file:
            stored = {name: file[name][:tokens, :layers] for name in ("mlp_input", "glu")}
        self.arrays |= {signal: stored[name] for signal, name in STAND_INS.items()}
        self.scores = {
            signal: stored[name].astype(np.float32) for signal, name in STAND_INS.items()
        }
        self.values = self.scores


GAMMA = {"mlp_input": 0.5, "glu": 0.2}
CHECKS: dict[str, Callable[[Drawn], None]] = {
    "gate": lambda drawn: check_dense_first(drawn, "gate", 0.6),
    "up": lambda drawn: check_dense_first(drawn, "up", 0.6),
    "cats": lambda drawn: check_thresholds(drawn, "cats", (0, 8), (0.6, 0)),
    "dip by thresholds": lambda drawn: check_thresholds(drawn, "dip", (2, 9), (0.6, 0.4)),
    "predictor": lambda drawn: check_predictor(drawn, 0.4, 0.9),
    "teal": lambda drawn: check_teal(drawn, list(TEAL), "greedy", (0, 8), 0.5),
    "gamma": lambda drawn: check_masking(
        drawn, (0.6, 0.4), "gamma", {"warm_up": 1, "fixed_top_n": 0.1}, GAMMA
    ),
    "blend": lambda drawn: check_masking(
        drawn, (0.6, 0.4), "blend", {"warm_up": 1}, {"mlp_input": 0.8, "glu": 0.6}
    ),
    "approximate": lambda drawn: check_masking(
        drawn, (0.6, 0.4), "approximate", {"top_m": 0.8, "counts": 0.3, "fixed_top_n": 0.1}, {}
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "policy"),
    [("smollm2-135m-news-128", "lfu-decay"), ("smollm2-135m-chat-256", "s3fifo")],
)
@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_recorded_traces(name: str, policy: str, check: str) -> None:
    CHECKS[check](Recorded(recorded(name), policy))


@pytest.mark.parametrize("policy", ["lru", pytest.param("sieve", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RULES)
def test_routing_by_recorded_scores(rule: str, policy: str) -> None:
    drawn = Recorded(recorded("smollm2-135m-chat-256"), policy, tokens=200)
    logits = np.log(drawn.scores["glu"][:, :, :60] + np.float32(1e-4)).astype(np.float32)
    drawn.trace = load_trace({"phase": drawn.arrays["phase"], "expert": logits})
    rows = [[dict(enumerate(row)) for row in token] for token in logits.astype(float).tolist()]
    check_routing(drawn, rows, 6, rule, {})


def recorded(name: str) -> Path:
    return shared(f"traces/{name}.npz")
