"""Prompts: how long a batch of prefill takes, and when the first token is there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.timeline.steps import Rates
from dipsim.trace import DECODE, PREFILL, Tokens


@dataclass(frozen=True)
class Prefill:
    """Prefill batches: tokens in all, accesses and hits (cached prefill only), seconds in all."""

    tokens: int
    accesses: int
    hits: int
    seconds: float


def prefill_seconds(
    run: Run, rate: Rates, tokens: int, loaded: float | None = None, used: float | None = None
) -> float:
    """Return how long one batch takes: flash in order, then the slower of DRAM and compute.

    Args:
        tokens: of the batch.
        loaded, used: bytes of units read from flash, and used; all of them unless given.
    """
    budget = run.budget
    loaded = budget.units_bytes if loaded is None else loaded
    used = budget.units_bytes if used is None else used
    # The authors count what is resident once, and what comes from flash once.
    resident = budget.static.total - budget.streamed
    weights = resident if run.authors else budget.static.total + used
    parameters = 0 if run.model is None else run.model.active_parameters
    flops = 0 if run.authors else 2 * parameters * tokens
    read = (loaded + budget.streamed) / run.flash.sequential_bandwidth
    return read + max(weights / rate.dram, flops / rate.flops)


def time_prefill(
    run: Run, traffic: Traffic, rate: Rates, first_token: Callable[[int], float]
) -> tuple[Prefill | None, float | None]:
    """Return the prefill batches of a run, and its mean seconds to the first token.

    A streamed batch reads every matrix with pruned groups once, whole; a cached one its misses.

    Args:
        first_token: how long the decode token of a row takes, seconds.

    Returns:
        None for the first where there is no prompt, for the second where no token follows one.
    """
    tokens = run.tokens
    prefill = tokens.phase == PREFILL
    if not prefill.any():
        return None, None
    cached = run.sets.prefill == "cache"
    new = tokens.begins_sequence()
    seconds, firsts = [], []
    for begin, end in _batches(tokens):
        loaded = used = run.budget.units_bytes
        if cached:
            loaded = float(traffic.moved[end - 1].sum())
            used = float((traffic.active[end - 1] * run.unit_bytes).sum())
        seconds.append(prefill_seconds(run, rate, end - begin, loaded, used))
        if run.authors:
            firsts.append(seconds[-1])
        elif end < len(tokens) and tokens.phase[end] == DECODE and not new[end]:
            firsts.append(seconds[-1] + first_token(end))
    batches = Prefill(
        tokens=int(prefill.sum()),
        accesses=int(traffic.active[prefill].sum(dtype=np.int64)),
        hits=int(traffic.hits[prefill].sum(dtype=np.int64)),
        seconds=float(sum(seconds)),
    )
    return batches, float(np.mean(firsts)) if firsts else None


def _batches(tokens: Tokens) -> Iterator[tuple[int, int]]:
    """Yield the rows (first, end) of each maximal run of prefill rows of one sequence."""
    prefill, new = tokens.phase == PREFILL, tokens.begins_sequence()
    first_row: NDArray[np.bool_] = np.arange(len(tokens)) == 0
    for begin in np.flatnonzero(prefill & (new | ~np.roll(prefill, 1) | first_row)).tolist():
        end = begin + 1
        while end < len(tokens) and prefill[end] and not new[end]:
            end += 1
        yield begin, end
