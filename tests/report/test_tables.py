"""Lines and tables that all reports are made of."""

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as some
from rich.console import Console, Group

from dipsim.report.tables import Table, line
from tools.cli import Dipsim, done

WORDS = some.lists(some.text("abc-é", min_size=1, max_size=12), min_size=1, max_size=20)


def printed(*parts: object, width: int) -> list[str]:
    console = Console(width=width, no_color=True, file=StringIO())
    console.print(Group(*parts), crop=False)  # type: ignore[arg-type]
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_folded_line_by_hand() -> None:
    assert printed(line("what they come from is here"), width=15) == [
        "what they come",
        "from is here",
    ]


@given(WORDS, some.integers(1, 40))
def test_folding_keeps_words_and_ends_no_line_with_a_blank(words: list[str], width: int) -> None:
    text = " ".join(words)
    lines = printed(line(text), width=width)
    assert " ".join(lines) == text
    assert all(each == each.rstrip() for each in lines)
    table = Table("some words", "")
    table.add_row(text, text)
    assert all(each == each.rstrip() for each in printed(table, width=width))


@pytest.mark.parametrize("command", ["run t.npz -p phone.yaml --cache-fraction .5", "explain mass"])
def test_no_printed_line_ends_with_a_blank(
    dipsim: Dipsim, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = done(dipsim(command)).out.splitlines()
    assert len(lines) > 1
    assert [each for each in lines if each != each.rstrip()] == []
