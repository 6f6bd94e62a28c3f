"""Commands that read and make traces."""

from typing import Annotated

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.output import Progress, print_json, say, show


@app.command()
def inspect(
    trace: Annotated[str, typer.Argument(help="an .npz file, or a shipped trace")],
    as_json: Json = False,
) -> None:
    """Show what TRACE holds."""
    from dipsim.analysis.overlap import token_overlap
    from dipsim.report import catalogue
    from dipsim.trace import load_trace

    with Progress():
        opened = load_trace(trace)
        overlap = token_overlap(opened)
    for warning in opened.warnings:
        say(f"warning: {warning}")
    if as_json:
        print_json({**opened.describe(), "overlap": overlap})
    else:
        show(catalogue.trace(opened, overlap))
