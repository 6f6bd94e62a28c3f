"""`dipsim validate`: predictions held against measurements, published ones or those of a disk."""

from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, app
from dipsim.cli.inputs import given_only
from dipsim.cli.options import BUDGET, HOW, METHOD, POLICY, WHAT, ModelOption, ProfileOption, takes
from dipsim.cli.output import print_json, say, show
from dipsim.cli.progress import Progress
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
        str | None,
        typer.Option(
            help="read the misses of this trace from FILE",
            metavar="TRACE",
            autocompletion=completion.traces,
        ),
    ] = None,
    scale_to: Annotated[
        str | None,
        typer.Option(
            help="of --replay: take units for this model's, e.g. phi-3-medium",
            autocompletion=completion.models,
        ),
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
    reading = {"scale_to": scale_to, "lanes": lanes, "fit": fit, "bench_seconds": bench_seconds}
    reading = given_only(reading)
    if replay is None:
        more = {"profile": profile, "model": model, "file_size": file_size, **reading, **options}
        misplaced = list(given_only(more))
        if file is not None or misplaced:
            what = file if file is not None else f"--{misplaced[0].replace('_', '-')}"
            raise DipsimError(f"{what}: is for dipsim validate --replay TRACE FILE; drop it")
        _published(cases, routes, metrics, page, bars, as_json)
        return
    if file is None:
        raise DipsimError("--replay: give a file on the disk to read: validate --replay TRACE FILE")
    of_cases = {"--cases": cases, "--routes": routes, "--metrics": metrics, "--page": page}
    misplaced = list(given_only({**of_cases, "--bars": bars}))
    if misplaced:
        raise DipsimError(
            f"{misplaced[0]} is about published measurements, --replay is not: drop one"
        )
    device = {"profile": profile, "model": model}
    _replayed(replay, file, file_size or "2 GB", reading, device, given_only(options), as_json)


def _published(
    cases: str | None,
    routes: str | None,
    metrics: str | None,
    page: str | None,
    bars: str | None,
    as_json: bool,
) -> None:
    """Predict published measurements, and a phone's routes where they are given."""
    from dipsim.report.files import check_text, write_text

    if (routes is None) != (metrics is None):
        raise DipsimError("--routes and --metrics are two files of one run: give both, or neither")
    page_file = check_text("--page", page, ".md")
    bars_file = check_text("--bars", bars, ".json")

    from dipsim.report import validate as report
    from dipsim.validate import bars_of, judge, judge_routes, load_cases
    from dipsim.validate.error_bars import bars_text

    with Progress("judging the cases"):
        known = load_cases(cases)
        phone = None
        if routes is not None and metrics is not None:
            phone = judge_routes(routes, metrics)
        validation = judge(known)
    if page_file is not None:
        write_text("--page", page_file, report.page(validation, phone))
        say(f"wrote {page_file}")
    if bars_file is not None:
        write_text("--bars", bars_file, bars_text(bars_of(validation)))
        say(f"wrote {bars_file}")
    if as_json:
        print_json(report.to_dict(validation, phone))
    elif page_file is None and bars_file is None:
        show(report.render(validation, phone))


def _replayed(
    trace: str,
    file: str,
    file_size: str,
    reading: dict[str, Any],
    device: dict[str, Any],
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Read the misses of a trace from a disk here, and predict how long that takes.

    Args:
        reading: options of `dipsim.disk.replayed.Wanted`.
        device: ``profile`` and ``model``, each None where it was not given.
        options: options of a run that were given.
    """
    from dipsim.units import BYTES

    try:
        size = BYTES.parse(file_size)
    except ValueError as problem:
        raise DipsimError(f"--file-size {problem}") from None
    if not {"dram", "cache", "cache_fraction"} & set(options):
        options["cache_fraction"] = 0.5
    with Progress("reading", "tokens") as progress:
        from dipsim.disk.replayed import Wanted, validate_io
        from dipsim.trace import load_trace

        opened = load_trace(trace)
        if "tokens" not in options:  # the first 64, or all there are
            tokens = opened.part(sequence=options.get("sequence")).tokens
            options["tokens"] = f"0:{min(64, tokens)}"
        replayed = validate_io(
            opened,
            device["profile"] or "paper-a18",
            Wanted(file, size, **reading),
            announce=say,
            progress=progress,
            model=device["model"],
            **options,
        )
        from dipsim.report import replayed as report
    if not replayed.direct:
        say("warning: no direct reads on this file system; these are of the page cache too")
    if as_json:
        print_json(replayed.to_dict())
    else:
        show(report.render(replayed))
