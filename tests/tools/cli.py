"""Running command lines: in this process as a user would, as bare commands, and as programs.

* `runner`, in the fixture ``dipsim``: `main` with its exit code and its lines on standard error.
* `invoke`, `refusal`: the commands alone, whose errors stay exceptions.
* `program`: a process of its own.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
import typer.testing
from typer.testing import CliRunner, Result

from dipsim.cli import app, main
from dipsim.errors import DipsimError

LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (600, 600))\n"
"""Begins a program that would else never end: after so many seconds of a processor it is killed."""
STABLE_KEYS = {
    "tokens", "accesses", "hits", "unit_hit_rate", "hit_rate", "flash_bytes_per_token",
    "flash_useful_bytes_per_token", "flash_reads_per_token", "dram_bytes_per_token",
    "tokens_per_second", "tokens_per_second_range", "latency_ms", "prefill", "ttft_ms", "groups",
    "time_share", "energy_mj_per_token", "marks", "config", "version",
}  # fmt: skip
"""Keys of `dipsim run --json` that never go."""
typer.main.get_command = typer.testing._get_command = cache(typer.main.get_command)
"""Makes the commands once: at each call it would take longer than what most of them do."""
PROGRAM = [sys.executable, "-c", f"{LIMITED}from dipsim.cli import main; main()"]


class Outcome(NamedTuple):
    """Exit code, output, and the lines on standard error without hints."""

    code: int
    out: str
    err: list[str]

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


Dipsim = Callable[..., Outcome]


def lines_of(stderr: str) -> list[str]:
    """Return the lines on standard error without hints."""
    return [line for line in stderr.splitlines() if not line.startswith("dipsim: hint: ")]


def runner(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> Dipsim:
    """Return a function that runs a command line in this process, in ``folder``."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")

    def call(line: str, *more: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["dipsim", *shlex.split(line), *map(str, more)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Outcome(stop.value.code, captured.out, lines_of(captured.err))

    return call


def done(outcome: Outcome) -> Outcome:
    """Return the outcome: a success with nothing but warnings on standard error."""
    assert outcome.code == 0
    assert [line for line in outcome.err if not line.startswith("dipsim: warning: ")] == []
    return outcome


def refused(outcome: Outcome, *said: str) -> None:
    """Check for exit code 2 and one line on standard error that has every text of ``said``."""
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err) == 1
    assert outcome.err[0].startswith("dipsim: ")
    for text in said:
        assert text in outcome.err[0]


def invoke(*words: object) -> Result:
    """Run a command in this process; what it raises is the result's ``exception``."""
    return CliRunner().invoke(app, list(map(str, words)))


def refusal(*words: object) -> str:
    """Return the line that a command fails with."""
    result = invoke(*words)
    assert isinstance(result.exception, DipsimError), result.output
    return str(result.exception)


def program(line: str, *more: object, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run a command line as a program of its own; ``given`` is for `subprocess.run`."""
    command = [*PROGRAM, *shlex.split(line), *map(str, more)]
    given = {"capture_output": True, "text": True, **given}
    return subprocess.run(command, **given)
