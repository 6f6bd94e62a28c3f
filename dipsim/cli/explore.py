"""`dipsim explore`: a local app in a browser."""

from typing import Annotated

import typer

from dipsim.cli import completion
from dipsim.cli.app import command


@command(
    "Replay a trace on a device",
    "dipsim explore smollm2-chat",
    "dipsim explore budgets.db --no-browser",
)
def explore(
    source: Annotated[
        str | None,
        typer.Argument(
            help="a trace, or the store of a sweep [smollm2-chat]", metavar="TRACE|STORE"
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            "-p",
            help="device to begin with: a name or a YAML file [snapdragon8]",
            metavar="NAME|FILE",
            autocompletion=completion.profiles,
        ),
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(help="of a store that has several", metavar="NAME")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="of the address [a free one]", metavar="NUMBER", min=1, max=65535),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="only say the address, open no browser")
    ] = False,
) -> None:
    """Explore TRACE in a browser: figures of the simulator as you move sliders."""
    from dipsim.explore.serve import serve

    def opened(address: str) -> None:
        print(f"{address} (this machine only; Ctrl-C ends it)", flush=True)

    serve(source, profile, sweep, port or 0, opened, browser=not no_browser)
