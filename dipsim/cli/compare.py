"""`dipsim compare`: devices, methods, policies and budgets side by side."""

from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.inputs import given_only, load_device, open_trace
from dipsim.cli.lists import split_names, split_numbers
from dipsim.cli.options import HOW, WHAT, WHERE, Csv, ModelOption, Override, Plot, Policies, takes
from dipsim.cli.output import print_json, say, show
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import TraceName

_BESIDE_DENSITY = {name: option for name, option in WHAT.items() if name != "density"}
CacheFractions = Annotated[
    list[float] | None,
    typer.Option("--cache-fraction", help="share of the units the caches hold; repeat it"),
]
"""Sizes of the caches in `dipsim mrc`."""


@app.command()
@takes(_BESIDE_DENSITY, HOW, WHERE)
def compare(
    trace: TraceName,
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", "-p", help="devices: names or YAML files", metavar="NAME,..."),
    ] = None,
    model: ModelOption = None,
    method: Annotated[
        list[str] | None, typer.Option(help="see dipsim methods", metavar="NAME,...")
    ] = None,
    density: Annotated[
        list[str] | None,
        typer.Option(help="share of MLP weights kept [0.7]", metavar="SHARE,..."),
    ] = None,
    policy: Policies = None,
    dram: Annotated[
        list[str] | None,
        typer.Option(help="for weights and KV: 3.5GB, or 50%", metavar="SIZE,..."),
    ] = None,
    cache: Annotated[
        list[str] | None,
        typer.Option(help="for the caches alone: 400MiB", metavar="SIZE,..."),
    ] = None,
    cache_fraction: Annotated[
        list[str] | None,
        typer.Option(help="share of the units the caches hold: .5,.8", metavar="SHARE,..."),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="every figure of every run, in tables")
    ] = False,
    override: Override = None,
    plot: Plot = None,
    csv: Csv = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Run TRACE with all of several devices, methods, policies and budgets: rates, hits, to opt.

    Name several with commas, or repeat the option.
    """
    from dipsim.report import files

    picture, table = files.check_plot(plot), files.check_csv(csv)
    budgets: dict[str, Any] = {
        "dram": split_names(dram or ()),
        "cache": split_names(cache or ()),
        "cache_fraction": split_numbers(cache_fraction or (), "--cache-fraction"),
    }
    densities = split_numbers(density or (), "--density")
    profiles: list[Any] = [*split_names(profile or ())] or [None]
    devices = [load_device(name, override) for name in profiles]
    with Progress("comparing", "runs") as progress:
        from dipsim.analysis.compare import compare as run_all
        from dipsim.report import compare as report

        watch = _Watch(picture is not None)
        comparison = run_all(
            open_trace(trace),
            devices,
            split_names(policy or ()),
            methods=split_names(method or ()),
            density=densities,
            **budgets,
            model=model,
            watch=watch,
            progress=progress,
            **given_only(options),
        )
        if picture is not None:
            report.plot(comparison, picture)
        if table is not None:
            report.write_csv(comparison, table)
    for warning in report.one_of_each_kind(watch.warnings):
        say(f"warning: {warning}")
    if as_json:
        print_json(comparison.to_dict())
    else:
        show(report.render(comparison, details))


class _Watch:
    """Keeps the warnings of a comparison, and judges beforehand whether it can be drawn.

    Args:
        draws: whether it will be.
    """

    def __init__(self, draws: bool) -> None:
        self.warnings: list[str] = []
        self._draws = draws

    def planned(self, places: Any) -> None:
        from dipsim.report.compare import check_picture

        if self._draws:
            check_picture(places)

    def warned(self, text: str) -> None:
        say(f"warning: {text}")

    def ran(self, result: Any) -> None:
        from dipsim.report import hints

        self.warnings += hints.warnings(result)
