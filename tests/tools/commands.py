"""All commands of the program, as they are declared: for tests that none may escape."""

from typing import Any

from typer.main import get_command

from dipsim.cli import app

COMMANDS: dict[str, Any] = dict(get_command(app).commands)  # type: ignore[attr-defined]


def options_of(name: str) -> list[Any]:
    """Return the options of a command."""
    return [each for each in COMMANDS[name].params if each.param_type_name == "option"]


def flags_of(name: str) -> set[str]:
    """Return the options of a command as the command line spells them."""
    return {flag for each in options_of(name) for flag in each.opts}


def taking(flag: str) -> list[str]:
    """Return the names of the commands that have an option."""
    return [name for name in COMMANDS if flag in flags_of(name)]
