"""`dipsim study`: the studies of the DIP paper, as tables and pictures."""

from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.options import (
    BUDGET,
    HOW,
    WHAT,
    WHERE,
    Csv,
    ModelOption,
    Override,
    Plot,
    Policies,
    takes,
)
from dipsim.cli.output import Progress, print_json, say, show
from dipsim.errors import DipsimError


@app.command()
@takes(BUDGET, WHAT, HOW, WHERE)
def study(
    name: Annotated[str | None, typer.Argument(help="which; without it they are listed")] = None,
    trace: Annotated[
        str | None, typer.Argument(help="an .npz file, a folder of shards, or a shipped name")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", "-p", help="a name or a YAML file; repeat it [paper-a18]"),
    ] = None,
    model: ModelOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="of density, dram, flash: repeat it [all that apply]", metavar="NAME"),
    ] = None,
    policy: Policies = None,
    override: Override = None,
    plot: Plot = None,
    csv: Csv = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Repeat a study of the DIP paper on TRACE: tables, and with --plot a picture."""
    from dipsim.analysis.studies import STUDIES, load_study
    from dipsim.report import files
    from dipsim.report import study as report

    if name not in STUDIES:
        if name is None and as_json:
            print_json({"studies": {key: at.summary for key, at in STUDIES.items()}})
            return
        if not as_json:
            show(report.listing())
        if name is None:
            return
    load_study(str(name))
    picture, rows = files.check_plot(plot), files.check_csv(csv)
    if trace is None:
        raise DipsimError(f"no trace: dipsim study {name} TRACE (see dipsim study --help)")
    if picture is not None:
        files.check_series("policies", policy or ())
    with Progress("compared", "runs") as progress:
        from dipsim.analysis.studies import study as run
        from dipsim.trace import load_trace

        opened = load_trace(trace)
        for warning in opened.warnings:
            say(f"warning: {warning}")
        found = run(
            str(name),
            opened,
            profile or (),
            methods=method or (),
            policies=policy or (),
            model=model,
            overrides=override or (),
            progress=progress,
            **options,
        )
        if picture is not None:
            report.plot(found, picture)
        if rows is not None:
            report.write_csv(found, rows)
    if as_json:
        print_json(found.to_dict())
    else:
        show(report.render(found))
