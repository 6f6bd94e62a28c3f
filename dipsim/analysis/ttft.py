"""Time to the first token against the length of the prompt: the runs of study ttft."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import DipsimError, ModelError
from dipsim.replay.active_sets import active_sets
from dipsim.result import Result
from dipsim.run import Run
from dipsim.sweep.point import Figures, Place, Point, figures_of
from dipsim.sweep.study import Ask
from dipsim.timeline.prefill import prefill_seconds
from dipsim.timeline.steps import rates
from dipsim.timeline.timing import time_traffic
from dipsim.trace import PREFILL

SHORTEST = 16
USUAL = 2048
"""The longest prompt of models that do not say their context."""


def points(ask: Ask) -> Iterator[Point]:
    """Yield prompts of 16 tokens and their doubles up to ``--context``, or the model's; the KV of
    each takes its DRAM from the caches.

    Raises:
        DipsimError: no model, no prompt, or reads through the page cache.
    """
    if ask.options.get("io", "direct") != "direct":
        raise DipsimError(
            f"--io {ask.options['io']}: a prompt streams its weights past the page cache, so study "
            "ttft has direct reads only; drop it"
        )
    (method,) = ask.methods
    model = ask.model_of(method, context=None)
    if model is None:
        raise ModelError(f"{ask.trace.name} names no model to prefill a prompt: pass --model")
    longest = ask.options.get("context", model.context or USUAL)
    if longest < 1:
        raise DipsimError(f"--context {longest}: the longest prompt has at least one token")
    lengths = [SHORTEST << i for i in range(64) if SHORTEST << i < longest]
    for prompt in (*lengths, longest):
        yield ask.point({"prompt": prompt}, method, context=prompt)


class Routed(NamedTuple):
    """Experts that a prompt uses, by as many rows of the trace as it has tokens."""

    used: float
    """Bytes of the units of all groups."""
    share: float
    """Part of the bytes of all experts."""
    prompt_rows: int
    decode_rows: int
    """Rows that stand for the tokens: those of prompts, then others where they do not suffice. The
    trace may have fewer than the prompt: then more experts may be used."""


def routed(run: Run, prompt: int) -> Routed | None:
    """Return what a prompt of so many tokens uses; None without experts.

    A cache-aware method is taken without its preference for resident experts.
    """
    groups, trace = run.method.groups, run.trace
    of_experts = np.array([group.of_experts for group in groups])
    if not of_experts.any():
        return None
    prefill = trace.phase == PREFILL
    rows = np.concatenate([np.flatnonzero(prefill), np.flatnonzero(~prefill)])[:prompt]
    stands = np.zeros(len(prefill), np.bool_)
    stands[rows] = True
    counts = np.tile([group.units for group in groups], (trace.layers, 1))
    union: dict[int, NDArray[np.uint64]] = {}
    for start, stop, sets in active_sets(trace, run.method):
        for i in np.flatnonzero(of_experts).tolist():
            block = np.bitwise_or.reduce(sets[i][stands[start:stop]], axis=0)
            union[i] = union[i] | block if i in union else block
    sizes = run.unit_bytes
    every = float((counts * sizes)[:, of_experts].sum())
    for i, members in union.items():
        counts[:, i] = np.bitwise_count(members).sum(axis=1)
    used = counts * sizes
    share = float(used[:, of_experts].sum()) / every
    from_prompts = int(prefill[rows].sum())
    return Routed(float(used.sum()), share, from_prompts, len(rows) - from_prompts)


def by_prompt(result: Result) -> Iterator[tuple[Place, Figures]]:
    """Yield one cell: prefill as one streamed batch, and the first decode token behind it.

    Of experts, the batch streams and uses those that the trace sends so many tokens to.
    """
    run = replace(result.run, kv_read="context")
    experts = routed(run, run.context)
    used = None if experts is None else np.array(experts.used)
    loaded = None if run.budget.fits else used
    prefill = float(prefill_seconds(run, rates(run), run.context, loaded, used))
    first = np.zeros_like(result.traffic.measured)
    actions, _ = run.sets.rows
    first[np.flatnonzero(actions == kernels.DECODE)[0]] = True
    warm, cold = (
        Result(run, traffic, time_traffic(run, traffic))
        for traffic in (result.traffic, replace(result.traffic, measured=first))
    )
    token, start = warm.latency_ms["mean"], cold.cold_start or 0.0
    yield (
        {},
        {
            **figures_of(result),
            **({} if experts is None else _figures(experts)),
            "prefill_ms": 1e3 * prefill,
            "first_token_ms": token,
            "ttft_ms": 1e3 * prefill + token,
            "cold_start_ms": 1e3 * start,
            "cold_ttft_ms": 1e3 * (start + prefill) + cold.latency_ms["mean"],
        },
    )


def _figures(experts: Routed) -> dict[str, float]:
    """Return what a cell says of the experts of its prompt."""
    return {
        "experts_used": experts.share,
        "prompt_rows": experts.prompt_rows,
        "decode_rows": experts.decode_rows,
    }
