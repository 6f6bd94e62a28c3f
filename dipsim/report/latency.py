"""A picture of how long tokens take, and why."""

from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dipsim.report.plots import COLOURS, picture
from dipsim.result import Result
from dipsim.timeline.closed import RESOURCES

MOST_BARS = 200
"""More tokens share bars."""


def binned(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """[bars, ...] means of ``size`` rows each; the last bar may have fewer."""
    starts = np.arange(0, len(values), size)
    counts = np.diff(np.append(starts, len(values)))
    sums = np.add.reduceat(values, starts, axis=0)
    means: NDArray[np.float64] = (sums.T / counts).T
    return means


def latency(result: Result, title: str, path: Path) -> None:
    """How long each measured token takes, stacked by what the token waits for.

    Of more than `MOST_BARS` tokens, bars are means of several, and a line marks the slowest one.

    Raises:
        DipsimError: the file cannot be written.
    """
    longest = float(result.timing.times.latency.max())
    unit, per_second = ("s", 1.0) if longest >= 10 else ("ms", 1e3)
    exposed = per_second * result.timing.times.exposed
    tokens, size = len(exposed), ceil(len(exposed) / MOST_BARS)
    edges = np.append(np.arange(0, tokens, size), tokens)
    bars, total = binned(exposed, size), exposed.sum()
    with picture(path, 9, 4) as figure:
        axes = figure.subplots()
        below = np.zeros(len(bars))
        for i, name in enumerate(RESOURCES):
            if not bars[:, i].any():
                continue
            label = f"{name} {exposed[:, i].sum() / total:.1%}"
            top = below + bars[:, i]
            axes.stairs(top, edges, baseline=below, fill=True, color=COLOURS[i], label=label)
            below = top
        if size > 1:
            slowest = np.maximum.reduceat(per_second * result.timing.times.latency, edges[:-1])
            axes.stairs(slowest, edges, baseline=None, color="k", linewidth=0.8, label="slowest")
        across = "measured token" if size == 1 else f"measured token (bars: means of {size})"
        axes.set(xlabel=across, ylabel=f"latency ({unit})", xlim=(0, tokens))
        axes.set_ylim(0, 1.05 * per_second * longest or 1)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3, axis="y")
        handles, labels = axes.get_legend_handles_labels()
        if handles:  # in the order in which they are stacked
            style = {"fontsize": 8, "title_fontsize": 8, "loc": "outside right upper"}
            figure.legend(handles[::-1], labels[::-1], title="exposed time", **style)
        figure.suptitle(title)
