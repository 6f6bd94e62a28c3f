"""Execution of a plan: chunks are run, and their outcomes stored as they come."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from dipsim.store import Outcome, Store
from dipsim.sweep.chunk import Chunk, run_chunk
from dipsim.sweep.inputs import Inputs

RunChunk = Callable[[Chunk, Inputs], list[Outcome]]
"""Function that runs the cells of a chunk; one of a module, so that a process can import it."""


@dataclass(frozen=True)
class Ran:
    """A chunk that is over."""

    chunk: Chunk
    outcomes: Sequence[Outcome]
    """Outcome of each cell; none where the process that ran them was lost again and again."""
    lost: str | None = None
    """Sentence on the loss."""


class Executor(Protocol):
    """Way to run chunks: here, in processes, or on other machines."""

    @property
    def workers(self) -> int:
        """Chunks that are run at a time."""
        ...

    def run(self, chunks: Sequence[Chunk]) -> Generator[Ran]:
        """Yield each chunk when it is over, in any order; closing the iterator ends all work."""
        ...


class Serial:
    """Runs one chunk after another, in this process.

    Args:
        run_chunk: runs the cells of one.
        inputs: opens traces and profiles; default: anew for each sweep.
    """

    workers = 1

    def __init__(self, run_chunk: RunChunk = run_chunk, inputs: Inputs | None = None) -> None:
        self._run_chunk, self._inputs = run_chunk, inputs

    def run(self, chunks: Sequence[Chunk]) -> Generator[Ran]:
        """Yield each chunk when it is over."""
        inputs = self._inputs or Inputs()
        for chunk in chunks:
            yield Ran(chunk, self._run_chunk(chunk, inputs))


class Watch(Protocol):
    """Receiver of what happens in a sweep."""

    def planned(self, runs: int, chunks: Sequence[Chunk], workers: int) -> None:
        """Take note of how many runs there are, the chunks of those that are not known, and how
        many chunks are run at a time."""
        return

    def ran(self, ran: Ran) -> None:
        """Take note of a chunk that is over, and stored."""
        return

    def waiting(self, for_workers: bool) -> None:
        """Take note of whether there is nobody now to run a chunk."""
        return


def execute(chunks: Sequence[Chunk], executor: Executor, store: Store, watch: Watch) -> list[Ran]:
    """Run chunks and store their outcomes, each as soon as it is over.

    Returns:
        The chunks that were lost.

    Raises:
        DipsimError: the store cannot be written; what is in it stays.
    """
    lost = []
    with closing(executor.run(chunks)) as over:
        for ran in over:
            store.put(ran.outcomes)
            watch.ran(ran)
            if ran.lost is not None:
                lost.append(ran)
    return lost
