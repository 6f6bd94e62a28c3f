"""The work of a token's steps in the terms of discrete events, and what it takes undisturbed.

Arrays are [tokens, steps] unless said otherwise.
"""

from typing import Generic, NamedTuple, TypeVar

import numpy as np

from dipsim.settings import Overlap
from dipsim.timeline.closed import (
    Chain,
    Machine,
    Seconds,
    Step,
    hidden_seconds,
    is_paper,
    used_weights,
)

Numbers = TypeVar("Numbers", float, Seconds)


class Work(NamedTuple, Generic[Numbers]):
    """One step of one token, or arrays of many; seconds at the full speed of a cold device, and the
    bytes per second that are moved at that speed."""

    flash: Numbers
    moved: Numbers
    """Bytes that the flash moves."""
    beside: Numbers
    """Bytes of them that come while ``hidden`` runs, if there is time for so many."""
    hidden: Numbers
    """Seconds of ``use`` that run while the flash reads; ``hidden_hot``, on a hot device."""
    hidden_hot: Numbers
    use: Numbers
    """Seconds of using weights and KV, at ``rate``; ``hot``, their speed when hot."""
    rate: Numbers
    hot: Numbers
    kv_share: Numbers
    arithmetic: Numbers
    """Share of the use of weights that arithmetic takes beyond bringing them."""
    sync: Numbers
    copy: Numbers
    copy_rate: Numbers
    ahead: Numbers
    ahead_moved: Numbers
    tail: Numbers
    tail_moved: Numbers


def work_of(
    chain: Chain, tokens: slice, overlap: Overlap, a: float, machine: Machine
) -> Work[Seconds]:
    """Return the work of some tokens; ``a`` is the overlap factor, 0 to 1."""
    step = chain.by_token(tokens)
    paper = is_paper(overlap)
    weights, kv = used_weights(step, overlap), step.kv
    use = weights + kv
    rate = ratio(machine.weights * (weights - step.arithmetic) + machine.kv * kv, use)
    hot, hidden = np.ones_like(use), hidden_seconds(_slowed(step, machine, rate), overlap, a)
    hidden_hot = hidden
    if machine.heat is not None:
        slower = machine.heat.compute if machine.throttled else 1.0
        hot = np.where(use > 0, ratio(use, weights / slower + kv), 1.0)
        hot_step = step._replace(
            flash=step.flash / machine.heat.flash, hit=step.hit / slower, miss=step.miss / slower
        )
        hidden_hot = hidden_seconds(_slowed(hot_step, machine, rate * hot), overlap, a) * hot
    copy = np.zeros_like(use) if paper else step.management
    return Work(
        flash=step.flash,
        moved=np.where(step.flash > 0, step.moved, 0.0),
        beside=a * step.moved,
        hidden=hidden,
        hidden_hot=hidden_hot,
        use=use,
        rate=rate,
        hot=hot,
        kv_share=ratio(kv, use),
        arithmetic=ratio(step.arithmetic, weights),
        sync=np.zeros_like(use) if paper else step.sync,
        copy=copy,
        copy_rate=ratio(2 * step.copied, copy),  # read once, written once
        ahead=step.ahead,
        ahead_moved=step.ahead_moved,
        tail=step.tail,
        tail_moved=step.tail_moved,
    )


def works_of(work: Work[Seconds], token: int) -> list[Work[float]]:
    """Return the work of one token, step by step in plain numbers."""
    plain = (column[token].tolist() for column in work)
    return [Work(*row) for row in zip(*plain, strict=True)]


def ratio(amount: Seconds, of: Seconds) -> Seconds:
    """Return one amount divided by another, 0 where the other is none."""
    divided: Seconds = np.divide(amount, of, out=np.zeros_like(amount), where=of > 0)
    return divided


def _slowed(step: Step, machine: Machine, rate: Seconds) -> Step:
    """Return the step with the flash as slow as it gets beside a use at ``rate`` bytes/s.

    Without it, a faster flash would have less time to hide its reads in.
    """
    left = np.maximum(machine.dram - machine.background - rate, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        beside = np.where((step.flash > 0) & (step.moved > 0), step.moved / left, 0.0)
    return step._replace(flash=np.maximum(step.flash, beside))
