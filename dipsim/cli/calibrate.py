"""`dipsim calibrate`: benchmarks of a device become a profile."""

from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.help import OUTPUT
from dipsim.cli.options import Override
from dipsim.cli.output import print_json, print_report, show
from dipsim.errors import DipsimError


@command(
    "Measure and validate",
    "dipsim calibrate reads.csv --extends snapdragon8 --out mine.yaml",
    "dipsim calibrate --script android",
)
def calibrate(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="outputs of llama-bench, fio, iozone, mbw, STREAM, iobench; folders; .tar",
            metavar="[FILE]...",
        ),
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="a formula for the flash instead of the points")
    ] = False,
    lanes: Annotated[
        int | None,
        typer.Option(
            help="reads the runtime keeps in flight [the most measured]", metavar="NUMBER"
        ),
    ] = None,
    extends: Annotated[
        str | None,
        typer.Option(
            help="the profile that the rest is taken from",
            metavar="NAME|FILE",
            autocompletion=completion.profiles,
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="what a benchmark ran: 'llama 1B=FILE', as it calls it, and a GGUF, config.json "
            "or preset",
            metavar="NAME=FILE",
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="of the profile, that the rates are of [by engine]", metavar="NAME"),
    ] = None,
    override: Override = None,
    check: Annotated[
        bool, typer.Option("--check", help="compare the profile that --extends names; no file")
    ] = False,
    script: Annotated[
        str | None,
        typer.Option(help="print a script that measures a phone: android", metavar="NAME"),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="write a profile: a .yaml file", metavar="FILE", rich_help_panel=OUTPUT),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the benchmarks of a device a profile, and say how far off it is."""
    if script is not None:
        rest = [fit, lanes, check, as_json, files, extends, models, backend, override, out]
        _print_script(script, rest)
        return
    if not files:
        raise DipsimError("no FILE: give what benchmarks printed, or --script android")
    from dipsim.report import calibrate as report

    target = report.check_out(out, extends)
    if check and (extends is None or target is not None):
        raise DipsimError("--check compares the profile that --extends names, and writes nothing")
    from dipsim.calibrate.benchmarks import read_benchmarks
    from dipsim.calibrate.device import calibrate_device

    found: Any = calibrate_device(
        read_benchmarks(files),
        extends,
        overrides=override or (),
        models=models or (),
        backend=backend,
        lanes=lanes,
        fit=fit,
    )
    if target is not None:
        if found.profile is None:
            raise DipsimError(
                f"--out {out}: a profile needs more than flash: name the one it --extends"
            )
        report.write(target, found, extends)
    if as_json:
        print_report(found.to_dict(), units=report.UNITS)
    elif check:
        show(report.render_check(found, str(extends)))
    elif target is not None:
        show(report.render(found, str(target)))
    else:
        print_json(report.text(found).rstrip("\n"))


def _print_script(name: str, others: list[Any]) -> None:
    """Print the script that measures a phone.

    Raises:
        DipsimError: no such script, or anything else was asked.
    """
    if any(others):
        raise DipsimError("--script prints a script and nothing else: give it alone")
    from dipsim.calibrate.script import phone_script

    print_json(phone_script(name).rstrip("\n"))
