"""`dipsim study`: the studies of the DIP paper, as tables, pictures and a page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.help import OUTPUT
from dipsim.cli.inputs import warn_of
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
    number,
    takes,
)
from dipsim.cli.output import print_report, show
from dipsim.cli.sweep import Dask, SweepProgress
from dipsim.lists import split_names

ALL = "all"


@command(
    "Replay a trace on a device",
    "dipsim study density smollm2-chat --tokens 0:32 --method dip,dip-ca",
    "dipsim study policies --tokens 0:16 --policy lru,opt -o policies.html",
)
@takes(BUDGET, WHAT, HOW, WHERE)
@draws
def study(
    name: Annotated[
        str | None,
        typer.Argument(help="which, or all; without it they are listed", metavar="NAME"),
    ] = None,
    trace: TraceArgument = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            "-p",
            help="names or YAML files, with commas [the study's]",
            metavar="NAME|FILE",
            rich_help_panel=DEVICE,
            autocompletion=completion.profiles,
        ),
    ] = None,
    model: ModelOption = None,
    method: Annotated[
        list[str] | None,
        needs("names with commas, in place of the study's", names=completion.methods),
    ] = None,
    policy: Policies = None,
    override: Override = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="replace a key of its file: text_tokens=512", metavar="KEY=VALUE"
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="keeps the cells of all studies [studies.db]", metavar="FILE"),
    ] = None,
    workers: Annotated[int | None, number("processes that run cells [1]")] = None,
    dask: Dask = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="a page with tables and charts: a .html or .md file",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    csv: Csv = None,
    as_json: Json = False,
    picture: Any = None,
    **options: Any,
) -> None:
    """Repeat a study of the DIP paper, on TRACE or its own: tables, pictures, a page."""
    if name is None:
        _list_studies(as_json)
        return
    from dipsim.hardware import override_pairs
    from dipsim.report import files
    from dipsim.report import study as report
    from dipsim.report.page import output as pages
    from dipsim.report.tables import line
    from dipsim.sweep.file import read_changes
    from dipsim.units import BYTES

    table, policies = files.check_csv(csv), split_names(policy or ())
    page = None if output is None else pages.check_output(output)
    if picture is not None:
        files.check_series("policies", policies)
    given = {name: value for name, value in options.items() if value is not None}
    lists = {"profile": profile, "method": method, "policy": policies}
    asked: dict[str, Any] = {key: split_names(each) for key, each in lists.items() if each}
    asked |= {**given, **_one("model", model), **_one("trace", trace)}
    if override:
        asked["overrides"] = override_pairs(override)
    results, inputs = _run(
        name, {**asked, **read_changes(change or (), "--set")}, store, workers, dask
    )
    if picture is not None:
        report.picture_of(results, picture)
    if table is not None:
        files.write_rows(table, [row for each in results for row in report.records(each)])
    if page is not None:
        pages.write(report.page_of_studies(results), *page)
    if as_json:
        values = [each.to_dict() for each in results]
        print_report(
            values[0] if name != ALL else {"studies": values},
            units=report.UNITS,
            **_about(results, inputs),
        )
        return
    for each in results:
        show(report.render(each))
    if page is not None:
        show(line(f"{page[0]}: {BYTES.show(page[0].stat().st_size)}", style="dim"))


def _run(
    name: str, changes: dict[str, Any], store: str | None, workers: int | None, dask: str | None
) -> tuple[list[Any], Any]:
    """Return the results of studies, which are planned before the first one is run, and what opened
    their traces and profiles."""
    with SweepProgress(lines=False) as progress:
        from dipsim.analysis.study import STORE, plan_all, plan_study, run_study
        from dipsim.store import Store
        from dipsim.sweep.inputs import Inputs
        from dipsim.sweep.sweep import executor_of

        inputs, executor = Inputs(), executor_of(workers, dask, progress)
        if changes.get("trace") is not None:
            warn_of(inputs.trace(changes["trace"]))
        everything = name == ALL
        plans = plan_all(changes, inputs) if everything else [plan_study(name, changes, inputs)]
        with Store.open(STORE if store is None else Path(store), create=True) as opened:
            return [run_study(plan, opened, executor, progress) for plan in plans], inputs


def _about(results: list[Any], inputs: Any) -> dict[str, Any]:
    """Return the trace, where there is one, and the devices of studies."""
    cells = [cell.options for each in results for cell in each.cells]
    traces = {options.get("trace") for options in cells}
    overrides = results[0].fixed.get("overrides", ())
    devices = {
        profile: inputs.profile({"profile": profile, "overrides": overrides})
        for profile in dict.fromkeys(options["profile"] for options in cells)
    }
    trace = traces.pop() if len(traces) == 1 else None
    return {
        "trace": None if trace is None else inputs.trace(trace),
        "profiles": list(devices.values()),
    }


def _one(key: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {key: value}


def _list_studies(as_json: bool) -> None:
    from dipsim.analysis.study import titles
    from dipsim.report import study as report

    if as_json:
        print_report({"studies": titles()})
    else:
        show(report.listing())
