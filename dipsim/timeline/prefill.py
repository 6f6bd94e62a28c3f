"""Prompts: how long a batch of prefill takes, and when the first token is there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.timeline.closed import is_paper
from dipsim.timeline.steps import Rates
from dipsim.trace import PREFILL, Tokens


@dataclass(frozen=True)
class Prefill:
    """All prefill batches of a run together."""

    tokens: int
    accesses: int
    """Units used; 0 unless prompts go through the caches, as of ``hits``."""
    hits: int
    """Units found in DRAM."""
    seconds: float


class Prompt(NamedTuple):
    """Work of a batch of prefill; float64 of the shape of its tokens."""

    read: Any
    """Seconds of reading flash in order."""
    fixed: float
    """Seconds of the layers' fixed costs."""
    dram: Any
    """Bytes read from DRAM."""
    flops: Any
    """FLOP of weights and attention."""

    def seconds(self, rate: Rates) -> Any:
        """Return its seconds: flash, then the slower of DRAM and compute, and fixed costs."""
        return self.read + self.fixed + np.maximum(self.dram / rate.dram, self.flops / rate.flops)


def prompt_of(
    run: Run,
    tokens: NDArray[np.int64] | int,
    loaded: NDArray[np.float64] | None = None,
    used: NDArray[np.float64] | None = None,
    before: NDArray[np.int64] | int = 0,
) -> Prompt:
    """Return what each batch of prefill takes.

    Compute is 2 FLOP per weight and token, and that of attention, which grows with the square of
    the tokens. What is in DRAM is not read from flash.

    Args:
        tokens: tokens of each batch, int64[batches], or of a single one.
        loaded: bytes of units read from flash, float64[batches]; default: of all units, of none
            where all are in DRAM.
        used: bytes of units used, float64[batches]; default: of all units.
        before: tokens before each batch, whose keys and values it reads.
    """
    budget = run.budget
    # The authors count what is resident once, and what comes from flash once.
    resident = budget.static.total - budget.streamed
    in_use = budget.static.total + (budget.units_bytes if used is None else used)
    missing = 0.0 if budget.fits and not run.authors else budget.units_bytes
    from_flash = (missing if loaded is None else loaded) + budget.streamed
    read = from_flash / run.flash.sequential_bandwidth
    many = np.asarray(tokens, np.float64)
    if run.authors:
        return Prompt(read + 0.0 * many, 0.0, resident, 0.0)
    flops, kv = 0.0 * many, 0.0 * many
    if run.model is not None:
        flops = 2.0 * run.model.active_parameters * many + run.model.attention_flops(many, before)
        kv, from_kv = _kv_before(run, before)
        read = read + from_kv / run.flash.sequential_bandwidth
        if run.beside.tokens is not None:
            flops = flops - run.beside.tokens.flops_saved(many)
    paper = is_paper(run.settings.overlap)
    layers = run.trace.layers if run.model is None else run.model.layers
    fixed = 0.0 if paper else run.backend.per_layer * (layers + 1)
    return Prompt(read + 0.0 * many, fixed, in_use + kv, flops)


def _kv_before(run: Run, before: NDArray[np.int64] | int) -> tuple[Any, Any]:
    """Return the bytes of keys and values before each batch, which it reads from DRAM, and those of
    them that come from flash."""
    assert run.model is not None, "checked by who asks"
    if run.kv is None:
        return run.model.kv_read_bytes(before, run.settings.kv_bits), 0.0
    step = run.kv.plan.step(np.atleast_1d(before))
    moved = step.read.sum(axis=1), step.flash_read.sum(axis=1)
    return moved if np.ndim(before) else (float(moved[0][0]), float(moved[1][0]))


def prefill_seconds(run: Run, rate: Rates, tokens: NDArray[np.int64] | int, *how: Any) -> Any:
    """Return the seconds that each batch takes, of the shape of ``tokens``; see `prompt_of`."""
    return prompt_of(run, tokens, *how).seconds(rate)


def time_prefill(
    run: Run,
    traffic: Traffic,
    rate: Rates,
    first_tokens: Callable[[NDArray[np.int64]], NDArray[np.float64]],
) -> tuple[Prefill | None, float | None]:
    """Return the prefill batches of a run, and its mean seconds to the first token.

    A streamed batch reads every matrix with pruned groups once, whole; a cached one its misses.

    Args:
        first_tokens: from decode rows, int64[n], to the seconds that each takes alone, float64[n].

    Returns:
        None for the first where there is no prompt, for the second where no token follows one.
    """
    tokens = run.tokens
    begins, ends = _batches(tokens)
    if not len(begins):
        return None, None
    seconds = prompts_of(run, traffic).seconds(rate)
    firsts = seconds
    if not run.authors:
        inside = np.minimum(ends, len(tokens) - 1)
        followed = (ends < len(tokens)) & tokens.decode[inside] & ~tokens.begins_sequence()[inside]
        firsts = seconds[followed]
        if len(firsts):
            firsts = firsts + first_tokens(tokens.last_of_step(ends[followed]))
    prefill = tokens.phase == PREFILL
    batches = Prefill(
        tokens=int(prefill.sum()),
        accesses=int(traffic.active[prefill].sum(dtype=np.int64)),
        hits=int(traffic.hits[prefill].sum(dtype=np.int64)),
        seconds=float(sum(seconds.tolist())),
    )
    return batches, float(np.mean(firsts)) if len(firsts) else None


def prompts_of(run: Run, traffic: Traffic) -> Prompt:
    """Return what each prefill batch of a run takes; the run has at least one."""
    begins, ends = _batches(run.tokens)
    loaded = used = None
    if run.sets.prefill == "cache":
        last = ends - 1
        loaded = traffic.moved[last].sum(axis=(1, 2))
        used = (traffic.active[last] * run.unit_bytes).sum(axis=(1, 2))
    return prompt_of(run, ends - begins, loaded, used, run.tokens.position[begins])


def _batches(tokens: Tokens) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where prefill batches begin and end: maximal runs of prefill rows of one sequence.

    Returns:
        int64[batches] first rows, and int64[batches] rows behind the last.
    """
    prefill, new = tokens.phase == PREFILL, tokens.begins_sequence()
    follows = np.append(False, prefill[:-1] & prefill[1:] & ~new[1:])
    begins = np.flatnonzero(prefill & ~follows)
    ends = np.flatnonzero(prefill & ~np.append(follows[1:], False)) + 1
    return begins, ends
