"""Several tokens at once: what speculation gives, and how soon a batch needs every unit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipsim.batch import tokens_per_step, union_share, unions
from dipsim.errors import DipsimError
from dipsim.trace import load_trace


@pytest.mark.parametrize(
    ("acceptance", "expected"),
    [(0.6, (1.96, 2.31, 2.47)), (0.8, (2.44, 3.36, 4.33)), (0.9, (2.71, 4.10, 6.13))],
)
def test_tokens_of_a_step(acceptance: float, expected: tuple[float, ...]) -> None:
    assert tuple(round(tokens_per_step(n, acceptance), 2) for n in (2, 4, 8)) == expected


def test_tokens_of_a_step_at_the_ends() -> None:
    assert tokens_per_step(0, 0.7) == 1
    assert tokens_per_step(5, 1.0) == 6
    assert tokens_per_step(5, 0.0) == 1


def test_tokens_of_a_step_are_the_mean_of_runs() -> None:
    accepted = np.random.default_rng(0).random((200_000, 4)) < 0.7
    tokens = 1 + np.cumprod(accepted, axis=1).sum(1)
    assert tokens.mean() == pytest.approx(tokens_per_step(4, 0.7), abs=0.02)


@pytest.mark.parametrize(("draft", "acceptance"), [(-1, 0.5), (2, 1.5), (2, -0.1), (2, np.nan)])
def test_no_drafts_and_no_probability(draft: int, acceptance: float) -> None:
    with pytest.raises(DipsimError, match="give 0 or more drafts, and a probability"):
        tokens_per_step(draft, acceptance)


def top_half(signal: str, density: float) -> tuple[np.ndarray, int, np.ndarray]:
    """Bits of the best units of the shipped trace, its units, its sequences."""
    trace = load_trace("smollm2-chat")
    rows = np.concatenate([block[signal] for *_, block in trace.blocks({signal: "scores"})])
    units = rows.shape[-1]
    best = np.argsort(-rows, axis=-1, kind="stable")[..., : int(density * units + 1e-9)]
    flags = np.zeros(rows.shape, bool)
    np.put_along_axis(flags, best, True, -1)
    return np.packbits(flags, axis=-1, bitorder="little"), units, trace.sequence


@pytest.mark.parametrize(
    ("signal", "density", "expected"),
    [
        ("mlp_input", 0.5, {2: 0.726, 3: 0.845, 5: 0.947, 8: 0.987}),
        ("glu", 0.5, {2: 0.718, 3: 0.833, 5: 0.935, 8: 0.981}),
        ("mlp_input", 0.7, {2: 0.898, 5: 0.994}),
    ],
)
def test_unions_of_the_shipped_trace(signal: str, density: float, expected: dict) -> None:
    bits, units, sequence = top_half(signal, density)
    shares = {width: union_share(bits, units, width, sequence) for width in expected}
    assert {width: round(share, 3) for width, share in shares.items()} == expected


@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 9),
    units=st.sampled_from([3, 8, 70]),
    width=st.integers(1, 9),
)
def test_a_union_is_that_of_python_sets(seed: int, tokens: int, units: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    flags = rng.random((tokens, 2, units)) < 0.4
    sequence = np.sort(rng.integers(0, 2, tokens))
    sets = [[set(np.flatnonzero(row).tolist()) for row in token] for token in flags]
    wanted = [
        [set().union(*(sets[later][layer] for later in range(first, first + width)))]
        for first in range(tokens - width + 1)
        if len(set(sequence[first : first + width])) == 1
        for layer in range(2)
    ]
    bits = np.packbits(flags, axis=-1, bitorder="little")
    if not wanted:
        with pytest.raises(DipsimError, match="as many as follow one another"):
            unions(bits, width, sequence)
        return
    found = np.unpackbits(unions(bits, width, sequence), axis=-1, bitorder="little")
    rows = found.reshape(-1, found.shape[-1])
    assert [[set(np.flatnonzero(row).tolist())] for row in rows] == wanted
    share = sum(len(union) for [union] in wanted) / (len(wanted) * units)
    assert union_share(bits, units, width, sequence) == pytest.approx(share)


def test_words_of_any_width_give_the_same_share() -> None:
    bits, units, _ = top_half("mlp_input", 0.5)
    assert union_share(bits.view(np.uint64), units, 3) == union_share(bits, units, 3)


def test_a_batch_of_no_tokens() -> None:
    with pytest.raises(DipsimError, match="batches of 0 tokens: give 1 to 4"):
        unions(np.zeros((4, 1, 1), np.uint8), 0)
