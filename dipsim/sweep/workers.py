"""Processes that run chunks: one that is lost is replaced, and its chunk run again."""

import os
import signal
import traceback
from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing import connection, get_context
from typing import Any, Literal

from dipsim.errors import DipsimError
from dipsim.sweep.chunk import Chunk, run_chunk
from dipsim.sweep.execute import Ran, RunChunk
from dipsim.sweep.inputs import Inputs
from dipsim.threads import at_most_threads

TRIES = 3
"""Times that a chunk is run before its cells fail, and that a process is started in vain."""
Answer = tuple[Literal["ready", "done", "bug", "lost"], Any]
"""Message of a process: that it is up; the outcomes of a chunk; the report of a bug; nothing, since
it is gone."""
_SPAWN = get_context("spawn")  # a fork would copy the threads' locks, and the open store


class _Worker:
    """A process, and the number of the chunk that it runs.

    Args:
        run_chunk: runs the cells of one.
    """

    def __init__(self, run_chunk: RunChunk) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(theirs, run_chunk), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the process does
        self.ready, self.number = False, -1

    def answer(self) -> Answer:
        """Return what it says, of a process that has something to say or is gone."""
        try:
            answer: Answer = self.pipe.recv()
        except (EOFError, OSError):
            return "lost", None
        return answer

    def give(self, number: int, chunk: Chunk) -> None:
        """Let it run a chunk; where it is gone, its pipe will say so."""
        self.number = number
        try:
            self.pipe.send(chunk)
        except OSError:
            return

    def stop(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Workers:
    """Runs chunks in processes; each opens the traces itself, mapped from the same files.

    Args:
        workers: how many, 1 or more.
        run_chunk: runs the cells of a chunk.
    """

    def __init__(self, workers: int, run_chunk: RunChunk = run_chunk) -> None:
        self.workers = workers
        self._run_chunk = run_chunk

    def run(self, chunks: Sequence[Chunk]) -> Generator[Ran]:
        """Yield each chunk when it is over; one whose process is lost `TRIES` times has no
        outcomes.

        Raises:
            DipsimError: processes end before they can begin.
        """
        waiting = deque(range(len(chunks)))
        losses = [0] * len(chunks)
        in_vain, over = 0, 0
        workers = [_Worker(self._run_chunk) for _ in range(min(self.workers, len(chunks)))]
        try:
            while over < len(chunks):
                _give(workers, waiting, chunks)
                speaking = connection.wait([worker.pipe for worker in workers])
                for place, worker in enumerate(workers):
                    if worker.pipe not in speaking:
                        continue
                    kind, content = worker.answer()
                    number = worker.number
                    if kind == "bug":
                        raise RuntimeError(f"a worker failed:\n{content}")
                    if kind == "ready":
                        worker.ready, in_vain = True, 0
                    elif kind == "done":
                        worker.number, over = -1, over + 1
                        yield Ran(chunks[number], content)
                    else:
                        worker.stop()
                        workers[place] = _Worker(self._run_chunk)
                        if not worker.ready:
                            in_vain += 1
                            _refuse(in_vain, worker)
                        elif number >= 0:
                            losses[number] += 1
                            if losses[number] < TRIES:
                                waiting.appendleft(number)
                            else:
                                over += 1
                                yield Ran(chunks[number], (), _loss(worker))
        finally:
            for worker in workers:
                worker.stop()


def _give(workers: Sequence[_Worker], waiting: deque[int], chunks: Sequence[Chunk]) -> None:
    """Give the next chunks to the processes that run none."""
    for worker in workers:
        if worker.ready and worker.number < 0 and waiting:
            number = waiting.popleft()
            worker.give(number, chunks[number])


def _refuse(in_vain: int, worker: _Worker) -> None:
    """Give up where processes end before they can begin.

    Raises:
        DipsimError: for the last time.
    """
    if in_vain >= TRIES:
        raise DipsimError(
            f"--workers: processes end as they begin ({_end(worker)}): use --workers 1; a script "
            'must call dipsim.sweep below if __name__ == "__main__":'
        )


def _loss(worker: _Worker) -> str:
    return (
        f"the process that ran it was lost {TRIES} times ({_end(worker)}): fewer workers, or a "
        "part of the trace (tokens, layers), take less memory"
    )


def _end(worker: _Worker) -> str:
    """Return how a process ended."""
    code = worker.process.exitcode or 0
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _work(pipe: Any, run_chunk: RunChunk) -> None:
    """Run the chunks that come through a pipe until it ends: what a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    inputs = Inputs()
    pipe.send(("ready", None))
    while True:
        try:
            chunk = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            with at_most_threads(1):
                answer: Answer = "done", run_chunk(chunk, inputs)
        except MemoryError:
            os._exit(1)  # what was allocated is of no use to others
        except Exception:
            answer = "bug", traceback.format_exc()
        try:
            pipe.send(answer)
        except OSError:
            return
