"""The program that all commands hang on, and options that most of them have."""

from typing import Annotated

import typer

app = typer.Typer(
    name="dipsim",
    help="Replay activation traces of a language model through a phone's memory hierarchy.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"dipsim {installed('dipsim')}")
        raise typer.Exit
