"""Loss of eviction and of retrieval, by the queries, keys and values that a trace holds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.kv.attention import Losses
from dipsim.kv.blocks import replay_blocks
from dipsim.kv.plan import KvPlan
from dipsim.kv.replay import replay
from dipsim.kv.retrieval_plan import RetrievalPlan
from dipsim.model import Model
from dipsim.systems.kv import KvCache
from dipsim.trace import Trace
from dipsim.trace.vectors import ATTENTION_VECTORS
from dipsim.units import BYTES

Rows = NDArray[np.float32]
_MOST_BYTES = 2**31
"""Bytes of the vectors of one sequence that are read at once."""


class KvQuality(NamedTuple):
    """Proxies of what is lost; means over layers, of the tokens behind the prompts.

    They are layer-closed: what is not seen is missing from a token of its layer, but later layers
    see what the dense model did. No accuracy: good rules differ by less than these tell.
    """

    mass_kept: float
    """Dense attention weight of what tokens see."""
    output_error: float
    """Relative squared change of the output of attention."""


def kv_quality(trace: Trace, model: Model, kv: KvCache) -> KvQuality | None:
    """Replay eviction or retrieval of a run on recorded vectors; None where tokens see all
    positions, or the trace lacks what is looked at.

    Raises:
        TraceError: vectors of another model, or of a sequence that is too long to be read at once.
    """
    eviction, tokens = kv.eviction, kv.tokens
    recorded = set(ATTENTION_VECTORS) <= set(trace.arrays)
    if not recorded or (eviction is None and kv.fetching is None):
        return None
    if eviction is not None and eviction.rule.beyond_vectors is not None:
        return None
    starts = np.flatnonzero(tokens.begins_sequence()).tolist()
    if tokens.position[starts].any():  # of the tokens before nothing is known
        return None
    masses, errors, weights = [], [], []
    for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
        if not tokens.decode[start:stop].any():
            continue
        part = trace.window(start, stop)
        plan = kv.plans[kv.of_row[start]]
        vectors = [part.vectors(name) for name in ATTENTION_VECTORS]
        size = sum(each.row_bytes for each in vectors) * part.tokens
        if size > _MOST_BYTES:
            raise TraceError(
                f"{trace.name}: query, key and value of a sequence take {BYTES.show(size)}, at "
                f"most {BYTES.show(_MOST_BYTES)} are replayed: give fewer --tokens"
            )
        if vectors[1].width != plan.width:
            raise TraceError(
                f"{trace.name}: keys of {vectors[1].width} numbers, those of {model.name} have "
                f"{plan.width}: pass the --model that was recorded"
            )
        first = int((~tokens.decode[start:stop]).sum())
        replayed = _replayed(kv, plan, [each.read() for each in vectors], first)
        masses.append(float(replayed.mass_kept(first).mean()))
        errors.append(float(replayed.output_error(first).mean()))
        weights.append(stop - start - first)
    return KvQuality(
        float(np.average(masses, weights=weights)), float(np.average(errors, weights=weights))
    )


def _replayed(kv: KvCache, plan: KvPlan, vectors: Sequence[Rows], first: int) -> Losses:
    """Return the losses of a sequence.

    Args:
        vectors: query, key and value, float32[tokens, layers, width].
        first: tokens of its prompt.
    """
    head_dim = plan.model.head_dim
    if isinstance(plan, RetrievalPlan):
        return replay_blocks(plan.retrieval, *vectors, head_dim=head_dim, prompt=first)
    prompt = plan.prompt if plan.when != "token" else None
    assert kv.eviction is not None, "something leaves"
    assert kv.asked is not None, "a rule that evicts has a budget"
    at_tokens = (
        int(np.max(plan.budget) if plan.budget is not None else 0) if prompt is None else kv.asked
    )
    return replay(
        kv.eviction.rule, at_tokens, *vectors, head_dim=head_dim, when=plan.when, prompt=prompt
    )
