"""The glossary: everything that `dipsim run` prints has an entry, and all places show the same."""

import ast
import inspect
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from dipsim import marks
from dipsim.methods import BUILTIN as METHODS
from dipsim.policies import BUILTIN as POLICIES
from dipsim.report import glossary
from dipsim.report.tables import Table
from tools.cli import Dipsim, done, refused
from tools.paths import DOCS

CHAT = "run smollm2-chat --tokens 0:24 -p"
_ALL = (
    f"{CHAT} oneplus15r --dram 25%",
    f"{CHAT} oneplus15r --dram 70% --kv grow --attribution",
    f"{CHAT} snapdragon8 --prefetch previous --dram 80%",
    f"{CHAT} oneplus15r --dram 60% --io buffered",
    f"{CHAT} snapdragon8 --method glu",
    "run marked.npz -p phone.yaml --cache-fraction .5",
    "run sets.npz -p oneplus15r --method predictor --cache-fraction .5",
    f"{CHAT} snapdragon8 --dram 80% --speculate draft=2,accept=.8,cost=.1",
    "run smollm2-kv --tokens 0:140 -p snapdragon8 --kv-dram 25% --kv-fetch top=4:block=16",
)
LINES = [
    pytest.param(line, marks=pytest.mark.slow if number % 3 else [])
    for number, line in enumerate(_ALL)
]
"""Every third is no slow test."""
NAMES_OF_GROUPS = {"mlp_input", "glu", "expert", "attn_input", "attn_output", "gate", "up"}


def known(word: str) -> bool:
    return glossary.legend([word]) != []


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of columns and of rows, of all tables that are printed."""
    words: list[str] = []
    show = Table.__rich_console__

    def noting(table: Table, *how: Any) -> Any:
        words.extend(table.words)
        return show(table, *how)

    monkeypatch.setattr(Table, "__rich_console__", noting)
    return words


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("details", ["", " --details"])
def test_every_column_and_row_has_an_entry(
    dipsim: Dipsim, printed: list[str], line: str, details: str
) -> None:
    done(dipsim(line + details))
    words = printed[: printed.index("word")] if details else printed  # then comes the legend
    assert len(words) >= 8
    assert [word for word in words if not known(word) and word not in NAMES_OF_GROUPS] == []


def test_every_symbol_in_a_meaning_has_an_entry() -> None:
    texts = " ".join(entry.meaning for entry in glossary.GLOSSARY)
    symbols = {word.strip(".,;:()") for word in texts.split() if set(word) & set("|*")}
    assert symbols == {"|A|"}
    assert all(glossary.meanings(symbol) for symbol in (*symbols, "C/|A|", "q*"))


def test_the_legend_explains_what_is_printed_and_nothing_else(
    dipsim: Dipsim, printed: list[str]
) -> None:
    out = done(dipsim(f"{CHAT} oneplus15r --dram 60% --details")).out
    legend = out[out.index("\nwords\n") :]
    shown = printed[: printed.index("word")]
    for word in ("q*", "mass", "energy", "C/|A|", "open-loop", "estimate", "KV", "management"):
        assert f"\n{word} " in legend
    for word in ("clairvoyant", "scales", "cold start", "prefill", "elasticity"):
        assert (f"\n{word} " in legend) is (word in shown)


def keys(value: Any) -> Iterator[str]:
    """Yield every key of a JSON value, those inside ``config`` and ``about`` apart."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from () if key in ("config", "about") else keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


@pytest.mark.parametrize("line", LINES)
def test_every_key_has_an_entry(dipsim: Dipsim, line: str) -> None:
    found = done(dipsim(f"{line} --json")).json
    assert sorted({key for key in keys(found) if not known(key)}) == []
    page = (DOCS / "concepts.md").read_text()
    assert [key for key in found if f"`{key}`" not in page.split("## Results")[1]] == []


def test_every_mark_has_an_entry_and_every_entry_is_a_mark() -> None:
    tree = ast.parse(inspect.getsource(marks.marks))
    (table,) = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    given = {key.value for key in table.keys if isinstance(key, ast.Constant)}
    assert len(given) > 9
    assert {entry.name for entry in glossary.MARKS} == given


def test_no_name_has_two_entries_of_a_kind() -> None:
    for entries in (glossary.WORDS, glossary.FIGURES, glossary.MARKS):
        counts = Counter(name for entry in entries for name in {*map(str.casefold, entry.names)})
        repeated = [name for name, count in counts.items() if count > 1]
        assert repeated == []
    assert all(entry.meaning and len(entry.meaning) <= 140 for entry in glossary.GLOSSARY)


def test_the_page_of_concepts_shows_the_glossary() -> None:
    page = (DOCS / "concepts.md").read_text()
    for entries in (glossary.WORDS, glossary.FIGURES, glossary.MARKS):
        assert glossary.markdown(entries) in page


# explain ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "start"),
    [
        ("q*", "q* (figure): the miss density above which"),
        ("break_even_miss_density", "q* (figure): "),
        ("Break-Even miss DENSITY", "q* (figure): "),
        ("C/|A|", "C/|A| (figure): "),
        ("hit_rate", "hits (figure): "),
        ("block_hit_rate", "block hit rate (figure): "),
        ("retrieval", "retrieval: "),
        ("KV index", "KV index (figure): "),
        ("decode step", "decode step: "),
        ("open-loop", "open loop: "),
        ("dip-ca", "dip-ca (method): "),
        ("arc", "arc (policy): "),
    ],
)
def test_explain_knows_every_name(dipsim: Dipsim, word: str, start: str) -> None:
    assert done(dipsim("explain", word)).out.startswith(start)


def test_a_word_of_several_meanings_has_them_all(dipsim: Dipsim) -> None:
    out = done(dipsim("explain static")).out
    assert "static weights (figure): " in out
    assert "static (policy): " in out
    assert done(dipsim("explain warm up")).out == done(dipsim("explain warm-up")).out


@pytest.mark.parametrize(
    ("word", "near"), [("hit_rte", "hit_rate"), ("energi", "energy"), ("C/A", "C/|A|")]
)
def test_an_unknown_word_is_refused_with_the_nearest(dipsim: Dipsim, word: str, near: str) -> None:
    refused(dipsim("explain", word), repr(word), "did you mean", near, "dipsim explain lists all")


def test_what_is_like_no_word_is_refused_all_the_same(dipsim: Dipsim) -> None:
    refused(
        dipsim("explain", "\x1b[31m" + "zq" * 500), "is no word of the glossary: dipsim explain"
    )


def test_explain_alone_lists_everything(dipsim: Dipsim) -> None:
    out = done(dipsim("explain")).out
    for name in ("q*", "gamma", "clairvoyant", *METHODS, *POLICIES):
        assert f"\n{name} " in out
    listed = done(dipsim("explain --json")).json["words"]
    assert len(listed) == len(glossary.GLOSSARY) + len(METHODS) + len(POLICIES)
    (one,) = done(dipsim("explain mass --json")).json["words"]
    assert one == {
        "name": "mass",
        "also": ["mass_kept", "mass_kept_plain"],
        "kind": "figure",
        "meaning": "share of the sum of scores that the mask keeps",
    }
