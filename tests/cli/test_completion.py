"""What a shell completes, ``-h``, and the program as a module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from dipsim.cli import app, completion
from dipsim.hardware import profile_names
from dipsim.methods import BUILTIN as METHODS
from dipsim.model import model_names
from dipsim.policies import BUILTIN as POLICIES
from dipsim.trace import trace_names
from tools.cli import Dipsim, refused

MODULE = [sys.executable, "-m", "dipsim"]
LOADED = """
import atexit, sys
atexit.register(lambda: print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr))
from dipsim.cli import main
main()
"""


def completed(line: str, shell: str = "bash") -> tuple[list[str], set[str]]:
    """Return what is offered for the last word of a line, and the packages that this loads."""
    environment = {
        **os.environ,
        "_DIPSIM_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": line,
    }
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    return done.stdout.split(), set(done.stderr.split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dipsim exp", ["explore", "export", "explain"]),
        ("dipsim run smol", ["smollm2-chat", "smollm2-kv"]),
        ("dipsim run t.npz --policy lfu", ["lfu", "lfu-decay", "lfu-resident"]),
        ("dipsim run t.np", []),  # then the shell offers files
    ],
)
def test_a_shell_is_offered_names_without_waiting(line: str, offered: list[str]) -> None:
    names, loaded = completed(line)
    assert names == offered
    assert "dipsim" in loaded
    assert loaded & {"numba", "matplotlib", "torch"} == set()


def test_zsh_is_offered_the_same() -> None:
    names, _ = completed("dipsim run --method di", "zsh")
    assert "dip-ca" in " ".join(names)


COMPLETED = {
    completion.traces: trace_names(),
    completion.profiles: profile_names(),
    completion.models: model_names(),
    completion.policies: sorted(POLICIES),
    completion.methods: sorted(METHODS),
}


@pytest.mark.parametrize("complete", COMPLETED, ids=lambda complete: complete.__name__)
def test_every_name_is_completed(complete: object) -> None:
    assert callable(complete)
    names = COMPLETED[complete]
    assert complete("") == names
    for name in names:
        assert name in complete(name[:2])
    assert complete("no such") == []


def test_every_option_that_takes_a_name_completes_it() -> None:
    """By the name of the option; a model to run is a folder, which the shell knows."""
    named = {
        "policy",
        "method",
        "profile",
        "trace",
        "static_from",
        "warm_from",
        "like",
        "extends",
        "geometry",
    }
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    without = [
        f"{name} {parameter.name}"
        for name, command in commands.items()
        for parameter in command.params
        if parameter.name in named and parameter._custom_shell_complete is None
    ]
    assert without == []


@pytest.mark.parametrize("line", ["", "run", "policies"])
def test_h_is_help(dipsim: Dipsim, line: str) -> None:
    short, long = (dipsim(f"{line} {option}") for option in ("-h", "--help"))
    assert short == long
    assert short.code == 0
    assert "-h, --help" in short.out


def test_dipsim_is_a_module(dipsim: Dipsim) -> None:
    done = subprocess.run([*MODULE, "policies"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, dipsim("policies").out)
    helped = subprocess.run([*MODULE, "run", "-h"], capture_output=True, text=True)
    assert helped.stdout.startswith("Usage: dipsim run ")


def test_completion_is_installed_at_home_or_refused(
    dipsim: Dipsim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    made_anew = typer.main.get_command.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setattr(typer.main, "get_command", made_anew)
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = dipsim("--show-completion bash")
    assert (shown.code, shown.err) == (0, [])
    assert dipsim("--install-completion bash").code == 0
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert script.read_text().strip() == shown.out.strip()
    assert str(script) in (tmp_path / ".bashrc").read_text()
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    refused(dipsim("--install-completion bash"), "--show-completion")
