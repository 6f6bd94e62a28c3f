"""The first token behind a prompt that stands before the tokens of a trace (``--prompt``)."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.replay.active_sets import active_sets
from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.timeline.prefill import prefill_seconds
from dipsim.timeline.steps import rates
from dipsim.timeline.timing import time_traffic
from dipsim.trace import PREFILL


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


@dataclass(frozen=True)
class FirstToken:
    """Time from nothing to the first token."""

    prompt: int
    """Tokens before it."""
    prefill: float
    """Seconds of the prompt, one batch that streams every weight once, of experts those used."""
    token: float
    """Seconds of the token: the mean of the measured tokens, if each read the prompt's KV."""
    cold: float
    """Seconds to it with nothing in DRAM before: cold start, prompt, the first decode token."""
    computed: float
    """Share of the prompt's (token, layer) that is computed."""
    experts: Routed | None
    """None without experts."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        experts = self.experts
        return {
            "prompt": self.prompt,
            "prefill_ms": 1e3 * self.prefill,
            "token_ms": 1e3 * self.token,
            "ttft_ms": 1e3 * (self.prefill + self.token),
            "cold_ttft_ms": 1e3 * self.cold,
            "computed": self.computed,
            "experts_used": None if experts is None else experts.share,
            "prompt_rows": None if experts is None else experts.prompt_rows,
            "decode_rows": None if experts is None else experts.decode_rows,
        }


def first_token(run: Run, traffic: Traffic) -> FirstToken | None:
    """Return the time to the first token behind ``--prompt``; None where a trace has none beside.

    Of experts, the prompt streams and uses those that the trace sends so many tokens to.
    """
    prompt = run.settings.prompt
    if prompt is None or run.without_trace:
        return None
    run = replace(run, kv_read="context")
    experts = routed(run, prompt)
    used = None if experts is None else np.array(experts.used)
    loaded = None if run.budget.fits else used
    prefill = float(prefill_seconds(run, rates(run), prompt, loaded, used))
    first = np.zeros_like(traffic.measured)
    actions, _ = run.sets.rows
    first[np.flatnonzero(actions == kernels.DECODE)[0]] = True
    warm, cold = time_traffic(run, traffic), time_traffic(run, replace(traffic, measured=first))
    return FirstToken(
        prompt=prompt,
        prefill=prefill,
        token=float(warm.times.latency.mean()),
        cold=(cold.cold_start or 0.0) + prefill + float(cold.times.latency.mean()),
        computed=_computed(run, prompt),
        experts=experts,
    )


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
    counts = run.method.units_in(trace.layers)
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
    share = float(used[:, of_experts].sum()) / every if every else 1.0
    from_prompts = int(prefill[rows].sum())
    return Routed(float(used.sum()), share, from_prompts, len(rows) - from_prompts)


def _computed(run: Run, prompt: int) -> float:
    pruned = run.beside.tokens
    if pruned is None or run.model is None:
        return 1.0
    counts = pruned.pruning.prompt_tokens(prompt, run.model.layers)
    return float(counts.sum()) / (prompt * run.model.layers)
