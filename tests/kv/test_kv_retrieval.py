"""Which blocks tokens choose, what attention to them loses, and the bytes that it takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive.retrieval as naive
from dipsim.errors import BudgetError
from dipsim.kv.attention import Heads
from dipsim.kv.bits import FP16, parse_format
from dipsim.kv.blocks import attend, choose_blocks, replay_blocks
from dipsim.kv.plan import KvPlan
from dipsim.kv.retrieval import Retrieval, parse_fetch
from dipsim.kv.retrieval_plan import RetrievalPlan
from dipsim.model import load_model

TOKENS, HEADS, KV_HEADS, DIM = 37, 6, 2, 4
SMOL = load_model("smollm2-135m")
WAYS = [(by, per) for by in ("centroid", "max") for per in ("layer", "head")]


def vectors(seed: int, tokens: int = TOKENS, layers: int | None = None):
    """Queries, keys and values: float64[tokens, heads, dim], or [tokens, layers, heads * dim]."""
    draw = np.random.default_rng(seed)
    if layers is None:
        return [draw.normal(size=(tokens, n, DIM)) for n in (HEADS, KV_HEADS, KV_HEADS)]
    return [draw.normal(size=(tokens, layers, n * DIM)) for n in (HEADS, KV_HEADS, KV_HEADS)]


def listed(chosen):
    """The blocks of each token and choice, as the twin has them."""
    return [[np.flatnonzero(each).tolist() for each in row] for row in chosen]


# What is asked


def test_a_text_says_which_blocks() -> None:
    assert parse_fetch("top=64:block=16") == Retrieval(64, 16, "centroid", "layer", "lru")
    assert parse_fetch(" block=8 : top=2:per=head:by=max:policy=opt") == Retrieval(
        2, 8, "max", "head", "opt"
    )
    assert parse_fetch("all") is None


@pytest.mark.parametrize("text", ["top=64:block=16", "top=2:block=8:by=max:per=head:policy=lfu"])
def test_what_was_read_is_written_alike(text: str) -> None:
    assert str(parse_fetch(text)) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "write all, or top, block, by, per, policy"),
        ("64", "write all"),
        ("top=64", "top and block are needed"),
        ("block=16", "top and block are needed"),
        ("top=64:block=16:best=3", "write all, or top, block"),
        ("top=64:block=16:top=3", "each once"),
        ("top=64:block=", "write all"),
        ("all:top=64", "write all"),
        ("top=0:block=16", "top=0: a whole number from 1 to 1048576"),
        ("top=4:block=0", "block=0: a whole number"),
        ("top=-4:block=16", "top=-4: a whole number"),
        ("top=four:block=16", "top=four: a whole number"),
        ("top=1.5:block=16", "top=1.5: a whole number"),
        ("top=4:block=١٦", "block=١٦: a whole number"),
        (f"top={'9' * 400}:block=16", "a whole number"),
        ("top=4:block=16:by=mean", "by=mean: one of centroid, max"),
        ("top=4:block=16:per=token", "per=token: one of layer, head"),
    ],
)
def test_other_texts_are_refused_in_a_line(text: str, problem: str) -> None:
    with pytest.raises(BudgetError, match=problem) as raised:
        parse_fetch(text)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 250


# Which blocks


@pytest.mark.parametrize(("by", "per"), WAYS)
@pytest.mark.parametrize(("top", "block", "first"), [(3, 4, 0), (1, 1, 5), (2, 5, 20), (9, 3, 0)])
def test_the_blocks_are_those_of_the_twin(by, per, top, block, first) -> None:
    for seed in (1, 2):
        q, k, _ = vectors(seed)
        chosen = choose_blocks(Retrieval(top, block, by, per), q, k, first)
        assert chosen.shape == (TOKENS, 1 if per == "layer" else KV_HEADS, TOKENS // block)
        assert listed(chosen) == naive.choose(q, k, top, block, by, per, first)


def test_pieces_of_a_sequence_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, _ = vectors(3)
    whole = choose_blocks(Retrieval(2, 4), q, k, 6)
    monkeypatch.setattr("dipsim.kv.blocks._LOGITS", 100)
    assert np.array_equal(choose_blocks(Retrieval(2, 4), q, k, 6), whole)


def test_of_equal_scores_the_newer_block_is_read() -> None:
    q, k = np.ones((12, 1, 2)), np.ones((12, 1, 2))
    assert listed(choose_blocks(Retrieval(2, 2), q, k))[9] == [[2, 3]]


def test_no_block_is_read_before_it_is_complete() -> None:
    q, k, _ = vectors(4)
    chosen = choose_blocks(Retrieval(100, 4), q, k)[:, 0]
    assert chosen.sum(axis=1).tolist() == [t // 4 for t in range(TOKENS)]
    assert not choose_blocks(Retrieval(1, TOKENS + 1), q, k).size


def test_vectors_of_any_size_are_taken() -> None:
    q, k, _ = (each.astype(np.float32) * np.float32(1e38) for each in vectors(5))
    for by in ("centroid", "max"):
        assert choose_blocks(Retrieval(2, 4, by), q, k)[-1].sum() == 2


# Attention to them


@pytest.mark.parametrize("per", ["layer", "head"])
@pytest.mark.parametrize("first", [0, 13])
def test_outputs_and_losses_are_those_of_the_twin(per, first) -> None:
    q, k, v = vectors(6)
    retrieval = Retrieval(2, 4, "max", per)
    outputs, loss = attend(
        Heads(q, k, v, DIM**-0.5), choose_blocks(retrieval, q, k, first), 4, first
    )
    chosen = naive.choose(q, k, 2, 4, "max", per, first)
    wanted, dense, mass = naive.attend(q, k, v, chosen, 4, first)
    assert outputs == pytest.approx(wanted, abs=1e-12)
    assert loss.mass == pytest.approx(mass.mean(1), abs=1e-12)
    judged = np.arange(TOKENS) >= first
    change = np.square(wanted - dense).sum((1, 2)) * judged
    assert loss.change == pytest.approx(change, abs=1e-12)
    assert loss.energy == pytest.approx(np.square(dense).sum((1, 2)) * judged, abs=1e-12)


def test_all_blocks_are_all_positions() -> None:
    q, k, v = vectors(7, layers=3)
    all_read = replay_blocks(Retrieval(9, 4), q, k, v, head_dim=DIM)
    assert all_read.mass_kept() == pytest.approx(np.ones(3))
    assert all_read.output_error() == pytest.approx(np.zeros(3), abs=1e-20)
    losses = [replay_blocks(Retrieval(n, 4, "max"), q, k, v, head_dim=DIM) for n in (1, 3, 6)]
    kept = [each.mass_kept().mean() for each in losses]
    assert kept == sorted(kept)
    assert kept[0] < 0.9


def test_threads_and_other_layers_change_nothing() -> None:
    q, k, v = vectors(8, layers=3)
    one, three = (
        replay_blocks(Retrieval(2, 4), q, k, v, head_dim=DIM, prompt=9, threads=n) for n in (1, 3)
    )
    alone = replay_blocks(Retrieval(2, 4), q[:, 2:], k[:, 2:], v[:, 2:], head_dim=DIM, prompt=9)
    assert np.array_equal(one.change, three.change)
    assert np.array_equal(one.mass[:, 2], alone.mass[:, 0])
    assert (one.mass[:9] == 1).all()


def test_a_block_of_one_position_is_a_choice_of_positions() -> None:
    """The best positions by their logits have the most attention that so many can have."""
    q, k, v = vectors(9, tokens=20)
    heads = Heads(q[:, :1], k[:, :1], v[:, :1], DIM**-0.5)
    chosen = choose_blocks(Retrieval(3, 1), heads.queries, heads.keys)
    _, loss = attend(heads, chosen, 1)
    weights = np.exp(k[:, 0] @ q[19, 0] / 2)
    best = np.sort(weights[:19])[-3:].sum() + weights[19]
    assert loss.mass[19] == pytest.approx(best / weights.sum())


# Bytes


def plan(
    top: int = 3, block: int = 4, model=SMOL, form=FP16, resident=None, **how
) -> RetrievalPlan:
    retrieval = Retrieval(top, block, **how)
    return RetrievalPlan(model=model, format=form, resident=resident, retrieval=retrieval)


@pytest.mark.parametrize(
    ("name", "position"), [("smollm2-135m", 768), ("llama-3-8b", 4096), ("llama-3.2-3b", 4096)]
)
def test_a_position_is_two_keys_in_two_bytes(name: str, position: int) -> None:
    model = load_model(name)
    block = plan(block=16, model=model).sizes
    assert block.read == 16 * position
    assert block.chosen_by == position / 2  # a key
    assert plan(block=1, model=model, per="head").sizes.read / model.kv_heads < 4096  # no page


def test_what_a_token_reads_by_hand() -> None:
    # After 18 positions: 4 complete blocks of 4, of which 3 are read, and 2 newest positions.
    key, position = 384.0, 768.0
    step = plan().step(18)
    assert step.held[0, 0] == 3 * 4 + 2
    assert step.read[0, 0] == (3 * 4 + 2) * position + 4 * key
    by_max = plan(by="max").step(18)
    assert by_max.read[0, 0] == 16 * key + 3 * 4 * key + 2 * position
    assert plan().index_bytes(18) == 4 * key * SMOL.layers
    assert plan(by="max").index_bytes(18) == 16 * key * SMOL.layers
    eighths = plan(form=parse_format("q8_0"))
    assert eighths.sizes.read == 4 * position * 8.5 / 16


def test_all_blocks_take_the_bytes_of_all_positions_beside_what_they_are_chosen_by() -> None:
    before = np.arange(0, 60)
    whole, few = KvPlan(SMOL).step(before), plan(15, 4)
    index = before[:, None] // 4 * 384
    assert (few.step(before).read == whole.read + index).all()
    assert (plan(15, 4, by="max").step(before).read == whole.read).all()
    assert (few.step(before).held == whole.held).all()
    assert (few.dram_bytes(before) == KvPlan(SMOL).dram_bytes(before)).all()
    both = plan(15, 4, by="max")
    index_of = np.array([both.index_bytes(n) for n in before.tolist()])
    assert (both.dram_bytes(before) + index_of == KvPlan(SMOL).dram_bytes(before)).all()


def test_a_part_in_dram_is_the_newest_block_and_whole_ones() -> None:
    part = plan(resident=np.full(SMOL.layers, 14))
    assert part.capacity.tolist() == [2] * SMOL.layers  # and a block that is being written
    position = 768.0 * SMOL.layers
    assert part.dram_bytes([3, 11, 12, 40]).tolist() == [n * position for n in (3, 11, 12, 12)]
    assert part.flash_bytes([3, 11, 12, 40]).tolist() == [n * position for n in (0, 8, 12, 40)]
    assert part.buffer_bytes([3, 9, 40]).tolist() == [n * 768.0 for n in (0, 8, 12)]
    written = part.step(np.arange(8)).flash_written[:, 0]
    assert written.tolist() == [0, 0, 0, 4 * 768, 0, 0, 0, 4 * 768]
    assert not plan().step(np.arange(8)).flash_written.any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 60))
def test_reads_grow_with_blocks_and_tokens(top: int, block: int, before: int) -> None:
    fewer, more = plan(top, block).step(before), plan(top + 1, block).step(before)
    assert (fewer.read <= more.read).all()
    assert (fewer.held <= before).all()
    assert (more.held - fewer.held)[0, 0] in (0, block)
    twins = naive.choose(np.ones((before + 1, 1, 1)), np.ones((before + 1, 1, 1)), top, block)
    assert fewer.held[0, 0] == len(naive.seen(before, twins[before][0], block)) - 1
