"""`dipsim mrc`: hit rate against cache size."""

from typing import Any

from dipsim.cli.app import Json, command
from dipsim.cli.inputs import given_only, open_trace
from dipsim.cli.options import (
    HOW,
    METHOD,
    WHAT,
    CacheFractions,
    Csv,
    Policies,
    draws,
    takes,
)
from dipsim.cli.output import print_report, show
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import TraceName
from dipsim.lists import split_names, split_numbers


@command(
    "Replay a trace on a device",
    "dipsim mrc smollm2-chat --tokens 0:64 --policy lru,opt --cache-fraction .5,.8",
)
@takes(METHOD, WHAT, HOW)
@draws
def mrc(
    trace: TraceName,
    policy: Policies = None,
    cache_fraction: CacheFractions = None,
    csv: Csv = None,
    as_json: Json = False,
    picture: Any = None,
    **options: Any,
) -> None:
    """Hit rate of TRACE against cache size; by default of lru, lfu and opt at 20 sizes.

    One cache per layer and group, each holding the same share of its units.
    """
    from dipsim.report import files

    table, policies = files.check_csv(csv), split_names(policy or ())
    shares = split_numbers(cache_fraction or (), "--cache-fraction")
    if picture is not None:
        files.check_series("policies", policies)
    opened = open_trace(trace)
    with Progress("replaying", "policies") as progress:
        from dipsim.analysis.mrc import GRID
        from dipsim.analysis.mrc import mrc as curves_of
        from dipsim.report import mrc as report

        curves = curves_of(
            opened, policies, shares or GRID, progress=progress, **given_only(options)
        )
        if picture is not None:
            report.plot(curves, picture)
        if table is not None:
            report.write_csv(curves, table)
    if as_json:
        print_report(curves.to_dict(), trace=opened, units=report.UNITS)
    else:
        show(report.render(curves))
