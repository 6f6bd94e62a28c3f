"""The command line: parse, call, print. The only package that imports typer, and that prints."""

import signal
import sys
import threading
from typing import Any

import typer

from dipsim.cli.app import app
from dipsim.cli.output import fail
from dipsim.errors import DipsimError

# One module for each question; the help lists their commands in this order.
# isort: off
from dipsim.cli import run, compare, mrc, search, study  # noqa: F401
from dipsim.cli import iobench, calibrate, validate  # noqa: F401
from dipsim.cli import inspect, convert, synth  # noqa: F401
from dipsim.cli import record, evaluate, lora  # noqa: F401
from dipsim.cli import catalogue  # noqa: F401
# isort: on


class _Ended(KeyboardInterrupt):
    """A request to end by signal, which is cleaned up after as Ctrl-C is."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


def _end_on_signals() -> None:
    """End the program as an interruption does when it is asked to end, unless that is ignored."""

    def end(number: int, frame: Any) -> None:
        raise _Ended(number)

    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        for name in {"SIGTERM", "SIGHUP"} & set(dir(signal)):
            if signal.getsignal(getattr(signal, name)) == signal.SIG_DFL:
                signal.signal(getattr(signal, name), end)


def main() -> None:
    """Run the program: exit 0 when done, 2 with one line on standard error for wrong input.

    Interrupted by a signal, it removes what it was writing and exits with 128 + its number.
    """
    _end_on_signals()
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(standalone_mode=False)
    except DipsimError as problem:
        fail(str(problem))
    except (typer.Exit, typer.Abort, KeyboardInterrupt) as stop:
        cause = stop if isinstance(stop, KeyboardInterrupt) else stop.__cause__
        if isinstance(stop, typer.Exit) and not isinstance(cause, KeyboardInterrupt):
            code = stop.exit_code
        else:
            fail("interrupted", cause.code if isinstance(cause, _Ended) else 130)
    except Exception as problem:
        if not hasattr(problem, "format_message"):  # not a usage error of click: a bug
            raise
        fail(problem.format_message())
    sys.exit(code or 0)
