"""`dipsim iobench`: how fast a disk reads."""

from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, command
from dipsim.cli.options import Csv
from dipsim.cli.output import print_report, say, show
from dipsim.cli.progress import Progress
from dipsim.errors import DipsimError


@command(
    "Measure and validate",
    "dipsim iobench large.bin --sizes 4KiB,64KiB --threads 1,2 --seconds 1 --csv reads.csv",
)
def iobench(
    file: Annotated[
        str, typer.Argument(help="a large file on the disk; it is only read", metavar="FILE")
    ],
    sizes: Annotated[
        str | None,
        typer.Option(help="of a read, e.g. 4KiB,64KiB [4KiB to 4MiB]", metavar="BYTES,..."),
    ] = None,
    threads: Annotated[
        str | None, typer.Option(help="reads in flight [1,2,4,8]", metavar="NUMBER,...")
    ] = None,
    seconds: Annotated[float, typer.Option(help="of measuring in all", metavar="NUMBER")] = 20.0,
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
    with Progress("measuring", "samples") as progress:
        measured = bench.iobench(file, seconds=seconds, progress=progress, **wanted)
        if table is not None:
            files.write_rows(table, measured.table())
    if not measured.direct:
        say("warning: no direct reads on this file system; these are of the page cache too")
    if as_json:
        print_report(measured.to_dict(), units=report.UNITS)
    else:
        show(report.render(measured))


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
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 6):
        raise DipsimError(f"--threads {text!r}: numbers of reads in flight, e.g. 1,2,4,8")
    return int(digits)
