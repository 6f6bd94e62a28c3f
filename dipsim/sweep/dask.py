"""Workers of Dask that run chunks, on this machine or on others.

Dask runs a chunk again whose worker is lost. It counts a loss against every chunk that the worker
held, run or not, and gives one up that had too many: such a chunk is run once more, alone.
"""

import logging
import re
from asyncio import CancelledError
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from socket import create_connection
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dipsim.errors import DipsimError, brief
from dipsim.extras import need
from dipsim.sweep.chunk import Chunk, run_chunk
from dipsim.sweep.execute import Ran, RunChunk, Watch
from dipsim.sweep.remote import Answer, here, other_version, run_here
from dipsim.sweep.slurm import read_slurm, started

if TYPE_CHECKING:
    from distributed import Client, Future

_LOOK, _TRY = 0.5, 5.0
"""Seconds between looks at whether there are workers, while nothing comes; and of one try to reach
a scheduler."""
_LESS = "more memory for a worker, or a part of the trace (tokens, layers), may do"
_LOGGERS = ("distributed", "distributed.client", "tornado.application")
_ADDRESS = re.compile(r"(tcp|tls|ws|wss)://([^:/\s]+|\[[^\]\s]+\]):[0-9]+")


class Dask:
    """Runs chunks on the workers of a scheduler, one on each of their threads.

    Args:
        scheduler: address of one, or ``slurm:FILE``, see `SlurmJobs`.
        watch: told when there are no workers.
        run_chunk: runs the cells of a chunk; of a module that workers can import.

    Raises:
        DipsimError: neither, or what it needs is not installed.
    """

    def __init__(self, scheduler: str, watch: Watch, run_chunk: RunChunk = run_chunk) -> None:
        need("--dask", "dask", "dask", "distributed")
        kind, _, rest = scheduler.partition(":")
        self._jobs = read_slurm(Path(rest)) if kind == "slurm" else None
        if self._jobs is None and not _ADDRESS.fullmatch(scheduler):
            raise DipsimError(
                f"--dask {brief(scheduler)}: give the address of a scheduler, tcp://host:8786, or "
                "slurm:FILE"
            )
        self._scheduler, self._watch, self._run_chunk = scheduler, watch, run_chunk

    @cached_property
    def workers(self) -> int:
        """Threads of the workers there are when it is first asked for; it waits for the first one.

        Raises:
            DipsimError: no scheduler.
        """
        if self._jobs is not None:
            return self._jobs.workers
        with self._connected() as client:
            while not (threads := self._look(client)):
                sleep(_LOOK)
            return threads

    def run(self, chunks: Sequence[Chunk]) -> Generator[Ran]:
        """Yield each chunk when it is over; one that Dask gives up twice has no outcomes.

        Raises:
            DipsimError: no scheduler, or it goes away; a worker with another version of dipsim, or
                without the files.
        """
        if not chunks:
            return
        with self._connected() as client:
            self._check_versions(client)
            sweep, given_up = uuid4().hex, []
            for ran in self._run(client, sweep, chunks):
                if ran.lost is None:
                    yield ran
                else:
                    given_up.append(ran.chunk)
            for chunk in given_up:
                yield from self._run(client, sweep, [chunk])

    def _run(self, client: "Client", sweep: str, chunks: Sequence[Chunk]) -> Iterator[Ran]:
        """Yield chunks when Dask has run them or given them up."""
        over: SimpleQueue[Future[Answer]] = SimpleQueue()
        running: dict[str, tuple[Future[Answer], Chunk]] = {}
        for chunk in chunks:
            future = client.submit(run_here, sweep, here(), self._run_chunk, chunk, pure=False)
            running[future.key] = future, chunk  # Dask forgets what nobody holds
            future.add_done_callback(over.put)
        while running:
            try:
                key = over.get(timeout=_LOOK).key
            except Empty:
                self._look(client)
            else:
                self._watch.waiting(False)
                yield self._ran(*running.pop(key))

    def _ran(self, future: "Future[Answer]", chunk: Chunk) -> Ran:
        """Return what came of a chunk.

        Raises:
            DipsimError: a worker refuses it, or cannot read it; no more scheduler.
        """
        from distributed import KilledWorker

        if future.status == "cancelled":
            raise self._gone()
        try:
            answer = future.result()
        except KilledWorker as problem:
            times = problem.allowed_failures + 1
            return Ran(chunk, (), f"the worker that ran it was lost {times} times: {_LESS}")
        except (OSError, CancelledError):
            raise self._gone() from None
        except Exception as problem:  # it was never run: a worker cannot read what it is sent
            raise _cannot("a worker, or the scheduler,", problem) from None
        if answer.kind == "refused":
            raise DipsimError(answer.said)
        if answer.kind == "bug":
            raise RuntimeError(f"a worker failed:\n{answer.said}")
        if answer.kind == "no memory":
            return Ran(chunk, (), f"the memory of its worker does not do: {_LESS}")
        return Ran(chunk, answer.outcomes)

    def _check_versions(self, client: "Client") -> None:
        """Refuse workers that have another version of dipsim, or none.

        Raises:
            DipsimError: there is one.
        """
        try:
            told = client.run(here, on_error="return")
        except OSError:
            raise self._gone() from None
        for worker, its in told.items():
            if isinstance(its, Exception) and not isinstance(its, OSError):  # of those it is lost
                raise _cannot(worker, its)
            if isinstance(its, str) and its != here():
                raise DipsimError(other_version(worker, its, here()))

    @contextmanager
    def _connected(self) -> Iterator["Client"]:
        """Yield a client; whatever is outstanding in the end is cancelled.

        Raises:
            DipsimError: no scheduler.
        """
        from distributed import Client

        with _quiet(), ExitStack() as stack:
            try:
                if self._jobs is None:
                    _reach(self._scheduler)
                    at: Any = self._scheduler
                else:
                    at = stack.enter_context(started(self._jobs))
                client = stack.enter_context(Client(at, set_as_default=False))
            except (OSError, ValueError, TypeError, ImportError) as problem:
                raise DipsimError(
                    f"--dask {brief(self._scheduler)}: no scheduler answers "
                    f"({brief(problem, 200)}): start one with `dask scheduler`"
                ) from None
            yield client

    def _look(self, client: "Client") -> int:
        """Tell whether there are workers, and return how many threads they have.

        Raises:
            DipsimError: the scheduler went away.
        """
        try:
            if client.status != "running":
                raise self._gone()
            threads = sum(map(int, client.nthreads().values()))
        except OSError:
            raise self._gone() from None
        self._watch.waiting(not threads)
        return threads

    def _gone(self) -> DipsimError:
        return DipsimError(
            f"--dask {brief(self._scheduler)}: the scheduler went away: what is done is in the "
            "store, and the same command goes on"
        )


def _reach(scheduler: str) -> None:
    """Wait until something listens at an address, for as long as Dask is told to try.

    A client would wait, too, but not be interrupted.

    Raises:
        OSError: nothing does.
    """
    import dask.config
    from dask.utils import parse_timedelta

    host, _, port = scheduler.partition("://")[2].rpartition(":")
    until = monotonic() + parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    while True:
        try:
            create_connection((host.strip("[]"), int(port)), timeout=_TRY).close()
            return
        except OSError:
            if monotonic() > until:
                raise
            sleep(_LOOK)


def _cannot(worker: str, problem: BaseException) -> DipsimError:
    """Return the error of a worker that cannot read what it is sent, by the innermost cause."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    why = brief(f"{type(problem).__name__}: {problem}", 200)
    return DipsimError(
        f"--dask: {worker} cannot run dipsim ({why}): install the same there as here"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask from writing to standard error what the errors say."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
