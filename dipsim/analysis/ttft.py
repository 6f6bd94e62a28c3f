"""Time to the first token against the length of the prompt: the runs of study ttft."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dipsim import kernels
from dipsim.errors import DipsimError, ModelError
from dipsim.result import Result
from dipsim.sweep.point import Figures, Place, Point, figures_of
from dipsim.sweep.study import Ask
from dipsim.timeline.prefill import prefill_seconds
from dipsim.timeline.steps import rates
from dipsim.timeline.timing import time_traffic

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


def by_prompt(result: Result) -> Iterator[tuple[Place, Figures]]:
    """Yield one cell: prefill as one streamed batch, and the first decode token behind it."""
    run = replace(result.run, kv_read="context")
    prefill = float(prefill_seconds(run, rates(run), run.context))
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
            "prefill_ms": 1e3 * prefill,
            "first_token_ms": token,
            "ttft_ms": 1e3 * prefill + token,
            "cold_start_ms": 1e3 * start,
            "cold_ttft_ms": 1e3 * (start + prefill) + cold.latency_ms["mean"],
        },
    )
