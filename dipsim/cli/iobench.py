"""`dipsim iobench` and `dipsim calibrate`: measure a disk, and make it the flash of a profile."""

from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.options import Csv
from dipsim.cli.output import Progress, print_json, say, show
from dipsim.errors import DipsimError


@app.command()
def iobench(
    file: Annotated[str, typer.Argument(help="a large file on the disk; it is only read")],
    sizes: Annotated[
        str | None, typer.Option(help="of a read, e.g. 4KiB,64KiB [4KiB to 4MiB]")
    ] = None,
    threads: Annotated[str | None, typer.Option(help="reads in flight [1,2,4,8]")] = None,
    seconds: Annotated[float, typer.Option(help="in all")] = 20.0,
    csv: Csv = None,
    as_json: Json = False,
) -> None:
    """Measure a disk: read bandwidth by size and reads in flight, past the page cache."""
    from dipsim.disk import bench
    from dipsim.report import files
    from dipsim.report import iobench as report

    table = files.check_csv(csv)
    wanted: dict[str, Any] = {}
    if sizes is not None:
        wanted["sizes"] = [_size(text) for text in sizes.split(",")]
    if threads is not None:
        wanted["threads"] = [_count(text) for text in threads.split(",")]
    with Progress("measured", "cells") as progress:
        found = bench.iobench(file, seconds=seconds, progress=progress, **wanted)
        if table is not None:
            files.write_rows(table, found.rows())
    if not found.direct:
        say("warning: no direct reads on this file system; these are of the page cache too")
    if as_json:
        print_json(found.to_dict())
    else:
        show(report.render(found))


def _size(text: str) -> int:
    from dipsim.units import BYTES

    try:
        size = BYTES.parse(text)
    except ValueError as problem:
        raise DipsimError(f"--sizes {problem}") from None
    if size != int(size):
        raise DipsimError(f"--sizes {text}: whole bytes, in multiples of 4 KiB")
    return int(size)


def _count(text: str) -> int:
    plain = text.strip()
    if not (plain.isascii() and plain.isdecimal() and len(plain) < 6):
        raise DipsimError(f"--threads {text!r}: numbers of reads in flight, e.g. 1,2,4,8")
    return int(plain)


@app.command()
def calibrate(
    csv: Annotated[str, typer.Argument(help="a table of size, lanes, bandwidth; see iobench")],
    fit: Annotated[bool, typer.Option("--fit", help="a formula instead of the points")] = False,
    lanes: Annotated[
        int | None, typer.Option(help="reads the runtime keeps in flight [the most measured]")
    ] = None,
    extends: Annotated[
        str | None, typer.Option(help="the profile that --out takes the rest from")
    ] = None,
    out: Annotated[str | None, typer.Option(help="write a profile: a .yaml file")] = None,
    as_json: Json = False,
) -> None:
    """Make measured reads the flash section of a profile, and say how far off it is."""
    from pathlib import Path

    from dipsim.disk import fit as flash_fit
    from dipsim.report import calibrate as report

    target = report.check_out(out, extends)
    found, origin = flash_fit.calibrate(csv, fit, lanes), Path(csv).name
    if not found.direct:
        say("warning: not all of these were direct reads: the source is marked estimate")
    if target is not None:
        report.write(target, found, origin, str(extends))
        for line in report.lines(found):
            say(line)
    if as_json:
        print_json(found.to_dict())
    elif target is None:
        print_json(report.text(found, origin).rstrip("\n"))
