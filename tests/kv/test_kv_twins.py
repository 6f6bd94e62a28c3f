"""Every rule of eviction against its naive twin: the same sets at every token, the same outputs."""

import numpy as np
import pytest

from dipsim.kv.attention import Heads
from dipsim.kv.eviction import evict_layer, plan_eviction
from dipsim.kv.replay import replay
from dipsim.kv.rules import BUILTIN, load_rule
from naive import kv as naive

TOKENS, HEADS, KV_HEADS, DIM = 44, 6, 2, 4
FREQUENCIES = np.array([1.0, 0.03])

CASES = [
    ("full", {}),
    ("window", {}),
    ("streaming", {"sinks": 2}),
    ("streaming", {"sinks": 3, "rerotate": "yes"}),
    ("h2o", {}),
    ("h2o", {"recent": 0.25, "sinks": 1, "every": 3}),
    ("h2o", {"window": 5}),
    ("vatp", {"sinks": 2}),
    ("tova", {}),
    ("tova", {"heads": "kv"}),
    ("observed", {}),
    ("snapkv", {"window": 4}),
    ("snapkv", {"window": 3, "pool": "max", "kernel": 3}),
    ("snapkv", {"window": 3, "pool": "none"}),
    ("adakv", {"window": 4}),
    ("adakv", {"window": 2, "safe": 0.6, "kernel": 3}),
    ("criticalkv", {"window": 3}),
    ("criticalkv", {"window": 5, "first": 0.2, "pool": "none"}),
    ("keydiff", {"every": 1}),
    ("keydiff", {"every": 5}),
    ("knorm", {}),
    *(
        ("obcache", {"score": score, "gqa": gqa, "recent": 3, "window": 4})
        for score in ("value", "key", "joint")
        for gqa in ("sum", "mean")
    ),
    ("obcache", {"score": "key", "recent": 2, "window": 0, "pool": "avg", "every": 4, "sinks": 1}),
]


def vectors(seed, tokens=TOKENS, layers=1):
    """Queries, keys and values, float64[tokens, layers, heads * dim]."""
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(tokens, layers, n * DIM)) for n in (HEADS, KV_HEADS, KV_HEADS)]


def heads_of(arrays, softcap=0.0):
    q, k, v = (a[:, 0].reshape(len(a), -1, DIM) for a in arrays)
    sizes = np.random.default_rng(9).uniform(1, 5, size=(len(q), KV_HEADS))
    return Heads(q, k, v, DIM**-0.5, softcap, sizes, FREQUENCIES)


def named(name, given):
    return f"{name}:{','.join(f'{k}={v}' for k, v in given.items())}" if given else name


def test_every_rule_has_a_twin():
    assert {name for name, _ in CASES} == set(BUILTIN) - {"pyramidkv"}


TIMED = [
    (name, given, when)
    for name, given in CASES
    for when in ("token", "prompt", "both")
    if name not in ("adakv", "criticalkv") or when != "token"  # these cut prompts only
]


@pytest.mark.parametrize(
    ("name", "given", "when"), TIMED, ids=[f"{named(*case)} {when}" for *case, when in TIMED]
)
def test_the_sets_and_outputs_are_those_of_the_twin(name, given, when):
    for seed, budget, prompt, softcap in ((1, 9, 30, 0.0), (2, 13, 20, 0.7)):
        arrays = vectors(seed)
        heads = heads_of(arrays, softcap)
        prompt = 0 if when == "token" else prompt
        eviction = plan_eviction(
            named(name, given), budget, TOKENS, 1, when=when, prompt=prompt or None
        )
        evicted = evict_layer(eviction, 0, heads)
        twin = naive.run(
            naive.rule_of(name, **given),
            heads.queries,
            heads.keys,
            heads.values,
            budget,
            prompt,
            when != "prompt",
            softcap,
            evicts=name != "full",
            sizes=heads.projected,
            frequencies=heads.frequencies,
        )
        for t in range(TOKENS):
            for j in range(KV_HEADS):
                seen = np.flatnonzero(evicted.left[j, : t + 1] > t)
                assert seen.tolist() == twin.seen[t][j], (t, j)
        assert evicted.outputs == pytest.approx(np.array(twin.outputs), abs=1e-12)


def test_what_is_lost_is_that_of_plain_softmax():
    q, k, v = vectors(3, layers=2)
    result = replay("h2o", 10, q, k, v, head_dim=DIM, threads=1)
    layer = 1
    queries, keys, values = (a[:, layer].reshape(TOKENS, -1, DIM) for a in (q, k, v))
    twin = naive.run(naive.rule_of("h2o"), queries, keys, values, 10)
    for t in (0, 9, 10, 43):
        mass, change, energy = 0.0, 0.0, 0.0
        for h in range(HEADS):
            j = h // (HEADS // KV_HEADS)
            a = naive.softmax(keys[: t + 1, j] @ queries[t, h] / np.sqrt(DIM))
            dense = a @ values[: t + 1, j]
            mass += a[twin.seen[t][j]].sum() / HEADS
            change += np.sum((twin.outputs[t][h] - dense) ** 2)
            energy += np.sum(dense**2)
        assert result.mass[t, layer] == pytest.approx(mass, rel=1e-12)
        assert result.change[t, layer] == pytest.approx(change, rel=1e-9, abs=1e-25)
        assert result.energy[t, layer] == pytest.approx(energy, rel=1e-12)
    assert result.mass_kept(20)[layer] == pytest.approx(result.mass[20:, layer].mean())
    error = result.change[20:, layer].sum() / result.energy[20:, layer].sum()
    assert result.output_error(20)[layer] == pytest.approx(error)


@pytest.mark.parametrize("rule", ["h2o", "snapkv:window=4"])
def test_held_counts_are_those_of_the_sets(rule):
    q, k, v = vectors(4, layers=2)
    result = replay(rule, 9, q, k, v, head_dim=DIM, prompt=20)
    counts = result.held_counts()
    for t in range(TOKENS):
        assert counts[t, 1, 0] == len(result.held(1, 0, t))
        assert set(result.held(1, 0, t)) <= set(result.seen(1, 0, t))


def test_threads_and_other_layers_change_nothing():
    q, k, v = vectors(5, layers=3)
    one = replay("obcache:recent=3", 9, q, k, v, head_dim=DIM, threads=1)
    three = replay("obcache:recent=3", 9, q, k, v, head_dim=DIM, threads=3)
    alone = replay("obcache:recent=3", 9, q[:, 2:], k[:, 2:], v[:, 2:], head_dim=DIM)
    assert np.array_equal(one.left, three.left)
    assert np.array_equal(one.change, three.change)
    assert np.array_equal(one.left[2], alone.left[0])


def test_half_precision_is_taken_and_keeps_nearly_the_same():
    q, k, v = (a.astype(np.float16) for a in vectors(6))
    half = replay("h2o", 9, q, k, v, head_dim=DIM)
    exact = replay("h2o", 9, *(a.astype(np.float64) for a in (q, k, v)), head_dim=DIM)
    assert np.mean(half.left == exact.left) > 0.9
    assert half.mass_kept() == pytest.approx(exact.mass_kept(), rel=1e-3)


def test_a_rule_is_taken_as_an_object_too():
    q, k, v = vectors(7)
    rule = load_rule("tova:heads=kv")
    assert np.array_equal(
        replay(rule, 9, q, k, v, head_dim=DIM).left,
        replay("tova:heads=kv", 9, q, k, v, head_dim=DIM).left,
    )
