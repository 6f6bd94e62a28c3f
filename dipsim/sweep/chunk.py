"""Chunks of cells: runs that are made together, since they share a trace, its sets and replays."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dipsim.errors import DipsimError
from dipsim.result import Result
from dipsim.settings import concerning
from dipsim.simulate import SEMANTICS, settle_kv, simulate
from dipsim.store import Outcome, key_of
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.keys import INPUTS, LOOP
from dipsim.sweep.loop import is_judged, judge
from dipsim.sweep.many import many
from dipsim.sweep.plan import Planned
from dipsim.sweep.point import Cell, Figures, Place, Point

Chunk = Sequence[Planned]
REPLAYS, CELLS = 32, 256
"""Most replays of a chunk, and cells: what is lost when a process is killed, and shares a pass."""
_PER_WORKER = 4
"""Chunks that each worker gets at least, so that all are busy until the end."""
_SETS = (
    *concerning("method", "pruning", "calibration", "experts", "units", "trace"),
    *("trace", "model", "reset", "prefill", "skip_layers"),
)
"""Options that the active sets follow from: runs in which all are equal share them."""
_UNSEEN = ("profile", "overrides", *concerning("device", "time"))
"""Options that no cache sees: runs that differ in these alone share a replay."""


def chunks_of(cells: Sequence[Planned], workers: int) -> list[Chunk]:
    """Return cells in chunks: those with the same sets together, those that share a replay side by
    side."""
    groups: dict[str, dict[str, list[Planned]]] = {}
    for cell in cells:
        sets = key_of({name: cell.options.get(name) for name in _shared(cell)})
        groups.setdefault(sets, {}).setdefault(_seen(cell), []).append(cell)
    size = CELLS
    if workers > 1:
        size = max(1, min(CELLS, math.ceil(len(cells) / (workers * _PER_WORKER))))
    return [chunk for replays in groups.values() for chunk in _cut(replays.values(), size)]


def _cut(replays: Iterable[Sequence[Planned]], size: int) -> Iterator[Chunk]:
    """Yield chunks of at most so many cells, from the cells of each replay."""
    chunk: list[Planned] = []
    replayed = 0
    for cells in replays:
        for first in range(0, len(cells), size):
            some = cells[first : first + size]
            if replayed == REPLAYS or (chunk and len(chunk) + len(some) > size):
                yield chunk
                chunk, replayed = [], 0
            chunk, replayed = [*chunk, *some], replayed + 1
    yield chunk


def _shared(cell: Planned) -> Sequence[str]:
    """Return the options that the cells of a chunk have in common."""
    if not is_judged(cell.options):
        return _SETS
    trained = cell.options.get("lora_steps") is not None
    return (*LOOP, "model", "calibrate_tokens", *(_SETS if trained else ()))


def count_replays(cells: Sequence[Planned]) -> int:
    """Return how many replays cells share: those that differ in their device and the timing alone
    have one."""
    return len({_seen(cell) for cell in cells})


def _seen(cell: Planned) -> str:
    return key_of({name: value for name, value in cell.options.items() if name not in _UNSEEN})


def run_chunk(chunk: Chunk, inputs: Inputs) -> list[Outcome]:
    """Run cells; of what some of them cannot do their outcomes say why.

    Args:
        chunk: cells with one trace, or all without one.
        inputs: opens traces and profiles.
    """
    start = time.perf_counter()
    cells = _run(chunk, inputs)
    seconds = (time.perf_counter() - start) / len(chunk)
    return [
        Outcome(
            key=planned.key,
            options=planned.options,
            figures=cell.figures,
            marks=cell.marks,
            why=cell.why,
            seconds=seconds,
            semantics=SEMANTICS,
        )
        for planned, cell in zip(chunk, cells, strict=True)
    ]


def _run(chunk: Chunk, inputs: Inputs) -> list[Cell]:
    """Run cells together, or one by one where that is impossible for one of them, or for all."""
    try:
        if is_judged(chunk[0].options):
            return judge(chunk, inputs)
        if chunk[0].options["trace"] is None:
            return [_without_trace(planned, inputs) for planned in chunk]
        points = [_point(planned, inputs) for planned in chunk]
        return many(points, read=_read, tolerated=(DipsimError,), threads=1)
    except DipsimError as problem:
        if len(chunk) == 1:
            return [Cell(chunk[0].place, chunk[0].options, None, why=str(problem))]
        return [cell for planned in chunk for cell in _run([planned], inputs)]


def _without_trace(planned: Planned, inputs: Inputs) -> Cell:
    """Run a cell that reads no trace, and so shares nothing."""
    options = {**planned.options, "profile": inputs.profile(planned.options), "overrides": ()}
    result = simulate(**options)
    return Cell(planned.place, planned.options, result.figures(), result.marks)


def _point(planned: Planned, inputs: Inputs) -> Point:
    """Return the run of a cell, with what its KV asks for as ``auto`` settled."""
    trace, device = inputs.kept(planned.options["trace"]), inputs.profile(planned.options)
    options = {name: value for name, value in planned.options.items() if name not in INPUTS}
    model = inputs.model(planned.options.get("model"))
    settled = settle_kv(trace, device, {**options, "model": model})
    del settled["model"]
    return Point(planned.place, trace, device, settled, model)


def _read(result: Result, *_: Any) -> list[tuple[Place, Figures]]:
    return [({}, result.figures())]
