"""`dipsim compare`: policies against budgets."""

from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.inputs import given_only, load_device, open_trace
from dipsim.cli.options import (
    HOW,
    METHOD,
    WHAT,
    WHERE,
    Csv,
    ModelOption,
    Override,
    Plot,
    Policies,
    ProfileOption,
    takes,
)
from dipsim.cli.output import print_json, say, show
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import TraceName

USUAL = ["none", "lru", "lfu", "lfu-decay", "arc", "belady", "opt"]
CacheFractions = Annotated[
    list[float] | None,
    typer.Option("--cache-fraction", help="share of the units the caches hold; repeat it"),
]


@app.command()
@takes(METHOD, WHAT, HOW, WHERE)
def compare(
    trace: TraceName,
    profile: ProfileOption = None,
    model: ModelOption = None,
    policy: Policies = None,
    dram: Annotated[
        list[str] | None, typer.Option(help="for weights and KV: 3.5GB, or 50%; repeat it")
    ] = None,
    cache: Annotated[
        list[str] | None, typer.Option(help="for the caches alone: 400MiB; repeat it")
    ] = None,
    cache_fraction: CacheFractions = None,
    override: Override = None,
    plot: Plot = None,
    csv: Csv = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Run TRACE with several policies and budgets: hit rate, rate, flash, distance to opt."""
    from dipsim.report import files

    picture, table = files.check_plot(plot), files.check_csv(csv)
    budgets: list[dict[str, Any]] = [{"dram": size} for size in dram or ()]
    budgets += [{"cache": size} for size in cache or ()]
    budgets += [{"cache_fraction": share} for share in cache_fraction or ()]
    if picture is not None:
        files.check_series("budgets", budgets)
    device = load_device(profile, override)
    with Progress("comparing", "runs") as progress:
        from dipsim.analysis.compare import compare as run_all
        from dipsim.analysis.default_policies import policies_that_apply
        from dipsim.report import compare as report
        from dipsim.report import hints

        opened = open_trace(trace)
        warnings: list[str] = []
        comparison = run_all(
            opened,
            device,
            policy or policies_that_apply(USUAL, opened, options),
            budgets or [{}],
            model=model,
            warn=lambda text: say(f"warning: {text}"),
            look=lambda result: warnings.extend(hints.warnings(result)),
            progress=progress,
            **given_only(options),
        )
        if picture is not None:
            report.plot(comparison, opened.name, picture)
        if table is not None:
            report.write_csv(comparison, table)
    for warning in dict.fromkeys(warnings):
        say(f"warning: {warning}")
    if as_json:
        print_json(comparison.to_dict())
    else:
        show(report.render(comparison))
