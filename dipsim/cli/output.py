"""Output of the command line: figures to standard output, all else to standard error."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from io import TextIOWrapper
from typing import Any, NoReturn, TextIO

from rich.console import Console, Group

from dipsim.cli.help import invocation
from dipsim.cli.status import STATUS
from dipsim.errors import StoredCodeWarning, printable


def fail(message: str, code: int = 2) -> NoReturn:
    """Print what is wrong and leave with an exit code."""
    say(message)
    sys.exit(code)


def say(message: str) -> None:
    """Print one line on standard error, without characters that could steer a terminal."""
    sys.stderr.write(f"dipsim: {printable(' '.join(message.split()))}\n")  # in one piece
    sys.stderr.flush()


def log(line: str) -> None:
    """Print a line for programs on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


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


class _Guarded:
    """A stream for text whose errors do not stop the program: what cannot be written is dropped.

    On a terminal, the line that shows progress is gone before anything is written.

    Args:
        stream: the stream.
        lost: called with the reason; not called when a reader has gone, which is no error.
    """

    def __init__(self, stream: TextIO, lost: Callable[[OSError], None]) -> None:
        self._stream, self._lost, self._on_terminal = stream, lost, stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with STATUS.away(text) if self._on_terminal else nullcontext(), self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what is still in the buffer goes there too
            os.close(nowhere)
            if not isinstance(problem, BrokenPipeError):
                self._lost(problem)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard all that prints, ours or a library's.

    Standard output that is closed or full ends the program with exit code 2; standard error never
    does. Characters that the encoding of standard output lacks become question marks.
    """
    if sys.stderr is None:  # closed; the next file that is opened must not take its number
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the program ends
    if sys.stdout is None:
        fail("standard output is closed: send it to a file, or to /dev/null")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    output = _Guarded(sys.stdout, lambda why: fail(f"cannot write the output: {why.strerror}"))
    errors = _Guarded(sys.stderr, lambda why: None)
    with STATUS.on(sys.stderr), redirect_stdout(output), redirect_stderr(errors):
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


def show(renderable: Any) -> None:
    """Print a table or lines of a report to standard output; what is too wide is not cut."""
    Console(markup=False, emoji=False).print(Group(renderable), crop=False)


def print_json(value: Any) -> None:
    """Print one JSON object, or a text as it is, to standard output."""
    print(value if isinstance(value, str) else json.dumps(value, indent=2, allow_nan=False))


def print_report(
    figures: Mapping[str, Any], options: Mapping[str, Any] | None = None, **inputs: Any
) -> None:
    """Print a report as one JSON object, with what it is about.

    Args:
        figures: its keys.
        options: what was given; by default what the command line says.
        inputs: ``trace``, ``profiles`` and ``units`` of `dipsim.report.envelope.about`.
    """
    from dipsim.report.envelope import about

    command, given = invocation()
    given = given if options is None else dict(options)
    print_json({**figures, "about": about(command, figures, options=given, **inputs)})
