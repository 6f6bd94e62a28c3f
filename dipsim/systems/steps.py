"""Decode steps of several tokens: of sequences side by side, or of drafts that are verified."""

import numpy as np
from numpy.typing import NDArray

from dipsim.batch import parse_speculation
from dipsim.errors import TraceError, brief
from dipsim.settings import Settings
from dipsim.trace import Outline, Tokens, Trace
from dipsim.trace.steps import DecodeSteps
from dipsim.trace.trace import MAX_TOKENS


def plan_steps(trace: Outline, settings: Settings) -> DecodeSteps | None:
    """Return the decode steps that the settings ask for; None where each takes one token.

    * ``batch`` B: B successive tokens of a sequence stand for one token each of B sequences.
    * ``speculate``: a step verifies as many tokens as are drafted, and one more; the next one
      begins behind those that it gives. Where a draft is rejected the trace has the right token,
      which stands for it, as those behind it do.

    The last step of a sequence has the tokens that are left.

    Raises:
        TraceError: no sequence decodes so many tokens, or the steps take more rows than a trace
            may have.
        DipsimError: as `parse_speculation`.
    """
    drafts = None if settings.speculate is None else parse_speculation(settings.speculate)
    width = (settings.batch or 1) if drafts is None else drafts.draft + 1
    if width == 1:
        return None
    option = f"--batch {width}" if drafts is None else f"--speculate {brief(settings.speculate)}"
    tokens = trace.rows
    starts, stops = _decoded(tokens)
    longest = int((stops - starts).max(initial=0))
    if width > longest:
        where = trace.name if isinstance(trace, Trace) else "a run without a trace"
        raise TraceError(
            f"{option}: a step takes {width} tokens, and {where} decodes at most {longest} in a "
            "row; give smaller steps, or a longer trace"
        )
    draws = None if drafts is None else np.random.default_rng(drafts.seed)
    begins, given = ~tokens.decode, np.zeros(len(tokens), np.int64)
    for start, stop in zip(starts, stops, strict=True):
        many = np.full(stop - start, width)  # more than there will be steps
        if drafts is not None and draws is not None:
            many = drafts.given(stop - start, draws)
        rows = start + np.cumsum(many) - many
        inside = rows < stop
        begins[rows[inside]], given[rows[inside]] = True, many[inside]
    left = np.ones(len(tokens), np.int64)  # tokens up to the end of the sequence's
    left[tokens.decode] = np.repeat(stops, stops - starts) - np.flatnonzero(tokens.decode)
    rows = np.flatnonzero(begins)
    sizes = np.minimum(left[rows], width)
    if sizes.sum() > MAX_TOKENS:
        raise TraceError(
            f"{option}: the steps take {sizes.sum()} rows of {trace.name}, at most {MAX_TOKENS} "
            "are replayed: draft fewer, or give a part with --tokens"
        )
    return DecodeSteps.of(
        tokens,
        rows,
        sizes,
        np.minimum(given[rows], sizes),
        width=width,
        side_by_side=drafts is None,
    )


def _decoded(tokens: Tokens) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first rows of runs of decode tokens of one sequence, and the rows behind them."""
    decode, new = tokens.decode, tokens.begins_sequence()
    follows = np.append(False, decode[:-1] & decode[1:] & ~new[1:])
    starts = np.flatnonzero(decode & ~follows)
    stops = np.flatnonzero(decode & ~np.append(follows[1:], False)) + 1
    return starts, stops
