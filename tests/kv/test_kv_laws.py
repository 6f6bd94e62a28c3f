"""Laws of eviction that hold for every rule, whatever the vectors."""

import numpy as np
import pytest

from dipsim.errors import BudgetError, DipsimError
from dipsim.kv.attention import Heads
from dipsim.kv.eviction import evict_layer, plan_eviction
from dipsim.kv.replay import replay
from dipsim.kv.rules import BUILTIN, load_rule, parameters_of
from dipsim.kv.rules.obcache import joint_change, key_change, value_change

TOKENS, LAYERS, HEADS, KV_HEADS, DIM = 40, 2, 4, 2, 4
SMALL = {
    "streaming": "sinks=2",
    "vatp": "sinks=2",
    "snapkv": "window=4",
    "pyramidkv": "window=2,beta=3",
    "adakv": "window=4",
    "criticalkv": "window=4",
    "keydiff": "every=3",
    "obcache": "recent=4,window=4",
}
RULES = [f"{name}:{SMALL[name]}" if name in SMALL else name for name in BUILTIN]
EVICTING = [rule for rule in RULES if rule != "full"]
AT_TOKENS = [rule for rule in EVICTING if not load_rule(rule).cuts_prompts_only]


def vectors(seed=0, tokens=TOKENS, dtype=np.float64):
    draw = np.random.default_rng(seed)
    return [
        draw.normal(size=(tokens, LAYERS, n * DIM)).astype(dtype)
        for n in (HEADS, KV_HEADS, KV_HEADS)
    ]


def run(rule, budget, arrays=None, **more):
    arrays = arrays or vectors()
    sizes = np.abs(arrays[2]).reshape(*arrays[2].shape[:2], -1, DIM).sum(axis=-1)
    return replay(rule, budget, *arrays, head_dim=DIM, threads=1, projected=sizes, **more)


def is_dense(result):
    """Nothing has left, and outputs are those of attention over all positions."""
    everything = (result.left == 2**31 - 1).all()
    return everything and (result.change <= 1e-25 * np.maximum(result.energy, 1)).all()


# Nothing to evict ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", AT_TOKENS)
@pytest.mark.parametrize("budget", [TOKENS, TOKENS + 7])
def test_a_budget_of_all_tokens_is_dense(rule, budget):
    result = run(rule, budget, when="token")
    assert is_dense(result)
    assert result.mass == pytest.approx(1)


@pytest.mark.parametrize("rule", RULES)
def test_a_budget_of_the_whole_prompt_is_dense(rule):
    result = run(rule, "100%", when="prompt", prompt=25)
    assert is_dense(result)
    assert result.mass == pytest.approx(1)


def test_full_is_dense_at_any_budget():
    for when, prompt in (("token", None), ("prompt", 30), ("both", 30)):
        assert is_dense(run("full", 3, when=when, prompt=prompt))
    assert not is_dense(run("window", 3))


# What is held -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", AT_TOKENS)
def test_at_each_token_the_budget_is_held(rule):
    result, every = run(rule, 10, when="token"), load_rule(rule).every
    counts = result.held_counts()
    assert counts[:10].tolist() == [[[t + 1] * KV_HEADS] * LAYERS for t in range(10)]
    assert counts[10:].min() == 10
    assert counts.max() == 10 + every - 1


@pytest.mark.parametrize("rule", EVICTING)
def test_a_prompt_is_cut_to_the_budget_and_grows_after(rule):
    result = run(rule, 10, when="prompt", prompt=25)
    counts = result.held_counts()
    assert (counts[23] == 24).all()
    assert counts[24].mean() == 10
    assert (counts[30] - counts[24] == 6).all()
    assert (result.mass[:25] == 1).all()
    assert (result.mass[25:] < 1).all()


@pytest.mark.parametrize("rule", EVICTING)
def test_after_a_prompt_is_cut_the_budgets_are_held(rule):
    counts = run(rule, 10, when="both", prompt=25).held_counts()
    assert (counts[25:] >= counts[24]).all()
    assert (counts[25:] < counts[24] + load_rule(rule).every).all()


@pytest.mark.parametrize("rule", EVICTING)
def test_protected_positions_never_leave(rule):
    result, loaded = run(rule, 10, when="both", prompt=25), load_rule(rule)
    for layer in range(LAYERS):
        budget = int(result.eviction.budgets[layer])
        for token in (24, 30, 39):
            held = set(result.held(layer, 0, token))
            assert set(range(loaded.sinks)) <= held
            if loaded.share == "uniform":
                assert set(range(token - loaded.recent(budget) + 1, token + 1)) <= held


def test_the_newest_alone_are_a_window():
    same = run("window", 10)
    for rule in ("h2o:recent=1", "obcache:recent=10", "streaming:sinks=0"):
        assert np.array_equal(run(rule, 10).left, same.left)
    assert all(same.seen(0, 0, t).tolist() == list(range(t - 10, t + 1)) for t in (10, 25, 39))


def test_one_set_for_a_layer_or_one_for_each_head():
    joined, apart = run("tova", 10).left, run("tova:heads=kv", 10).left
    assert (joined[:, 0] == joined[:, 1]).all()
    assert (apart[:, 0] != apart[:, 1]).any()


def test_scores_of_a_prompt_go_on_counting():
    """Cut and evict differs from evicting all along, and from growing."""
    lefts = [run("h2o", 10, when=when, prompt=25).left for when in ("token", "prompt", "both")]
    assert not np.array_equal(lefts[0], lefts[2])
    assert not np.array_equal(lefts[1], lefts[2])


def test_equal_keys_let_the_oldest_leave():
    q, k, v = vectors()
    k[:] = 1.0
    for rule in ("knorm", "keydiff:every=1"):
        assert run(rule, 10, [q, k, v], when="token").held(0, 0, 39).tolist() == list(range(30, 40))
        kept = run(rule, 10, [q, k, v], when="prompt", prompt=25).held(0, 0, 24)
        assert kept.tolist() == list(range(15, 25))


def test_counting_positions_anew_changes_weights_not_sets():
    frequencies = np.array([1.0, 0.1])
    turned = run("streaming:sinks=2,rerotate=yes", 10, frequencies=frequencies)
    plain = run("streaming:sinks=2", 10)
    assert np.array_equal(turned.left, plain.left)
    assert turned.change[:10] == pytest.approx(plain.change[:10], abs=1e-25)
    assert (turned.change[11:] != plain.change[11:]).all()
    assert is_dense(run("streaming:sinks=2,rerotate=yes", TOKENS, frequencies=frequencies))
    still = run("streaming:sinks=2,rerotate=yes", 10, frequencies=np.zeros(2))
    assert np.array_equal(still.change, plain.change)
    no_sinks = run("streaming:sinks=0,rerotate=yes", 10, frequencies=frequencies)
    assert np.array_equal(no_sinks.change, run("window", 10).change)


# Scores of OBCache --------------------------------------------------------------------------------


def one_query(seed=1, n=7):
    draw = np.random.default_rng(seed)
    logits, values = draw.normal(size=n), draw.normal(size=(n, DIM))
    weights = np.exp(logits) / np.exp(logits).sum()
    return logits, values, weights, weights @ values


def parts(weights, logits, values, output):
    squares = (values**2).sum(axis=1)
    return weights, logits, squares, values @ output, output @ output, np.abs(values).sum(axis=1)


def test_the_value_score_is_the_change_when_the_value_is_zero():
    logits, values, weights, output = one_query()
    scores = value_change(*parts(weights, logits, values, output))
    for x in range(len(logits)):
        without = values.copy()
        without[x] = 0
        assert scores[x] == pytest.approx(np.sum((weights @ without - output) ** 2))


def test_the_key_score_is_the_change_to_first_order_when_the_logit_shrinks():
    logits, values, weights, output = one_query()
    scores = key_change(*parts(weights, logits, values, output))
    step = 1e-6
    for x in range(len(logits)):
        nearer = logits.copy()
        nearer[x] *= 1 - step
        changed = np.exp(nearer) / np.exp(nearer).sum() @ values
        assert scores[x] == pytest.approx(np.sum(((changed - output) / step) ** 2), rel=1e-4)


def test_the_joint_score_is_both_and_twice_their_product():
    logits, values, weights, output = one_query()
    given = parts(weights, logits, values, output)
    cross = 2 * weights**2 * logits * ((values**2).sum(axis=1) - values @ output)
    whole = value_change(*given) + key_change(*given) + cross
    assert joint_change(*given) == pytest.approx(whole)
    apart = values + logits[:, None] * (values - output)
    assert joint_change(*given) == pytest.approx(weights**2 * (apart**2).sum(axis=1))


def test_averaging_query_heads_first_is_another_rule_unless_there_is_one():
    assert (run("obcache:recent=4", 10).left != run("obcache:recent=4,gqa=mean", 10).left).any()
    q, k, v = vectors()
    q = q[:, :, : KV_HEADS * DIM]
    lefts = [run(f"obcache:recent=4,gqa={gqa}", 10, [q, k, v]).left for gqa in ("sum", "mean")]
    assert np.array_equal(*lefts)


def test_a_softcap_bounds_the_logits():
    """A tiny one makes all weights alike: h2o keeps the oldest, which were seen most."""
    q, k, v = vectors()
    q, k = q * 100, k * 100
    result = run("h2o:recent=0.1", 10, [q, k, v], softcap=1e-9)
    assert result.held(0, 0, 39).tolist() == [*range(9), 39]


# Costs --------------------------------------------------------------------------------------------


def test_what_a_rule_costs():
    """Scores of keys need the output first, so values are read twice: half as much again."""
    factors = {score: load_rule(f"obcache:score={score}").read_factor for score in ("joint", "key")}
    assert factors == {"joint": 1.5, "key": 1.5}
    once = np.array([429.4, 214.7, 107.3])  # MB a token, Llama-3-8B, .4, .2 and .1 of 8 192
    assert once * factors["joint"] == pytest.approx([644.1, 322.0, 161.0], abs=0.1)
    assert load_rule("obcache:score=value").read_factor == load_rule("h2o").read_factor == 1
    beside = {name: load_rule(name).state_bytes for name in ("obcache", "h2o", "tova", "knorm")}
    assert beside == {"obcache": 8, "h2o": 4, "tova": 0, "knorm": 0}
    assert round(100 * beside["obcache"] / (2 * 128 * 2), 1) == 1.6  # % of fp16 KV, heads of 128


# Parameters and bad input -------------------------------------------------------------------------


def test_parameters_are_set_by_name():
    rule = load_rule("obcache:score=key,recent=8,gqa=mean,every=4")
    assert (rule.recent(100), rule.averaged, rule.every) == (8, True, 4)
    assert rule.label == "obcache:score=key,gqa=mean,recent=8,every=4"
    assert rule.reads_values_twice
    assert not load_rule("obcache:score=value").reads_values_twice
    assert load_rule(rule.label).contribution is key_change
    assert parameters_of("streaming") == {"sinks": 4, "rerotate": "no"}
    assert load_rule("obcache").contribution is joint_change
    assert {name: load_rule(name).needs_attention for name in ("knorm", "window", "tova")} == {
        "knorm": False,
        "window": False,
        "tova": True,
    }


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("h20", "no KV policy 'h20': use one of full, window, streaming, h2o"),
        ("h2o:recent=2", "KV policy h2o: recent=2: from 0 to 1"),
        ("h2o:sinks=.5", "KV policy h2o: sinks is a whole number, not 0.5"),
        ("h2o:sink=1", "no parameter 'sink'; its parameters are recent, window, sinks, every"),
        ("h2o:sinks=1,sinks=2", "a parameter is given twice; give it once"),
        ("h2o:sinks", "write parameters as h2o:key=value"),
        ("window:sinks=4", "it has no parameters"),
        ("obcache:score=both", "score=both: one of value, key, joint"),
        ("obcache:score=key,score=key", "a parameter is given twice; give it once"),
        ("obcache:recent=many", "parameters are key=number,key=number"),
        ("snapkv:kernel=4", "kernel=4: an odd number from 1 to 1023"),
        ("snapkv:pool=median", "pool=median: one of none, avg, max"),
        ("streaming:rerotate=maybe", "rerotate=maybe: one of no, yes"),
        ("tova:heads=all", "heads=all: one of layer, kv"),
        (7, "KV policy: what is given is of type int"),
    ],
)
def test_a_bad_rule_is_refused_in_one_line(rule, message):
    with pytest.raises(BudgetError) as problem:
        load_rule(rule)
    assert message in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("rule", "budget", "more", "message"),
    [
        ("h2o", 0, {}, "KV budget 0: at least 1 position"),
        ("h2o", 2.5, {}, "KV budget 2.5: at least 1 position, a whole number, or a share"),
        ("h2o", "0%", {}, "a share above 0% and at most 100%"),
        ("h2o", "101%", {}, "a share above 0% and at most 100%"),
        ("h2o", "many", {}, "KV budget 'many': give a number of positions, or a share"),
        ("h2o", float("nan"), {}, "give a number of positions"),
        ("h2o", None, {}, "KV budget: what is given is of type NoneType"),
        ("h2o", True, {}, "KV budget: what is given is of type bool"),
        ("streaming", 3, {}, "never evicts its 4 first"),
        ("snapkv", 30, {"prompt": 40}, "never evicts its 64 newest positions; give at least 64"),
        ("snapkv", 30, {}, "cuts a prompt, of which none is given"),
        ("snapkv", 30, {"prompt": 41}, "cuts a prompt, of which 41 is given"),
        ("adakv", 30, {"when": "token"}, "cuts prompts only; give when=prompt or both"),
        ("pyramidkv", 30, {"prompt": 40}, "no pyramid over a prompt of 40 tokens"),
        ("h2o", 30, {"when": "never"}, "when 'never': one of token, prompt, both"),
    ],
)
def test_a_bad_budget_is_refused_in_one_line(rule, budget, more, message):
    with pytest.raises(BudgetError) as problem:
        plan_eviction(rule, budget, TOKENS, LAYERS, **more)
    assert message in str(problem.value)
    assert "\n" not in str(problem.value)


def test_bad_arrays_are_refused_in_one_line():
    q, k, v = vectors()
    bad = k.copy()
    bad[3, 1, 2] = np.inf
    for arrays, head_dim, message in (
        ((q, k, v[:, :, :DIM]), DIM, "key and value of one shape"),
        ((q, k[:-1], v[:-1]), DIM, "give [tokens, layers, heads * head_dim]"),
        ((q, k, v), 3, "give [tokens, layers, heads * head_dim]"),
        ((q[:0], k[:0], v[:0]), DIM, "give [tokens, layers, heads * head_dim]"),
        ((k, q, q), DIM, "heads a multiple of the kv heads"),
        ((q, bad, v), DIM, "layer 1: vectors that are not finite"),
    ):
        with pytest.raises(DipsimError, match=r"^[^\n]*$") as problem:
            replay("h2o", 8, *arrays, head_dim=head_dim, threads=1)
        assert message in str(problem.value)


def test_sizes_of_projected_values_are_asked_for():
    with pytest.raises(DipsimError, match=r"criticalkv:window=4 needs projected, \|W_o v\|_1"):
        replay("criticalkv:window=4", 8, *vectors(), head_dim=DIM, prompt=20)


def test_frequencies_are_asked_for():
    for given in (None, np.ones(3)):
        with pytest.raises(DipsimError, match=r"rerotate=yes needs frequencies, those of RoPE"):
            run("streaming:rerotate=yes", 8, frequencies=given)


def test_a_prompt_without_anything_behind_it_has_nothing_to_judge():
    result = run("h2o", 8, when="prompt", prompt=TOKENS)
    with pytest.raises(DipsimError, match="judged from token 40 of 40: give an earlier one"):
        result.mass_kept()
    assert result.mass_kept(0) == pytest.approx(1)


def test_layers_are_evicted_alone():
    arrays = vectors()
    q, k, v = (np.ascontiguousarray(a[:, 1]).reshape(TOKENS, -1, DIM) for a in arrays)
    eviction = plan_eviction("h2o", 10, TOKENS, LAYERS)
    alone = evict_layer(eviction, 1, Heads(q, k, v, DIM**-0.5))
    assert np.array_equal(alone.left, run("h2o", 10, arrays).left[1])
