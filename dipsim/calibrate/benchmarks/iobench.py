"""Reader of the CSV of ``dipsim iobench``: size, lanes and bandwidth."""

import csv
import io
from typing import Any

from dipsim.calibrate.benchmarks.points import BUFFERED
from dipsim.calibrate.benchmarks.reading import Format
from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Origin, Reads
from dipsim.disk.fit import MOST_POINTS, Measured, implausible
from dipsim.errors import DipsimError, brief, printable
from dipsim.units import BANDWIDTH, BYTES, Dimension


def read(source: Source) -> Measurements:
    """Read the bandwidths of a device.

    Raises:
        DipsimError: it is no such table.
    """
    points, direct = points_of(source.text, source.name)
    origin = Origin(source.name, "dipsim iobench")
    if not direct:
        return Measurements(refused=(f"{source.name}: not all reads were direct: {BUFFERED}",))
    return Measurements(reads=tuple(Reads(point, origin) for point in points))


def _recognises(head: str) -> bool:
    names = {name.strip().strip('"') for name in head.partition("\n")[0].split(",")}
    return names >= set(Measured._fields)


def points_of(text: str, path: str) -> tuple[list[Measured], bool]:
    """Return the points of a CSV by lanes, then by size, and True if all reads were direct.

    Raises:
        DipsimError: it is no such table, in one line that begins with ``path``.
    """
    text = text.removeprefix("\ufeff")  # spreadsheets write a byte order mark
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        columns = reader.fieldnames or []
        missing = [name for name in Measured._fields if name not in columns]
        if missing:
            raise DipsimError(
                f"{printable(path)}: no column {missing[0]}: the first line names size, lanes and "
                "bandwidth"
            )
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as problem:
        raise DipsimError(f"{printable(path)}: not readable as CSV ({brief(problem)})") from None
    if not 2 <= len(rows) <= MOST_POINTS:
        raise DipsimError(
            f"{printable(path)}: {len(rows)} point{'s' * (len(rows) != 1)}; a curve needs 2, and "
            f"{MOST_POINTS} are the most"
        )
    points: dict[int, list[Measured]] = {}
    for line, row in rows:
        where = f"{printable(path)}, line {line}"
        point = _point(row, where)
        before = points.setdefault(point.lanes, [])
        if before and before[-1].size >= point.size:
            raise DipsimError(
                f"{where}: size {BYTES.exact(point.size)} after {BYTES.exact(before[-1].size)} "
                f"with {point.lanes} lanes: sizes must ascend, each once"
            )
        before.append(point)
    if len({point.size for group in points.values() for point in group}) < 2:
        raise DipsimError(f"{printable(path)}: one size only: a curve needs two")
    ordered = [point for lanes in sorted(points) for point in points[lanes]]
    return ordered, all(_is_true(row.get("direct")) for _, row in rows)


def _point(row: dict[str, Any], where: str) -> Measured:
    size = _quantity(BYTES, row["size"], f"{where}: size")
    bandwidth = _quantity(BANDWIDTH, row["bandwidth"], f"{where}: bandwidth")
    lanes = str(row["lanes"]).strip()
    if not (lanes.isascii() and lanes.isdecimal() and len(lanes) < 4 and 1 <= int(lanes) <= 256):
        raise DipsimError(f"{where}: lanes {brief(lanes, 20)!r}: reads in flight, from 1 to 256")
    point = Measured(size, int(lanes), bandwidth)
    problem = implausible(point)
    if problem:
        raise DipsimError(
            f"{where}: bandwidth {brief(row['bandwidth'], 20)}: {problem}: check the units"
        )
    return point


def _is_true(text: str | None) -> bool:
    """Return False for a text that says no; a column that is not there says yes."""
    return text is None or text.strip().lower() not in ("false", "no", "0", "")


def _quantity(dimension: Dimension, given: Any, what: str) -> float:
    """Read a text with its unit as a positive number in base units."""
    text = str(given or "").strip()
    try:
        value = dimension.parse(text)
    except ValueError as problem:
        raise DipsimError(f"{what} {brief(problem, 120)}") from None
    if value == 0:
        least, most = dimension.range
        raise DipsimError(f"{what} {brief(text, 20)}: a {dimension.name} from {least} to {most}")
    return value


IOBENCH = Format("dipsim iobench (CSV of size, lanes, bandwidth)", _recognises, read)
