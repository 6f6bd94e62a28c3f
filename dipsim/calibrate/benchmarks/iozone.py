"""Reader of iozone: its table, its report for spreadsheets (-R), and its throughputs (-t).

Figures are in KiB per second. Only runs with -I, whose reads go past the page cache, tell anything.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dipsim.calibrate.benchmarks.points import Points
from dipsim.calibrate.benchmarks.reading import Format, words
from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Origin

_COLUMNS: Mapping[int, tuple[str, ...]] = {
    0: ("write", "rewrite"),
    1: ("read", "reread"),
    2: ("random read", "random write"),
    3: ("backward read",),
    4: ("record rewrite",),
    5: ("stride read",),
    6: ("fwrite", "frewrite"),
    7: ("fread", "freread"),
}
"""Columns of each test; those of tests that were not run are blank."""
_REPORTS = {
    "Reader report": "read",
    "Random read report": "random read",
    "Random Read report": "random read",
    "Writer report": "write",
    "Random write report": "random write",
    "Random Write report": "random write",
}
_CHILDREN = {
    "readers": "read",
    "random readers": "random read",
    "initial writers": "write",
    "random writers": "random write",
}
_LONGEST = 1000
"""Characters of a line that are read."""
_KEPT = ("read", "random read", "write", "random write")
_THROUGHPUT = re.compile(
    r"\s*Children see throughput for\s+(\d{1,4}) ([a-z ]+?)\s*=\s*([\d.]+) kB/sec", re.IGNORECASE
)


@dataclass
class _Run:
    """State of a run that is being read."""

    direct: bool = False
    command: str = ""
    record: int | None = None
    """KiB of a record, in throughput mode."""
    in_operations: bool = False
    report: str | None = None
    """Test that a report for spreadsheets is about."""
    records: list[int] = field(default_factory=list)
    """KiB of the records of the columns of that report."""
    rows: list[tuple[int, int, int, str, float]] = field(default_factory=list)
    """(line, KiB of the file, KiB of a record, test, KiB per second)."""


def read(source: Source) -> Measurements:
    """Read the bandwidths of a device.

    Raises:
        DipsimError: it cannot be read.
    """
    points = Points(source.name)
    run = _Run()
    for at, line in enumerate(source.text.split("\n"), 1):
        line = line[:_LONGEST]
        if re.search("iozone test complete", line, re.IGNORECASE):
            _keep(run, points)
            run = _Run()
            continue
        _header(run, line)
        if match := _THROUGHPUT.match(line):
            _children(run, match, at, points)
        elif re.fullmatch(r"[\s\d]+", line) and line.strip():
            problem = _table_row(run, [int(cell[:18]) for cell in line.split()], at)
            if problem:
                points.refuse(f"line {at}", problem)
        else:
            _report_row(run, line, at)
    _keep(run, points)
    return points.measurements()


def _header(run: _Run, line: str) -> None:
    if "O_DIRECT feature enabled" in line:
        run.direct = True
    elif "Output is in ops/sec" in line:
        run.in_operations = True
    elif match := re.search(r"Command line used:\s*(\S.*)", line):
        run.command = words(match[1])
        run.direct = run.direct or "-I" in run.command.split()
    elif match := re.search(r"Record Size (\d{1,9}) kB", line, re.IGNORECASE):
        run.record = int(match[1])


def _table_row(run: _Run, cells: list[int], at: int) -> str | None:
    """Keep the figures of a row of the table; return what is wrong with it."""
    if len(cells) < 3:
        return "a row that was cut"
    listed = re.findall(r"-i\s*(\d+)", run.command)
    ran = sorted({int(test) for test in listed}) if listed else list(_COLUMNS)
    names = [name for test in ran for name in _COLUMNS.get(test, ())]
    if not run.command and len(cells) == 8:
        names = [name for test in (0, 1, 2) for name in _COLUMNS[test]]
    if len(cells) - 2 != len(names):
        return f"{len(cells) - 2} figures for {len(names)} tests that the command names"
    size, record, *figures = cells
    run.rows += [
        (at, size, record, name, float(figure))
        for name, figure in zip(names, figures, strict=True)
        if name in _KEPT
    ]
    return None


def _report_row(run: _Run, line: str, at: int) -> None:
    """Keep the figures of a row of a report for spreadsheets."""
    cells = line.split()
    if (title := line.strip().strip('"')) in _REPORTS or title.endswith("report"):
        run.report, run.records = _REPORTS.get(title), []
    elif run.report and cells and all(re.fullmatch(r'"\d{1,9}"', cell) for cell in cells):
        run.records = [int(cell.strip('"')) for cell in cells]
    elif run.report and cells and re.fullmatch(r'"\d{1,12}"', cells[0]):
        figures = [cell for cell in cells[1:] if re.fullmatch(r"\d{1,15}", cell, re.ASCII)]
        size = int(cells[0].strip('"'))
        for record, figure in zip(run.records, figures, strict=False):
            run.rows.append((at, size, record, run.report, float(figure)))


def _children(run: _Run, match: re.Match[str], at: int, points: Points) -> None:
    """Keep the throughput of several processes."""
    test = _CHILDREN.get(match[2].lower())
    if test is None:
        return
    if run.record is None:
        points.refuse(f"line {at}", "no record size is stated")
        return
    _point(points, run, f"line {at}", run.record, int(match[1]), test, float(match[3]))


def _keep(run: _Run, points: Points) -> None:
    """Hand on the rows of the largest file of a run."""
    for at, record, test, figure in _of_largest(run):
        _point(points, run, f"line {at}", record, 1, test, figure)


def _of_largest(run: _Run) -> Iterator[tuple[int, int, str, float]]:
    largest = max((row[1] for row in run.rows), default=0)
    return ((at, record, test, fig) for at, size, record, test, fig in run.rows if size == largest)


def _point(
    points: Points, run: _Run, place: str, record: int, lanes: int, test: str, figure: float
) -> None:
    if run.in_operations:
        points.refuse(place, "figures in operations per second: drop -O")
        return
    origin = Origin(points.file, "iozone", "", run.command)
    points.add(
        place,
        origin,
        size=record * 1024,
        lanes=lanes,
        bandwidth=figure * 1024,
        direct=run.direct,
        in_order=not test.startswith("random"),
        written=test.endswith("write"),
    )


def _recognises(head: str) -> bool:
    table = re.search(r"(?m)^[ \t]*KB[ \t]+reclen[ \t]+write", head, re.IGNORECASE)
    return bool(table or "Iozone: Performance Test of File I/O" in head)


IOZONE = Format("iozone", _recognises, read)
