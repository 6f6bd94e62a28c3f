"""Lists on the command line: commas between names, and parameters that stay with theirs."""

import pytest

from dipsim.cli.lists import split_names, split_numbers
from dipsim.errors import DipsimError


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([], []),
        (["lru"], ["lru"]),
        (["lru,lfu", "arc"], ["lru", "lfu", "arc"]),
        (["lru, lfu"], ["lru", "lfu"]),
        (
            ["lru,lfu-decay:half_life=32,other=2,arc"],
            ["lru", "lfu-decay:half_life=32,other=2", "arc"],
        ),
        (["a:k=1,b:k=2"], ["a:k=1", "b:k=2"]),
        (["mine.py:policy,lru,mine.py:other:k=2,j=3"],
         ["mine.py:policy", "lru", "mine.py:other:k=2,j=3"]),
        (["half_life=32,lru"], ["half_life=32", "lru"]),  # no name to stay with: refused later
        (["lfu-decay", "half_life=32"], ["lfu-decay", "half_life=32"]),
    ],
)  # fmt: skip
def test_names(given: list[str], names: list[str]) -> None:
    assert split_names(given) == names


def test_a_name_that_is_missing_stays_to_be_refused() -> None:
    assert split_names(["lru,,lfu", "arc,", ""]) == ["lru", "", "lfu", "arc", "", ""]


def test_numbers() -> None:
    assert split_numbers([".5,1e-1", "1"], "--x") == [0.5, 0.1, 1.0]
    with pytest.raises(DipsimError, match=r"--x '0\.5x': a number"):
        split_numbers([".5,0.5x"], "--x")
