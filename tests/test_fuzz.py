"""Odd traces under any options (`tools.fuzz`): an answer that obeys the laws, or a refusal."""

from itertools import islice

import pytest

from dipsim.settings import Settings
from tools import fuzz
from tools.drawn_lines import commands

CASES, FIRST = 100, 0


@pytest.mark.slow
def test_odd_traces_under_any_options_are_answered_or_refused() -> None:
    verdicts = list(islice(fuzz.cases(FIRST), CASES))
    failures = [f"seed {each.seed}: {each.detail}" for each in verdicts if each.code is None]
    assert not failures, "\n".join(failures)
    assert sum(each.code == 0 for each in verdicts) > CASES / 5


def test_every_option_and_command_is_drawn() -> None:
    drawn = commands()
    assert {"run", "compare", "mrc", "search", "study", "synth", "export"} <= drawn.keys()
    assert Settings.model_fields.keys() <= drawn["run"].keys()
    for option in drawn["run"].values():
        assert option.texts or not option.needed


def test_a_seed_is_one_case() -> None:
    first, again = (list(islice(fuzz.cases(7), 2)) for _ in range(2))
    assert first == again
