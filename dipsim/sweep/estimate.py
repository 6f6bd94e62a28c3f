"""Estimate of what a sweep would take, from a few cells that are run for it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dipsim.store import Outcome
from dipsim.sweep.chunk import Chunk, chunks_of, count_replays, run_chunk
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.plan import Plan, Planned

_CHUNKS, _CELLS = 3, 4
"""Most chunks that are sampled, and cells of each."""


@dataclass(frozen=True)
class Estimate:
    """Work that a sweep has to do, and about how long that takes."""

    cells: int
    """Cells of the sweep."""
    runs: int
    """Different ones among them."""
    known: int
    """Runs that the store holds."""
    chunks: int
    """Passes over the traces, at most, for the others."""
    replays: int
    """Replays that the others share, at least."""
    sampled: int
    """Cells that were run to estimate the time."""
    seconds: float
    """Time that the others take, by the sampled ones; cells that share a pass take less."""
    workers: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "missing": self.missing}

    @property
    def missing(self) -> int:
        """Runs that are to be made."""
        return self.runs - self.known


def estimate(plan: Plan, missing: Sequence[Planned], inputs: Inputs, workers: int) -> Estimate:
    """Run a few cells, evenly spaced, and estimate the time of all; nothing is stored.

    Args:
        missing: cells that are not known.
        inputs: opens traces and profiles.
        workers: processes that would run them.
    """
    chunks = chunks_of(missing, workers)
    seconds, sampled = 0.0, 0
    if chunks:
        run_chunk(chunks[0][:1], inputs)  # what is compiled or loaded once is none of it
        for chunk in _spread(chunks):
            outcomes: Sequence[Outcome] = run_chunk(chunk[:_CELLS], inputs)
            seconds += sum(outcome.seconds for outcome in outcomes)
            sampled += len(outcomes)
    runs = len({cell.key for cell in plan.cells})
    return Estimate(
        cells=len(plan.cells),
        runs=runs,
        known=runs - len(missing),
        chunks=len(chunks),
        replays=count_replays(missing),
        sampled=sampled,
        seconds=seconds / max(sampled, 1) * len(missing) / min(workers, max(len(chunks), 1)),
        workers=workers,
    )


def _spread(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return some of the chunks, evenly spaced."""
    count = min(_CHUNKS, len(chunks))
    return [chunks[i * len(chunks) // count] for i in range(count)]
