"""`dipsim validate`."""

from typing import Annotated

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.measured import measured


@app.command()
def validate(
    cases: Annotated[
        str | None, typer.Option(help="measurements: a JSON file [those of dipsim]")
    ] = None,
    routes: Annotated[str | None, typer.Option(help="a phone's route_trace CSV")] = None,
    metrics: Annotated[str | None, typer.Option(help="what it measured per token")] = None,
    page: Annotated[str | None, typer.Option(help="write the figures as a .md page")] = None,
    bars: Annotated[str | None, typer.Option(help="write the error bars as a .json file")] = None,
    as_json: Json = False,
) -> None:
    """Hold dipsim against published measurements: predictions, errors, trivial predictors."""
    measured(cases, routes, metrics, page, bars, as_json)
