"""Chunks on another machine: a process there runs them as they were planned, or refuses."""

import platform
import threading
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from dipsim.errors import DipsimError
from dipsim.simulate import SEMANTICS
from dipsim.store import Outcome
from dipsim.sweep.cell_key import CellKeys
from dipsim.sweep.chunk import Chunk
from dipsim.sweep.execute import RunChunk
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.keys import FILES, PLUGINS
from dipsim.sweep.loop import is_judged
from dipsim.sweep.plan import Planned
from dipsim.threads import at_most_threads

_KEPT = threading.local()
"""Inputs of the sweep that a thread worked for last: threads share none, as traces that keep what
they inflate are not made for it."""
_MODEL = threading.Lock()
"""Held while a chunk judges a model: the threads of a process have one model, and hook masks into
it."""


@dataclass(frozen=True)
class Answer:
    """Outcomes of a chunk."""

    kind: Literal["done", "refused", "no memory", "bug"]
    outcomes: Sequence[Outcome] = ()
    said: str = ""
    """Why it was refused, or the report of a bug."""


def here() -> str:
    """Return the version of dipsim in this process, and that of what its runs mean."""
    return f"dipsim {version('dipsim')} (semantics {SEMANTICS})"


def run_here(sweep: str, planned_by: str, run_chunk: RunChunk, chunk: Chunk) -> Answer:
    """Run a chunk, if all that it depends on is as it was where it was planned.

    Args:
        sweep: tells sweeps apart; what is open for one is closed when a chunk of another comes.
        planned_by: what `here` says where it was planned.
        run_chunk: runs the cells.
    """
    if here() != planned_by:
        return Answer("refused", said=other_version(platform.node(), here(), planned_by))
    if getattr(_KEPT, "sweep", None) != sweep:
        _KEPT.sweep, _KEPT.inputs = sweep, Inputs()
        _KEPT.keys = CellKeys(_KEPT.inputs)
    try:
        for cell in chunk:
            _check_files(cell, _KEPT.keys)
    except DipsimError as problem:
        return Answer("refused", said=str(problem))
    alone = _MODEL if is_judged(chunk[0].options) else nullcontext()
    try:
        with alone, at_most_threads(1):
            return Answer("done", run_chunk(chunk, _KEPT.inputs))
    except MemoryError:
        return Answer("no memory")
    except Exception:
        return Answer("bug", said=traceback.format_exc())


def other_version(worker: str, its: str, ours: str) -> str:
    """Return the message on a worker that may not run what was planned here."""
    return f"--dask: the worker {worker} has {its}, this is {ours}: install the same there"


def _check_files(cell: Planned, keys: CellKeys) -> None:
    """Refuse a cell whose key is another one here: a file is missing, or holds something else.

    Raises:
        DipsimError: with the files that it names.
    """
    try:
        if keys.of(cell.options) == cell.key:
            return
        why = "hold something else there"
    except DipsimError as problem:
        why = f"cannot be read there ({problem})"
    named = (cell.options.get(name) for name in (*FILES, *PLUGINS))
    files = ", ".join(str(name) for name in named if name is not None)
    raise DipsimError(
        f"--dask: {platform.node()}: files of a cell {why}: workers need the files of a sweep, "
        f"unchanged, under the same paths; it names {files}"
    )
