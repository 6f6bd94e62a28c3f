"""The command line: parse, call, print. The only package that imports typer, and that prints."""

import gc
import signal
import sys
import threading
from typing import Any

import typer

from dipsim.cli.app import app
from dipsim.cli.output import fail, guarded_streams, warnings_said
from dipsim.errors import DipsimError, brief

# One module for each question; the help lists their commands in this order.
# isort: off
from dipsim.cli import run, plan, compare, mrc, search, study, sweep, results, report, explore  # noqa: F401
from dipsim.cli import iobench, calibrate, validate  # noqa: F401
from dipsim.cli import inspect, importing, exporting, synth  # noqa: F401
from dipsim.cli import record, evaluate, lora  # noqa: F401
from dipsim.cli import catalogue, explain  # noqa: F401
# isort: on

_TORCH_OUT_OF_MEMORY = ("can't allocate memory", "out of memory")
"""Messages of torch, whose error has no class of its own on a processor, and on a GPU."""
_INTERRUPTED = 130
_OBJECTS = 100_000
"""Objects made before Python looks for cycles among them: the imports make that many."""


def main() -> None:
    """Run the program: exit 0 when done, 2 with one line on standard error for wrong input.

    Interrupted by a signal, it removes what it was writing and exits with 128 + its number.
    """
    gc.set_threshold(_OBJECTS)
    ended = _end_on_signals()
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    with guarded_streams(), warnings_said():
        code = _run()
        if code == _INTERRUPTED:
            fail("interrupted", 128 + ended[0] if ended else _INTERRUPTED)
    sys.exit(code)


def _run() -> int:
    """Run the command line and return its exit code; errors end in `fail`."""
    try:
        return app(prog_name="dipsim", standalone_mode=False) or 0
    except DipsimError as problem:
        fail(str(problem))
    except typer.Exit as stop:
        return 2 if stop.exit_code == 1 else stop.exit_code  # 1: typer's, for an unknown shell
    except (typer.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except OSError as problem:
        if "--install-completion" not in sys.argv:
            raise  # a bug: who opens a file says what is wrong with it
        fail(
            f"--install-completion: {problem.filename} cannot be written ({problem.strerror}); "
            "source what dipsim --show-completion prints instead"
        )
    except MemoryError as problem:
        fail(_out_of_memory(problem))
    except Exception as problem:
        if any(text in str(problem) for text in _TORCH_OUT_OF_MEMORY):
            fail(_out_of_memory(problem))
        if not hasattr(problem, "format_message"):  # not a usage error of click: a bug
            raise
        fail(problem.format_message())


def _end_on_signals() -> list[int]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, so that what Ctrl-C cleans up they do too.

    Returns:
        A list to which the number of the signal is added when one comes.
    """
    ended: list[int] = []

    def end(number: int, frame: Any) -> None:
        ended.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        for name in {"SIGTERM", "SIGHUP"} & set(dir(signal)):
            if signal.getsignal(getattr(signal, name)) == signal.SIG_DFL:
                signal.signal(getattr(signal, name), end)
    return ended


def _out_of_memory(problem: Exception) -> str:
    """Return one line on what did not fit, as numpy, numba and torch say it, and what would."""
    return (
        f"not enough memory ({brief(problem, 160) or 'no detail'}): take a part of the trace "
        "(--tokens, --layers), fewer policies, budgets or units at a time, or a smaller model"
    )
