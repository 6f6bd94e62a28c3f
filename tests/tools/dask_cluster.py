"""A Dask scheduler and workers, processes on this machine; commands that stand for Slurm."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from distributed import Client

DASK = [sys.executable, "-m", "dask"]


class Cluster:
    """A scheduler, and workers that are started when they are asked for.

    Args:
        allowed_failures: workers that a chunk may lose before the scheduler gives it up.
    """

    def __init__(self, allowed_failures: int = 3) -> None:
        failures = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures)}
        self.scheduler = subprocess.Popen(
            [*DASK, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **failures},
        )
        assert self.scheduler.stderr is not None
        at = next(line for line in self.scheduler.stderr if "Scheduler at:" in line)
        self.address = at.split()[-1]
        _drain(self.scheduler.stderr)
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self, processes: int = 1, threads: int = 1, *more: str) -> None:
        """Start worker processes; a nanny replaces one that is lost, unless ``--no-nanny``."""
        line = [*DASK, "worker", self.address, "--no-dashboard", *more]
        line += ["--nworkers", str(processes), "--nthreads", str(threads)]
        self._workers.append(subprocess.Popen(line, stderr=subprocess.DEVNULL))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
    ) -> None:
        if self.scheduler.poll() is None:
            with Client(self.address, set_as_default=False) as client:
                client.shutdown()
        for process in (*self._workers, self.scheduler):
            process.wait()


def _drain(stream: IO[str]) -> None:
    """Read a pipe to its end, so that it never fills."""

    def read() -> None:
        with stream:
            for _ in stream:
                pass

    threading.Thread(target=read, daemon=True).start()


SBATCH = """#!/bin/sh
# Runs the script of a job as a process of a group of its own, whose number is that of the job.
echo "$1" >> {folder}/submitted
cp "$1" {folder}/script.sh
setsid sh {folder}/script.sh > {folder}/job.log 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
echo "$1" >> {folder}/cancelled
kill -TERM -- "-$1"
"""
REFUSING = """#!/bin/sh
echo "sbatch: error: invalid partition specified: nowhere" >&2
exit 1
"""


def stand_for_slurm(folder: Path, sbatch: str = SBATCH) -> str:
    """Write ``sbatch`` and ``scancel`` into a folder, and return a PATH that finds them first."""
    for name, text in (("sbatch", sbatch), ("scancel", SCANCEL)):
        (folder / name).write_text(text.replace("{folder}", str(folder)))
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
