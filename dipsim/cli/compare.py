"""`dipsim compare`: devices, methods, policies and budgets side by side."""

from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.help import OUTPUT
from dipsim.cli.inputs import given_only, load_device, open_trace
from dipsim.cli.options import (
    DEVICE,
    HOW,
    WHAT,
    WHERE,
    CacheFractions,
    Csv,
    ModelOption,
    Override,
    Policies,
    draws,
    needs,
    stays,
    takes,
)
from dipsim.cli.output import print_report, say, show
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import TraceName
from dipsim.lists import split_names, split_numbers

_BESIDE_DENSITY = {name: option for name, option in WHAT.items() if name != "density"}


@command(
    "Replay a trace on a device",
    "dipsim compare smollm2-chat -p snapdragon8 --tokens 0:64 --cache-fraction .5,.7 "
    "--policy lru,lfu,opt",
    "dipsim compare smollm2-chat -p snapdragon8,paper-a18 --tokens 0:64 --method dip,dip-ca "
    "--policy lfu --dram 50%,70%",
)
@takes(_BESIDE_DENSITY, HOW, WHERE)
@draws
def compare(
    trace: TraceName,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            "-p",
            help="devices: names or YAML files, with commas",
            metavar="NAME|FILE",
            rich_help_panel=DEVICE,
            autocompletion=completion.profiles,
        ),
    ] = None,
    model: ModelOption = None,
    method: Annotated[
        list[str] | None,
        needs("see dipsim methods, or file.py:attribute; with commas", names=completion.methods),
    ] = None,
    density: Annotated[
        list[str] | None,
        needs("shares of MLP weights kept, with commas [0.7]", "SHARE"),
    ] = None,
    policy: Policies = None,
    dram: Annotated[
        list[str] | None,
        stays("for weights and KV: 3.5GB, or 50%, with commas", "BYTES|SHARE"),
    ] = None,
    cache: Annotated[
        list[str] | None,
        stays("for the caches alone: 400MiB, with commas", "BYTES"),
    ] = None,
    cache_fraction: CacheFractions = None,
    details: Annotated[
        bool,
        typer.Option(
            "--details", help="every figure of every run, in tables", rich_help_panel=OUTPUT
        ),
    ] = False,
    override: Override = None,
    csv: Csv = None,
    as_json: Json = False,
    picture: Any = None,
    **options: Any,
) -> None:
    """Run TRACE with all of several devices, methods, policies and budgets: rates, hits, to opt.

    Name several with commas, or repeat the option.
    """
    from dipsim.report import files

    table = files.check_csv(csv)
    budgets: dict[str, Any] = {
        "dram": split_names(dram or ()),
        "cache": split_names(cache or ()),
        "cache_fraction": split_numbers(cache_fraction or (), "--cache-fraction"),
    }
    densities = split_numbers(density or (), "--density")
    profiles: list[Any] = [*split_names(profile or ())] or [None]
    devices = [load_device(name, override) for name in profiles]
    opened = open_trace(trace)
    with Progress("comparing", "runs") as progress:
        from dipsim.analysis.compare import compare as run_all
        from dipsim.report import compare as report

        watch = _Watch(picture is not None)
        comparison = run_all(
            opened,
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
        print_report(comparison.to_dict(), trace=opened, profiles=devices)
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
