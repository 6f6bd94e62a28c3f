"""`dipsim report`: a page about a sweep or a run, to be read and sent on."""

from pathlib import Path
from typing import Annotated

import typer

from dipsim.cli.app import command
from dipsim.cli.help import OUTPUT
from dipsim.cli.output import show


@command(
    "Replay a trace on a device",
    "dipsim report budgets.db -o budgets.html",
)
def report(
    source: Annotated[
        str,
        typer.Argument(
            help="the store of a sweep, or what dipsim run --json printed", metavar="SOURCE"
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="a .html, .md, .png or .svg file [report.html]",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="html, md, png or svg [by FILE]",
            metavar="NAME",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(help="of a store that has several", metavar="NAME")
    ] = None,
) -> None:
    """Write a page about SOURCE: one file that needs no network."""
    from dipsim.files import refuse_same
    from dipsim.report.page.output import check_output, write
    from dipsim.report.page.source import open_page
    from dipsim.report.tables import line
    from dipsim.units import BYTES

    path, kind = check_output(output, kind)
    refuse_same(path, [Path(source)])
    page = open_page(source, sweep)
    write(page, path, kind)
    show(line(page.answer))
    show(line(f"{path}: {BYTES.show(path.stat().st_size)}", style="dim"))
