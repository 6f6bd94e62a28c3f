"""Tokens that later layers leave out: what a prompt and its steps still compute and read."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError, TraceError
from dipsim.kv.bits import parse_format
from dipsim.model import Model
from dipsim.settings import Settings
from dipsim.tokens import (
    Pruned,
    Pruning,
    TokenBytes,
    account,
    parse_pruning,
    prefill_flops,
    replay_pruning,
    token_bytes,
)
from dipsim.trace import Outline, Trace
from dipsim.units import BYTES

_MOST_BYTES = 2**31
"""Bytes of queries and keys of one sequence that are read at once."""


class _Sequence(NamedTuple):
    """Rows of a sequence: where it begins, its tokens, and how many of them are its prompt."""

    start: int
    tokens: int
    prompt: int


@dataclass(frozen=True)
class PrunedTokens:
    """Tokens of a run that token pruning leaves."""

    pruning: Pruning
    model: Model
    active: NDArray[np.int64]
    """[tokens, layers] tokens that each layer sees at a decode row, itself included."""
    computed: NDArray[np.int64]
    """[tokens, layers] tokens that it computes there: the row's own, and those that come back."""
    kv_bytes: float
    """Most bytes of keys and values that a sequence holds."""
    aux_bytes: float
    """Most bytes of hidden states that wait."""
    prompts: tuple[int, ...]
    """Tokens of each sequence's prompt."""

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions whose keys and values tokens read, int64[rows, layers]."""
        read: NDArray[np.int64] = self.active[rows] - self.computed[rows]
        return read

    def flops_saved(self, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the FLOP that prompts of so many tokens save, float64 of their shape."""
        layers = self.model.layers
        saved = [
            prefill_flops(self.model, np.full(layers, many))
            - prefill_flops(self.model, self.pruning.prompt_tokens(int(many), layers))
            for many in np.ravel(tokens)
        ]
        return np.array(saved).reshape(np.shape(tokens))

    def to_dict(self, rows: NDArray[np.int64]) -> dict[str, float | str]:
        """Return the share of (token, layer) of the prompts that is computed, and the tokens that
        come back, per token and layer."""
        layers = self.model.layers
        whole = sum(self.prompts) * layers
        counts = [self.pruning.prompt_tokens(each, layers).sum() for each in self.prompts if each]
        return {
            "rule": str(self.pruning),
            "computed": float(sum(counts) / whole) if whole else 1.0,
            "revived": float((self.computed[rows] - 1).mean()),
            "active": float(self.active[rows].mean()),
            "aux_bytes": self.aux_bytes,
        }


def plan_tokens(
    trace: Outline,
    model: Model | None,
    settings: Settings,
    decided: Sequence[Pruned] | None = None,
) -> PrunedTokens | None:
    """Work out which tokens layers see; None where they see all.

    Args:
        model: its sizes.
        decided: what layers saw in a model that ran, sequence by sequence; None where it is
            recorded, or follows from the trace.

    Raises:
        DipsimError: a schedule that is none, no prompt, or a trace without what the rule looks at.
    """
    if settings.prune_tokens is None:
        return None
    pruning = parse_pruning(settings.prune_tokens)
    if model is None:
        raise MethodError(
            f"--prune-tokens: {trace.name} does not say which model it is from; pass --model NAME "
            "or FILE"
        )
    begins = trace.rows.begins_sequence()
    if trace.rows.position[begins].any():
        other = "--depth" if settings.depth else f"--tokens {settings.tokens}"
        raise MethodError(
            f"--prune-tokens and {other}: nothing is known of the tokens before; drop one of them"
        )
    if (~trace.rows.decode[1:] & trace.rows.decode[:-1] & ~begins[1:]).any():
        raise MethodError(
            f"--prune-tokens takes one prompt for each sequence, and {trace.name} has a sequence "
            "with several: give --sequence or --tokens with one"
        )
    sequences = _sequences(trace)
    if settings.prompt is None and not any(each.prompt for each in sequences):
        raise MethodError(
            f"--prune-tokens prunes prompts, and {trace.name} has none: record one with a prompt "
            "(phase 0), or give --prompt"
        )
    shape = len(trace.rows), model.layers
    active, computed = np.ones(shape, np.int64), np.ones(shape, np.int64)
    held: list[TokenBytes] = []
    known = decided or [_work(trace, pruning, model, each, settings) for each in sequences]
    for each, work in zip(sequences, known, strict=True):
        decoded = slice(each.start + each.prompt, each.start + each.tokens)
        active[decoded], computed[decoded] = work.active[1:], work.computed[1:]
        held.append(token_bytes(model, pruning, work, _bits(settings, model)))
    return PrunedTokens(
        pruning=pruning,
        model=model,
        active=active,
        computed=computed,
        kv_bytes=max(float(each.kv_held.max()) for each in held),
        aux_bytes=max(float(each.aux_held.max()) for each in held),
        prompts=tuple(each.prompt for each in sequences),
    )


def _bits(settings: Settings, model: Model) -> float:
    """Return the bits per key or value, scales included."""
    if settings.kv_quant is None:
        return settings.kv_bits
    width = model.kv_heads * model.head_dim
    return 8 * parse_format(settings.kv_quant).position_bytes(width) / (2 * width)


def _sequences(trace: Outline) -> list[_Sequence]:
    starts = [*np.flatnonzero(trace.rows.begins_sequence()), len(trace.rows)]
    decode = trace.rows.decode
    return [
        _Sequence(int(start), int(end - start), int((~decode[start:end]).sum()))
        for start, end in pairwise(starts)
    ]


def _work(
    trace: Outline, pruning: Pruning, model: Model, of: _Sequence, settings: Settings
) -> Pruned:
    """Return the work of a sequence: recorded, replayed, or where no token comes back, counted."""
    steps = of.tokens - of.prompt + 1
    if not of.prompt:  # nothing leaves
        active = np.arange(of.tokens + 1)[:, None] + np.zeros(model.layers, np.int64)
        return Pruned(active, np.ones_like(active), np.zeros(of.tokens + 1, np.int64))
    names = trace.arrays if isinstance(trace, Trace) else {}
    part = trace.window(of.start, of.start + of.tokens) if isinstance(trace, Trace) else None
    if pruning.for_good or steps == 1:
        return _counted(pruning, model, of.prompt, steps)
    if part is None:
        raise MethodError(
            f"--prune-tokens {settings.prune_tokens}: which tokens come back follows from "
            "attention: give a trace recorded with dipsim record --signals query,key, or use static"
        )
    if {"query", "key"} <= set(names):
        query, key = (part.vectors(name) for name in ("query", "key"))
        size = part.tokens * (query.row_bytes + key.row_bytes)
        if size > _MOST_BYTES:
            raise TraceError(
                f"--prune-tokens: queries and keys of a sequence take {BYTES.show(size)}, at most "
                f"{BYTES.show(_MOST_BYTES)} are replayed: give fewer --tokens"
            )
        kept = replay_pruning(pruning, query.read(), key.read(), model.head_dim, of.prompt)
        return account(kept, of.prompt)
    if "kept" in names:
        kept = np.packbits(part.kept_positions().read(), axis=-1, bitorder="little")
        work = account(kept, of.prompt)
        if (work.computed[0] != pruning.prompt_tokens(of.prompt, model.layers)).any():
            raise TraceError(
                f"{trace.name}: kept was recorded with another schedule than {pruning}: give that "
                "one, or a trace with query and key"
            )
        return work
    raise TraceError(
        f"--prune-tokens {settings.prune_tokens}: which tokens come back follows from attention, "
        f"and {trace.name} holds neither query and key nor kept: record them with "
        "dipsim record --signals query,key, or use static"
    )


def _counted(pruning: Pruning, model: Model, prompt: int, steps: int) -> Pruned:
    """Return the work where what leaves has left for good."""
    first = pruning.prompt_tokens(prompt, model.layers)
    active = first + np.arange(steps)[:, None]
    computed = np.ones_like(active)
    computed[0] = first
    return Pruned(active, computed, np.zeros(steps, np.int64))
