"""`dipsim study`: the studies of the DIP paper, as tables and pictures."""

from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, app
from dipsim.cli.inputs import open_trace
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
    TraceArgument,
    takes,
)
from dipsim.cli.output import print_json, show
from dipsim.cli.progress import Progress
from dipsim.errors import DipsimError


@app.command()
@takes(BUDGET, WHAT, HOW, WHERE)
def study(
    name: Annotated[str | None, typer.Argument(help="which; without it they are listed")] = None,
    trace: TraceArgument = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            "-p",
            help="a name or a YAML file; repeat it [paper-a18]",
            autocompletion=completion.profiles,
        ),
    ] = None,
    model: ModelOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="of density, dram, flash: repeat it [all that apply]",
            metavar="NAME",
            autocompletion=completion.methods,
        ),
    ] = None,
    policy: Policies = None,
    override: Override = None,
    plot: Plot = None,
    csv: Csv = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Repeat a study of the DIP paper on TRACE: tables, and with --plot a picture."""
    from dipsim.analysis.study import STUDIES, load_study
    from dipsim.report import files
    from dipsim.report import study as report

    if name not in STUDIES:
        _list_studies(name, as_json)
        if name is None:
            return
    load_study(str(name))
    picture, table = files.check_plot(plot), files.check_csv(csv)
    if trace is None:
        raise DipsimError(f"no trace: dipsim study {name} TRACE (see dipsim study --help)")
    if picture is not None:
        files.check_series("policies", policy or ())
    with Progress("comparing", "runs") as progress:
        from dipsim.analysis.study import study as run

        results = run(
            str(name),
            open_trace(trace),
            profile or (),
            methods=method or (),
            policies=policy or (),
            model=model,
            overrides=override or (),
            progress=progress,
            **options,
        )
        if picture is not None:
            report.plot(results, picture)
        if table is not None:
            report.write_csv(results, table)
    if as_json:
        print_json(results.to_dict())
    else:
        show(report.render(results))


def _list_studies(name: str | None, as_json: bool) -> None:
    """Print all studies; with ``--json`` only when none was named, as an error follows else."""
    from dipsim.analysis.study import STUDIES
    from dipsim.report import study as report

    if not as_json:
        show(report.listing())
    elif name is None:
        print_json({"studies": {key: one.summary for key, one in STUDIES.items()}})
