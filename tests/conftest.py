"""Fixtures of all tests; hypothesis draws the same examples every time, however slow."""

import gc
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

# Threads of torch wait for each other busily, and several test processes share the cores.
os.environ["OMP_NUM_THREADS"] = "1"

pytest.register_assert_rewrite("tools")

from tools.cli import Dipsim, runner  # noqa: E402
from tools.folder import fill  # noqa: E402

settings.register_profile("dipsim", derandomize=True, deadline=None)
settings.load_profile("dipsim")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small traces, good and bad, a model, profiles and policies."""
    path = tmp_path_factory.mktemp("folder")
    fill(path)
    return path


@pytest.fixture
def dipsim(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> Dipsim:
    """Run a command line in this process, in ``folder``."""
    return runner(monkeypatch, capsys, folder)


@pytest.fixture
def judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge the shipped cases once for every command that shows them, as that takes long."""
    from tools import validating

    monkeypatch.setattr("dipsim.validate.judge", validating.judged_once)


@pytest.fixture
def fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit a signal of a trace once for every synthetic trace that is drawn like it."""
    from tools import fits

    monkeypatch.setattr(fits.MODULE, "_fit_signal", fits.fitted)


def pytest_collection_finish() -> None:
    """Leave what is there now, and stays to the end, out of every collection of garbage."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how many tests were skipped, and why."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        each = (f"{count} ({reason})" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"skipped: {', '.join(each)}")
