"""Time to the first token against the length of the prompt: the runs of study ttft."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dipsim import kernels
from dipsim.errors import DipsimError, ModelError
from dipsim.replay.active_sets import rows_of
from dipsim.result import Result
from dipsim.simulate import Job, prepare, result_of
from dipsim.sweep.many import Ask, Figures, Point, whole
from dipsim.timeline.steps import rates
from dipsim.timeline.timing import prefill_seconds

SHORTEST = 16
USUAL = 2048
"""The longest prompt of models that do not say their context."""


def points(ask: Ask) -> Iterator[Point]:
    """Prompts of 16 tokens and their doubles up to ``--context``, or the model's; the KV of each
    takes its DRAM from the caches.

    Raises:
        DipsimError: no model, no prompt, or reads through the page cache.
    """
    if ask.options.get("io", "direct") != "direct":
        raise DipsimError(
            f"--io {ask.options['io']}: a prompt streams its weights past the page cache, so study "
            "ttft has direct reads only; drop it"
        )
    (method,) = ask.methods
    usual = ask.run(method, dram=None, cache=None, cache_fraction=1.0, context=None)
    model = prepare(ask.trace, ask.device, model=ask.model, **usual).work.model
    if model is None:
        raise ModelError(f"{ask.trace.name} names no model to prefill a prompt: pass --model")
    longest = ask.options.get("context", model.context or USUAL)
    if longest < 1:
        raise DipsimError(f"--context {longest}: the longest prompt has at least one token")
    lengths = [SHORTEST << i for i in range(64) if SHORTEST << i < longest]
    for prompt in (*lengths, longest):
        yield Point({"prompt": prompt}, ask.run(method, context=prompt))


def by_prompt(job: Job, result: Result) -> Iterator[tuple[Mapping[str, Any], Figures]]:
    """One cell: prefill as one streamed batch, and the first decode token behind it."""
    work, prompt = replace(job.work, kv="context"), job.work.context
    _, backend = job.device.backend(job.backend)
    rate = rates(job.device, job.backend, backend, work.model, job.settings.overlap)
    prefill = prefill_seconds(work, job.flash, rate, prompt)
    behind = replace(job, work=work)
    warm = result_of(behind, result.traffic, result.plain_kept)
    first = np.zeros_like(result.traffic.measured)
    actions, _ = rows_of(work.trace, job.plan.prefill, job.plan.reset)
    first[np.flatnonzero(actions == kernels.DECODE)[0]] = True
    cold = result_of(behind, replace(result.traffic, measured=first), result.plain_kept)
    token, start = warm.latency_ms["mean"], cold.cold_start or 0.0
    ((_, figures),) = whole(job, result)
    yield (
        {},
        {
            **figures,
            "prefill_ms": 1e3 * prefill,
            "first_token_ms": token,
            "ttft_ms": 1e3 * prefill + token,
            "cold_start_ms": 1e3 * start,
            "cold_ttft_ms": 1e3 * (start + prefill) + cold.latency_ms["mean"],
        },
    )
