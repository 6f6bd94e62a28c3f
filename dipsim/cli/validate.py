"""`dipsim validate`: predictions held against measurements."""

from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, app
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
    replay: Annotated[
        str | None, typer.Option(help="read the misses of this trace from FILE", metavar="TRACE")
    ] = None,
    scale_to: Annotated[
        str | None, typer.Option(help="of --replay: take units for this model's, e.g. phi-3-medium")
    ] = None,
    file_size: Annotated[str, typer.Option(help="of a FILE that is made")] = "2 GB",
    lanes: Annotated[int, typer.Option(help="of --replay: reads in flight")] = 4,
    fit: Annotated[bool, typer.Option("--fit", help="of --replay: predict by formula")] = False,
    bench_seconds: Annotated[
        float, typer.Option(help="of --replay: for measuring the disk beforehand")
    ] = 10.0,
    profile: ProfileOption = None,
    model: ModelOption = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Read a replay's misses from a real disk, and print predicted beside measured times."""
    if replay is None or file is None:
        raise DipsimError("give both: dipsim validate --replay TRACE FILE")
    wanted = {"scale_to": scale_to, "lanes": lanes, "fit": fit, "bench_seconds": bench_seconds}
    _replayed(replay, file, file_size, wanted, {"profile": profile, "model": model}, options,
              as_json)  # fmt: skip


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
    given.setdefault("tokens", "0:64")
    if not {"dram", "cache", "cache_fraction"} & set(given):
        given["cache_fraction"] = 0.5
    with Progress("read", "tokens") as progress:
        from dipsim.analysis.replayed_io import Wanted, validate_io

        found = validate_io(
            trace,
            device["profile"] or "paper-a18",
            Wanted(file, size, **wanted),
            said=say,
            progress=progress,
            model=device["model"],
            **given,
        )
        from dipsim.report import replayed_io as report
    if not found.direct:
        say("warning: no direct reads on this file system; these are of the page cache too")
    if as_json:
        print_json(found.to_dict())
    else:
        show(report.render(found))
