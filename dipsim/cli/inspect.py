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
    from dipsim.analysis.inspect import inspect_trace
    from dipsim.report import files
    from dipsim.report import inspect as report
    from dipsim.trace import load_trace

    picture = files.check_plot(plot)
    with Progress("inspecting"):
        opened = load_trace(trace).part(tokens, layers, sequence)
        reports = inspect_trace(opened)
        if picture is not None:
            report.plot(reports, opened.name, picture)
    for warning in opened.warnings:
        say(f"warning: {warning}")
    if as_json:
        inspection = {signal: each.to_dict() for signal, each in reports.items()}
        print_json({**opened.describe(), "inspection": inspection})
    else:
        show(report.render(opened, reports))
