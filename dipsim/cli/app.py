"""The program that all commands hang on, and options that most of them have."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from dipsim.cli.help import OUTPUT, Command, Group, Subject

app = typer.Typer(
    name="dipsim",
    cls=Group,
    epilog="dipsim run smollm2-chat --profile snapdragon8 --dram 60%",
    help="Replay activation traces of a language model through a phone's memory hierarchy.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
Json = Annotated[
    bool,
    typer.Option("--json", help="one JSON object on standard output", rich_help_panel=OUTPUT),
]


def command(subject: Subject, *examples: str, name: str | None = None) -> Callable[..., Any]:
    """Return a decorator that makes a function a command of `app`.

    Args:
        subject: group that it is listed in.
        examples: command lines at the end of its help.
        name: by default that of the function.
    """
    return app.command(name, cls=Command, rich_help_panel=subject, epilog="\n".join(examples))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"dipsim {installed('dipsim')}")
        raise typer.Exit
