"""Help that explains itself, examples that run, and options that take no more than they can."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

import dipsim
from dipsim.cli.help import PANELS, SUBJECTS
from dipsim.errors import DipsimError
from dipsim.settings import OPTIONS
from tools.cli import Dipsim, done, refused, runner
from tools.commands import COMMANDS, flags_of, options_of, taking
from tools.model_folder import fill

PYTHON_TYPES = re.compile(
    r"(?<!--)\b(TEXT|INTEGER|FLOAT|LIST|BOOLEAN|str|int|float|list|None)\b|<\w"
)
EXAMPLES = {name: command.epilog.splitlines() for name, command in COMMANDS.items()}


# Help ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_in_plain_words_and_fits_a_terminal(dipsim: Dipsim, name: str) -> None:
    text = done(dipsim(f"{name} --help")).out
    assert [row for row in text.splitlines() if len(row) > 80] == []
    assert PYTHON_TYPES.findall(text) == []
    assert all(re.search(rf"(?m)^  .*{flag}\b", text) for flag in flags_of(name))


@pytest.mark.parametrize("name", COMMANDS)
def test_options_stand_in_groups(dipsim: Dipsim, name: str) -> None:
    text = done(dipsim(f"{name} --help")).out
    heads = re.findall(r"(?m)^(\w.*):$", text)
    groups = [head for head in heads if head in PANELS]
    assert groups == sorted(groups, key=PANELS.index)
    assert {getattr(each, "rich_help_panel", None) for each in options_of(name)} <= {None, *PANELS}
    assert heads[-1] in ("Example", "Examples")


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_shown(dipsim: Dipsim, name: str) -> None:
    text = " ".join(done(dipsim(f"{name} --help")).out.split())
    for each in options_of(name):
        if each.default is not None and not each.is_flag and not each.multiple:
            assert f"[{each.default}]" in text


def test_settings_say_their_defaults() -> None:
    stated = {name: option for name, option in OPTIONS.items() if option.default not in (None, {})}
    assert len(stated) > 10
    for name, option in stated.items():
        said = re.search(r"\[(.*)\]$", option.help)
        assert said is not None, name
        assert said[1] == f"{option.default}" or "cache" in said[1], name


def test_the_program_lists_its_commands_by_subject(dipsim: Dipsim) -> None:
    text = done(dipsim("--help")).out
    assert [row for row in text.splitlines() if len(row) > 80] == []
    assert "..." not in text.split("\n", 1)[1]
    places = [text.index(f"\n{subject}:\n") for subject in SUBJECTS]
    assert places == sorted(places)
    for name, command in COMMANDS.items():
        subject = text.index(f"\n{command.rich_help_panel}:\n")
        later = [place for place in places if place > subject]
        assert subject < text.index(f"\n  {name} ") < min(later, default=len(text))
    assert "\nExample:\n  dipsim run " in text


# Examples -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the examples name."""
    path = tmp_path_factory.mktemp("shop")
    fill(path)
    with (path / "mine.py").open("a") as file:
        file.write(METHOD)
    (path / "log.jsonl").write_text('{"tok": 0, "layers": [[1, 2]]}\n')
    grid = {"policy": ["lru", "opt"], "cache_fraction": [0.5, 0.7], "name": "budgets"}
    sweep = {"trace": "smollm2-chat", "profile": "paper-a18", "tokens": "0:8", **grid}
    (path / "budgets.yaml").write_text(yaml.safe_dump(sweep))
    dipsim.sweep(sweep, path / "budgets.db")
    return path


METHOD = """
import dipsim


def largest(scores, k, resident, state, keys):
    keys[:] = scores


method = dipsim.PruningMethod("mine", ("glu",), rank=largest, cache_aware=False)
"""
"""A method of a user's own, beside the policy in the folder's ``mine.py``."""


def interrupted(*_: Any, **__: Any) -> None:
    """End what would go on until it is interrupted."""
    raise KeyboardInterrupt


def example(name: str, line: str) -> Any:
    """An example to test; those that compile or make much are slow tests."""
    slow = "--check" in line or name in ("validate", "synth", "lora", "eval")
    return pytest.param(name, line, marks=pytest.mark.slow if slow else [])


@pytest.mark.parametrize(
    ("name", "line"), [example(name, line) for name in COMMANDS for line in EXAMPLES[name]]
)
def test_examples_run(
    name: str,
    line: str,
    shop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name == "explore":
        monkeypatch.setattr("uvicorn.Server.run", interrupted)
        monkeypatch.setattr("webbrowser.open", print)
    for file in shop.iterdir():
        (tmp_path / file.name).symlink_to(file)
    program, command, *_ = shlex.split(line)
    assert (program, command) == ("dipsim", name)
    line = line.removeprefix("dipsim ").replace("seconds 1", "seconds .1")  # of reading a disk
    outcome = runner(monkeypatch, capsys, tmp_path)(line)
    assert outcome.code == 0, outcome.err


def test_every_command_has_an_example() -> None:
    assert [name for name, lines in EXAMPLES.items() if not lines] == []


def test_a_folded_example_is_the_command_that_it_was(dipsim: Dipsim) -> None:
    text = done(dipsim("run --help")).out
    shown = text[text.index("Examples:\n") :].replace("\\\n", " ").splitlines()[1:]
    assert [shlex.split(line) for line in shown] == [shlex.split(each) for each in EXAMPLES["run"]]
    assert any(len(each) > 80 for each in EXAMPLES["run"])


# Options that are given twice ---------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_value_is_refused_where_one_is_taken(name: str) -> None:
    """Whatever else is wrong with the line: nothing is silently dropped."""
    for each in options_of(name):
        longest = max(each.opts, key=len)
        if each.multiple or each.is_flag:
            continue
        for flag in each.opts:
            for words in ([flag, "1", flag, "2"], [f"{longest}=1", flag, "2"]):
                with pytest.raises(DipsimError, match=rf"^{longest} given twice \(1, 2\): one"):
                    COMMANDS[name].make_context(name, words)


def test_a_second_value_on_the_command_line(dipsim: Dipsim) -> None:
    refused(
        dipsim("run t.npz -p a --profile b"),
        "--profile given twice (a, b): one only; compare, study take several",
    )


def test_the_refusal_names_the_commands_that_take_several(dipsim: Dipsim) -> None:
    (error,) = dipsim("run t.npz -p phone.yaml --policy lru --policy lfu").err
    takers = [name for name in taking("--policy") if _several(name, "--policy")]
    assert {"compare", "mrc"} <= set(takers)
    assert error.endswith(f"; {', '.join(takers)} take several")
    (error,) = dipsim("run t.npz --bits 4 --bits 5").err
    assert error.endswith("one only")


def _several(name: str, flag: str) -> bool:
    return any(flag in each.opts and each.multiple for each in options_of(name))


def test_a_flag_may_be_raised_twice(dipsim: Dipsim) -> None:
    assert done(dipsim("profiles --json --json")).json == done(dipsim("profiles --json")).json


# Names and values that are wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("run t.npz --methd dip", "--method"),
        ("run t.npz --meth dip", "--method"),
        ("run t.npz --cachefraction .5", "--cache-fraction"),
        ("mrc t.npz --polciy lru", "--policy"),
        ("eval . --text t --desnity .5", "--density"),
        ("rnu t.npz", "run"),
        ("comp t.npz", "compare"),
        ("validat", "validate"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(dipsim: Dipsim, line: str, nearest: str) -> None:
    refused(dipsim(line), "no such", f"did you mean {nearest}?", "--help lists all)")


def test_a_name_like_no_other_gets_no_suggestion(dipsim: Dipsim) -> None:
    refused(dipsim("run t.npz --xyzzy"), "--xyzzy", "none like it")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run t.npz -p phone.yaml --density high", ["--density high"]),
        ("run t.npz -p phone.yaml --seed 1.5", ["--seed 1.5"]),
        ("eval . --text t --window -3", ["--window -3"]),
        ("eval .", ["no --text FILE"]),
        ("inspect", ["no TRACE"]),
        ("import a.npz", ["no OUT: dipsim import LOG TRACE.npz"]),
    ],
)
def test_what_was_given_is_said(dipsim: Dipsim, line: str, said: list[str]) -> None:
    refused(dipsim(line), *said)


def test_both_spellings_of_a_value_are_the_same(dipsim: Dipsim) -> None:
    line = "run t.npz -p phone.yaml --json"
    spaced = done(dipsim(f"{line} --cache-fraction .5 --tokens :8")).json
    joined: Any = done(dipsim(f"{line} --cache-fraction=.5 --tokens=:8")).json
    assert spaced == joined
