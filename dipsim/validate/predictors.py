"""Trivial predictors, which dipsim must beat: bytes over the peak or a share of it, a line, a mean.

They know of a case what dipsim knows: its bytes, the device's peak rates, and what cases of other
models on the same backend took.
"""

import math
from collections.abc import Sequence
from statistics import geometric_mean
from typing import NamedTuple

import numpy as np

from dipsim.timeline.steps import kv_bytes
from dipsim.timeline.timing import static_flash_bytes
from dipsim.trace import PREFILL
from dipsim.validate.runs import CaseRun

PREDICTORS = ("peak", "share", "line", "constant")


class Bytes(NamedTuple):
    """Bytes that a case moves, and the seconds its device needs for them at least."""

    size: float
    """Bytes from DRAM and flash, per token."""
    seconds: float
    """Bytes over the peak of DRAM, and of flash in order."""


def bytes_of(ready: CaseRun) -> Bytes:
    """Return the bytes of a case per token (of a prompt: per token of it)."""
    run, traffic = ready.run, ready.traffic
    rows = traffic.measured
    tokens = int(rows.sum())
    used = float((traffic.active[rows].sum(axis=0) * run.unit_bytes).sum()) / tokens
    dram = float(kv_bytes(run, np.flatnonzero(rows)).mean()) + run.budget.static.total + used
    flash = float(traffic.all_moved[rows].sum()) / tokens + static_flash_bytes(run, traffic)
    if ready.case.kind == "prefill":
        dram /= int((run.tokens.phase == PREFILL).sum())
        flash = 0.0
    peak = run.device.dram.bandwidth
    return Bytes(dram + flash, dram / peak + flash / run.flash.sequential_bandwidth)


def trivial(own: Bytes, peers: Sequence[tuple[Bytes, float]]) -> dict[str, float]:
    """Return the seconds that each predictor gives.

    Args:
        own: bytes of the case.
        peers: bytes of cases of other models, and the seconds they took; all predictors but
            ``peak`` need some.
    """
    seconds = {"peak": own.seconds}
    if peers:
        took = np.array([time for _, time in peers])
        sizes = np.array([each.size for each, _ in peers])
        peak = np.array([each.seconds for each, _ in peers])
        seconds["share"] = own.seconds * geometric_mean((took / peak).tolist())
        seconds["constant"] = geometric_mean(took.tolist())
        fitted = _line(sizes, took, own.size)
        if fitted is not None:
            seconds["line"] = fitted
    return seconds


def _line(sizes: np.ndarray, took: np.ndarray, size: float) -> float | None:
    """Return the value at ``size`` of the line with the least squared relative errors; None where
    it has no slope or gives no time."""
    if len(sizes) < 2 or np.ptp(sizes) == 0:
        return None
    terms = np.stack([np.ones_like(sizes), sizes / sizes.max()], axis=1) / took[:, None]
    start, slope = np.linalg.lstsq(terms, np.ones_like(took), rcond=None)[0]
    value = float(start + slope * size / sizes.max())
    return value if value > 0 and math.isfinite(value) else None
