"""`dipsim validate`: predictions held against measurements, published ones or those of a disk."""

from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.help import OUTPUT
from dipsim.cli.inputs import given_only
from dipsim.cli.options import (
    BUDGET,
    HOW,
    METHOD,
    POLICY,
    WHAT,
    ModelOption,
    ProfileOption,
    draws,
    takes,
)
from dipsim.cli.output import print_report, say, show
from dipsim.cli.progress import Progress
from dipsim.errors import DipsimError


def _file(text: str) -> Any:
    """Return an option that names a file to write."""
    return typer.Option(help=text, metavar="FILE", rich_help_panel=OUTPUT)


def _replay(text: str, metavar: str, names: Any = None) -> Any:
    """Return an option of ``--replay``; a shell completes ``names``."""
    return typer.Option(help=f"of --replay: {text}", metavar=metavar, autocompletion=names)


@command(
    "Measure and validate",
    "dipsim validate",
    "dipsim validate --replay smollm2-chat reads.bin --file-size 64MB --tokens 0:8 "
    "--bench-seconds 1",
)
@takes(METHOD, POLICY, BUDGET, WHAT, HOW)
@draws
def validate(
    file: Annotated[
        str | None,
        typer.Argument(
            help="of --replay: on the disk to read; made and removed if there is none",
            metavar="FILE",
        ),
    ] = None,
    cases: Annotated[
        str | None,
        typer.Option(help="measurements: YAML or JSON [those of dipsim]", metavar="FILE"),
    ] = None,
    routes: Annotated[
        str | None, typer.Option(help="a phone's route_trace CSV", metavar="FILE")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="what it measured per token: a CSV", metavar="FILE")
    ] = None,
    page: Annotated[str | None, _file("write the figures as a .md page")] = None,
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
        _replay("take units for this model's, e.g. phi-3-medium", "NAME|FILE", completion.models),
    ] = None,
    file_size: Annotated[str | None, _replay("size of a FILE that is made [2 GB]", "BYTES")] = None,
    lanes: Annotated[int | None, _replay("reads in flight [4]", "NUMBER")] = None,
    fit: Annotated[
        bool | None, typer.Option("--fit", help="of --replay: the disk as a formula")
    ] = None,
    bench_seconds: Annotated[
        float | None, _replay("seconds of measuring the disk beforehand [10]", "NUMBER")
    ] = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    as_json: Json = False,
    picture: Any = None,
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
        _published(cases, routes, metrics, page, picture, as_json)
        return
    if file is None:
        raise DipsimError("--replay: give a file on the disk to read: validate --replay TRACE FILE")
    of_cases = {"--cases": cases, "--routes": routes, "--metrics": metrics, "--page": page}
    of_cases["--plot"] = picture
    misplaced = list(given_only(of_cases))
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
    picture: Any,
    as_json: bool,
) -> None:
    """Predict published measurements, and a phone's routes where they are given."""
    from dipsim.report.files import check_text, write_text

    if (routes is None) != (metrics is None):
        raise DipsimError("--routes and --metrics are two files of one run: give both, or neither")
    page_file = check_text("--page", page, ".md")

    from dipsim.report import validate as report
    from dipsim.validate import judge, judge_routes, load_cases
    from dipsim.validate.devices import shipped

    with Progress("judging", "cases") as progress:
        known = shipped() if cases is None else load_cases(cases)
        phone = None
        if routes is not None and metrics is not None:
            phone = judge_routes(routes, metrics)
        validation = judge(known, progress)
    if picture is not None:
        report.plot(validation, picture)
    if page_file is not None:
        write_text("--page", page_file, report.page(validation, phone))
        say(f"wrote {page_file}")
    if as_json:
        print_report(report.to_dict(validation, phone), units=report.UNITS)
    elif page_file is None:
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
        from dipsim.hardware import load_profile
        from dipsim.trace import load_trace

        opened, profile = load_trace(trace), device["profile"] or "paper-a18"
        if "tokens" not in options:  # the first 64, or all there are
            tokens = opened.part(sequence=options.get("sequence")).tokens
            options["tokens"] = f"0:{min(64, tokens)}"
        replayed = validate_io(
            opened,
            profile,
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
        print_report(
            replayed.to_dict(), trace=opened, profiles=[load_profile(profile)], units=report.UNITS
        )
    else:
        show(report.render(replayed))
