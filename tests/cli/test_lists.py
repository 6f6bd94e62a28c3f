"""Comma lists mean what the user meant, wherever an option may repeat."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dipsim.errors import DipsimError
from dipsim.lists import split_names, split_numbers
from tools.cli import Dipsim, done, refused
from tools.commands import COMMANDS, options_of

NAMES = some.builds(
    lambda name, pairs: name + ":" * bool(pairs) + ",".join(f"{key}={n}" for key, n in pairs),
    some.sampled_from(["lru", "lfu-decay", "dip", "mine.py:policy", "50%", ".5"]),
    some.lists(some.tuples(some.sampled_from("abc"), some.integers(0, 9)), max_size=3),
)


@pytest.mark.parametrize(
    ("given_", "names"),
    [
        (["lru,lfu"], ["lru", "lfu"]),
        (["lru, lfu", "arc"], ["lru", "lfu", "arc"]),
        (
            ["lru,lfu-decay:half_life=32,other=2,arc"],
            ["lru", "lfu-decay:half_life=32,other=2", "arc"],
        ),
        (["mine.py:policy,lru"], ["mine.py:policy", "lru"]),
        (["a:b=1,c:d=2"], ["a:b=1", "c:d=2"]),
        (["all,top=4:block=16,top=8:block=16"], ["all", "top=4:block=16", "top=8:block=16"]),
        (["lru,"], ["lru", ""]),
        ([], []),
    ],
)
def test_names_by_hand(given_: list[str], names: list[str]) -> None:
    assert split_names(given_) == names


@given(some.lists(NAMES, min_size=1, max_size=5))
def test_joined_names_come_apart_again(names: list[str]) -> None:
    assert split_names([",".join(names)]) == names
    assert split_names(names) == names


def test_numbers() -> None:
    assert split_numbers([".5,.7", " .9"], "--density") == [0.5, 0.7, 0.9]
    with pytest.raises(DipsimError, match="--density 'x'"):
        split_numbers([".5,x"], "--density")


@pytest.mark.parametrize(
    ("listed", "repeated"),
    [
        (
            "mrc t.npz --policy lru,lfu-decay:half_life=8 --cache-fraction .5,.75",
            "mrc t.npz --policy lru --policy lfu-decay:half_life=8 --cache-fraction .5 "
            "--cache-fraction .75",
        ),
        (
            "study density t.npz -p phone.yaml,paper-a18 --method dip,dense",
            "study density t.npz -p phone.yaml -p paper-a18 --method dip --method dense",
        ),
        (
            "study policies t.npz -p phone.yaml --policy lru,arc",
            "study policies t.npz -p phone.yaml --policy lru --policy arc",
        ),
    ],
)
def test_a_list_is_the_option_repeated(dipsim: Dipsim, listed: str, repeated: str) -> None:
    figures = [done(dipsim(f"{line} --json")).json for line in (listed, repeated)]
    for each in figures:
        del each["about"]["options"]
    assert json.dumps(figures[0]) == json.dumps(figures[1])


def test_an_empty_part_is_refused(dipsim: Dipsim) -> None:
    refused(dipsim("mrc t.npz --policy lru,"), "''")
    refused(dipsim("mrc t.npz --cache-fraction .5,"), "--cache-fraction ''")


VERBATIM = {"--model", "--prompt", "-s", "--set", "--map", "--check", "--gamma", "--encoding"}
"""Options whose values may hold commas of their own, or are pairs."""


def test_every_option_that_repeats_is_known() -> None:
    """A new one says whether it takes lists: its help mentions commas, or it stands above."""
    for name in COMMANDS:
        for each in options_of(name):
            if each.multiple and not VERBATIM & set(each.opts):
                assert "comma" in each.help, (name, each.opts)
