"""`dipsim calibrate`: measured reads become the flash of a profile."""

from typing import Annotated

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.help import OUTPUT
from dipsim.cli.output import print_json, print_report, say


@command(
    "Measure and validate",
    "dipsim calibrate reads.csv --extends snapdragon8 --out mine.yaml",
)
def calibrate(
    csv: Annotated[
        str, typer.Argument(help="a table of size, lanes, bandwidth; see iobench", metavar="CSV")
    ],
    fit: Annotated[bool, typer.Option("--fit", help="a formula instead of the points")] = False,
    lanes: Annotated[
        int | None,
        typer.Option(
            help="reads the runtime keeps in flight [the most measured]", metavar="NUMBER"
        ),
    ] = None,
    extends: Annotated[
        str | None,
        typer.Option(
            help="the profile that --out takes the rest from",
            metavar="NAME|FILE",
            autocompletion=completion.profiles,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="write a profile: a .yaml file", metavar="FILE", rich_help_panel=OUTPUT),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make measured reads the flash section of a profile, and say how far off it is."""
    from pathlib import Path

    from dipsim.disk import fit as flash_fit
    from dipsim.report import calibrate as report

    target = report.check_out(out, extends)
    calibrated, origin = flash_fit.calibrate(csv, fit, lanes), Path(csv).name
    if not calibrated.direct:
        say("warning: not all of these were direct reads: the source is marked estimate")
    if target is not None:
        report.write(target, calibrated, origin, str(extends))
        for line in report.lines(calibrated):
            say(line)
    if as_json:
        print_report(calibrated.to_dict(), units=report.UNITS)
    elif target is None:
        print_json(report.text(calibrated, origin).rstrip("\n"))
