"""Pairs of a layer and an expert in the order of execution, without a token: cut into rows.

A layer's experts come one after the other, and with the next layer another visit begins. While
decoding a visit holds the k experts of one token; in a prompt those of all its tokens, token after
token. So k must be known: it is the length of the visits, where all have one length and none holds
an expert twice; else it is asked for. The last layer may compute fewer tokens of a prompt: its rows
are those of the last ones. A visit that the end of the log cuts short is left out.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.trace.logs.contract import MOST_EXPERTS, Ask, Ints, Log, Rows
from dipsim.trace.logs.contract import ask as asked
from dipsim.trace.tokens import DECODE, PREFILL

_MOST_LAYERS = 1000
_LARGEST_STEP = 8  # from a layer with experts to the next one
_MOST_VISITS = 2**18  # that are looked at before any is passed on, where nothing says k


def looks_like_pairs(pairs: Ints) -> bool:
    """Return whether some pairs may be layers and experts in the order of execution.

    Layers begin near 0, stay for several experts, rise a little, or begin anew.
    """
    layer, expert = pairs[:, 0], pairs[:, 1]
    steps = np.diff(layer)
    if pairs.min() < 0 or layer.max() >= _MOST_LAYERS or expert.max() >= MOST_EXPERTS:
        return False
    return bool(layer[0] <= _LARGEST_STEP and (steps <= _LARGEST_STEP).all() and (steps == 0).any())


def stream_log(path: Path, pairs: Iterator[Ints], ask: Ask) -> Log:
    """Open a stream of pairs.

    Args:
        pairs: yields int64[n, 2], layers and experts.
    """
    log = Log(iter(()))
    log.rows = _rows(path, pairs, ask, log)
    return log


def _visits(pairs: Iterator[Ints]) -> Iterator[tuple[int, Ints]]:
    """Yield the layer and the experts of every visit."""
    held = np.empty((0, 2), np.int64)
    for block in pairs:
        held = np.concatenate([held, block])
        ends = np.flatnonzero(np.diff(held[:, 0])) + 1
        start = 0
        for end in ends.tolist():
            yield int(held[start, 0]), held[start:end, 1]
            start = end
        held = held[start:]
    if len(held):
        yield int(held[0, 0]), held[:, 1]


def _rows(path: Path, pairs: Iterator[Ints], ask: Ask, log: Log) -> Iterator[Rows]:
    visits = _visits(pairs)
    held = []
    k = ask.top_k
    if k is None:
        for visit in visits:
            held.append(visit)
            if len(held) == _MOST_VISITS:
                break
        k = _common_length(path, held)
        log.notes.append(f"{k} experts a token, as every visit of a layer holds {k}")
    token = sequence = 0
    decoded = False
    for batch in _whole_passes(_passes(_chained(held, visits)), k, log):
        sizes = [len(experts) for _, experts in batch]
        if any(size % k for size in sizes):
            layer, experts = next((n, e) for n, e in batch if len(e) % k)
            raise asked(
                path,
                f"layer {layer} holds {len(experts)} experts in one visit, no multiple of {k}: "
                "without a token in its rows a prompt's batch cannot be told apart",
                "the right --top-k",
            )
        count = max(sizes) // k
        if count > 1 and decoded:  # another prompt
            sequence, token = sequence + 1, 0
        decoded = count == 1
        for layer, experts in batch:
            ids = experts.reshape(-1, k)
            tokens = np.arange(token + count - len(ids), token + count)
            phase = PREFILL if count > 1 else DECODE
            yield Rows(
                tokens,
                np.full(len(ids), layer),
                ids,
                phase=phase,
                sequence=np.full(len(ids), sequence),
            )
        token += count


def _chained(
    held: list[tuple[int, Ints]], visits: Iterator[tuple[int, Ints]]
) -> Iterator[tuple[int, Ints]]:
    yield from held
    held.clear()
    yield from visits


def _common_length(path: Path, visits: list[tuple[int, NDArray[np.int64]]]) -> int:
    """Return the length that all visits have.

    Raises:
        TraceError: they differ, or hold an expert twice: batches of several tokens.
    """
    whole = visits[:-1] or visits  # the log may end within the last one
    sizes = {len(experts) for _, experts in whole}
    twice = any(len(np.unique(experts)) < len(experts) for _, experts in whole)
    if not sizes:
        raise TraceError(f"{path}: holds no row")
    if len(sizes) > 1 or twice:
        least, most = min(sizes), max(sizes)
        raise asked(
            path,
            f"visits of a layer hold {least} to {most} experts, batches of several tokens, and its "
            "rows name no token",
            "--top-k, the experts of one token (and --decode-only to leave prompts out)",
        )
    return sizes.pop()


def _whole_passes(
    passes: Iterator[list[tuple[int, Ints]]], k: int, log: Log
) -> Iterator[list[tuple[int, Ints]]]:
    """Yield forward passes; of the last one without a visit that is cut short."""
    held: list[tuple[int, Ints]] = []
    for batch in passes:
        if held:
            yield held
        held = batch
    if held and len(held[-1][1]) % k:
        held.pop()
        log.notes.append("the last rows are left out: the log ends within them")
    if held:
        yield held


def _passes(visits: Iterator[tuple[int, Ints]]) -> Iterator[list[tuple[int, Ints]]]:
    """Yield the visits of every forward pass; one ends where layers begin anew."""
    batch: list[tuple[int, Ints]] = []
    for layer, experts in visits:
        if batch and layer <= batch[-1][0]:
            yield batch
            batch = []
        batch.append((layer, experts))
    if batch:
        yield batch
