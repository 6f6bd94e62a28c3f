"""Decode steps of several tokens: which rows they take, and what is refused."""

from itertools import repeat
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dipsim
from dipsim.batch import Speculation, parse_speculation, tokens_per_step
from dipsim.errors import DipsimError, TraceError
from dipsim.settings import Settings, make_settings
from dipsim.systems.steps import plan_steps
from dipsim.trace import Trace, load_trace
from dipsim.trace.steps import DecodeSteps
from naive.steps import steps as naive_steps
from tools.cli import Dipsim, done, refused


def recorded(decode: list[bool], sequence: list[int]) -> Trace:
    arrays = {
        "glu": np.ones((len(decode), 1, 2), np.bool_),
        "phase": np.array(decode, np.uint8),
        "sequence": np.array(sequence),
    }
    return load_trace(arrays)


def planned(trace: Trace, **options: Any) -> DecodeSteps:
    steps = plan_steps(trace, Settings(**options))
    assert steps is not None
    return steps


def taken(steps: DecodeSteps) -> list[tuple[list[int], int]]:
    """Return the rows of each step, and what it gives."""
    ends = np.flatnonzero(steps.tokens.ends_decode_step())
    first = steps.tokens.begins_decode_step()[ends]
    return [
        (steps.source[begin : end + 1].tolist(), int(steps.given[end]))
        for begin, end in zip(first, ends, strict=True)
    ]


DECODE, SEQUENCE = [False, False, *[True] * 5, False, *[True] * 4], [0] * 7 + [1] * 5


def test_sequences_side_by_side_by_hand() -> None:
    steps = planned(recorded(DECODE, SEQUENCE), batch=3)
    assert taken(steps) == [
        *(([0], 0), ([1], 0), ([2, 3, 4], 3), ([5, 6], 2)),
        *(([7], 0), ([8, 9, 10], 3), ([11], 1)),
    ]
    assert (steps.width, steps.sequences, steps.side_by_side) == (3, 3, True)
    whole = steps.measured("t", np.ones(12, np.bool_))
    assert steps.source[whole].tolist() == [4, 10]  # the last rows of whole steps
    assert np.flatnonzero(steps.all_tokens(whole)).tolist() == [2, 3, 4, 8, 9, 10]
    behind = steps.measured("t", np.arange(12) > 3)  # a step is measured if all its tokens are
    assert steps.source[behind].tolist() == [10]


def test_drafts_by_hand() -> None:
    """All are rejected, or all accepted."""
    trace = recorded(DECODE, SEQUENCE)
    none, every = (planned(trace, speculate=f"draft=2,accept={accept}") for accept in (0, 1))
    assert [step for step in taken(none) if step[1]] == [
        *(([2, 3, 4], 1), ([3, 4, 5], 1), ([4, 5, 6], 1), ([5, 6], 1), ([6], 1)),
        *(([8, 9, 10], 1), ([9, 10, 11], 1), ([10, 11], 1), ([11], 1)),
    ]
    assert taken(every) == taken(planned(trace, batch=3))
    assert every.sequences == 1
    positions = none.tokens.position[none.tokens.decode].tolist()
    assert positions[:9] == [2, 3, 4, 3, 4, 5, 4, 5, 6]


@given(
    decode=st.lists(st.booleans(), min_size=8, max_size=40),
    cuts=st.sets(st.integers(1, 39)),
    plan=st.sampled_from([{"batch": 2}, {"batch": 4}, {"speculate": "draft=3,accept=.6"}]),
    seed=st.integers(0, 99),
)
def test_rows_are_those_of_the_twin(
    decode: list[bool], cuts: set[int], plan: dict[str, Any], seed: int
) -> None:
    decode[2:6] = [True] * 4
    sequence = [sum(cut <= max(t, 5) for cut in cuts) for t in range(len(decode))]
    if "speculate" in plan:
        plan = {"speculate": f"{plan['speculate']},seed={seed}"}
    steps = planned(recorded(decode, sequence), **plan)
    gives = iter(steps.given[steps.given > 0].tolist()) if "speculate" in plan else None
    twin = naive_steps(decode, sequence, steps.width, gives or repeat(steps.width))
    assert taken(steps) == [(step.rows, step.given) for step in twin]


@pytest.mark.parametrize(("draft", "accept"), [(2, 0.6), (4, 0.8), (8, 0.9)])
def test_steps_give_as_many_tokens_as_chance_says(draft: int, accept: float) -> None:
    tokens = 60_000
    trace = recorded([True] * tokens, [0] * tokens)
    steps, again, other = (
        planned(trace, speculate=f"draft={draft},accept={accept}{seed}")
        for seed in ("", ",seed=0", ",seed=1")
    )
    given = steps.given[steps.given > 0]
    assert given.sum() == tokens
    assert given.mean() == pytest.approx(tokens_per_step(draft, accept), rel=0.02)
    np.testing.assert_array_equal(steps.given, again.given)
    assert len(steps.given) != len(other.given) or (steps.given != other.given).any()


def test_a_run_says_what_chance_gives_and_what_was_drawn() -> None:
    options: dict[str, Any] = {"cache_fraction": 0.5, "method": "dip"}
    for draft, accept, expected in ((2, 0.8, 2.44), (4, 0.8, 3.36), (8, 0.8, 4.33), (8, 0.6, 2.47)):
        plan = f"draft={draft},accept={accept}"
        result = dipsim.simulate("smollm2-chat", "paper-a18", speculate=plan, **options)
        step = result.step
        assert round(step["tokens_per_step"], 2) == expected
        assert step["tokens_per_step_drawn"] == result.tokens / step["steps"]
        assert (step["draft"], step["accept"], step["batch"]) == (draft, accept, None)


# The text -----------------------------------------------------------------------------------------


def test_a_plan_of_drafts_is_read() -> None:
    assert parse_speculation("draft=4,accept=.8") == Speculation(4, 0.8)
    given = parse_speculation(" draft = 0 , accept=1,cost=.1,seed=7")
    assert given == Speculation(0, 1.0, 0.1, 7)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--batch 0", "--batch: input should be greater than or equal to 1"),
        ("--batch 1.5", "--batch 1.5"),
        ("--batch 65", "a step takes 65 tokens, and smollm2-chat decodes at most 64 in a row"),
        ("--batch 2 --speculate draft=2,accept=.5", "several sequences at once are not modelled"),
        ("--batch 2 --prefetch previous", "guesses are for one token"),
        ("--batch 2 --skip-layers unified", "skip layers of their own"),
        ("--batch 2 --prune-tokens static", "which tokens come back differs"),
        ("--batch 2 --allocate optimal", "is fitted to single tokens"),
        ("--batch 2 --compat authors", "takes one token at a time"),
        ("--batch 2 --warmup 127", "no step of 2 tokens is left to be measured"),
        ("--speculate draft=64,accept=.5", "a step takes 65 tokens"),
        ("--speculate draft=4", "--speculate draft=4 needs accept="),
        ("--speculate accept=.4", "needs draft="),
        ("--speculate draft=-1,accept=.5", "draft=-1: a whole number from 0 to"),
        ("--speculate draft=1.5,accept=.5", "draft=1.5: a whole number from 0 to"),
        ("--speculate draft=1e99,accept=.5", "draft=1e99: a whole number from 0 to"),
        ("--speculate draft=2,accept=1.1", "accept=1.1: a number from 0 to 1"),
        ("--speculate draft=2,accept=-.1", "accept=-.1: a number from 0 to 1"),
        ("--speculate draft=2,accept=nan", "accept=nan: a number from 0 to 1"),
        ("--speculate draft=2,accept=", "accept=?: a number from 0 to 1"),
        ("--speculate draft=2,accept=.5,cost=-1", "cost=-1: a number from 0 to"),
        ("--speculate draft=2,accept=.5,colour=1", "no key 'colour'; its keys are draft"),
        ("--speculate draft=2,accept=.5,draft=2", "draft stands there twice"),
        ("--speculate 4", "no key '4'"),
    ],
)
def test_what_is_no_step_is_refused_in_a_line(dipsim: Dipsim, options: str, text: str) -> None:
    refused(dipsim(f"run smollm2-chat -p snapdragon8 --dram 60% {options}"), text)


def test_a_run_without_a_trace_decodes_one_token(dipsim: Dipsim) -> None:
    line = "run --model smollm2-135m -p snapdragon8 --method dense --batch 2"
    refused(dipsim(line), "a run without a trace decodes at most 1 in a row")


def test_steps_of_too_many_rows_are_refused() -> None:
    trace = recorded([True] * 40, [0] * 40)
    with (
        patch("dipsim.systems.steps.MAX_TOKENS", 100),
        pytest.raises(TraceError, match="take 117 rows of arrays, at most 100"),
    ):
        plan_steps(trace, Settings(speculate="draft=2,accept=0"))


def test_a_step_of_one_goes_with_everything() -> None:
    for options in ({"batch": 1}, {"batch": 1, "speculate": "draft=2,accept=.5"}):
        assert make_settings({**options, "overlap": "pipelined"}).batch == 1
    assert make_settings({"batch": 1, "overlap": "prefetch"}).prefetch == "previous"
    with pytest.raises(DipsimError, match="drop one of them"):
        make_settings({"batch": 2, "overlap": "prefetch"})


def test_no_drafts_are_no_speculation(dipsim: Dipsim) -> None:
    line = "run t.npz -p phone.yaml --cache-fraction .5 --json"
    plain = done(dipsim(line)).json
    none = done(dipsim(f"{line} --speculate draft=0,accept=0")).json
    assert {**none, "config": 0, "about": 0} == {**plain, "config": 0, "about": 0}
