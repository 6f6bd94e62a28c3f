"""Report of `dipsim iobench`: bandwidth by size of a read and number of reads in flight."""

from statistics import median

from rich.console import Group, RenderableType

from dipsim.disk.bench import Bench
from dipsim.report.tables import Table, line
from dipsim.units import BANDWIDTH, BYTES

UNITS = {"size": "B", "bandwidth": "B/s", "spread": "share"}
"""Units of figures that `dipsim.report.envelope` does not know."""


def render(bench: Bench) -> RenderableType:
    """Return a row for each size, a column for each number of reads in flight."""
    lanes = list(dict.fromkeys(cell.lanes for cell in bench.cells))
    sizes = list(dict.fromkeys(cell.size for cell in bench.cells))
    cells = {(cell.size, cell.lanes): cell for cell in bench.cells}
    names = [f"{n} in flight" for n in lanes]
    rows = Table("size", *names, right=tuple(range(len(lanes) + 1)))
    for size in sizes:
        rates = [BANDWIDTH.show(cells[size, n].bandwidth) for n in lanes]
        rows.add_row(BYTES.exact(size), *rates)
    how = "direct reads" if bench.direct else "BUFFERED reads"
    title = f"{bench.path}: {how} at random offsets"
    parts: list[RenderableType] = [line(title, style="bold"), rows]
    worst = max(bench.cells, key=lambda cell: cell.spread)
    usual = median(cell.spread for cell in bench.cells)
    parts.append(
        line(
            f"the passes differ by {usual:.0%} (median), {worst.spread:.0%} at most "
            f"({BYTES.exact(worst.size)}, {worst.lanes} in flight)",
            style="dim",
        )
    )
    if not bench.direct:
        parts.append(
            line("this file system has no direct reads: what memory holds was read from there")
        )
    return Group(*parts)
