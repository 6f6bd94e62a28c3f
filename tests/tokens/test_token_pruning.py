"""The rule of LazyLLM on recorded queries and keys: against its twin, and its laws."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipsim.errors import TraceError
from dipsim.model import load_model
from dipsim.tokens import (
    Depths,
    Pruned,
    Pruning,
    Selection,
    account,
    parse_pruning,
    replay_pruning,
    token_bytes,
)
from naive import tokens as naive

LAYERS, HEADS, KV_HEADS, DIM = 5, 4, 2, 3
MODEL = load_model(
    {"layers": LAYERS, "hidden": 12, "intermediate": 8, "heads": HEADS, "kv_heads": KV_HEADS}
    | {"head_dim": DIM, "vocab": 16}
)


def vectors(seed: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(tokens, LAYERS, HEADS * DIM)).astype(np.float32)
    return query, rng.normal(size=(tokens, LAYERS, KV_HEADS * DIM)).astype(np.float32)


def members(kept: np.ndarray) -> list[list[list[int]]]:
    flags = np.unpackbits(kept, axis=-1, bitorder="little")
    return [[np.flatnonzero(layer).tolist() for layer in step] for step in flags]


def replayed(schedule: str, seed: int, tokens: int, prompt: int) -> tuple[np.ndarray, Pruned]:
    kept = replay_pruning(parse_pruning(schedule), *vectors(seed, tokens), DIM, prompt)
    return kept, account(kept, prompt)


schedules = st.builds(
    lambda rule, at, rate: Pruning(rule, tuple(sorted(map(float, at))), (rate,) * len(at)),
    st.sampled_from(["lazy", "static"]),
    st.sets(st.integers(1, LAYERS - 1), min_size=1),
    st.sampled_from([0.0, 0.3, 0.5, 0.9]),
)


@given(schedules, st.integers(0, 2**32), st.integers(1, 20), st.integers(0, 12))
def test_a_replay_is_that_of_the_twin(schedule: Pruning, seed: int, prompt: int, more: int) -> None:
    query, key = vectors(seed, prompt + more)

    def score(last: int, layer: int, active: list[int]) -> dict[int, float]:
        keys = {token: key[token, layer].tolist() for token in active}
        return naive.attention(query[last, layer].tolist(), keys, DIM)

    kept = replay_pruning(schedule, query, key, DIM, prompt)
    active, computed, waiting = naive.prune(
        [prompt] + [1] * more, LAYERS, schedule.cuts(LAYERS), score, for_good=schedule.for_good
    )
    assert members(kept) == active
    work = account(kept, prompt)
    assert work.active.tolist() == [[len(layer) for layer in step] for step in active]
    assert work.computed.tolist() == [[len(layer) for layer in step] for step in computed]
    assert work.waiting.tolist() == [len(tokens) for tokens in waiting]
    assert work.active[0].tolist() == schedule.prompt_tokens(prompt, LAYERS).tolist()


def test_a_softcap_and_float64_choose_by_the_same_rule() -> None:
    query, key = vectors(3, 30)
    schedule = parse_pruning("lazy:at=2,rate=.5")
    wide = replay_pruning(schedule, query.astype(float), key.astype(float), DIM, 20)
    assert (wide == replay_pruning(schedule, query, key, DIM, 20)).all()
    capped = replay_pruning(schedule, 9 * query, key, DIM, 20, softcap=1.0)
    assert (capped != replay_pruning(schedule, 9 * query, key, DIM, 20)).any()
    same = replay_pruning(schedule, query, key, DIM, 20, softcap=1e6)
    assert (same == wide).all()


@pytest.mark.parametrize("rule", ["lazy", "static", "random"])
def test_a_rate_of_0_is_dense(rule: str) -> None:
    place = "" if rule == "random" else "at=2,"
    _, work = replayed(f"{rule}:{place}rate=0", 1, 40, 30)
    assert (work.active == np.arange(30, 41)[:, None]).all()
    assert (work.computed[0] == 30).all()
    assert (work.computed[1:] == 1).all()
    assert (work.waiting == 0).all()


@pytest.mark.parametrize("schedule", ["lazy:at=1/3,rate=.5", "static:at=2,rate=.5"])
def test_no_layer_computes_a_token_twice_and_the_last_one_never_leaves(schedule: str) -> None:
    kept, work = replayed(schedule, 2, 60, 40)
    assert work.computed.sum() <= 60 * LAYERS
    assert (work.computed >= 1)[1:].all()
    for step, layers in enumerate(members(kept)):
        assert all(layer[-1] == 39 + step for layer in layers)
        for earlier, later in pairwise(layers):
            assert set(later) <= set(earlier)


def test_a_lazy_token_comes_back_and_a_static_one_does_not() -> None:
    _, lazy = replayed("lazy:at=2,rate=.7", 4, 80, 40)
    assert lazy.revived.sum() > 0
    assert lazy.waiting[0] == 27
    assert lazy.waiting[-1] < 27
    kept, static = replayed("static:at=2,rate=.7", 4, 80, 40)
    assert static.revived.sum() == 0
    left = set(members(kept)[0][-1])
    assert all(set(layer) - set(range(40, 80)) == left for layer in members(kept)[-1])


def test_random_pruning_follows_its_seed() -> None:
    first, work = replayed("random:rate=.5,seed=1", 5, 50, 41)
    again, _ = replayed("random:rate=.5,seed=1", 6, 50, 41)
    other, _ = replayed("random:rate=.5,seed=2", 5, 50, 41)
    assert (first == again).all()
    assert (first != other).any()
    assert work.active[:, 0].tolist() == list(range(21, 31))
    assert work.revived.sum() == 0


def test_of_equal_scores_the_older_token_leaves() -> None:
    selection = Selection(parse_pruning("lazy:at=1,rate=.5"), 2)
    active = selection.begin(0, 101)
    scores = np.arange(101) % 2  # the even ones are the lowest, and as many as leave
    left = selection.prune(1, active, lambda: scores)
    assert left.tolist() == [*range(1, 100, 2), 100]
    selection = Selection(parse_pruning("lazy:at=1,rate=.2"), 2)
    active = selection.begin(0, 101)
    left = selection.prune(1, active, lambda: scores)
    assert left.tolist() == [*range(1, 40, 2), *range(40, 101)]


def test_depths_hand_out_each_layer_once() -> None:
    depths = Depths(4)
    tokens = np.arange(4)
    depths.advance(depths.pending(tokens, 0), 0)
    depths.advance(tokens[2:], 1)
    assert depths.pending(tokens, 1).tolist() == [0, 1]
    assert depths.pending(tokens, 2).tolist() == [2, 3]
    assert depths.pending(tokens[:3], 2).tolist() == [2]


def test_bytes_of_a_dense_sequence_are_those_of_today() -> None:
    _, work = replayed("lazy:at=2,rate=0", 7, 25, 20)
    moved = token_bytes(MODEL, parse_pruning("lazy:at=2,rate=0"), work)
    assert (moved.kv_read[1:] == MODEL.kv_bytes(np.arange(20, 25), 16.0)).all()
    assert (moved.kv_held == MODEL.kv_bytes(np.arange(20, 26), 16.0)).all()
    assert (moved.kv_written[1:] == MODEL.kv_bytes(1, 16.0)).all()
    assert not moved.aux_held.any()


@pytest.mark.parametrize("text", ["lazy:at=2,rate=.5", "static:at=2,rate=.5"])
def test_bytes_of_a_pruned_sequence(text: str) -> None:
    kept, work = replayed(text, 8, 40, 30)
    schedule = parse_pruning(text)
    moved = token_bytes(MODEL, schedule, work)
    position = 4 * KV_HEADS * DIM
    assert moved.kv_written[0] == position * work.active[0].sum()
    assert moved.kv_read[0] == 0
    if schedule.for_good:
        assert moved.kv_held[-1] == position * LAYERS * len(members(kept)[-1][-1])
        assert not moved.aux_held.any()
    else:
        assert moved.kv_held.tolist() == moved.kv_written.cumsum().tolist()
        assert moved.aux_held.tolist() == (24.0 * work.waiting).tolist()
        assert moved.aux_held.max() <= 24.0 * 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kept: kept[:, :, :1], "9 steps after a prompt of 8 tokens do not fit 8 bits"),
        (lambda kept: kept * 0, "step 0 holds tokens behind its last, or lacks that one, token 7"),
        (lambda kept: kept | 255, "step 0 holds tokens behind its last"),
        (lambda kept: kept[:, ::-1], "in step 0 a layer sees a token that the one before it"),
    ],
)
def test_sets_that_no_rule_makes_are_refused(change, message: str) -> None:
    kept, _ = replayed("lazy:at=2,rate=.5", 9, 16, 8)
    with pytest.raises(TraceError, match=message):
        account(change(kept), 8)


@pytest.mark.parametrize(
    ("shape", "prompt", "message"),
    [
        ((4, LAYERS, 12), 4, "give both of the same tokens"),
        ((9, LAYERS, 4), 4, "whole heads"),
        ((9, LAYERS, 6), 0, "a prompt of 0 tokens: give 1 to 9"),
        ((9, LAYERS, 6), 10, "a prompt of 10 tokens"),
    ],
)
def test_vectors_that_do_not_match_are_refused(shape, prompt: int, message: str) -> None:
    query, _ = vectors(0, 9)
    with pytest.raises(TraceError, match=message):
        replay_pruning(parse_pruning("lazy:at=2"), query, np.zeros(shape), DIM, prompt)
