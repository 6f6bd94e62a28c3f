"""`dipsim mrc`: hit rate against cache size."""

from typing import Any

from dipsim.cli.app import Json, app
from dipsim.cli.compare import CacheFractions
from dipsim.cli.inputs import given_only, open_trace
from dipsim.cli.options import HOW, METHOD, WHAT, Csv, Plot, Policies, takes
from dipsim.cli.output import print_json, show
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import TraceName


@app.command()
@takes(METHOD, WHAT, HOW)
def mrc(
    trace: TraceName,
    policy: Policies = None,
    cache_fraction: CacheFractions = None,
    plot: Plot = None,
    csv: Csv = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Hit rate of TRACE against cache size; by default of lru, lfu and opt at 20 sizes.

    One cache per layer and group, each holding the same share of its units.
    """
    from dipsim.report import files

    picture, table = files.check_plot(plot), files.check_csv(csv)
    if picture is not None:
        files.check_series("policies", policy or ())
    with Progress("replaying", "policies") as progress:
        from dipsim.analysis.mrc import GRID
        from dipsim.analysis.mrc import mrc as curves_of
        from dipsim.report import mrc as report

        sizes = cache_fraction or GRID
        curves = curves_of(
            open_trace(trace), policy or (), sizes, progress=progress, **given_only(options)
        )
        if picture is not None:
            report.plot(curves, picture)
        if table is not None:
            report.write_csv(curves, table)
    if as_json:
        print_json(curves.to_dict())
    else:
        show(report.render(curves))
