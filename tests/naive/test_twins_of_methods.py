"""The naive twins of methods: small cases worked out by hand."""

import math
from collections.abc import Set as AbstractSet

import pytest

from naive import methods as twins
from naive import replay as naive
from naive.draws import hash64
from naive.methods import Routed, masking, routing
from naive.replay import Memory

NOTHING: frozenset[int] = frozenset()


def near(expected: object) -> object:
    return pytest.approx(expected, rel=1e-12)


# ------------------------------------------------------------------------------------------ density


@pytest.mark.parametrize("method", ["gate", "up", "cats"])
def test_a_third_of_the_mlp_is_dense(method: str) -> None:
    assert twins.group_density(method, 0.6) == near(0.4)
    assert twins.group_density(method, 1.0) == 1.0
    with pytest.raises(ValueError):
        twins.group_density(method, 0.33)


def test_the_predictor_takes_its_share() -> None:
    # Rank 8 / 8 = 1: 8 + 16 weights of 3 * 8 * 16.
    assert twins.group_density("predictor", 0.5625, 8, 16) == near(0.5)
    assert twins.group_density("predictor", 0.5625, 8, 16, rank=0) == 0.5625
    with pytest.raises(ValueError):
        twins.group_density("predictor", 0.0625, 8, 16)


# --------------------------------------------------------------------------------------- thresholds


def test_the_threshold_is_the_largest_that_is_dropped() -> None:
    rows = [[4.0, 3.0, 2.0, 1.0], [8.0, 7.0, 6.0, 5.0]]
    assert twins.calibrate(rows, 0.75) == 2.0
    assert twins.above([1.0, 2.0, 2.5, 9.0], 2.0) == [2, 3]


def test_a_threshold_that_drops_all_or_nothing() -> None:
    rows = [[0.0, 3.0, 2.0, 1.0]]
    assert twins.calibrate(rows, 0.0) == 3.0
    assert twins.above(rows[0], 3.0) == []
    assert twins.calibrate(rows, 1.0) == twins.calibrate(rows, 0.8) == -1.0
    assert twins.above(rows[0], -1.0) == [0, 1, 2, 3]


def test_what_ties_with_the_threshold_is_dropped() -> None:
    assert twins.calibrate([[1.0, 1.0, 1.0, 2.0]], 0.5) == 1.0
    assert twins.above([1.0, 1.0, 1.0, 2.0], 1.0) == [3]


def test_float_noise_drops_no_score_less() -> None:
    assert (1 - 0.9) * 10 < 1
    assert twins.calibrate([[float(i) for i in range(10)]], 0.9) == 0.0


EVEN, STEEP = [[1.0, 1.0], [1.0, 1.0]], [[4.0, 2.0], [2.0, 1.0]]
# Steps of .02 of each. EVEN loses .25 at .25, STEEP .04 at .25, .2 at .5, .36 at .75.


@pytest.mark.parametrize(
    ("density", "expected"),
    [
        (0.87, [0.76, 0.98]),  # losing nothing, the first goes first, up to .24
        (0.75, [0.76, 0.74]),
        (0.51, [0.76, 0.26]),  # .74 of STEEP, the next unit of which is dearer than one of EVEN
        (0.505, [0.75, 0.26]),  # half a step
        (0.50, [0.74, 0.26]),
        (1.0, [1.0, 1.0]),
    ],
)
def test_greedy_densities(density: float, expected: list[float]) -> None:
    assert twins.greedy_densities([EVEN, STEEP], [7, 7], density) == near(expected)


def test_a_greedy_step_is_a_hundredth_of_all_weights() -> None:
    # Of 3 : 1, steps are .04 / 3 and .04. EVEN takes 18 of them to stay below .25, STEEP the rest.
    densities = twins.greedy_densities([EVEN, STEEP], [3, 1], 0.8)
    assert densities == near([1 - 18 * 0.01 / 0.75, 1 - 2 * 0.04])


def test_greedy_densities_stop_at_a_hundredth() -> None:
    zeros = [[0.0] * 4]
    assert twins.greedy_densities([zeros, EVEN], [1, 1], 0.5) == near([0.01, 0.99])
    with pytest.raises(ValueError):
        twins.greedy_densities([zeros, EVEN], [1, 1], 0.005)


def test_weights_of_teal() -> None:
    assert twins.teal_weights(hidden=6, intermediate=10, heads=3, kv_heads=1, head_dim=2) == {
        "attn_input": 6 * 5 * 2,
        "attn_output": 36,
        "mlp_input": 120,
        "glu": 60,
    }


# ---------------------------------------------------------------------------------------- predictor


def test_predicted_without_noise_is_top_k() -> None:
    blur = [9.0, -9.0, 9.0, 9.0]
    assert twins.predicted([4.0, 1.0, 0.0, 2.0], 2, 0.0, blur) == [0, 3]
    assert twins.predicted([1.0, 1.0, 1.0, 0.0], 2, 0.0, blur) == [0, 1]


def test_predicted() -> None:
    # log 4 - 2 = -.6, log 1 + 3 = 3, nothing, log 2 = .7
    scores, blur = [4.0, 1.0, 0.0, 2.0], [-2.0, 3.0, 99.0, 0.0]
    assert twins.predicted(scores, 2, 1.0, blur) == [1, 3]
    assert twins.predicted(scores, 3, 1.0, blur) == [0, 1, 3]
    assert twins.predicted(scores, 4, 1.0, blur) == [0, 1, 2, 3]
    assert twins.predicted([0.0, 0.0], 1, 1.0, [0.0, 5.0]) == [0]


def test_predicted_set() -> None:
    # 1, .5, 1.5, -1
    assert twins.predicted_set({0, 3}, 4, 1.0, [0.0, 0.5, 1.5, -2.0]) == [0, 2]
    assert twins.predicted_set({0, 3}, 4, 0.0, [0.0, 0.5, 1.5, -2.0]) == [0, 3]
    assert twins.predicted_set(set(), 4, 1.0, [0.0, 0.5, 1.5, -2.0]) == []


def test_noise_belongs_to_a_row() -> None:
    rows = {tuple(twins.noise(*at, units=5)) for at in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)]}
    assert len(rows) == 4
    assert twins.noise(3, 1, 2, 5) == twins.noise(3, 1, 2, 5)
    assert twins.noise(3, 1, 2, 5)[:3] == twins.noise(3, 1, 2, 3)


def test_recall() -> None:
    assert twins.recall([[1, 3], [0, 3], []], [[0, 3], [0, 3], []]) == 0.75


# ------------------------------------------------------------------------------------------ cluster


def test_clusters() -> None:
    row = [3.0, 4.0, 0.0, 0.0, 5.0, 12.0]
    assert twins.cluster_scores(row, 1) == row
    assert twins.cluster_scores(row, 2) == [5.0, 0.0, 13.0]
    assert twins.cluster_scores(row, 3) == [5.0, 13.0]
    assert twins.cluster_scores([1.0, 1.0], 2) == [twins.float32(math.sqrt(2))] != [math.sqrt(2)]
    assert twins.cluster_set({0, 3, 5}, 2) == {0, 1, 2}
    assert twins.cluster_set({0, 2}, 3) == {0}
    with pytest.raises(ValueError):
        twins.cluster_scores(row, 4)


# ------------------------------------------------------------------------------------------ masking


def mask(
    rule: str, row: list[float], k: int, resident: AbstractSet[int] = NOTHING, **given: float
) -> str:
    """Return the units one row chooses, e.g. "03"; `t` batches were done before."""
    memory = Memory(batches=int(given.pop("t", 0)))
    return "".join(map(str, masking(rule, k, **given)(row, resident, memory)))


FALLING = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    "given",
    [
        {"rule": "gamma", "gamma": 0.3},
        {"rule": "gamma", "gamma": 0.0, "warm_up": 1},
        {"rule": "blend", "gamma": 0.3},
        {"rule": "blend", "gamma": 0.0, "fixed_top_n": 0.2},
        {"rule": "approximate", "top_m": 0.9},
        {"rule": "approximate", "counts": 0.5},
    ],
)
def test_a_cache_that_cannot_prefer(given: dict[str, float]) -> None:
    for resident in (NOTHING, set(range(8))):
        assert mask(row=FALLING, k=3, resident=resident, **given) == "012"
        assert mask(row=FALLING[::-1], k=3, resident=resident, **given) == "567"
        assert mask(row=[2.0, 3.0, 2.0, 2.0, 2.0], k=3, resident=resident, **given) == "012"
        assert mask(row=[0.0] * 5, k=2, resident=resident, **given) == "01"
    for resident in (NOTHING, {2, 7}):
        given = {name: value for name, value in given.items() if name != "top_m"}
        assert mask(row=FALLING, k=8, resident=resident, **given) == "01234567"


def test_gamma() -> None:
    # 2, 1.5, 2, 1: 0 and 2 tie, 0 has the larger raw score.
    assert mask("gamma", [4.0, 3.0, 2.0, 1.0], 1, {2, 3}, gamma=0.5) == "0"
    assert mask("gamma", [4.0, 3.0, 2.0, 1.0], 2, {2, 3}, gamma=0.5) == "02"
    assert mask("gamma", [4.0, 3.0, 2.0, 1.0], 2, {2, 3}, gamma=0.2) == "23"
    assert mask("gamma", [4.0, 3.0, 2.0, 1.0], 2, {2, 3}, gamma=1.0) == "01"


def test_gamma_zero_still_fills_up_by_score() -> None:
    assert mask("gamma", [2.0, 3.0, 4.0, 1.0], 2, {3}, gamma=0.0) == "23"
    assert mask("gamma", [0.0, 3.0, 4.0, 0.0], 3, {3}, gamma=0.0) == "012"  # all tie at 0


def test_gamma_multiplies_in_float32() -> None:
    # In float32 .7 * 10 is 7 exactly, so both tie and 0 wins; in float64 .7f * 10 is below 7.
    assert float(twins.np.float32(0.7)) * 10 < 7
    assert mask("gamma", [10.0, 7.0], 1, {1}, gamma=0.7) == "0"


def test_warmed() -> None:
    assert [twins.warmed(0.5, t) for t in (0, 4, 8)] == [1.0, 0.75, 0.625]
    assert [twins.warmed(0.0, t) for t in (0, 1)] == [1.0, 0.0]
    assert twins.warmed(1.0, 3) == 1.0


def test_warm_up() -> None:
    # 3 counts 3, then 2.25, then 1.875.
    found = [mask("gamma", [3.0, 2.0], 1, {1}, gamma=0.5, warm_up=1, t=t) for t in (0, 4, 8)]
    assert found == ["0", "0", "1"]
    assert mask("gamma", [3.0, 2.0], 1, {1}, gamma=0.5, t=0) == "1"


def test_blend() -> None:
    # 1/2, 1/4, 1/8 and 0 + 1/2: 0 has the larger raw score.
    row = [4.0, 2.0, 1.0, 0.0]
    assert mask("blend", row, 1, {3}, gamma=0.5) == "0"
    assert mask("blend", row, 2, {3}, gamma=0.5) == "03"
    assert mask("blend", row, 1, {3}, gamma=0.4) == "3"
    assert mask("blend", row, 3, {3}, gamma=1.0) == "012"
    assert mask("blend", row, 3, {2, 3}, gamma=0.0) == "023"


def test_blend_of_no_scores() -> None:
    assert mask("blend", [0.0, 0.0, 0.0, 0.0], 2, {2}, gamma=0.5) == "02"
    assert mask("blend", [0.0, 0.0, 0.0, 0.0], 1, {2}, gamma=0.5) == "2"
    assert mask("blend", [0.0, 0.0, 0.0, 0.0], 1, {2}, gamma=1.0) == "0"


def test_blend_warms_up() -> None:
    # 1 against .5 g + 1 - g: .875 at g = .25; g itself is against 1.
    found = [mask("blend", [4.0, 2.0], 1, {1}, gamma=0.25, warm_up=1, t=t) for t in (0, 4)]
    assert found == ["0", "1"]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, "234"), (0.2, "023"), (0.4, "012"), (0.79, "012"), (1.0, "012")],
)
def test_the_largest_are_exempt(share: float, expected: str) -> None:
    row, resident = [9.0, 8.0, 7.0, 6.0, 5.0], {2, 3, 4}
    assert mask("gamma", row, 3, resident, gamma=0.0, fixed_top_n=share) == expected
    assert mask("blend", row, 3, resident, gamma=0.0, fixed_top_n=share) == expected
    assert mask("approximate", row, 3, resident, fixed_top_n=share) == expected


@pytest.mark.parametrize(
    ("resident", "expected"),
    [
        ({1, 4, 6}, "014"),  # 1 is of the best 3, 4 of the best 6, then the best of the rest
        ({4, 5, 6}, "045"),
        ({3, 4, 5}, "345"),
        ({2, 3, 4, 5}, "234"),
        ({6, 7}, "012"),
    ],
)
def test_approximate(resident: set[int], expected: str) -> None:
    assert mask("approximate", FALLING, 3, resident, top_m=0.75) == expected
    assert mask("approximate", FALLING, 3, resident, top_m=0.375) == "012"


def test_approximate_has_room_for_k() -> None:
    with pytest.raises(ValueError):
        mask("approximate", FALLING, 3, {1}, top_m=0.25)


def test_approximate_by_uses() -> None:
    # With 1/2: 1/2, 1/4, 1/4 + 1/4, 1/2: by raw score 0, 2, 3, then 1.
    row, memory = [4.0, 2.0, 2.0, 0.0], Memory(uses={3: 2, 2: 1})
    half = {"counts": 0.5}
    assert masking("approximate", 2, top_m=0.5, **half)(row, NOTHING, memory) == [0, 2]
    assert masking("approximate", 2, top_m=0.5, **half)(row, {3}, memory) == [0, 2]
    assert masking("approximate", 2, top_m=0.75, **half)(row, {3}, memory) == [0, 3]
    assert masking("approximate", 1, counts=0.75)(row, NOTHING, memory) == [3]
    assert masking("approximate", 1, counts=1.0)([0.0] * 4, NOTHING, memory) == [3]
    assert masking("approximate", 1, counts=0.75)(row, NOTHING, Memory()) == [0]


def test_the_exempt_are_so_by_raw_score() -> None:
    row, memory = [4.0, 3.0, 0.0, 0.0], Memory(uses={2: 1, 3: 1})
    choose = masking("approximate", 2, top_m=0.5, counts=1.0, fixed_top_n=0.25)
    assert choose(row, {2, 3}, memory) == [0, 2]


# ------------------------------------------------------------------------------------------ routing


def route(
    rule: str, logits: list[float], k: int, resident: AbstractSet[int] = NOTHING, **given: float
) -> str:
    """Return the experts one decode row chooses, e.g. "03"."""
    row = Routed(dict(enumerate(logits)))
    return "".join(map(str, routing(rule, k, given)(row, resident, Memory())))


RULES = ["plain", "cache-prior", "max-rank", "drop-cold", "reuse-distance"]


@pytest.mark.parametrize("rule", RULES)
def test_a_router_that_cannot_prefer(rule: str) -> None:
    everything = set(range(8))
    assert route(rule, FALLING, 8, everything) == "01234567"
    assert route(rule, FALLING, 3, everything) == "012"
    assert route(rule, [-1.0, 2.0, 2.0, 2.0, -1.0], 2) == "12"
    choose = routing(rule, 3)
    assert choose(Routed({4: 1.0, 2: 1.0}), {0, 2, 4}, Memory()) == [2, 4]  # fewer candidates
    assert choose(Routed({}), {0}, Memory()) == []


@pytest.mark.parametrize("rule", RULES)
def test_rules_leave_prefill_alone(rule: str) -> None:
    memory = Memory(batches=3, last_use={6: 0, 7: 2})
    row = Routed(dict(enumerate(FALLING)), decode=False)
    assert routing(rule, 3, {"lambda": 9.0, "factor": 1.0})(row, {6, 7}, memory) == [0, 1, 2]
    assert memory.mean is None


def test_cache_prior() -> None:
    # The range is 4: with .5 they are 6, 3, 2, 3, 0; 1 has the larger logit.
    logits = [4.0, 3.0, 2.0, 1.0, 0.0]
    assert route("cache-prior", logits, 2, {3}, **{"lambda": 0.5, "top_j": 1}) == "01"
    assert route("cache-prior", logits, 2, {3}, **{"lambda": 0.6, "top_j": 1}) == "03"
    assert route("cache-prior", logits, 2, {3}, **{"lambda": 0.6, "top_j": 2}) == "01"
    assert route("cache-prior", logits, 2, {3}, **{"lambda": 0.6}) == "01"
    assert route("cache-prior", logits, 1, {4}, **{"lambda": 2.0, "top_j": 0}) == "4"
    assert route("cache-prior", logits, 1, {4}, **{"lambda": 2.0, "top_j": 9}) == "0"


def test_cache_prior_keeps_a_mean() -> None:
    choose, memory = routing("cache-prior", 1, {"lambda": 1.0, "top_j": 0}), Memory()
    choose(Routed({0: 4.0, 1: 0.0}), NOTHING, memory)
    assert memory.mean == near(4.0)
    choose(Routed({0: 900.0, 1: 0.0}, decode=False), NOTHING, memory)
    choose(Routed({}), NOTHING, memory)
    # .99 * 4 + .01 * 104 = 5: more than the difference of 1 and 2, less than that of 0 and 2.
    row = Routed({0: 104.0, 1: 4.0, 2: 0.0})
    assert choose(row, {2}, memory) == [0]
    assert memory.mean == near(5.0)
    assert choose(Routed({1: 4.9, 2: 0.0}), {2}, memory) == [2]
    assert memory.mean == near(0.99 * 5 + 0.049)


@pytest.mark.parametrize(
    ("resident", "given", "expected"),
    [
        ({1, 4, 6}, {}, "014"),  # 0, then 1 and 4, which are of the best 6
        ({3, 4, 5}, {}, "034"),
        ({3, 4, 5}, {"top_j": 0}, "345"),
        ({3, 4, 5}, {"top_j": 2}, "013"),
        ({3, 4, 5}, {"top_j": 9}, "012"),
        ({3, 4, 5}, {"max_rank": 3}, "012"),
        ({3, 4, 5}, {"max_rank": 4}, "013"),
        ({6, 7}, {}, "012"),
        ({6, 7}, {"max_rank": 8}, "067"),
    ],
)
def test_max_rank(resident: set[int], given: dict[str, float], expected: str) -> None:
    assert route("max-rank", FALLING, 3, resident, **given) == expected


def test_drop_cold() -> None:
    # Of the best two, 2/3 and 1/3 of the weight.
    logits = [math.log(4), math.log(8), math.log(2), math.log(2)]
    assert route("drop-cold", logits, 2) == "01"
    assert route("drop-cold", logits, 2, factor=0.8) == "1"
    assert route("drop-cold", logits, 2, {0, 2}, factor=0.8) == "01"
    # Of the best three 8/14, 4/14 and 2/14, against 1/6 and 0.9/3.
    assert route("drop-cold", logits, 3) == "01"
    assert route("drop-cold", logits, 3, {2}) == "012"
    assert route("drop-cold", logits, 3, {2}, factor=0.9) == "12"
    assert route("drop-cold", logits, 3, factor=0.0) == "012"


def test_reuse_distance() -> None:
    # Used 1, 4 and 2 tokens ago: bonuses of 3/4, 0 and 1/2 of the gap to the k-th.
    memory = Memory(row=5, last_use={0: 4, 1: 1, 2: 3})
    row = Routed(dict(enumerate([2.0, 1.0, 2.0, 4.0, 3.0])))
    assert routing("reuse-distance", 1)(row, NOTHING, memory) == [3]
    assert routing("reuse-distance", 2)(row, NOTHING, memory) == [3, 4]  # gap 1: 2.75, 2.5
    assert routing("reuse-distance", 3)(row, NOTHING, memory) == [0, 3, 4]  # 3.5, 3 ties with 4
    # Gap 3: 4.25, 1, 3.5 against 4 and 3.
    assert routing("reuse-distance", 5)(row, NOTHING, memory) == [0, 1, 2, 3, 4]
    row = Routed(dict(enumerate([2.0, 1.0, 2.0, 4.0, 3.0, 0.0])))
    assert routing("reuse-distance", 4)(row, NOTHING, memory) == [0, 2, 3, 4]


def test_reuse_distance_counts_from_the_farthest_of_all_experts() -> None:
    # 9 is no candidate, but was used 4 tokens ago: 0 gets 3/4 of the gap of 2, 2 gets none.
    memory = Memory(row=4, last_use={0: 3, 9: 0})
    row = Routed({0: 1.0, 1: 3.0, 2: 2.0, 3: 1.0, 4: 2.4})
    assert routing("reuse-distance", 3)(row, NOTHING, memory) == [1, 2, 4]
    row = Routed({0: 1.5, 1: 3.0, 2: 2.0, 3: 1.0, 4: 2.4})
    assert routing("reuse-distance", 3)(row, NOTHING, memory) == [0, 1, 4]


def test_shares_of_a_router() -> None:
    logits = {unit: math.log(weight) for unit, weight in enumerate([4, 3, 2, 1])}
    assert twins.router_shares(logits, [0, 2]) == near([0.6, 20 / 30])
    assert twins.router_shares(logits, []) == [0.0, 0.0]
    assert all(map(math.isnan, twins.router_shares({}, [])))
    assert twins.weight_lost(logits, [0, 2], 2) == near(1 / 7)
    assert twins.weight_lost(logits, [0, 1], 2) == 0.0


def test_weights_become_logits() -> None:
    assert twins.log_weights({3: 1.0, 5: 0.0, 6: 0.5}) == {3: 0.0, 6: math.log(0.5)}


def test_shares_of_scores() -> None:
    assert twins.score_shares([4.0, 3.0, 2.0, 1.0], [0, 2]) == near([0.6, 20 / 30])
    assert twins.score_shares([0.0, 0.0], [1]) == [1.0, 1.0]
    assert twins.score_shares([1.0, 0.0], []) == [0.0, 0.0]


# ------------------------------------------------------------------------------- replays with rules


def chosen(rows: list[naive.Row]) -> str:
    """Return what every row chose."""
    return " ".join("".join(map(str, row.chosen)) or "-" for row in rows)


def test_replay_with_gamma() -> None:
    rows = [[2.0, 1.5], [2.0, 3.0], [2.0, 5.0], [3.0, 2.0]]
    choose = masking("gamma", 1, 0.5)
    found = naive.replay(rows, 2, 1, "lru", choose=choose)
    assert chosen(found) == "0 0 1 1"
    assert [row.hits for row in found] == [0, 1, 0, 1]
    assert found == naive.replay(rows, 2, 1, "lru", k=1, gamma=0.5)
    assert chosen(naive.replay(rows, 2, 1, "lru", choose=choose, resets=[1])) == "0 1 1 1"
    assert chosen(naive.replay(rows, 2, 0, "lru", choose=choose)) == "0 1 1 0"


def test_rows_of_a_batch_see_one_state() -> None:
    rows = [[2.0, 1.0], [2.0, 3.0], [2.0, 3.0], [3.0, 2.0]]
    actions = ["join", "commit", "commit", "commit"]
    found = naive.replay(rows, 2, 1, "lru", choose=masking("gamma", 1, 0.5), actions=actions)
    assert chosen(found) == "0 1 0 0"  # 0 of the batch stays
    assert [row.active for row in found] == [0, 2, 1, 1]


def test_warm_up_counts_batches() -> None:
    # 1 is resident from the first row on. 3 counts 3, 2.5 at t = 1, then 2.25, 2.1, 2 and 1.9.
    rows = [[0.0, 1.0]] + [[3.0, 2.2]] * 4
    choose = masking("gamma", 1, 0.5, warm_up=1)
    assert twins.warmed(0.5, 4) == 0.75
    assert 3 * twins.warmed(0.5, 4) > 2.2 > 3 * twins.warmed(0.5, 5)
    padded = [[0.0, 1.0]] * 4 + [[3.0, 2.2]]
    assert chosen(naive.replay(padded, 2, 1, "lru", choose=choose)) == "1 1 1 1 0"
    padded = [[0.0, 1.0]] * 5 + [[3.0, 2.2]]
    assert chosen(naive.replay(padded, 2, 1, "lru", choose=choose)) == "1 1 1 1 1 1"
    joined = ["join", *["commit"] * 5]
    assert chosen(naive.replay(padded, 2, 1, "lru", choose=choose, actions=joined)).endswith("0")
    skipped = ["skip", *["commit"] * 5]
    found = naive.replay(padded, 2, 1, "lru", choose=choose, actions=skipped)
    assert chosen(found) == "- 1 1 1 1 0"
    assert chosen(naive.replay(rows, 2, 1, "lru", choose=choose, resets=[1])) == "1 0 0 0 0"


def test_uses_count_a_batch_once_and_end_at_a_reset() -> None:
    # Rows 0 and 1 are one batch of 0 and 1; 2 is used twice. By uses alone, 2 is best.
    rows = [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [0.0, 0.0, 9.0], [9.0, 9.0, 9.0]]
    fixed = masking("approximate", 1, counts=1.0, fixed_top_n=0.34)
    free = masking("approximate", 1, counts=1.0)

    def choose(row: list[float], resident: set[int], memory: Memory) -> list[int]:
        return (free if sum(row) > 9 else fixed)(row, resident, memory)

    actions = ["join", "commit", "commit", "commit", "commit"]
    replayed = naive.replay(rows, 3, 0, "none", choose=choose, actions=actions)
    assert chosen(replayed) == "0 1 2 2 2"
    replayed = naive.replay(rows, 3, 0, "none", choose=choose, actions=actions, resets=[4])
    assert chosen(replayed) == "0 1 2 2 0"


def test_replay_with_reuse_distance() -> None:
    # Batch 0 uses 0, batch 1 uses 1 (0 was the farthest, of distance 1, so it had no bonus). In
    # batch 2, 1 has a distance of 1 against 2: half the gap, of nothing when k is 1.
    row = Routed({0: 1.0, 1: 2.0, 2: 3.0})
    rows = [Routed({0: 5.0, 1: 1.0}), Routed({0: 1.0, 1: 5.0}), row]
    replayed = naive.replay(rows, 3, 2, "lru", choose=routing("reuse-distance", 1))
    assert chosen(replayed) == "0 1 2"
    # With k = 2: 0 and 1 are used by both; both have a distance of 1, the farthest.
    replayed = naive.replay(rows, 3, 2, "lru", choose=routing("reuse-distance", 2))
    assert chosen(replayed) == "01 01 12"


def test_no_future_where_sets_depend_on_the_cache() -> None:
    with pytest.raises(ValueError):
        naive.replay([[1.0, 2.0]], 2, 1, "belady", choose=masking("gamma", 1, 0.5))


# --------------------------------------------------------------------------- the authors' simulator


def test_random_fill() -> None:
    order = sorted(range(4), key=lambda unit: hash64(7, 1, 0, 0, unit) >> 1)
    rows = [{0, 1, 2, 3}, {0}, {1}, {2}, {3}]

    def resident(fill: str, seed: int) -> set[int]:
        """Return which unit hits right after row 0."""
        return {
            unit
            for unit in range(4)
            if naive.replay(
                [rows[0], {unit}], 4, 2, "lru", seed=seed, layer=1, fill=fill, group=0
            )[1].hits
        }  # fmt: skip

    assert resident("random", 7) == set(order[:2])
    assert resident("ascending", 7) == {0, 1}
    assert len({frozenset(resident("random", seed)) for seed in range(20)}) > 3
    with pytest.raises(ValueError):
        naive.replay(rows, 4, 2, "lru", fill="other")


def test_random_fill_keeps_the_hits() -> None:
    rows = [{2, 3}, {0, 1, 2, 3}, {2, 3}]
    for seed in range(5):
        found = naive.replay(rows, 4, 3, "lru", seed=seed, fill="random")
        assert [row.hits for row in found] == [0, 2, 2]
        assert [row.kept for row in found] == [2, 1, 0]


NET = twins.Net(
    layers=1, hidden=2, intermediate=4, heads=1, kv_heads=1, head_dim=2, vocab=8,
    weight_bytes=1.0, kv_bytes=2.0,
)  # fmt: skip


def test_static_parts_of_the_authors() -> None:
    # Attention 2 * 3 * 2 + 2 * 2, head 2 * 8, two dense matrices of 8; 8 bytes of KV a position.
    assert twins.authors_static(NET, "dip") == 32
    assert twins.authors_static(NET, "glu") == 48
    assert twins.authors_static(NET, "gate") == 40
    assert twins.authors_kv(NET, 4) == 32


def test_the_authors_divide_by_matrix() -> None:
    # 12 of 24 bytes: 4 for each matrix, which are 1 column of gate and of up, and 2 of down.
    assert twins.authors_capacity(NET, "dip", 32 + 32 + 12, context=4) == [1, 2]
    assert twins.authors_capacity(NET, "dip", 32 + 32 + 11, context=4) == [0, 1]
    assert twins.authors_capacity(NET, "dip", 10, context=4) == [0, 0]
    assert twins.authors_capacity(NET, "dip", 999, context=4) == [2, 4]
    assert twins.authors_capacity(NET, "gate", 40 + 9, context=0) == [2]


def test_latency_of_the_authors() -> None:
    # Static 32 and KV 32 at 10 B/s; 8 bytes hit and 8 missed at 1 B/s; 4 bytes hit.
    given = {"dram_rate": 10.0, "flash_rate": 1.0, "positions": 4.0}
    concurrent = twins.authors_latency(NET, "dip", [[1, 2]], [[1, 0]], **given)
    assert concurrent == near(6.4 + 8 + 0.4)
    serial = twins.authors_latency(NET, "dip", [[1, 2]], [[1, 0]], **given, mode="serial")
    assert serial == near(6.4 + 8.8 + 0.4)
    streamed = twins.authors_latency(NET, "dip", [[1, 2]], [[1, 0]], **given, overflow=10)
    assert streamed == near(10 + 5.4 + 8 + 0.4)


def test_rate_of_the_authors() -> None:
    assert twins.authors_rate({0: [1.0, 3.0], 1: [1.0], 2: []}) == 0.75
    assert twins.average_positions(prompt=3, rows=8) == 5.5
