"""`dipsim validate`: predictions held against measurements."""

from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.measured import measured
from dipsim.cli.options import BUDGET, HOW, METHOD, POLICY, WHAT, ModelOption, ProfileOption, takes
from dipsim.cli.output import Progress, print_json, say, show
from dipsim.errors import DipsimError


@app.command()
@takes(METHOD, POLICY, BUDGET, WHAT, HOW)
def validate(
    file: Annotated[
        str | None,
        typer.Argument(help="of --replay: on the disk to read; made and removed if there is none"),
    ] = None,
    cases: Annotated[
        str | None, typer.Option(help="measurements: a JSON file [those of dipsim]")
    ] = None,
    routes: Annotated[str | None, typer.Option(help="a phone's route_trace CSV")] = None,
    metrics: Annotated[str | None, typer.Option(help="what it measured per token")] = None,
    page: Annotated[str | None, typer.Option(help="write the figures as a .md page")] = None,
    bars: Annotated[str | None, typer.Option(help="write the error bars as a .json file")] = None,
    replay: Annotated[
        str | None, typer.Option(help="read the misses of this trace from FILE", metavar="TRACE")
    ] = None,
    scale_to: Annotated[
        str | None, typer.Option(help="of --replay: take units for this model's, e.g. phi-3-medium")
    ] = None,
    file_size: Annotated[str | None, typer.Option(help="of a FILE that is made [2 GB]")] = None,
    lanes: Annotated[int | None, typer.Option(help="of --replay: reads in flight [4]")] = None,
    fit: Annotated[bool | None, typer.Option("--fit", help="of --replay: by formula")] = None,
    bench_seconds: Annotated[
        float | None, typer.Option(help="of --replay: for measuring the disk beforehand [10]")
    ] = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Hold dipsim against measurements: published ones, or with --replay those of a disk here."""
    wanted = {"scale_to": scale_to, "lanes": lanes, "fit": fit, "bench_seconds": bench_seconds}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if replay is None:
        more = {"profile": profile, "model": model, "file_size": file_size, **wanted, **options}
        asked = [name for name, value in more.items() if value is not None]
        if file is not None or asked:
            what = file if file is not None else f"--{asked[0].replace('_', '-')}"
            raise DipsimError(f"{what}: is for dipsim validate --replay TRACE FILE; drop it")
        measured(cases, routes, metrics, page, bars, as_json)
        return
    if file is None:
        raise DipsimError("--replay: give a file on the disk to read: validate --replay TRACE FILE")
    of_cases = {"--cases": cases, "--routes": routes, "--metrics": metrics, "--page": page}
    for name, value in {**of_cases, "--bars": bars}.items():
        if value is not None:
            raise DipsimError(f"{name} is about published measurements, --replay is not: drop one")
    device = {"profile": profile, "model": model}
    _replayed(replay, file, file_size or "2 GB", wanted, device, options, as_json)


def _replayed(
    trace: str,
    file: str,
    file_size: str,
    wanted: dict[str, Any],
    device: dict[str, Any],
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """`--replay TRACE FILE`."""
    from dipsim.units import BYTES

    try:
        size = BYTES.parse(file_size)
    except ValueError as problem:
        raise DipsimError(f"--file-size {problem}") from None
    given = {name: value for name, value in options.items() if value is not None}
    if not {"dram", "cache", "cache_fraction"} & set(given):
        given["cache_fraction"] = 0.5
    with Progress("read", "tokens") as progress:
        from dipsim.disk.replayed import Wanted, validate_io
        from dipsim.trace import load_trace

        opened = load_trace(trace)
        if "tokens" not in given:  # the first 64, or all there are
            there = opened.part(sequence=given.get("sequence")).tokens
            given["tokens"] = f"0:{min(64, there)}"
        found = validate_io(
            opened,
            device["profile"] or "paper-a18",
            Wanted(file, size, **wanted),
            announce=say,
            progress=progress,
            model=device["model"],
            **given,
        )
        from dipsim.report import replayed as report
    if not found.direct:
        say("warning: no direct reads on this file system; these are of the page cache too")
    if as_json:
        print_json(found.to_dict())
    else:
        show(report.render(found))
