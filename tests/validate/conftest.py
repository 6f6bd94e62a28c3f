"""Fixtures of the tests of `dipsim validate`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tools.cli import Outcome, runner
from tools.validating import writer_of_runs


@pytest.fixture
def ran(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Outcome]:
    """Run ``dipsim validate`` with options, in an empty folder."""
    run = runner(monkeypatch, capsys, tmp_path)
    return lambda *options: run("validate", *options)


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Write a small route trace and its metrics."""
    return writer_of_runs(tmp_path)
