"""Reader of the CSV of ``dipsim iobench``: size, lanes and bandwidth."""

from dipsim.calibrate.benchmarks.reading import Format
from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Origin, Reads
from dipsim.disk.fit import Measured, points_of


def read(source: Source) -> Measurements:
    """Read the bandwidths of a device; not all were direct where a row says so.

    Raises:
        DipsimError: it is no such table.
    """
    points, direct = points_of(source.text, source.name)
    origin = Origin(source.name, "dipsim iobench")
    return Measurements(reads=tuple(Reads(point, origin, direct) for point in points))


def _recognises(head: str) -> bool:
    names = {name.strip().strip('"') for name in head.partition("\n")[0].split(",")}
    return names >= set(Measured._fields)


IOBENCH = Format("dipsim iobench (CSV of size, lanes, bandwidth)", _recognises, read)
