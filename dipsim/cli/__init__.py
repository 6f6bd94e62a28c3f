"""The command line: parse, call, print. The only package that imports typer, and that prints."""

import sys

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


def main() -> None:
    """Run the program: exit 0 when done, 2 with one line on standard error for wrong input."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(standalone_mode=False)
    except DipsimError as problem:
        fail(str(problem))
    except typer.Exit as stop:
        code = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        fail("interrupted", 130)
    except Exception as problem:
        if not hasattr(problem, "format_message"):  # not a usage error of click: a bug
            raise
        fail(problem.format_message())
    sys.exit(code or 0)
