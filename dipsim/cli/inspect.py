"""`dipsim inspect`: what a trace holds."""

from typing import Any

from dipsim.cli.app import Json, command
from dipsim.cli.options import Csv, draws
from dipsim.cli.output import print_report, say, show
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import Layers, Sequences, Tokens, TraceName


@command(
    "Bring your own trace, device or policy",
    "dipsim inspect smollm2-chat --tokens 0:64 --plot trace.png",
)
@draws
def inspect(
    trace: TraceName,
    tokens: Tokens = None,
    layers: Layers = None,
    sequence: Sequences = None,
    csv: Csv = None,
    as_json: Json = False,
    picture: Any = None,
) -> None:
    """Show what TRACE holds, how it caches, and whether it is long enough."""
    from dipsim.analysis.inspect import inspect as look_at
    from dipsim.report import files
    from dipsim.report import inspect as report

    table = files.check_csv(csv)
    with Progress("inspecting"):
        inspection = look_at(trace, tokens=tokens, layers=layers, sequence=sequence)
        if picture is not None:
            report.plot(inspection, picture)
        if table is not None:
            report.write_csv(inspection, table)
    for warning in inspection.trace.warnings:
        say(f"warning: {warning}")
    if as_json:
        print_report(inspection.to_dict(), trace=inspection.trace, units=report.UNITS)
    else:
        show(report.render(inspection))
