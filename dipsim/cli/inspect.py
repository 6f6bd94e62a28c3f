"""`dipsim inspect`: what a trace holds."""

from dipsim.cli.app import Json, app
from dipsim.cli.options import Plot
from dipsim.cli.output import print_json, say, show
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import Layers, Sequences, Tokens, TraceName


@app.command()
def inspect(
    trace: TraceName,
    tokens: Tokens = None,
    layers: Layers = None,
    sequence: Sequences = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Show what TRACE holds, how it caches, and whether it is long enough."""
    from dipsim.analysis.inspect import inspect as look_at
    from dipsim.report import files
    from dipsim.report import inspect as report

    picture = files.check_plot(plot)
    with Progress("inspecting"):
        inspection = look_at(trace, tokens=tokens, layers=layers, sequence=sequence)
        if picture is not None:
            report.plot(inspection, picture)
    for warning in inspection.trace.warnings:
        say(f"warning: {warning}")
    if as_json:
        print_json(inspection.to_dict())
    else:
        show(report.render(inspection))
