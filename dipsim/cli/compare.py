"""Commands that ask one question of many caches: `dipsim compare`, `dipsim mrc`."""

from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, app
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
from dipsim.cli.output import Progress, print_json, say, show
from dipsim.cli.run import load_device

USUAL = ["none", "lru", "lfu", "lfu-decay", "arc", "belady", "opt"]
Shares = Annotated[
    list[float] | None,
    typer.Option("--cache-fraction", help="share of the units the caches hold; repeat it"),
]


@app.command()
@takes(METHOD, WHAT, HOW, WHERE)
def compare(
    trace: Annotated[str, typer.Argument(help="an .npz file, a folder of shards, or a name")],
    profile: ProfileOption = None,
    model: ModelOption = None,
    policy: Policies = None,
    dram: Annotated[
        list[str] | None, typer.Option(help="for weights and KV: 3.5GB, or 50%; repeat it")
    ] = None,
    cache: Annotated[
        list[str] | None, typer.Option(help="for the caches alone: 400MiB; repeat it")
    ] = None,
    cache_fraction: Shares = None,
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
    with Progress("compared", "policies") as progress:
        from dipsim.analysis.compare import compare as run_all
        from dipsim.report import compare as comparison
        from dipsim.trace import load_trace

        opened = load_trace(trace)
        for warning in opened.warnings:
            say(f"warning: {warning}")
        found = run_all(
            opened,
            device,
            policy or _that_apply(USUAL, opened, options),
            budgets or [{}],
            model=model,
            warn=lambda text: say(f"warning: {text}"),
            progress=progress,
            **{name: value for name, value in options.items() if value is not None},
        )
        if picture is not None:
            comparison.plot(found, opened.name, picture)
        if table is not None:
            comparison.write_csv(found, table)
    from dipsim.report import hints

    told = {text: None for cell in found.cells for text in hints.warnings(cell.result)}
    for text in told:
        say(f"warning: {text}")
    if as_json:
        print_json(found.to_dict())
    else:
        show(comparison.render(found))


@app.command()
@takes(METHOD, WHAT, HOW)
def mrc(
    trace: Annotated[str, typer.Argument(help="an .npz file, a folder of shards, or a name")],
    policy: Policies = None,
    cache_fraction: Shares = None,
    plot: Plot = None,
    csv: Csv = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Hit rate of TRACE against cache size; by default of lru, lfu and opt at 20 sizes.

    One cache per layer and group, each holding the same share of its units.
    """
    from dipsim.report import files

    picture, table = files.check_plot(plot), files.check_csv(csv)
    if picture is not None:
        files.check_series("policies", policy or ())
    with Progress():
        from dipsim.analysis.mrc import GRID, miss_ratio_curves
        from dipsim.report import mrc as curves
        from dipsim.trace import load_trace

        opened = load_trace(trace)
        for warning in opened.warnings:
            say(f"warning: {warning}")
        found = miss_ratio_curves(
            opened,
            policy or _that_apply(["lru", "lfu", "opt"], opened, options),
            tuple(cache_fraction or GRID),
            **{name: value for name, value in options.items() if value is not None},
        )
        if picture is not None:
            curves.plot(found, picture)
        if table is not None:
            curves.write_csv(found, table)
    if as_json:
        print_json(found.to_dict())
    else:
        show(curves.render(found))


def _that_apply(names: list[str], trace: Any, options: dict[str, Any]) -> list[str]:
    """Of the usual policies those that mean something with these options."""
    from dipsim.policies import BUILTIN
    from dipsim.resolve import method_for
    from dipsim.settings import make_settings

    settings = make_settings(options)
    aware = method_for(trace, None, settings).cache_aware
    found = []
    for name in names:
        policy = BUILTIN[name]
        if policy.future and (aware or (policy.atomic_only and settings.scope == "global")):
            continue
        if settings.access == "sequential" and (policy.atomic_only or policy.admit == "ranked"):
            continue
        if settings.admission is not None and policy.admit == "never":
            continue
        if settings.admission == "ranked" and not policy.ranks:
            continue
        found.append(name)
    return found
