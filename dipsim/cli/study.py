"""`dipsim study`: the studies of the DIP paper, as tables and pictures."""

from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.inputs import open_trace
from dipsim.cli.options import (
    BUDGET,
    DEVICE,
    HOW,
    WHAT,
    WHERE,
    Csv,
    ModelOption,
    Override,
    Policies,
    TraceArgument,
    draws,
    needs,
    takes,
)
from dipsim.cli.output import print_report, show
from dipsim.cli.progress import Progress
from dipsim.errors import DipsimError
from dipsim.lists import split_names


@command(
    "Replay a trace on a device",
    "dipsim study density smollm2-chat --tokens 0:32 --method dip,dip-ca",
)
@takes(BUDGET, WHAT, HOW, WHERE)
@draws
def study(
    name: Annotated[
        str | None, typer.Argument(help="which; without it they are listed", metavar="NAME")
    ] = None,
    trace: TraceArgument = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            "-p",
            help="names or YAML files, with commas [paper-a18]",
            metavar="NAME|FILE",
            rich_help_panel=DEVICE,
            autocompletion=completion.profiles,
        ),
    ] = None,
    model: ModelOption = None,
    method: Annotated[
        list[str] | None,
        needs(
            "of density, dram, flash: names with commas [all that apply]", names=completion.methods
        ),
    ] = None,
    policy: Policies = None,
    override: Override = None,
    csv: Csv = None,
    as_json: Json = False,
    picture: Any = None,
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
    table, policies = files.check_csv(csv), split_names(policy or ())
    if trace is None:
        raise DipsimError(f"no trace: dipsim study {name} TRACE (see dipsim study --help)")
    if picture is not None:
        files.check_series("policies", policies)
    with Progress("comparing", "runs") as progress:
        from dipsim.analysis.study import study as run

        results = run(
            str(name),
            open_trace(trace),
            split_names(profile or ()),
            methods=split_names(method or ()),
            policies=policies,
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
        print_report(
            results.to_dict(), trace=results.trace, profiles=results.devices, units=report.UNITS
        )
    else:
        show(report.render(results))


def _list_studies(name: str | None, as_json: bool) -> None:
    """Print all studies; with ``--json`` only when none was named, as an error follows else."""
    from dipsim.analysis.study import STUDIES
    from dipsim.report import study as report

    if not as_json:
        show(report.listing())
    elif name is None:
        print_report({"studies": {key: one.summary for key, one in STUDIES.items()}})
