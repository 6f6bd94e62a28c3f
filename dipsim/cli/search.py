"""`dipsim search`: the highest rate at a loss, the least hardware for a rate, contours of rates."""

from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, app
from dipsim.cli.inputs import given_only, load_device, open_trace
from dipsim.cli.options import (
    BUDGET,
    HOW,
    POLICY,
    WHAT,
    WHERE,
    CalibrationOption,
    Csv,
    ModelOption,
    Override,
    Plot,
    ProfileOption,
    takes,
)
from dipsim.cli.output import print_json, say, show
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import TraceName


@app.command()
@takes(POLICY, BUDGET, WHAT, HOW, WHERE)
def search(
    trace: TraceName,
    profile: ProfileOption = None,
    model: ModelOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="see dipsim methods; with --calibration repeat it",
            metavar="NAME",
            autocompletion=completion.methods,
        ),
    ] = None,
    max_loss: Annotated[
        str | None, typer.Option(help="of energy: .02, or mlp_input=.003,glu=.1; see --calibration")
    ] = None,
    calibration: CalibrationOption = None,
    target_rate: Annotated[float | None, typer.Option(help="tokens per second")] = None,
    least: Annotated[
        str | None, typer.Option(help="of dram, flash-bandwidth or iops for the rate [dram]")
    ] = None,
    axes: Annotated[
        str | None, typer.Option(help="rates over two: dram,flash-bandwidth or iops")
    ] = None,
    points: Annotated[int | None, typer.Option(help="of each axis [6]")] = None,
    override: Override = None,
    plot: Plot = None,
    csv: Csv = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Search TRACE: the highest rate at --max-loss, the --least for --target-rate, or --axes."""
    from dipsim.report import files

    picture, table = files.check_plot(plot), files.check_csv(csv)
    device = load_device(profile, override)
    with Progress("comparing", "runs") as progress:
        from dipsim.analysis.search import search as ask
        from dipsim.report import hints
        from dipsim.report import search as report

        grid: Any = None if axes is None else tuple(name.strip() for name in axes.split(","))
        what: Any = least
        answer = ask(
            open_trace(trace),
            device,
            model=model,
            max_loss=max_loss,
            calibration=calibration,
            target_rate=target_rate,
            least=what,
            axes=grid,
            points=points,
            methods=method or (),
            progress=progress,
            **given_only(options),
        )
        if picture is not None:
            report.plot(answer, picture)
        if table is not None:
            report.write_csv(answer, table)
    result = getattr(answer, "result", None)
    for warning in hints.warnings(result) if result is not None else ():
        say(f"warning: {warning}")
    if as_json:
        print_json(answer.to_dict())
    else:
        show(report.render(answer))
