"""One way to run many: points in, cells out, each trace read as few times as possible."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dipsim.errors import DipsimError
from dipsim.replay.contender import Contender, check_contender
from dipsim.replay.replay import Progress
from dipsim.replay.traffic import Traffic
from dipsim.result import Result
from dipsim.run import Run
from dipsim.simulate import prepare
from dipsim.sweep.passes import replay_runs, with_shared_tables
from dipsim.sweep.point import Cell, Figures, Place, Point, figures_of
from dipsim.sweep.vary import retimed
from dipsim.timeline.timing import time_traffic

Read = Callable[..., Iterable[tuple[Place, Figures]]]
"""Called with a result, and the traffics beside its run: cells of the run, each with what its place
has beyond the point's, and its figures."""


def one_cell(result: Result, *beside: Traffic) -> list[tuple[Place, Figures]]:
    """Return the usual figures of a run, as its only cell."""
    return [({}, figures_of(result))]


def many(
    points: Sequence[Point],
    *,
    read: Read = one_cell,
    before: Callable[[Run], Sequence[Contender] | None] = lambda _: None,
    tolerated: tuple[type[DipsimError], ...] = (),
    keep: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Cell]:
    """Run every point; runs share the choice of sets, and replays where no replay tells them apart.

    Counts are let go as soon as they are read.

    Args:
        read: what is kept of a run.
        before: called with every run before the first one is replayed; contenders it returns are
            replayed on the run's sets too, see `replay_runs`. A point's ``flash_speed`` changes no
            time of theirs.
        tolerated: errors that make a cell without figures; all others are raised.
        keep: hand on the results.
        threads: caches replayed at a time; changes no figure.
        progress: called with (runs done, runs).

    Returns:
        The cells of the points, in their order.

    Raises:
        DipsimError: anything wrong with the input, in one line; the first tolerated error where no
            point could be run.
    """
    cells: dict[int, list[Cell]] = {}
    runs: dict[int, Run] = {}
    beside: dict[int, Sequence[Contender]] = {}
    problems: list[DipsimError] = []
    tables: dict[Any, Any] = {}

    def fail(number: int, problem: DipsimError) -> None:
        point = points[number]
        cells[number] = [Cell(point.place, point.options, None, why=str(problem))]
        problems.append(problem)

    for number, point in enumerate(points):
        try:
            run = prepare(point.trace, point.device, model=point.model, **point.options)
            run = with_shared_tables(run, tables)
            check_contender(run.sets, run.contender())
            beside[number] = before(run) or ()
        except tolerated as problem:
            fail(number, problem)
        else:
            runs[number] = run
    for number, traffic, others in replay_runs(runs, beside, tolerated, progress, threads):
        try:
            if isinstance(traffic, DipsimError):
                raise traffic
            result = _timed(points[number], runs[number], traffic)
            cells[number] = _cells(points[number], result, read(result, *others), keep)
        except tolerated as problem:
            fail(number, problem)
    if problems and len(problems) == len(points):
        raise problems[0]
    return [cell for number in range(len(points)) for cell in cells[number]]


def _timed(point: Point, run: Run, traffic: Traffic) -> Result:
    if point.flash_speed is not None:
        return retimed(run, traffic, point.flash_speed)
    return Result(run, traffic, time_traffic(run, traffic))


def _cells(
    point: Point, result: Result, read: Iterable[tuple[Place, Figures]], keep: bool
) -> list[Cell]:
    kept = result if keep else None
    return [
        Cell({**point.place, **more}, point.options, figures, result.marks, result=kept)
        for more, figures in read
    ]
