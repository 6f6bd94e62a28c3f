"""`dipsim sweep`: every cell of a file's grid, into a store that outlives the process."""

import json
from collections.abc import Sequence
from time import monotonic
from typing import Annotated, Any

import typer

from dipsim.cli.app import Json, command
from dipsim.cli.help import OUTPUT
from dipsim.cli.options import number
from dipsim.cli.output import log, print_json, print_report, show
from dipsim.cli.progress import Progress
from dipsim.errors import DipsimError

Dask = Annotated[
    str | None,
    typer.Option(
        help="run cells on the workers of a scheduler, tcp://host:8786, or slurm:FILE",
        metavar="SCHEDULER",
    ),
]
"""Scheduler whose workers run cells."""
FAILED_CELLS = 3
"""Exit code where some cells failed."""


@command(
    "Replay a trace on a device",
    "dipsim sweep budgets.yaml --dry-run",
    "dipsim sweep budgets.yaml -s 'cache_fraction=[.4,.6]' --store all.db",
)
def sweep(
    study: Annotated[
        str | None, typer.Argument(help="a YAML file of options and axes", metavar="FILE")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="keeps the cells; several sweeps may share it [NAME.db]", metavar="FILE"),
    ] = None,
    workers: Annotated[int | None, number("processes that run cells [1]")] = None,
    dask: Dask = None,
    change: Annotated[
        list[str] | None,
        typer.Option("-s", help="replace a key of the file: policy=[lru,lfu]", metavar="KEY=VALUE"),
    ] = None,
    limit: Annotated[int | None, number("most cells of the grid [100000]")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="run cells again that failed before")
    ] = False,
    trust_files: Annotated[
        bool, typer.Option("--trust-files", help="run policies and methods that are files")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="count the cells and estimate the time, from a few")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="JSON Schema of sweep files")] = False,
    log_as: Annotated[
        str | None,
        typer.Option(
            "--log",
            help="jsonl: a line for each chunk, on standard error",
            metavar="NAME",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run all cells of the grid in FILE that the store does not hold yet; exit 3 if some failed."""
    from dipsim.sweep.file import load_sweep, read_changes
    from dipsim.sweep.keys import schema as schema_of

    if schema:
        print_json(schema_of())
        return
    if study is None:
        raise DipsimError("no sweep: dipsim sweep FILE (see dipsim sweep --help)")
    if log_as not in (None, "jsonl"):
        raise DipsimError(f"--log {log_as}: use jsonl")
    changes = read_changes(change or ())
    with SweepProgress(log_as is not None) as progress:
        from dipsim.report import results as report
        from dipsim.store import Store
        from dipsim.sweep.estimate import estimate
        from dipsim.sweep.inputs import Inputs
        from dipsim.sweep.plan import make_plan
        from dipsim.sweep.sweep import LIMIT, executor_of, run_plan, store_of

        executor, inputs = executor_of(workers, dask, progress), Inputs()
        declared = load_sweep(study, changes)
        most = LIMIT if limit is None else limit
        plan = make_plan(declared, inputs, limit=most, trust_files=trust_files)
        path = store_of(declared, store)
        if dry_run:
            found = estimate(plan, _missing(plan, path, retry_failed), inputs, executor.workers)
        else:
            with Store.open(path, create=True) as opened:
                result = run_plan(plan, opened, executor, retry_failed=retry_failed, watch=progress)
    if dry_run:
        if as_json:
            print_report({"sweep": declared.name, **found.to_dict()}, units=report.UNITS)
        else:
            show(report.render_estimate(declared.name, found))
        return
    if as_json:
        print_report(result.to_dict(), units=report.UNITS)
    else:
        show(report.render_sweep(result))
    if result.failed:
        raise typer.Exit(FAILED_CELLS)


def _missing(plan: Any, path: Any, retry_failed: bool) -> Any:
    """Return the cells that a sweep would run; a store that is not there knows none."""
    from dipsim.store import Store

    if not path.exists():
        return plan.missing(())
    with Store.open(path) as opened:
        keys = [cell.key for cell in plan.cells]
        return plan.missing(opened.known(keys, "done" if retry_failed else None))


class SweepProgress(Progress):
    """Progress of a sweep: cells done, running and failed, their rate, and the time that is left.

    Args:
        lines: print a line of JSON for each chunk.
    """

    def __init__(self, lines: bool) -> None:
        super().__init__("sweeping", "cells")
        self._lines, self._failed, self._known = lines, 0, 0
        self._waiting: list[int] = []
        self._workers, self._began = 1, 0.0
        self._nobody = False

    def planned(self, runs: int, chunks: Sequence[Any], workers: int) -> None:
        """Take note of the runs, the chunks of those that are not known, and the workers."""
        self._waiting = [len(chunk) for chunk in chunks]
        self._known, self._workers = runs - sum(self._waiting), workers
        self._began = monotonic()
        self(self._known, runs)

    def ran(self, ran: Any) -> None:
        """Take note of a chunk that is over."""
        self._waiting.remove(len(ran.chunk))
        done = [outcome for outcome in ran.outcomes if outcome.figures is not None]
        self._failed += len(ran.chunk) - len(done)
        self(self.done + len(ran.chunk), self.total)
        if self._lines:
            entry = {
                "done": self.done,
                "cells": self.total,
                "failed": self._failed,
                "chunk": len(ran.chunk),
                "seconds": sum(outcome.seconds for outcome in ran.outcomes),
                "lost": ran.lost,
            }
            log(json.dumps(entry))

    def waiting(self, for_workers: bool) -> None:
        """Take note of whether there is nobody to run a chunk."""
        self._nobody = for_workers

    def __str__(self) -> str:
        if self._nobody and not self.total:
            return "waiting for workers"
        return super().__str__()

    def _count(self) -> str:
        running = sum(self._waiting[: self._workers])
        doing = "waiting for workers" if self._nobody else f"{running} running"
        parts = [super()._count(), doing]
        if self._failed:
            parts.append(f"{self._failed} failed")
        new, took = self.done - self._known, monotonic() - self._began
        if new and took:
            left = (self.total - self.done) * took / new
            parts += [f"{new / took:.3g}/s", f"{left:.0f} s left"]
        return ", ".join(parts)
