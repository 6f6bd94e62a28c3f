"""Chunks of cells: runs that are made together, since they share a trace, its sets and replays."""

import math
import time
from collections.abc import Sequence
from typing import Any

from dipsim.errors import DipsimError
from dipsim.result import Result
from dipsim.settings import concerning
from dipsim.simulate import SEMANTICS, settle_kv, simulate
from dipsim.store import Outcome, key_of
from dipsim.sweep.file import INPUTS
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.many import many
from dipsim.sweep.plan import Planned
from dipsim.sweep.point import Cell, Figures, Place, Point

Chunk = Sequence[Planned]
CELLS = 32
"""Most cells of a chunk: what is lost when a process is killed, and what shares a pass."""
_PER_WORKER = 4
"""Chunks that each worker gets at least, so that all are busy until the end."""
_SETS = (
    *concerning("method", "pruning", "calibration", "experts", "units", "trace"),
    *("trace", "model", "reset", "prefill", "skip_layers"),
)
"""Options that the active sets follow from: runs in which all are equal share them."""
_UNSEEN = ("profile", "overrides", *concerning("device", "time"))
"""Options that no cache sees: runs that differ in these alone share a replay."""
_NO_FIGURES = ("config", "marks", "version")


def chunks_of(cells: Sequence[Planned], workers: int) -> list[Chunk]:
    """Return cells in chunks: those with the same sets together, those that share a replay side by
    side."""
    groups: dict[str, dict[str, list[Planned]]] = {}
    for cell in cells:
        sets = key_of({name: cell.options.get(name) for name in _SETS})
        seen = key_of({name: value for name, value in cell.options.items() if name not in _UNSEEN})
        groups.setdefault(sets, {}).setdefault(seen, []).append(cell)
    size = max(1, min(CELLS, math.ceil(len(cells) / (workers * _PER_WORKER))))
    chunks: list[Chunk] = []
    for replays in groups.values():
        listed = [cell for alike in replays.values() for cell in alike]
        chunks += [listed[first : first + size] for first in range(0, len(listed), size)]
    return chunks


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


def figures_of(result: Result) -> dict[str, Any]:
    """Return the figures of a run as ``dipsim run --json`` has them, without what repeats it."""
    figures = result.to_dict()
    return {name: value for name, value in figures.items() if name not in _NO_FIGURES}


def _run(chunk: Chunk, inputs: Inputs) -> list[Cell]:
    """Run cells together, or one by one where that is impossible for all or one of them."""
    try:
        if "trace" not in chunk[0].options:  # nothing is read that runs could share
            results = [simulate(None, **planned.options) for planned in chunk]
            return [
                Cell(p.place, p.options, figures_of(r), r.marks)
                for p, r in zip(chunk, results, strict=True)
            ]
        points = [_point(planned, inputs) for planned in chunk]
        return many(points, read=_read, tolerated=(DipsimError,), threads=1)
    except DipsimError as problem:
        if len(chunk) == 1:
            return [Cell(chunk[0].place, chunk[0].options, None, why=str(problem))]
        return [cell for planned in chunk for cell in _run([planned], inputs)]


def _point(planned: Planned, inputs: Inputs) -> Point:
    """Return the run of a cell, with what its KV asks for as ``auto`` settled."""
    trace, device = inputs.kept(planned.options["trace"]), inputs.profile(planned.options)
    options = {name: value for name, value in planned.options.items() if name not in INPUTS}
    model = planned.options.get("model")
    settled = settle_kv(trace, device, {**options, "model": model})
    del settled["model"]
    return Point(planned.place, trace, device, settled, model)


def _read(result: Result, *_: Any) -> list[tuple[Place, Figures]]:
    return [({}, figures_of(result))]
