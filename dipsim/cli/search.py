"""`dipsim search`: the highest rate at a loss, the least hardware for a rate, contours of rates."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
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
    ProfileOption,
    draws,
    needs,
    takes,
)
from dipsim.cli.output import print_report, say, show
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import TraceName
from dipsim.lists import split_names


@command(
    "Replay a trace on a device",
    "dipsim search smollm2-chat -p paper-a18 --tokens 0:32 --dram 50% --method dip --max-loss .02",
    "dipsim search smollm2-chat -p paper-a18 --tokens 0:32 --target-rate 20",
)
@takes(POLICY, BUDGET, WHAT, HOW, WHERE)
@draws
def search(
    trace: TraceName,
    profile: ProfileOption = None,
    model: ModelOption = None,
    method: Annotated[
        list[str] | None,
        needs(
            "see dipsim methods; with --calibration several, with commas", names=completion.methods
        ),
    ] = None,
    max_loss: Annotated[
        str | None,
        typer.Option(
            help="the highest rate that loses no more: .02 of the energy, or "
            "mlp_input=.003,glu=.1; of perplexity with --calibration",
            metavar="NAME=NUMBER,...",
        ),
    ] = None,
    calibration: CalibrationOption = None,
    target_rate: Annotated[
        float | None,
        typer.Option(help="the least hardware for so many tokens per second", metavar="NUMBER"),
    ] = None,
    least: Annotated[
        str | None,
        typer.Option(
            help="of dram, flash-bandwidth or iops, for --target-rate [dram]", metavar="NAME"
        ),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(help="rates over two of dram, flash-bandwidth, iops", metavar="NAME,NAME"),
    ] = None,
    points: Annotated[
        int | None, typer.Option(help="of each of the --axes [6]", metavar="NUMBER")
    ] = None,
    override: Override = None,
    csv: Csv = None,
    as_json: Json = False,
    picture: Any = None,
    **options: Any,
) -> None:
    """Search TRACE: the highest rate at --max-loss, the --least for --target-rate, or --axes."""
    from dipsim.report import files

    table, methods = files.check_csv(csv), split_names(method or ())
    device = load_device(profile, override)
    with Progress("comparing", "runs") as progress:
        from dipsim.analysis.search import search as ask
        from dipsim.report import hints
        from dipsim.report import search as report

        opened = open_trace(trace)
        what: Any = least
        answer = ask(
            opened,
            device,
            model=model,
            max_loss=max_loss,
            calibration=calibration,
            target_rate=target_rate,
            least=what,
            axes=axes,
            points=points,
            methods=methods,
            progress=progress,
            **given_only(options),
        )
        if picture is not None:
            report.plot(answer, picture)
        if table is not None:
            places = {"trace": opened.name, "profile": device.name}
            report.write_csv(answer, table, {**places, **_budget(options)})
    result = getattr(answer, "result", None)
    for warning in hints.warnings(result) if result is not None else ():
        say(f"warning: {warning}")
    if as_json:
        print_report(answer.to_dict(), trace=opened, profiles=[device], units=report.units(answer))
    else:
        show(report.render(answer))


def _budget(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policy and the budget of all runs, as a table names them."""
    given = given_only(dict(options))
    sizes = [f"{name}={given[name]}" for name in BUDGET if name in given]
    return {"policy": given.get("policy", "lfu"), "budget": ", ".join(sizes) or "available"}
