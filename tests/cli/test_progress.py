"""Progress: true, on one line of the terminal, and gone when anything else is printed."""

import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit
from numba.core.errors import NumbaError
from numba.core.event import Event, Listener, install_listener
from rich.cells import cell_len

from dipsim import load_trace, simulate
from dipsim.cli import main
from dipsim.cli.output import guarded_streams
from dipsim.cli.progress import Progress
from dipsim.cli.status import STATUS
from dipsim.compiling import compiled_for, compiling, ended, started
from dipsim.replay.cache import ReplayedCache
from tools.cli import Dipsim
from tools.terminal import Terminal, printed_on_terminal, screen

WIDTHS = (40, 80, 200)
EAGER = """
from dipsim.cli import main
from dipsim.cli.progress import Progress

count = Progress.__call__

def count_and_show(progress, *counts):
    count(progress, *counts)
    progress.show()

Progress.__call__ = count_and_show
main()
"""
"""The program, but every count is shown at once."""
SILENT = """
from dipsim.cli import main
from dipsim.cli.progress import Progress

Progress.show = lambda progress: None
main()
"""

# The screen ---------------------------------------------------------------------------------------

SHOWING = (
    "run t.npz -p phone.yaml --cache-fraction .5",
    "run t.npz -p phone.yaml --cache-fraction 0",  # a warning
    "run nan.npz -p phone.yaml",  # an error
    "run odd.npz -p phone.yaml",  # a warning while it is shown
    "compare t.npz -p phone.yaml --policy lru --cache-fraction .5",
    "mrc t.npz --policy lru --policy opt",
    "inspect t.npz",
    "study density t.npz -p phone.yaml",
    "search t.npz -p phone.yaml --max-loss .5 --cache-fraction .5",
    "export t.npz shown.npz",
    "policies --check lru",
)


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> Iterator[Terminal]:
    """Standard output and standard error are one terminal, guarded as in the program."""
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        with guarded_streams():
            yield stream


def printed(line: str, monkeypatch: pytest.MonkeyPatch, columns: int, eager: bool) -> str:
    """Return what a command prints on a terminal; an eager one shows its progress all the time."""
    counted: Callable[..., None] = Progress.__call__

    def entered(progress: Progress) -> Progress:
        show(progress)
        return progress

    def count_and_show(progress: Progress, *counts: int) -> None:
        counted(progress, *counts)
        show(progress)

    show = Progress.show if eager else lambda progress: None
    stream = Terminal()
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setattr(Progress, "__enter__", entered)  # starts no thread
        patch.setattr(Progress, "__exit__", lambda progress, *_: STATUS.clear())
        patch.setattr(Progress, "__call__", count_and_show)
        patch.setattr(sys, "argv", ["dipsim", *shlex.split(line)])
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        with pytest.raises(SystemExit):
            main()
    return stream.getvalue()


@pytest.fixture(scope="module")
def home(folder: Path) -> Path:
    """The folder of small traces, with one that is warned of."""
    trace = load_trace(folder / "t.npz")
    arrays: Any = {name: np.load(folder / "t.npz")[name] for name in trace.signals}
    np.savez(folder / "odd.npz", **arrays, unknown=np.ones(3))
    return folder


@pytest.mark.parametrize("line", SHOWING)
def test_nothing_of_it_is_left_on_the_screen(
    line: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    shown, silent = (printed(line, monkeypatch, 40, eager) for eager in (True, False))
    assert "\rdipsim: " in shown
    assert "\r" not in silent
    assert screen(shown, 40) == screen(silent, 40)


@pytest.mark.parametrize(
    "columns", [40, *(pytest.param(n, marks=pytest.mark.slow) for n in (80, 200))]
)
@pytest.mark.slow
def test_it_fits_the_terminal_that_it_is_on(columns: int, home: Path) -> None:
    words = shlex.split("run t.npz -p phone.yaml --cache-fraction .5")
    shown = printed_on_terminal(EAGER, words, columns, home)
    assert "\rdipsim: finishing ..." in shown
    silent = printed_on_terminal(SILENT, words, columns, home)
    assert "\r" not in silent
    assert screen(shown, columns) == screen(silent, columns)


@pytest.mark.parametrize("columns", [2, 20, *WIDTHS])
@pytest.mark.parametrize("text", ["x" * 300, "好" * 150, "a\tb\nc\x1b[31m"])
def test_whatever_the_text_it_takes_one_row(
    text: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch, columns) as stream:
        STATUS.show(text)
        rows = stream.getvalue().split("\r")
        assert len(rows) == 2
        assert cell_len(rows[1]) < columns
        STATUS.clear()
        assert screen(stream.getvalue(), columns) == [""]


def test_a_shorter_text_covers_a_longer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as stream:
        STATUS.show("a long text")
        STATUS.show("short")
        assert screen(stream.getvalue(), 80) == ["short"]


def test_the_same_text_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as stream:
        STATUS.show("text")
        before = stream.getvalue()
        STATUS.show("text")
        assert stream.getvalue() == before


def test_a_character_that_the_terminal_lacks_is_substituted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    with terminal(monkeypatch) as stream:
        STATUS.show("µ")
        assert screen(stream.getvalue(), 80) == ["?"]


@pytest.mark.parametrize("out", ["stdout", "stderr"])
def test_what_others_print_stands_alone(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as stream:
        STATUS.show("going on")
        getattr(sys, out).write("begun, ")
        STATUS.show("not in the midst of a line")
        getattr(sys, out).write("ended\n")
        STATUS.show("going on")
        assert screen(stream.getvalue(), 80) == ["begun, ended", "going on"]
    assert screen(stream.getvalue(), 80) == ["begun, ended"]


def test_it_comes_by_itself_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "delay", 0.0)
    shown = threading.Event()
    monkeypatch.setattr(STATUS, "show", lambda text: shown.set())
    with terminal(monkeypatch), Progress("replaying", "tokens"):
        shown.wait()
    names = {thread.name for thread in threading.enumerate()}
    assert not [name for name in names if "_show_until_over" in name]


# Elsewhere than on a terminal ---------------------------------------------------------------------


@pytest.mark.parametrize("line", SHOWING)
def test_a_log_gets_none_of_it(
    line: str, home: Path, dipsim: Dipsim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Progress, "delay", 0.0)
    monkeypatch.setattr(Progress, "interval", 0.0)
    outcome = dipsim(line)
    mild = [text for text in outcome.err if not text.startswith("dipsim: warning: ")]
    assert len(mild) == (outcome.code != 0)
    assert not [text for text in outcome.err if text.endswith("...")]


def test_a_log_gets_a_line_for_each_thing_that_takes_long(
    dipsim: Dipsim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_rows() -> list[str]:
        with Progress("judging", "rows", log=True) as progress:
            progress(1, 2)
            progress(2, 2)
        return []

    monkeypatch.setattr("dipsim.hardware.profile_names", two_rows)
    lines = ["dipsim: judging 1 of 2 rows", "dipsim: judging 2 of 2 rows"]
    assert dipsim("profiles --json").err == lines


# The truth ----------------------------------------------------------------------------------------


def test_it_says_what_is_going_on() -> None:
    progress = Progress("replaying", "tokens")
    texts = [str(progress)]
    for count in (0, 3, 8):
        progress(count, 8)
        texts.append(str(progress))
    assert texts == ["preparing", "replaying 0 of 8 tokens", "replaying 3 of 8 tokens", "finishing"]
    assert str(Progress("inspecting")) == "inspecting"


class Watching(Listener):
    """Keeps what is said to be compiled whenever numba compiles something."""

    def __init__(self) -> None:
        self.said: list[str | None] = []

    def on_start(self, event: Event) -> None:
        self.said.append(compiling())

    def on_end(self, event: Event) -> None: ...


def test_it_says_compiling_while_something_is_compiled() -> None:
    import dipsim.kernels  # noqa: F401 - tells of what numba compiles

    @njit
    def inner(x):  # type: ignore[no-untyped-def]
        return x + 1

    @njit
    def outer(x):  # type: ignore[no-untyped-def]
        return inner(x) + 1

    @njit
    def wrong(x):  # type: ignore[no-untyped-def]
        return x.nothing

    progress = Progress("replaying", "tokens")
    with install_listener("numba:compile", watching := Watching()):
        assert outer(1) == 3
        assert watching.said == ["the kernel outer"] * 2
        assert str(progress) == "preparing"
        outer(2)  # compiled already
        with pytest.raises(NumbaError), compiled_for("a test"):
            wrong(1)
    assert watching.said[2:] == ["a test"]
    assert str(progress) == "preparing"
    started("f")
    assert str(progress) == "compiling the kernel f"
    ended()


def test_a_replay_is_named_by_its_method_and_policy(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = set()
    feed = ReplayedCache.feed

    def compiling_feed(cache: ReplayedCache, *arguments: Any) -> Any:
        started("replay")
        named.add(compiling())
        ended()
        return feed(cache, *arguments)

    monkeypatch.setattr(ReplayedCache, "feed", compiling_feed)
    options: Any = {"method": "dip-ca", "cache_fraction": 0.5, "policy": "lfu"}
    simulate(home / "t.npz", home / "phone.yaml", **options)
    assert named == {"the replay of dip-ca with lfu"}


def test_code_that_is_stored_is_not_compiled(home: Path) -> None:
    options: Any = {"cache_fraction": 0.5, "policy": "lru"}
    simulate(home / "t.npz", home / "phone.yaml", **options)
    with install_listener("numba:compile", watching := Watching()):
        simulate(home / "t.npz", home / "phone.yaml", **options)
    assert watching.said == []
