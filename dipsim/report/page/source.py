"""Source of a report: a store of a sweep, or the JSON of a run."""

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from dipsim.errors import DipsimError, brief
from dipsim.files import path_of, read_json
from dipsim.report.page.entry import Entry
from dipsim.report.page.model import Page
from dipsim.report.page.run import page_of_run
from dipsim.report.page.saved import read_result
from dipsim.report.page.sweep import page_of_sweep
from dipsim.store import Store, StoredCell, StoredSweep

MOST_CELLS = 10_000
"""Cells of one page, whose table has a row for each."""
_SQLITE = b"SQLite format 3\0"


def open_page(source: str | os.PathLike[str], sweep: str | None = None) -> Page:
    """Return the page on a file.

    Args:
        source: a store, or the JSON of ``dipsim run --json``.
        sweep: name of a sweep in the store; needed where it has several.

    Raises:
        DipsimError: neither of them, nothing to report, or no such sweep.
    """
    path = path_of(source, "SOURCE")
    if not os.path.lexists(path):
        raise DipsimError(
            f"{path}: no such file; give the store of a sweep, or what dipsim run --json prints"
        )
    if is_store(path):
        return _page_of_store(path, sweep)
    if sweep is not None:
        raise DipsimError(f"--sweep {brief(sweep)}: {path} is no store; drop it")
    return page_of(read_json(path, DipsimError), str(path))


def page_of(result: Mapping[str, Any], name: str = "result") -> Page:
    """Return the page on a run.

    Args:
        result: what ``dipsim run --json`` prints.
        name: where it is from, for errors.

    Raises:
        DipsimError: it is no result.
    """
    return page_of_run(read_result(name, result))


def is_store(path: Path) -> bool:
    """Return whether a file is a store of sweeps, by its first bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False  # the reader of JSON says why


class StoredRuns(NamedTuple):
    """Finished cells of a sweep, as a page reads them."""

    title: str
    axes: tuple[str, ...]
    entries: list[Entry]
    asked: int
    """Number of its cells, finished or not."""


def read_store(path: Path, wanted: str | None = None) -> StoredRuns:
    """Return the finished cells of a sweep.

    Args:
        path: the store.
        wanted: name of the sweep; needed where it has several.

    Raises:
        DipsimError: no store, no such sweep, nothing finished, or more than `MOST_CELLS`.
    """
    with Store.open(path) as store:
        sweep = _chosen(path, store.sweeps(), wanted)
        if sweep.cells > MOST_CELLS:
            raise DipsimError(
                f"{path}: sweep {brief(sweep.name)} has {sweep.cells} cells, a page at most "
                f"{MOST_CELLS}: report a smaller sweep, or see dipsim results"
            )
        cells = store.cells(sweep.name)
    title = brief(sweep.title or sweep.name, 120)
    return StoredRuns(title, sweep.axes, list(map(_entry, cells)), sweep.cells)


def _page_of_store(path: Path, wanted: str | None) -> Page:
    title, _, entries, asked = read_store(path, wanted)
    return page_of_sweep(title, entries, asked, version("dipsim"))


def _chosen(path: Path, sweeps: list[StoredSweep], wanted: str | None) -> StoredSweep:
    """Return the sweep that is asked for, or the only one that has finished cells."""
    finished = {sweep.name: sweep for sweep in sweeps if sweep.done + sweep.failed}
    names = brief(", ".join(finished), 300)
    if not finished:
        raise DipsimError(f"{path}: no cell is finished, so there is nothing to report")
    if wanted is not None and wanted not in finished:
        raise DipsimError(f"--sweep {brief(wanted)}: {path} has finished cells of {names}")
    if wanted is None and len(finished) > 1:
        raise DipsimError(f"{path} holds several sweeps ({names}): choose one with --sweep NAME")
    return finished[wanted] if wanted is not None else next(iter(finished.values()))


def _entry(cell: StoredCell) -> Entry:
    return Entry(
        cell.place,
        cell.options,
        cell.figures,
        tuple(brief(mark, 60) for mark in cell.marks),
        brief(cell.why, 300),
        cell.semantics,
    )
