"""What happened when in the first tokens of a run: who was busy, and who drew on DRAM."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dipsim.replay.traffic import Traffic
from dipsim.simulate import Job
from dipsim.timeline.events import Draw, Span
from dipsim.timeline.timing import clock_and_chain


@dataclass(frozen=True)
class Excerpt:
    """The first measured tokens of a run, as discrete events whatever its engine; seconds from the
    beginning of the first one."""

    rows: NDArray[np.int64]
    """Of the trace, of each token; and of the one behind them, if there is one."""
    begins: NDArray[np.float64]
    """[tokens + 1] when each of them begins, and when the last one is done."""
    spans: list[Span]
    """``token`` counts from 0; reads ahead for the token behind the last one are among them."""
    draws: list[Draw]


def excerpt(job: Job, traffic: Traffic, tokens: int) -> Excerpt:
    """Let the first measured tokens of a replay happen, as many as there are up to ``tokens``."""
    settings = job.settings
    clock, chain, _ = clock_and_chain(
        job.work,
        traffic,
        job.device,
        job.backend,
        job.flash,
        settings.overlap,
        settings.engine,
        settings.thermal == "sustained",
    )
    a = job.device.backend(job.backend)[1].overlap_factor
    rows = np.flatnonzero(traffic.measured)[: tokens + 1]  # one more: it is read ahead for
    found = clock.timeline(chain(rows), len(rows), a, len(rows))
    shown = min(tokens, len(rows))
    begins = np.concatenate([[0.0], np.cumsum(found.times.latency[:shown])])
    end = float(begins[-1])
    return Excerpt(
        rows=rows,
        begins=begins,
        spans=[at for at in found.spans if at.token < shown or (at.early and at.start < end)],
        draws=[at for at in found.draws if at.start < end],
    )


def stretched(shown: Excerpt, latency: NDArray[np.float64]) -> float:
    """Times as long as by the engine of the run (``latency``, seconds of the measured tokens) the
    tokens take here: 1 unless the closed form left out what gets into each other's way."""
    told = float(latency[: len(shown.begins) - 1].sum())
    return float(shown.begins[-1]) / told if told else 1.0
