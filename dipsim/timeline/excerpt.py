"""The first tokens of a run as they happened: who was busy when, and who drew on DRAM."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.timeline.dram import Draw
from dipsim.timeline.engine import clock_for
from dipsim.timeline.events import Span
from dipsim.timeline.steps import rates, steps


@dataclass(frozen=True)
class Excerpt:
    """The first measured tokens of a run, as discrete events whatever its engine; seconds from the
    beginning of the first one."""

    rows: NDArray[np.int64]
    """Row in the trace of each token, of a decode step of several its first, and of the one behind
    them, if there is one."""
    begins: NDArray[np.float64]
    """[tokens + 1] when each token begins, and when the last one is done."""
    spans: list[Span]
    """``token`` counts from 0; reads ahead for the token behind the last one are among them."""
    draws: list[Draw]


def excerpt(run: Run, traffic: Traffic, tokens: int) -> Excerpt:
    """Let the first measured tokens of a replay happen, as many as there are up to ``tokens``."""
    rate = rates(run)
    clock = clock_for(run, traffic, rate)
    rows = np.flatnonzero(traffic.measured)[: tokens + 1]  # one more: it is read ahead for
    chain = steps(run, traffic, rows, rate)
    timeline = clock.timeline(chain, len(rows), run.backend.overlap_factor, len(rows))
    shown = min(tokens, len(rows))
    begins = np.concatenate([[0.0], np.cumsum(timeline.times.latency[:shown])])
    end = float(begins[-1])
    return Excerpt(
        rows=run.sets.source[run.tokens.begins_decode_step()[rows]],
        begins=begins,
        spans=[
            span
            for span in timeline.spans
            if span.token < shown or (span.early and span.start < end)
        ],
        draws=[draw for draw in timeline.draws if draw.start < end],
    )


def stretch(shown: Excerpt, latency: NDArray[np.float64]) -> float:
    """Return how many times as long as by the engine of the run the tokens take here.

    It is 1 unless the closed form left out what gets in each other's way.

    Args:
        latency: float64[measured], seconds by that engine.
    """
    timed = float(latency[: len(shown.begins) - 1].sum())
    return float(shown.begins[-1]) / timed if timed else 1.0
