"""Sweeps: a file says which runs, a store keeps what is done, and only the rest is run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

from dipsim.errors import DipsimError, brief, check_type, not_taken
from dipsim.files import path_of
from dipsim.store import Store, StoredCell
from dipsim.sweep.chunk import chunks_of
from dipsim.sweep.dask import Dask
from dipsim.sweep.execute import Executor, Ran, Serial, Watch, execute
from dipsim.sweep.file import Sweep, Table, load_sweep
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.plan import Plan, make_plan
from dipsim.sweep.workers import Workers
from dipsim.views import Listed

LIMIT = 100_000
"""Most cells of a grid, unless the user allows more."""
_MOST_WORKERS = 1024


@dataclass(frozen=True, repr=False)
class SweepResult(Listed):
    """A sweep that is over: its cells, in the order of its axes."""

    report: ClassVar[str] = "results"

    name: str
    title: str
    store: Path | None
    """File that holds the cells; None where no one keeps them."""
    axes: tuple[str, ...]
    cells: list[StoredCell]
    known: int
    """Cells that were in the store before."""
    lost: Sequence[Ran] = ()
    """Chunks whose processes were lost, which are in no store."""
    tables: tuple[Table, ...] = ()
    """Tables that its file shows."""
    note: str = ""
    """Remark below them."""

    @property
    def failed(self) -> int:
        """Cells without figures, lost ones included."""
        failed = sum(cell.figures is None for cell in self.cells)
        return failed + sum(len(ran.chunk) for ran in self.lost)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "sweep": self.name,
            "title": self.title,
            "store": None if self.store is None else str(self.store),
            "axes": list(self.axes),
            "cells": len(self.cells) + sum(len(ran.chunk) for ran in self.lost),
            "known": self.known,
            "failed": self.failed,
            "lost": [ran.lost for ran in self.lost],
        }

    def __repr__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        by = f" by {', '.join(self.axes)}" if self.axes else ""
        cells = len(self.cells) + sum(len(ran.chunk) for ran in self.lost)
        kept = "" if self.store is None else f"\nin {self.store}"
        return f"Sweep {self.name}: {cells} cells{by}{failed}{kept}"


def sweep(
    study: str | os.PathLike[str] | Mapping[str, Any],
    store: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    dask: str | None = None,
    changes: Mapping[str, Any] | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    trust_files: bool = False,
    watch: Watch | None = None,
) -> SweepResult:
    """Run every cell of a sweep that a store does not hold yet.

    Args:
        study: YAML file of a sweep, or a mapping of its keys (docs/sweeps.md).
        store: SQLite file that keeps the cells; default: the sweep's name with ``.db``.
        workers: processes that run cells, by default 1; results do not depend on it.
        dask: address of a Dask scheduler whose workers run them instead, ``tcp://host:8786``, or
            ``slurm:FILE`` (docs/clusters.md).
        changes: keys that replace those of the file.
        limit: most cells of the grid; default: `LIMIT`.
        retry_failed: run cells again that failed before.
        trust_files: run files of policies and methods that the sweep names.
        watch: told what happens.

    Raises:
        DipsimError: anything wrong with the input, in one line; of what only some cells cannot do
            they say why.
    """
    watch = watch or _Nobody()
    executor, declared = executor_of(workers, dask, watch), load_sweep(study, changes)
    check_type("limit", limit, Integral, "a number of cells")
    check_type("retry_failed", retry_failed, bool, "True or False")
    check_type("trust_files", trust_files, bool, "True or False")
    most = LIMIT if limit is None else limit
    plan = make_plan(declared, Inputs(), limit=most, trust_files=trust_files)
    with Store.open(store_of(declared, store), create=True) as opened:
        return run_plan(plan, opened, executor, retry_failed=retry_failed, watch=watch)


def store_of(sweep: Sweep, given: str | os.PathLike[str] | None) -> Path:
    """Return the file of a sweep's store: the one that is given, else NAME.db."""
    return Path(f"{sweep.name}.db") if given is None else path_of(given, "store")


def run_plan(
    plan: Plan,
    store: Store,
    executor: Executor,
    *,
    retry_failed: bool = False,
    watch: Watch | None = None,
) -> SweepResult:
    """Run the cells of a plan that a store does not hold.

    Args:
        store: open for writing.
        executor: runs the chunks.
        retry_failed: run cells again that failed before.
        watch: told what happens.

    Raises:
        DipsimError: the store cannot be written.
    """
    watch = watch or _Nobody()
    if not hasattr(watch, "planned"):
        raise DipsimError(not_taken("watch", watch, "an object that is told of a sweep, or None"))
    sweep = plan.sweep
    places = [(cell.key, cell.place) for cell in plan.cells]
    store.ask(sweep.name, places, title=sweep.title, axes=sweep.grid.names)
    keys = [cell.key for cell in plan.cells]
    missing = plan.missing(store.known(keys, "done" if retry_failed else None))
    chunks = chunks_of(missing, executor.workers)
    watch.planned(len(set(keys)), chunks, executor.workers)
    lost = execute(chunks, executor, store, watch)
    return SweepResult(
        sweep.name,
        sweep.title,
        store.path,
        sweep.grid.names,
        store.cells(sweep.name),
        known=len(set(keys)) - len(missing),
        lost=lost,
        tables=sweep.tables,
        note=sweep.note,
    )


def executor_of(
    workers: int | None = None,
    dask: str | None = None,
    watch: Watch | None = None,
    inputs: Inputs | None = None,
) -> Executor:
    """Return what runs chunks.

    Args:
        workers: processes of this machine, by default this one.
        dask: a scheduler, see `Dask`.
        watch: told when there are no workers.
        inputs: opens traces and profiles of this process; default: anew.

    Raises:
        DipsimError: no number of processes, no scheduler, or both.
    """
    check_type("workers", workers, Integral, "a number of processes")
    check_type("dask", dask, str, "the address of a scheduler, or slurm:FILE")
    elsewhere = dask is not None or workers not in (None, 1)
    if inputs is not None and inputs.objects and elsewhere:
        raise DipsimError(
            f"{brief(inputs.objects[0], 60)} is an object of this process alone: give a file or a "
            "name, or neither workers nor dask"
        )
    if dask is not None:
        if workers is not None:
            raise DipsimError(f"--workers {workers} and --dask: give one of them")
        return Dask(dask, watch or _Nobody())
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise DipsimError(f"--workers {workers}: 1 to {_MOST_WORKERS} processes")
    return Serial(inputs=inputs) if workers in (None, 1) else Workers(workers)


class _Nobody(Watch):
    """Receiver that takes no note of anything."""
