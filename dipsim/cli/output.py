"""Output of the command line: figures to standard output, all else to standard error."""

import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from dipsim.errors import StoredCodeWarning, printable


def fail(message: str, code: int = 2) -> None:
    """Print what is wrong and leave with an exit code."""
    say(message)
    sys.exit(code)


def say(message: str) -> None:
    """Print one line on standard error, without characters that could steer a terminal."""
    _write(f"dipsim: {printable(' '.join(message.split()))}\n")


@contextmanager
def warnings_said() -> Iterator[None]:
    """Say dipsim's own Python warnings in one line; those of others look as usual."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, StoredCodeWarning):
                say(f"warning: {message}")
            else:
                usual(message, category, *place)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _write(line: str) -> None:
    """Write to standard error in one piece.

    `Progress` writes from a thread of its own, which would come between the text and the newline
    of a print.
    """
    sys.stderr.write(line)
    sys.stderr.flush()


class _Console(Console):
    """A console that leaves a closed pipe to `_output`, which treats it as no error."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


@contextmanager
def _output() -> Iterator[None]:
    """Wrap all that prints: a reader that closes the pipe is no error, a full disk is one."""
    try:
        yield
        sys.stdout.flush()
    except OSError as problem:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(problem, BrokenPipeError):
            fail(f"cannot write the output: {problem.strerror}")


def show(renderable: Any) -> None:
    """Print a table or text of rich to standard output."""
    with _output():
        _Console().print(renderable)


def print_json(value: Any) -> None:
    """Print one JSON object, or a text as it is, to standard output."""
    with _output():
        print(value if isinstance(value, str) else json.dumps(value, indent=2, allow_nan=False))


class Progress:
    """A line on standard error, once a run takes longer than a second.

    Args:
        verb: what is done to the things, in the past tense.
        things: what is counted.
    """

    def __init__(self, verb: str = "replayed", things: str = "tokens") -> None:
        self.verb, self.things, self.done, self.total = verb, things, 0, 0
        self._timer = threading.Timer(1.0, self._say)
        self._timer.daemon = True
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        """Note how many things are done, and how many there are in all."""
        self.done, self.total = done, total
        if self._shown and sys.stderr.isatty():
            self._say()

    def _say(self) -> None:
        self._shown = True
        text = (
            f"{self.verb} {self.done} of {self.total} {self.things}"
            if self.done
            else "preparing (the first run compiles its kernels, which takes some seconds)"
            if self.verb in ("replayed", "compared", "checked")  # these compile kernels
            else "reading"
        )
        end = "\r" if sys.stderr.isatty() else "\n"
        _write(f"dipsim: {text} ...".ljust(78) + end)

    def __enter__(self) -> "Progress":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        if self._shown and sys.stderr.isatty():
            _write(" " * 78 + "\r")
