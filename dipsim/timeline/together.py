"""Decode steps of several tokens: the keys and values they move, and what their arithmetic takes
beyond bringing the weights, which all of their tokens share."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dipsim.batch import Speculation, parse_speculation, tokens_per_step
from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.timeline.closed import Seconds, Step

if TYPE_CHECKING:
    from dipsim.kv.plan import KvStep

Rows = NDArray[np.int64]
"""int64[n] rows that are replayed: of decode steps, the last of each."""


def tokens_of(run: Run, rows: Rows) -> NDArray[np.int64]:
    """Return the tokens that each decode step takes, int64[rows]."""
    return np.ones(len(rows), np.int64) if run.steps is None else run.steps.sizes(rows)


def kv_readers(run: Run, rows: Rows) -> tuple[Rows, Rows]:
    """Return the rows whose keys and values decode steps read, and where those of each begin.

    Tokens side by side read those of their sequences. Drafts that are verified read those before
    the first of them, once for all.
    """
    if run.steps is None:
        return rows, np.arange(len(rows))
    if run.steps.side_by_side:
        return run.steps.taken(rows)
    return run.tokens.begins_decode_step()[rows], np.arange(len(rows))


def kv_of_steps(run: Run, rows: Rows, starts: Rows, read: "KvStep") -> "KvStep":
    """Return what decode steps move of keys and values, of what each of `kv_readers` moves.

    All tokens of a step write theirs to DRAM; only of those that the step gives they may come to
    lie in flash.
    """
    step = type(read)(*(np.add.reduceat(field, starts, axis=0) for field in read))
    if run.steps is None or run.steps.side_by_side:
        return step
    written = tokens_of(run, rows)[:, None] * step.written
    return step._replace(
        written=written, flash_written=run.given(rows)[:, None] * step.flash_written
    )


def weight_flops(run: Run, used: NDArray[Any]) -> NDArray[np.float64]:
    """Return the FLOP of using so many bytes of weights, counted for each token that uses them."""
    flops: NDArray[np.float64] = 2 * used / run.bytes_per_weight
    return flops


def units_used(run: Run, own: NDArray[np.int32], rows: Rows) -> NDArray[np.int64]:
    """Return the units that all tokens of decode steps use, each counted for itself.

    Args:
        own: int32[tokens, ...], units that each token uses.

    Returns:
        int64[rows, ...].
    """
    total = np.concatenate([np.zeros_like(own[:1]), np.cumsum(own, axis=0, dtype=np.int64)])
    used: NDArray[np.int64] = total[rows + 1] - total[run.tokens.begins_decode_step()[rows]]
    return used


def kv_flops(run: Run, rows: Rows, read: Seconds, layer: int) -> Seconds:
    """Return the FLOP of attention in decode steps that read so many bytes of keys and values in a
    layer of the trace.

    An element meets every query of its head, with 2 FLOP each: those of one token where sequences
    stand side by side, else those of all tokens of the step.
    """
    model, steps = run.model, run.steps
    if model is None or steps is None:
        return np.zeros_like(read)
    element = run.settings.kv_bits / 8
    if run.kv is not None:
        width = model.kv_heads * model.head_dim
        element = run.kv.format.position_bytes(width) / (2 * width)
    queries = 1 if steps.side_by_side else tokens_of(run, rows)
    return float(model.decode_flops[layer]) * queries * read / element


def step_figures(run: Run, traffic: Traffic) -> dict[str, Any] | None:
    """Return decode steps of several tokens in figures; None where every token is a step of its
    own.

    ``union_share`` of the bytes of all units is what a step needs, ``token_share`` what one of its
    tokens does.
    """
    if run.steps is None or traffic.own is None:
        return None
    text, rows = run.settings.speculate, traffic.measured
    drafts = None if text is None else parse_speculation(text)
    tokens, steps = run.steps.all_tokens(rows), int(rows.sum())
    figures: dict[str, Any] = {
        "batch": None if drafts is not None else run.settings.batch,
        **dict.fromkeys(Speculation._fields),
        "tokens_per_step": float(run.steps.width),
    }
    if drafts is not None:
        figures |= drafts._asdict()
        figures["tokens_per_step"] = tokens_per_step(drafts.draft, drafts.accept)
    every = run.budget.units_bytes
    return {
        **figures,
        "steps": steps,
        "tokens_per_step_drawn": run.tokens_per_step(rows),
        "union_share": run.unit_bytes_of(traffic.active, rows) / steps / every,
        "token_share": run.unit_bytes_of(traffic.own, tokens) / int(tokens.sum()) / every,
        "draft_ms": run.draft_seconds * 1e3,
    }


def with_arithmetic(step: Step, seconds: Seconds) -> Step:
    """Return a step in which arithmetic takes so many seconds, if bringing takes less.

    It runs while weights, keys and values are brought, so only what is beyond counts: in the use of
    resident weights and of loaded ones by their shares.
    """
    brought = step.hit + step.miss
    beyond = np.maximum(seconds - brought - step.kv, 0.0)
    loaded = np.divide(step.miss, brought, out=np.zeros_like(brought), where=brought > 0)
    return step._replace(
        hit=step.hit + beyond * (1 - loaded), miss=step.miss + beyond * loaded, arithmetic=beyond
    )
